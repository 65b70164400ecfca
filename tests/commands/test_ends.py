"""Runs that end early keep their work: by a signal, by their time, by an error; and go on to the bits of one that was left alone."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from command import FRAMES, ROOT, TINY, build, contraflow, read_steps, read_zst

spec = importlib.util.spec_from_file_location("kill_test", ROOT / "tools/kill_test.py")
kill_test = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kill_test)


@pytest.fixture(scope="module", params=[1, 2])
def ground(request, tmp_path_factory):
    return kill_test.Ground(tmp_path_factory.mktemp("ground"), request.param)


@pytest.mark.parametrize("number, shares", [(signal.SIGTERM, [0.7]), (signal.SIGUSR1, [0.5, 0.8])])
def test_signals(ground, number, shares):
    """Wherever it comes: in loading, evaluation, a rollout or half an epoch. tools/kill_test.py does the same at many more moments."""
    print(ground.trial(f"{number.name}-{shares[0]}", number, [kill_test.Moment(seconds=s * ground.seconds) for s in shares]))


def test_kill_within_a_checkpoint(ground):
    """SIGKILL while the second one is written: in the middle, and at once."""
    for share in 0.5, 0:
        print(ground.trial(f"kill-{share}", signal.SIGKILL, [kill_test.Moment(writing=2, share=share)]), ground.within)


def begin(*args):
    env = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"} | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*map(str, [build() / "contraflow", *args])], cwd=ROOT, env=env, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True)  # fmt: skip


def wait_for(process, path, what=""):
    while not (path.exists() and what in path.read_text()):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


SLOW = """
import json, struct, sys, time
while True:
    head = sys.stdin.buffer.read(4)
    if len(head) < 4: sys.exit(0)
    open(sys.argv[1], "a").write("asked\\n")
    sys.stdin.buffer.read(struct.unpack("<I", head)[0])
    time.sleep(600)
"""


@pytest.mark.parametrize("second", [False, True])
def test_a_slow_judge(tmp_path, second):
    """Nobody waits for a judge whose scores are of no use any more; a second signal ends at once."""
    (tmp_path / "slow.py").write_text(SLOW)
    judge = json.dumps({"command": [sys.executable, str(tmp_path / "slow.py"), str(tmp_path / "asked")]})
    process = begin("train", "configs/shapes.yaml", "--run", tmp_path / "run", *TINY, "--set", f"rewards.exec={judge}", "--set", "run.requeue_code=99")
    wait_for(process, tmp_path / "asked")
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    if second:
        os.kill(process.pid, signal.SIGSTOP)  # so that it cannot end in the meantime
        time.sleep(1.1)
        process.send_signal(signal.SIGTERM)
        os.kill(process.pid, signal.SIGCONT)
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - start < 10
    if second:
        assert process.returncode in (-signal.SIGTERM, 99)
        return
    assert process.returncode == 99, said
    assert "stopped by SIGTERM; step 0 is saved: --resume goes on from there (exit code 99)" in said
    assert "ended early: stopped by SIGTERM" in (tmp_path / "run/log.txt").read_text()
    assert json.loads((tmp_path / "run/checkpoints/step-00000000/state.json").read_text())["step"] == 0


def test_slices_of_a_queue(tmp_path):
    """run.max_seconds is of one process; the pieces add up to the run that had all the time it wanted."""
    sets = [*TINY, "--set", "train.max_steps=4", "--set", "checkpoint.every=0"]
    contraflow("train", "configs/shapes.yaml", "--run", tmp_path / "whole", *sets)
    codes = []
    while not codes or codes[-1]:
        done = contraflow("train", "configs/shapes.yaml", "--run", tmp_path / "cut", *sets, "--resume=auto", "--set",
                          f"run.max_seconds={0 if codes else 2}", check=False)  # fmt: skip
        codes.append(done.returncode)
        assert codes[-1] in (0, 75) and ("stopped by run.max_seconds" in done.stderr) == (codes[-1] == 75), done.stderr
    print(codes)
    a, b = (read_zst(tmp_path / r / "checkpoints/step-00000004/state.safetensors.zst") for r in ("whole", "cut"))
    assert all(np.array_equal(a[k], b[k]) for k in a)
    assert [r["step"] for r in read_steps(tmp_path / "cut")] == list(range(1, 5))


JUDGE = FRAMES + """
count = 0
while True:
    items = json.loads(frame())["items"]
    for _ in items: frame()
    count += 1
    answer([SCORE for i in range(len(items))])
"""


def judge(tmp_path, score):
    (tmp_path / "judge.py").write_text(JUDGE.replace("SCORE", score))
    return json.dumps({"command": [sys.executable, str(tmp_path / "judge.py")], "batch": 100})


def test_an_error_saves_the_step(tmp_path):
    """A judge that fails after two epochs: what they learned is there, and goes on when it is back."""
    sets = [*TINY, "--set", "train.max_steps=4", "--set", "checkpoint.every=100", "--set", "rewards.geneval.weight=1"]
    bad = judge(tmp_path, "i * 0.1 if count < 3 else None")
    done = contraflow("train", "configs/shapes.yaml", "--run", tmp_path / "run", *sets, "--set", f"rewards.exec={bad}", check=False)
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and "15 of 15 images could not be scored" in line and "step 2 is saved: --resume goes on from there" in line
    good = judge(tmp_path, "i * 0.1")
    contraflow("train", "configs/shapes.yaml", "--run", tmp_path / "run", *sets, "--set", f"rewards.exec={good}", "--resume")
    assert [r["step"] for r in read_steps(tmp_path / "run")] == [1, 2, 3, 4]


@pytest.mark.parametrize("score, why", [("1e308 * (-1) ** i", "score of 1e+308 is beyond +-1e+30"), ("float('inf')", "")])
def test_absurd_rewards(tmp_path, score, why):
    """No number, or one whose square is none: nothing is trained, and it is said why; not as a step that is not finite."""
    sets = [*TINY, "--set", "train.max_steps=4", "--set", "train.max_unavailable=1", "--set", "train.max_skipped=2"]
    bad = judge(tmp_path, score)
    done = contraflow("train", "configs/shapes.yaml", "--run", tmp_path / "run", *sets, "--set", f"rewards.exec={bad}", check=False)
    assert done.returncode == 1
    assert "2 steps in a row had nothing to learn from (train.max_skipped): no image was scored (exec: " in done.stderr and why in done.stderr, done.stderr
    assert "not finite (" not in done.stderr and "went back" not in done.stderr
    assert not read_steps(tmp_path / "run")


def test_pretraining(tmp_path):
    """Stopped twice, the base model is the same bytes; another configuration is not taken for it."""
    (tmp_path / "few.jsonl").write_text("".join((ROOT / "data/shapes/test.jsonl").open().readlines()[:6]))
    args = ["configs/shapes-pretrain.yaml", "--set", "run.threads=1", "--set", f"eval.prompts={tmp_path / 'few.jsonl'}"]
    for s in "train.steps=40", "train.batch=4", "eval.every=15", "eval.images_per_prompt=1", "eval.sampler.steps=2", "eval.sampler.solver=euler":
        args += ["--set", s]
    contraflow("pretrain", *args, "--set", f"run.out={tmp_path / 'whole'}")
    out = tmp_path / "cut"
    for _ in range(2):
        process = begin("pretrain", *args, "--set", f"run.out={out}")
        said = ""
        while "step " not in said and "going on" not in said:
            said += process.stderr.readline()
            assert process.poll() is None, said
        process.send_signal(signal.SIGUSR1)
        said += process.communicate(timeout=100)[1]
        assert process.returncode == 75 and f"{out}.stopped has step " in said, said
        assert not out.exists() and not list(tmp_path.glob("cut.tmp*"))
    other = contraflow("pretrain", *args, "--set", f"run.out={out}", "--set", "train.batch=5", check=False)
    assert other.returncode == 1 and "another configuration" in other.stderr
    contraflow("pretrain", *args, "--set", f"run.out={out}")
    files = lambda d: {p.relative_to(d): p.read_bytes() for p in d.rglob("*") if p.is_file()}
    assert files(tmp_path / "whole") == files(out) and not (tmp_path / "cut.stopped").exists()
