"""SANA as diffusers has it, with random weights (families.py says what a family's module has)."""

import torch
from diffusers import AutoencoderDC, FlowMatchEulerDiscreteScheduler, SanaPipeline, SanaTransformer2DModel
from sd3 import randomise
from transformers import Gemma2Config, Gemma2Model
from vocabularies import gemma_folder

LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "linear_1", "linear_2", "time_embed.linear", "proj_out"]
TRANSFORMER = dict(patch_size=1, in_channels=4, out_channels=4, num_layers=2, num_attention_heads=3, attention_head_dim=8,
                   num_cross_attention_heads=2, cross_attention_head_dim=12, cross_attention_dim=24, caption_channels=20, sample_size=32,
                   qk_norm="rms_norm_across_heads")  # fmt: skip
VAE = dict(latent_channels=4, attention_head_dim=4, block_out_channels=(8, 16), block_types=("ResBlock", "EfficientViTBlock"),
           qkv_multiscales=((), (5,)), layers_per_block=(1, 1), downsample_block_type="Conv", upsample_block_type="interpolate",
           scaling_factor=0.41407)  # fmt: skip
TEXT = dict(hidden_size=20, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8, query_pre_attn_scalar=8)
CHI = SanaPipeline.__call__.__wrapped__.__defaults__[-1]  # complex_human_instruction


def folders(at):
    """The tokenizer that every pipeline shares, and how many tokens it knows."""
    tokenizer = gemma_folder(at / "tokenizer", CHI)
    return at, tokenizer, len(tokenizer)


def make_transformer(seed=0, **changes):
    return randomise(SanaTransformer2DModel(**{**TRANSFORMER, **changes}), seed).eval()


def make_vae(seed=0, **changes):
    """What says nothing of a half is of both."""
    c = {**VAE, **changes}
    for key in "block_types", "block_out_channels", "layers_per_block", "qkv_multiscales":
        both = c.pop(key)
        for half in "encoder", "decoder":
            c.setdefault(f"{half}_{key}", both)
    return randomise(AutoencoderDC(**c), seed).eval()


def make(words, transformer={}, vae={}, text={}, scheduler=dict(shift=3.0), seed=0, **_):
    _, tokenizer, size = words
    conf = Gemma2Config(vocab_size=size, **{**TEXT, **text})
    pipe = SanaPipeline(
        tokenizer=tokenizer, text_encoder=randomise(Gemma2Model(conf), seed + 1).eval(), vae=make_vae(seed + 2, **vae),
        transformer=make_transformer(seed + 9, **transformer), scheduler=FlowMatchEulerDiscreteScheduler(**scheduler),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save(pipe, words, folder):
    pipe.save_pretrained(folder)


def counted(embeds, mask):
    """Rows that count come first, zeros fill up."""
    rows = [e[m.bool()] for e, m in zip(embeds, mask)]
    longest = max(len(r) for r in rows)
    return torch.stack([torch.nn.functional.pad(r, (0, 0, 0, longest - len(r))) for r in rows]), torch.tensor([len(r) for r in rows])


def text(pipe, prompts, length):
    with torch.no_grad():
        embeds, mask, _, _ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False, max_sequence_length=length, complex_human_instruction=CHI)
    embeds, lengths = counted(embeds, mask)
    return dict(prompt_embeds=embeds, lengths=lengths)


def latents(pipe, size, n, seed=5):
    c, f = pipe.transformer.config.in_channels, pipe.vae_scale_factor
    return torch.randn(n, c, size[0] // f, size[1] // f, generator=torch.Generator().manual_seed(seed))


def inputs(pipe, size, n, lengths=(5, 11, 1), seed=3):
    g = torch.Generator().manual_seed(seed)
    lengths = torch.tensor((list(lengths) * n)[:n])
    rows = torch.randn(n, int(lengths.max()), pipe.transformer.config.caption_channels, generator=g)
    for row, k in zip(rows, lengths.tolist()):
        row[k:] = 0
    return dict(hidden_states=latents(pipe, size, n), timestep=1000 * torch.rand(n, generator=g), encoder_hidden_states=rows, lengths=lengths)


def velocity(transformer, given, dtype=torch.float32):
    rows = given["encoder_hidden_states"]
    mask = torch.arange(rows.shape[1]) < given["lengths"][:, None]
    scale = transformer.config.timestep_scale
    return transformer(given["hidden_states"].to(dtype), encoder_hidden_states=rows.to(dtype), timestep=given["timestep"] * scale,
                       encoder_attention_mask=mask.to(dtype), return_dict=False)[0]  # fmt: skip


def image(pipe, prompts, start, size, guidance, length, negative, steps):
    """Latents are float32 always, and may be smaller than the pipeline asks for."""
    return pipe(prompts, negative_prompt=negative, height=32, width=32, num_inference_steps=steps, guidance_scale=guidance,
                latents=start.float(), max_sequence_length=length, use_resolution_binning=False, output_type="latent").images  # fmt: skip


def decode(vae, x0):
    with torch.no_grad():
        return vae.decode(x0 / vae.config.scaling_factor, return_dict=False)[0]


def encode(vae, pixels):
    with torch.no_grad():
        return vae.encode(pixels, return_dict=False)[0] * vae.config.scaling_factor
