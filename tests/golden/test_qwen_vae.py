"""AutoencoderKLQwenImage of one frame against diffusers."""

import json

import pytest
import qwen_image
import torch
from families import probe
from safetensors.torch import load_file, save_file
from sd3 import contraflow, error

# name: (what differs from the small one, height and width of the latents)
CONFIGS = {
    "small": (dict(), (4, 6)),
    "one pixel": (dict(), (1, 1)),
    "odd": (dict(base_dim=6, z_dim=3), (5, 3)),
    "one level": (dict(dim_mult=[1], temperal_downsample=[]), (7, 4)),
    "four levels": (dict(dim_mult=[1, 2, 4, 4], temperal_downsample=[False, True, True], num_res_blocks=2), (2, 3)),
    "all of time": (dict(dim_mult=[2, 1, 3], temperal_downsample=[True, True], z_dim=5), (3, 4)),
    "no time": (dict(dim_mult=[1, 1, 2, 2], temperal_downsample=[False, False, False], base_dim=4), (1, 5)),
    "published statistics": (dict(z_dim=16, latents_mean=None, latents_std=None), (3, 3)),
}


def make(name, folder):
    changes, size = CONFIGS[name]
    changes = dict(changes)
    if changes.get("latents_mean", 0) is None:
        del changes["latents_mean"], changes["latents_std"]
        blank = qwen_image.AutoencoderKLQwenImage(base_dim=1, dim_mult=[2], temperal_downsample=[])
        changes.update({k: list(blank.config[k]) for k in ("latents_mean", "latents_std")})
    vae = qwen_image.make_vae(3, **changes)
    vae.save_pretrained(folder / "vae")
    if name == "published statistics":  # which a file may leave out
        config = json.loads((folder / "vae/config.json").read_text())
        for key in "latents_mean", "latents_std":
            del config[key]
        (folder / "vae/config.json").write_text(json.dumps(config))
    return vae, size


@pytest.mark.parametrize("name", CONFIGS)
def test_decode(tmp_path, name):
    vae, size = make(name, tmp_path)
    z = torch.randn(3, vae.config.z_dim, *size, generator=torch.Generator().manual_seed(5))
    want = qwen_image.decode(vae, z)
    assert want.shape[2:] == tuple(s * qwen_image.scale(vae) for s in size) and (want.abs() < 1).float().mean() > 0.5
    for batch in 1, 2, 8:  # one by one; two and the last; all
        assert error(probe(tmp_path, "vae-decode", {"latents": z}, "--batch", batch)["sample"], want) < 1e-5


@pytest.mark.parametrize("name", CONFIGS)
def test_encode(tmp_path, name):
    vae, size = make(name, tmp_path)
    f = qwen_image.scale(vae)
    pixels = torch.rand(2, 3, size[0] * f, size[1] * f, generator=torch.Generator().manual_seed(9)) * 2 - 1
    assert error(probe(tmp_path, "vae-encode", {"image": pixels})["latents"], qwen_image.encode(vae, pixels)) < 1e-5


@pytest.mark.parametrize("name", ["small", "four levels"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision(tmp_path, name, dtype):
    """No further from float32 than diffusers' own 16 bits."""
    vae, size = make(name, tmp_path)
    z = torch.randn(2, vae.config.z_dim, *size, generator=torch.Generator().manual_seed(5))
    want = qwen_image.decode(vae, z)
    low = getattr(torch, dtype)
    theirs = error(qwen_image.decode(vae.to(low), z.to(low)), want)
    ours = error(probe(tmp_path, "vae-decode", {"latents": z}, "--dtype", dtype)["sample"], want)
    print(f"{dtype}: {ours:.2e}, diffusers {theirs:.2e}")
    assert ours <= 1.1 * theirs


def test_taps(tmp_path):
    """Named as diffusers' modules."""
    vae, size = make("four levels", tmp_path)
    z = torch.randn(1, vae.config.z_dim, *size, generator=torch.Generator().manual_seed(5))
    want, hooks = {}, []
    for name, module in vae.named_modules():
        if name.startswith("decoder.") and name.count(".") == 1 + ("up_blocks" in name):
            hooks.append(module.register_forward_hook(lambda m, i, o, name=name: want.update({name: o[:, :, 0]})))
    qwen_image.decode(vae, z)
    out = probe(tmp_path, "vae-decode", {"latents": z}, "--taps")
    taps = {k.split(".", 2)[2]: v for k, v in out.items() if k.startswith("tap.")}
    assert set(taps) == {"decoder.conv_in", "decoder.mid_block", *(f"decoder.up_blocks.{i}" for i in range(4)), "decoder.conv_out"}
    for name, got in taps.items():
        assert error(got, want[name]) < 1e-5, name


@pytest.mark.parametrize("change, said", [
    (dict(dim_mult=[]), "dim_mult must list 1 to 8"),
    (dict(dim_mult=[1, 2.5, 2]), "dim_mult[1] must be a whole number"),
    (dict(temperal_downsample=[True]), "temperal_downsample must have 2 entries"),
    (dict(temperal_downsample=[True, 1]), "temperal_downsample[1] must be true or false"),
    (dict(latents_mean=[0.0]), "latents_mean must have z_dim = 4 numbers"),
    (dict(latents_std=[1, 1, "x", 1]), "latents_std[2] is not a number"),
    (dict(latents_std=[1, 1, 0, 1]), "latents_std[2] must be above 0"),
    (dict(base_dim=0), "base_dim"),
    (dict(attn_scales=[1.0]), "attn_scales"),
    (dict(input_channels=4), "input_channels"),
    (dict(is_residual=True), "is_residual"),
    (dict(_class_name="AutoencoderKLWan"), "AutoencoderKLWan"),
])  # fmt: skip
def test_refused(tmp_path, change, said):
    make("small", tmp_path)
    path = tmp_path / "vae/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RuntimeError) as e:
        probe(tmp_path, "vae-decode", {"latents": torch.zeros(1, 4, 2, 2)})
    assert said in str(e.value) and str(e.value).count("\n") == 1


def test_refused_weights(tmp_path):
    """A convolution without time is another model's."""
    make("small", tmp_path)
    path = tmp_path / "vae/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["decoder.conv_in.weight"] = tensors["decoder.conv_in.weight"][:, :, 2].contiguous()
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(RuntimeError, match="decoder.conv_in.weight"):
        contraflow("probe", "vae-decode", "--model", tmp_path, "--in", path, "--out", tmp_path / "out.safetensors")
