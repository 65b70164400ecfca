"""FLUX.2-klein as diffusers has it, with random weights (families.py says what a family's module has)."""

import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Transformer2DModel
from flux import DEV
from sd3 import randomise
from transformers import Qwen3Config, Qwen3ForCausalLM
from vocabularies import qwen_folder

SCHEDULER = dict(DEV, shift=3.0)
LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "ff.linear_in", "ff.linear_out",
          "ff_context.linear_in", "ff_context.linear_out", "to_qkv_mlp_proj", "single_transformer_blocks.0.attn.to_out",
          "single_transformer_blocks.1.attn.to_out", "double_stream_modulation_img.linear",
          "double_stream_modulation_txt.linear", "single_stream_modulation.linear", "norm_out.linear", "proj_out", "x_embedder",
          "context_embedder", "linear_1", "linear_2"]  # fmt: skip
TRANSFORMER = dict(patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
                   joint_attention_dim=72, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False)  # fmt: skip
CHAT = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}")  # fmt: skip
MODULATION = 0.3  # families.flatten: latents are multiplied by a deviation below 1 here, not divided by 0.36


def folders(at):
    """The tokenizer that every pipeline shares, and how many tokens it knows."""
    tokenizer = qwen_folder(at / "tokenizer")
    tokenizer.chat_template = CHAT
    return at, tokenizer, len(tokenizer)


def make_transformer(seed=0, **changes):
    return randomise(Flux2Transformer2DModel(**{**TRANSFORMER, **changes}), seed).eval()


def make_vae(seed=0, **changes):
    c = {**dict(block_out_channels=(8, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4), **changes}
    n = len(c["block_out_channels"])
    vae = AutoencoderKLFlux2(down_block_types=("DownEncoderBlock2D",) * n, up_block_types=("UpDecoderBlock2D",) * n, **c)
    randomise(vae, seed).eval()
    with torch.no_grad():
        vae.bn.running_var.abs_().add_(0.3)
    return vae


def make(words, transformer={}, vae={}, text={}, scheduler=SCHEDULER, seed=0, **_):
    _, tokenizer, size = words
    conf = dict(vocab_size=size, hidden_size=24, intermediate_size=40, num_hidden_layers=28, num_attention_heads=4, num_key_value_heads=2,
                head_dim=8, tie_word_embeddings=True, rope_parameters=dict(rope_theta=1e6, rope_type="default"))  # fmt: skip
    encoder = randomise(Qwen3ForCausalLM(Qwen3Config(**{**conf, **text})), seed + 1).eval()
    encoder.tie_weights()
    pipe = Flux2KleinPipeline(
        transformer=make_transformer(seed + 9, **transformer), vae=make_vae(seed + 2, **vae), text_encoder=encoder, tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(**scheduler), is_distilled=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save(pipe, words, folder):
    pipe.save_pretrained(folder)


def text(pipe, prompts, length):
    with torch.no_grad():
        embeds, _ = pipe.encode_prompt(prompts, max_sequence_length=length)
    return dict(prompt_embeds=embeds, lengths=torch.full((len(prompts),), float(length)))


def latents(pipe, size, n, seed=5):
    f = 2 * pipe.vae_scale_factor
    shape = n, pipe.transformer.config.in_channels, size[0] // f, size[1] // f
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(pipe, size, n, tokens=7, seed=3):
    c, g = pipe.transformer.config, torch.Generator().manual_seed(seed)
    given = dict(hidden_states=latents(pipe, size, n), timestep=1000 * torch.rand(n, generator=g),
                 encoder_hidden_states=torch.randn(n, tokens, c.joint_attention_dim, generator=g))  # fmt: skip
    if c.guidance_embeds:
        given["guidance"] = 1 + 4 * torch.rand(n, generator=g)
    return given


def velocity(transformer, given, dtype=torch.float32):
    x, embeds = given["hidden_states"], given["encoder_hidden_states"]
    v = transformer(
        hidden_states=x.to(dtype).flatten(2).transpose(1, 2), timestep=given["timestep"] / 1000, guidance=given.get("guidance"),
        encoder_hidden_states=embeds.to(dtype), txt_ids=Flux2KleinPipeline._prepare_text_ids(embeds),
        img_ids=Flux2KleinPipeline._prepare_latent_ids(x), return_dict=False,
    )[0]  # fmt: skip
    return v.transpose(1, 2).unflatten(2, x.shape[2:])


def statistics(vae):
    return vae.bn.running_mean[:, None, None], torch.sqrt(vae.bn.running_var + vae.config.batch_norm_eps)[:, None, None]


def image(pipe, prompts, start, size, guidance, length, negative, steps):
    """The pipeline's latents are the autoencoder's own; back to the sampler's."""
    with torch.no_grad():
        out = pipe(prompt=prompts, negative_prompt_embeds=pipe.encode_prompt([negative] * len(prompts), max_sequence_length=length)[0], latents=start,
                   guidance_scale=guidance, height=size[0], width=size[1], num_inference_steps=steps, max_sequence_length=length,
                   output_type="latent").images  # fmt: skip
        mean, std = statistics(pipe.vae)
        return (pipe._patchify_latents(out) - mean) / std


def decode(vae, x0):
    mean, std = statistics(vae)
    with torch.no_grad():
        return vae.decode(Flux2KleinPipeline._unpatchify_latents(x0 * std + mean), return_dict=False)[0]


def encode(vae, pixels):
    mean, std = statistics(vae)
    with torch.no_grad():
        return (Flux2KleinPipeline._patchify_latents(vae.encode(pixels).latent_dist.mean) - mean) / std
