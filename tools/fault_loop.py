#!/usr/bin/env python3
"""Every call that changes a file fails in turn, and every allocation: a whole short run survives each, or ends as it should.

    .venv/bin/python tools/fault_loop.py [--program build/contraflow] [--ranks 1,2] [--calls open,write,...] [--jobs N] [--journal FILE]

The run has two stages, three steps, a checkpoint after each (one is kept), evaluations, archives, grids, TensorBoard and a cache of its own.
For n = 1, 2, ... the n-th call of a kind fails (CONTRAFLOW_FAULT, base/io.h) until a run has fewer: once for each class of its errors,
which take turns within a class.  "any" is SIGKILL in place of the n-th call of whatever kind.  Right is: no death of another signal; an
error names what the system said and the file; nothing half-written under a final name and no temporary left behind; --resume=auto then
ends with the files of the undisturbed run: weights, state, metrics, results, images, archives, what TensorBoard shows.
The last line says how many faults were injected and how many ended right.  With --journal an interrupted loop goes on where it was,
and repeats what was wrong.
"""

import argparse
import contextlib
import errno
import functools
import hashlib
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

import kill_test

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = """\
extends: {folder}/shapes.yaml
run: {{threads: 1}}
lora: {{rank: 4, alpha: 8, targets: [attn.to_q, attn.to_out.0]}}
prompts: {{train: {folder}/train.jsonl, groups: 1, group_size: 2, test: {folder}/test.jsonl, by_tag: false}}
rollout: {{steps: 2}}
train: {{timestep_fraction: 0.5, micro_batch: 2}}
eval: {{every: 1, images_per_prompt: 1, sampler: {{steps: 1, solver: euler}}}}
checkpoint: {{every: 1, keep: 1}}
log: {{rollouts_every: 1, grid_every: 1}}
stages: {{first: {{train: {{max_steps: 2}}}}, second: {{train: {{max_steps: 1}}}}}}
"""
STEPS = 3
TIMEOUT = 200  # seconds; a run has a few tenths of one
CLASSES = {
    "open": [("EIO", "EACCES"), ("EINTR",)],
    "write": [("ENOSPC", "EIO", "EFBIG"), ("EINTR", "short")],
    "fsync": [("EIO", "ENOSPC"), ("EINTR",)],
    "rename": [("EIO", "EACCES"), ("EINVAL",)],  # EINVAL: a file system that cannot exchange two names
    "unlink": [("EIO", "EACCES")],
    "mkdir": [("ENOSPC", "EROFS")],
    "any": [("kill",)],
    "alloc": [("ENOMEM",)],
}
HARMLESS = ("EINTR", "short")


def prepare(folder):
    lines = (ROOT / "data/shapes/test.jsonl").read_text().splitlines()
    (folder / "test.jsonl").write_text("\n".join(lines[:2]) + "\n")
    lines = (ROOT / "data/shapes/train.jsonl").read_text().splitlines()
    (folder / "train.jsonl").write_text("\n".join(lines[:4]) + "\n")
    shutil.copy(ROOT / "configs/shapes.yaml", folder)  # as it is now: a loop takes long
    (folder / "short.yaml").write_text(CONFIG.format(folder=folder))


def cache_of(run):
    return run.with_name(run.name + "-cache")


def remove(run):
    shutil.rmtree(run, ignore_errors=True)
    shutil.rmtree(cache_of(run), ignore_errors=True)


def launch(program, folder, run, ranks, fault=None, again=False):
    """Its exit code, negative for a signal, None for one that came to no end; and what it said."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
           "OMPI_MCA_mpi_yield_when_idle": "1", "CUDA_VISIBLE_DEVICES": "", "XDG_CACHE_HOME": str(cache_of(run))}  # fmt: skip
    env.pop("LD_LIBRARY_PATH", None)
    env.pop("CONTRAFLOW_FAULT", None)
    if fault:
        env["CONTRAFLOW_FAULT"] = fault
    command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)] if ranks > 1 else []
    command += [program, "train", folder / "short.yaml", "--run", run, "--quiet", *(["--resume=auto"] if again else [])]
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)  # fmt: skip
    try:
        _, said = process.communicate(timeout=TIMEOUT)
        return process.returncode, said
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[1]


def unpacked(path):
    import zstandard

    return zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())


def outcome(run):
    """What a run ends with, which must not depend on what befell it, by what it is called."""
    archives = {p.name: unpacked(p) for p in (run / "rollouts").iterdir()}
    state = unpacked(run / f"checkpoints/step-{STEPS:08d}/state.safetensors.zst")
    return {**kill_test.outcome(run, STEPS), "state's tensors": state, "archives": archives}


def differences(want, run):
    try:
        got = outcome(run)
    except Exception as error:  # whatever is wrong with its files is a complaint, not the loop's end
        return [f"the run has ended, but {type(error).__name__}: {error}"]
    return [f"{what} differs: {kill_test.difference(want[what], got[what])}" for what in want if want[what] != got[what]]


# ---- What is there after an end in the middle --------------------------------------------------


def check_file(path, killed):
    """Raises ValueError where it is not whole."""
    if path.suffix == ".json":
        json.loads(path.read_text())
    elif path.name == "metrics.jsonl":
        lines = path.read_text().split("\n")
        for line in lines[:-1]:
            json.loads(line)
        if lines[-1] and not killed:
            raise ValueError("ends in half a line")
    elif path.suffix == ".zst":
        check_tensors(unpacked(path))
    elif path.suffix == ".safetensors":
        check_tensors(path.read_bytes())
    elif path.suffix == ".png" and path.read_bytes()[-8:-4] != b"IEND":
        raise ValueError("is cut short")


def check_tensors(data):
    head = int.from_bytes(data[:8], "little")
    ends = [v["data_offsets"][1] for k, v in json.loads(data[8 : 8 + head]).items() if k != "__metadata__"]
    if len(data) != 8 + head + max(ends):
        raise ValueError("is not as long as its header says")


def whole(run, killed, ended=False, said=""):
    """What is wrong with the files of a run that ended in the middle, or at its end; `said` may have told of what could not be removed."""
    bad = []
    for path in [*run.rglob("*"), *cache_of(run).rglob("*")]:
        inside = path.relative_to(run.parent).parts
        if ".tmp" in path.name or path.name.endswith(".old"):
            # what a killed process leaves in the cache cannot be told from what another one is writing
            expected = killed and not (ended and run.name in inside)
            if not expected and str(path.with_name(name_of(path))) not in said:
                bad.append(f"{path} was left behind")
        elif path.is_file() and not any(p.startswith("step-") and "." in p for p in inside[:-1]):
            try:
                check_file(path, killed)
            except Exception as error:  # of any library that reads it
                bad.append(f"{path}: {type(error).__name__}: {error}")
    for step in (run / "checkpoints").glob("step-*"):
        for name in ("state.json", "state.safetensors.zst", "lora/adapter_config.json", "lora/adapter_model.safetensors"):
            if "." not in step.name and not (step / name).exists():
                bad.append(f"{step} has no {name}")
    return bad


def content_of(path):
    """Without seconds, and without what nobody reads again; of events see below."""
    if path.is_dir() or path.name in ("log.txt", "lock") or "tfevents" in path.name:
        return ""
    try:
        if path.suffix == ".json":
            return kill_test.lasting(json.loads(path.read_text()))
        if path.name == "metrics.jsonl":
            return [kill_test.lasting(json.loads(line)) for line in path.read_text().splitlines()]
    except ValueError:
        pass  # half of one: its bytes
    return hashlib.sha256(path.read_bytes()).hexdigest()


def left(run):
    """A hash of what a run that ended in the middle has left."""
    found = {}
    for path in [*run.rglob("*"), *cache_of(run).rglob("*")]:
        name = re.sub(r"(\.tmp-|\.tfevents).*", r"\1", str(path.relative_to(run.parent)))  # numbers of processes, times
        found[name.replace(run.name, "", 1)] = content_of(path)
    if (run / "tensorboard").is_dir():
        found["events"] = kill_test.events(run / "tensorboard")
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


# ---- A fault -----------------------------------------------------------------------------------


def text_of(what):
    return "out of memory" if what == "ENOMEM" else os.strerror(getattr(errno, what))


def name_of(path):
    """A message names the file that is made, not its temporary."""
    return re.sub(r"\.(tmp(-\d+)?|old)$", "", pathlib.Path(path).name)


def check_end(code, said, call, what, path):
    """Whether the process ended as it should, and said why."""
    if code is None:
        return ["it came to no end"]
    if what == "kill":
        return [] if code in (-signal.SIGKILL, 128 + signal.SIGKILL) else [f"killed, and exit {code}"]
    if code < 0 or code >= 128:
        return [f"died of a signal: {code}: {said[-300:]}"]
    if what in HARMLESS:
        return [f"exit {code}, though {what} is no error: {said[-300:]}"] if code else []
    lines = [line for line in said.splitlines() if line.startswith("contraflow: " if code else "warning: ")]
    if not lines:
        # a cache makes things faster, and is made again
        return [] if code == 0 and re.search("-cache(/|$)", path) else [f"exit {code}, and not a word of {path}"]
    if not (text_of(what) in lines[0] and (call == "alloc" or name_of(path) in lines[0])):
        return [f"the message does not say '{text_of(what)}' and '{name_of(path)}': {lines[0]}"]
    return []


def resume(program, folder, want, ranks, run):
    code, said = launch(program, folder, run, ranks, again=True)
    if code:
        return [f"--resume=auto: exit {code}: {said[-300:]}"]
    return whole(run, True, ended=True) + differences(want, run)


def judge(program, folder, want, ranks, call, n, what, struck=0, name="run", resumed=None):
    """None where the fault did not come to rank `struck`, else a list of complaints.  `resumed` remembers how runs went on from what was
    left of them: many faults leave the same."""
    resumed = {} if resumed is None else resumed
    run = folder / name
    remove(run)
    code, said = launch(program, folder, run, ranks, f"{call}:{n}:{what}:{struck}")
    came = re.search(r"^fault: \w+ \d+: \w+ \((.*)\)$", said, re.M)
    if not came:
        return None if code == 0 else [f"exit {code} without a fault: {said[-300:]}"]
    bad = check_end(code, said, call, what, came[1]) + whole(run, what == "kill" or call == "alloc", code == 0, said)
    if code == 0:
        return bad + differences(want, run)
    state = left(run)
    if state not in resumed:
        resumed[state] = resume(program, folder, want, ranks, run)
    return bad + resumed[state]


def reference(program, folder, ranks):
    run = folder / f"reference-{ranks}"
    remove(run)
    code, said = launch(program, folder, run, ranks)
    assert code == 0, said
    return outcome(run)


# ---- All of them -------------------------------------------------------------------------------


class Journal:
    """What was tried: a line of JSON each; "bad" is null where a run has fewer calls."""

    def __init__(self, path):
        self.tried, self.lock = {}, threading.Lock()
        self.file = open(path, "a+") if path else None  # noqa: SIM115: open as long as the program
        if self.file:
            self.file.seek(0)
            for line in self.file:
                entry = json.loads(line)
                self.tried[self.key(entry)] = entry

    @staticmethod
    def key(entry):
        return tuple(entry[k] for k in ("ranks", "rank", "call", "n", "what"))

    def known(self, key):
        """What is right already, or was beyond the run's end."""
        entry = self.tried.get(key)
        return entry if entry and not entry["bad"] else None

    def add(self, key, bad):
        entry = dict(zip(("ranks", "rank", "call", "n", "what"), key)) | {"bad": bad}
        with self.lock:
            self.tried[key] = entry
            if self.file:
                print(json.dumps(entry), file=self.file, flush=True)
            for complaint in bad or ():
                print(f"rank {key[1]} of {key[0]}, {key[2]} {key[3]} {key[4]}: {complaint}", flush=True)
        return entry

    def count(self, *begin):
        faults = [e for k, e in self.tried.items() if k[: len(begin)] == begin and e["bad"] is not None]
        return len(faults), sum(not e["bad"] for e in faults)


def sweep(args, folder, want, resumed, journal, ranks, struck, call):
    """All calls of a kind that rank `struck` makes, by `jobs` threads."""
    numbers = itertools.count(args.first, args.every)
    lock, over = threading.Lock(), threading.Event()

    def work(slot):
        while not over.is_set():
            with lock:
                n = next(numbers)
            for errors in CLASSES[call]:
                for what in errors if args.full else [errors[(n // args.every) % len(errors)]]:
                    key = ranks, struck, call, n, what
                    entry = journal.known(key) or journal.add(
                        key, judge(args.program, folder, want(), ranks, call, n, what, struck, f"run-{slot}", resumed))  # fmt: skip
                    if entry["bad"] is None:
                        over.set()
                        return

    threads = [threading.Thread(target=work, args=(slot,)) for slot in range(args.jobs)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    faults, right = journal.count(ranks, struck, call)
    print(f"rank {struck} of {ranks}, {call}: {faults} faults, {right} ended right ({len(resumed)} states resumed so far)", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--program", default=ROOT / "build/contraflow", type=lambda s: pathlib.Path(s).resolve())
    p.add_argument("--ranks", default="1,2", help="numbers of ranks; 2:1 is rank 1 of 2 alone")
    p.add_argument("--calls", default=",".join(c for c in CLASSES if c != "alloc"))
    p.add_argument("--every", type=int, default=1, help="only every so many-th call")
    p.add_argument("--from", dest="first", type=int, default=1, help="the first call's number")
    p.add_argument("--full", action="store_true", help="all errors of a class for every call, not in turn")
    p.add_argument("--jobs", type=int, default=1, help="runs at once")
    p.add_argument("--journal", type=pathlib.Path, help="of what was tried; of one program, one --every and --from")
    args = p.parse_args()
    journal = Journal(args.journal)
    with contextlib.ExitStack() as stack:
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # thousands of fsyncs
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(dir=memory)))
        prepare(folder)
        for part in args.ranks.split(","):
            ranks, _, struck = part.partition(":")
            ranks = int(ranks)
            want, resumed = functools.cache(lambda ranks=ranks: reference(args.program, folder, ranks)), {}
            for call in args.calls.split(","):
                for rank in [int(struck)] if struck else range(ranks):
                    sweep(args, folder, want, resumed, journal, ranks, rank, call)
    faults, right = journal.count()
    print(f"{faults} faults injected, {right} ended right")
    return faults != right


if __name__ == "__main__":
    sys.exit(main())
