"""models/sana/ against diffusers: tiny pipelines of random weights, every component and whole images; gradients against PEFT."""

import json

import families
import pytest
import sana
import torch
from safetensors.torch import load_file
from sd3 import contraflow, error

# name: what differs from the pipeline of sana.make; size: pixels; length: of prompts
CONFIGS = {
    "small": dict(size=(16, 24)),
    "odd": dict(size=(10, 6), length=40, text=dict(num_key_value_heads=2, num_hidden_layers=3), scheduler=dict(shift=1.0)),
    "one token": dict(size=(2, 2), length=20),
    "no norm of heads": dict(size=(12, 20), transformer=dict(qk_norm=None, attention_bias=True, timestep_scale=0.5), text=dict(attn_logit_softcapping=None)),
    "patches of 2": dict(size=(24, 8), transformer=dict(patch_size=2, num_layers=3, mlp_ratio=1.7, num_cross_attention_heads=3)),
    "four levels": dict(size=(32, 16), vae=dict(block_out_channels=(4, 8, 16, 32), layers_per_block=(1, 2, 1, 2), attention_head_dim=6, qkv_multiscales=((), (), (3,), (5, 3)),
                        block_types=("ResBlock", "ResBlock", "EfficientViTBlock", "EfficientViTBlock"))),
    "short sight": dict(size=(8, 8), text=dict(sliding_window=6, query_pre_attn_scalar=3, attn_logit_softcapping=1.5, head_dim=6), length=100),
}  # fmt: skip


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return sana.folders(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module", params=CONFIGS)
def case(request, words, tmp_path_factory):
    conf = CONFIGS[request.param]
    pipe, folder = sana.make(words, **conf), tmp_path_factory.mktemp("pipeline")
    sana.save(pipe, words, folder)
    return pipe, folder, conf["size"], conf.get("length", 300)


def test_text(case):
    """Behind the pipeline's instruction; lower-cased and stripped, and cut where that is long."""
    pipe, folder, _, length = case
    families.check_text(sana, pipe, folder, length)
    prompts = [" \x1f\u2003İSTANBUL ΣΑΣ ", "  ", "User Prompt: " * 40 + "X"]
    out = families.probe(folder, "text", {"unused": torch.zeros(1)}, "--text-length", length, prompts=prompts)
    for name, want in sana.text(pipe, prompts, length).items():
        assert error(out[name], want) < 1e-5, name


def test_vae(case):
    pipe, folder, size, _ = case
    z = sana.latents(pipe, size, 3)
    assert error(families.probe(folder, "vae-decode", {"latents": z})["sample"], sana.decode(pipe.vae, z)) < 1e-5
    pixels = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(9)) * 2 - 1
    assert error(families.probe(folder, "vae-encode", {"image": pixels})["latents"], sana.encode(pipe.vae, pixels)) < 1e-5


def test_transformer(case):
    pipe, folder, size, _ = case
    families.check_transformer(sana, pipe, folder, size)


@pytest.mark.parametrize("guidance, negative", [(1.0, ""), (4.5, ""), (3.0, "A Blurry House ")])
def test_image(case, guidance, negative):
    """The negative prompt goes without the instruction."""
    pipe, folder, size, length = case
    families.check_image(sana, pipe, folder, size, length, guidance, negative)


def test_taps(tmp_path):
    """Named as diffusers' modules."""

    class Pipe:
        transformer, vae_scale_factor = sana.make_transformer(4), 2

    Pipe.transformer.save_pretrained(tmp_path / "transformer")
    want, given = {}, sana.inputs(Pipe, (12, 20), 2)
    for name in "caption_norm", "transformer_blocks.0", "transformer_blocks.1", "norm_out", "proj_out", "patch_embed":
        Pipe.transformer.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: want.update({name: o}))
    with torch.no_grad():
        sana.velocity(Pipe.transformer, given)
    out = families.probe(tmp_path, "transformer", given, "--taps")
    taps = {k.split(".", 2)[2]: v for k, v in out.items() if k.startswith("tap.")}
    assert set(taps) == {*want, "time_embed.emb"}
    for name, value in want.items():
        assert error(taps[name], value) < 1e-5, name


@pytest.mark.parametrize("name, dtype", [("small", "bfloat16"), ("patches of 2", "bfloat16"), ("four levels", "bfloat16"), ("small", "float16")])
def test_low_precision(words, tmp_path, name, dtype):
    """Gemma stays in bfloat16 where the rest is float16, whose range its states leave at full size; small ones lose by that."""
    conf = CONFIGS[name]
    pipe = sana.make(words, **conf)
    sana.save(pipe, words, tmp_path)
    slack = dict(prompt_embeds=10, x0=5) if dtype == "float16" else {}
    families.check_low_precision(sana, pipe, tmp_path, conf["size"], 100, 1, dtype, slack)


ATTENTION = [f"{a}.{x}" for a in ("attn1", "attn2") for x in ("to_q", "to_k", "to_v", "to_out.0")]
# name: (changes of the transformer, targets, rank, alpha)
ADAPTERS = {
    "cosmos-rl": (dict(), ATTENTION, 4, 4),
    "one part": (dict(qk_norm=None), ["transformer_blocks.1.attn2.to_v"], 2, 7.5),
    "everything": (dict(patch_size=2, num_layers=3, num_cross_attention_heads=3), sana.LAYERS, 3, 6),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_gradients(tmp_path, name):
    changes, targets, rank, alpha = ADAPTERS[name]

    class Pipe:
        transformer, vae_scale_factor = sana.make_transformer(4, **changes), 2

    Pipe.transformer.save_pretrained(tmp_path / "transformer")
    families.check_gradients(sana, Pipe, tmp_path, (12, 20), targets, rank, alpha, 1e-6 if name == "everything" else 0)


@pytest.mark.parametrize("change, said", [
    (dict(qk_norm="rms_norm"), 'qk_norm = "rms_norm"'), (dict(guidance_embeds=True), "guidance_embeds"), (dict(interpolation_scale=2), "interpolation_scale"),
    (dict(norm_elementwise_affine=True), "norm_elementwise_affine"), (dict(cross_attention_dim=12), "cross_attention_dim = 12: must be num_attention_heads"),
    (dict(mlp_ratio=0), "mlp_ratio must be above 0"), (dict(timestep_scale=0), "timestep_scale must be above 0"), (dict(new_thing=1), "new_thing"),
])  # fmt: skip
def test_refused_configurations(tmp_path, change, said):
    class Pipe:
        transformer, vae_scale_factor = sana.make_transformer(4), 2

    Pipe.transformer.save_pretrained(tmp_path / "transformer")
    path = tmp_path / "transformer/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RuntimeError) as e:
        families.probe(tmp_path, "transformer", sana.inputs(Pipe, (8, 8), 1))
    assert said in str(e.value) and str(e.value).count("\n") == 1


@pytest.mark.parametrize("change, said", [
    (dict(upsample_block_type="pixel_shuffle"), "upsample_block_type"), (dict(downsample_block_type=None), "downsample_block_type"),
    (dict(decoder_norm_types="batch_norm"), "decoder_norm_types 'batch_norm': only rms_norm"), (dict(decoder_act_fns=["silu", "relu"]), "decoder_act_fns 'relu'"),
    (dict(encoder_layers_per_block=[0, 1]), "encoder_layers_per_block[0] must be"), (dict(decoder_qkv_multiscales=[[], [4]]), "decoder_qkv_multiscales[1][0] must be an odd"),
    (dict(encoder_block_out_channels=[8]), "encoder_layers_per_block must be a list of 1 numbers"), (dict(decoder_block_types=["ResBlock", "X"]), "decoder_block_types 'X'"),
    (dict(latent_channels=3), "must have a multiple of latent_channels"), (dict(encoder_out_shortcut=False), "encoder_out_shortcut is false"),
])  # fmt: skip
def test_refused_autoencoders(tmp_path, change, said):
    sana.make_vae(1).save_pretrained(tmp_path / "vae")
    path = tmp_path / "vae/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RuntimeError) as e:
        families.probe(tmp_path, "vae-decode", {"latents": torch.zeros(1, 4, 2, 2)})
    assert said in str(e.value) and str(e.value).count("\n") == 1, str(e.value)


def test_published_schedule(words, tmp_path):
    """The pipelines' own scheduler takes steps of its own; its shift is what the levels of the sampler's steps have."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    sana.save(sana.make(words), words, tmp_path)
    config = dict(_class_name="DPMSolverMultistepScheduler", prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, algorithm_type="dpmsolver++",
                  solver_order=2, num_train_timesteps=1000)  # fmt: skip
    (tmp_path / "scheduler/scheduler_config.json").write_text(json.dumps(config))
    contraflow("probe", "schedule", "--model", tmp_path, "--out", tmp_path / "s.safetensors", "--steps", 20)
    euler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    euler.set_timesteps(20)
    assert torch.allclose(load_file(tmp_path / "s.safetensors")["sigmas"], euler.sigmas, rtol=1e-5, atol=1e-6)
