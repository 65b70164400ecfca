#!/usr/bin/env python3
"""Kills training runs at random moments and resumes them: do they end at the bits of the undisturbed run?

    tools/kill_test.py [--runs 100] [--signals KILL,TERM,USR1,INT] [--ranks 1,2] [--seed 0]     (BUILD=build-test: another build folder)

Each trial trains the shapes world for a dozen steps (two of an epoch, so that some ends come in the middle of one), ends it once or
twice, and goes on with --resume. Compared are all tensors of the last checkpoint, the adapter's file, metrics.jsonl but for seconds and
memory, result.json, and the steps that TensorBoard shows. A signal that asks for an end must give exit code 75 (0: it came too late).
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
STEPS = 12
AGAIN = 75
CONFIG = """
extends: {root}/configs/shapes.yaml
run: {{threads: 1}}
prompts: {{test: {folder}/test.jsonl, groups: 2, group_size: 4}}
rollout: {{steps: 3, batch: 2}}
train: {{max_steps: {steps}, micro_batch: 4, steps_per_epoch: 2, timestep_fraction: 0.7}}
eval: {{every: 4, images_per_prompt: 1, sampler: {{steps: 3, batch: 3}}}}
checkpoint: {{every: 4, keep: 1}}
log: {{grid_every: 8}}
lora: {{rank: 2, alpha: 4}}
"""


class Ground:
    """Where trials happen: the configuration, and the run that nobody disturbs."""

    def __init__(self, folder, ranks):
        self.folder, self.ranks = pathlib.Path(folder), ranks
        self.folder.mkdir(parents=True, exist_ok=True)
        test = (ROOT / "data/shapes/test.jsonl").read_text().splitlines()[::12][:9]
        (self.folder / "test.jsonl").write_text("\n".join(test) + "\n")
        (self.folder / "run.yaml").write_text(CONFIG.format(root=ROOT, folder=self.folder, steps=STEPS))
        start = time.monotonic()
        code, said = self.finish(self.start("whole"))
        assert code == 0, said
        self.seconds = time.monotonic() - start

    def start(self, name, *more):
        build = pathlib.Path(os.environ.get("BUILD", "build"))
        program = (build if build.is_absolute() else ROOT / build) / "contraflow"
        env = {**os.environ, "OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
               "OMPI_MCA_mpi_yield_when_idle": "1", "CUDA_VISIBLE_DEVICES": ""}  # fmt: skip
        env.pop("LD_LIBRARY_PATH", None)
        launch = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(self.ranks)] if self.ranks > 1 else []
        command = [*launch, program, "train", self.folder / "run.yaml", "--run", self.folder / name, *more]
        return subprocess.Popen([*map(str, command)], cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    @staticmethod
    def finish(process, timeout=300):
        _, said = process.communicate(timeout=timeout)
        return process.returncode, said

    def end(self, process, number):
        """SIGUSR1 goes through mpirun, which passes it on; the others to every rank, as a scheduler's do (mpirun would kill the ranks
        a second after a SIGTERM of its own)."""
        if self.ranks == 1 or number == signal.SIGUSR1:
            process.send_signal(number)
            return
        for child in pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            try:
                os.kill(int(child), number)
            except ProcessLookupError:
                pass

    def trial(self, name, number, delays):
        """A run that is sent `number` once after each of `delays` seconds; returns how each process ended. The run is removed again."""
        codes = []
        for delay in delays:
            log = self.folder / name / "log.txt"
            before = log.stat().st_size if log.exists() else 0
            process = self.start(name, "--resume=auto")
            try:
                process.wait(timeout=delay)
            except subprocess.TimeoutExpired:
                self.end(process, number)
            code, said = self.finish(process)
            codes.append(code)
            allowed = {0, AGAIN}
            if number == signal.SIGKILL or (log.stat().st_size if log.exists() else 0) == before:
                allowed |= {-number, 128 + number, 1}  # while the system still loaded its libraries, or mpirun its ranks
            if code not in allowed:
                raise AssertionError(f"{name}: exit code {code} after {delay:.2f} s:\n{said}")
            if code == 0:
                break
        if codes[-1] != 0:
            code, said = self.finish(self.start(name, "--resume=auto"))
            assert code == 0, f"{name}: {code}, resumed after {codes}:\n{said}"
        for what, a, b in zip(WHAT, outcome(self.folder / "whole"), outcome(self.folder / name)):
            assert a == b, f"{name}, ended after {delays} s ({codes}): {what} differs: {difference(a, b)}"
        shutil.rmtree(self.folder / name)
        return codes


def difference(a, b):
    """The first place where two trees of dicts and lists are not the same."""
    if type(a) is type(b) and isinstance(a, dict) and a.keys() == b.keys():
        a, b = list(a.items()), list(b.items())
    if type(a) is type(b) and isinstance(a, (list, tuple)) and len(a) == len(b):
        return next(f"{x if isinstance(x, str) else i} {difference(x, y)}" for i, (x, y) in enumerate(zip(a, b)) if x != y)
    return f"{str(a)[:300]} / {str(b)[:300]}"


PASSING = "time/", "memory/", "compute/"
WHAT = "adapter", "state", "metrics.jsonl", "result.json", "samples", "TensorBoard"


def lasting(o):
    """Without seconds, memory, and what this process alone has computed of an epoch."""
    if isinstance(o, dict):
        return {k: lasting(v) for k, v in o.items() if not k.startswith(PASSING) and not k.endswith("seconds")}
    return o


def events(folder):
    """What a reader of the event files sees: (tag, step) -> value, with what a restarted run takes back taken back."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    seen.Reload()
    return {tag: [(s.step, s.value) for s in seen.Scalars(tag)] for tag in seen.Tags()["scalars"] if not tag.startswith(PASSING)}


def outcome(run):
    last = run / f"checkpoints/step-{STEPS:08d}"
    state = json.loads((last / "state.json").read_text())
    rows = [lasting(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return ((last / "lora/adapter_model.safetensors").read_bytes(), state["data"], rows, lasting(json.loads((run / "result.json").read_text())),
            {p.name: p.read_bytes() for p in (run / "samples").iterdir()}, events(run / "tensorboard"))  # fmt: skip


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--runs", type=int, default=100, help="trials, over all signals and numbers of ranks")
    args.add_argument("--signals", default="KILL,TERM,USR1,INT")
    args.add_argument("--ranks", default="1,2")
    args.add_argument("--seed", type=int, default=0)
    args = args.parse_args()
    signals = [getattr(signal, f"SIG{s}") for s in args.signals.split(",")]
    dice, ends, wrong = random.Random(args.seed), {}, 0
    with tempfile.TemporaryDirectory() as folder:
        grounds = [Ground(pathlib.Path(folder) / r, int(r)) for r in args.ranks.split(",")]
        for g in grounds:
            print(f"{g.ranks} rank{'s' if g.ranks > 1 else ''}: {g.seconds:.1f} s undisturbed", flush=True)
        for i in range(args.runs):
            ground, number = grounds[i % len(grounds)], signals[i // len(grounds) % len(signals)]
            delays = [dice.uniform(0, ground.seconds) for _ in range(dice.choice([1, 1, 2]))]
            try:
                codes = ground.trial(f"run-{i}", number, delays)
            except AssertionError as wrong_one:
                print(wrong_one, file=sys.stderr, flush=True)
                wrong += 1
                continue
            if codes == [0]:  # that was too late: the first run of all took longer than others do
                ground.seconds = min(ground.seconds, delays[0])
            for code in codes:
                key = signal.Signals(number).name, ground.ranks, code
                ends[key] = ends.get(key, 0) + 1
    for (name, ranks, code), n in sorted(ends.items()):
        print(f"{name} on {ranks} rank{'s' if ranks > 1 else ''}: {n} ended with {code}")
    print(f"{args.runs - wrong} of {args.runs} runs ended at the undisturbed run's bits")
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
