#!/usr/bin/env bash
# Sets a Debian or Ubuntu machine up: packages, and a virtual environment whose torch is our libtorch.
#   tools/setup.sh          what building and running needs
#   tools/setup.sh --test   also the oracles and tools of the tests
# Run again, it does nothing (well under a second) until this file changes.
set -euo pipefail
cd "$(dirname "$0")/.."

mode=run
case "${1:-}" in
'') ;;
--test) mode=test ;;
*) echo "setup: unknown option '$1'; usage: tools/setup.sh [--test]" >&2; exit 2 ;;
esac

stamp=.venv/setup-$mode
want=$(sha256sum "$0" | cut -d' ' -f1)
[[ -f $stamp && $(<"$stamp") == "$want" ]] && exit 0

fail() { echo "setup: $1" >&2; exit 1; }
command -v apt-get >/dev/null || fail "this is not Debian or Ubuntu: install by hand what tools/setup.sh lists, then build with meson"

# ---- Packages --------------------------------------------------------------------------------------------------
packages=(build-essential meson ninja-build pkg-config libopenmpi-dev openmpi-bin libyaml-dev libjansson-dev
	libzstd-dev libjpeg-dev libpng-dev python3 python3-venv ca-certificates)
[[ $mode == test ]] && packages+=(libcmocka-dev clang clang-format libclang-rt-dev)
missing=()
for p in "${packages[@]}"; do
	dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
done
if ((${#missing[@]})); then
	echo "setup: installing ${missing[*]}"
	root=()
	[[ $EUID == 0 ]] || { command -v sudo >/dev/null || fail "needs root (or sudo) to install: ${missing[*]}"; root=(sudo); }
	"${root[@]}" apt-get update -qq || fail "apt-get update failed; is the network there?"
	"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" \
		>/dev/null || fail "apt-get could not install ${missing[*]}"
fi

# ---- libtorch --------------------------------------------------------------------------------------------------
python=$(command -v python3)
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "python3 is older than 3.10"
[[ -x .venv/bin/python ]] || "$python" -m venv .venv || fail "python3 cannot make a virtual environment"
pip() { .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-warn-conflicts "$@"; }
has_lib() { ldconfig -p | grep -q "$1" || [[ -e /usr/local/cuda/lib64/$1 ]]; }
# libtorch_cpu itself needs only the CUDA runtime and CUPTI; the rest of CUDA is for Python's `import torch` and GPUs.
toolkit=yes
for l in libcudart.so.13 libcupti.so.13; do has_lib $l || toolkit=no; done
for l in libcublas.so.13 libcudnn.so.9 libnccl.so.2 libcusolver.so.12; do has_lib $l || full=no; done

echo "setup: installing torch 2.11.0 (libtorch)"
pip --no-deps torch==2.11.0 || fail "pip could not install torch==2.11.0; is the network there?"
[[ $toolkit == yes ]] || pip --no-deps nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85 ||
	fail "pip could not install the CUDA runtime that libtorch_cpu links"

if [[ $mode == test ]]; then
	echo "setup: installing the tests' oracles"
	if [[ ${full:-yes} == yes ]]; then
		pip --no-deps nvidia-cufile==1.15.1.6 nvidia-cusparselt-cu13==0.8.0 nvidia-nvshmem-cu13==3.4.5
		pip filelock typing-extensions sympy networkx jinja2 fsspec 'setuptools<82'
	else
		pip torch==2.11.0
	fi || fail "pip could not install what Python's torch needs"
	pip numpy==2.4.6 pillow==13.0.0 zstandard==0.25.0 pytest==9.2.0 safetensors==0.8.0 tensorboard==2.21.0 \
		transformers==5.23.0 diffusers==0.42.1 ||
		fail "pip could not install the oracles"
	# accelerate and peft ask for a torch of their own; ours is there already.
	pip --no-deps accelerate==1.15.0 peft==0.21.2 && pip psutil pyyaml || fail "pip could not install peft"
fi
echo "$want" >"$stamp"
