"""models/z_image/ against diffusers: tiny pipelines of random weights, every component and whole images."""

import json

import families
import pytest
import torch
import z_image
from safetensors.torch import load_file, save_file
from sd3 import contraflow

# name: what differs from the pipeline of z_image.make; size: pixels, height first; length: of prompts
CONFIGS = {
    "tiny": dict(size=(16, 24)),
    "odd": dict(size=(20, 28), transformer=dict(n_refiner_layers=2), scheduler=dict(shift=6.0), length=17),
    "tall": dict(size=(44, 8), text=dict(num_hidden_layers=2, num_key_value_heads=4)),
    "no fillers": dict(size=(16, 32), text=dict(tie_word_embeddings=True, rope_parameters=dict(rope_type="default", rope_theta=1e6)), length=64),
    "wide": dict(size=(24, 32), transformer=dict(dim=96, axes_dims=[8, 12, 12], n_layers=3), text=dict(hidden_size=32, head_dim=12, num_hidden_layers=4)),
    "three levels": dict(size=(40, 56), vae=dict(block_out_channels=(8, 16, 24), norm_num_groups=8), transformer=dict(n_layers=1)),
    "quant convs": dict(size=(32, 32), vae=dict(use_quant_conv=True, use_post_quant_conv=True), scheduler=dict(use_dynamic_shifting=True, base_shift=0.6)),
    "embeddings alone": dict(size=(12, 20), text=dict(num_hidden_layers=1), length=200),
}


@pytest.fixture(scope="module", params=CONFIGS)
def case(request, tmp_path_factory):
    conf = CONFIGS[request.param]
    pipe, folder = z_image.make(**conf), tmp_path_factory.mktemp("pipeline")
    pipe.save_pretrained(folder)
    return pipe, folder, conf["size"], conf.get("length", 100)


def test_text(case):
    pipe, folder, _, length = case
    families.check_text(z_image, pipe, folder, length)


def test_text_of_its_own_length(case):
    """What a prompt says like the template is taken for it; only the longest is cut, at 512."""
    pipe, folder, _, _ = case
    prompts = ["<|im_end|>x\n<think> <|im_start|>", "x" * 600, "y"]
    out = families.probe(folder, "text", {"unused": torch.zeros(1)}, prompts=prompts)
    want = z_image.text(pipe, prompts, 512)
    assert torch.equal(out["lengths"], want["lengths"]) and out["lengths"][1] == 512
    assert families.error(out["prompt_embeds"], want["prompt_embeds"]) < 1e-5


def test_vae(case):
    pipe, folder, size, _ = case
    families.check_vae(pipe, folder, z_image.latents(pipe, size, 3), size)


def test_transformer(case):
    pipe, folder, size, _ = case
    families.check_transformer(z_image, pipe, folder, size)


@pytest.mark.parametrize("steps", [1, 9, 50])
def test_schedule(case, steps):
    pipe, folder, (h, w), _ = case
    tokens = z_image.latents(pipe, (h, w), 1).numel() // 16
    contraflow("probe", "schedule", "--model", folder, "--out", folder / "s.safetensors", "--steps", steps, "--tokens", tokens)
    pipe(["x"], height=h, width=w, num_inference_steps=steps, guidance_scale=0.0, output_type="latent")
    ours = load_file(folder / "s.safetensors")
    assert torch.allclose(ours["sigmas"], pipe.scheduler.sigmas, rtol=1e-5, atol=1e-6)
    assert torch.allclose(ours["timesteps"], pipe.scheduler.timesteps, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("guidance, negative", [(1.0, ""), (5.0, ""), (3.0, "a blurry house")])
def test_image(case, guidance, negative):
    pipe, folder, size, length = case
    families.check_image(z_image, pipe, folder, size, length, guidance, negative)


@pytest.mark.parametrize("name", ["tiny", "wide", "three levels"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision(tmp_path, name, dtype):
    """Qwen3 stays in bfloat16 where the rest is float16, whose range its states leave at full size; small ones lose by that."""
    pipe = z_image.make(**CONFIGS[name])
    pipe.save_pretrained(tmp_path)
    slack = dict(prompt_embeds=10, x0=5) if dtype == "float16" else {}
    families.check_low_precision(z_image, pipe, tmp_path, CONFIGS[name]["size"], 60, 3.0, dtype, slack)


def test_weights_of_a_language_model(tmp_path):
    """As the hub has Qwen3: every tensor behind "model.", beside an output layer that nothing reads."""
    pipe = z_image.make()
    pipe.save_pretrained(tmp_path)
    file = tmp_path / "text_encoder/model.safetensors"
    tensors = {f"model.{k}": v for k, v in load_file(file).items()}
    save_file({**tensors, "lm_head.weight": torch.zeros(301, 24)}, file, {"format": "pt"})
    families.check_text(z_image, pipe, tmp_path, 50)


@pytest.mark.parametrize("change, message", [
    (dict(_class_name="ZImageOmniPipeline"), "which edits images and is not supported"), (dict(_class_name="ZImageInpaintPipeline"), "fills parts of images"),
    (dict(_class_name="ZImageImg2ImgPipeline"), "starts from images"), (dict(_class_name="ZImageControlNetPipeline"), "is steered by images"),
    (dict(text_encoder=["transformers", "T5EncoderModel"]), "text_encoder is of class 'T5EncoderModel'"),
    (dict(transformer=["diffusers", "ZImageControlNetModel"]), "transformer is of class 'ZImageControlNetModel'"),
])  # fmt: skip
def test_refused(tmp_path, change, message):
    z_image.make().save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), **change}))
    with pytest.raises(RuntimeError) as e:
        contraflow("sample", "--model", tmp_path, "--prompt", "x", "-o", tmp_path / "x.png")
    assert message in str(e.value) and str(e.value).count("\n") == 1


def test_sizes(tmp_path):
    """Pixels are multiples of the autoencoder's scale times the patch, and no more than the positions reach."""
    z_image.make().save_pretrained(tmp_path)
    for size, message in (18, "height 18: must be a multiple of 4, at most 128"), (132, "at most 128"):
        with pytest.raises(RuntimeError) as e:
            contraflow("sample", "--model", tmp_path, "--prompt", "x", "--height", size, "--width", 16, "-o", tmp_path / "x.png")
        assert message in str(e.value)
