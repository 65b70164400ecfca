"""models/qwen_image/ against diffusers: tiny pipelines of random weights, every component and whole images; gradients against PEFT."""

import json

import families
import pytest
import qwen_image
import torch
from safetensors.torch import load_file
from sd3 import contraflow, error

FIXED = dict(shift=2.0)
# name: what differs from the pipeline of qwen_image.make; size: pixels; length: rows of a prompt
CONFIGS = {
    "small": dict(size=(16, 24)),
    "odd tokens": dict(size=(24, 40), length=13),
    "one token": dict(size=(8, 8), length=6, scheduler=FIXED),
    "long": dict(size=(8, 56), transformer=dict(num_layers=1), length=512),
    "high": dict(size=(72, 16), text=dict(num_hidden_layers=1, num_key_value_heads=3)),
    "wide": dict(transformer=dict(num_attention_heads=3, attention_head_dim=24, axes_dims_rope=(8, 8, 8)), size=(32, 32)),
    "one head": dict(transformer=dict(num_attention_heads=1, attention_head_dim=32, axes_dims_rope=(4, 20, 8), num_layers=3), size=(16, 40)),
    "eight channels": dict(vae=dict(z_dim=8, dim_mult=[1, 2], temperal_downsample=[True]), transformer=dict(in_channels=32, out_channels=8), size=(20, 12),
                           scheduler=dict(qwen_image.SCHEDULER, max_shift=1.3, shift_terminal=None)),
}  # fmt: skip


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return qwen_image.folders(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module", params=CONFIGS)
def case(request, words, tmp_path_factory):
    conf = CONFIGS[request.param]
    pipe, folder = qwen_image.make(words, **conf), tmp_path_factory.mktemp("pipeline")
    qwen_image.save(pipe, words, folder)
    return pipe, folder, conf["size"], conf.get("length", 32)


def test_text(case):
    pipe, folder, _, length = case
    families.check_text(qwen_image, pipe, folder, length)


def test_lengths_differ(words, tmp_path):
    """Rows of prompts that are not filled up, and the stock pipeline's limit where nobody gives one."""
    pipe = qwen_image.make(words)
    qwen_image.save(pipe, words, tmp_path)
    out, want = families.probe_text(tmp_path), qwen_image.text(pipe, families.PROMPTS, 512)
    assert len(set(want["lengths"].tolist())) == 4
    for name in want:
        assert error(out[name], want[name]) < 1e-5, name


def test_vae(case):
    pipe, folder, size, _ = case
    z = qwen_image.latents(pipe, size, 3)
    assert error(families.probe(folder, "vae-decode", {"latents": z})["sample"], qwen_image.decode(pipe.vae, z)) < 1e-5
    pixels = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(9)) * 2 - 1
    assert error(families.probe(folder, "vae-encode", {"image": pixels})["latents"], qwen_image.encode(pipe.vae, pixels)) < 1e-5


def test_transformer(case):
    """Prompts of one length and of several."""
    pipe, folder, size, _ = case
    families.check_transformer(qwen_image, pipe, folder, size)
    given = qwen_image.inputs(pipe, size, 2, lengths=False)
    with torch.no_grad():
        assert error(families.probe(folder, "transformer", given)["sample"], qwen_image.velocity(pipe.transformer, given)) < 1e-5


def test_filling_changes_nothing(words, tmp_path):
    """A prompt among longer ones has the velocity that it has alone."""
    pipe = qwen_image.make(words)
    qwen_image.save(pipe, words, tmp_path)
    given = qwen_image.inputs(pipe, (24, 16), 3, tokens=9)
    together = families.probe(tmp_path, "transformer", given)["sample"]
    for i, n in enumerate(given["lengths"].tolist()):
        alone = {k: v[i : i + 1] for k, v in given.items() if k != "lengths"}
        alone["encoder_hidden_states"] = alone["encoder_hidden_states"][:, :n]
        assert error(together[i : i + 1], families.probe(tmp_path, "transformer", alone)["sample"]) < 1e-5


@pytest.mark.parametrize("steps", [2, 10, 50])
def test_schedule(case, steps):
    pipe, folder, size, _ = case
    tokens = size[0] * size[1] // (2 * pipe.vae_scale_factor) ** 2
    contraflow("probe", "schedule", "--model", folder, "--out", folder / "s.safetensors", "--steps", steps, "--tokens", tokens)
    scheduler, more = pipe.scheduler, {}
    if scheduler.config.use_dynamic_shifting:
        c = scheduler.config
        slope = (c.max_shift - c.base_shift) / (c.max_image_seq_len - c.base_image_seq_len)
        more = dict(mu=c.base_shift + slope * (tokens - c.base_image_seq_len))
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps, dtype=torch.float64).numpy(), **more)
    assert torch.allclose(load_file(folder / "s.safetensors")["sigmas"], scheduler.sigmas, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("guidance, negative", [(1.0, " "), (4.0, " "), (2.5, "a blurry house")])
def test_image(case, guidance, negative):
    pipe, folder, size, length = case
    families.check_image(qwen_image, pipe, folder, size, length, guidance, negative)


@pytest.mark.parametrize("name", ["small", "wide", "odd tokens"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision(words, tmp_path, name, dtype):
    """The decoder stays in bfloat16 where the rest is float16, whose range its states leave at full size; small ones lose by that."""
    conf = CONFIGS[name]
    pipe = qwen_image.make(words, **conf)
    qwen_image.save(pipe, words, tmp_path)
    slack = dict(prompt_embeds=10, x0=1.5) if dtype == "float16" else {}
    families.check_low_precision(qwen_image, pipe, tmp_path, conf["size"], 48, 1, dtype, slack)


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


@pytest.mark.parametrize("change, said", [
    (dict(patch_size=1), "patch_size"),
    (dict(in_channels=20), "in_channels must be 4 out_channels"),
    (dict(attention_head_dim=18), "axes_dims_rope adds up to 16"),
    (dict(axes_dims_rope=[4, 12]), "axes_dims_rope must be a list of 3"),
    (dict(axes_dims_rope=[4, 7, 5]), "axes_dims_rope[1] must be even"),
    (dict(guidance_embeds=True), "guidance_embeds"),
    (dict(zero_cond_t=True), "zero_cond_t"),
    (dict(use_additional_t_cond=True), "use_additional_t_cond"),
    (dict(use_layer3d_rope=True), "use_layer3d_rope"),
])  # fmt: skip
def test_refused_configurations(tmp_path, change, said):
    """What would compute something else."""

    class Pipe:
        transformer, vae_scale_factor = qwen_image.make_transformer(4), 2

    Pipe.transformer.save_pretrained(tmp_path / "transformer")
    path = tmp_path / "transformer/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RuntimeError) as e:
        families.probe(tmp_path, "transformer", qwen_image.inputs(Pipe, (8, 8), 1))
    assert said in str(e.value) and str(e.value).count("\n") == 1


def test_refused_pipelines(words, tmp_path):
    """Other pipelines of the same parts by name, and sizes that are no whole tokens."""
    qwen_image.save(qwen_image.make(words), words, tmp_path)
    index = tmp_path / "model_index.json"
    text = index.read_text()
    ask = ["sample", "--model", tmp_path, "--prompt", "x", "-o", tmp_path / "x.png", "--height", 16, "--width", 16]
    for name, why in [("QwenImageEditPipeline", "edits images"), ("QwenImageEditPlusPipeline", "edits images"), ("QwenImageLayeredPipeline", "makes layers"),
                      ("QwenImageControlNetPipeline", "is steered by images"), ("QwenImage21Pipeline", "is unknown")]:  # fmt: skip
        index.write_text(text.replace('"QwenImagePipeline"', f'"{name}"'))
        with pytest.raises(RuntimeError) as e:
            contraflow(*ask)
        assert f"'{name}'" in str(e.value) and why in str(e.value) and "QwenImagePipeline" in str(e.value) and str(e.value).count("\n") == 1
    index.write_text(text)
    with pytest.raises(RuntimeError, match="must be a multiple of 8"):
        contraflow(*ask[:-1], 20)
    assert not (tmp_path / "x.png").exists()
