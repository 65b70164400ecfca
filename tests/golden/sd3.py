"""Random SD3 transformers and adapters as diffusers and PEFT make them, and the probe that runs ours on the same files."""

import os
import pathlib
import subprocess

import torch
from diffusers import SD3Transformer2DModel
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
SMALL = dict(
    sample_size=8, patch_size=1, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
    num_attention_heads=2, joint_attention_dim=12, pooled_projection_dim=10, pos_embed_max_size=12,
    dual_attention_layers=(), qk_norm=None,
)  # fmt: skip


def probe(*args):
    """Runs golden_probe of the build directory $BUILD (default: build); an error is a RuntimeError with its message."""
    build = pathlib.Path(os.environ.get("BUILD", "build"))
    program = (build if build.is_absolute() else ROOT / build) / "tests" / "golden_probe"
    done = subprocess.run([program, *map(str, args)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)


def contraflow(*args):
    """Runs the contraflow of the build directory; an error is a RuntimeError with its line."""
    build = pathlib.Path(os.environ.get("BUILD", "build"))
    program = (build if build.is_absolute() else ROOT / build) / "contraflow"
    done = subprocess.run([program, *map(str, args)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def randomise(module, seed):
    """Every parameter and buffer of its files away from its initial value: zeros would hide what they multiply."""
    g, saved = torch.Generator().manual_seed(seed), module.state_dict()
    with torch.no_grad():
        for name, p in list(module.named_parameters()) + list(module.named_buffers()):
            if not p.is_floating_point() or name not in saved:  # frequencies of rotary positions are in no file
                continue
            noise = torch.randn(p.shape, generator=g)
            if name.endswith("norm_q.weight") or name.endswith("norm_k.weight") or ".norm_added_" in name:
                p.copy_(1 + 0.3 * noise)
            elif p.dim() > 1 and "pos_embed.pos_embed" not in name:
                p.copy_(noise / p[0].numel() ** 0.5)
            else:
                p.copy_(0.3 * noise)
    return module


def make_transformer(seed=0, **changes):
    conf = {**SMALL, **changes}
    conf["caption_projection_dim"] = conf["num_attention_heads"] * conf["attention_head_dim"]
    return randomise(SD3Transformer2DModel(**conf), seed).eval()


def make_inputs(model, batch=3, height=6, width=6, tokens=5, seed=1):
    c, g = model.config, torch.Generator().manual_seed(seed)
    return dict(
        x=torch.randn(batch, c.in_channels, height, width, generator=g),
        t=1000 * torch.rand(batch, generator=g),
        text=torch.randn(batch, tokens, c.joint_attention_dim, generator=g),
        pooled=torch.randn(batch, c.pooled_projection_dim, generator=g),
        g=torch.randn(batch, c.out_channels, height, width, generator=g),
    )


def velocity(model, inputs, dtype=torch.float32):
    return model(
        hidden_states=inputs["x"].to(dtype), encoder_hidden_states=inputs["text"].to(dtype),
        pooled_projections=inputs["pooled"].to(dtype), timestep=inputs["t"], return_dict=False,
    )[0]  # fmt: skip


def add_adapter(model, rank, alpha, targets, seed=2):
    """PEFT's adapter on the model (in place), all values random."""
    peft_model = get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets))
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in peft_model.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn(p.shape, generator=g) / p.shape[1] ** 0.5)
    return peft_model


def ours(folder, inputs, dtype="float32", adapter=None):
    """What the probe computes for FOLDER/transformer: a dict of tensors."""
    save_file(inputs, folder / "in.safetensors")
    args = [folder / "transformer", folder / "in.safetensors", folder / "out.safetensors", dtype]
    probe("forward", *args, *([adapter] if adapter else []))
    return load_file(folder / "out.safetensors")


def error(a, b):
    """||a - b|| / ||b||, in float64; equal zeros are equal."""
    a, b = a.detach().double(), b.detach().double()
    assert a.shape == b.shape
    return ((a - b).norm() / b.norm()).item() if b.norm() else a.norm().item()
