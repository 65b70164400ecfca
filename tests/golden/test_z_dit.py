"""models/z_image/z_dit.c against diffusers' ZImageTransformer2DModel."""

import copy
import json

import families
import pytest
import torch
import z_image
from families import error, probe
from z_image import make_transformer, velocity

# name: (changes of the tiny config, shape of the inputs)
CONFIGS = {
    "tiny": (dict(), dict()),
    "one caption": (dict(), dict(lengths=(7,))),
    "equal captions": (dict(n_refiner_layers=2), dict(lengths=(9, 9, 9), height=4, width=14)),
    "whole captions": (dict(), dict(lengths=(32, 64), height=8, width=16)),
    "long captions": (dict(axes_dims=[8, 4, 4]), dict(lengths=(100, 31, 1, 65), height=2, width=2)),
    "short captions": (dict(n_layers=1), dict(lengths=(1, 30, 12), height=18, width=6)),
    "no norm of heads": (dict(qk_norm=False, norm_eps=1e-6), dict(lengths=(3, 50))),
    "wide": (dict(dim=288, n_heads=9, n_kv_heads=9, axes_dims=[8, 12, 12], n_layers=3), dict(height=12, width=14)),
    "patches of 1": (dict(all_patch_size=(1,), in_channels=3, rope_theta=100.0, t_scale=500.0), dict(height=5, width=7)),
    "patches of 4": (dict(all_patch_size=(4,), in_channels=5), dict(height=8, width=12)),
}
ATTENTION = ["attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0"]
# name: (config, rank, alpha, targets); the published recipes have the first two
ADAPTERS = {
    "attention": ("tiny", 4, 8, ATTENTION),
    "attention and feed-forward": ("long captions", 3, 3, [*ATTENTION, "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"]),
    "one part": ("short captions", 8, 1, ["attention.to_k"]),
    "modulations": ("wide", 2, 7.5, ["layers.0.adaLN_modulation.0", "layers.2.adaLN_modulation.0", "noise_refiner.0.adaLN_modulation.0", "adaLN_modulation.1", "mlp.0", "mlp.2"]),
    "both ends": ("patches of 4", 5, 10, ["all_x_embedder.4-1", "cap_embedder.1", "all_final_layer.4-1.linear", "feed_forward.w3"]),
    "refiners": ("equal captions", 2, 4, ["context_refiner.1.attention.to_q", "noise_refiner.0.feed_forward.w2", "context_refiner.0.feed_forward.w1"]),
}


class Pipe:
    """Of a pipeline what makes inputs: latents are what pixels are elsewhere."""

    def __init__(self, transformer):
        self.transformer, self.vae_scale_factor = transformer, 1


def case(folder, name):
    changes, shape = CONFIGS[name]
    model = make_transformer(**changes)
    model.save_pretrained(folder / "transformer")
    lengths = shape.get("lengths", (5, 40, 33))
    return model, z_image.inputs(Pipe(model), (shape.get("height", 6), shape.get("width", 10)), len(lengths), lengths)


def ours(folder, inputs, *args):
    return probe(folder, "transformer", inputs, *args)


@pytest.mark.parametrize("name", CONFIGS)
def test_forward(folder, name):
    model, inputs = case(folder, name)
    with torch.no_grad():
        assert error(ours(folder, inputs)["sample"], velocity(model, inputs)) <= 1e-5


def test_lengths_left_out(folder):
    """Without lengths all rows count, which is what lengths that are all as long say."""
    model, inputs = case(folder, "equal captions")
    with torch.no_grad():
        want = velocity(model, inputs)
    del inputs["lengths"]
    assert error(ours(folder, inputs)["sample"], want) <= 1e-5


def test_what_lies_behind_a_caption(folder):
    """Neither its values nor how much there is of it changes a bit."""
    _, inputs = case(folder, "tiny")
    v = ours(folder, inputs)["sample"]
    for row, n in zip(inputs["encoder_hidden_states"], inputs["lengths"]):
        row[n:] = 100
    assert torch.equal(ours(folder, inputs)["sample"], v)
    text = torch.nn.functional.pad(inputs["encoder_hidden_states"], (0, 0, 0, 24))
    assert torch.equal(ours(folder, {**inputs, "encoder_hidden_states": text})["sample"], v)


def test_timesteps(folder):
    model, _ = case(folder, "tiny")
    inputs = z_image.inputs(Pipe(model), (6, 10), 7, (5,) * 7)
    inputs["timestep"] = torch.tensor([0.0, 1.0, 3.75, 249.99, 500.0, 999.0, 1000.0])
    with torch.no_grad():
        assert error(ours(folder, inputs)["sample"], velocity(model, inputs)) <= 1e-5


def test_taps(folder):
    """Every module's result, under its name: images first, and of a caption what counts."""
    model, inputs = case(folder, "tiny")
    seen = {}
    for name in "t_embedder", "noise_refiner.0", "context_refiner.0", "layers.0", "layers.1", "all_final_layer.2-1":
        model.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out))
    with torch.no_grad():
        velocity(model, inputs)
    out = ours(folder, inputs, "--taps")
    taps = {k.split(".", 2)[2]: v for k, v in out.items() if k.startswith("tap.")}
    assert taps.keys() >= seen.keys() | {"all_x_embedder.2-1", "cap_embedder"}
    assert error(taps["t_embedder"], seen["t_embedder"]) <= 1e-5
    assert error(taps["noise_refiner.0"], seen["noise_refiner.0"]) <= 1e-5
    filled = [32, 64, 64]
    for i, n in enumerate(filled):
        assert error(taps["context_refiner.0"][i, :n], seen["context_refiner.0"][i, :n]) <= 1e-5
        for name in "layers.0", "layers.1":
            assert error(taps[name][i, : 32 + n], seen[name][i, : 32 + n]) <= 1e-5
    assert error(taps["all_final_layer.2-1"], seen["all_final_layer.2-1"][:, :15]) <= 1e-5


@pytest.mark.parametrize("name", ["tiny", "wide", "equal captions"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision(folder, name, dtype):
    """No further from the float32 velocity than diffusers' own 16 bits; such files are read, too."""
    model, inputs = case(folder, name)
    low = getattr(torch, dtype)
    with torch.no_grad():
        exact = velocity(model, inputs)
        half = copy.deepcopy(model).to(low)
        theirs = error(velocity(half, inputs, low), exact)
        half.save_pretrained(folder / "transformer")
        mine = error(ours(folder, inputs, "--dtype", dtype)["sample"], exact)
        print(f"{name}, {dtype}: {mine:.2e}, diffusers {theirs:.2e}")
        assert mine <= 1.1 * theirs
        assert error(ours(folder, inputs)["sample"], velocity(half.float(), inputs)) <= 1e-5


@pytest.mark.parametrize("name", ADAPTERS)
def test_gradients(folder, name):
    """Velocities with an adapter, merged and not, and its gradients, with and without checkpointing."""
    config, rank, alpha, targets = ADAPTERS[name]
    model, _ = case(folder, config)
    families.check_gradients(z_image, Pipe(model), folder, (8, 12), targets, rank, alpha, 1e-6 if name == "modulations" else 0)


def test_adapter_bfloat16(folder):
    """On the fly, beside and merged are equally near the exact velocity, which PEFT's bfloat16 is as well."""
    model, inputs = case(folder, "wide")
    with_pairs = families.add_adapter(model, ATTENTION, 4, 8)
    with_pairs.save_pretrained(folder / "adapter")
    with torch.no_grad():
        exact = velocity(with_pairs, inputs)
        theirs = error(velocity(with_pairs.to(torch.bfloat16), inputs, torch.bfloat16), exact)
    out = families.ours(folder, inputs, exact, "bfloat16", folder / "adapter")
    for key in "v", "v_merged", "v_beside", "v_merged_grad":
        assert error(out[key], exact) <= 1.3 * theirs, key


@pytest.mark.parametrize("change, message", [
    (dict(siglip_feat_dim=1152), "siglip_feat_dim"), (dict(all_f_patch_size=[2]), "all_f_patch_size"), (dict(all_patch_size=[2, 4]), "all_patch_size must be a list of 1"),
    (dict(n_kv_heads=1), "n_kv_heads = 1: must be n_heads = 3"), (dict(axes_dims=[4, 6, 8]), "axes_dims adds up to 18, a head has 16 channels"),
    (dict(axes_dims=[5, 5, 6]), "axes_dims[0] must be even"), (dict(axes_lens=[1, 2]), "axes_lens must be a list of 3"), (dict(norm_eps=0), "norm_eps must be above 0"),
    (dict(n_layers=0), "n_layers = 0"), (dict(n_layers=256), "more than 256 blocks"), (dict(axes_dims=["4", 6, 6]), "axes_dims[0] must be a whole number"),
    (dict(zero_cond=True), "zero_cond"),
])  # fmt: skip
def test_refused(folder, change, message):
    model, inputs = case(folder, "tiny")
    path = folder / "transformer/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RuntimeError) as e:
        ours(folder, inputs)
    assert message in str(e.value) and str(e.value).count("\n") == 1
