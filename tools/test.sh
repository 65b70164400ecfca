#!/usr/bin/env bash
# Sets up the machine and runs every test: builds with gcc and clang without warnings, runs the unit, MPI, command
# and golden tests, the sanitizers over everything but libtorch, the format and the layers. One line a step; a log only
# when a step fails. The last line counts tests.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
tools/setup.sh --test || exit 1

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
python=.venv/bin/python
passed=0 failed=0 skipped=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# step NAME COMMAND...: one line; the step itself counts as a test unless its output counts tests.
step() {
	local name=$1 start=$SECONDS p f s
	shift
	if "$@" >"$log" 2>&1; then f=0; else f=1; fi
	p=$(grep -oE '^Ok: +[0-9]+' "$log" | grep -oE '[0-9]+' | tail -n 1)
	[[ -n $p ]] || p=$(grep -oE '[0-9]+ passed' "$log" | grep -oE '[0-9]+' | tail -n 1)
	s=$(grep -oE '[0-9]+ skipped' "$log" | grep -oE '[0-9]+' | tail -n 1)
	if [[ $f == 1 ]]; then
		local n
		n=$(grep -oE '(^Fail: +[0-9]+|[0-9]+ failed)' "$log" | grep -oE '[0-9]+' | tail -n 1)
		[[ -n $n && $n != 0 ]] && f=$n
		cat "$log"
	elif [[ -z $p ]]; then
		p=1
	fi
	passed=$((passed + ${p:-0})) failed=$((failed + f)) skipped=$((skipped + ${s:-0}))
	printf '%-44s %5d passed %3d failed %5ds\n' "$name" "${p:-0}" "$f" $((SECONDS - start))
}

build() { # DIR COMPILER OPTIONS...
	local dir=$1 cc=$2 cxx=$3
	shift 3
	[[ -f $dir/build.ninja ]] || CC=$cc CXX=$cxx meson setup "$dir" -Dcuda=disabled "$@" || return 1
	ninja -C "$dir"
}

build_cuda() { # what differs in such a build, and what stands in for a GPU there
	[[ -f build-cuda/build.ninja ]] || meson setup build-cuda -Dcuda=enabled -Dwerror=true || return 1
	ninja -C build-cuda contraflow tests/test_dist tests/test_fused tests/test_joint tests/test_memory tests/test_transfer tests/test_reduce_nccl nullcuda fake_nvml
}

golden() {
	local cuda=/usr/local/cuda/lib64
	BUILD=build-test LD_LIBRARY_PATH=$([[ -d $cuda ]] && echo "$cuda")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} \
		OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $python -m pytest -q -p no:cacheprovider "$@"
}

# The style is version 14's; others break lines elsewhere.
formatter=$(command -v clang-format-14 || command -v clang-format)
format() { git ls-files '*.c' '*.h' '*.cpp' '*.hpp' '*.cu' | xargs "$formatter" --dry-run --Werror; }

step "build with gcc, -Werror" build build-test gcc g++ -Dwerror=true
# Only what clang says counts, and it says the same without optimizing, in half the time.
step "build with clang, -Werror" build build-clang clang clang++ -Dwerror=true -Doptimization=0
step "unit and MPI tests" meson test -C build-test --no-rebuild --print-errorlogs
step "build with ASan and UBSan" build build-asan gcc g++ -Doptimization=1 -Db_sanitize=address,undefined
step "unit tests with ASan and UBSan" env ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=halt_on_error=1 \
	meson test -C build-asan --no-rebuild --suite unit --print-errorlogs
if command -v nvcc >/dev/null || [[ -x /usr/local/cuda/bin/nvcc ]]; then
	step "build with CUDA, -Werror" build_cuda
	step "the CUDA build, on the CPU" golden -n 2 --dist loadfile tests/cuda
else
	echo "CUDA: not built, there is no nvcc"
fi
# Two files beside each other: most of a test is one process with one thread.
step "golden tests (diffusers, PEFT, float64)" golden -n 2 --dist loadfile tests/golden
step "commands, bad input, resume, ranks" golden -n 2 --dist loadfile tests/commands
if [[ $("$formatter" --version) == *"version 14."* ]]; then
	step "clang-format" format
else
	echo "clang-format: not checked, this is not version 14" && skipped=$((skipped + 1))
fi
step "layers, file sizes, file lists" $python tests/test_layers.py
step "no variable exported twice" env BUILD=build-test $python tests/test_symbols.py

echo
echo "$passed passed, $failed failed, $skipped skipped"
[[ $failed == 0 && $passed -gt 0 ]]
