"""A few of tools/fault_loop.py's faults, which has all: files that cannot be written, short writes, kills, memory; and where -o leads."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from command import BASE, ROOT, build, contraflow

sys.path.insert(0, str(ROOT / "tools"))
import fault_loop  # noqa: E402

SOME = [("write", 5, "ENOSPC"), ("write", 12, "short"), ("write", 46, "EFBIG"), ("write", 50, "EIO"), ("write", 63, "ENOSPC"), ("any", 200, "kill"),
        ("any", 440, "kill"), ("fsync", 6, "EIO"), ("rename", 7, "EACCES"), ("unlink", 2, "EIO"), ("open", 39, "EIO"), ("open", 60, "EINTR"),
        ("mkdir", 2, "ENOSPC"), ("alloc", 1500, "ENOMEM")]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    fault_loop.prepare(folder)
    return folder


@pytest.fixture(scope="module")
def want(folder):
    return fault_loop.reference(build() / "contraflow", folder, 1)


@pytest.mark.parametrize("call, n, what", SOME, ids=["-".join(map(str, s)) for s in SOME])
def test_fault(folder, want, call, n, what):
    assert fault_loop.judge(build() / "contraflow", folder, want, 1, call, n, what) == []


def test_another_rank(folder):
    """What befalls rank 1's share of an archive ends both, with its words."""
    program = build() / "contraflow"
    assert fault_loop.judge(program, folder, fault_loop.reference(program, folder, 2), 2, "write", 1, "ENOSPC", struck=1) == []


def test_the_hook_says_what_it_does_not_know():
    done = subprocess.run([build() / "contraflow", "--version"], env={**os.environ, "CONTRAFLOW_FAULT": "wrte:1:EIO"}, capture_output=True, text=True)
    assert done.returncode == 2 and "write CALL:N:WHAT" in done.stderr


def sample(out):
    contraflow("sample", "--model", BASE, "--prompt", "a photo of a red circle", "--steps", 2, "-o", out)


def test_output_that_is_no_file(tmp_path):
    """A link's target is replaced, the link stays; a pipe and a device are written to."""
    target, link, pipe = tmp_path / "target.png", tmp_path / "link.png", tmp_path / "pipe.png"
    link.symlink_to("target.png")
    sample(link)
    assert link.is_symlink() and target.read_bytes().startswith(b"\x89PNG")
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
    sample(pipe)
    assert reader.communicate()[0] == target.read_bytes() and pipe.is_fifo()
    sample("/dev/null")
    assert pathlib.Path("/dev/null").is_char_device()


def test_a_file_that_may_not_grow(tmp_path):
    """ulimit -f is an error that names the file, not a death."""
    script = f"ulimit -f 8; exec {build()}/contraflow train configs/shapes.yaml --run {tmp_path}/r --set prompts.groups=2 --set prompts.test= --set train.max_steps=1"
    env = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 1 and "File too large" in done.stderr and f"{tmp_path}/r/" in done.stderr, done.stderr
    assert not list(tmp_path.rglob("*.tmp-*")) and not (tmp_path / "r/checkpoints/latest").exists()
    assert all(json.loads(line) for line in (tmp_path / "r/metrics.jsonl").read_text().splitlines())
