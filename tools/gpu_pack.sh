#!/usr/bin/env bash
# Packs what tools/gpu_check.sh needs on a machine that has a GPU, torch 2.11.0 with CUDA 13 and nothing else of ours: no
# network, no compiler, no -dev packages, no mpirun. Builds build-cuda first. Unpack it there and run tools/gpu_check.sh in it.
#   tools/gpu_pack.sh [--python 3.12] [OUT.tar.xz]     (default build-gpu/contraflow-gpu.tar.xz)
# --python: the version there, for the wheels of what the checks compare with (diffusers, zstandard).
set -euo pipefail
cd "$(dirname "$0")/.."
fail() { echo "gpu_pack: $1" >&2; exit 1; }

version=3.12
[[ ${1:-} == --python ]] && version=${2:?version} && shift 2
[[ $# -le 1 ]] || fail "usage: tools/gpu_pack.sh [--python 3.12] [OUT.tar.xz]"
out=${1:-build-gpu/contraflow-gpu.tar.xz}
root=build-gpu/contraflow-gpu
programs=(contraflow tests/test_dist tests/test_fused tests/test_joint tests/test_memory tests/test_transfer)

[[ -f build-cuda/build.ninja ]] || meson setup build-cuda -Dcuda=enabled || fail "build-cuda cannot be set up"
ninja -C build-cuda --quiet "${programs[@]}" || fail "the build failed"
rm -rf "$root"
mkdir -p "$root"/{bin,lib,wheels,tools} "$(dirname "$out")"
for p in "${programs[@]}"; do cp "build-cuda/$p" "$root/bin/"; done
strip --strip-debug "$root"/bin/*

# Libraries go along by where they lie: not torch's own nor CUDA's, which are there, nor what belongs to a machine's
# loader and compiler: another machine's libc or libstdc++ under its own programs would break them.
there='/(torch|nvidia)/|/cuda[^/]*/'
system='^(ld-linux.*|lib(c|m|dl|rt|pthread|resolv|util|anl|nsl|stdc\+\+|gcc_s|gomp|cuda|nvidia-ml)\.so.*)$'
while read -r name path; do
	[[ $path =~ $there || $name =~ $system ]] || cp -L "$path" "$root/lib/$name"
done < <(ldd "$root"/bin/* | awk '$2 == "=>" && $3 ~ /^\// { print $1, $3 }' | sort -u)
missing=$(ldd "$root"/bin/* | awk '/not found/ { print $1 }' | sort -u)
[[ -z $missing ]] || fail "not found here either: ${missing//$'\n'/ }"

cp -r configs data "$root/"
cp tools/{gpu_check.sh,gpu_parity.py,bench_reference.py} "$root/tools/"
git describe --always --dirty >"$root/COMMIT"
python=.venv/bin/python
[[ -x $python ]] || python=python3
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version "$version" \
	--implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
	-d "$root/wheels" diffusers==0.42.1 zstandard==0.25.0 importlib_metadata==8.7.1 zipp==3.23.0 ||
	fail "pip cannot download the wheels; is the network there?"

tar -C "$(dirname "$root")" -c "$(basename "$root")" | xz -T0 -3 >"$out"
echo "$out: $(du -h "$out" | cut -f1), $(find "$root/lib" -type f | wc -l) libraries"
