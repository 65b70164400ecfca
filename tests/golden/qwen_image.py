"""Qwen-Image as diffusers has it, with random weights (families.py says what a family's module has)."""

import math

import torch
from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImagePipeline, QwenImageTransformer2DModel
from sd3 import randomise
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from vocabularies import byte_names, corpus, learn_merges, qwen_folder

SCHEDULER = dict(shift=1.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, base_image_seq_len=256, max_image_seq_len=8192,
                 shift_terminal=0.02)  # fmt: skip
LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "img_mlp.net.0.proj", "img_mlp.net.2",
          "txt_mlp.net.0.proj", "txt_mlp.net.2", "img_mod.1", "txt_mod.1", "norm_out.linear", "proj_out", "img_in", "txt_in", "linear_1",
          "linear_2"]  # fmt: skip
TRANSFORMER = dict(patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=24,
                   axes_dims_rope=(4, 6, 6))  # fmt: skip
VAE = dict(base_dim=8, z_dim=4, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[False, True])
MODULATION = 0.5  # families.flatten: norms of single pixels do not enlarge what differs between them
ROPE = dict(rope_theta=1e6, rope_type="default", mrope_section=[1, 1, 2])
VISION = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=24, fullatt_block_indexes=[0])
QUESTION = (
    "system Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the objects and background: "
    "user assistant"
)
IDS = dict(image_token_id=3, video_token_id=4, vision_start_token_id=5, vision_end_token_id=6)


def folders(at):
    """The tokenizer that every pipeline shares, and how many tokens it knows."""
    names, order = byte_names()
    # the question in about as many tokens as Qwen's own vocabulary makes of it, so that prompts are of different lengths
    pairs = learn_merges([QUESTION] * 50 + corpus(400, seed=5), 400)
    vocab = {t: i for i, t in enumerate(dict.fromkeys([names[b] for b in order] + [a + b for a, b in pairs]))}
    tokenizer = qwen_folder(at / "tokenizer", vocabulary=(vocab, pairs))
    return at, tokenizer, len(tokenizer)


def make_transformer(seed=0, **changes):
    return randomise(QwenImageTransformer2DModel(**{**TRANSFORMER, **changes}), seed).eval()


def make_vae(seed=0, **changes):
    c = {**VAE, **changes}
    g = torch.Generator().manual_seed(seed)
    c.setdefault("latents_mean", torch.randn(c["z_dim"], generator=g).tolist())
    c.setdefault("latents_std", (0.5 + 2 * torch.rand(c["z_dim"], generator=g)).tolist())
    vae = randomise(AutoencoderKLQwenImage(**c), seed).eval()
    with torch.no_grad():  # or all that it paints is cut off
        vae.decoder.conv_out.weight.mul_(0.3)
    return vae


def make(words, transformer={}, vae={}, text={}, scheduler=SCHEDULER, seed=0, **_):
    _, tokenizer, size = words
    conf = {**dict(vocab_size=size, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1,
                   rope_parameters=ROPE), **text}  # fmt: skip
    vision = {**VISION, "out_hidden_size": conf["hidden_size"]}
    encoder = randomise(Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=conf, vision_config=vision, **IDS)), seed + 1).eval()
    pipe = QwenImagePipeline(
        transformer=make_transformer(seed + 9, **transformer), vae=make_vae(seed + 2, **vae), text_encoder=encoder, tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(**scheduler),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save(pipe, words, folder):
    pipe.save_pretrained(folder)


def text(pipe, prompts, length):
    with torch.no_grad():
        embeds, mask = pipe.encode_prompt(prompts, max_sequence_length=length)
    n = torch.full((len(prompts),), embeds.shape[1]) if mask is None else mask.sum(1)
    return dict(prompt_embeds=embeds, lengths=n.float())


def scale(vae):
    return 2 ** (len(vae.config.dim_mult) - 1)


def latents(pipe, size, n, seed=5):
    c, f = pipe.transformer.config.in_channels // 4, pipe.vae_scale_factor
    return torch.randn(n, c, size[0] // f, size[1] // f, generator=torch.Generator().manual_seed(seed))


def inputs(pipe, size, n, tokens=7, seed=3, lengths=True):
    """Prompts of different lengths, the rest of a row zeros, where n is above 1."""
    c, g = pipe.transformer.config, torch.Generator().manual_seed(seed)
    embeds = torch.randn(n, tokens, c.joint_attention_dim, generator=g)
    given = dict(hidden_states=latents(pipe, size, n), timestep=1000 * torch.rand(n, generator=g), encoder_hidden_states=embeds)
    if lengths and n > 1:
        given["lengths"] = torch.tensor([tokens, *torch.randint(1, tokens, (n - 1,), generator=g).tolist()])
        for row, count in zip(embeds, given["lengths"]):
            row[count:] = 0
    return given


def pack(x):
    return QwenImagePipeline._pack_latents(x, *x.shape)


def unpack(x, size):
    return QwenImagePipeline._unpack_latents(x, *size, vae_scale_factor=1)[:, :, 0]


def velocity(transformer, given, dtype=torch.float32):
    x, embeds, mask = given["hidden_states"], given["encoder_hidden_states"], None
    h, w = x.shape[2:]
    if "lengths" in given:
        mask = torch.arange(embeds.shape[1]) < given["lengths"][:, None]
    v = transformer(
        hidden_states=pack(x.to(dtype)), timestep=given["timestep"] / 1000, encoder_hidden_states=embeds.to(dtype), encoder_hidden_states_mask=mask,
        img_shapes=[[(1, h // 2, w // 2)]] * len(x), return_dict=False,
    )[0]  # fmt: skip
    return unpack(v, (h, w))


def image(pipe, prompts, start, size, guidance, length, negative, steps):
    out = pipe(prompts, negative_prompt=[negative] * len(prompts), true_cfg_scale=guidance, latents=pack(start), height=size[0], width=size[1],
               num_inference_steps=steps, max_sequence_length=length, output_type="latent").images  # fmt: skip
    return unpack(out, start.shape[2:])


def statistics(vae):
    return [torch.tensor(x)[:, None, None] for x in (vae.config.latents_mean, vae.config.latents_std)]


def decode(vae, x0):
    mean, std = statistics(vae)
    with torch.no_grad():
        return vae.decode((x0 * std + mean).to(x0.dtype)[:, :, None], return_dict=False)[0][:, :, 0]


def encode(vae, pixels):
    mean, std = statistics(vae)
    with torch.no_grad():
        return (vae.encode(pixels[:, :, None]).latent_dist.mean[:, :, 0] - mean) / std


def angles(height, width, tokens, axes, theta=10000.0):
    """The formula in float64: of the image and of the text."""

    def turned(at, d):
        return [at * theta ** (-2 * j / d) for j in range(d // 2)]

    top, left, end = -math.ceil(height / 2), -math.ceil(width / 2), max(height // 2, width // 2)
    at = [(0, top + y, left + x) for y in range(height) for x in range(width)] + [(end + n,) * 3 for n in range(tokens)]
    return torch.tensor([[a for p, d in zip(where, axes) for a in turned(p, d)] for where in at], dtype=torch.float64)
