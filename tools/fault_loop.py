#!/usr/bin/env python3
"""Every call that changes a file fails in turn, and every allocation: a whole short run survives each, or ends as it should.

    .venv/bin/python tools/fault_loop.py [--program build/contraflow] [--ranks 1,2] [--calls open,write,...] [--every N] [--resume-from N]

A run of two stages, three steps, a checkpoint after each (one is kept), archives, grids and TensorBoard.  For n = 1, 2, ... the n-th call of a
kind fails (CONTRAFLOW_FAULT, base/io.h) until a run has fewer.  Right is: no death of a signal; an error names what the system said and the
file; nothing half-written under a final name and no temporary left behind; --resume=auto then ends at the bits of the undisturbed run.
"kill" is SIGKILL in place of the call.  The last line says how many faults were injected and how many ended right.
"""

import argparse
import errno
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = """\
extends: {root}/configs/shapes.yaml
run: {{threads: 1}}
prompts: {{groups: 2, group_size: 4, test: {folder}/test.jsonl, by_tag: false}}
rollout: {{steps: 3}}
train: {{timestep_fraction: 0.4, micro_batch: 8}}
eval: {{every: 1, images_per_prompt: 1, sampler: {{steps: 3}}}}
checkpoint: {{every: 1, keep: 1}}
log: {{rollouts_every: 1, grid_every: 1}}
stages: {{first: {{train: {{max_steps: 2}}}}, second: {{train: {{max_steps: 1}}}}}}
"""
ERRORS = {"open": ["EIO", "EACCES"], "write": ["ENOSPC", "EIO", "EFBIG", "EINTR", "short", "kill"], "fsync": ["EIO", "ENOSPC", "kill"],
          "rename": ["EIO", "EACCES", "kill"], "unlink": ["EIO", "EACCES", "kill"], "mkdir": ["ENOSPC", "EROFS", "kill"], "alloc": ["ENOMEM"]}  # fmt: skip
HARMLESS = ("EINTR", "short")
LAST = "checkpoints/step-00000003"


def prepare(folder):
    lines = (ROOT / "data/shapes/test.jsonl").read_text().splitlines()
    (folder / "test.jsonl").write_text("\n".join(lines[:3]) + "\n")
    (folder / "short.yaml").write_text(CONFIG.format(root=ROOT, folder=folder))


def launch(program, folder, run, ranks, fault=None, resume=False):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
           "OMPI_MCA_mpi_yield_when_idle": "1", "CUDA_VISIBLE_DEVICES": "", "XDG_CACHE_HOME": str(folder / "cache")}  # fmt: skip
    env.pop("LD_LIBRARY_PATH", None)
    env.pop("CONTRAFLOW_FAULT", None)
    if fault:
        env["CONTRAFLOW_FAULT"] = fault
    command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)] if ranks > 1 else []
    command += [program, "train", folder / "short.yaml", "--run", run, "--quiet", *(["--resume=auto"] if resume else [])]
    return subprocess.run(list(map(str, command)), cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


def bits(run):
    """What a run ends with, which must not depend on what befell it."""
    import zstandard

    lora = (run / LAST / "lora/adapter_model.safetensors").read_bytes()
    return lora, zstandard.ZstdDecompressor().decompressobj().decompress((run / LAST / "state.safetensors.zst").read_bytes())


def whole(run, killed):
    """What is wrong with the files of a run that ended in the middle, or None."""
    import zstandard

    for path in run.rglob("*"):
        if not path.is_file():
            continue
        inside = path.relative_to(run).parts
        if ".tmp-" in path.name:
            if not killed:
                return f"{path} was left behind"
            continue
        if any("." in part for part in inside[:-1] if part.startswith("step-")):
            continue  # a checkpoint that is being made, or out of the way
        try:
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".zst":
                zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
            elif path.suffix == ".png" and path.read_bytes()[-8:-4] != b"IEND":
                return f"{path} is cut short"
        except (ValueError, zstandard.ZstdError) as error:
            return f"{path}: {error}"
    for step in (run / "checkpoints").glob("step-*") if (run / "checkpoints").is_dir() else ():
        if "." not in step.name:
            for name in ("state.json", "state.safetensors.zst", "lora/adapter_config.json", "lora/adapter_model.safetensors"):
                if not (step / name).exists():
                    return f"{step} has no {name}"
    return None


def text_of(what):
    return "out of memory" if what == "ENOMEM" else os.strerror(getattr(errno, what))


def judge(program, folder, want, ranks, call, n, what, struck=0):
    """None where the fault did not come to rank `struck`, else a list of complaints."""
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    done = launch(program, folder, run, ranks, f"{call}:{n}:{what}:{struck}")
    came = re.search(r"^fault: \w+ \d+: \w+ \((.*)\)$", done.stderr, re.M)
    if not came:
        return None if done.returncode == 0 else [f"exit {done.returncode} without a fault: {done.stderr[-300:]}"]
    bad, said = [], [l for l in done.stderr.splitlines() if l.startswith("contraflow: ")]
    if what == "kill":
        if done.returncode == 0:
            bad.append("killed, and exit 0")
    elif done.returncode >= 128 or done.returncode < 0:
        bad.append(f"died of a signal: {done.returncode}")
    elif what in HARMLESS and done.returncode:
        bad.append(f"exit {done.returncode}, though {what} is no error")
    elif done.returncode:
        name = pathlib.Path(re.sub(r"\.tmp-\d+$", "", came[1])).name
        if not said:
            bad.append("no message")
        elif text_of(what) not in said[0] or (call != "alloc" and name not in said[0]):
            bad.append(f"the message does not say '{text_of(what)}' and '{name}': {said[0]}")
    if run.exists():
        half = whole(run, what == "kill")
        if half:
            bad.append(half)
    if done.returncode == 0:
        if bits(run) != want:
            bad.append("exit 0, but other bits")
    else:
        again = launch(program, folder, run, ranks, resume=True)
        if again.returncode:
            bad.append(f"--resume=auto: exit {again.returncode}: {again.stderr[-300:]}")
        elif bits(run) != want:
            bad.append("--resume=auto ends at other bits")
    return bad


def reference(program, folder, ranks):
    run = folder / "reference"
    shutil.rmtree(run, ignore_errors=True)
    done = launch(program, folder, run, ranks)
    assert done.returncode == 0, done.stderr
    return bits(run)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--program", default=ROOT / "build/contraflow", type=lambda s: pathlib.Path(s).resolve())
    p.add_argument("--ranks", default="1,2")
    p.add_argument("--calls", default=",".join(c for c in ERRORS if c != "alloc"))
    p.add_argument("--every", type=int, default=1, help="only every so many-th call (alloc: that times 97)")
    p.add_argument("--rotate", action="store_true", help="one error a call, in turn, in place of all")
    p.add_argument("--from", dest="first", type=int, default=1, help="the first call's number")
    a = p.parse_args()
    injected = right = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        prepare(folder)
        for ranks in map(int, a.ranks.split(",")):
            want = reference(a.program, folder, ranks)
            for call, struck in [(c, r) for c in a.calls.split(",") for r in range(ranks)]:
                step, n, over = a.every * (97 if call == "alloc" else 1), a.first, False
                while not over:
                    whats = [ERRORS[call][(n // step) % len(ERRORS[call])]] if a.rotate else ERRORS[call]
                    for what in whats:
                        bad = judge(a.program, folder, want, ranks, call, n, what, struck)
                        if bad is None:
                            over = True
                            break
                        injected += 1
                        right += not bad
                        for b in bad:
                            print(f"rank {struck} of {ranks}, {call} {n} {what}: {b}", flush=True)
                    n += step
                print(f"rank {struck} of {ranks}, {call}: a run has at most {n - 1} calls; so far {injected} faults, {right} right", flush=True)
    print(f"{injected} faults injected, {right} ended right")
    return injected != right


if __name__ == "__main__":
    sys.exit(main())
