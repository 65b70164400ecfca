#!/usr/bin/env bash
# From a fresh clone to a rising reward: sets the machine up, builds, trains the shapes world and shows the result.
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
while [[ -e $run && ! " $* " =~ " --run " && ! " $* " =~ " --resume " ]]; do # a run is never written over
	run=runs/$name-$n
	n=$((n + 1))
done
case " $* " in
*" --run "*) exec build/contraflow train "$config" "$@" ;;
*) exec build/contraflow train "$config" --run "$run" "$@" ;;
esac
