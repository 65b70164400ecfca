#!/usr/bin/env bash
# From a fresh clone to a rising reward: sets up the machine, builds, trains the shapes world and shows the result.
#   tools/quickstart.sh [CONFIG] [contraflow train options]      default: configs/shapes.yaml
set -euo pipefail
cd "$(dirname "$0")/.."
tools/setup.sh
tools/build.sh
config=configs/shapes.yaml
if [[ $# -gt 0 && $1 != --* ]]; then
	config=$1
	shift
fi
name=$(basename "$config" .yaml)
run=runs/$name
n=2
while [[ -e $run && ! " $* " =~ " --run " && ! " $* " =~ " --resume" ]]; do # a run is never overwritten
	run=runs/$name-$n
	n=$((n + 1))
done
[[ " $* " =~ " --run " || " $* " =~ " --resume" ]] || set -- --run "$run" "$@"

# One rank per core, one thread per rank: small products are not worth dividing among threads.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
ranks() { mpirun -n "$(nproc)" --bind-to none build/contraflow "$@"; }
ranks train "$config" "$@"

# The run has watched the validation prompts.  What is reported is the score on the test prompts, on which nothing was chosen.
if [[ $config == *configs/shapes*.yaml && " $* " =~ " --run "([^ ]+) ]]; then
	test=(--prompts data/shapes/test.jsonl --images-per-prompt 4 --solver dpm2 --steps 10 --batch 96 --quiet)
	run=${BASH_REMATCH[1]}
	echo "test prompts, before training:"
	ranks eval --model data/shapes/base "${test[@]}"
	echo "test prompts, after training:"
	ranks eval --lora "$run" "${test[@]}"
	build/contraflow sample --lora "$run" --against base --prompts data/shapes/test.jsonl --choose 18 --captions --columns 12 --zoom 4 \
		-o "$run/before-after.png" >/dev/null
	echo "before and after, image by image: $run/before-after.png"
fi
if [[ " $* " =~ " --run "([^ ]+) ]]; then
	echo
	build/contraflow report "${BASH_REMATCH[1]}"
fi
