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
	libzstd-dev libjpeg-dev libpng-dev libpcre2-dev libutf8proc-dev libmicrohttpd-dev
	libtesseract-dev tesseract-ocr-eng python3 python3-venv ca-certificates)
# any flavour of libcurl does; libtesseract-dev brings one, but not on every release
pkg-config --exists libcurl 2>/dev/null || packages+=(libcurl4-openssl-dev)
[[ $mode == test ]] && packages+=(libcmocka-dev clang clang-format libclang-rt-dev fonts-dejavu-core fonts-liberation fonts-freefont-ttf)
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

# A browser for the tests of report pages, 81 MB; Ubuntu's package of that name is none, but asks for a snap.
if [[ $mode == test ]] && ! command -v chromium chromium-browser google-chrome >/dev/null; then
	if apt-cache depends chromium 2>/dev/null | grep -q 'Depends: libc6'; then
		echo "setup: installing chromium"
		$([[ $EUID == 0 ]] || echo sudo) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null ||
			echo "setup: chromium could not be installed: tests of report pages are skipped"
	else
		echo "setup: no chromium package here: tests of report pages are skipped"
	fi
fi

# ---- libtorch --------------------------------------------------------------------------------------------------
oldest=10
[[ $mode == test ]] && oldest=11 # what the oracles below ask for
python=$(command -v python3)
"$python" -c "import sys; sys.exit(sys.version_info < (3, $oldest))" || fail "python3 is older than 3.$oldest"
[[ -x .venv/bin/python ]] || "$python" -m venv .venv || fail "python3 cannot make a virtual environment"
pip() { .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-warn-conflicts "$@"; }

# The CUDA libraries that torch 2.11.0 links, GPU or none, and the wheels it asks for (cuda-toolkit 13.0.2's versions).
declare -A wheel=(
	[libcudart.so.13]=nvidia-cuda-runtime==13.0.96 [libcupti.so.13]=nvidia-cuda-cupti==13.0.85
	[libcublas.so.13]=nvidia-cublas==13.1.0.3 [libcublasLt.so.13]=nvidia-cublas==13.1.0.3
	[libcudnn.so.9]=nvidia-cudnn-cu13==9.19.0.56 [libcufft.so.12]=nvidia-cufft==12.0.0.61
	[libcufile.so.0]=nvidia-cufile==1.15.1.6 [libcurand.so.10]=nvidia-curand==10.4.0.35
	[libcusolver.so.12]=nvidia-cusolver==12.0.4.66 [libcusparse.so.12]=nvidia-cusparse==12.6.3.3
	[libcusparseLt.so.0]=nvidia-cusparselt-cu13==0.8.0 [libnccl.so.2]=nvidia-nccl-cu13==2.28.9
	[libnvJitLink.so.13]=nvidia-nvjitlink==13.0.88 [libnvrtc.so.13]=nvidia-cuda-nvrtc==13.0.88
	[libnvshmem_host.so.3]=nvidia-nvshmem-cu13==3.4.5
)
# Installs the wheels of the libraries that LIBRARY of torch needs and the loader does not find. A wheel may need more.
complete() { # LIBRARY
	local missing lib wheels tried=
	while missing=$(ldd ".venv/lib/"python3.*"/site-packages/torch/lib/$1" | awk '/not found/ { print $1 }') &&
		[[ -n $missing && $missing != "$tried" ]]; do
		wheels=()
		for lib in $missing; do
			[[ -n ${wheel[$lib]:-} ]] || fail "torch links $lib, which no known wheel holds: install it and try again"
			wheels+=("${wheel[$lib]}")
		done
		pip --no-deps "${wheels[@]}" || fail "pip could not install ${wheels[*]}; is the network there?"
		tried=$missing
	done
	[[ -z $missing ]] || fail "torch's $1 still does not find ${missing//$'\n'/ }"
}

echo "setup: installing torch 2.11.0 (libtorch)"
pip --no-deps torch==2.11.0 || fail "pip could not install torch==2.11.0; is the network there?"
complete libtorch_cpu.so
[[ ! -e /dev/nvidiactl ]] || complete libtorch_cuda.so

if [[ $mode == test ]]; then
	echo "setup: installing the tests' oracles"
	complete libtorch_python.so # of `import torch`
	pip filelock typing-extensions sympy networkx jinja2 fsspec 'setuptools<82' \
		numpy==2.4.6 pillow==13.0.0 zstandard==0.25.0 pytest==9.2.0 pytest-xdist==3.8.0 safetensors==0.8.0 tensorboard==2.21.0 \
		transformers==5.23.0 diffusers==0.42.1 sentencepiece==0.2.3 protobuf==7.36.2 \
		prometheus_client==0.26.0 pyte==0.8.2 mlflow-skinny==3.17.2 ||
		fail "pip could not install the oracles; is the network there?"
	# These ask for a torch with all of CUDA; ours is there already.
	pip --no-deps accelerate==1.15.0 peft==0.21.2 open_clip_torch==3.3.0 torchvision==0.26.0 ftfy wcwidth &&
		pip psutil pyyaml ||
		fail "pip could not install peft"
	.venv/bin/python -c 'import torch, diffusers, transformers, peft, tensorboard' ||
		fail "the oracles do not work: remove .venv and try again"
	echo "$want" >.venv/setup-run
fi
echo "$want" >"$stamp"
