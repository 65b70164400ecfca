"""models/flux/ against diffusers: tiny pipelines of random weights, every component and whole images; gradients against PEFT."""

import pytest
import torch
import families
import flux
from safetensors.torch import load_file, save_file
from sd3 import contraflow

SCHNELL = dict(transformer=dict(guidance_embeds=False), scheduler=dict(shift=1.0))
# name: what differs from the pipeline of flux.make; size: pixels; length: of prompts
CONFIGS = {
    "dev": dict(size=(16, 24)),
    "schnell": dict(SCHNELL, size=(24, 16)),
    "odd tokens": dict(size=(28, 36), length=13),
    "one token": dict(SCHNELL, size=(4, 4), length=2),
    "no single blocks": dict(transformer=dict(num_layers=3, num_single_layers=0), size=(20, 20)),
    "no double blocks": dict(transformer=dict(num_layers=0, num_single_layers=3, guidance_embeds=False), size=(8, 36)),
    "wide": dict(transformer=dict(num_attention_heads=3, attention_head_dim=24, axes_dims_rope=(8, 8, 8)), t5=dict(num_layers=1), size=(32, 32)),
    "one head": dict(transformer=dict(num_attention_heads=1, attention_head_dim=32, axes_dims_rope=(4, 20, 8)), size=(16, 20)),
    "old eos": dict(clip=dict(eos_token_id=2), scheduler=dict(flux.DEV, max_shift=0.9, shift_terminal=0.02), size=(12, 12)),
    "eight channels": dict(vae=dict(latent_channels=8), transformer=dict(in_channels=32), size=(40, 24), length=77),
}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return flux.folders(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module", params=CONFIGS)
def case(request, words, tmp_path_factory):
    conf = CONFIGS[request.param]
    pipe, folder = flux.make(words, **conf), tmp_path_factory.mktemp("pipeline")
    flux.save(pipe, words, folder)
    return pipe, folder, conf["size"], conf.get("length", 32)


def test_text(case):
    pipe, folder, _, length = case
    families.check_text(flux, pipe, folder, length)


def test_vae(case):
    pipe, folder, size, _ = case
    families.check_vae(pipe, folder, flux.latents(pipe, size, 3), size)


def test_transformer(case):
    pipe, folder, size, _ = case
    families.check_transformer(flux, pipe, folder, size)


@pytest.mark.parametrize("guidance, negative", [(1.0, ""), (3.5, "a blurry house")])
def test_image(case, guidance, negative):
    pipe, folder, size, length = case
    families.check_image(flux, pipe, folder, size, length, guidance, negative)


@pytest.mark.parametrize("name", ["dev", "schnell", "wide", "no double blocks"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision(words, tmp_path, name, dtype):
    """T5 stays in bfloat16 where the rest is float16, whose range its states leave at full size; small ones lose by that."""
    conf = CONFIGS[name]
    pipe = flux.make(words, **conf)
    flux.save(pipe, words, tmp_path)
    slack = dict(prompt_embeds=10, x0=1.5) if dtype == "float16" else {}
    families.check_low_precision(flux, pipe, tmp_path, conf["size"], 16, 3.5 if pipe.transformer.config.guidance_embeds else 1, dtype, slack)


# name: (changes of the transformer, targets, rank, alpha)
ADAPTERS = {
    "attention": (dict(), ["attn.to_q", "attn.to_k", "attn.to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"], 4, 8),
    "Flow-Factory": (dict(num_layers=1), ["attn.to_q", "attn.to_v", "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"], 3, 5),
    "single blocks": (dict(num_layers=0, num_single_layers=3), ["to_k", "proj_mlp", "proj_out"], 5, 5),
    "one part": (dict(guidance_embeds=False), ["single_transformer_blocks.1.attn.to_q"], 2, 7.5),
    "conditioning": (dict(), ["norm1.linear", "norm1_context.linear", "norm.linear", "linear_1", "linear_2", "x_embedder", "context_embedder", "norm_out.linear"], 2, 4),
    "everything": (dict(num_attention_heads=3), flux.LAYERS, 2, 3),
}  # fmt: skip


@pytest.mark.parametrize("name", ADAPTERS)
def test_gradients(words, tmp_path, name):
    changes, targets, rank, alpha = ADAPTERS[name]

    class Pipe:
        transformer, vae_scale_factor = flux.make_transformer(4, **changes), 2

    Pipe.transformer.save_pretrained(tmp_path / "transformer")
    families.check_gradients(flux, Pipe, tmp_path, (12, 20), targets, rank, alpha, 1e-6 if name in ("conditioning", "everything") else 0)


def test_names_of_the_hub(words, tmp_path):
    """CLIP's tensors as transformers 4 wrote them, and a length of the family's own."""
    for guided, length in (True, 512), (False, 256):
        pipe = flux.make(words, transformer=dict(guidance_embeds=guided))
        folder = tmp_path / str(length)
        flux.save(pipe, words, folder)
        file = folder / "text_encoder/model.safetensors"
        tensors = {"text_model." + k.removeprefix("text_model."): v for k, v in load_file(file).items()}
        tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        save_file(tensors, file, {"format": "pt"})
        out = families.probe_text(folder)
        for key, want in flux.text(pipe, families.PROMPTS, length).items():
            assert families.error(out[key], want) < 1e-5, key


def refusal(folder, *args):
    with pytest.raises(RuntimeError) as e:
        contraflow(*args)
    assert str(e.value).count("\n") == 1
    return str(e.value)


def test_what_is_refused(words, tmp_path):
    """Other pipelines of the same parts by name, and configurations that would compute something else."""
    flux.save(flux.make(words), words, tmp_path)
    index, config = tmp_path / "model_index.json", tmp_path / "transformer/config.json"
    ask = ["sample", "--model", tmp_path, "--prompt", "x", "-o", tmp_path / "x.png", "--height", 16, "--width", 16]
    text = index.read_text()
    for name, why in [("FluxKontextPipeline", "edits images"), ("FluxFillPipeline", "fills parts"), ("Flux2Pipeline", "FLUX.2-dev"), ("Flux3Pipeline", "is unknown")]:
        index.write_text(text.replace('"FluxPipeline"', f'"{name}"'))
        said = refusal(tmp_path, *ask)
        assert f"'{name}'" in said and why in said and "FluxPipeline" in said
    index.write_text(text)
    text = config.read_text()
    for old, new, why in [('"patch_size": 1', '"patch_size": 2', "patch_size"), ('"in_channels": 16', '"in_channels": 18', "multiples of 4"),
                          ('"attention_head_dim": 16', '"attention_head_dim": 18', "axes_dims_rope adds up to 16"),
                          ('"patch_size": 1', '"patch_size": 1, "new_thing": true', "new_thing")]:  # fmt: skip
        assert old in text
        config.write_text(text.replace(old, new))
        assert why in refusal(tmp_path, *ask)
    config.write_text(text)
    assert "must be a multiple of 4" in refusal(tmp_path, *ask[:-1], 18)
    assert not (tmp_path / "x.png").exists()
