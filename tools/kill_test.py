#!/usr/bin/env python3
"""Kills training runs at random moments and resumes them: do they end at the bits of the undisturbed run?

    tools/kill_test.py [--runs 100] [--signals KILL,TERM,USR1,INT] [--ranks 1,2] [--seed 0]     (BUILD=build-test: another build folder)

Each trial trains the shapes world for a dozen steps (two of an epoch, so that some ends come in the middle of one), ends it once or
twice, and goes on with --resume. Every other trial waits until a checkpoint is being written and strikes within that. Compared are all
tensors of the last checkpoint, the adapter's file, metrics.jsonl but for seconds and memory, result.json, and the steps that TensorBoard
shows. A signal that asks for an end must give exit code 75 (0: it came too late).
"""

import argparse
import json
import logging
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
extends: {folder}/shapes.yaml
run: {{threads: 1}}
prompts: {{test: {folder}/test.jsonl, groups: 2, group_size: 4}}
rollout: {{steps: 3, batch: 2}}
train: {{max_steps: {steps}, micro_batch: 4, steps_per_epoch: 2, timestep_fraction: 0.7}}
eval: {{every: 4, images_per_prompt: 1, sampler: {{steps: 3, batch: 3}}}}
checkpoint: {{every: 4, keep: 1}}
log: {{grid_every: 8}}
lora: {{rank: 2, alpha: 4, targets: [attn.to_q, attn.to_out.0]}}
"""


class Moment:
    """When to strike: so many seconds after the start, or while checkpoint number `writing` is written, after a share of the time it takes."""

    def __init__(self, seconds=None, writing=None, share=0):
        self.seconds, self.writing, self.share = seconds, writing, share

    def __repr__(self):
        return f"{self.seconds:.2f} s" if self.writing is None else f"{self.share:.2f} of checkpoint {self.writing}"


def unfinished(run):
    """Checkpoints that are being written or on their way out, or were when their process died: their names, and when something changed there."""
    found = {}
    try:
        for entry in os.scandir(run / "checkpoints"):
            if ".tmp" in entry.name or ".old" in entry.name:
                found[entry.name] = entry.stat(follow_symlinks=False).st_ctime_ns
    except FileNotFoundError:
        pass  # no checkpoint yet, or the entry has its final name by now
    return found


def watch(process, run, number=0):
    """Waits until the process has begun `number` checkpoints (0: until its end); the seconds that those before took, or None at its end."""
    before, took, began = unfinished(run), [], None
    while process.poll() is None:
        now, found = time.monotonic(), unfinished(run)
        if found and found != before:
            if began is None and len(took) + 1 == number:
                return took
            began = began or now
        elif began is not None:
            took.append(now - began)
            began = None
        time.sleep(3e-4)
    return None if number else took


class Ground:
    """Where trials happen: the configuration, and the run that nobody disturbs."""

    def __init__(self, folder, ranks):
        self.folder, self.ranks = pathlib.Path(folder), ranks
        self.folder.mkdir(parents=True, exist_ok=True)
        test = (ROOT / "data/shapes/test.jsonl").read_text().splitlines()[::12][:9]
        (self.folder / "test.jsonl").write_text("\n".join(test) + "\n")
        shutil.copy(ROOT / "configs/shapes.yaml", self.folder)  # as it is now: many trials take long
        (self.folder / "run.yaml").write_text(CONFIG.format(folder=self.folder, steps=STEPS))
        start = time.monotonic()
        process = self.start("whole")
        took = watch(process, self.folder / "whole")
        code, said = self.finish(process)
        assert code == 0, said
        self.seconds = time.monotonic() - start
        self.writing = sorted(took)[len(took) // 2] if took else 0  # seconds for a checkpoint
        self.within = 0  # ends that came while one was written

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

    def strike(self, process, run, number, moment):
        """Sends `number` at that moment, unless the process ends before."""
        before = unfinished(run)
        if moment.writing is None:
            try:
                process.wait(timeout=moment.seconds)
                return
            except subprocess.TimeoutExpired:
                pass
        elif watch(process, run, moment.writing) is None:
            return
        else:
            time.sleep(moment.share * self.writing)
        if process.poll() is None:
            found = unfinished(run)
            self.end(process, number)
            if number == signal.SIGKILL:
                process.wait()
                found = unfinished(run)  # what it could not finish
            self.within += bool(found) and found != before

    def trial(self, name, number, moments):
        """A run that is sent `number` at each of these moments; returns how each process ended. The run is removed again."""
        codes, run = [], self.folder / name
        log = run / "log.txt"
        for moment in moments:
            before = log.stat().st_size if log.exists() else 0
            process = self.start(name, "--resume=auto")
            self.strike(process, run, number, moment)
            code, said = self.finish(process)
            codes.append(code)
            allowed = {0, AGAIN}
            if number == signal.SIGKILL or (log.stat().st_size if log.exists() else 0) == before:
                allowed |= {-number, 128 + number, 1}  # while the system still loaded its libraries, or mpirun its ranks
            if code not in allowed:
                raise AssertionError(f"{name}: exit code {code} after {moment}:\n{said}")
            if code == 0:
                break
        if codes[-1] != 0:
            code, said = self.finish(self.start(name, "--resume=auto"))
            assert code == 0, f"{name}: {code}, resumed after {codes}:\n{said}"
        got = outcome(run)
        for what, want in outcome(self.folder / "whole").items():
            assert want == got[what], f"{name}, ended at {moments} ({codes}): {what} differs: {difference(want, got[what])}"
        assert not unfinished(run), f"{name}, ended at {moments} ({codes}): left {os.listdir(run / 'checkpoints')}"
        shutil.rmtree(run)
        return codes


def difference(a, b):
    """The first place where two trees of dicts and lists are not the same."""
    if type(a) is type(b) and isinstance(a, dict) and a.keys() == b.keys():
        a, b = list(a.items()), list(b.items())
    if type(a) is type(b) and isinstance(a, (list, tuple)) and len(a) == len(b):
        return next(f"{x if isinstance(x, str) else i} {difference(x, y)}" for i, (x, y) in enumerate(zip(a, b)) if x != y)
    return f"{str(a)[:300]} / {str(b)[:300]}"


PASSING = "time/", "memory/", "ranks/", "scoring/"


def lasting(o):
    """Without seconds and memory."""
    if isinstance(o, dict):
        return {k: lasting(v) for k, v in o.items() if not k.startswith(PASSING) and not k.endswith("seconds")}
    return o


def events(folder):
    """What a reader of the event files sees: (tag, step) -> value, with what a restarted run takes back taken back."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of every restart
    seen = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    seen.Reload()
    return {tag: [(s.step, s.value) for s in seen.Scalars(tag)] for tag in seen.Tags()["scalars"] if not tag.startswith(PASSING)}


def outcome(run, steps=STEPS):
    """What a run ends with, by what it is called."""
    last = run / f"checkpoints/step-{steps:08d}"
    return {
        "adapter": (last / "lora/adapter_model.safetensors").read_bytes(),
        "state": json.loads((last / "state.json").read_text())["data"],
        "metrics.jsonl": [lasting(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()],
        "results": {p.name: lasting(json.loads(p.read_text())) for p in run.glob("result*.json")},
        "samples": {p.name: p.read_bytes() for p in (run / "samples").iterdir()},
        "TensorBoard": events(run / "tensorboard"),
    }


def draw(dice, ground, within):
    """A moment of a run, or of the writing of one of its checkpoints; later ones are there only if it has not been ended before."""
    if within:
        return Moment(writing=dice.choice([1, 1, 2, 3]), share=dice.uniform(0, 1))
    return Moment(seconds=dice.uniform(0, ground.seconds))


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
            print(f"{g.ranks} rank{'s' if g.ranks > 1 else ''}: {g.seconds:.1f} s undisturbed, a checkpoint takes {1e3 * g.writing:.0f} ms", flush=True)
        for i in range(args.runs):
            ground, number = grounds[i % len(grounds)], signals[i // len(grounds) % len(signals)]
            moments = [draw(dice, ground, i // len(grounds) // len(signals) % 2) for _ in range(dice.choice([1, 1, 2]))]
            try:
                codes = ground.trial(f"run-{i}", number, moments)
            except AssertionError as wrong_one:
                print(wrong_one, file=sys.stderr, flush=True)
                wrong += 1
                continue
            if codes == [0] and moments[0].seconds:  # that was too late: the first run of all took longer than others do
                ground.seconds = min(ground.seconds, moments[0].seconds)
            for code in codes:
                key = signal.Signals(number).name, ground.ranks, code
                ends[key] = ends.get(key, 0) + 1
    for (name, ranks, code), n in sorted(ends.items()):
        print(f"{name} on {ranks} rank{'s' if ranks > 1 else ''}: {n} ended with {code}")
    print(f"{sum(g.within for g in grounds)} of {sum(ends.values())} ends came while a checkpoint was written")
    print(f"{args.runs - wrong} of {args.runs} runs ended at the undisturbed run's bits")
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
