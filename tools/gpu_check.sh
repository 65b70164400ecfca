#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: is everything right there, how fast is it, and how fast is Python's loop beside it?
#   tools/gpu_check.sh right  [OUT]    kernels, NCCL, parity, CUDA graphs, memory, training, sanitizers   3 minutes on an H100
#   tools/gpu_check.sh speed  [OUT]    the table of settings, and where the time goes                     5 minutes
#   tools/gpu_check.sh python [OUT]    the reference's loop in Python (diffusers, PEFT) on the same card  8 minutes
# One line a check, the end of the log of one that failed; logs and figures in OUT (default gpu-check). The exit status says
# whether all passed. It ends after GPU_CHECK_SECONDS (540): what has not begun by then is skipped. The most valuable comes
# first, so that a job that is cut short has told the most. Runs in a package of tools/gpu_pack.sh, or in a checkout with
# build-cuda and its tests (gpu_pack.sh builds them).
set -uo pipefail
out=$(realpath -m -- "${2:-gpu-check}")
cd "$(dirname "$0")/.." || exit 1

case "${1:-}" in
right | speed | python) what=$1 ;;
*) echo "usage: tools/gpu_check.sh right | speed | python [OUT]" >&2; exit 2 ;;
esac
mkdir -p "$out" || exit 1
failed=0
end=$((SECONDS + ${GPU_CHECK_SECONDS:-540}))

# ---- Where things are ----------------------------------------------------------------------------------------------
python=python3
[[ -x .venv/bin/python ]] && python=$PWD/.venv/bin/python
bin=$PWD/bin
[[ -x $bin/contraflow ]] || bin=$PWD/build-cuda
[[ -x $bin/contraflow ]] || { echo "gpu_check: neither bin/contraflow nor build-cuda/contraflow: build or unpack it first" >&2; exit 1; }
tests=$bin
[[ -d $bin/tests ]] && tests=$bin/tests

# In a package the libraries are torch's and CUDA's of this machine, and then those that were packed. Only our programs see
# them: Python and the system's tools have their own.
libraries=${LD_LIBRARY_PATH:-}
if [[ -d lib ]]; then
	packages=$("$python" -c 'import importlib.util as u, os; print(os.path.dirname(u.find_spec("torch").submodule_search_locations[0]))') ||
		{ echo "gpu_check: $python has no torch, whose libraries are needed" >&2; exit 1; }
	libraries=$packages/torch/lib
	for d in "$packages"/nvidia/*/lib; do [[ -d $d ]] && libraries+=:$d; done
	libraries+=:$PWD/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi
printf '#!/usr/bin/env bash\nexport LD_LIBRARY_PATH=%q\nexec %q "$@"\n' "$libraries" "$bin/contraflow" >"$out/contraflow"
chmod +x "$out/contraflow"
program=$out/contraflow
ours() { LD_LIBRARY_PATH=$libraries "$@"; }
missing=$(ours ldd "$bin/contraflow" "$tests"/test_{dist,fused,joint,memory,transfer} | awk '/not found/ { print $1 }' | sort -u)
[[ -z $missing ]] || { echo "gpu_check: this machine lacks ${missing//$'\n'/ }" >&2; exit 1; }

# What the comparisons need and the machine may lack.
if compgen -G 'wheels/*.whl' >/dev/null; then
	"$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --upgrade --target "$out/site" wheels/*.whl \
		>"$out/pip.log" 2>&1 || echo "gpu_check: the wheels cannot be installed, see pip.log" >&2
	export PYTHONPATH=$out/site
fi
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TORCHINDUCTOR_CACHE_DIR=$out/inductor TRITON_CACHE_DIR=$out/triton TMPDIR=$out

# ---- How checks are told -------------------------------------------------------------------------------------------
# Each check is a process group of its own, so that what it started ends with it: a sanitizer that went on beside the next
# check would spoil its figures.
group() { kill "-$2" -- "-$1" 2>/dev/null; }
job='' guard=''
leave() { [[ -z $job ]] || group "$job" KILL; [[ -z $guard ]] || group "$guard" KILL; }
trap leave EXIT
trap 'exit 143' TERM INT

check() { # NAME SECONDS COMMAND...: a command may be a function
	local name=$1 limit=$2 log start=$SECONDS code late
	shift 2
	log=$out/${name//[^a-zA-Z0-9]/_}.log late=$log.late
	if ((end - SECONDS < 5)); then
		printf '%-48s skipped       no time is left\n' "$name"
		return 77
	fi
	((limit < end - SECONDS)) || limit=$((end - SECONDS))
	rm -f "$late"
	set -m # jobs get process groups
	("$@") >"$log" 2>&1 &
	job=$!
	(sleep "$limit" && touch "$late" && group $job TERM && sleep 2 && group $job KILL) >/dev/null 2>&1 &
	guard=$!
	set +m
	wait $job 2>/dev/null
	code=$?
	group $guard KILL
	wait $guard 2>/dev/null
	group $job KILL # what it may have left
	job='' guard=''
	[[ ! -e $late ]] || { code=124 && echo "not done after $limit seconds" >>"$log" && rm -f "$late"; }
	if [[ $code == 0 ]]; then
		printf '%-48s ok     %4ds  %s\n' "$name" $((SECONDS - start)) "$(grep '^=' "$log" | tail -n 1 | cut -c 3-)"
	elif [[ $code == 77 ]]; then
		printf '%-48s skipped       %s\n' "$name" "$(tail -n 1 "$log")"
	else
		printf '%-48s FAILED %4ds\n' "$name" $((SECONDS - start))
		tail -n 15 "$log" | sed 's/^/    /'
		failed=$((failed + 1))
	fi
	return $code
}

medium=(--model medium --device cuda --dtype bfloat16 --groups 1 --group-size 24)
small=(--quiet --set prompts.groups=4 --set prompts.group_size=6 --set prompts.test= --set log.tensorboard=false)
train() { # RUN ARGUMENTS...
	local run=$1
	shift
	rm -rf "$out/$run"
	"$program" train configs/shapes.yaml --run "$out/$run" "$@"
}

# On a card of Hopper's kind attention must be cuDNN's; others have none for these sizes.
first() {
	"$program" bench "${medium[@]}" --group-size 4 --batch 4 --micro-batch 2 --steps 2 --levels 1 --repeats 1 || return 1
	! grep -q "sm_90" "$out/the_first_CUDA_call__SD3_5_Medium_s_size.log" || grep -q "attention by 'cudnn'" "$out/the_first_CUDA_call__SD3_5_Medium_s_size.log"
}

# ---- Right? --------------------------------------------------------------------------------------------------------
# compare A B LIMIT: two runs, how far apart the means of their gradients are, their losses and their norms.
compare() {
	"$python" - "$out" "$@" <<-'EOF'
		import io, json, sys, zstandard, numpy as np
		from safetensors.numpy import load
		out, a, b, limit = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
		def state(run):
		    import glob
		    path = sorted(glob.glob(f"{out}/{run}/checkpoints/step-*/state.safetensors.zst"))[-1]
		    return load(zstandard.ZstdDecompressor().stream_reader(io.BytesIO(open(path, "rb").read())).read())
		x, y = state(a), state(b)
		# adam.m, the mean of the gradients: theta's own norm is mostly that of its start
		apart = lambda k: np.linalg.norm(x[k].astype(float) - y[k]) / max(np.linalg.norm(x[k].astype(float)), 1e-30)
		rows = [[json.loads(l) for l in open(f"{out}/{r}/metrics.jsonl")] for r in (a, b)]
		worst = 0
		for p, q in zip(*rows):
		    for k in p:
		        if any(w in k for w in ("grad_norm", "loss", "kl")) and isinstance(p[k], float) and abs(p[k]) > 1e-12:
		            worst = max(worst, abs(p[k] - q[k]) / abs(p[k]))
		same = all(np.array_equal(x[k], y[k]) for k in x)
		print("=", "same bits" if same else f"mean gradient {apart('adam.m'):.1e} apart, adapter {apart('theta'):.1e}, losses and norms {worst:.1e}")
		sys.exit(not (same or (apart("adam.m") < limit and worst < limit)))
	EOF
}

fused() { ours "$tests/test_fused" && ours "$tests/test_joint" && echo "= $(grep -c '\[       OK' "$out/fused_kernels_against_float64.log") tests"; }
transfer() { ours "$tests/test_transfer"; }
memory_of_graphs() { ours "$tests/test_memory"; }
nccl() { ours "$tests/test_dist" 1 nccl; }

# The shapes world for three steps, here and there, to what single precision leaves.
parity() {
	train parity-cpu "${small[@]}" --set run.device=cpu --set train.max_steps=3 --set log.rollouts_every=1 &&
		train parity-cuda "${small[@]}" --set run.device=cuda --set train.max_steps=3 --set log.rollouts_every=1 || return 1
	"$python" - "$out" <<-'EOF' || return 1
		import io, sys, zstandard, numpy as np
		from safetensors.numpy import load
		read = lambda p: load(zstandard.ZstdDecompressor().stream_reader(io.BytesIO(open(p, "rb").read())).read())
		x, y = (read(f"{sys.argv[1]}/parity-{d}/rollouts/epoch-000000.rank-0000.safetensors.zst")["x0"] for d in ("cpu", "cuda"))
		x0 = np.linalg.norm(x - y) / np.linalg.norm(x)
		print(f"= first round's latents {x0:.1e}")
		sys.exit(not x0 < 1e-4)
	EOF
	compare parity-cpu parity-cuda 2e-2
}

# replayed RUN forwards|updates: its log counts some, and warns of none.
replayed() {
	grep -h 'CUDA graphs' "$out/$1/log.txt" || return 1
	grep -qE "CUDA graphs: .*[1-9][0-9]* $2 replayed" "$out/$1/log.txt" && ! grep -h 'without a CUDA graph' "$out/$1/log.txt"
}

# Replayed forwards give the bits of plain ones.
graphs() {
	local g
	for g in true false; do
		train graphs-$g "${small[@]}" --set run.device=cuda --set train.max_steps=3 --set rollout.cuda_graphs=$g 2>&1 || return 1
	done
	replayed graphs-true forwards && compare graphs-true graphs-false 0
}

# The same of the update.
update_graphs() {
	local g
	for g in true false; do
		train update-$g "${small[@]}" --set run.device=cuda --set train.max_steps=4 --set train.cuda_graphs=$g 2>&1 || return 1
	done
	replayed update-true updates && compare update-true update-false 1e-3
}

# Sizes that are found by trying stay under the limit, and a resumed run has the bits of one that was not cut.
memory() {
	local args=(--quiet --set run.device=cuda --set run.memory=1GiB --set rollout.batch=auto --set train.micro_batch=auto
		--set train.gradient_checkpointing=auto --set prompts.test= --set log.tensorboard=false --set optimizer.decay=constant
		--set run.deterministic=true)
	train memory "${args[@]}" --set train.max_steps=4 && train memory-cut "${args[@]}" --set train.max_steps=2 &&
		"$program" train configs/shapes.yaml --run "$out/memory-cut" "${args[@]}" --set train.max_steps=4 --resume || return 1
	cmp "$out"/memory{,-cut}/checkpoints/step-00000004/state.safetensors.zst || return 1
	"$python" -c "import json, sys; p = max(json.loads(l)['memory/peak'] for l in open(sys.argv[1])); print('= resumed to the same bits; peak', round(p, 2), 'GiB of 1'); assert 0 < p <= 1" "$out/memory/metrics.jsonl"
}

# Forty steps of the shapes world: the held-out score rises as it does on the CPU.
shapes() {
	train shapes --quiet --set run.device=cuda --set train.max_steps=40 --set log.tensorboard=false || return 1
	"$python" -c "import json, sys; r = json.load(open(sys.argv[1])); a, b = r['before']['strict'], r['after']['strict']; print('= strict', round(a, 3), '->', round(b, 3)); sys.exit(b < a + 0.2)" "$out/shapes/result.json"
}

sanitize() { # TOOL PROGRAM...
	local tool=$1 log
	shift
	command -v compute-sanitizer >/dev/null || { echo "there is no compute-sanitizer"; return 77; }
	log=$out/sanitizer-$tool.log
	ours compute-sanitizer --tool "$tool" --report-api-errors no --error-exitcode 1 "$@" 2>&1 | tee "$log"
	local code=${PIPESTATUS[0]}
	grep -q 'Device not supported' "$log" && { echo "compute-sanitizer does not support this device"; return 77; }
	echo "= $(grep 'ERROR SUMMARY\|RACECHECK SUMMARY' "$log" | tail -n 1 | sed 's/=* *//')"
	return "$code"
}

# ---- Speed ---------------------------------------------------------------------------------------------------------
table() { "$program" bench "${medium[@]}" --matrix --repeats 2 -o "$out/matrix.json"; }

# Where the time of one round goes: every kernel by name, and what of the wall clock no kernel fills.
traces() {
	"$program" bench "${medium[@]}" --batch 24 --micro-batch 24 --vae-dtype bfloat16 --vae-batch 12 --repeats 1 --trace "$out/trace" || return 1
	"$python" - "$out/trace" <<-'EOF'
		import collections, json, sys
		for phase in "rollout", "update", "decode":
		    events = [e for e in json.load(open(f"{sys.argv[1]}/{phase}.json"))["traceEvents"] if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
		    kinds = collections.defaultdict(lambda: [0, 0.0])
		    for e in events:
		        kinds[e["name"][:130]][0] += 1
		        kinds[e["name"][:130]][1] += e["dur"] / 1e3
		    wall = (max(e["ts"] + e["dur"] for e in events) - min(e["ts"] for e in events)) / 1e3
		    total = sum(k[1] for k in kinds.values())
		    print(f"= {phase}: {len(events)} launches, {total:.1f} ms of kernels in {wall:.1f} ms")
		    for name, (n, ms) in sorted(kinds.items(), key=lambda k: -k[1][1])[:24]:
		        print(f"{ms:9.2f} ms {100 * ms / total:5.1f} % {n:6d} x  {name}")
	EOF
	rm -f "$out"/trace/*.json
}

# ---- Python --------------------------------------------------------------------------------------------------------
against() { # MICRO BATCH ARGUMENTS...
	local micro=$1 batch=$2
	shift 2
	"$python" tools/bench_reference.py "${medium[@]}" --batch "$batch" --micro-batch "$micro" --program "$program" "$@"
}

# ---- The checks ----------------------------------------------------------------------------------------------------
cat COMMIT 2>/dev/null || git describe --always --dirty 2>/dev/null
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null
if ! check "the first CUDA call, SD3.5 Medium's size" 120 first; then
	echo "gpu_check: nothing else is tried" >&2
	exit 1
fi
sed -n 2p "$out/the_first_CUDA_call__SD3_5_Medium_s_size.log"
"$python" -c 'import importlib.metadata as m; print("  torch", m.version("torch") + ",", *("NCCL " + d.version for d in m.distributions() if (d.name or "").startswith("nvidia-nccl")))'
case $what in
right)
	check "fused kernels against float64" 60 fused
	check "pinned memory, copies beside computing" 30 transfer
	check "the memory of CUDA graphs is given back" 30 memory_of_graphs
	check "one rank over NCCL" 60 nccl
	check "parity with the CPU" 90 parity
	check "full size against diffusers" 150 "$python" tools/gpu_parity.py --program "$program" --temp "$out"
	check "replayed forwards" 60 graphs
	check "replayed updates" 60 update_graphs
	check "sizes that fit into memory, resumed" 90 memory
	check "forty steps of shapes" 120 shapes
	check "compute-sanitizer memcheck" 100 sanitize memcheck "$tests/test_fused"
	check "compute-sanitizer memcheck, joint attention" 100 sanitize memcheck "$tests/test_joint"
	check "compute-sanitizer racecheck" 100 sanitize racecheck "$tests/test_fused"
	;;
speed)
	check "table of settings" 420 table
	cat "$out/table_of_settings.log"
	check "where the time goes" 120 traces
	sed -n '/^= rollout/,$p' "$out/where_the_time_goes.log"
	;;
python)
	check "Python, micro-batch 12" 220 against 12 12 --repeats 2 -o "$out/python-12.json"
	cat "$out/Python__micro_batch_12.log"
	check "Python, micro-batch 4" 160 against 4 12 --repeats 1 -o "$out/python-4.json"
	cat "$out/Python__micro_batch_4.log"
	check "Python compiled, micro-batch 12" 200 against 12 12 --compile --repeats 1 -o "$out/python-compile.json"
	cat "$out/Python_compiled__micro_batch_12.log"
	;;
esac
[[ $failed == 0 ]] || { echo "$failed failed; logs are in $out"; exit 1; }
