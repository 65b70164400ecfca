"""Random Z-Image transformers and pipelines as diffusers makes them, and what they compute."""

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from sd3 import randomise
from tokenizers import AddedToken
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model
from vocabularies import byte_names

TINY = dict(all_patch_size=(2,), all_f_patch_size=(1,), in_channels=4, dim=48, n_layers=2, n_refiner_layers=1, n_heads=3, n_kv_heads=3, cap_feat_dim=24,
            axes_dims=[4, 6, 6], axes_lens=[256, 32, 32])  # fmt: skip


def make_transformer(seed=0, **changes):
    return randomise(ZImageTransformer2DModel(**{**TINY, **changes}), seed).eval()


def make_inputs(model, lengths=(5, 40, 33), height=6, width=10, seed=1):
    """As `contraflow probe transformer` takes them: rows of a caption behind its length are zeros."""
    c, g = model.config, torch.Generator().manual_seed(seed)
    text = torch.randn(len(lengths), max(lengths), c.cap_feat_dim, generator=g)
    for row, n in zip(text, lengths):
        row[n:] = 0
    return dict(
        hidden_states=torch.randn(len(lengths), c.in_channels, height, width, generator=g), timestep=1000 * torch.rand(len(lengths), generator=g),
        encoder_hidden_states=text, lengths=torch.tensor(lengths),
    )  # fmt: skip


def velocity(model, inputs, dtype=torch.float32):
    """As ZImagePipeline calls it: time runs from noise to image, and so does the answer; captions of one batch differ in length."""
    x, text = inputs["hidden_states"].to(dtype), inputs["encoder_hidden_states"].to(dtype)
    captions = [row[:n] for row, n in zip(text, inputs["lengths"].tolist())]
    out = model(list(x.unsqueeze(2).unbind(0)), (1000 - inputs["timestep"]) / 1000, captions, return_dict=False, patch_size=model.config.all_patch_size[0])[0]
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


def make_pipeline(transformer={}, text={}, vae={}, scheduler={}, seed=0, **_):
    """A ZImagePipeline with random weights, no smaller than its parts allow."""
    tokenizer = make_tokenizer()
    conf = dict(vocab_size=len(tokenizer), hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=8)
    kl = dict(block_out_channels=(8, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4, use_quant_conv=False, use_post_quant_conv=False,
              scaling_factor=0.3611, shift_factor=0.1159)  # fmt: skip
    kl.update(vae)
    n = len(kl["block_out_channels"])
    kl.update(down_block_types=("DownEncoderBlock2D",) * n, up_block_types=("UpDecoderBlock2D",) * n)
    conf = Qwen3Config(**{**conf, **text})
    parts = [randomise(m, seed + i).eval() for i, m in enumerate([Qwen3Model(conf), AutoencoderKL(**kl)])]
    pipe = ZImagePipeline(
        transformer=make_transformer(seed + 2, in_channels=kl["latent_channels"], cap_feat_dim=conf.hidden_size, **transformer), vae=parts[1],
        text_encoder=parts[0], tokenizer=tokenizer, scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **scheduler}),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe
