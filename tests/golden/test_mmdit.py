"""models/sd3/mmdit.c against diffusers' SD3Transformer2DModel, and its adapters' gradients against PEFT's."""

import copy
import json

import pytest
import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import load_file
from sd3 import add_adapter, error, make_inputs, make_transformer, ours, probe, velocity

SD35 = dict(qk_norm="rms_norm")
# name: (changes of the small config, shape of the inputs)
CONFIGS = {
    "sd3": (dict(), dict()),
    "sd35": (dict(num_layers=3, dual_attention_layers=(0, 1), patch_size=2, **SD35), dict(height=8, width=8)),
    "odd tokens": (dict(pos_embed_max_size=9), dict(height=5, width=7, tokens=3)),
    "all dual": (dict(num_layers=3, dual_attention_layers=(0, 1, 2), **SD35), dict(height=4, width=9)),
    "dual, no norm": (dict(dual_attention_layers=(1,), patch_size=2), dict(height=10, width=6, tokens=13)),
    "one layer": (dict(num_layers=1, **SD35), dict(height=3, width=3, tokens=1)),
    "one dual layer": (dict(num_layers=1, dual_attention_layers=(0,)), dict(batch=1)),
    "one head": (dict(num_attention_heads=1, attention_head_dim=32, **SD35), dict(tokens=2)),
    "many heads": (dict(num_attention_heads=6, attention_head_dim=4), dict(height=7, width=5)),
    "wide": (
        dict(num_layers=4, num_attention_heads=3, attention_head_dim=32, dual_attention_layers=(0, 2), **SD35),
        dict(batch=5, tokens=10),
    ),
    "large grid": (dict(pos_embed_max_size=65, sample_size=33, patch_size=2), dict(height=6, width=14)),
    "3.5 Large": (dict(num_layers=4, pos_embed_max_size=12, sample_size=8, dual_attention_layers=(), **SD35), dict(height=6, width=10)),
    "channels": (dict(in_channels=3, out_channels=7, patch_size=2, **SD35), dict(height=4, width=6)),
}
ATTENTION = [
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
    "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
]  # fmt: skip
# name: (config, rank, alpha, targets)
ADAPTERS = {
    "attention": ("sd35", 4, 8, ATTENTION),
    "attention, one layer": ("one layer", 3, 3, ATTENTION),
    "both attentions": ("all dual", 2, 7.5, ["to_q", "to_v", "to_out.0"]),
    "second attention": ("dual, no norm", 1, 2, ["attn2.to_k", "attn2.to_out.0"]),
    "one part": ("sd3", 8, 1, ["attn.to_k"]),
    "text": ("odd tokens", 5, 10, ["add_k_proj", "add_q_proj", "to_add_out"]),
    "feed-forward": ("wide", 16, 16, ["ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "attn.to_v"]),
    "conditioning": (
        "channels", 4, 6, ["norm1.linear", "linear_1", "text_embedder.linear_2", "context_embedder", "proj_out"],
    ),
    "one module": ("large grid", 2, 4, ["transformer_blocks.1.attn.to_q"]),
}  # fmt: skip


def case(folder, name, **kwargs):
    changes, shape = CONFIGS[name]
    model = make_transformer(**changes)
    model.save_pretrained(folder / "transformer")
    return model, make_inputs(model, **shape)


@pytest.mark.parametrize("name", CONFIGS)
def test_forward(folder, name):
    model, inputs = case(folder, name)
    with torch.no_grad():
        assert error(ours(folder, inputs)["v"], velocity(model, inputs)) <= 1e-5


# diffusers' RMS norm takes its statistics in float32 even then
@pytest.mark.parametrize("name, tolerance", [("dual, no norm", 1e-12), ("sd35", 1e-6)])
def test_forward_float64(folder, name, tolerance):
    model, inputs = case(folder, name)
    with torch.no_grad():
        v = velocity(model.double(), inputs, torch.float64)
        assert error(ours(folder, inputs, "float64")["v"], v) <= tolerance


@pytest.mark.parametrize("name", ["wide", "dual, no norm"])
def test_forward_bfloat16(folder, name):
    """No further from the float32 velocity than diffusers' own bfloat16; bfloat16 files too."""
    model, inputs = case(folder, name)
    with torch.no_grad():
        exact = velocity(model, inputs)
        half = copy.deepcopy(model).to(torch.bfloat16)
        theirs = error(velocity(half, inputs, torch.bfloat16), exact)
        half.save_pretrained(folder / "transformer")
        assert error(ours(folder, inputs, "bfloat16")["v"], exact) <= 1.3 * theirs
        assert error(ours(folder, inputs)["v"], velocity(half.float(), inputs)) <= 1e-5


@pytest.mark.parametrize("left", ["null", "out"])
def test_sd3_medium(folder, left):
    """Its published file is older than dual attention and norms of queries: those keys are null there or left out."""
    model, inputs = case(folder, "odd tokens")
    path = folder / "transformer/config.json"
    conf = json.loads(path.read_text())
    for key in "dual_attention_layers", "qk_norm":
        conf.pop(key)
        conf.update({key: None} if left == "null" else {})
    path.write_text(json.dumps(conf))
    with torch.no_grad():
        assert error(ours(folder, inputs)["v"], velocity(model, inputs)) <= 1e-5


def test_timesteps(folder):
    model, inputs = case(folder, "sd3")
    inputs = make_inputs(model, batch=7)
    inputs["t"] = torch.tensor([0.0, 1.0, 3.75, 249.99, 500.0, 999.0, 1000.0])
    with torch.no_grad():
        assert error(ours(folder, inputs)["v"], velocity(model, inputs)) <= 1e-5


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapter(folder, name):
    config, rank, alpha, targets = ADAPTERS[name]
    model, inputs = case(folder, config)
    with_pairs = add_adapter(model, rank, alpha, targets)
    with_pairs.save_pretrained(folder / "adapter")
    v = velocity(with_pairs, inputs)
    (v * inputs["g"]).sum().backward()
    grads = {
        k.replace(".default.", "."): p.grad for k, p in with_pairs.named_parameters() if "lora_" in k
    }  # fmt: skip

    out = ours(folder, inputs, adapter=folder / "adapter")
    for key in "v", "v_merged", "v_beside", "v_merged_grad":
        assert error(out[key], v) <= 1e-5, key
    for kind in "grad.", "grad_merged.":
        assert {k[len(kind) :] for k in out if k.startswith(kind)} == set(grads)
        for k, g in grads.items():
            assert error(out[kind + k], torch.zeros_like(out[kind + k]) if g is None else g) <= 1e-4, kind + k
            # with activation checkpointing: the same bits, but for what all blocks add to in another order
            again = out[kind[:-1] + "_again." + k]
            assert error(again, out[kind + k]) <= (1e-6 if name == "conditioning" else 0), kind + k


def test_adapter_bfloat16(folder):
    """On the fly, beside and merged are equally near the exact velocity, which PEFT's bfloat16 is as well."""
    model, inputs = case(folder, "wide")
    with_pairs = add_adapter(model, 4, 8, ATTENTION)
    with_pairs.save_pretrained(folder / "adapter")
    with torch.no_grad():
        exact = velocity(with_pairs, inputs)
        theirs = error(velocity(with_pairs.to(torch.bfloat16), inputs, torch.bfloat16), exact)
    out = ours(folder, inputs, "bfloat16", folder / "adapter")
    for key in "v", "v_merged", "v_beside", "v_merged_grad":
        assert error(out[key], exact) <= 1.3 * theirs, key


def test_new_model(folder):
    """transformer_make: diffusers reads all of it, the positions are its own, and the first velocity is zero."""
    probe("new", folder / "transformer")
    model, info = SD3Transformer2DModel.from_pretrained(folder / "transformer", output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    fresh = SD3Transformer2DModel.from_config(model.config)
    assert torch.equal(model.pos_embed.pos_embed, fresh.pos_embed.pos_embed)
    inputs = make_inputs(model, height=10, width=10)
    with torch.no_grad():
        assert not velocity(model, inputs).any()
    weights = load_file(folder / "transformer/diffusion_pytorch_model.safetensors")
    for name, p in fresh.named_parameters():
        w = weights[name]
        if ".norm_" in name or "norm1" in name or name.startswith(("norm_out", "proj_out")):
            assert torch.equal(w, torch.full_like(w, float(".norm_" in name)))
        else:  # uniform between the bounds of PyTorch's default
            fan_in = (p if p.dim() > 1 else fresh.get_parameter(name[: -len("bias")] + "weight"))[0].numel()
            assert w.abs().max() <= fan_in**-0.5
            assert w.numel() < 200 or abs(w.std() * (3 * fan_in) ** 0.5 - 1) < 0.15
