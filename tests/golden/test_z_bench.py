"""The arithmetic that `contraflow bench` counts for Z-Image, against PyTorch's own counter on diffusers' model."""

import json

import torch
from sd3 import contraflow
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from z_image import make_transformer


def test_flop(folder):
    """To the last operation: 64 image tokens and 50 of a caption, which are computed as 64."""
    model = make_transformer(n_refiner_layers=2)
    model.save_pretrained(folder / "transformer")
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model([torch.randn(4, 1, 16, 16)], torch.ones(1), [torch.randn(50, 24)])
    contraflow("bench", "--model", folder / "transformer", "--latent", 16, "--text-tokens", 50, "--steps", 2, "--levels", 1, "--groups", 2, "--group-size", 2,
               "--repeats", 1, "-o", folder / "b.json")  # fmt: skip
    b = json.loads((folder / "b.json").read_text())
    final = 2 * 64 * 48 * 16  # of the caption's tokens, which diffusers computes and nobody reads
    assert b["phases"][0]["flop"] / (b["images"] * b["steps"]) == counter.get_total_flops() - final
