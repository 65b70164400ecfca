#!/usr/bin/env python3
"""One round of the shapes world, ours against the same computation in Python (diffusers + PEFT), in the same run.

    LD_LIBRARY_PATH=/usr/local/cuda/lib64 .venv/bin/python tools/bench_shapes.py [--repeats N] [--threads N] [--compile]

Python does what the public reference does, on the same model, adapter, prompts and sizes: rollout with the adapter `old`
unmerged, 10 steps of DPM-Solver++(2M); update with three forwards a noise level (old without gradient, theta, base
without gradient), backward, clip, AdamW. Text embeddings are ready beforehand, pictures are not decoded and not scored
there; ours decodes and scores (GenEval's rules over detected blobs) beside the sampling. Rounds alternate; the medians and
the ratio pair by pair are printed, and written as JSON with -o.
"""

import argparse
import json
import math
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

import torch
from diffusers import SD3Transformer2DModel
from peft import LoraConfig, get_peft_model

ROOT = pathlib.Path(__file__).resolve().parents[1]
TARGETS = [
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
    "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
]  # fmt: skip
STEPS, GROUPS, SIZE, LEVELS, BATCH = 10, 12, 16, 3, 96


class Peer:
    """The reference's loop on the shapes model."""

    def __init__(self, compiled):
        base = SD3Transformer2DModel.from_pretrained(ROOT / "data/shapes/base/transformer")
        base.requires_grad_(False)
        conf = LoraConfig(r=32, lora_alpha=64, init_lora_weights="gaussian", target_modules=TARGETS)
        self.model = get_peft_model(base, conf, adapter_name="default")
        self.model.add_adapter("old", conf)
        self.model.set_adapter("default")
        self.theta = [p for n, p in self.model.named_parameters() if ".default." in n]
        self.opt = torch.optim.AdamW(self.theta, lr=1e-4, weight_decay=1e-4)
        self.forward = torch.compile(self.model) if compiled else self.model
        u = torch.linspace(1, 3 / (1 + 2 / 1000) / 1000, STEPS, dtype=torch.float64)
        self.sigma = [*(3 * u / (1 + 2 * u)).tolist(), 0.0]
        n = GROUPS * SIZE
        g = torch.Generator().manual_seed(0)
        self.text, self.pooled = torch.randn(n, 10, 64, generator=g), torch.randn(n, 64, generator=g)
        self.r = torch.rand(n, generator=g)

    def velocity(self, x, t, rows):
        return self.forward(
            hidden_states=x, timestep=t, encoder_hidden_states=self.text[rows], pooled_projections=self.pooled[rows],
            return_dict=False,
        )[0]  # fmt: skip

    @torch.no_grad()
    def rollout(self):
        self.model.set_adapter("old")
        out, sigma = [], self.sigma
        lam = [math.log(1 - s) - math.log(s) if 0 < s < 1 else -math.inf for s in sigma]
        for at in range(0, GROUPS * SIZE, BATCH):
            rows = slice(at, at + BATCH)
            x, before = torch.randn(BATCH, 16, 6, 6), None
            for i in range(STEPS):
                s, t = sigma[i], sigma[i + 1]
                v = self.velocity(x, torch.full((BATCH,), 1000 * s), rows)
                d = x - s * v
                if i in (0, STEPS - 1):
                    x = x + (t - s) * v
                else:
                    h = lam[i + 1] - lam[i]
                    d1 = (d - before) * (h / (lam[i] - lam[i - 1]))
                    x = (t / s) * x - (1 - t) * math.expm1(-h) * (d + d1 / 2)
                before = d
            out.append(x)
        self.model.set_adapter("default")
        return torch.cat(out)

    def update(self, x0_all):
        n = GROUPS * SIZE
        self.opt.zero_grad()
        for at in range(0, n, BATCH):
            rows = slice(at, at + BATCH)
            x0, r = x0_all[rows], self.r[rows]
            for level in range(LEVELS):
                t = torch.full((BATCH, 1, 1, 1), self.sigma[2 * level + 1])
                xt = (1 - t) * x0 + t * torch.randn_like(x0)
                time_in = 1000 * t.view(-1)
                self.model.set_adapter("old")
                with torch.no_grad():
                    old = self.velocity(xt, time_in, rows)
                self.model.set_adapter("default")
                v = self.velocity(xt, time_in, rows)
                with torch.no_grad(), self.model.disable_adapter():
                    ref = self.velocity(xt, time_in, rows)
                self.model.set_adapter("default")
                loss = 0
                for u, share in ((v, r), (2 * old - v, 1 - r)):
                    x0_hat = xt - t * u
                    with torch.no_grad():
                        w = (x0_hat.double() - x0.double()).abs().mean((1, 2, 3), keepdim=True).clip(min=1e-5)
                    loss = loss + (share * ((x0_hat - x0) ** 2 / w).mean((1, 2, 3))).mean() * 5
                loss = loss + 1e-3 * ((v - ref) ** 2).mean()
                (loss / (LEVELS * n / BATCH)).backward()
        torch.nn.utils.clip_grad_norm_(self.theta, 1.0)
        self.opt.step()

    def round(self):
        a = time.perf_counter()
        x0 = self.rollout()
        b = time.perf_counter()
        self.update(x0)
        return b - a, time.perf_counter() - b


def ours(threads, rounds):
    """Median seconds of rollout and update, from the run's own metrics; `threads` ranks of one thread."""
    env = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    env.pop("LD_LIBRARY_PATH", None)
    with tempfile.TemporaryDirectory() as folder:
        keys = [
            f"prompts.groups={GROUPS}", f"prompts.group_size={SIZE}", "prompts.test=", "run.threads=1", f"train.max_steps={rounds}",
            f"train.timestep_fraction={LEVELS / STEPS + 1e-6}", f"rollout.batch={BATCH}", f"rollout.steps={STEPS}", f"train.micro_batch={BATCH}",
            "nft.kl_beta=1e-3", "log.tensorboard=false", "policy.old_schedule=linear", "policy.old_slope=0.02",
        ]  # fmt: skip
        command = [ROOT / "build/contraflow", "train", "configs/shapes.yaml", "--quiet", "--run", f"{folder}/r"]
        if threads > 1:
            command = ["mpirun", "--bind-to", "none", "-n", str(threads), *command]
        for k in keys:
            command += ["--set", k]
        subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL)
        lines = [json.loads(l) for l in open(f"{folder}/r/metrics.jsonl")][1:]  # the first round has no v_old forward
    return tuple(statistics.median(l[k] + l.get(more, 0) for l in lines)
                 for k, more in (("time/rollout", "time/reward_wait"), ("time/update", "time/all_reduce")))  # fmt: skip


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--compile", action="store_true", help="torch.compile the peer's model")
    p.add_argument("-o", help="write the figures as JSON")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    peer = Peer(a.compile)
    peer.round()
    rows = []
    for _ in range(a.repeats):
        theirs = peer.round()
        rows.append((*theirs, *ours(a.threads, 4)))
    med = [statistics.median(r[i] for r in rows) for i in range(4)]
    ratio = [statistics.median(r[i] / r[i + 2] for r in rows) for i in (0, 1)]
    total = statistics.median((r[0] + r[1]) / (r[2] + r[3]) for r in rows)
    print(f"{GROUPS * SIZE} pictures, {STEPS} steps, {LEVELS} noise levels, {a.threads} threads, {a.repeats} pairs of rounds")
    print(f"{'':12}{'Python':>10}{'contraflow':>12}{'ratio':>8}")
    for i, name in enumerate(("rollout", "update")):
        print(f"{name:12}{med[i]:9.3f}s{med[i + 2]:11.3f}s{ratio[i]:7.2f}x")
    print(f"{'round':12}{med[0] + med[1]:9.3f}s{med[2] + med[3]:11.3f}s{total:7.2f}x")
    if a.o:
        names = ("python_rollout", "python_update", "contraflow_rollout", "contraflow_update")
        pathlib.Path(a.o).write_text(json.dumps({**dict(zip(names, med)), "rollout": ratio[0], "update": ratio[1], "round": total}))


main()
