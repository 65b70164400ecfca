#!/usr/bin/env python3
"""The reference's loop in Python (diffusers + PEFT) on random weights of any size, and contraflow bench beside it.

    python=.venv/bin/python  # needs LD_LIBRARY_PATH=/usr/local/cuda/lib64 where CUDA is not in the loader's path
    $python tools/bench_reference.py --shapes --ranks 2                            # the built-in default, 2 ranks of ours
    $python tools/bench_reference.py --model medium --device cuda --dtype bfloat16 --group-size 24 --groups 1 \\
        --batch 12 --micro-batch 4 --checkpoint-blocks 24

Python does what the public reference does: rollout with the adapter `old` unmerged, DPM-Solver++(2M); update with three
forwards per noise level (old without gradient, theta, base without gradient), the weights of the loss in double, backward,
clip, AdamW; frozen weights in float32 under autocast where --dtype has 16 bits. On both sides embeddings are computed beforehand, and images
are neither decoded nor scored. Epochs alternate; medians and ratios are printed, and written as JSON by -o.
"""

import argparse
import contextlib
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
MODELS = {  # as contraflow bench has them: latent, text tokens, configuration
    "tiny": (8, 12, dict(sample_size=8, patch_size=2, in_channels=16, out_channels=16, num_layers=2, attention_head_dim=16,
                         num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=32,
                         pos_embed_max_size=16, qk_norm="rms_norm", dual_attention_layers=(0,))),
    "medium": (64, 205, dict(sample_size=128, patch_size=2, in_channels=16, out_channels=16, num_layers=24, attention_head_dim=64,
                             num_attention_heads=24, joint_attention_dim=4096, caption_projection_dim=1536,
                             pooled_projection_dim=2048, pos_embed_max_size=384, qk_norm="rms_norm",
                             dual_attention_layers=tuple(range(13)))),
}  # fmt: skip


class Reference:
    def __init__(self, a):
        self.a, self.device = a, torch.device(a.device)
        if a.model in MODELS:
            latent, tokens, conf = MODELS[a.model]
        else:
            conf = SD3Transformer2DModel.load_config(a.model)
            latent, tokens = conf["sample_size"], 77
        latent, tokens = a.latent or latent, a.text_tokens or tokens
        with self.device:
            base = SD3Transformer2DModel.from_config(conf) if a.model not in MODELS else SD3Transformer2DModel(**conf)
        if a.checkpoint_blocks:
            base.enable_gradient_checkpointing()
        base.requires_grad_(False)
        lora = LoraConfig(r=a.rank, lora_alpha=2 * a.rank, init_lora_weights="gaussian", target_modules=TARGETS)
        self.model = get_peft_model(base, lora, adapter_name="default")
        self.model.add_adapter("old", lora)
        self.model.set_adapter("default")
        self.model.train(bool(a.checkpoint_blocks))  # diffusers checkpoints in training mode alone
        self.theta = [p for n, p in self.model.named_parameters() if ".default." in n]
        self.opt = torch.optim.AdamW(self.theta, lr=1e-4, weight_decay=1e-4)
        self.forward = torch.compile(self.model) if a.compile else self.model
        u = torch.linspace(1, 3 / (1 + 2 / 1000) / 1000, a.steps, dtype=torch.float64)
        self.sigma = [*(3 * u / (1 + 2 * u)).tolist(), 0.0]
        self.n, self.shape = a.groups * a.group_size, (base.config.in_channels, latent, latent)
        g = torch.Generator().manual_seed(0)
        self.text = torch.randn(a.groups, tokens, base.config.joint_attention_dim, generator=g).to(self.device)
        self.pooled = torch.randn(a.groups, base.config.pooled_projection_dim, generator=g).to(self.device)
        self.r = torch.rand(self.n, generator=g).to(self.device)
        half = dict(bfloat16=torch.bfloat16, float16=torch.float16).get(a.dtype)
        self.cast = lambda: torch.autocast(a.device, half) if half else contextlib.nullcontext()

    def velocity(self, x, t, first):
        rows = torch.arange(first, first + len(x), device=self.device) // self.a.group_size
        with self.cast():
            return self.forward(hidden_states=x, timestep=t, encoder_hidden_states=self.text[rows],
                                pooled_projections=self.pooled[rows], return_dict=False)[0].float()  # fmt: skip

    @torch.no_grad()
    def rollout(self):
        self.model.set_adapter("old")
        out, sigma = [], self.sigma
        lam = [math.log(1 - s) - math.log(s) if 0 < s < 1 else -math.inf for s in sigma]
        for first in range(0, self.n, self.a.batch):
            k = min(self.a.batch, self.n - first)
            x, before = torch.randn(k, *self.shape, device=self.device), None
            for i in range(self.a.steps):
                s, t = sigma[i], sigma[i + 1]
                v = self.velocity(x, torch.full((k,), 1000 * s, device=self.device), first)
                d = x - s * v
                if i in (0, self.a.steps - 1):
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
        a, parts = self.a, math.ceil(self.n / self.a.micro_batch)
        self.opt.zero_grad()
        for first in range(0, self.n, a.micro_batch):
            rows = slice(first, min(first + a.micro_batch, self.n))
            x0, r = x0_all[rows], self.r[rows]
            for level in range(a.levels):
                t = torch.full((len(x0), 1, 1, 1), self.sigma[level * a.steps // a.levels], device=self.device)
                xt = (1 - t) * x0 + t * torch.randn_like(x0)
                time_in = 1000 * t.view(-1)
                self.model.set_adapter("old")
                with torch.no_grad():
                    old = self.velocity(xt, time_in, first)
                self.model.set_adapter("default")
                v = self.velocity(xt, time_in, first)
                with torch.no_grad(), self.model.disable_adapter():
                    ref = self.velocity(xt, time_in, first)
                self.model.set_adapter("default")
                loss = 0
                for u, share in ((v, r), (2 * old - v, 1 - r)):
                    x0_hat = xt - t * u
                    with torch.no_grad():
                        w = (x0_hat.double() - x0.double()).abs().mean((1, 2, 3), keepdim=True).clip(min=1e-5)
                    loss = loss + (share * ((x0_hat - x0) ** 2 / w).mean((1, 2, 3))).mean() * 5
                loss = loss + 1e-4 * ((v - ref) ** 2).mean()
                (loss / (a.levels * parts)).backward()
        torch.nn.utils.clip_grad_norm_(self.theta, 1.0)
        self.opt.step()

    def now(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def round(self):
        start = self.now()
        x0 = self.rollout()
        middle = self.now()
        self.update(x0)
        return middle - start, self.now() - middle


def ours(a):
    """Median seconds of rollout and update of contraflow bench on the same sizes."""
    env = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    env.pop("LD_LIBRARY_PATH", None)
    with tempfile.TemporaryDirectory() as folder:
        command = [a.program, "bench", "--repeats", 3, "--threads", max(1, a.threads // a.ranks), "-o", f"{folder}/b.json"]
        if a.ranks > 1:
            command = ["mpirun", "--bind-to", "none", "-n", a.ranks, *command]
        for key in ("model", "latent", "text_tokens", "groups", "group_size", "batch", "micro_batch", "steps", "levels", "rank",
                    "checkpoint_blocks", "dtype", "device"):  # fmt: skip
            command += ["--" + key.replace("_", "-"), getattr(a, key)]
        subprocess.run(list(map(str, command)), cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL)
        b = json.load(open(f"{folder}/b.json"))
    phases = {p["phase"]: p["seconds"] for p in b["phases"]}
    return (phases["rollout"], phases["update"]), b


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shapes", action="store_true", help="sizes of the shapes world: 192 images, 10 steps, 3 noise levels")
    p.add_argument("--model", default="tiny", help="tiny, medium, or a transformer's folder")
    for key, default in dict(latent=0, text_tokens=0, groups=2, group_size=4, batch=8, micro_batch=8, steps=10, levels=9, rank=32,
                             checkpoint_blocks=0, repeats=5, ranks=1, threads=os.cpu_count()).items():  # fmt: skip
        p.add_argument("--" + key.replace("_", "-"), type=int, default=default)
    p.add_argument("--dtype", default="float32")
    p.add_argument("--device", default="cpu")
    p.add_argument("--compile", action="store_true", help="torch.compile the reference's model")
    p.add_argument("--program", default=ROOT / "build/contraflow", type=pathlib.Path)
    p.add_argument("-o", help="write the figures as JSON")
    a = p.parse_args()
    if a.shapes:
        a.model, a.latent, a.text_tokens, a.levels = str(ROOT / "data/shapes/base/transformer"), 6, 10, 3
        a.groups, a.group_size, a.batch, a.micro_batch = 12, 16, 96, 96
    torch.set_num_threads(a.threads)
    reference = Reference(a)
    reference.round()
    rows = []
    for _ in range(a.repeats):
        theirs = reference.round()
        if a.device == "cuda":
            torch.cuda.empty_cache()  # ours is another process on the same card
        mine, said = ours(a)
        rows.append((*theirs, *mine))
    med = [statistics.median(r[i] for r in rows) for i in range(4)]
    ratio = [statistics.median(r[i] / r[i + 2] for r in rows) for i in (0, 1)]
    total = statistics.median((r[0] + r[1]) / (r[2] + r[3]) for r in rows)
    n = a.groups * a.group_size
    print(f"{a.model}: {n} images, {a.steps} steps, {a.levels} noise levels, {a.device}, {a.dtype}, {a.threads} threads, {a.repeats} pairs")
    print(f"{'':12}{'Python':>10}{'contraflow':>12}{'ratio':>8}")
    for i, name in enumerate(("rollout", "update")):
        print(f"{name:12}{med[i]:9.3f}s{med[i + 2]:11.3f}s{ratio[i]:7.2f}x")
    print(f"{'epoch':12}{med[0] + med[1]:9.3f}s{med[2] + med[3]:11.3f}s{total:7.2f}x")
    for who, (r, u) in (("Python", med[:2]), ("contraflow", med[2:])):
        print(f"1,152 images of 9 levels: {who} {r * 1152 / n + u * 1152 * 9 / (n * a.levels):.0f} s")
    if a.o:
        names = ("python_rollout", "python_update", "contraflow_rollout", "contraflow_update")
        figures = {**dict(zip(names, med)), "rollout": ratio[0], "update": ratio[1], "round": total, "contraflow": said}
        pathlib.Path(a.o).write_text(json.dumps(figures))


main()
