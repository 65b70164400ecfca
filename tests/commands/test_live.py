"""What a user sees while a run goes on: contraflow top, numbers for Prometheus, a program that is told (log.exec)."""

import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import fcntl
import urllib.error
import urllib.request

import pyte
import pytest
from prometheus_client.parser import text_string_to_metric_families

from command import ROOT, TINY, build, contraflow, fails, read_lines, read_steps, read_zst

ENV = {**os.environ, "LC_ALL": "C.UTF-8", "TERM": "xterm-256color", "OMP_NUM_THREADS": "1"}
ENV.pop("LD_LIBRARY_PATH", None)
ENV.pop("NO_COLOR", None)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two ranks with evaluations and checkpoints."""
    folder = tmp_path_factory.mktemp("live")
    prompts = folder / "test.jsonl"
    prompts.write_text("".join(l + "\n" for l in (ROOT / "data/shapes/validation.jsonl").read_text().splitlines()[:6]))
    contraflow("train", "configs/shapes.yaml", "--run", folder / "run", *TINY, "--set", f"prompts.test={prompts}", "--set", "eval.every=2", "--set", "checkpoint.every=2",
               "--set", "train.max_steps=5", "--set", "run.name=short", ranks=2)  # fmt: skip
    return folder / "run"


# ---- Its numbers ----


def test_ranks_and_rewards_in_rows(run):
    rows = read_steps(run)
    for row in rows:
        for phase in ("sampling", "reward_wait", "update"):
            assert 0 <= row[f"ranks/{phase}_mean"] <= row[f"ranks/{phase}_max"]
        assert 0 < row["ranks/sampling_max"] <= row["time/rollout"] + 0.01
        assert 0 < row["ranks/update_max"] <= row["time/update"] + 0.01
        assert row["ranks/slowest"] in (0, 1) and 0 <= row["ranks/waiting"] < 1
        most = sum(row[f"ranks/{p}_max"] for p in ("sampling", "reward_wait", "update"))
        mean = sum(row[f"ranks/{p}_mean"] for p in ("sampling", "reward_wait", "update"))
        assert abs(row["ranks/waiting"] - (1 - mean / most)) < 1e-9
        assert 0 < row["scoring/seconds/geneval"] <= row["scoring/longest/geneval"]
        assert row["scoring/unavailable/geneval"] == 0
    # the checkpoint of step 2 is in the row of step 3; the first row has none before it
    assert ["time/checkpoint" in r for r in rows] == [False, False, True, False, True]
    alone = run.parent / "alone"
    contraflow("train", "configs/shapes.yaml", "--run", alone, *TINY, "--set", "train.max_steps=1")
    assert not [k for k in read_steps(alone)[0] if k.startswith("ranks/")]


def test_restarts_and_deadlines_in_rows(tmp_path):
    """A judge that dies at its first batch is started again; its restart, and what had no score, are in the row."""
    judge = tmp_path / "judge.py"
    judge.write_text("import os, sys\n" f"if not os.path.exists({str(tmp_path / 'died')!r}): open({str(tmp_path / 'died')!r}, 'w'); sys.stdin.buffer.read(4); sys.exit(1)\n"
                     f"exec(open({str(ROOT / 'examples/judge_exec.py')!r}).read())\n")  # fmt: skip
    contraflow("train", "configs/shapes.yaml", "--run", tmp_path / "run", *TINY, "--set", "train.max_steps=2", "--set", "rewards.mine.type=exec", "--set", f"rewards.mine.command=[{sys.executable},{judge}]",
               "--set", "rewards.mine.deadline=100")  # fmt: skip
    rows = read_steps(tmp_path / "run")
    assert [r["scoring/restarts/mine"] for r in rows] == [1, 1]
    assert [r["scoring/given_up/mine"] for r in rows] == [0, 0]
    assert rows[0]["scoring/longest/mine"] > 0.2  # the pause before the second try
    assert "scoring/restarts/geneval" not in rows[0]


# ---- contraflow top ----


def test_top_plain(run):
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    done = contraflow("top", run)
    lines = done.stdout.splitlines()
    assert lines[0] == "short  finished" and not done.stderr
    row = read_steps(run)[-1]
    assert lines[1].startswith("step 5/5") and "epoch 5, 75 images" in lines[1]
    told = {l[:12].strip(): l[12:].split() for l in lines}
    assert float(told["reward"][0]) == pytest.approx(row["reward/mean"], rel=1e-3)
    assert float(told["gradient"][0]) == pytest.approx(row["grad_norm"], rel=1e-3)
    evals = [r["eval/strict"] for r in read_lines(run / "metrics.jsonl") if "eval/strict" in r]
    assert float(told["held-out"][0]) == pytest.approx(evals[-1], rel=1e-3)
    assert {"sampling", "reward wait", "update", "all-reduce", "ranks", "rewards", "health", "memory"} <= set(told)
    assert all(l == l.rstrip() and "\033" not in l for l in lines)
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before, "somebody who looks changes nothing"


def test_top_in_ascii(run):
    done = subprocess.run([build() / "contraflow", "top", run], env={**ENV, "LC_ALL": "C", "COLUMNS": "60"}, capture_output=True, check=True)
    assert done.stdout.isascii() and b"#" in done.stdout


def test_top_of_no_run(tmp_path):
    assert "holds no run" in fails("top", tmp_path)
    assert "there is no" in fails("top", tmp_path / "absent")
    assert "name a run's directory" in fails("top")
    assert "--every" in fails("top", tmp_path, "--every", "-1")


def test_top_of_strange_files(run, tmp_path):
    """A last line that is being written, nulls, keys that are missing and bytes that are no text."""
    mine = tmp_path / "run"
    mine.mkdir()
    shutil.copy(run / "config.yaml", mine)
    assert "no epoch yet" in contraflow("top", mine).stdout
    (mine / "metrics.jsonl").write_text('{"step": 1, "epoch": 1, "reward/mean": null}\n{"step": 2, "epoch": 2, "rew')
    out = contraflow("top", mine).stdout
    assert "step 1/5" in out and "cannot be read" not in out
    (mine / "metrics.jsonl").write_bytes(b'{"step": 1, "epoch": 1}\n\x00\xff\x00\n{"step": 2}\n{"step": 3, "epoch": 2, "loss/policy": 1e308}\n')
    (mine / "log.txt").write_bytes(b"2026-01-01T00:00:00 warning: \x1b[31m\xff bad\n" * 9)
    out = contraflow("top", mine).stdout
    assert "step 3/5" in out and "1 line of metrics.jsonl cannot be read" in out and "\x1b" not in out
    (mine / "metrics.jsonl").unlink()
    (mine / "metrics.jsonl").mkdir()
    assert "metrics.jsonl: Is a directory" in fails("top", mine)


def start_long(folder, *more):
    """A run that goes on until it is ended, once its first row is there."""
    p = subprocess.Popen([build() / "contraflow", "train", "configs/shapes.yaml", "--run", folder, *TINY, "--set", "train.max_steps=100000", "--set", "checkpoint.every=0", *more],
                         cwd=ROOT, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    end = time.time() + 120
    while not (folder / "metrics.jsonl").exists() or not read_or_none(folder):
        assert p.poll() is None and time.time() < end, p.communicate()
        time.sleep(0.1)
    return p


def read_or_none(folder):
    return (folder / "metrics.jsonl").read_text().count("\n")


def test_top_follows_a_run(tmp_path):
    """It goes on while the run does, and ends with it; a run that was killed is called dead."""
    p = start_long(tmp_path / "run")
    out = contraflow("top", tmp_path / "run", "--once").stdout
    assert " running " in out.splitlines()[0] and f"pid {p.pid} on" in out and " left" in out
    top = subprocess.Popen([build() / "contraflow", "top", tmp_path / "run", "--every", "0.3"], env=ENV, stdout=subprocess.PIPE, text=True)
    out = ""
    while len(set(re.findall(r"^step (\d+)/", out, re.M))) < 3:
        line = top.stdout.readline()
        assert line and p.poll() is None, out
        out += line
    p.kill()
    p.communicate()
    out += top.communicate(timeout=60)[0]
    steps = [int(s) for s in re.findall(r"^step (\d+)/", out, re.M)]
    assert steps == sorted(steps)
    last = out.rstrip().split("\n\n20")[-1]
    assert f"dead: pid {p.pid} on" in last and top.returncode == 0


class Screen:
    """contraflow top on a terminal of its own."""

    def __init__(self, run, columns, lines, *args, env=ENV):
        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.master, self.slave = master, slave
        self.process = subprocess.Popen([build() / "contraflow", "top", run, *args], stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))  # fmt: skip
        self.read_until(lambda: any(l.strip() for l in self.screen.display))

    def read(self, seconds):
        if select.select([self.master], [], [], seconds)[0]:
            data = os.read(self.master, 65536)
            self.raw += data
            self.stream.feed(data)

    def read_until(self, what, seconds=30):
        end = time.time() + seconds
        while not what():
            assert time.time() < end, "\n".join(self.screen.display)
            self.read(0.2)
        self.read(0.3)

    def resize(self, columns, lines):
        self.screen.resize(lines, columns)
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def end(self):
        self.process.wait(30)
        self.read(0.2)
        assert termios.tcgetattr(self.slave) == self.before, "the terminal is as it was"
        assert self.raw.rstrip().endswith(b"\033[?25h\033[?1049l"), self.raw[-200:]
        os.close(self.master)
        os.close(self.slave)
        return self.process.returncode


@pytest.mark.parametrize("columns,lines", [(80, 24), (200, 50), (40, 12), (10, 3)])
def test_top_fits_the_terminal(run, columns, lines):
    s = Screen(run, columns, lines)
    rows = s.screen.display
    assert rows[0].startswith("short  fin")
    assert rows[1].startswith("step 5/5")
    assert not termios.tcgetattr(s.slave)[3] & termios.ECHO
    if columns == 200:
        assert any(r.startswith("memory") for r in rows)
    os.write(s.master, b"xq")
    assert s.end() == 0


def test_top_is_resized_and_interrupted(run):
    s = Screen(run, 80, 24, "--every", "60")
    s.resize(50, 10)
    s.read_until(lambda: any(l.startswith("reward") for l in s.screen.display))
    assert all(len(l.rstrip()) <= 50 for l in s.screen.display)
    os.write(s.master, b"\x03")  # Ctrl-C
    assert s.end() == 0
    for number in (signal.SIGTERM, signal.SIGHUP):
        s = Screen(run, 80, 24)
        s.process.send_signal(number)
        assert s.end() == 0


def test_top_without_colour(run):
    plain, painted = Screen(run, 80, 24, env={**ENV, "NO_COLOR": "1"}), Screen(run, 80, 24)
    for s in (plain, painted):
        os.write(s.master, b"q")
        s.end()
    assert not re.search(rb"\033\[[0-9;]+m", plain.raw) and re.search(rb"\033\[[0-9;]+m", painted.raw)


# ---- Numbers for Prometheus ----


def families(text):
    return {f.name: f for f in text_string_to_metric_families(text)}


def test_metrics_port(tmp_path):
    p = start_long(tmp_path / "run", "--metrics-port", "0", "--set", "run.name=a\"b")
    try:
        url = re.fullmatch(r"metrics at (http://127\.0\.0\.1:\d+/metrics)\n", p.stdout.readline())[1]
        with urllib.request.urlopen(url) as r:
            assert r.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            text = r.read().decode()
        got = families(text)
        assert got["contraflow_info"].samples[0].labels["run"] == 'a"b'
        assert got["contraflow_time_rollout_seconds"].type == "gauge" and got["contraflow_time_rollout_seconds"].documentation.startswith("Seconds that the epoch's images took")
        step, row = int(got["contraflow_step"].samples[0].value), None
        row = next(r for r in read_lines(tmp_path / "run/metrics.jsonl") if r["step"] == step)
        values = {s.name: s.value for f in got.values() for s in f.samples if not s.labels}
        assert values["contraflow_reward_mean"] == row["reward/mean"] and values["contraflow_loss_policy"] == row["loss/policy"]
        assert values["contraflow_memory_peak_bytes"] == row["memory/peak"] * 2**30
        assert got["contraflow_reward"].samples[0].labels == {"reward": "geneval"}
        numbers = [k for k, v in row.items() if isinstance(v, (int, float))]
        assert sum(len(f.samples) for f in got.values()) == len(numbers) + 2  # contraflow_info, the time
        assert all(re.fullmatch(r"contraflow_[a-z0-9_]+", n) and not n.endswith("_total") for n in got)
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(url.replace("/metrics", "/other"))
        port = int(re.search(r":(\d+)/", url)[1])
        why = fails("train", "configs/shapes.yaml", "--run", tmp_path / "second", *TINY, "--metrics-port", port)
        assert "log.metrics_port: cannot listen on 127.0.0.1" in why and "Address already in use" in why
        assert not (tmp_path / "second").exists()
        # connections that say nothing keep nobody from asking, or the run from ending
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(10)]
        assert urllib.request.urlopen(url).status == 200
    finally:
        p.send_signal(signal.SIGTERM)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 75, err
    for s in idle:
        s.close()
    assert "must be in [0, 65535]" in fails("train", "configs/shapes.yaml", "--metrics-port", "70000")


# ---- A program that is told ----

KEEP = "import sys; open(sys.argv[1], 'a').writelines(sys.stdin)"


def test_exec_and_port_change_nothing(tmp_path):
    """The same bits with and without; every row is told, images too, and a resumed run goes on."""
    got = tmp_path / "got"
    prompts = tmp_path / "test.jsonl"
    prompts.write_text("".join(l + "\n" for l in (ROOT / "data/shapes/validation.jsonl").read_text().splitlines()[:3]))
    tell = ["--set", f"log.exec=[{sys.executable},-c,\"{KEEP}\",{got}]", "--metrics-port", "0"]
    base = ["configs/shapes.yaml", *TINY, "--set", f"prompts.test={prompts}", "--set", "log.grid_every=1", "--set", "run.name=told"]
    contraflow("train", *base, "--set", "train.max_steps=3", "--run", tmp_path / "plain")
    contraflow("train", *base, "--set", "train.max_steps=2", "--run", tmp_path / "told", *tell)
    first = read_lines(got)
    contraflow("train", *base, "--set", "train.max_steps=3", "--run", tmp_path / "told", "--resume", *tell)
    second = read_lines(got)[len(first) :]
    kept = [tmp_path / r / "checkpoints/step-00000003" for r in ("plain", "told")]
    assert (kept[0] / "lora/adapter_model.safetensors").read_bytes() == (kept[1] / "lora/adapter_model.safetensors").read_bytes()
    states = [read_zst(k / "state.safetensors.zst") for k in kept]  # theta, old, ema, moments
    assert states[0].keys() == states[1].keys() and all(states[0][n].tobytes() == states[1][n].tobytes() for n in states[0])
    for lines, resumed, step in ((first, False, 0), (second, True, 2)):
        head, end = lines[0], lines[-1]
        assert head["type"] == "run" and head["name"] == "told" and head["dir"] == str((tmp_path / "told").resolve())
        assert head["resumed"] is resumed and head["step"] == step and head["config"]["prompts.groups"] == "3"
        assert end == {"type": "end", "how": "finished", "why": ""}
    told = [l["row"] for l in first + second if l["type"] == "metrics"]
    rows = read_lines(tmp_path / "told/metrics.jsonl")
    assert [r for r in rows if r in told] == rows
    images = [l for l in first + second if l["type"] == "image"]
    assert {i["step"] for i in images} == {0, 1, 2, 3}
    for i in images:
        assert pathlib.Path(i["path"]).read_bytes()[:4] == b"\x89PNG" and json.loads(pathlib.Path(i["words"]).read_text())["images"]


@pytest.mark.parametrize("script,words", [
    ("exit 3", "has ended (exit code 3)"),
    ("exec 0<&-; sleep 100", "has closed its standard input"),
    ("sleep 100", "has not ended within 1 s (log.exec_wait): it is killed"),
    ("cat >/dev/null; exit 4", "has ended with exit code 4"),
])  # fmt: skip
def test_exec_that_fails_ends_no_run(tmp_path, script, words):
    start = time.time()
    done = contraflow("train", "configs/shapes.yaml", "--run", tmp_path / "run", *TINY, "--set", "train.max_steps=3", "--set", f"log.exec=[sh,-c,\"{script}\"]", "--set", "log.exec_wait=1")
    assert time.time() - start < 60
    said = [l for l in done.stderr.splitlines() if "log.exec" in l]
    assert len(said) == 1 and words in said[0], done.stderr
    assert len(read_steps(tmp_path / "run")) == 3


def test_exec_is_found_before_anything_is_loaded(tmp_path):
    why = fails("train", "configs/shapes.yaml", "--run", tmp_path / "run", *TINY, "--set", "log.exec=[no-such-program]", "--set", "model.path=/nowhere")
    assert "log.exec: cannot start 'no-such-program'" in why and not (tmp_path / "run").exists()
    stages = tmp_path / "stages.yaml"
    stages.write_text("extends: %s\nstages: {a: {log: {exec: [cat]}}}\n" % (ROOT / "configs/shapes.yaml"))
    assert "stages.a.log.exec: a stage cannot have this key" in fails("train", stages)


def test_mlflow(tmp_path):
    """The example against MLflow's local files, which a resumed run goes on in."""
    mlflow = pytest.importorskip("mlflow")
    env = {**os.environ, "MLFLOW_TRACKING_URI": (tmp_path / "store").as_uri(), "GIT_PYTHON_REFRESH": "quiet", "MLFLOW_ALLOW_FILE_STORE": "true"}
    env.pop("LD_LIBRARY_PATH", None)
    prompts = tmp_path / "test.jsonl"
    prompts.write_text("".join(l + "\n" for l in (ROOT / "data/shapes/validation.jsonl").read_text().splitlines()[:3]))
    args = ["configs/shapes.yaml", "--run", tmp_path / "run", *TINY, "--set", f"prompts.test={prompts}", "--set", f"log.exec=[{sys.executable},{ROOT / 'examples/trackers/mlflow_tracker.py'}]",
            "--set", "log.exec_wait=300", "--set", "log.exec_timeout=300"]  # fmt: skip
    for steps, more in ((2, []), (3, ["--resume"])):
        done = subprocess.run([build() / "contraflow", "train", *map(str, args), "--set", f"train.max_steps={steps}", *more], cwd=ROOT, env=env, capture_output=True, text=True)
        assert done.returncode == 0 and "log.exec" not in done.stderr, done.stderr
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    client = mlflow.MlflowClient(env["MLFLOW_TRACKING_URI"])
    runs = client.search_runs([client.get_experiment_by_name("contraflow").experiment_id])
    assert len(runs) == 1
    one = runs[0]
    assert one.info.status == "FINISHED" and one.data.params["prompts.groups"] == "3"
    history = {m.step: m.value for m in client.get_metric_history(one.info.run_id, "reward.mean")}
    assert history == {r["step"]: r["reward/mean"] for r in read_steps(tmp_path / "run")}
    assert {a.path for a in client.list_artifacts(one.info.run_id, "samples")} == {f"samples/{p.name}" for p in (tmp_path / "run/samples").glob("*.png")}
