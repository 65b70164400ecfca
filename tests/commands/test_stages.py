"""An experiment in stages: prompts, rewards and schedules change, the adapter, its moments and the counters go on."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from command import ROOT, build, contraflow, fails, read_steps, read_zst

SHARED = f"""
extends: {ROOT}/configs/shapes.yaml
prompts: {{groups: 3, group_size: 5, test: ""}}
eval: {{every: 2, images_per_prompt: 1}}
log: {{tensorboard: false, grid_every: 0}}
run: {{threads: 1, name: staged}}
optimizer: {{decay: linear, lr: 1e-3}}
checkpoint: {{every: 1, keep: 100}}
"""
STAGES = SHARED + f"""
stages:
  flat:
    train: {{max_steps: 3}}
    rewards: {{jpeg_compressibility: {{weight: 2}}}}
    nft: {{beta: 0.1}}
  right:
    train: {{max_steps: 4}}
    policy: {{old_schedule: linear, old_slope: 0.1, old_max: 1}}
    prompts: {{test: {ROOT}/data/shapes/validation.jsonl, group_size: 4}}
  flat-again:
    train: {{max_steps: 2, steps_per_epoch: 2}}
    rewards: {{jpeg_incompressibility: {{}}}}
"""


def state(run, step):
    return read_zst(run / f"checkpoints/step-{step:08d}/state.safetensors.zst")


def write(folder, text):
    path = folder / "staged.yaml"
    path.write_text(text)
    return path


def test_stages(tmp_path):
    config, run = write(tmp_path, STAGES), tmp_path / "run"
    said = contraflow("train", config, "--run", run)
    rows = read_steps(run)
    assert [r["step"] for r in rows] == [1, 2, 3, 4, 5, 6, 7, 9] and [r["stage"] for r in rows] == [1, 1, 1, 2, 2, 2, 2, 3]
    for r, reward in zip(rows, ["jpeg_compressibility"] * 3 + ["geneval"] * 4 + ["jpeg_incompressibility"]):
        assert [k for k in r if k.startswith("reward/j") or k == "reward/geneval"] == [f"reward/{reward}"]
    # Each stage counts its own steps: learning rate, the old policy's share, evaluations; images go on.
    assert np.allclose([r["lr"] for r in rows], 1e-3 * np.array([1, 2 / 3, 1 / 3, 1, 3 / 4, 2 / 4, 1 / 4, 1 / 2]))
    assert np.allclose([r["old_eta"] for r in rows[3:7]], [0.1, 0.2, 0.3, 0.4])
    assert [r["images"] for r in rows] == [15, 30, 45, 57, 69, 81, 93, 108]
    results = {p.name: json.loads(p.read_text()) for p in run.glob("result*.json")}
    assert set(results) == {"result-flat.json", "result-right.json", "result-flat-again.json"}
    assert results["result-right.json"]["stage_steps"] == 4 and results["result-right.json"]["before"]["images"] == 144
    assert "before" not in results["result-flat.json"] and "stage 2 of 3: right" in said.stderr
    assert state(run, 3)["adam.m"].any() and np.abs(state(run, 9)["theta"] - state(run, 7)["theta"]).max() <= 2.1e-3
    # What the run keeps is the same experiment.
    assert contraflow("config", "show", run / "config.yaml").stdout == contraflow("config", "show", config).stdout


def test_resume_in_a_later_stage(tmp_path):
    config = write(tmp_path, STAGES)
    contraflow("train", config, "--run", tmp_path / "whole", "--quiet")
    command = [build() / "contraflow", "train", config, "--run", tmp_path / "cut", "--quiet"]
    latest = tmp_path / "cut/checkpoints/latest"
    for stop in ["step-00000003", "step-00000005"]:  # at the border of two stages, and within one
        child = subprocess.Popen([*map(str, command)], cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 env={k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"})  # fmt: skip
        while not (latest.exists() and latest.read_text() >= stop):
            assert child.poll() is None, "the run ended before it could be killed"
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.wait()
        command = [*command, "--resume"] if "--resume" not in command else command
    contraflow("train", config, "--run", tmp_path / "cut", "--resume", "--quiet")
    a, b = state(tmp_path / "whole", 9), state(tmp_path / "cut", 9)
    for name in a:
        assert np.array_equal(a[name], b[name]), name
    assert [r["stage"] for r in read_steps(tmp_path / "cut")] == [1, 1, 1, 2, 2, 2, 2, 3]


def test_ranks_agree(tmp_path):
    config = write(tmp_path, STAGES)
    for ranks in (1, 2):
        contraflow("train", config, "--run", tmp_path / str(ranks), "--quiet", ranks=ranks)
    assert np.abs(state(tmp_path / "1", 9)["theta"] - state(tmp_path / "2", 9)["theta"]).max() < 1e-4


def test_parts(tmp_path):
    """Several steps an epoch, 15 images dealt to 2 or 4: the same adapter on any number of ranks."""
    config = write(tmp_path, SHARED + f"rewards: {{jpeg_compressibility: {{}}}}\n")
    for parts in (2, 4):
        for ranks in (1, 2, 3):
            contraflow("train", config, "--run", tmp_path / f"{parts}-{ranks}", "--quiet", "--set", f"train.steps_per_epoch={parts}",
                       "--set", "train.max_steps=4", ranks=ranks)  # fmt: skip
        one = state(tmp_path / f"{parts}-1", 4)["theta"]
        assert np.abs(one).max() > 0
        for ranks in (2, 3):
            assert np.abs(state(tmp_path / f"{parts}-{ranks}", 4)["theta"] - one).max() < 1e-4


JUDGED = """
stages:
  a: {{train: {{max_steps: 1}}, rewards: {{one: {one}, both: {both}}}}}
  b: {{train: {{max_steps: 1}}, rewards: {{same: {both}, two: {two}}}}}
  c: {{train: {{max_steps: 1}}, rewards: {{other: {two}, three: {three}}}}}
"""


@pytest.mark.parametrize("reward_ranks", [0, 1])
def test_each_judge_once(tmp_path, reward_ranks):
    """A judge is loaded when its first stage begins, once a rank, and stays for the next stage that has it, by whatever name."""
    judge = {}
    for name in ("one", "both", "two", "three"):
        command = ["sh", "-c", f"echo {name} >> {tmp_path}/loads; exec {sys.executable} {ROOT}/examples/judge_exec.py"]
        judge[name] = json.dumps(dict(type="exec", command=command))
    config = write(tmp_path, SHARED + JUDGED.format(**judge))
    ranks = 3 if reward_ranks else 2
    contraflow("train", config, "--run", tmp_path / "run", "--quiet", "--set", f"ranks.reward={reward_ranks}", ranks=ranks)
    loads = (tmp_path / "loads").read_text().split()
    assert {name: loads.count(name) for name in judge} == dict.fromkeys(judge, reward_ranks or 2)
    # a run that goes on in its last stage has no use for the judges of the first
    (tmp_path / "loads").unlink()
    contraflow("train", config, "--run", tmp_path / "run", "--quiet", "--resume", "--set", f"ranks.reward={reward_ranks}",
               "--set", "stages.c.train.max_steps=2", ranks=ranks)  # fmt: skip
    loads = (tmp_path / "loads").read_text().split()
    assert {name: loads.count(name) for name in set(loads)} == dict.fromkeys(["two", "three"], reward_ranks or 2)


def test_stop_at(tmp_path):
    """A stage ends at the first evaluation that is good enough."""
    contraflow("train", write(tmp_path, STAGES), "--run", tmp_path / "run", "--quiet", "--set", "stages.right.train.stop_at=0.01")
    assert [r["stage"] for r in read_steps(tmp_path / "run")] == [1, 1, 1, 2, 3]


@pytest.mark.parametrize("limit", ["train.stop_at=0.01", "train.max_seconds=0.001"])
def test_what_is_over_stays_over(tmp_path, limit):
    """A run that ended before max_steps does not train on when it is started again, unless the limit is lifted."""
    args = ["train", write(tmp_path, SHARED), "--run", tmp_path / "run", "--quiet", "--set", f"prompts.test={ROOT}/data/shapes/validation.jsonl",
            "--set", "train.max_steps=4"]  # fmt: skip
    steps = lambda: [r["step"] for r in read_steps(tmp_path / "run")]
    contraflow(*args, "--set", limit)
    ended = steps()
    assert ended in ([1], [1, 2])
    contraflow(*args, "--resume", "--set", limit)
    assert steps() == ended
    contraflow(*args, "--resume", "--set", limit.split("=")[0] + "=0")
    assert steps() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "change, message",
    [
        ("  x: {lora: {rank: 3}}", "stages.x.lora: a stage cannot have this section"),
        ("  x: {train: {max_step: 3}}", "stage x: "),
        ("  x: {train: {max_step: 3}}", "max_steps"),
        ("  x: {rewards: {genevil: {}}}", "geneval"),
        ("  x: {prompts: {train: nothing.txt}}", "stage x: cannot open nothing.txt"),
        ("  x: 3", "'x' is not a stage"),
        ("  x: [train]", "'x' is not a stage"),
        ('  "": {train: {max_steps: 1}}', "'' is not a stage"),
    ],
)  # fmt: skip
def test_mistakes(tmp_path, change, message):
    """Found before the first stage begins, even in the last."""
    config = write(tmp_path, STAGES + change + "\n")
    line = fails("train", config, "--run", tmp_path / "run")
    assert message in line and not (tmp_path / "run").exists()
