"""Z-Image as diffusers has it, with random weights (families.py says what a family's module has)."""

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from sd3 import randomise
from tokenizers import AddedToken
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model
from vocabularies import byte_names

# LoRA's names of all modules but those within AdaLN, whose place is a number.
LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "w1", "w2", "w3", "mlp.0", "mlp.2", "cap_embedder.1", "all_x_embedder.2-1", "all_final_layer.2-1.linear"]
TRANSFORMER = dict(all_patch_size=(2,), all_f_patch_size=(1,), in_channels=4, dim=48, n_layers=2, n_refiner_layers=1, n_heads=3, n_kv_heads=3,
                   cap_feat_dim=24, axes_dims=[4, 6, 6], axes_lens=[256, 32, 32])  # fmt: skip


def make_transformer(seed=0, **changes):
    return randomise(ZImageTransformer2DModel(**{**TRANSFORMER, **changes}), seed).eval()


def captions(channels, lengths, seed):
    """Rows of different lengths with zeros behind them."""
    text = torch.randn(len(lengths), max(lengths), channels, generator=torch.Generator().manual_seed(seed))
    for row, n in zip(text, lengths):
        row[n:] = 0
    return dict(encoder_hidden_states=text, lengths=torch.tensor(lengths))


def latents(pipe, size, n, seed=5):
    c, f = pipe.transformer.config.in_channels, pipe.vae_scale_factor
    return torch.randn(n, c, size[0] // f, size[1] // f, generator=torch.Generator().manual_seed(seed))


def inputs(pipe, size, n, lengths=(5, 40, 33), seed=3):
    t = 1000 * torch.rand(n, generator=torch.Generator().manual_seed(seed))
    return dict(hidden_states=latents(pipe, size, n), timestep=t, **captions(pipe.transformer.config.cap_feat_dim, list(lengths)[:n], seed))


def velocity(transformer, given, dtype=torch.float32):
    """As the pipeline calls it: time runs from noise to image, and so does the answer."""
    x, text = given["hidden_states"].to(dtype), given["encoder_hidden_states"].to(dtype)
    rows = [row[:n] for row, n in zip(text, given["lengths"].tolist())]
    time, patch = (1000 - given["timestep"]) / 1000, transformer.config.all_patch_size[0]
    out = transformer(list(x.unsqueeze(2).unbind(0)), time, rows, return_dict=False, patch_size=patch)[0]
    return -torch.stack([v.float() for v in out]).squeeze(2)


# ---- Whole pipelines --------------------------------------------------------------------------------

ADDED = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(merges=60):
    """A Qwen2Tokenizer over bytes, with merges of what the tests' prompts are made of."""
    names, order = byte_names()
    words, pairs = " a photo of red circle two dogs left the user assistant".split(" "), []
    for word in words:
        pieces = [names[b] for b in (" " + word).encode()]
        while len(pieces) > 1 and len(pairs) < merges:
            if (pieces[0], pieces[1]) not in pairs:
                pairs.append((pieces[0], pieces[1]))
            pieces[:2] = ["".join(pieces[:2])]
    tokens = list(dict.fromkeys([names[b] for b in order] + ["".join(p) for p in pairs]))
    tokenizer = Qwen2Tokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=pairs, pad_token="<|endoftext|>", eos_token="<|im_end|>")
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=True) for t in ADDED])
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make(_words=None, transformer={}, text={}, vae={}, scheduler={}, seed=0, **_):
    tokenizer = make_tokenizer()
    conf = {**dict(vocab_size=len(tokenizer), hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
              num_key_value_heads=2, head_dim=8), **text}  # fmt: skip
    kl = {**dict(block_out_channels=(8, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4, use_quant_conv=False,
              use_post_quant_conv=False, shift_factor=0.1159, scaling_factor=0.3611), **vae}  # fmt: skip
    n = len(kl["block_out_channels"])
    kl.update(down_block_types=("DownEncoderBlock2D",) * n, up_block_types=("UpDecoderBlock2D",) * n)
    parts = [randomise(m, seed + i).eval() for i, m in enumerate([Qwen3Model(Qwen3Config(**conf)), AutoencoderKL(**kl)])]
    pipe = ZImagePipeline(
        transformer=make_transformer(seed + 9, in_channels=kl["latent_channels"], cap_feat_dim=conf["hidden_size"], **transformer), vae=parts[1],
        text_encoder=parts[0], tokenizer=tokenizer, scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **scheduler}),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save(pipe, _words, folder):
    pipe.save_pretrained(folder)


def text(pipe, prompts, length):
    """Each prompt as long as it is, filled up with zeros to a multiple of 32 of the longest."""
    with torch.no_grad():  # the pipeline writes into the list that it is given
        rows = pipe.encode_prompt(list(prompts), do_classifier_free_guidance=False, max_sequence_length=length)[0]
    longest = -(-max(len(r) for r in rows) // 32) * 32
    filled = torch.stack([torch.nn.functional.pad(r, (0, 0, 0, longest - len(r))) for r in rows])
    return dict(prompt_embeds=filled, lengths=torch.tensor([len(r) for r in rows]))


def image(pipe, prompts, start, size, guidance, length, negative, steps):
    """Its scale is added to the plain velocity: one less than ours.  Latents are float32 always."""
    return pipe(list(prompts), height=size[0], width=size[1], num_inference_steps=steps, guidance_scale=guidance - 1, latents=start.float(),
                negative_prompt=[negative] * len(prompts), max_sequence_length=length, output_type="latent").images  # fmt: skip
