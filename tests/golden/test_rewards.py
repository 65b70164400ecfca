"""Rewards that look: CLIP's family against transformers and open_clip on random weights, Tesseract on rendered text."""

import gzip
import json
import os
import pathlib
import subprocess

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from safetensors.torch import save_file
from sd3 import ROOT, contraflow, randomise
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
from vocabularies import clip_folder

PROMPTS = ["a photo of a red circle", "two dogs left of a café — 'don't' 日本", "", "x " * 100, "A PHOTO of a Cross!"]
SIZES = [(48, 48), (200, 131), (131, 200), (30, 30), (33, 400), (512, 512), (7, 9), (224, 300), (1, 8192), (4000, 2)]


def make_image(w, h, seed):
    """Edges, gradients, noise and text: what resizing must get right."""
    r = np.random.default_rng(seed)
    y, x = np.mgrid[0:h, 0:w]
    a = np.stack([(127 + 120 * np.sin(x / (3 + c) + y / (7 - c) + seed)) for c in range(3)], -1)
    a = np.clip(a + r.normal(0, 30, a.shape), 0, 255).astype(np.uint8)
    im = Image.fromarray(a)
    d = ImageDraw.Draw(im)
    d.ellipse([w // 5, h // 4, w // 2, max(h - 2, h // 4)], fill=tuple(int(v) for v in r.integers(0, 256, 3)))
    d.rectangle([w // 2, 1, w - 1, max(h // 3, 1)], outline=(255, 255, 255))
    return im


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    out = []
    for i, (w, h) in enumerate(SIZES):
        im = make_image(w, h, i)
        im.save(folder / f"{i}.png")
        out.append((folder / f"{i}.png", im))
    return out


def resize(im, w, h):
    """Rows first, then columns, as every Pillow did up to 12; 13 takes the cheaper order first."""
    return im.resize((w, im.height), Image.BICUBIC).resize((w, h), Image.BICUBIC)


def shortest(im, size):
    w, h = im.size
    return resize(im, size if w <= h else int(size * w / h), size if h <= w else int(size * h / w))


def score(folder, rewards, prompts, files):
    (folder / "c.yaml").write_text(json.dumps(dict(rewards=rewards)))
    (folder / "p.jsonl").write_text("".join(json.dumps(dict(prompt=p)) + "\n" for p in prompts))
    done = contraflow("score", "--config", folder / "c.yaml", "--prompts", folder / "p.jsonl", *files)
    return json.loads(done)["images"]


@pytest.fixture(scope="module", params=["quick_gelu", "gelu", "old"])
def clip(request, tmp_path_factory):
    """A random CLIPModel saved by transformers.  old: the end-of-text id of configurations from before 4.31."""
    folder = tmp_path_factory.mktemp("clip")
    size = clip_folder(folder / "t", merges=300)
    for file in (folder / "t").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    eos = 2 if request.param == "old" else size - 1
    act = "gelu" if request.param == "gelu" else "quick_gelu"
    text = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=3, vocab_size=size, eos_token_id=eos,
                max_position_embeddings=77, hidden_act=act, projection_dim=99)  # fmt: skip
    vision = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=30, patch_size=6, hidden_act=act)
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=20))
    randomise(model, 4)
    with torch.no_grad():
        model.logit_scale.fill_(4.6052)
    model.eval().save_pretrained(folder)
    mean, std = ([0.5, 0.4, 0.3], [0.2, 0.3, 0.25]) if act == "gelu" else (None, None)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 30}, crop_size={"height": 30, "width": 30},
                                      **(dict(image_mean=mean, image_std=std) if mean else {}))  # fmt: skip
    processor.save_pretrained(folder)
    return folder, model, CLIPTokenizer.from_pretrained(folder), processor


def theirs(clip, prompts, images):
    _, model, tokenizer, processor = clip
    ids = tokenizer(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    with torch.no_grad():
        out = model(input_ids=ids.input_ids, attention_mask=torch.ones_like(ids.input_ids),
                    pixel_values=processor([shortest(im, 30) for im in images], return_tensors="pt").pixel_values)  # fmt: skip
    return out.logits_per_text


@pytest.mark.parametrize("name, unit", [("clipscore", 100), ("pickscore", 26)])
def test_clip_scores(clip, images, tmp_path, name, unit):
    prompts = (PROMPTS * 2)[: len(images)]
    ours = score(tmp_path, {name: dict(model=str(clip[0]), batch=3)}, prompts, [f for f, _ in images])
    want = theirs(clip, prompts, [im for _, im in images]).diagonal() / unit
    got = torch.tensor([x["reward"] for x in ours], dtype=torch.float64)
    assert ((got - want).abs() <= 1e-4 * want.abs()).all(), (got, want)
    assert want.std() > 0.005


def test_aesthetic(clip, images, tmp_path):
    g, sizes, head = torch.Generator().manual_seed(3), [20, 12, 8, 6, 5, 1], {}
    for i, k in enumerate([0, 2, 4, 6, 7]):
        head[f"layers.{k}.weight"] = torch.randn(sizes[i + 1], sizes[i], generator=g)
        head[f"layers.{k}.bias"] = torch.randn(sizes[i + 1], generator=g)
    save_file(head, tmp_path / "head.safetensors")
    _, model, _, processor = clip
    with torch.no_grad():
        x = model.get_image_features(processor([shortest(im, 30) for _, im in images], return_tensors="pt").pixel_values)
        x = getattr(x, "pooler_output", x)
        x = x / x.norm(dim=-1, keepdim=True)
        for k in [0, 2, 4, 6, 7]:
            x = torch.nn.functional.linear(x, head[f"layers.{k}.weight"], head[f"layers.{k}.bias"])
    ours = score(tmp_path, {"aesthetic": dict(model=str(clip[0]), head=str(tmp_path / "head.safetensors"))}, ["x"], [f for f, _ in images])
    assert np.allclose([o["reward"] for o in ours], x[:, 0], rtol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(clip, images, tmp_path, dtype):
    """16-bit towers: no further from float32 than transformers' own 16 bits are, and with the scale that the file has:
    rounded to bfloat16 it would be 1 % off."""
    files, prompts = [f for f, _ in images], (PROMPTS * 2)[: len(images)]
    ours = np.array([x["reward"] for x in score(tmp_path, {"clipscore": dict(model=str(clip[0]), dtype=dtype)}, prompts, files)])
    exact = theirs(clip, prompts, [im for _, im in images]).diagonal().double().numpy() / 100
    folder, model, tokenizer, processor = clip
    half = CLIPModel.from_pretrained(folder, torch_dtype=getattr(torch, dtype)).eval()
    ids = tokenizer(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    pixels = processor([shortest(im, 30) for _, im in images], return_tensors="pt").pixel_values
    with torch.no_grad():
        out = half(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels.to(half.dtype))
    cos = (out.image_embeds.double() * out.text_embeds.double()).sum(1) / out.image_embeds.double().norm(dim=1) / out.text_embeds.double().norm(dim=1)
    other = cos.numpy() * model.logit_scale.exp().item() / 100
    assert 0 < np.linalg.norm(ours - exact) <= 1.2 * np.linalg.norm(other - exact)
    square = [f for f, im in images if im.width == im.height]  # cut and padded alike
    a, b = ([x["reward"] for x in score(tmp_path, {k: dict(model=str(folder), dtype=dtype)}, ["x"], square)] for k in ("clipscore", "hpsv2"))
    assert len(square) == 3 and np.allclose(np.array(a) / np.array(b) * 100, model.logit_scale.exp().item(), rtol=1e-6)


def test_open_clip(images, tmp_path):
    """HPSv2: open_clip's names and shapes, the longer side resized and padded, the cosine alone."""
    size = clip_folder(tmp_path / "hps", pad="!", merges=300)
    vision = dict(image_size=30, layers=2, width=32, head_width=8, patch_size=6)
    text = dict(context_length=77, vocab_size=size, width=24, heads=3, layers=3)
    model = open_clip.CLIP(20, open_clip.CLIPVisionCfg(**vision), open_clip.CLIPTextCfg(**text))
    mask = model.attn_mask.clone()
    randomise(model, 6).eval()
    model.attn_mask.copy_(mask)
    state = {k: v.contiguous() for k, v in model.state_dict().items() if k != "attn_mask"}
    save_file(state, tmp_path / "hps/open_clip_model.safetensors")
    (tmp_path / "hps/open_clip_config.json").write_text(json.dumps(dict(model_cfg=dict(embed_dim=20, vision_cfg=vision, text_cfg=text))))
    with gzip.open(tmp_path / "merges.gz", "wb") as f:
        f.write((tmp_path / "hps/merges.txt").read_bytes().strip())
    prompts = [PROMPTS[0], "an astronaut’s “helmet” &amp; a ﬁsh"] * 4
    ids = open_clip.tokenizer.SimpleTokenizer(bpe_path=str(tmp_path / "merges.gz"))(prompts)

    def pixels(im):  # hpsv2's ResizeMaxSize
        scale = 30 / max(im.size)
        w, h = (round(v * scale) for v in im.size)
        square = Image.new("RGB", (30, 30))
        square.paste(resize(im, w, h), ((30 - w) // 2, (30 - h) // 2))
        x = torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255
        return (x - torch.tensor(open_clip.OPENAI_DATASET_MEAN)[:, None, None]) / torch.tensor(open_clip.OPENAI_DATASET_STD)[:, None, None]

    with torch.no_grad():
        image = model.encode_image(torch.stack([pixels(im) for _, im in images[:8]]), normalize=True)
        want = (image * model.encode_text(ids, normalize=True)).sum(1)
    ours = score(tmp_path, {"hpsv2": dict(model=str(tmp_path / "hps"))}, prompts, [f for f, _ in images[:8]])
    assert np.allclose([o["reward"] for o in ours], want, rtol=1e-4, atol=1e-6)
    assert want.std() > 0.005


@pytest.mark.parametrize("change, message", [
    (lambda f: (f / "config.json").write_text("{}"), "not a CLIPModel"),
    (lambda f: (f / "vocab.json").unlink(), "vocab.json"),
    (lambda f: (f / "model.safetensors").unlink(), "model"),
    (lambda f: (f / "preprocessor_config.json").write_text('{"image_std": [1, 0, 1]}'), "above 0"),
    (lambda f: (f / "preprocessor_config.json").write_text('{"image_mean": [1, 2]}'), "three numbers"),
])  # fmt: skip
def test_refused_models(clip, tmp_path, change, message):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in clip[0].iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    change(folder)
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    with pytest.raises(RuntimeError) as e:
        score(tmp_path, {"clipscore": dict(model=str(folder))}, ["x"], [tmp_path / "x.png"])
    assert message in str(e.value) and str(e.value).count("\n") == 1


# ---- Text in images ------------------------------------------------------------------------------


def fonts():
    found = sorted(pathlib.Path("/usr/share/fonts").rglob("*.ttf"))
    found = [f for f in found if not any(s in f.name for s in ("Math", "Oblique", "Italic", "Mono"))]
    return [str(f) for f in found][:: max(1, len(found) // 12)]


def sign(text, font, blur=0.0, size=512):
    im = Image.new("RGB", (size, size), (235, 225, 200))
    d, points = ImageDraw.Draw(im), 64
    while d.textlength(text, font=ImageFont.truetype(font, points)) > 0.9 * size:
        points -= 2
    d.text((size // 2, size // 2), text, font=ImageFont.truetype(font, points), fill=(30, 30, 60), anchor="mm")
    return im.filter(ImageFilter.GaussianBlur(blur)) if blur else im


def ocr(folder, wanted, images, **keys):
    files = []
    for i, im in enumerate(images):
        im.save(folder / f"{i:03}.png")
        files.append(folder / f"{i:03}.png")
    return [x["reward"] for x in score(folder, {"ocr": keys}, wanted, files)]


def levenshtein(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row, old = [i], row
        for j, y in enumerate(b, 1):
            row.append(min(old[j] + 1, row[j - 1] + 1, old[j - 1] + (x != y)))
    return row[-1]


TEXTS = ["Grand Opening", "Fresh Bread Today", "MIND THE GAP", "Welcome 2024", "Quiet Garden", "stay awake"]


def test_clean_text(tmp_path):
    """At least ten fonts at 512 pixels, and what was not asked for scores as its distance says."""
    assert len(fonts()) >= 10
    images = [sign(t, f) for t in TEXTS for f in fonts()]
    wanted = [f'A sign that says "{t}", in a park' for t in TEXTS for _ in fonts()]
    assert np.mean(ocr(tmp_path, wanted, images)) >= 0.95
    font = fonts()[0]
    pairs = [(a, b) for a in TEXTS for b in TEXTS + ["Garden", "quietgarden", "Quiet  GARDENS", "Größe", "日本"]]
    got = ocr(tmp_path, [f'x "{want}" and "another"' for _, want in pairs], [sign(a, font) for a, _ in pairs])
    for value, (there, want) in zip(got, pairs):
        a, b = ("".join(s.split()).lower() for s in (there, want))
        d = 0 if b in a else min(levenshtein(a, b), len(b))
        assert abs(value - (1 - d / len(b))) < 1e-9, (there, want, value)


def test_blur(tmp_path):
    """The reward falls as the text dissolves."""
    levels = [0, 3, 5, 7, 9, 12]
    means = []
    for blur in levels:
        images = [sign(t, f, blur) for t in TEXTS for f in fonts()[:3]]
        means.append(np.mean(ocr(tmp_path, [f'"{t}"' for t in TEXTS for _ in fonts()[:3]], images)))
    assert means[0] >= 0.95 and means[-1] < 0.5 and all(b <= a + 0.02 for a, b in zip(means, means[1:])), means


def test_no_text(tmp_path):
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)).resize((256, 256))
    assert max(ocr(tmp_path, ['"Hello World"'], [Image.new("RGB", (256, 256)), noise, Image.new("RGB", (1, 1))])) < 0.5


def test_ocr_apostrophes(tmp_path):
    """An image does not tell which of them was written."""
    im = [sign("DON'T PANIC", fonts()[0])] * 2
    a, b = ocr(tmp_path, ['"DON\'T PANIC"', '"DON’T PANIC"'], im)
    assert a == b >= 0.9


def test_ocr_says_nothing(tmp_path):
    """Tesseract would print a line for every image, and several when a language is missing."""
    sign("Quiet Garden", fonts()[0]).save(tmp_path / "1.png")
    (tmp_path / "1.txt").write_text('"Quiet Garden"\n')
    program = pathlib.Path(os.environ.get("BUILD", "build")) / "contraflow"
    for keys, lines in ([], 0), (["--set", "rewards.ocr.language=tlh"], 1):
        done = subprocess.run([ROOT / program, "score", "--quiet", "--reward", "ocr", *keys, tmp_path], capture_output=True, text=True, cwd=ROOT)
        assert done.stderr.count("\n") == lines, done.stderr


@pytest.mark.parametrize("prompt, keys, message", [
    ("a sign without text", {}, "asks for no text"), ('an "open end', {}, "odd number of double quotes"), ('empty ""', {}, "asks for no text"),
    ('a 5" nail and "HELLO"', {}, "odd number of double quotes"), ("a sign “HELLO”", {}, "straight ones"),
    ('"  "', {}, "asks for no text"), ('"x"', dict(language="tlh+chi_sim"), "apt install tesseract-ocr-tlh tesseract-ocr-chi-sim)"),
    ('"x"', dict(data="/nowhere"), "in /nowhere"), ('"x"', dict(layout="page"), "sparse"),
])  # fmt: skip
def test_ocr_mistakes(tmp_path, prompt, keys, message):
    with pytest.raises(RuntimeError) as e:
        ocr(tmp_path, [prompt], [Image.new("RGB", (8, 8))], **keys)
    assert message in str(e.value) and "contraflow: " in str(e.value)


# ---- Networks made elsewhere -----------------------------------------------------------------------

deprecated = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning")


class Judge(torch.nn.Module):
    """Something that notices a wrong order of channels, rows, images or ids."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, images, ids):
        x = torch.tanh(self.conv(images)).mean((2, 3))
        return x @ torch.tensor([1.0, -2.0, 3.0, 0.5]) + images[:, 0, 0, -1] + ids.float().std(1) / 1000


class Alone(Judge):
    def forward(self, images):
        return super().forward(images, torch.tensor([[1, 5], [2, 9]])[:1].expand(images.shape[0], 2)).unsqueeze(1)


def as_float(im):
    return torch.from_numpy(np.array(im)).permute(2, 0, 1).float() / 255


@deprecated
def test_script(clip, images, tmp_path):
    """TorchScript with ids and resizing, and alone on images of their own sizes."""
    judge, alone = Judge().eval(), Alone().eval()
    torch.jit.trace(judge, (torch.rand(2, 3, 8, 8), torch.ones(2, 5, dtype=torch.long))).save(tmp_path / "judge.pt")
    torch.jit.trace(alone, (torch.rand(2, 3, 8, 8),)).save(tmp_path / "alone.pt")
    prompts = (PROMPTS * 2)[: len(images)]
    ids = clip[2](prompts, padding="max_length", max_length=9, truncation=True, return_tensors="pt").input_ids
    keys = dict(module=str(tmp_path / "judge.pt"), size=24, tokenizer=str(clip[0]), text_length=9, batch=3)
    ours = score(tmp_path, {"script": keys}, prompts, [f for f, _ in images])
    with torch.no_grad():
        want = judge(torch.stack([as_float(resize(im, 24, 24)) for _, im in images]), ids)
        single = [alone(as_float(im)[None]).item() for _, im in images]
    assert np.allclose([o["reward"] for o in ours], want, rtol=1e-5, atol=1e-6)
    ours = score(tmp_path, {"script": dict(module=str(tmp_path / "alone.pt"))}, ["x"], [f for f, _ in images])
    assert np.allclose([o["reward"] for o in ours], single, rtol=1e-5, atol=1e-6)


@deprecated
def test_package(images, tmp_path):
    """An AOTInductor package, compiled ahead of time."""
    alone = Alone().eval()
    n = torch.export.Dim("n", min=1, max=64)
    program = torch.export.export(alone, (torch.rand(4, 3, 16, 16),), dynamic_shapes={"images": {0: n}})
    torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "judge.pt2"))
    ours = score(tmp_path, {"script": dict(module=str(tmp_path / "judge.pt2"), size=16, batch=5)}, ["x"], [f for f, _ in images])
    with torch.no_grad():
        want = alone(torch.stack([as_float(resize(im, 16, 16)) for _, im in images]))[:, 0]
    assert np.allclose([o["reward"] for o in ours], want, rtol=1e-4, atol=1e-5)


class Two(torch.nn.Module):
    def forward(self, images):
        return torch.zeros(2, images.shape[0])


class Fails(torch.nn.Module):
    def forward(self, images):
        return images.reshape(7, 11)


@pytest.mark.parametrize("module, message", [(Two, "2 numbers for 1 images"), (Fails, "shape"), (None, "no.pt"), ("text", "bad.pt")])
def test_script_mistakes(tmp_path, module, message):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    path = tmp_path / ("no.pt" if module is None else "bad.pt")
    if module == "text":
        path.write_text("this is no module")
    elif module:
        torch.jit.script(module()).save(path)
    (tmp_path / "c.yaml").write_text(json.dumps(dict(rewards=dict(script=dict(module=str(path))))))
    (tmp_path / "p.txt").write_text("x\n")
    build = pathlib.Path(os.environ.get("BUILD", "build"))
    program = (build if build.is_absolute() else ROOT / build) / "contraflow"
    done = subprocess.run([program, "score", "--config", tmp_path / "c.yaml", "--prompts", tmp_path / "p.txt", tmp_path / "x.png"], capture_output=True, text=True)  # fmt: skip
    assert message in done.stderr and done.stderr.count("\n") == 1, done.stderr
