"""FLUX.1 as diffusers has it, with random weights (families.py says what a family's module has)."""

import inspect
import re

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from sd3 import randomise
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer
from vocabularies import clip_folder, t5_folder

DEV = dict(shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096)
LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "ff.net.0.proj", "ff.net.2",
          "ff_context.net.0.proj", "ff_context.net.2", "norm1.linear", "norm1_context.linear", "norm.linear", "proj_mlp", "proj_out",
          "norm_out.linear", "x_embedder", "context_embedder", "linear_1", "linear_2"]  # fmt: skip
TRANSFORMER = dict(patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
                   joint_attention_dim=24, pooled_projection_dim=20, guidance_embeds=True, axes_dims_rope=(4, 6, 6))  # fmt: skip


def folders(at):
    """Tokenizers that every pipeline shares, and their sizes."""
    return at, clip_folder(at / "tokenizer", merges=200), t5_folder(at / "tokenizer_2", 400)


def make_transformer(seed=0, **changes):
    return randomise(FluxTransformer2DModel(**{**TRANSFORMER, **changes}), seed).eval()


def make(words, transformer={}, vae={}, clip={}, t5={}, scheduler=DEV, seed=0, **_):
    _, clip_size, t5_size = words
    conf = dict(vocab_size=clip_size, hidden_size=20, projection_dim=20, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
                max_position_embeddings=77, eos_token_id=clip_size - 1)  # fmt: skip
    t5_conf = dict(vocab_size=t5_size, d_model=24, d_kv=8, d_ff=40, num_layers=2, num_heads=3, feed_forward_proj="gated-gelu")
    kl = {**dict(block_out_channels=(8, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4, use_quant_conv=False,
              use_post_quant_conv=False, shift_factor=0.1159, scaling_factor=0.3611), **vae}  # fmt: skip
    n = len(kl["block_out_channels"])
    kl.update(down_block_types=("DownEncoderBlock2D",) * n, up_block_types=("UpDecoderBlock2D",) * n)
    parts = [CLIPTextModel(CLIPTextConfig(**{**conf, **clip})), T5EncoderModel(T5Config(**{**t5_conf, **t5})), AutoencoderKL(**kl)]
    for i, part in enumerate(parts):
        randomise(part, seed + i).eval()
        if hasattr(part, "tie_weights"):
            part.tie_weights()
    pipe = FluxPipeline(
        transformer=make_transformer(seed + 9, **transformer), vae=parts[2], text_encoder=parts[0], text_encoder_2=parts[1],
        tokenizer=CLIPTokenizer.from_pretrained(words[0] / "tokenizer"), tokenizer_2=T5Tokenizer.from_pretrained(words[0] / "tokenizer_2"),
        scheduler=FlowMatchEulerDiscreteScheduler(**scheduler),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save(pipe, words, folder):
    pipe.save_pretrained(folder)
    for name in "tokenizer", "tokenizer_2":
        for file in (words[0] / name).iterdir():
            (folder / name / file.name).write_bytes(file.read_bytes())


def text(pipe, prompts, length):
    with torch.no_grad():
        embeds, pooled, _ = pipe.encode_prompt(prompts, max_sequence_length=length)
    return dict(prompt_embeds=embeds, pooled_prompt_embeds=pooled, lengths=torch.full((len(prompts),), float(length)))


def latents(pipe, size, n, seed=5):
    c, f = pipe.transformer.config.in_channels // 4, pipe.vae_scale_factor
    return torch.randn(n, c, size[0] // f, size[1] // f, generator=torch.Generator().manual_seed(seed))


def inputs(pipe, size, n, tokens=7, seed=3):
    c, g = pipe.transformer.config, torch.Generator().manual_seed(seed)
    given = dict(
        hidden_states=latents(pipe, size, n), timestep=1000 * torch.rand(n, generator=g),
        encoder_hidden_states=torch.randn(n, tokens, c.joint_attention_dim, generator=g),
        pooled_projections=torch.randn(n, c.pooled_projection_dim, generator=g),
    )  # fmt: skip
    if c.guidance_embeds:
        given["guidance"] = 1 + 4 * torch.rand(n, generator=g)
    return given


def pack(x):
    return FluxPipeline._pack_latents(x, *x.shape)


def unpack(x, size):
    return FluxPipeline._unpack_latents(x, *size, vae_scale_factor=1)


def velocity(transformer, given, dtype=torch.float32):
    x, text = given["hidden_states"], given["encoder_hidden_states"]
    h, w = x.shape[2:]
    v = transformer(
        hidden_states=pack(x.to(dtype)), timestep=given["timestep"] / 1000, guidance=given.get("guidance"),
        pooled_projections=given["pooled_projections"].to(dtype), encoder_hidden_states=text.to(dtype), txt_ids=torch.zeros(text.shape[1], 3),
        img_ids=FluxPipeline._prepare_latent_image_ids(1, h // 2, w // 2, "cpu", torch.float32), return_dict=False,
    )[0]  # fmt: skip
    return unpack(v, (h, w))


def image(pipe, prompts, start, size, guidance, length, negative, steps):
    """Guidance is dev's input; for schnell it is the true one, of two forwards."""
    if pipe.transformer.config.guidance_embeds:
        scale = dict(guidance_scale=guidance)
    else:
        scale = dict(true_cfg_scale=guidance, negative_prompt=[negative] * len(prompts))
    out = pipe(prompts, latents=pack(start), height=size[0], width=size[1], num_inference_steps=steps, max_sequence_length=length,
               output_type="latent", **scale).images  # fmt: skip
    return unpack(out, start.shape[2:])


# ---- The original release ------------------------------------------------------------------------------------------------------


def with_width(function, D):
    """A converter of diffusers, which has FLUX.1's width written into it, for a small model's."""
    source, names = inspect.getsource(function), dict(vars(inspect.getmodule(function)))
    assert "3072" in source
    source = re.sub(r"\b12288\b", str(4 * D), re.sub(r"\b3072\b", str(D), source))
    exec(compile(source, "converter", "exec"), names)
    return names[function.__name__]


def original_zeros(model):
    """A checkpoint in the original release's names, all zero."""
    c, t = model.config, {}
    D = c.num_attention_heads * c.attention_head_dim

    def linear(name, out, inner):
        t[name + ".weight"], t[name + ".bias"] = torch.zeros(out, inner), torch.zeros(out)

    for name, inner in ("time_in", 256), ("vector_in", c.pooled_projection_dim), *([("guidance_in", 256)] if c.guidance_embeds else []):
        linear(name + ".in_layer", D, inner), linear(name + ".out_layer", D, D)
    linear("img_in", D, c.in_channels), linear("txt_in", D, c.joint_attention_dim)
    for i in range(c.num_layers):
        for s in "img", "txt":
            at = f"double_blocks.{i}.{s}_"
            linear(at + "mod.lin", 6 * D, D), linear(at + "attn.qkv", 3 * D, D), linear(at + "attn.proj", D, D)
            linear(at + "mlp.0", 4 * D, D), linear(at + "mlp.2", D, 4 * D)
            for norm in "query_norm", "key_norm":
                t[f"{at}attn.norm.{norm}.scale"] = torch.zeros(c.attention_head_dim)
    for i in range(c.num_single_layers):
        at = f"single_blocks.{i}."
        linear(at + "modulation.lin", 3 * D, D), linear(at + "linear1", 7 * D, D), linear(at + "linear2", D, 5 * D)
        for norm in "query_norm", "key_norm":
            t[f"{at}norm.{norm}.scale"] = torch.zeros(c.attention_head_dim)
    linear("final_layer.linear", c.in_channels, D), linear("final_layer.adaLN_modulation.1", 2 * D, D)
    return t


def from_original(tensors, model):
    """Those as diffusers names them."""
    D = model.config.num_attention_heads * model.config.attention_head_dim
    return with_width(convert_flux_transformer_checkpoint_to_diffusers, D)(dict(tensors))
