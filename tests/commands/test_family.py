"""A model family that is added as docs/extending.md says: examples/family_dit.c, compared with PyTorch and trained."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from command import ROOT, TINY, contraflow, fails, read_lines, read_zst
from extended import extended
from safetensors.torch import load_file, save_file
from torch import nn

BASE = ROOT / "data/shapes/base"
CHANNELS = json.loads((BASE / "vae/config.json").read_text())["channels"]
CONFIG = dict(sample_size=6, patch_size=2, in_channels=CHANNELS, num_layers=3, num_heads=2, hidden_size=32, text_dim=64)


class Block(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads, self.modulation, self.attn = heads, nn.Linear(d, 6 * d), nn.Module()
        self.attn.to_q, self.attn.to_k, self.attn.to_v = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.attn.to_out = nn.Sequential(nn.Linear(d, d))
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(approximate="tanh"), nn.Linear(4 * d, d))

    def forward(self, x, y):
        a, b, c, d, e, f = self.modulation(y).chunk(6, -1)
        inside = modulate(x, a, b)
        q, k, v = (m(inside).unflatten(-1, (self.heads, -1)).transpose(1, 2) for m in (self.attn.to_q, self.attn.to_k, self.attn.to_v))
        x = x + c * self.attn.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + f * self.mlp(modulate(x, d, e))


def modulate(x, shift, scale):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class DiT(nn.Module):
    """The oracle, written from the formulas."""

    def __init__(self, c):
        super().__init__()
        self.p, d = c["patch_size"], c["hidden_size"]
        patch = c["in_channels"] * self.p**2
        self.pos_embed = nn.Parameter(torch.zeros(1, (c["sample_size"] // self.p) ** 2, d))
        self.patch_embed, self.time_embed, self.text_embed = nn.Linear(patch, d), nn.Linear(64, d), nn.Linear(c["text_dim"], d)
        self.blocks = nn.ModuleList(Block(d, c["num_heads"]) for _ in range(c["num_layers"]))
        self.norm_out, self.proj_out = nn.Linear(d, 2 * d), nn.Linear(d, patch)

    def forward(self, x, t, text, lengths):
        p, (_, c, h, w) = self.p, x.shape
        side = math.isqrt(self.pos_embed.shape[1])
        patches = x.reshape(-1, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        pos = self.pos_embed.unflatten(1, (side, side))[:, : h // p, : w // p].flatten(1, 2)
        angle = t[:, None] * torch.exp(-math.log(10000) * torch.arange(32) / 32)
        mean = torch.stack([row[:n].mean(0) for row, n in zip(text, lengths)])
        y = F.silu(self.time_embed(torch.cat([angle.cos(), angle.sin()], 1)) + self.text_embed(mean))[:, None]
        x = self.patch_embed(patches) + pos
        for block in self.blocks:
            x = block(x, y)
        x = self.proj_out(modulate(x, *self.norm_out(y).chunk(2, -1)))
        return x.reshape(-1, h // p, w // p, c, p, p).permute(0, 3, 1, 4, 2, 5).reshape(-1, c, h, w)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return extended(
        tmp_path_factory.mktemp("program"), "models/families.c", ["examples/family_dit.c"],
        {'#include "models/sd3/sd3.h"': '#include "models/sd3/sd3.h"\nextern const struct family family_dit;', "&family_sd3,": "&family_sd3, &family_dit,"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random one as a model directory, with the shapes world's encoder and autoencoder."""
    folder, net = tmp_path_factory.mktemp("model"), DiT(CONFIG)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / math.sqrt(p.shape[-1]))
    for part in "vae", "text_encoder", "scheduler":
        shutil.copytree(BASE / part, folder / part)
    index = json.loads((BASE / "model_index.json").read_text())
    index.update(_class_name="DiTExamplePipeline", transformer=["contraflow", "DiTExampleModel"])
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "transformer").mkdir()
    (folder / "transformer/config.json").write_text(json.dumps(dict(CONFIG, _class_name="DiTExampleModel")))
    save_file(net.state_dict(), folder / "transformer/diffusion_pytorch_model.safetensors")
    return folder, net


@pytest.mark.parametrize("size", [(6, 6), (2, 4)])
@pytest.mark.parametrize("lengths", [None, [5, 1, 3]])
def test_forward(program, model, tmp_path, size, lengths):
    folder, net = model
    torch.manual_seed(1)
    x, t, text = torch.randn(3, CHANNELS, *size), torch.tensor([900.0, 31.5, 0.7]), torch.randn(3, 5, 64)
    given = dict(hidden_states=x, timestep=t, encoder_hidden_states=text)
    if lengths:
        for row, n in zip(text, lengths):
            row[n:] = 0
        given["lengths"] = torch.tensor(lengths)
    save_file(given, tmp_path / "in.safetensors")
    contraflow("probe", "transformer", "--model", folder, "--in", tmp_path / "in.safetensors", "--out", tmp_path / "out.safetensors", program=program)
    with torch.no_grad():
        want = net(x, t, text, lengths or [5] * 3)
    error = ((load_file(tmp_path / "out.safetensors")["sample"] - want).norm() / want.norm()).item()
    print(f"relative error {error:.1e}")
    assert error < 1e-5


def train(program, model, run, *sets, ranks=1):
    sets = [f"model.path={model}", "train.max_steps=2", "optimizer.lr=1e-3", "rewards.jpeg_compressibility.weight=1", "lora.targets=[attn.to_q, attn.to_out.0, mlp.0, modulation]", *sets]
    contraflow("train", "configs/shapes.yaml", "--run", run, *TINY, *(x for s in sets for x in ("--set", s)), ranks=ranks, program=program)
    return read_zst(run / "checkpoints/step-00000002/state.safetensors.zst")["theta"], read_lines(run / "metrics.jsonl")


def test_training(program, model, tmp_path):
    """The whole loop: any division of the work, gradient checkpointing, adapters merged and not, 8-bit rollouts."""
    theta, log = train(program, model[0], tmp_path / "1")
    assert np.isfinite(theta).all() and np.abs(theta).max() > 1e-3 and all(line["grad_norm"] > 0 for line in log)
    for name, ranks, *sets in ("2", 2), ("again", 1, "train.gradient_checkpointing=true"), ("auto", 1, "rollout.batch=auto"):
        other, _ = train(program, model[0], tmp_path / name, *sets, ranks=ranks)
        print(f"{name}: adapters are {np.abs(theta - other).max():.1e} apart")
        assert np.abs(theta - other).max() < 1e-5, name
    coarse, log = train(program, model[0], tmp_path / "fp8", "rollout.fp8=true")
    assert np.isfinite(coarse).all() and not np.array_equal(coarse, theta)


def test_its_commands(program, model, tmp_path):
    """What is there for Stable Diffusion 3 is there for it, too, and the plain program refuses it by name."""
    train(program, model[0], tmp_path / "run")
    contraflow("sample", "--model", model[0], "--lora", tmp_path / "run", "--prompt", "a red circle", "-o", tmp_path / "a.png", program=program)
    assert (tmp_path / "a.png").stat().st_size > 0
    contraflow("export", tmp_path / "run", "--format", "merged", "-o", tmp_path / "merged", program=program)
    merged = load_file(tmp_path / "merged/diffusion_pytorch_model.safetensors")
    base = model[1].state_dict()
    changed = {k for k in merged if not torch.equal(merged[k], base[k])}
    assert merged.keys() == base.keys() and {k.rsplit(".", 1)[0].split(".", 2)[-1] for k in changed} == {
        "attn.to_q", "attn.to_out.0", "mlp.0", "modulation"
    }  # fmt: skip
    shown = contraflow("bench", "--model", model[0] / "transformer", "--device", "cpu", "--groups", "2", "--group-size", "2", "--steps", "2", "--levels", "1", "--repeats", "1", program=program).stdout
    assert "6 x 6 latents" in shown
    assert "'DiTExamplePipeline'" in fails("sample", "--model", model[0], "--prompt", "a", "-o", tmp_path / "b.png")
    assert "'DiTExampleModel'" in fails("bench", "--model", model[0] / "transformer")
