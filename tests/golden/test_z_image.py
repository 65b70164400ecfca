"""Whole Z-Image pipelines of random weights: every component and whole images against diffusers."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sd3 import contraflow, error
from z_image import make_inputs, make_pipeline, velocity

LONG = "two dogs left of a café — 'don't' 日本 " * 3
PROMPTS = ["a photo of a red circle", "", LONG, "<|im_end|>x\n<think> <|im_start|>"]
# name: what differs from the small pipeline of make_pipeline().  size: pixels, height first
CONFIGS = {
    "tiny": dict(size=(16, 24)),
    "odd": dict(size=(20, 28), transformer=dict(n_refiner_layers=2), scheduler=dict(shift=6.0)),
    "tall": dict(size=(44, 8), text=dict(num_hidden_layers=2, num_key_value_heads=4)),
    "no fillers": dict(size=(16, 32), text=dict(tie_word_embeddings=True, rope_parameters=dict(rope_type="default", rope_theta=1e6))),
    "wide": dict(size=(24, 32), transformer=dict(dim=96, axes_dims=[8, 12, 12], n_layers=3), text=dict(hidden_size=32, head_dim=12, num_hidden_layers=4)),
    "three levels": dict(size=(40, 56), vae=dict(block_out_channels=(8, 16, 24), norm_num_groups=8), transformer=dict(n_layers=1)),
    "quant convs": dict(size=(32, 32), vae=dict(use_quant_conv=True, use_post_quant_conv=True), scheduler=dict(use_dynamic_shifting=True, base_shift=0.6)),
    "embeddings alone": dict(size=(12, 20), text=dict(num_hidden_layers=1)),
}


@pytest.fixture(scope="module", params=CONFIGS)
def case(request, tmp_path_factory):
    conf = CONFIGS[request.param]
    pipe, folder = make_pipeline(**conf), tmp_path_factory.mktemp("pipeline")
    pipe.save_pretrained(folder)
    return pipe, folder, conf


def probe(folder, component, inputs, *args, prompts=None):
    meta = {"prompts": json.dumps(prompts)} if prompts else None
    save_file(inputs, folder / "in.safetensors", meta)
    contraflow("probe", component, "--model", folder, "--in", folder / "in.safetensors", "--out", folder / "out.safetensors", *args)
    return load_file(folder / "out.safetensors")


def latents(pipe, conf, n=2, seed=5):
    h, w = (side // pipe.vae_scale_factor for side in conf["size"])
    return torch.randn(n, 4, h, w, generator=torch.Generator().manual_seed(seed))


def encode(pipe, prompts, length=512):
    with torch.no_grad():  # the pipeline writes into the list that it is given
        return pipe.encode_prompt(list(prompts), do_classifier_free_guidance=False, max_sequence_length=length)[0]


@pytest.mark.parametrize("length", [None, 17])
def test_text(case, length):
    """Each prompt by itself, as long as it is, and cut where that is wanted."""
    pipe, folder, _ = case
    out = probe(folder, "text", {"unused": torch.zeros(1)}, *(["--text-length", length] if length else []), prompts=PROMPTS)
    want = encode(pipe, PROMPTS, length or 512)
    assert out["lengths"].tolist() == [len(x) for x in want] and len({len(x) for x in want}) == (4 if not length else 2)
    assert out["prompt_embeds"].shape[1] % 32 == 0
    for row, x in zip(out["prompt_embeds"], want):
        assert error(row[: len(x)], x) < 1e-5 and not row[len(x) :].any()


def test_ids(case):
    pipe, folder, _ = case
    out = probe(folder, "tokenize", {"unused": torch.zeros(1)}, prompts=PROMPTS)["input_ids"]
    text = [pipe.tokenizer.apply_chat_template([{"role": "user", "content": p}], tokenize=False, add_generation_prompt=True) for p in PROMPTS]
    for row, ids in zip(out, pipe.tokenizer(text).input_ids):
        assert row[: len(ids)].tolist() == ids and set(row[len(ids) :].tolist()) <= {pipe.tokenizer.pad_token_id}


def test_vae(case):
    pipe, folder, conf = case
    z, scale, shift = latents(pipe, conf, 3), pipe.vae.config.scaling_factor, pipe.vae.config.shift_factor
    with torch.no_grad():
        want = pipe.vae.decode(z / scale + shift, return_dict=False)[0]
    assert error(probe(folder, "vae-decode", {"latents": z}, "--batch", 2)["sample"], want) < 1e-5
    image = torch.rand(2, 3, *conf["size"], generator=torch.Generator().manual_seed(9)) * 2 - 1
    with torch.no_grad():
        want = (pipe.vae.encode(image).latent_dist.mean - shift) * scale
    assert error(probe(folder, "vae-encode", {"image": image})["latents"], want) < 1e-5


def test_transformer(case):
    pipe, folder, conf = case
    h, w = latents(pipe, conf).shape[2:]
    inputs = make_inputs(pipe.transformer, lengths=(21, 70), height=h, width=w)
    with torch.no_grad():
        assert error(probe(folder, "transformer", inputs)["sample"], velocity(pipe.transformer, inputs)) < 1e-5


@pytest.mark.parametrize("steps", [1, 9, 50])
def test_schedule(case, steps):
    pipe, folder, conf = case
    h, w = latents(pipe, conf).shape[2:]
    contraflow("probe", "schedule", "--model", folder, "--out", folder / "s.safetensors", "--steps", steps, "--tokens", h * w // 4)
    seen = []
    pipe(["x"], height=conf["size"][0], width=conf["size"][1], num_inference_steps=steps, guidance_scale=0.0, output_type="latent",
         callback_on_step_end=lambda p, *_: seen.append(p.scheduler.sigmas.clone()) or {})  # fmt: skip
    ours = load_file(folder / "s.safetensors")
    assert torch.allclose(ours["sigmas"], seen[0], rtol=1e-5, atol=1e-6)
    assert torch.allclose(ours["timesteps"], pipe.scheduler.timesteps, rtol=1e-5, atol=1e-3)


def images(pipe, folder, conf, start, guidance, negative, dtype=None):
    """Ten steps of both: their latents and ours, and ours as a picture."""
    h, w = conf["size"]
    save_file({"latents": start}, folder / "start.safetensors")
    with torch.no_grad():  # theirs adds the guidance to the plain velocity
        want = pipe([PROMPTS[0], LONG], height=h, width=w, num_inference_steps=10, guidance_scale=guidance - 1, latents=start.clone(),
                    negative_prompt=[negative] * 2, output_type="latent").images  # fmt: skip
    contraflow("sample", "--model", folder, "--prompt", PROMPTS[0], "--prompt", LONG, "--steps", 10, "--guidance", guidance, "--negative", negative,
               "--latents", folder / "start.safetensors", "--save-latents", folder / "x0.safetensors", "--height", h, "--width", w, "--columns", 2,
               "-o", folder / "grid.png", *(["--dtype", dtype] if dtype else []))  # fmt: skip
    return want, load_file(folder / "x0.safetensors")["latents"], folder / "grid.png"


@pytest.mark.parametrize("guidance, negative", [(1.0, ""), (5.0, ""), (3.0, "a blurry house")])
def test_image(case, guidance, negative):
    """Two prompts of different lengths in a batch: latents to 1e-4, images within one level."""
    pipe, folder, conf = case
    h, w = conf["size"]
    want, got, picture = images(pipe, folder, conf, latents(pipe, conf), guidance, negative)
    assert error(got, want) < 1e-4
    with torch.no_grad():
        decoded = pipe.vae.decode(want / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor, return_dict=False)[0]
    grid = torch.from_numpy(np.array(Image.open(picture).convert("RGB"))).float()
    assert grid.shape == (h + 4, 2 * w + 6, 3)  # a frame of two pixels
    for i, image in enumerate(((decoded / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1)):
        at = 2 + i * (w + 2)
        assert (grid[2 : 2 + h, at : at + w] - image).abs().max() <= 1


@pytest.mark.parametrize("name", ["tiny", "wide", "three levels"])
def test_low_precision(tmp_path, name):
    """bfloat16: no further from float32 than diffusers' own is."""
    conf, low = CONFIGS[name], torch.bfloat16
    pipe = make_pipeline(**conf)
    pipe.save_pretrained(tmp_path)
    start = latents(pipe, conf)
    exact, ours, _ = images(pipe, tmp_path, conf, start, 3.0, "", "bfloat16")
    text, z = encode(pipe, PROMPTS), start / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor
    out = probe(tmp_path, "text", {"unused": torch.zeros(1)}, "--dtype", "bfloat16", prompts=PROMPTS)
    mine = dict(x0=ours, text=torch.cat([row[: len(x)] for row, x in zip(out["prompt_embeds"], text)]),
                pixels=probe(tmp_path, "vae-decode", {"latents": start}, "--batch", 2, "--dtype", "bfloat16")["sample"])  # fmt: skip
    with torch.no_grad():
        want = dict(x0=exact, text=torch.cat(text), pixels=pipe.vae.decode(z, return_dict=False)[0])
        pipe.to(low)
        theirs = dict(x0=images(pipe, tmp_path, conf, start, 3.0, "")[0], text=torch.cat(encode(pipe, PROMPTS)).float(),
                      pixels=pipe.vae.decode(z.to(low), return_dict=False)[0].float())  # fmt: skip
    for key in want:
        a, b = error(mine[key], want[key]), error(theirs[key], want[key])
        print(f"{name}: {key}: {a:.2e}, diffusers {b:.2e}, ratio {a / b:.2f}")
        assert a <= 1.1 * b, key


def test_weights_of_a_language_model(tmp_path):
    """As the hub has Qwen3: every tensor behind "model.", beside an output layer that nothing reads."""
    pipe = make_pipeline()
    pipe.save_pretrained(tmp_path)
    file = tmp_path / "text_encoder/model.safetensors"
    tensors = {f"model.{k}": v for k, v in load_file(file).items()}
    save_file({**tensors, "lm_head.weight": torch.zeros(301, 24)}, file, {"format": "pt"})
    out = probe(tmp_path, "text", {"unused": torch.zeros(1)}, prompts=PROMPTS[:1])
    assert error(out["prompt_embeds"][0, : out["lengths"][0]], encode(pipe, PROMPTS[:1])[0]) < 1e-5


@pytest.mark.parametrize("change, message", [
    (dict(_class_name="ZImageOmniPipeline"), "a pipeline of class 'ZImageOmniPipeline'"), (dict(_class_name="ZImageInpaintPipeline"), "'ZImageInpaintPipeline'"),
    (dict(text_encoder=["transformers", "T5EncoderModel"]), "text_encoder is of class 'T5EncoderModel'"),
    (dict(transformer=["diffusers", "ZImageControlNetModel"]), "transformer is of class 'ZImageControlNetModel'"),
])  # fmt: skip
def test_refused(tmp_path, change, message):
    make_pipeline().save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), **change}))
    with pytest.raises(RuntimeError) as e:
        contraflow("sample", "--model", tmp_path, "--prompt", "x", "-o", tmp_path / "x.png")
    assert message in str(e.value) and str(e.value).count("\n") == 1


def test_sizes(tmp_path):
    """Pixels are multiples of the autoencoder's scale times the patch, and no more than the positions reach."""
    make_pipeline().save_pretrained(tmp_path)
    for size, message in (18, "height 18: must be a multiple of 4, at most 128"), (132, "at most 128"):
        with pytest.raises(RuntimeError) as e:
            contraflow("sample", "--model", tmp_path, "--prompt", "x", "--height", size, "--width", 16, "-o", tmp_path / "x.png")
        assert message in str(e.value)
