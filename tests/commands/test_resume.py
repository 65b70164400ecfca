"""A run that goes on, and what is refused: whichever rank sees the directory, whatever lies in it, whoever else works in it."""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest
from command import BASE, ROOT, TINY, build, contraflow, fails, read_lines, read_zst

CONFIG = ROOT / "configs/shapes.yaml"
# Nothing relative, so that ranks may stand elsewhere.
FIXED = [*TINY, "--set", f"model.path={ROOT / BASE}", "--set", f"prompts.train={ROOT / 'data/shapes/train.jsonl'}",
         "--set", "checkpoint.every=1", "--set", "log.grid_every=0"]  # fmt: skip


def steps(n):
    return ["--set", f"train.max_steps={n}"]


def train(run, *args, **kwargs):
    return contraflow("train", CONFIG, "--run", run, *FIXED, *args, **kwargs)


def state(run, step):
    return read_zst(run / f"checkpoints/step-{step:08d}/state.safetensors.zst")


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """A run of two steps, to be copied."""
    run = tmp_path_factory.mktemp("two") / "run"
    train(run, *steps(2))
    return run


def mpirun(folders, args, **env):
    """A rank in each of these folders."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
           "OMPI_MCA_mpi_yield_when_idle": "1", "CUDA_VISIBLE_DEVICES": "", **env}  # fmt: skip
    env.pop("LD_LIBRARY_PATH", None)
    parts = [["-n", "1", "--wdir", str(f), str(build() / "contraflow"), *map(str, args)] for f in folders]
    command = ["mpirun", "--oversubscribe", "--bind-to", "none", *(x for i, p in enumerate(parts) for x in ([":"] if i else []) + p)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)


def test_rank_that_does_not_see_the_directory(tmp_path):
    """Machines with disks of their own: rank 0 alone has the run, and the bits are those of a run that all see."""
    for name in "whole", "here", "there":
        (tmp_path / name).mkdir()
    args = ["train", CONFIG, "--run", "run", *FIXED]
    done = mpirun([tmp_path / "whole"] * 2, [*args, *steps(3)])
    assert done.returncode == 0, done.stderr
    for n, resume in (2, []), (3, ["--resume"]):
        done = mpirun([tmp_path / "here", tmp_path / "there"], [*args, *steps(n), *resume])
        assert done.returncode == 0, done.stderr
    assert "resuming at step 2" in done.stderr and not list((tmp_path / "there").iterdir())
    assert same(state(tmp_path / "whole/run", 3), state(tmp_path / "here/run", 3))
    assert [r["step"] for r in read_lines(tmp_path / "here/run/metrics.jsonl")] == [1, 2, 3]


FAULT = r"""
#include <mpi.h>

/* A link or a memory that changes one bit, on one rank, of the second gradient. */
int MPI_Bcast(void *data, int n, MPI_Datatype type, int root, MPI_Comm comm)
{
	static int calls;
	int rank, ret = PMPI_Bcast(data, n, type, root, comm);

	MPI_Comm_rank(comm, &rank);
	if (rank == 1 && type == MPI_FLOAT && ++calls == 2)
		((unsigned *)data)[7] ^= 1u << 20;
	return ret;
}
"""


def test_replicas_that_differ(tmp_path):
    """Silent until somebody compares: the step is named, its checkpoint is not written, and the run goes on from the one before."""
    (tmp_path / "fault.c").write_text(FAULT)
    subprocess.run(["mpicc", "-shared", "-fPIC", "-o", tmp_path / "fault.so", tmp_path / "fault.c"], check=True)
    done = mpirun([tmp_path] * 2, ["train", CONFIG, "--run", "run", *FIXED, *steps(4)], LD_PRELOAD=str(tmp_path / "fault.so"))
    line = [l for l in done.stderr.splitlines() if l.startswith("contraflow: ")]
    assert done.returncode and len(line) == 1, done.stderr
    assert "step 2: the ranks no longer train the same adapter: rank 1: the trained policy (theta) is not what rank 0 has" in line[0]
    assert (tmp_path / "run/checkpoints/latest").read_text() == "step-00000001"
    assert "resuming at step 1" in train(tmp_path / "run", *steps(2), "--resume", ranks=2).stderr


def test_copies_are_kept(two_steps, tmp_path):
    """Checkpoints that somebody copied beside the run's own."""
    run = shutil.copytree(two_steps, tmp_path / "run")
    for name in "step-00000001-best", "step-00000002-good", "step-1":
        shutil.copytree(run / "checkpoints/step-00000001", run / "checkpoints" / name)
    train(run, *steps(4), "--set", "checkpoint.keep=1", "--resume")
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [
        "latest", "step-00000001-best", "step-00000002-good", "step-00000004", "step-1"]  # fmt: skip


@pytest.mark.parametrize(
    "setting, said",
    [
        ("run.seed=1", "the run has seed 0, the configuration 1: --set run.seed=0"),
        ("lora.rank=3", "made with another adapter (rank, alpha or targets)"),
    ],
)
def test_mismatch(two_steps, tmp_path, setting, said):
    """The checkpoint before has the same settings: it is not offered."""
    run = shutil.copytree(two_steps, tmp_path / "run")
    line = fails("train", CONFIG, "--run", run, *FIXED, *steps(3), "--set", setting, "--resume")
    assert said in line and "echo" not in line and "--resume without a configuration" in line, line
