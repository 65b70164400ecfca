#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: is everything right there, and how fast is it? One line a check; logs and figures in a
# folder. Needs a build with CUDA (meson setup build-cuda -Dcuda=enabled && ninja -C build-cuda contraflow tests/test_{dist,fused,transfer}).
#   tools/gpu_check.sh [build-cuda [OUT_FOLDER]]
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
build=${1:-build-cuda} out=${2:-gpu-check}
mkdir -p "$out"
program=$build/contraflow failed=0
python=.venv/bin/python
[[ -x $python ]] || python=python3
[[ -x $program ]] || { echo "gpu_check: there is no $program: build it with -Dcuda=enabled first" >&2; exit 1; }
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | tee "$out/gpu.txt" ||
	{ echo "gpu_check: no GPU is visible" >&2; exit 1; }

check() { # NAME COMMAND...
	local name=$1 log start=$SECONDS
	shift
	log=$out/${name// /_}.log
	if "$@" >"$log" 2>&1; then
		printf '%-52s ok %5ds\n' "$name" $((SECONDS - start))
	else
		printf '%-52s FAILED, see %s\n' "$name" "$log"
		failed=$((failed + 1))
	fi
}

# The shapes world for three steps, here and there, to what single precision leaves.
parity() {
	local d
	for d in cpu cuda; do
		rm -rf "$out/parity-$d"
		"$program" train configs/shapes.yaml --run "$out/parity-$d" --quiet --set run.device=$d --set train.max_steps=3 \
			--set prompts.groups=4 --set prompts.group_size=6 --set prompts.test= --set log.tensorboard=false \
			--set log.rollouts_every=1 || return 1
	done
	"$python" - "$out" <<-'EOF'
		import sys, zstandard, numpy as np
		from safetensors.numpy import load
		read = lambda p: load(zstandard.ZstdDecompressor().decompressobj().decompress(open(p, "rb").read()))
		a, b = (read(f"{sys.argv[1]}/parity-{d}/checkpoints/step-00000003/state.safetensors.zst") for d in ("cpu", "cuda"))
		x, y = (read(f"{sys.argv[1]}/parity-{d}/rollouts/epoch-000000.rank-0000.safetensors.zst")["x0"] for d in ("cpu", "cuda"))
		x0 = np.linalg.norm(x - y) / np.linalg.norm(x)
		theta = np.abs(a["theta"] - b["theta"]).max()
		print(f"first round's latents {x0:.2e}, adapter after three steps {theta:.2e}")
		sys.exit(not (x0 < 1e-4 and theta < 1e-4))
	EOF
}

# Replayed forwards give the bits of plain ones: the same adapter after three steps.
graphs() {
	local g
	for g in true false; do
		rm -rf "$out/graphs-$g"
		"$program" train configs/shapes.yaml --run "$out/graphs-$g" --quiet --set run.device=cuda --set train.max_steps=3 \
			--set prompts.groups=4 --set prompts.group_size=6 --set prompts.test= --set log.tensorboard=false \
			--set rollout.graphs=$g 2>&1 | tee "$out/graphs-$g.txt" || return 1
		! grep -q 'is not replayed' "$out/graphs-$g.txt" || return 1
	done
	cmp "$out"/graphs-{true,false}/checkpoints/step-00000003/state.safetensors.zst
}

# The same of the update.
update_graphs() {
	local g
	for g in true false; do
		rm -rf "$out/update-$g"
		"$program" train configs/shapes.yaml --run "$out/update-$g" --quiet --set run.device=cuda --set train.max_steps=4 \
			--set prompts.groups=4 --set prompts.group_size=6 --set prompts.test= --set log.tensorboard=false \
			--set train.graphs=$g 2>&1 | tee "$out/update-$g.txt" || return 1
		! grep -q 'is not replayed' "$out/update-$g.txt" || return 1
	done
	cmp "$out"/update-{true,false}/checkpoints/step-00000004/state.safetensors.zst
}

# The whole default run: the same score as on the CPU (0.90 to 0.93).
shapes() {
	rm -rf "$out/shapes"
	"$program" train configs/shapes.yaml --run "$out/shapes" --quiet --set run.device=cuda || return 1
	"$python" -c "import json, sys; s = json.load(open('$out/shapes/result.json'))['after']['strict']; print(s); sys.exit(s < 0.85)"
}

# Sizes that are found by trying: what tensors take stays under the limit, and a resume has the bits of a run that was not cut.
memory() {
	local run=$out/memory args
	rm -rf "$run" "$run-cut"
	args=(--quiet --set run.device=cuda --set run.memory=1GiB --set rollout.batch=auto --set train.micro_batch=auto
		--set train.checkpoint_blocks=auto --set prompts.test= --set log.tensorboard=false --set optimizer.decay=constant)
	"$program" train configs/shapes.yaml --run "$run" "${args[@]}" --set train.max_steps=4 || return 1
	"$program" train configs/shapes.yaml --run "$run-cut" "${args[@]}" --set train.max_steps=2 || return 1
	"$program" train configs/shapes.yaml --run "$run-cut" "${args[@]}" --set train.max_steps=4 --resume || return 1
	cmp "$run"{,-cut}/checkpoints/step-00000004/state.safetensors.zst || return 1
	"$python" -c "import json; p = max(json.loads(l)['memory/peak'] for l in open('$run/metrics.jsonl')); print(p, 'GiB'); assert 0 < p <= 1"
}

medium=(--model medium --device cuda --dtype bfloat16 --groups 1 --group-size 24 --batch 12 --micro-batch 4)
check "one rank over NCCL" mpirun --allow-run-as-root -n 1 "$build/tests/test_dist" 1 nccl
check "fused kernels and graphs against float64" "$build/tests/test_fused"
check "pinned memory, copies beside computing" "$build/tests/test_transfer"
check "parity with the CPU" parity
check "graphs against eager, bit for bit" graphs
check "the update's graphs against eager, bit for bit" update_graphs
check "sizes that fit into memory" memory
check "shapes on the GPU" shapes
if command -v compute-sanitizer >/dev/null; then
	check "compute-sanitizer, fused kernels" compute-sanitizer --error-exitcode 1 "$build/tests/test_fused"
	check "compute-sanitizer, a tiny step" compute-sanitizer --error-exitcode 1 "$program" bench --device cuda --repeats 1
fi
check "bench tiny, float32" "$program" bench --device cuda -o "$out/tiny.json"
check "bench SD3.5 Medium, bfloat16" "$program" bench "${medium[@]}" -o "$out/medium.json"
check "the same without replays" "$program" bench "${medium[@]}" --no-graphs -o "$out/medium-no-graphs.json"
check "the same, the update replayed, too" "$program" bench "${medium[@]}" --record-update -o "$out/medium-record-update.json"
check "the same, rollouts in 8 bits" "$program" bench "${medium[@]}" --fp8 -o "$out/medium-fp8.json"
check "the same, decoding in bfloat16, 12 at a time" "$program" bench "${medium[@]}" --vae-dtype bfloat16 --vae-batch 12 -o "$out/medium-vae.json"
check "the same without the base's forward" "$program" bench "${medium[@]}" --kl 0 -o "$out/medium-no-kl.json"
"$python" -c 'import diffusers, peft' 2>/dev/null &&
	check "against the reference's loop" "$python" tools/bench_reference.py "${medium[@]}" --repeats 1 --program "$program" -o "$out/reference.json"
for f in bench_SD3.5_Medium,_bfloat16 against_the_reference\'s_loop; do [[ -s $out/$f.log ]] && cat "$out/$f.log"; done
[[ $failed == 0 ]]
