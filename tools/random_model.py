#!/usr/bin/env python3
"""Makes a Stable Diffusion 3.5 Medium of real size with random weights, to measure memory and speed without the real ones.

    .venv/bin/python tools/random_model.py build-medium/model [--t5-layers 2] [--layers 24]

Shapes and configurations are stabilityai/stable-diffusion-3.5-medium's, in bfloat16 (transformer 2.24 G parameters, CLIP-L
0.12 G, CLIP-G 0.69 G, VAE 0.08 G); T5-XXL is cut to a few of its 24 layers (0.13 G and 0.19 G each).  CLIP's vocabulary is the
real one, from open_clip_torch; T5's is trained on a few words, which is all that random weights need.  It needs what
tools/setup.sh installs.
"""

import argparse
import pathlib
import sys

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/golden"))
from vocabularies import clip_folder, t5_folder  # noqa: E402


def clip(width, heads, layers, act, projection, pad):
    return CLIPTextModelWithProjection(CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads,
        hidden_act=act, projection_dim=projection, pad_token_id=pad, bos_token_id=0, eos_token_id=2))  # fmt: skip


def parts(layers, t5_layers):
    yield "transformer", "diffusion_pytorch_model", lambda: SD3Transformer2DModel(
        sample_size=128, patch_size=2, in_channels=16, out_channels=16, num_layers=layers, attention_head_dim=64,
        num_attention_heads=24, joint_attention_dim=4096, caption_projection_dim=1536, pooled_projection_dim=2048,
        pos_embed_max_size=384, dual_attention_layers=tuple(range(min(13, layers))), qk_norm="rms_norm")  # fmt: skip
    yield "vae", "diffusion_pytorch_model", lambda: AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=16, sample_size=1024, scaling_factor=1.5305,
        shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4)  # fmt: skip
    yield "text_encoder", "model", lambda: clip(768, 12, 12, "quick_gelu", 768, 1)
    yield "text_encoder_2", "model", lambda: clip(1280, 20, 32, "gelu", 1280, 1)
    yield "text_encoder_3", "model", lambda: T5EncoderModel(T5Config(
        vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=t5_layers, num_heads=64, feed_forward_proj="gated-gelu"))


def fill(model, seed):
    """Values by the shapes of a model without storage: as large as training leaves them, so that nothing overflows."""
    g, out = torch.Generator().manual_seed(seed), {}
    for name, p in model.state_dict().items():
        if not p.is_floating_point() or name in ("encoder.embed_tokens.weight",):
            continue
        noise = torch.randn(p.shape, generator=g)
        norm = ("norm" in name or "layer_norm" in name) and p.dim() == 1 and name.endswith("weight")
        out[name] = (1 + 0.02 * noise if norm else noise * (0.5 / p[0].numel() ** 0.5 if p.dim() > 1 else 0.02)).bfloat16()
    return out


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("folder", type=pathlib.Path)
    args.add_argument("--layers", type=int, default=24, help="blocks of the transformer")
    args.add_argument("--t5-layers", type=int, default=2, help="layers of T5 (the real one has 24)")
    args = args.parse_args()
    args.folder.mkdir(parents=True)
    for i, (folder, stem, make) in enumerate(parts(args.layers, args.t5_layers)):
        with torch.device("meta"):
            model = make()
        (args.folder / folder).mkdir()
        getattr(model, "save_config", getattr(model.config, "save_pretrained", None))(args.folder / folder)
        tensors = fill(model, i)
        save_file(tensors, args.folder / folder / f"{stem}.safetensors", {"format": "pt"})
        print(f"{folder}: {sum(t.numel() for t in tensors.values()) / 1e9:.2f} G parameters", flush=True)
    clip_folder(args.folder / "tokenizer")
    clip_folder(args.folder / "tokenizer_2", pad="!")
    t5_folder(args.folder / "tokenizer_3", 400)
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(args.folder / "scheduler")
    (args.folder / "model_index.json").write_text(
        '{"_class_name": "StableDiffusion3Pipeline", "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],\n'
        ' "text_encoder": ["transformers", "CLIPTextModelWithProjection"], "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],\n'
        ' "text_encoder_3": ["transformers", "T5EncoderModel"], "tokenizer": ["transformers", "CLIPTokenizer"],\n'
        ' "tokenizer_2": ["transformers", "CLIPTokenizer"], "tokenizer_3": ["transformers", "T5TokenizerFast"],\n'
        ' "transformer": ["diffusers", "SD3Transformer2DModel"], "vae": ["diffusers", "AutoencoderKL"]}\n'
    )


if __name__ == "__main__":
    main()
