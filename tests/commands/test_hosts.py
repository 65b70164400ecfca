"""Nobody waits for ever: whatever happens to a rank or its host, the job ends in time, says who it was, and can go on from its checkpoint."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
from command import FRAMES, ROOT, TINY, build, contraflow
from hosts import Hosts, possible
from test_reward_ranks import left_behind

TIMEOUT, GRACE = 4, 5  # s
# On the host (or in the process) that the file `hang` names, this judge does not answer.
JUDGE = FRAMES + r"""
import pathlib, socket, time
def hangs(file): return file.exists() and file.read_text() in ("", socket.gethostname())
while True:
    items = json.loads(frame())["items"]
    for item in items: frame()
    if sys.argv[2:] == [os.environ.get("OMPI_COMM_WORLD_RANK")]: time.sleep(0.9)
    while hangs(pathlib.Path(sys.argv[1])): time.sleep(0.1)
    answer([len(item["prompt"]) % 7 for item in items])
"""


@pytest.fixture
def hosts(tmp_path):
    if not possible():
        pytest.skip("this machine does not let us make network namespaces (ip netns add)")
    h = Hosts(tmp_path)
    yield h
    h.close()


def arguments(folder, steps=1000000, timeout=TIMEOUT):
    (folder / "judge.py").write_text(JUDGE)
    judge = dict(command=[sys.executable, str(folder / "judge.py"), str(folder / "hang")], timeout=1e6)
    return ["train", "configs/shapes.yaml", "--run", folder / "run", *TINY, "--set", "checkpoint.every=1", "--set", f"train.max_steps={steps}",
            "--set", f"run.timeout={timeout}", "--set", f"rewards.exec={json.dumps(judge)}"]  # fmt: skip


def step(folder):
    try:
        return int((folder / "run/checkpoints/latest").read_text().split("-")[1])
    except FileNotFoundError:
        return 0


def in_the_midst(job, folder):
    """When it has saved something that one can go on from."""
    while step(folder) < 2:
        assert job.poll() is None, job.stderr.read()
        time.sleep(0.01)


def ends(job, folder, told, logged=True):
    """In time, with one line that tells it, and what to do; log.txt has it, too, if a rank that trains says so."""
    start = time.monotonic()
    try:
        _, err = job.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        job.kill()
        (folder / "hang").unlink(missing_ok=True)  # or the judge would hold on to what the job said
        pytest.fail(f"the job does not end: {job.communicate(timeout=20)[1]}")
    seconds = time.monotonic() - start
    assert job.returncode != 0
    lines = [l for l in err.splitlines() if l.startswith("contraflow: ")]
    assert any(re.search(told, l) and (f"--resume goes on from step {step(folder)} of {folder}/run" in l or "newest" in l) for l in lines), err
    assert seconds < TIMEOUT + GRACE, (seconds, err)
    log = (folder / "run/log.txt").read_text()
    assert not logged or re.search(f"^\\S+ ended by: .*{told}", log, re.M), log


def goes_on(folder):
    (folder / "hang").unlink(missing_ok=True)
    done = step(folder)
    said = contraflow(*arguments(folder, done + 1), "--resume", ranks=2)
    assert f"resuming at step {done}" in said.stderr and step(folder) == done + 1


MISSING = r"at step \d+: rank 0 of 2 \(on a\) waited \d+\.\d s: rank 1 \(on b\) is missing"
STUCK = r"rank {rank} \(on {host}\) at step \d+ is stuck in '{where}': no sign of life for \d+\.\d s"


@pytest.mark.parametrize("what", ["stopped", "cut", "lost"])
def test_host(tmp_path, hosts, what):
    """A rank that is stopped, a link that is cut, a host that loses its power: the other one says who is missing, and where."""
    job = hosts.start(*arguments(tmp_path))
    in_the_midst(job, tmp_path)
    if what == "stopped":
        os.kill(hosts.rank("b"), signal.SIGSTOP)
    elif what == "cut":
        hosts.cut("b")
    else:
        hosts.lose("b")
    ends(job, tmp_path, MISSING)
    goes_on(tmp_path)


def test_judge_of_one_host(tmp_path, hosts):
    """The rank whose judge hangs says so itself, and leaves no judge."""
    job = hosts.start(*arguments(tmp_path))
    in_the_midst(job, tmp_path)
    (tmp_path / "hang").write_text("b")
    ends(job, tmp_path, STUCK.format(rank=1, host="b", where="waiting for rewards"))
    assert not left_behind(tmp_path / "judge.py")
    goes_on(tmp_path)


def start(ranks, *args):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
           "OMPI_MCA_mpi_yield_when_idle": "1", "CUDA_VISIBLE_DEVICES": ""}  # fmt: skip
    env.pop("LD_LIBRARY_PATH", None)
    launch = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", ranks] if ranks else []
    command = [*launch, build() / "contraflow", *args]
    return subprocess.Popen([*map(str, command)], cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("ranks, reward, stuck", [(0, 0, 0), (3, 1, 2)], ids=["alone", "reward-rank"])
def test_judge(tmp_path, ranks, reward, stuck):
    """A process alone has nobody who would miss it; and it is the reward rank that is named, not those who wait for its scores."""
    job = start(ranks, *arguments(tmp_path), "--set", f"ranks.reward={reward}")
    in_the_midst(job, tmp_path)
    (tmp_path / "hang").touch()
    where = "scoring for the other ranks" if reward else "waiting for rewards"
    ends(job, tmp_path, rf"rank {stuck} \(on \S+\).* is stuck in '{where}': no sign of life for \d+\.\d s", logged=not reward)
    assert not left_behind(tmp_path / "judge.py")
    goes_on(tmp_path)


def test_slow_is_not_stuck(tmp_path):
    """A rank that works on while another waits for it gives signs of life: a job is not ended for being uneven."""
    judge = dict(command=[sys.executable, str(tmp_path / "judge.py"), str(tmp_path / "hang"), "1"], timeout=60, batch=1)
    args = [*arguments(tmp_path, 1, timeout=3), "--set", f"rewards.exec={json.dumps(judge)}"]
    began = time.monotonic()
    contraflow(*args, ranks=2)
    assert step(tmp_path) == 1 and time.monotonic() - began > 6
    judge["command"][-1] = "0"
    contraflow(*args[:-1], f"rewards.exec={json.dumps(judge)}", "--set", "run.timeout=0", "--resume", "--set", "train.max_steps=2", ranks=2)


def test_stopped_altogether(tmp_path):
    """A launcher may stop a whole job for longer than the time-out, and let it go on."""
    job = start(2, *arguments(tmp_path, timeout=2))
    in_the_midst(job, tmp_path)
    ranks = [int(p) for p in left_behind(tmp_path / "run") if (pathlib.Path("/proc") / p / "comm").read_text() == "contraflow\n"]
    assert len(ranks) == 2
    for signal_ in signal.SIGSTOP, signal.SIGCONT:
        for p in ranks:
            os.kill(p, signal_)
        time.sleep(4 if signal_ == signal.SIGSTOP else 0)
    before = step(tmp_path)
    while step(tmp_path) < before + 3:
        assert job.poll() is None, job.stderr.read()
        time.sleep(0.01)
    job.terminate()
    job.communicate(timeout=20)
