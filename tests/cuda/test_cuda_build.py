"""A build with CUDA on a machine without a GPU (or with one): on the CPU it is the same program."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import zstandard
from safetensors.numpy import load

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = ["prompts.groups=3", "prompts.group_size=4", "prompts.test=", "log.tensorboard=false", "run.threads=1", "train.max_steps=3"]


def run(build, *args, check=True):
    env = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}  # both find their libraries by themselves
    done = subprocess.run([ROOT / build / "contraflow", *map(str, args)], capture_output=True, text=True, cwd=ROOT, env=env)
    assert not check or done.returncode == 0, done.stderr
    return done


def has_gpu():
    return pathlib.Path("/dev/nvidiactl").exists()


def test_version():
    assert ", CUDA)" in run("build-cuda", "--version").stdout
    assert "CUDA" not in run("build-test", "--version").stdout


def test_no_trace_in_a_cpu_build():
    libraries = subprocess.run(["ldd", ROOT / "build-test/contraflow"], capture_output=True, text=True).stdout
    assert "libtorch_cpu" in libraries and "libtorch_cuda" not in libraries and "libnccl" not in libraries


def test_every_program_has_libtorch_cuda():
    """It registers the GPU with libtorch when it is loaded; a program that names none of its symbols needs it all the same."""
    for program in "contraflow", "tests/test_dist", "tests/test_fused", "tests/test_joint", "tests/test_transfer":
        needed = subprocess.run(["readelf", "-d", ROOT / "build-cuda" / program], capture_output=True, text=True, check=True).stdout
        assert "[libtorch_cuda.so]" in needed, program


def test_same_numbers_on_the_cpu(tmp_path):
    sets = [x for s in TINY for x in ("--set", s)]
    states = []
    for build in "build-test", "build-cuda":
        run(build, "train", "configs/shapes.yaml", "--run", tmp_path / build, "--quiet", *sets)
        data = (tmp_path / build / "checkpoints/step-00000003/state.safetensors.zst").read_bytes()
        states.append(load(zstandard.ZstdDecompressor().decompressobj().decompress(data)))
    assert all(np.array_equal(states[0][k], states[1][k]) for k in states[0]) and states[0]["theta"].any()


def test_fused_ops():
    """The kernels of the GPU against float64 where there is one; what a build with CUDA does on the CPU otherwise."""
    for program in "test_fused", "test_joint":
        done = subprocess.run([ROOT / "build-cuda/tests" / program], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr


def test_every_rank_its_gpu(tmp_path):
    """What each rank leaves CUDA to see, told by a judge that it starts: with NVML's stand-in, four GPUs for three ranks, one of which
    scores for the others. A build without CUDA touches nothing."""
    judge = tmp_path / "judge.sh"
    judge.write_text(f'#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES" >> {tmp_path}/seen.txt\nexec {sys.executable} {ROOT}/examples/judge_exec.py\n')
    judge.chmod(0o755)
    rewards = json.dumps({"red": {"type": "exec", "command": [str(judge)]}})
    sets = [x for s in [*TINY, "run.device=cpu", "train.max_steps=1", f"rewards={rewards}"] for x in ("--set", s)]
    for build, visible, servers, expected in (("build-cuda", None, 0, ["0", "1", "2"]), ("build-cuda", "3,1", 0, ["1", "3", "3"]),
                                              ("build-cuda", None, 1, ["2"]), ("build-test", None, 0, ["", "", ""])):  # fmt: skip
        env = {**os.environ, "LD_LIBRARY_PATH": str(ROOT / "build-cuda/tests"), "FAKE_GPUS": "abcd", "OMPI_ALLOW_RUN_AS_ROOT": "1",
               "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}  # fmt: skip
        env.pop("CUDA_VISIBLE_DEVICES", None)
        env.update({"CUDA_VISIBLE_DEVICES": visible} if visible else {})
        (tmp_path / "seen.txt").unlink(missing_ok=True)
        done = subprocess.run(["mpirun", "--oversubscribe", "--bind-to", "none", "-n", "3", ROOT / build / "contraflow", "train", "configs/shapes.yaml",
                               "--run", tmp_path / f"{build}{visible}{servers}", *sets, "--set", f"ranks.reward={servers}"],
                              capture_output=True, text=True, cwd=ROOT, env=env, timeout=300)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert sorted((tmp_path / "seen.txt").read_text().splitlines()) == expected


def without_a_gpu(tmp_path):
    done = run("build-cuda", "train", "configs/shapes.yaml", "--run", tmp_path / "r", "--set", "run.device=cuda", check=False)
    assert done.returncode == 1 and "no GPU is visible" in done.stderr and done.stderr.count("\n") == 1
    done = run("build-test", "bench", "--device", "cuda", check=False)
    assert done.returncode == 1 and "this build has no CUDA" in done.stderr


def with_a_gpu(tmp_path):
    """Parity on a GPU: three steps of the shapes world as on the CPU, to what single precision leaves. By the mean of the gradients:
    under Adam one entry whose sign rounding decides moves by twice the learning rate."""
    sets = [x for s in TINY for x in ("--set", s)]
    states = []
    for device in "cpu", "cuda":
        run("build-cuda", "train", "configs/shapes.yaml", "--run", tmp_path / device, "--quiet", *sets, "--set", f"run.device={device}")
        data = (tmp_path / device / "checkpoints/step-00000003/state.safetensors.zst").read_bytes()
        states.append(load(zstandard.ZstdDecompressor().decompressobj().decompress(data)))
    there, here = (s["adam.m"].astype(np.float64) for s in states)
    assert np.linalg.norm(there - here) < 2e-2 * np.linalg.norm(there)


def test_the_gpu(tmp_path):
    (with_a_gpu if has_gpu() else without_a_gpu)(tmp_path)
