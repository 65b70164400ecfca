#!/usr/bin/env python3
"""SD3.5 Medium's full size on a GPU against diffusers on the same card: transformer and VAE, random weights.

    python3 tools/gpu_parity.py --program contraflow [--temp DIR]

diffusers in float32 is the truth (TF32 off). In bfloat16, and where float32 means TF32 (convolutions, in both by default),
ours may be no further from it than 1.3 times diffusers' own.
"""

import argparse
import pathlib
import signal
import subprocess
import sys
import tempfile

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from safetensors.torch import load_file, save_file

TRANSFORMER = dict(
    sample_size=128, patch_size=2, in_channels=16, out_channels=16, num_layers=24, attention_head_dim=64, num_attention_heads=24,
    joint_attention_dim=4096, caption_projection_dim=1536, pooled_projection_dim=2048, pos_embed_max_size=384, qk_norm="rms_norm",
    dual_attention_layers=tuple(range(13)),
)  # fmt: skip
VAE = dict(
    block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    latent_channels=16, layers_per_block=2, norm_num_groups=32, sample_size=1024, scaling_factor=1.5305, shift_factor=0.0609,
    use_quant_conv=False, use_post_quant_conv=False,
)  # fmt: skip


def apart(a, b):
    a, b = a.double(), b.double()
    return ((a - b).norm() / b.norm()).item()


def probe(program, component, folder, dtype, batch=1):
    subprocess.run([program, "probe", component, "--model", folder, "--in", f"{folder}/in.safetensors", "--out", f"{folder}/out.safetensors",
                    "--device", "cuda", "--dtype", dtype, "--batch", str(batch)], check=True)  # fmt: skip
    return load_file(f"{folder}/out.safetensors")["sample"]


@torch.no_grad()
def transformer(program, folder):
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = SD3Transformer2DModel(**TRANSFORMER).eval()
    model = model.bfloat16()  # the weights that both read
    model.save_pretrained(f"{folder}/transformer", max_shard_size="20GB")
    x = dict(hidden_states=torch.randn(2, 16, 64, 64), timestep=torch.tensor([800.0, 250.0]),
             encoder_hidden_states=torch.randn(2, 205, 4096), pooled_projections=torch.randn(2, 2048))  # fmt: skip
    x = {k: v if k == "timestep" else v.bfloat16().float() for k, v in x.items()}
    save_file(x, f"{folder}/in.safetensors")
    run = lambda m, dt: m(**{k: v.cuda().to(torch.float32 if k == "timestep" else dt) for k, v in x.items()}, return_dict=False)[0].float().cpu()
    theirs = run(model, torch.bfloat16)
    exact = run(model.float(), torch.float32)
    del model
    torch.cuda.empty_cache()
    ours, ours32 = probe(program, "transformer", folder, "bfloat16"), probe(program, "transformer", folder, "float32")
    return apart(ours32, exact), 1e-5, apart(ours, exact), apart(theirs, exact)


@torch.no_grad()
def vae(program, folder):
    torch.manual_seed(1)
    with torch.device("cuda"):
        model = AutoencoderKL(**VAE).eval()
    model.save_pretrained(f"{folder}/vae")
    x = torch.randn(3, 16, 64, 64)
    save_file(dict(latents=x), f"{folder}/in.safetensors")
    decode = lambda m, dt: m.decode(x.cuda().to(dt) / VAE["scaling_factor"] + VAE["shift_factor"], return_dict=False)[0].float().cpu()
    torch.backends.cudnn.allow_tf32 = False
    exact = decode(model, torch.float32)
    torch.backends.cudnn.allow_tf32 = True
    tf32 = apart(decode(model, torch.float32), exact)
    theirs = decode(model.bfloat16(), torch.bfloat16)
    del model
    torch.cuda.empty_cache()
    ours32, ours = probe(program, "vae-decode", folder, "float32"), probe(program, "vae-decode", folder, "bfloat16", 3)
    return apart(ours32, exact), 1.3 * tf32, apart(ours, exact), apart(theirs, exact)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--program", required=True, type=pathlib.Path)
    p.add_argument("--temp", help="where 5 GB of weights are written for the while")
    a = p.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the weights do not stay behind
    good = True
    with tempfile.TemporaryDirectory(dir=a.temp) as folder:
        for name, f in ("transformer", transformer), ("VAE", vae):
            f32, limit, ours, theirs = f(a.program.resolve(), folder)
            good = good and f32 < limit and ours < 1.3 * theirs
            print(f"= {name}: float32 {f32:.1e} (of {limit:.1e}); bfloat16 {ours:.2e}, diffusers' own {theirs:.2e}", flush=True)
    sys.exit(not good)


main()
