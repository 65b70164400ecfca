#!/usr/bin/env python3
"""Finds where contraflow and diffusers diverge: runs one component of a model directory in both, module by module.

    LD_LIBRARY_PATH=/usr/local/cuda/lib64 .venv/bin/python tools/parity.py COMPONENT --model DIR
        [--in X.safetensors] [--dtype float32|bfloat16|float16] [--device cpu|cuda] [--tolerance 1e-5]
        [--binary build/contraflow]

COMPONENT is transformer, vae-decode, vae-encode or text; --device is where ours runs, diffusers runs on the CPU. Without --in, inputs are random. Every intermediate that
`contraflow probe --taps` writes is compared with the output of the module of that name, in the order of the forward;
the first whose relative error ||ours - theirs|| / ||theirs|| is above the tolerance is named, and the exit code is 1.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def first(x):
    """A module's output tensor: diffusers and transformers return tensors, tuples or records of them."""
    while not torch.is_tensor(x):
        x = x[0] if isinstance(x, (tuple, list)) else next(iter(x.values()))
    return x


class Recorder:
    """The outputs of every named module, by name; of a joint block the image's and, as NAME.context, the text's."""

    def __init__(self, module):
        self.seen = {}
        for name, child in module.named_modules():
            child.register_forward_hook(lambda _, __, out, name=name: self.record(name, out))

    def record(self, name, out):
        if name.startswith("transformer_blocks.") and name.count(".") == 1:
            text, image = out
            self.seen[name] = image
            if text is not None:
                self.seen[name + ".context"] = text
        elif name == "time_text_embed":
            self.seen["silu(time_text_embed)"] = torch.nn.functional.silu(out).unsqueeze(1)
        else:
            self.seen[name] = first(out)


def random_inputs(args, model):
    g, c = torch.Generator().manual_seed(0), model.config
    if args.component == "transformer":
        side = c.sample_size
        return dict(
            hidden_states=torch.randn(2, c.in_channels, side, side, generator=g), timestep=1000 * torch.rand(2, generator=g),
            encoder_hidden_states=torch.randn(2, 20, c.joint_attention_dim, generator=g),
            pooled_projections=torch.randn(2, c.pooled_projection_dim, generator=g),
        )  # fmt: skip
    if args.component == "vae-decode":
        return dict(latents=torch.randn(1, c.latent_channels, 16, 16, generator=g))
    return dict(image=2 * torch.rand(1, 3, 128, 128, generator=g) - 1)


def theirs(args, dtype, path):
    """Runs diffusers' component on the inputs at `path` (made when there are none); name -> tensor."""
    if args.component == "text":
        pipe = StableDiffusion3Pipeline.from_pretrained(args.model, transformer=None, vae=None, torch_dtype=dtype)
        if not args.input:
            save_file({"unused": torch.zeros(1)}, path, {"prompts": json.dumps(["a photo of a red circle", ""])})
        with safe_open(path, "pt") as f:
            prompts = json.loads(f.metadata()["prompts"])
        seen = {}
        for i, model in enumerate([pipe.text_encoder, pipe.text_encoder_2, pipe.text_encoder_3]):
            if model is not None:
                seen[i] = Recorder(model).seen
        with torch.no_grad():
            embeds, _, pooled, _ = pipe.encode_prompt(prompts, None, None, do_classifier_free_guidance=False)
        out = {f"{i}/{name}": t for i, s in seen.items() for name, t in s.items()}
        return {**out, "prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
    kind, folder = (SD3Transformer2DModel, "transformer") if args.component == "transformer" else (AutoencoderKL, "vae")
    model = kind.from_pretrained(args.model, subfolder=folder, torch_dtype=dtype).eval()
    if not args.input:
        save_file(random_inputs(args, model), path)
    x = load_file(path)
    recorder = Recorder(model)
    shift, scale = getattr(model.config, "shift_factor", 0) or 0, getattr(model.config, "scaling_factor", 1)
    with torch.no_grad():
        if args.component == "transformer":
            inputs = {k: v if k == "timestep" else v.to(dtype) for k, v in x.items()}
            sample = model(**inputs, return_dict=False)[0]
            return {**recorder.seen, "sample": sample}
        if args.component == "vae-decode":
            sample = model.decode(x["latents"].to(dtype) / scale + shift, return_dict=False)[0]
            return {**recorder.seen, "sample": sample}
        mean = model.encode(x["image"].to(dtype)).latent_dist.mean
        return {**recorder.seen, "latents": (mean - shift) * scale}


def ordered(ours):
    """(name, tensor): the taps in order, then the outputs."""
    taps = sorted(k for k in ours if k.startswith("tap."))
    return [(k.split(".", 2)[2], ours[k]) for k in taps] + [(k, t) for k, t in ours.items() if not k.startswith("tap.")]


def error(a, b):
    a, b = a.double(), b.double()
    return ((a - b).norm() / b.norm().clamp_min(1e-30)).item()


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("component", choices=["transformer", "vae-decode", "vae-encode", "text"])
    p.add_argument("--model", required=True)
    p.add_argument("--in", dest="input")
    p.add_argument("--dtype", default="float32")
    p.add_argument("--device", default="cpu")
    p.add_argument("--tolerance", type=float, default=1e-5)
    p.add_argument("--binary", default=str(pathlib.Path(__file__).resolve().parents[1] / "build/contraflow"))
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as temp:
        path = args.input or f"{temp}/in.safetensors"
        reference = theirs(args, getattr(torch, args.dtype), path)
        subprocess.run([args.binary, "probe", args.component, "--model", args.model, "--in", path, "--out", f"{temp}/out.safetensors",
                        "--dtype", args.dtype, "--device", args.device, "--taps"], check=True)  # fmt: skip
        ours = ordered(load_file(f"{temp}/out.safetensors"))
    bad, encoder, last = None, -1, None
    for name, mine in ours:
        if args.component == "text":  # the three encoders follow each other, each beginning with its embeddings
            encoder += name in ("text_model.embeddings", "encoder.embed_tokens")
            wanted = reference.get(f"{encoder}/{name}", reference.get(name))
            wanted = reference.get(f"{encoder}/text_model.{name}") if wanted is None else wanted
        else:
            wanted = reference.get(name)
        if wanted is None or wanted.shape != mine.shape:
            print(f"  {'-':>9}  {name}  (no module of this name and shape)")
            continue
        e = error(mine, wanted)
        print(f"  {e:9.2e}  {name}")
        last = name
        if e > args.tolerance and bad is None:
            bad = name
    if last is None:
        sys.exit("parity: nothing could be compared")
    print(f"first above {args.tolerance:g}: {bad}" if bad else f"all within {args.tolerance:g}")
    sys.exit(bad is not None)


main()
