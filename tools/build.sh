#!/usr/bin/env bash
# Builds build/contraflow. Arguments go to meson setup. CUDA is built in where a GPU's driver is.
set -euo pipefail
cd "$(dirname "$0")/.."
cuda=disabled
[[ -e /dev/nvidiactl ]] && cuda=auto
[[ -f build/build.ninja ]] || meson setup build "-Dcuda=$cuda" "$@" >build.log 2>&1 || {
	tail -n 5 build.log >&2
	exit 1
}
rm -f build.log
ninja -C build --quiet
