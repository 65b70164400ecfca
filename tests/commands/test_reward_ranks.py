"""The last ranks of a job score for the others: the same run, bit by bit, as where every rank scores what it samples."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import torch
from command import BASE, ROOT, TINY, build, contraflow, fails, read_lines
from test_stages import STAGES

CONFIG = "configs/shapes.yaml"
GROUP = dict(type="exec", command=[sys.executable, str(ROOT / "examples/judge_group.py")], group=True, weight=0.5)
SINGLE = dict(type="exec", command=[sys.executable, str(ROOT / "examples/judge_exec.py")], batch=2)
# Whole runs with evaluations: a short prompt file, two images a prompt.
REWARDS = {"geneval": {}, "jpeg_compressibility": dict(weight=0.1), "ranking": GROUP, "red": SINGLE}


def sets(**keys):
    return [x for k, v in keys.items() for x in ("--set", f"{k.replace('__', '.')}={v if isinstance(v, str) else json.dumps(v)}")]


@pytest.fixture
def prompts(tmp_path):
    lines = (ROOT / "data/shapes/validation.jsonl").read_text().splitlines()[::40]
    (tmp_path / "test.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "test.jsonl"


def train(folder, reward, trainers, *args, rewards=REWARDS, check=True):
    ranks = trainers + reward if trainers + reward > 1 else 0
    args = [*TINY, *sets(**{f"rewards__{k}": v for k, v in rewards.items()}), *sets(ranks__reward=reward), *args]
    return contraflow("train", CONFIG, "--run", folder, *args, ranks=ranks, check=check)


def metrics(run):
    """A run's metrics, without its times and what its memory took: where judges share the process, their threads count too."""
    return [{k: v for k, v in r.items() if not k.startswith(("time/", "memory/", "ranks/", "scoring/"))} for r in read_lines(run / "metrics.jsonl")]


def numbers(run):
    """What a run tells, without its times."""
    rows = metrics(run)
    result = json.loads((run / "result.json").read_text())
    for part in result, result.get("before", {}), result.get("after", {}):
        for k in [k for k in part if "seconds" in k]:
            del part[k]
    return rows, result


def states(run):
    return {p.parent.name: p.read_bytes() for p in (run / "checkpoints").glob("*/state.safetensors.zst")}


def left_behind(word):
    found = []
    for p in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [p.parent.name] if str(word).encode() in p.read_bytes() else []
        except OSError:
            pass
    return [x for x in found if int(x) != os.getpid()]


def test_same_run(tmp_path, prompts):
    """Batches, groups that ranks cut, evaluations: numbers and checkpoints are the same bits, with one reward rank, with two that
    share the work, for a single trainer and for several. The log says who scores; nothing is left when the run ends."""
    extra = ["--set", "train.max_steps=3", "--set", f"prompts.test={prompts}", "--set", "eval.every=1",
             "--set", "eval.images_per_prompt=2", "--set", "checkpoint.every=1", "--set", "checkpoint.keep=9"]  # fmt: skip
    for trainers in 1, 2:
        train(tmp_path / f"{trainers}", 0, trainers, *extra)
        for reward in 1, 2:
            run = tmp_path / f"{trainers}+{reward}"
            said = train(run, reward, trainers, *extra)
            assert f"rewards are scored by rank{'s' if reward > 1 else ''} {trainers}" in said.stderr
            assert numbers(run) == numbers(tmp_path / f"{trainers}")
            assert states(run) == states(tmp_path / f"{trainers}") and len(states(run)) == 3
            assert not left_behind(run)
    rows, result = numbers(tmp_path / "2+2")
    assert rows[1]["reward/ranking"] == pytest.approx(0.5, abs=0.05) and result["ranks"] == 2 and "eval/strict" in rows[0]


def test_resume_without(tmp_path, prompts):
    """A run begun with reward ranks goes on without, and the other way round."""
    extra = ["--set", f"prompts.test={prompts}", "--set", "checkpoint.keep=9"]
    train(tmp_path / "whole", 0, 2, *extra, "--set", "train.max_steps=4")
    for name, first, then in ("with", 1, 0), ("without", 0, 2):
        train(tmp_path / name, first, 2, *extra, "--set", "train.max_steps=2")
        train(tmp_path / name, then, 2, *extra, "--set", "train.max_steps=4", "--resume")
        assert states(tmp_path / name)["step-00000004"] == states(tmp_path / "whole")["step-00000004"]
        assert numbers(tmp_path / name)[0] == numbers(tmp_path / "whole")[0]


def test_stages(tmp_path):
    """Every stage has rewards of its own, opened where they score."""
    (tmp_path / "staged.yaml").write_text(STAGES)
    for ranks, reward in (2, 0), (3, 1):
        contraflow("train", tmp_path / "staged.yaml", "--run", tmp_path / str(reward), "--quiet", *sets(ranks__reward=reward), ranks=ranks)
    assert states(tmp_path / "0") == states(tmp_path / "1") and len(states(tmp_path / "0")) == 8  # steps 1 to 7, and 9
    assert metrics(tmp_path / "0") == metrics(tmp_path / "1")
    line = fails("train", tmp_path / "staged.yaml", "--run", tmp_path / "x", "--set", "stages.right.ranks.reward=1")
    assert "stages.right.ranks: a stage cannot have this section" in line


def test_eval(tmp_path, prompts):
    (tmp_path / "c.yaml").write_text(json.dumps(dict(rewards=REWARDS)))
    results = []
    for ranks, reward in (2, 0), (3, 1), (4, 2):
        contraflow("eval", "--model", BASE, "--prompts", prompts, "--config", tmp_path / "c.yaml", "--steps", 4, "--images-per-prompt", 3,
                   "--threads", 1, "-o", tmp_path / "o.json", "--quiet", "--reward-ranks", reward, ranks=ranks)  # fmt: skip
        results.append({k: v for k, v in json.loads((tmp_path / "o.json").read_text()).items() if k != "seconds"})
    assert results[0] == results[1] == results[2] and results[0]["images"] > 0
    assert "--reward-ranks is 1" in fails("eval", "--model", BASE, "--prompts", prompts, "--reward-ranks", 1)


def test_refused(tmp_path):
    args = ["train", CONFIG, "--run", tmp_path / "run", *TINY]
    assert "ranks.reward is 1, but there is only one process" in fails(*args, *sets(ranks__reward=1))
    for ranks, reward in (2, 2), (2, 5):
        assert f"ranks.reward is {reward} of 2 ranks" in fails(*args, *sets(ranks__reward=reward), ranks=ranks)
    assert not (tmp_path / "run").exists()


def test_failures_at_a_reward_rank(tmp_path):
    """One line, as without them, that names the reward rank where it is its own."""
    args = ["train", CONFIG, "--run", tmp_path / "run", *TINY, "--set", "ranks.reward=1"]
    line = fails(*args, *sets(rewards__exec=dict(command=["/no/such/judge"])), ranks=3)
    assert "reward rank 2: reward exec: cannot start '/no/such/judge'" in line
    (tmp_path / "p.txt").write_text("a photo of a cat\n")
    line = fails(*args, *sets(rewards__geneval={}, prompts__train=str(tmp_path / "p.txt")), ranks=3)
    assert "p.txt: prompt 1 ('a photo of a cat')" in line and "reward geneval cannot score" in line
    assert not (tmp_path / "run").exists()
    # a judge that dies, over and over: images without a score, and the run ends as it would without
    line = fails(*args, *sets(rewards__exec=dict(command=["sh", "-c", "exit 3"], retries=0)), ranks=3)
    assert "15 of 15 images could not be scored" in line and "exec: " in line
    assert not left_behind(tmp_path / "run")


def start(folder, *args):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}
    env.pop("LD_LIBRARY_PATH", None)
    command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", "3", build() / "contraflow", "train", CONFIG, "--run", folder, *TINY, *args]
    return subprocess.Popen([*map(str, command)], cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


class Scatters(torch.nn.Module):
    """What libtorch refuses where kernels must repeat their bits."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = torch.zeros(images.size(0))
        return x.put_(torch.arange(images.size(0)), images.mean((1, 2, 3)))


@pytest.mark.parametrize("reward, trainers", [(0, 1), (1, 1)], ids=["beside", "reward-rank"])
def test_deterministic(tmp_path, reward, trainers):
    """A run's judges work as the run does, wherever they are."""
    torch.jit.script(Scatters().eval()).save(str(tmp_path / "judge.pt"))
    judge = {"script": dict(module=str(tmp_path / "judge.pt"), size=24)}
    args = sets(rewards=judge, train__max_steps=1, eval__every=0)
    for on in "false", "true":
        done = train(tmp_path / on, reward, trainers, *args, *sets(run__deterministic=on), rewards={}, check=False)
        assert (done.returncode == 0) == (on == "false"), done.stderr
    assert "does not have a deterministic implementation" in done.stderr


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_killed(tmp_path, victim):
    """Whoever dies, reward rank or not, the job ends, says who, and leaves no process."""
    job = start(tmp_path / "run", "--set", "ranks.reward=1", "--set", "train.max_steps=100000", "--set", "checkpoint.every=1", *sets(rewards__ranking=GROUP))
    while not (tmp_path / "run/checkpoints/latest").exists():
        assert job.poll() is None, job.stderr.read()
        time.sleep(0.01)
    for p in left_behind(tmp_path / "run"):
        rank = [x for x in pathlib.Path(f"/proc/{p}/environ").read_bytes().split(b"\0") if x.startswith(b"OMPI_COMM_WORLD_RANK=")]
        if rank and int(rank[0].split(b"=")[1]) == victim:
            os.kill(int(p), signal.SIGKILL)
    said = job.communicate(timeout=60)[1]
    assert job.returncode != 0 and f"rank {victim}" in said, said
    for _ in range(200):
        if not left_behind(tmp_path / "run"):
            break
        time.sleep(0.05)
    assert not left_behind(tmp_path / "run")


DYING = """
#include "rewards/judges/plugin.h"
#include <stdlib.h>
#include <sys/resource.h>
static int begin(void **state, const char *options, char *error, size_t size) { *state = malloc(1); return 0; }
static int score(void *state, const struct contraflow_item *item, int n, struct contraflow_score *out)
{
	struct rlimit none = { 1, 1 };
	setrlimit(RLIMIT_AS, &none); /* the process dies of its next allocation */
	for (int i = 0; i < n; i++) { out[i].value = 1; out[i].ok = 1; }
	return 0;
}
static const struct contraflow_reward dying = { .abi = CONTRAFLOW_PLUGIN_ABI, .name = "dying", .open = begin, .score = score, .close = free };
const struct contraflow_reward *contraflow_reward(void) { return &dying; }
"""


def test_the_log_says_how_a_reward_rank_ended(tmp_path):
    (tmp_path / "dying.c").write_text(DYING)
    subprocess.run(["cc", "-shared", "-fPIC", f"-I{ROOT}", "-o", tmp_path / "dying.so", tmp_path / "dying.c"], check=True)
    rewards = {"geneval": dict(weight=0), "plugin": dict(path=str(tmp_path / "dying.so"))}
    sizes = sets(prompts__groups="30", prompts__group_size="50", rollout__steps="1", rollout__batch="50", rollout__solver="euler")
    assert train(tmp_path / "run", 1, 1, *sizes, rewards=rewards, check=False).returncode
    assert " ended by: out of memory" in (tmp_path / "run/log.txt").read_text()
