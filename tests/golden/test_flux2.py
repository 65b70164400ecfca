"""models/flux2/ against diffusers: tiny pipelines of random weights, every component and whole images; gradients against PEFT."""

import json

import families
import flux2
import pytest
import torch
from sd3 import contraflow, error

# name: what differs from the pipeline of flux2.make; size: pixels; length: of prompts
CONFIGS = {
    "small": dict(size=(16, 24)),
    "odd tokens": dict(size=(28, 36), length=60),
    "one token": dict(size=(4, 4), length=20, scheduler=dict(shift=1.0)),
    "no single blocks": dict(transformer=dict(num_layers=3, num_single_layers=0), size=(20, 20), text=dict(num_key_value_heads=4)),
    "no double blocks": dict(transformer=dict(num_layers=0, num_single_layers=3), size=(8, 36)),
    "wide": dict(transformer=dict(num_attention_heads=3, attention_head_dim=24, axes_dims_rope=(6, 6, 6, 6), mlp_ratio=2.0), size=(32, 32)),
    "eight channels": dict(vae=dict(latent_channels=8, batch_norm_eps=1e-2), transformer=dict(in_channels=32, rope_theta=100), size=(40, 24)),
}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return flux2.folders(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module", params=CONFIGS)
def case(request, words, tmp_path_factory):
    conf = CONFIGS[request.param]
    pipe, folder = flux2.make(words, **conf), tmp_path_factory.mktemp("pipeline")
    flux2.save(pipe, words, folder)
    return pipe, folder, conf["size"], conf.get("length", 100)


def test_text(case):
    pipe, folder, _, length = case
    families.check_text(flux2, pipe, folder, length)


def test_vae(case):
    pipe, folder, size, _ = case
    z = flux2.latents(pipe, size, 3)
    assert error(families.probe(folder, "vae-decode", {"latents": z})["sample"], flux2.decode(pipe.vae, z)) < 1e-5
    pixels = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(9)) * 2 - 1
    assert error(families.probe(folder, "vae-encode", {"image": pixels})["latents"], flux2.encode(pipe.vae, pixels)) < 1e-5


def test_transformer(case):
    pipe, folder, size, _ = case
    families.check_transformer(flux2, pipe, folder, size)


@pytest.mark.parametrize("guidance, negative", [(1.0, ""), (4.0, "a blurry house")])
def test_image(case, guidance, negative):
    pipe, folder, size, length = case
    families.check_image(flux2, pipe, folder, size, length, guidance, negative)


@pytest.mark.parametrize("name", ["small", "wide", "no double blocks"])
def test_low_precision(words, tmp_path, name):
    conf = CONFIGS[name]
    pipe = flux2.make(words, **conf)
    flux2.save(pipe, words, tmp_path)
    families.check_low_precision(flux2, pipe, tmp_path, conf["size"], 100, 1, "bfloat16", {})


# name: (changes of the transformer, targets, rank, alpha)
ADAPTERS = {
    "Flow-Factory": (dict(), ["attn.to_q", "attn.to_k", "attn.to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "ff.linear_in",
                              "ff.linear_out", "ff_context.linear_in", "ff_context.linear_out", "to_qkv_mlp_proj"], 4, 8),
    "single blocks": (dict(num_layers=0, num_single_layers=3), ["to_qkv_mlp_proj", "attn.to_out"], 5, 5),
    "one part": (dict(), ["transformer_blocks.1.attn.add_v_proj"], 2, 7.5),
    "conditioning": (dict(), ["double_stream_modulation_img.linear", "double_stream_modulation_txt.linear", "single_stream_modulation.linear", "linear_1",
                              "linear_2", "x_embedder", "context_embedder", "norm_out.linear"], 2, 4),
    "everything": (dict(num_attention_heads=3, guidance_embeds=True), flux2.LAYERS, 2, 3),
}  # fmt: skip


@pytest.mark.parametrize("name", ADAPTERS)
def test_gradients(tmp_path, name):
    changes, targets, rank, alpha = ADAPTERS[name]

    class Pipe:
        transformer, vae_scale_factor = flux2.make_transformer(4, **changes), 2

    Pipe.transformer.save_pretrained(tmp_path / "transformer")
    families.check_gradients(flux2, Pipe, tmp_path, (12, 20), targets, rank, alpha, 1e-6 if name in ("conditioning", "everything") else 0)


@pytest.mark.parametrize("change, said", [
    (dict(patch_size=2), "patch_size"),
    (dict(attention_head_dim=18), "axes_dims_rope adds up to 16"),
    (dict(axes_dims_rope=[4, 12]), "axes_dims_rope must be a list of 4"),
    (dict(axes_dims_rope=[4, 5, 3, 4]), "axes_dims_rope[1] must be even"),
    (dict(rope_theta=0.5), "rope_theta must be above 1"),
    (dict(mlp_ratio=0), "mlp_ratio must be above 0"),
    (dict(new_thing=True), "new_thing"),
])  # fmt: skip
def test_refused_configurations(tmp_path, change, said):
    class Pipe:
        transformer, vae_scale_factor = flux2.make_transformer(4), 2

    Pipe.transformer.save_pretrained(tmp_path / "transformer")
    path = tmp_path / "transformer/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RuntimeError) as e:
        families.probe(tmp_path, "transformer", flux2.inputs(Pipe, (8, 8), 1))
    assert said in str(e.value) and str(e.value).count("\n") == 1


def test_refused_pipelines(words, tmp_path):
    """FLUX.2-dev and editing pipelines by name, and sizes that are no whole tokens."""
    flux2.save(flux2.make(words), words, tmp_path)
    index = tmp_path / "model_index.json"
    text = index.read_text()
    ask = ["sample", "--model", tmp_path, "--prompt", "x", "-o", tmp_path / "x.png", "--height", 16, "--width", 16]
    for name, why in [("Flux2Pipeline", "FLUX.2-dev"), ("Flux2KleinInpaintPipeline", "fills parts"), ("Flux2KleinKVPipeline", "is unknown")]:
        index.write_text(text.replace('"Flux2KleinPipeline"', f'"{name}"'))
        with pytest.raises(RuntimeError) as e:
            contraflow(*ask)
        assert f"'{name}'" in str(e.value) and why in str(e.value) and str(e.value).count("\n") == 1
    index.write_text(text)
    with pytest.raises(RuntimeError, match="must be a multiple of 4"):
        contraflow(*ask[:-1], 18)
    assert not (tmp_path / "x.png").exists()
