"""Whole Stable Diffusion 3 pipelines of random weights: every component and whole images against diffusers."""

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from sd3 import contraflow, error, randomise
from transformers import (
    CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer,
)  # fmt: skip
from vocabularies import clip_folder, t5_folder

PROMPTS = ["a photo of a red circle", "", "two dogs left of a café — 'don't' 日本 " * 12, "x"]
SD3 = dict(dual_attention_layers=(), qk_norm=None)
SD35 = dict(dual_attention_layers=(0, 1), qk_norm="rms_norm")
# name: what differs from the small pipeline of make().  size: pixels; scale: of the VAE
CONFIGS = {
    "sd3": dict(transformer=SD3),
    "sd35": dict(transformer=SD35),
    "3.5 Large": dict(transformer=dict(dual_attention_layers=(), qk_norm="rms_norm", num_layers=3, pos_embed_max_size=24), size=(24, 40)),
    "no T5": dict(transformer=SD35, t5=None),
    "non-square": dict(transformer=SD35, size=(48, 32)),
    "wide": dict(transformer=dict(SD3, num_layers=3, num_attention_heads=3, attention_head_dim=16), size=(24, 72)),
    "one level": dict(vae=dict(block_out_channels=(12,), layers_per_block=2, norm_num_groups=3), size=(12, 20)),
    "three levels": dict(vae=dict(block_out_channels=(8, 16, 24), norm_num_groups=8), size=(40, 56)),
    "quant convs": dict(vae=dict(use_quant_conv=True, use_post_quant_conv=True, shift_factor=None)),
    "no middle attention": dict(vae=dict(mid_block_add_attention=False, layers_per_block=2)),
    "deep text": dict(clip=dict(num_hidden_layers=5), t5=dict(num_layers=4, num_heads=3, d_kv=8)),
    "short T5": dict(t5_length=7, t5=dict(relative_attention_num_buckets=8, relative_attention_max_distance=20)),
    "relu T5": dict(t5=dict(feed_forward_proj="gated-relu"), scheduler=dict(shift=1.0)),
    "plain T5": dict(t5=dict(feed_forward_proj="relu"), t5_length=200),
    "old eos": dict(clip=dict(eos_token_id=2), transformer=dict(SD35, num_layers=1, dual_attention_layers=(0,))),
    "one layer": dict(clip=dict(num_hidden_layers=1), t5=dict(num_layers=1), scheduler=dict(shift=6.0)),
}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Tokenizer folders that every pipeline shares, and their sizes."""
    folder = tmp_path_factory.mktemp("words")
    clip = clip_folder(folder / "tokenizer", merges=300)
    clip_folder(folder / "tokenizer_2", pad="!", merges=300)
    return folder, clip, t5_folder(folder / "tokenizer_3", 400)


def make(words, transformer=SD35, vae={}, clip={}, t5={}, scheduler={}, seed=0, **_):
    """A StableDiffusion3Pipeline with random weights, no smaller than its parts allow."""
    folder, clip_size, t5_size = words
    layer = dict(vocab_size=clip_size, num_hidden_layers=3, num_attention_heads=2, max_position_embeddings=77)
    layer.update({"eos_token_id": clip_size - 1, **clip})
    clips = [
        CLIPTextModelWithProjection(CLIPTextConfig(hidden_size=w, intermediate_size=37, hidden_act=a, projection_dim=p, **layer))
        for w, a, p in [(16, "quick_gelu", 12), (24, "gelu", 20)]
    ]
    t5_model = None
    if t5 is not None:
        conf = dict(vocab_size=t5_size, d_model=48, d_kv=12, d_ff=40, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu")
        t5_model = T5EncoderModel(T5Config(**{**conf, **t5}))
    conf = dict(sample_size=16, patch_size=2, in_channels=16, out_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=4,
                joint_attention_dim=48, pooled_projection_dim=32, pos_embed_max_size=36)  # fmt: skip
    conf.update(transformer)
    conf["caption_projection_dim"] = conf["num_attention_heads"] * conf["attention_head_dim"]
    kl = dict(block_out_channels=(8, 16), layers_per_block=1, latent_channels=16, norm_num_groups=4, use_quant_conv=False,
              use_post_quant_conv=False, shift_factor=0.0609, scaling_factor=1.5305)  # fmt: skip
    kl.update(vae)
    n = len(kl["block_out_channels"])
    kl.update(down_block_types=("DownEncoderBlock2D",) * n, up_block_types=("UpDecoderBlock2D",) * n)
    parts = [SD3Transformer2DModel(**conf), AutoencoderKL(**kl), *clips, *([t5_model] if t5_model else [])]
    for i, part in enumerate(parts):
        randomise(part, seed + i).eval()
        if hasattr(part, "tie_weights"):
            part.tie_weights()
    return StableDiffusion3Pipeline(
        transformer=parts[0], vae=parts[1], text_encoder=clips[0], text_encoder_2=clips[1], text_encoder_3=t5_model,
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"), tokenizer_2=CLIPTokenizer.from_pretrained(folder / "tokenizer_2"),
        tokenizer_3=T5Tokenizer.from_pretrained(folder / "tokenizer_3") if t5_model else None,
        scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **scheduler}),
    )  # fmt: skip


def save(pipe, words, folder):
    """As the hub has it: the parts from diffusers, the tokenizers' own files."""
    pipe.save_pretrained(folder)
    for name in ["tokenizer", "tokenizer_2", "tokenizer_3"]:
        for file in (words[0] / name).iterdir():
            if (folder / name).exists():
                (folder / name / file.name).write_bytes(file.read_bytes())


@pytest.fixture(scope="module", params=CONFIGS)
def case(request, words, tmp_path_factory):
    conf = CONFIGS[request.param]
    pipe = make(words, **conf)
    pipe.set_progress_bar_config(disable=True)
    folder = tmp_path_factory.mktemp("pipeline")
    save(pipe, words, folder)
    return pipe, folder, conf


def probe(folder, component, inputs, *args, prompts=None):
    meta = {"prompts": json.dumps(prompts)} if prompts else None
    save_file(inputs, folder / "in.safetensors", meta)
    contraflow("probe", component, "--model", folder, "--in", folder / "in.safetensors", "--out", folder / "out.safetensors", *args)
    return load_file(folder / "out.safetensors")


def latents(pipe, conf, n=2, seed=5):
    h, w = conf.get("size", (32, 32))
    f = pipe.vae_scale_factor
    return torch.randn(n, 16, h // f, w // f, generator=torch.Generator().manual_seed(seed))


def test_text(case):
    pipe, folder, conf = case
    length = conf.get("t5_length", 77)
    with torch.no_grad():
        embeds, _, pooled, _ = pipe.encode_prompt(PROMPTS, None, None, do_classifier_free_guidance=False, max_sequence_length=length)
    out = probe(folder, "text", {"unused": torch.zeros(1)}, "--text-length", length, prompts=PROMPTS)
    assert error(out["prompt_embeds"], embeds) < 1e-5
    assert error(out["pooled_prompt_embeds"], pooled) < 1e-5


def test_vae(case):
    pipe, folder, conf = case
    z = latents(pipe, conf, 3)
    shift = pipe.vae.config.shift_factor or 0
    with torch.no_grad():
        want = pipe.vae.decode(z / pipe.vae.config.scaling_factor + shift, return_dict=False)[0]
    for batch in 1, 2, 8:  # one by one; two and the last; all
        assert error(probe(folder, "vae-decode", {"latents": z}, "--batch", batch)["sample"], want) < 1e-5
    h, w = conf.get("size", (32, 32))
    image = torch.rand(2, 3, h, w, generator=torch.Generator().manual_seed(9)) * 2 - 1
    with torch.no_grad():
        want = (pipe.vae.encode(image).latent_dist.mean - shift) * pipe.vae.config.scaling_factor
    assert error(probe(folder, "vae-encode", {"image": image})["latents"], want) < 1e-5


def test_transformer(case):
    pipe, folder, conf = case
    g = torch.Generator().manual_seed(3)
    inputs = dict(
        hidden_states=latents(pipe, conf), timestep=1000 * torch.rand(2, generator=g),
        encoder_hidden_states=torch.randn(2, 21, 48, generator=g), pooled_projections=torch.randn(2, 32, generator=g),
    )  # fmt: skip
    with torch.no_grad():
        want = pipe.transformer(**inputs, return_dict=False)[0]
    assert error(probe(folder, "transformer", inputs)["sample"], want) < 1e-5


@pytest.mark.parametrize("steps", [10, 40])
def test_schedule(case, steps):
    pipe, folder, _ = case
    contraflow("probe", "schedule", "--model", folder, "--out", folder / "s.safetensors", "--steps", steps)
    ours = load_file(folder / "s.safetensors")
    pipe.scheduler.set_timesteps(steps)
    assert torch.allclose(ours["sigmas"], pipe.scheduler.sigmas, rtol=1e-5, atol=1e-6)
    assert torch.allclose(ours["timesteps"], pipe.scheduler.timesteps, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("guidance, negative", [(1.0, ""), (4.5, ""), (3.0, "a blurry house")])
def test_image(case, guidance, negative):
    """Ten steps from the same latents, then the decoder: latents to 1e-4, images within one level."""
    pipe, folder, conf = case
    h, w = conf.get("size", (32, 32))
    length = conf.get("t5_length", 77)
    start = latents(pipe, conf)
    save_file({"latents": start}, folder / "start.safetensors")
    args = dict(height=h, width=w, num_inference_steps=10, guidance_scale=guidance, latents=start.clone(), max_sequence_length=length,
                negative_prompt=[negative] * 2)  # fmt: skip
    with torch.no_grad():
        want = pipe(PROMPTS[:3:2], output_type="latent", **args).images
        decoded = pipe.vae.decode(want / pipe.vae.config.scaling_factor + (pipe.vae.config.shift_factor or 0), return_dict=False)[0]
    contraflow("sample", "--model", folder, "--prompt", PROMPTS[0], "--prompt", PROMPTS[2], "--steps", 10, "--guidance", guidance,
               "--negative", negative, "--latents", folder / "start.safetensors", "--save-latents", folder / "x0.safetensors", "--height", h, "--width", w,
               "--text-length", length, "--columns", 2, "-o", folder / "grid.png")  # fmt: skip
    assert error(load_file(folder / "x0.safetensors")["latents"], want) < 1e-4
    picture = Image.open(folder / "grid.png")
    assert picture.text["prompt"] == f"{PROMPTS[0]}\n{PROMPTS[2]}" and json.loads(picture.text["settings"])["negative"] == negative
    grid = torch.from_numpy(np.array(picture.convert("RGB"))).float()
    assert grid.shape == (h + 4, 2 * w + 6, 3)  # a frame of two pixels
    images = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1)
    for i, image in enumerate(images):
        at = 2 + i * (w + 2)
        assert (grid[2 : 2 + h, at : at + w] - image).abs().max() <= 1


def test_tied_and_untied_t5(words, tmp_path):
    """T5's embedding has two names in files: one, the other, or both; where they differ, transformers decides."""
    pipe = make(words, seed=3)
    save(pipe, words, tmp_path)
    file = tmp_path / "text_encoder_3/model.safetensors"
    tensors = load_file(file)
    table = tensors.pop("shared.weight") if "shared.weight" in tensors else tensors["encoder.embed_tokens.weight"]
    tensors.pop("encoder.embed_tokens.weight", None)
    other = torch.randn(table.shape, generator=torch.Generator().manual_seed(1))
    for names in [dict(shared=table), {"encoder.embed_tokens": table}, {"shared": table, "encoder.embed_tokens": table},
                  {"shared": table, "encoder.embed_tokens": other}]:  # fmt: skip
        save_file({**tensors, **{k + ".weight": v.clone() for k, v in names.items()}}, file, {"format": "pt"})
        pipe.text_encoder_3 = T5EncoderModel.from_pretrained(tmp_path / "text_encoder_3").eval()
        with torch.no_grad():
            embeds = pipe.encode_prompt(PROMPTS, None, None, do_classifier_free_guidance=False, max_sequence_length=20)[0]
        out = probe(tmp_path, "text", {"unused": torch.zeros(1)}, "--text-length", 20, prompts=PROMPTS)
        assert error(out["prompt_embeds"], embeds) < 1e-5, list(names)


@pytest.mark.parametrize("name", ["sd3", "sd35", "wide", "no T5", "deep text"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision(words, tmp_path, name, dtype):
    """16-bit weights and activations: no further from float32 than diffusers' own 16 bits are.  T5 stays in bfloat16 where
    the rest is float16, whose range its states leave at full size; small ones lose by that."""
    t5_loses = dtype == "float16" and name != "no T5"
    conf, low = CONFIGS[name], getattr(torch, dtype)
    pipe = make(words, **conf)
    pipe.set_progress_bar_config(disable=True)
    save(pipe, words, tmp_path)
    h, w = conf.get("size", (32, 32))
    start, g = latents(pipe, conf), torch.Generator().manual_seed(3)
    inputs = dict(
        hidden_states=start, timestep=1000 * torch.rand(2, generator=g),
        encoder_hidden_states=torch.randn(2, 21, 48, generator=g), pooled_projections=torch.randn(2, 32, generator=g),
    )  # fmt: skip

    def run(pipe, dtype):
        with torch.no_grad():
            text = pipe.encode_prompt(PROMPTS, None, None, do_classifier_free_guidance=False, max_sequence_length=16)
            v = pipe.transformer(**{k: x.to(dtype) if k != "timestep" else x for k, x in inputs.items()}, return_dict=False)[0]
            x0 = pipe(PROMPTS[:3:2], output_type="latent", height=h, width=w, num_inference_steps=10, guidance_scale=3.0,
                      latents=start.to(dtype), max_sequence_length=16).images  # fmt: skip
            z = start.to(dtype) / pipe.vae.config.scaling_factor + (pipe.vae.config.shift_factor or 0)
            pixels = pipe.vae.decode(z, return_dict=False)[0]
        return dict(embeds=text[0], pooled=text[2], v=v, x0=x0, pixels=pixels)

    exact = run(pipe, torch.float32)
    theirs = run(pipe.to(low), low)
    more = ["--dtype", dtype]
    text = probe(tmp_path, "text", {"unused": torch.zeros(1)}, "--text-length", 16, *more, prompts=PROMPTS)
    save_file({"latents": start}, tmp_path / "start.safetensors")
    contraflow("sample", "--model", tmp_path, "--prompt", PROMPTS[0], "--prompt", PROMPTS[2], "--steps", 10, "--guidance", 3,
               "--latents", tmp_path / "start.safetensors", "--save-latents", tmp_path / "x0.safetensors", "--height", h,
               "--width", w, "--text-length", 16, *more)  # fmt: skip
    ours = dict(embeds=text["prompt_embeds"], pooled=text["pooled_prompt_embeds"], v=probe(tmp_path, "transformer", inputs, *more)["sample"],
                x0=load_file(tmp_path / "x0.safetensors")["latents"],
                pixels=probe(tmp_path, "vae-decode", {"latents": start}, "--batch", 2, *more)["sample"])  # fmt: skip
    for key in exact:
        mine, other = error(ours[key], exact[key]), error(theirs[key], exact[key])
        print(f"{name}, {dtype}: {key}: {mine:.2e}, diffusers {other:.2e}, ratio {mine / other:.2f}")
        assert mine <= (2.2 if t5_loses and key == "embeds" else 1.1) * other, key
