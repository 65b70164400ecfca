"""A run that goes on, and what is refused: whichever rank sees the directory, whatever lies in it, whoever else works in it."""

import json
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from command import BASE, FRAMES, ROOT, TINY, build, contraflow, fails, read_lines, read_zst

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
    for rest in [*args[1:], *steps(2), "--set", "log.rollouts_every=1"], ["--run", "run", "--resume", *steps(3)]:
        done = mpirun([tmp_path / "here", tmp_path / "there"], ["train", *rest])
        assert done.returncode == 0, done.stderr
    assert "resuming at step 2" in done.stderr
    # of what was sampled each rank writes its share where it is
    assert sorted(p.name for p in (tmp_path / "there").rglob("*") if p.is_file()) == [
        f"epoch-{epoch:06d}.rank-0001.safetensors.zst" for epoch in range(3)]  # fmt: skip
    assert same(state(tmp_path / "whole/run", 3), state(tmp_path / "here/run", 3))
    assert [r["step"] for r in read_lines(tmp_path / "here/run/metrics.jsonl")] == [1, 2, 3]


def test_ranks_with_other_files(tmp_path):
    """Files of one name that are not the same on all machines would train a mixture of two runs."""
    here, there = tmp_path / "here", tmp_path / "there"
    config = f"{CONFIG.read_text().split('rewards:')[0]}\nrewards: {{jpeg_compressibility: {{}}}}\n"
    for folder, prompt in (here, "a photo of a cross"), (there, "a photo of a square"):
        folder.mkdir()
        (folder / "p.txt").write_text(f"{prompt}\na photo of a circle\n")
        (folder / "c.yaml").write_text(config)
    args = ["train", "c.yaml", "--run", "run", *FIXED, *steps(1), "--set", "prompts.train=p.txt", "--set", "prompts.by_tag=false"]
    for what in "p.txt: rank 1: the file of prompts is not what rank 0 has", "rank 1: the configuration is not what rank 0 has":
        done = mpirun([here, there], args)
        assert done.returncode and [l for l in done.stderr.splitlines() if l.startswith("contraflow: ")] == [f"contraflow: {what}"], done.stderr
        assert not (here / "run").exists()
        (there / "c.yaml").write_text(config.replace("seed: 0", "seed: 2"))


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
    assert "ended by an error: step 2: the ranks no longer" in (tmp_path / "run/log.txt").read_text().splitlines()[-1]
    assert "resuming at step 1" in train(tmp_path / "run", *steps(2), "--resume", ranks=2).stderr


def test_copies_are_kept(two_steps, tmp_path):
    """Checkpoints that somebody copied beside the run's own."""
    run = shutil.copytree(two_steps, tmp_path / "run")
    for name in "step-00000001-best", "step-00000002-good", "step-1":
        shutil.copytree(run / "checkpoints/step-00000001", run / "checkpoints" / name)
    train(run, *steps(4), "--set", "checkpoint.keep=1", "--resume")
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [
        "latest", "step-00000001-best", "step-00000002-good", "step-00000004", "step-1"]  # fmt: skip


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    "said, settings",
    [
        # the checkpoint before has the same settings: it is not offered
        ("the run has seed 0, the configuration 1: --set run.seed=0", ["run.seed=1"]),
        ("made with another adapter (rank, alpha or targets)", ["lora.rank=3"]),
        ("no/such/model: no such folder", ["model.path=no/such/model"]),
        ("cannot open no/such.txt", ["prompts.train=no/such.txt"]),
        ("solver", ["rollout.solver=./no_such.so"]),
    ],
)
def test_refused(two_steps, tmp_path, said, settings):
    """What a refused command leaves: every file as it was, and no directory that was not there."""
    before = contents(two_steps)
    settings = [x for s in settings for x in ("--set", s)]
    line = fails("train", CONFIG, "--run", two_steps, *FIXED, *steps(3), *settings, "--resume")
    assert said in line and "echo" not in line, line
    assert contents(two_steps) == before
    if not said.startswith(("the run", "made")):
        assert said in fails("train", CONFIG, "--run", tmp_path / "a/b", *FIXED, *settings)
        assert not (tmp_path / "a").exists()


def test_first_of_all(two_steps, tmp_path):
    """The directory is looked at before the model: a forgotten flag costs no minutes of loading."""
    before = contents(two_steps)
    nothing = [*FIXED, "--set", "model.path=no/such/model", "--set", "prompts.train=no/such.txt"]
    assert "already holds a run: --resume continues it" in fails("train", CONFIG, "--run", two_steps, *nothing)
    (tmp_path / "file").write_text("")
    assert "file" in fails("train", CONFIG, "--run", tmp_path / "file/run", *nothing)
    assert contents(two_steps) == before and (tmp_path / "file").read_text() == ""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        assert "of room is left, and a checkpoint takes" in fails("train", CONFIG, "--run", disk / "run", *nothing)
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", disk], check=True)


def test_no_run_there(tmp_path):
    """A mistyped directory is no new run, unless a job asks for whichever it is."""
    run = tmp_path / "run"
    for there in False, True:
        if there:
            run.mkdir()
        for config in [CONFIG], []:
            line = fails("train", *config, "--run", run, *(FIXED if config else []), "--resume")
            assert str(run) in line and "is the name right?" in line
    assert not list(run.iterdir())
    afresh = f"{run} holds no run yet: starting afresh"
    assert afresh in train(run, *steps(1), "--resume=auto").stderr
    assert afresh in (run / "log.txt").read_text()  # though it was said before that file was there
    assert "resuming at step 1" in train(run, *steps(2), "--resume=auto").stderr
    assert [r["step"] for r in read_lines(run / "metrics.jsonl")] == [1, 2]
    assert "--resume=auto" in fails("train", CONFIG, "--run", run, "--resume=maybe")
    assert "with --resume the run's directory" in fails("train", "--resume")


def test_settings(two_steps, tmp_path):
    """Without a configuration the run's own hold; what is changed is said, and what was is kept."""
    run, whole = shutil.copytree(two_steps, tmp_path / "run"), tmp_path / "whole"
    config = (run / "config.yaml").read_text()
    said = contraflow("train", "--run", run, "--resume", *steps(4), "--set", "optimizer.lr=0.001", "--set", "rewards.jpeg_compressibility={}").stderr
    for line in ("  optimizer.lr 0.0012 -> 0.001", "  train.max_steps 2 -> 4", "  rewards.jpeg_compressibility.weight (not there) -> 1"):
        assert line in said.splitlines() and line in (run / "log.txt").read_text()
    assert "prompts.groups" not in said and "warning: rewards: their settings have changed" in said
    assert (run / "config-until-00000002.yaml").read_text() == config
    assert "  lr: 0.001\n" in (run / "config.yaml").read_text()
    # the same settings again are no change, and the bits are those of the run that was never cut
    said = contraflow("train", "--run", two_steps, "--resume").stderr
    assert "->" not in said and not list(two_steps.glob("config-until*"))
    train(whole, *steps(3))
    again = shutil.copytree(two_steps, tmp_path / "again")
    contraflow("train", "--run", again, "--resume", *steps(3))
    assert same(state(whole, 3), state(again, 3))
    # what is kept is never written over
    for n in 2, 3:
        contraflow("train", "--run", again, "--resume", "--set", f"checkpoint.keep={n + 10}")
    assert sorted(p.name for p in again.glob("config-*")) == [
        "config-until-00000002.yaml", "config-until-00000003-2.yaml", "config-until-00000003.yaml"]  # fmt: skip


def test_log(two_steps):
    """What somebody wants to know afterwards: with what it was started, where, and how it ended."""
    text = (two_steps / "log.txt").read_text()
    first = text.splitlines()[0]
    version = contraflow("--version").stdout.strip()
    assert version in first.replace(": train", "") and f"train {CONFIG} --run {two_steps} --set prompts.groups=3" in first
    assert f" on {socket.gethostname()}, rank 0 of 1\n" in text and text.rstrip().endswith("came to its end")
    assert "  prompts.groups 3\n" in text and "  optimizer.lr 0.0012\n" in text and "max_grad_norm" not in text


def test_one_process(tmp_path):
    """A second one is refused, with whom to ask; a killed one keeps nobody out."""
    run = tmp_path / "run"
    command = ["train", CONFIG, "--run", run, *FIXED, *steps(100000), "--set", "checkpoint.keep=1"]
    env = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
    for resume in [], ["--resume"]:
        child = subprocess.Popen([build() / "contraflow", *map(str, [*command, *resume])], stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL, env=env)  # fmt: skip
        begun = (run / "log.txt").read_text().count("resuming at") if resume else 0
        while not ((run / "checkpoints/latest").exists() and (not resume or (run / "log.txt").read_text().count("resuming at") > begun)):
            assert child.poll() is None
            time.sleep(0.02)
        for how in [], ["--resume"], ["--resume=auto"]:
            line = fails("train", CONFIG, "--run", run, *FIXED, *steps(3), *how)
            assert f"another process works in this folder: pid {child.pid} on {socket.gethostname()}, since 20" in line, line
        assert (run / "lock").read_text().split()[:2] == [socket.gethostname(), str(child.pid)]
        child.send_signal(signal.SIGKILL)
        child.wait()
    done = int((run / "checkpoints/latest").read_text().removeprefix("step-"))
    said = contraflow("train", "--run", run, "--resume", *steps(done + 1)).stderr
    assert f"resuming at step {done}" in said and re.search(rf"pid {child.pid} on \S+, since \S+ did not come to an end in this run", said)
    assert (run / "lock").read_text() == ""
    assert [r["step"] for r in read_lines(run / "metrics.jsonl")] == list(range(1, done + 2))


def test_changed_files(tmp_path):
    """Prompts and a judge's script that are others than when the run was cut."""
    judge, prompts = tmp_path / "judge.py", tmp_path / "prompts.txt"
    judge.write_text(FRAMES + "while True: answer([0.5 * len(frame()) / 1e6 for _ in json.loads(frame())['items']])\n")
    prompts.write_text("a photo of a cross\na photo of a square\n")
    config = tmp_path / "c.yaml"
    rewards = {"exec": {"command": [sys.executable, str(judge)]}}
    config.write_text(f"{CONFIG.read_text().split('rewards:')[0]}\nrewards: {json.dumps(rewards)}\n")
    sets = [*FIXED, "--set", f"prompts.train={prompts}", "--set", "prompts.by_tag=false"]
    contraflow("train", config, "--run", tmp_path / "run", *sets, *steps(1))
    said = contraflow("train", "--run", tmp_path / "run", "--resume", *steps(2)).stderr
    assert "warning" not in said, said
    prompts.write_text(prompts.read_text() + "a photo of a circle\n")
    judge.write_text(judge.read_text().replace("0.5 *", "0.25 *"))
    said = contraflow("train", "--run", tmp_path / "run", "--resume", *steps(3)).stderr
    warned = [l for l in said.splitlines() if l.startswith("warning: ")]
    assert warned == ["warning: prompts.train: the file has changed since the run's checkpoint",
                      "warning: rewards.exec.command[1]: the file has changed since the run's checkpoint"]  # fmt: skip
    assert "warning: prompts.train" in (tmp_path / "run/log.txt").read_text()
    # from now on these are the run's
    assert "has changed" not in contraflow("train", "--run", tmp_path / "run", "--resume", *steps(4)).stderr


def test_start_that_is_gone(two_steps, tmp_path):
    """lora.start is needed once: its shape, of several ranks and alphas, and its values are in the checkpoint."""
    start = shutil.copytree(two_steps / "checkpoints/step-00000002/lora", tmp_path / "start")
    for name in "whole", "cut":
        train(tmp_path / name, "--set", f"lora.start={start}", *steps(2 if name == "cut" else 3), ranks=2)
    shutil.rmtree(start)
    assert "lora.start" in fails("train", CONFIG, "--run", tmp_path / "new", *FIXED, "--set", f"lora.start={start}")
    contraflow("train", "--run", tmp_path / "cut", "--resume", *steps(3), ranks=2)
    assert same(state(tmp_path / "whole", 3), state(tmp_path / "cut", 3))
