"""Running build/contraflow as a user does."""

import json
import os
import pathlib
import subprocess

import zstandard
from safetensors.numpy import load

ROOT = pathlib.Path(__file__).resolve().parents[2]
BASE = "data/shapes/base"
# A run of a few seconds whose 15 images a round divide evenly among no number of ranks but 1, 3 and 5.
TINY = [
    "--set", "prompts.groups=3", "--set", "prompts.group_size=5", "--set", "eval.images_per_prompt=1",
    "--set", "prompts.test=", "--set", "log.tensorboard=false", "--set", "run.threads=1", "--set", "optimizer.decay=constant",
]  # fmt: skip


# What a judge for `exec` begins with: a frame from the run, and its answer (rewards/judges/reply.h).
FRAMES = r"""
import json, os, struct, sys
def frame():
    head = sys.stdin.buffer.read(4)
    if len(head) < 4: sys.exit(0)
    return sys.stdin.buffer.read(struct.unpack("<I", head)[0])
def answer(scores):
    data = json.dumps({"scores": scores}).encode()
    sys.stdout.buffer.write(struct.pack("<I", len(data)) + data); sys.stdout.buffer.flush()
"""


def build():
    path = pathlib.Path(os.environ.get("BUILD", "build"))
    return path if path.is_absolute() else ROOT / path


def contraflow(*args, ranks=0, check=True, program=None, **kwargs):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
           "OMPI_MCA_mpi_yield_when_idle": "1",  # three ranks share two cores
           "CUDA_VISIBLE_DEVICES": ""}  # what a GPU of the machine would have said is no part of these tests
    env.pop("LD_LIBRARY_PATH", None)  # the program finds its libraries by itself
    launch = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)] if ranks else []
    done = subprocess.run(
        [*launch, program or build() / "contraflow", *map(str, args)], capture_output=True, text=True, cwd=ROOT, env=env, timeout=600, **kwargs
    )
    assert 0 <= done.returncode < 128, f"died of a signal: {done.returncode}\n{done.stderr}"  # mpirun: 128 and the signal
    if check:
        assert done.returncode == 0, done.stderr
    return done


def fails(*args, **kwargs):
    """The one line that a failing command says."""
    done = contraflow(*args, check=False, **kwargs)
    assert done.returncode, done.stdout
    lines = [l for l in done.stderr.splitlines() if l.startswith("contraflow: ")]
    assert len(lines) == 1, done.stderr
    if not kwargs.get("ranks"):
        assert done.stderr.strip() == lines[0], done.stderr
    return lines[0]


def read_zst(path):
    return load(zstandard.ZstdDecompressor().decompressobj().decompress(pathlib.Path(path).read_bytes()))


def read_lines(path):
    return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


def read_steps(run):
    """The lines of metrics.jsonl that are of steps: those of evaluations stand between them."""
    return [r for r in read_lines(pathlib.Path(run) / "metrics.jsonl") if "epoch" in r]
