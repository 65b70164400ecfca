"""Sums over NCCL where there is no GPU: dist/reduce_nccl.c over a stand-in, tests/fakenccl, and what a fault of one rank does."""

import os
import pathlib
import re
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TESTS = ROOT / "build-cuda/tests"
TIMEOUT, GRACE = 2, 5  # s
WAITED = r"{op} over NCCL: rank {ranks} of 3 \(on \S+\) waited [2-6]\.\d s: rank 1 \(on \S+\) is missing"
STUCK = r"rank 1 \(on \S+\) is stuck in '{op} over NCCL': no sign of life for [2-6]\.\d s"
# it waits, as the others do, but for something else
ELSEWHERE = r"((barrier|end of the job): rank [02] of 3 .* waited [2-6]\.\d s: rank 1 \(on \S+\) waits in {op} over NCCL|{op} over NCCL: rank 1 of 3 .* waited [2-6]\.\d s: rank [02] .* waits in)"
FAILED = r"{op} over NCCL: rank 1 of 3 \(on \S+\) waited [01]\.\d s: unhandled system error: fakenccl: {op} {fails}"


def run(ranks, folder, servers=0, events="stream", **faults):
    """The job and how long it took. An abort would hang, in every run: it is no way to end a job."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("FAKENCCL_")}
    env |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}
    env |= {"LD_LIBRARY_PATH": str(TESTS / "fakenccl"), "FAKENCCL_DIR": str(folder), "FAKENCCL_ABORT_HANGS": "1"}
    env |= {f"FAKENCCL_{k}": v for k, v in faults.items()}
    command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks), TESTS / "test_reduce_nccl", str(TIMEOUT), str(servers), events]
    start = time.monotonic()
    job = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, err = job.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        job.terminate()  # and mpirun its ranks, which a kill would leave behind
        try:
            job.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            job.kill()
        pytest.fail(f"{faults}: the job does not end\n{job.communicate()}")
    return subprocess.CompletedProcess(command, job.returncode, out, err), time.monotonic() - start


@pytest.mark.parametrize("events", ["stream", "host"])
@pytest.mark.parametrize("ranks, servers", [(1, 0), (2, 0), (3, 0), (2, 1), (3, 1)])
@pytest.mark.parametrize("polls", [0, 1, 7])
def test_sums(tmp_path, ranks, servers, polls, events):
    """The program compares with float64, and the ranks with each other, bit by bit."""
    done, _ = run(ranks, tmp_path, servers, events, IN_PROGRESS=str(polls))
    assert done.returncode == 0, done.stderr
    assert f"ok: {ranks - servers} ranks have summed" in done.stdout
    assert list(tmp_path.iterdir()) == []


def ends(tmp_path, message, **faults):
    done, seconds = run(3, tmp_path, **faults)
    assert done.returncode != 0
    assert re.search(message, done.stderr), done.stderr
    assert seconds < TIMEOUT + GRACE


@pytest.mark.parametrize("op", ["init", "all-reduce", "finalize"])
@pytest.mark.parametrize("polls", ["", "+1", "+2"])
def test_error(tmp_path, op, polls):
    """From the call, or from a poll while it is under way."""
    ends(tmp_path, FAILED.format(op=op, fails="has failed" if polls else "fails"), ERROR=f"1:{op}{polls}", IN_PROGRESS="4")


def test_error_on_the_stream(tmp_path):
    """The second poll is behind the one with which the sum was queued: the rank waits for its event."""
    ends(tmp_path, FAILED.format(op="all-reduce", fails="has failed"), ERROR="1:all-reduce+2", NEVER="1")


def test_error_of_destroy(tmp_path):
    ends(tmp_path, FAILED.format(op="destroy", fails="fails"), ERROR="1:destroy")


@pytest.mark.parametrize("op", ["init", "all-reduce", "finalize", "destroy"])
def test_never_through(tmp_path, op):
    ends(tmp_path, ELSEWHERE.format(op=op), NEVER=f"1:{op}")


@pytest.mark.parametrize("op", ["init", "all-reduce", "finalize"])
@pytest.mark.parametrize("events", ["stream", "host"])
def test_others_wait(tmp_path, op, events):
    """Rank 1 stops: one of the others ends the job, and mpirun a process that is stopped."""
    ends(tmp_path, WAITED.format(op=op, ranks="[02]"), events=events, STOP=f"1:{op}")


def test_stopped_in_destroy(tmp_path):
    """The others are through with theirs, and wait for all to leave."""
    ends(tmp_path, r"end of the job: rank [02] of 3 \(on \S+\) waited [2-6]\.\d s: rank 1 \(on \S+\) is missing", STOP="1:destroy")


@pytest.mark.parametrize("op", ["init", "all-reduce", "finalize"])
@pytest.mark.parametrize("events", ["stream", "host"])
def test_hangs(tmp_path, op, events):
    """Rank 1 never comes out of NCCL: it says so itself."""
    ends(tmp_path, STUCK.format(op=op), events=events, HANGS=f"1:{op}")


@pytest.mark.parametrize("op", ["init", "all-reduce", "finalize", "destroy"])
def test_killed(tmp_path, op):
    """mpirun sees that first."""
    ends(tmp_path, "rank 1 .*exited on signal 9", KILL=f"1:{op}")


def test_nothing_that_libtorch_imports_is_absent():
    """Or a program with the stand-in ends with a symbol that is not there, some time."""
    libtorch = next((ROOT / ".venv").glob("lib/python3*/site-packages/torch/lib/libtorch_cuda.so"))

    def symbols(path, which):
        out = subprocess.run(["nm", "-D", which, path], capture_output=True, text=True, check=True).stdout
        return {name for name in re.findall(r" \w (\w+)", out) if name.startswith("nccl")}

    imported = symbols(libtorch, "--undefined-only")
    assert "ncclAllReduce" in imported
    assert imported <= symbols(TESTS / "fakenccl/libnccl.so.2", "--defined-only")
