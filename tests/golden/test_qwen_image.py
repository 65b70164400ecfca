"""models/qwen_image/ against diffusers: tiny pipelines of random weights, every component and whole images; gradients against PEFT."""

import pytest
import torch
import families
import qwen_image


# name: (changes of the transformer, targets, rank, alpha)
ADAPTERS = {
    "attention": (dict(), ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"], 4, 8),
    "verl-omni": (dict(num_layers=1), ["to_q", "to_k", "to_v", "img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2"], 3, 5),
    "one part": (dict(), ["transformer_blocks.1.attn.add_v_proj"], 2, 7.5),
    "conditioning": (dict(), ["img_mod.1", "txt_mod.1", "linear_1", "linear_2", "img_in", "txt_in", "norm_out.linear"], 2, 4),
    "everything": (dict(num_layers=3, num_attention_heads=3), qwen_image.LAYERS, 2, 3),
}  # fmt: skip


@pytest.mark.parametrize("name", ADAPTERS)
def test_gradients(tmp_path, name):
    changes, targets, rank, alpha = ADAPTERS[name]

    class Pipe:
        transformer, vae_scale_factor = qwen_image.make_transformer(4, **changes), 2

    Pipe.transformer.save_pretrained(tmp_path / "transformer")
    families.check_gradients(qwen_image, Pipe, tmp_path, (12, 20), targets, rank, alpha, 1e-6 if name in ("conditioning", "everything") else 0)
