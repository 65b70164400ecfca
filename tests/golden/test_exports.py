"""Networks exported by tools/ against what they were exported from, run by contraflow."""

import json
import os
import pathlib
import subprocess
import sys

import geneval_oracle
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers.models.mask2former.modeling_mask2former as mask2former
from PIL import Image
from sd3 import ROOT
from test_geneval import HUES, clip, color_logits, crop, probe, run_score  # noqa: F401
from test_rewards import make_image, resize, score
from vocabularies import BERT_WORDS, WORDS, bert_folder, corpus
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessor, SwinConfig

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() and "cuda" in os.environ.get("BUILD", "") else [])


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Ours and theirs: sums of several threads round otherwise, and masked attention cuts masks at 0."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def tool(name, *args):
    """Runs a tool as a user does."""
    env = dict(os.environ, HF_HUB_OFFLINE="1")
    done = subprocess.run([sys.executable, ROOT / "tools" / f"{name}.py", *map(str, args)], capture_output=True, text=True, env=env)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


# ---- Mask2Former -------------------------------------------------------------------------------------

LABELS = ["person", "mouse", "dog", "remote", "tv", "sofa"]
NAMES = ["person", "computer mouse", "dog", "tv remote", "tv", "couch"]
QUERIES = 30


def make_mask2former(folder, short, long, seed=3):
    """A small one with random weights: queries differ, no class is rare, and masks leave most pixels out."""
    mask2former.requires_backends = lambda *_: None  # the loss asks for scipy
    swin = SwinConfig(image_size=64, patch_size=4, embed_dim=16, depths=[2, 2, 2, 2], num_heads=[1, 2, 2, 4], window_size=7,
                      out_features=["stage1", "stage2", "stage3", "stage4"])  # fmt: skip
    config = Mask2FormerConfig(backbone_config=swin, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=48,
                               dim_feedforward=64, encoder_layers=2, decoder_layers=3, num_attention_heads=4, num_queries=QUERIES,
                               id2label=dict(enumerate(LABELS)))  # fmt: skip
    torch.manual_seed(seed)
    model = Mask2FormerForUniversalSegmentation(config).eval()
    with torch.no_grad():
        for p in model.parameters():  # no bias stays 0, no norm's weight 1
            p.add_(torch.randn_like(p) * (0.1 if p.dim() < 2 else 0.6 / p[0].numel() ** 0.5))
        model.class_predictor.weight.mul_(10)
        mask_predictor = model.model.transformer_module.decoder.mask_predictor.mask_embedder
        last = [m for m in mask_predictor.modules() if isinstance(m, torch.nn.Linear)][-1]
        head = model.model.pixel_level_module.decoder.mask_projection
        head.weight[0], head.bias[0], last.weight[0], last.bias[0] = 0, 1, 0, -1  # one channel is an offset
        out = model(pixel_values=prepare(some_images([(96, 96)])[0], 96, 160)[0])
        model.class_predictor.bias.sub_(out.class_queries_logits[0].mean(0))
    model.save_pretrained(folder)
    size = dict(shortest_edge=short, longest_edge=long)
    Mask2FormerImageProcessor(size=size, size_divisor=32, image_mean=[0.485, 0.456, 0.4], image_std=[0.2, 0.224, 0.25]).save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mask2former")
    model = make_mask2former(folder / "model", 96, 160)
    print(tool("export_mask2former", folder / "model", folder / "out/m.pt"))
    return model, folder / "out/m.pt", folder / "out/m.classes.txt"


def bilinear(a, h, w):
    """(H, W, 3) in float64, pixel centres at halves, no antialiasing."""

    def axis(n, m):
        at = np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, n - 1), at - low

    (y0, y1, dy), (x0, x1, dx) = axis(a.shape[0], h), axis(a.shape[1], w)
    rows = a[y0] * (1 - dy)[:, None, None] + a[y1] * dy[:, None, None]
    return rows[:, x0] * (1 - dx)[:, None] + rows[:, x1] * dx[:, None]


def prepare(image, short, long):
    """As mmcv: sides rounded up at halves, bytes, grey at the right and at the bottom.  Returns the pixels and the inner size."""
    h, w = image.shape[:2]
    scale = min(long / max(h, w), short / min(h, w))
    h, w = int(h * scale + 0.5), int(w * scale + 0.5)
    exact = bilinear(image.astype(np.float64), h, w)
    # single precision all along: halves between two bytes go its way
    inner = F.interpolate(torch.from_numpy(image).permute(2, 0, 1)[None].float(), [h, w], mode="bilinear").round()[0].permute(1, 2, 0).numpy()
    assert abs(inner - exact).max() < 0.5001
    x = np.full((-(-h // 32) * 32, -(-w // 32) * 32, 3), 128, dtype=np.float32)
    x[:h, :w] = inner
    x = (x / np.float32(255) - np.float32([0.485, 0.456, 0.4])) / np.float32([0.2, 0.224, 0.25])
    return torch.from_numpy(x).permute(2, 0, 1)[None].contiguous(), h, w


def candidates(model, image, short, long, most=100):
    """mmdet's instances: class, score, box, mask of the best pairs of query and class, best first."""
    x, h, w = prepare(image, short, long)
    with torch.no_grad():
        out = model(pixel_values=x)
    p = out.class_queries_logits[0].double().softmax(-1)[:, :-1].numpy()
    logits = F.interpolate(out.masks_queries_logits, x.shape[2:], mode="bilinear", align_corners=False)[:, :, :h, :w]
    logits = F.interpolate(logits, image.shape[:2], mode="bilinear", align_corners=False)[0].double().numpy()
    found = []
    for pair in np.argsort(-p, axis=None, kind="stable")[:most]:
        q, c = divmod(int(pair), p.shape[1])
        on = logits[q] > 0
        if on.any():
            quality = (1 / (1 + np.exp(-logits[q][on]))).sum() / (on.sum() + 1e-6)
            y, x = np.where(on)
            found.append((c, p[q, c] * quality, (x.min(), y.min(), x.max() + 1, y.max() + 1), on))
    return found


def tensor(image, device="cpu"):
    return torch.from_numpy(image).permute(2, 0, 1)[None].contiguous().float().to(device) / 255


def some_images(sizes):
    return [np.array(make_image(w, h, i)) for i, (w, h) in enumerate(sizes)]


SIZES = [(64, 64), (96, 96), (70, 50), (50, 131), (128, 96), (33, 200), (300, 200), (64, 64)]


def test_preparation_is_transformers():
    """Where sides are multiples of 32 after resizing, transformers prepares the same image, before it is rounded to
    bytes; of bytes it makes bytes twice, in each direction, and is a level off here and there."""
    processor = Mask2FormerImageProcessor(size=dict(shortest_edge=96, longest_edge=160), image_mean=[0.485, 0.456, 0.4], image_std=[0.2, 0.224, 0.25])
    for image in some_images([(64, 64), (90, 90), (72, 54)]):
        ours, h, w = prepare(image, 96, 160)
        assert ours.shape[2:] == (h, w)
        for kind, most in ((np.float32, 0.501), (np.uint8, 1.001)):
            theirs = processor(torch.from_numpy(image.astype(kind)).permute(2, 0, 1), return_tensors="pt").pixel_values
            levels = (theirs - ours) * torch.tensor([0.2, 0.224, 0.25]).view(1, 3, 1, 1) * 255
            assert levels.abs().max() < most, levels.abs().max()


@pytest.mark.parametrize("device", DEVICES)
def test_mask2former(folder, exported, device):
    """Every candidate: class, score, box as the detector has them, its mask as the module returns it."""
    model, module, classes = exported
    assert classes.read_text().split("\n") == NAMES + [""]
    images = some_images(SIZES)
    for i, im in enumerate(images):
        Image.fromarray(im).save(folder / f"{i}.png")
    lines = probe("golden_detector", module, classes, device, *[folder / f"{i}.png" for i in range(len(images))]).splitlines()
    loaded, seen, wrong = torch.jit.load(module, map_location=device), set(), 0
    for im, line in zip(images, lines):
        found, want = json.loads(line), candidates(model, im, 96, 160)
        with torch.no_grad():
            box, index, score, mask = (t[0].cpu() for t in loaded(tensor(im, device)))
        assert box.shape == (100, 4) and mask.shape == (100, *im.shape[:2])
        for c, name in enumerate(NAMES):
            mine = [f for f in found if f[0] == name]
            best = sorted((x for x in want if x[0] == c), key=lambda x: -x[1])[:16]
            rows = sorted((q for q in range(100) if index[q] == c and score[q] > 0), key=lambda q: -score[q])
            assert len(mine) == len(best) and len(rows) >= len(best), (name, len(mine), len(best))
            for got, q, (_, s, b, on) in zip(mine, rows, best):
                same = abs(got[1] - s) < 1e-4 * s and got[2:] == list(b) == box[q].tolist()
                same = same and abs(score[q] - s) < 1e-4 * s and np.array_equal(mask[q].numpy(), on)
                assert same or device == "cuda", (got, s, b, box[q], score[q], (mask[q].numpy() != on).sum())
                wrong += not same
                seen.add((c, b))
    # masked attention cuts masks at 0: where another device rounds across it, what follows is another candidate
    assert wrong <= 0.05 * len(images) * 60
    assert len(seen) > 100 and len({c for c, _ in seen}) == len(NAMES)


def test_transformers_instances(tmp_path):
    """transformers' own instances, where it does the same: 384 x 384 pixels all along, as many candidates as queries."""
    model = make_mask2former(tmp_path / "model", 384, 384, seed=2)
    tool("export_mask2former", tmp_path / "model", tmp_path / "m.pt")
    image = some_images([(384, 384)])[0]
    processor = Mask2FormerImageProcessor.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        out = model(pixel_values=prepare(image, 384, 384)[0])
        _, index, score, mask = (t[0] for t in torch.jit.load(tmp_path / "m.pt")(tensor(image)))
    theirs = processor.post_process_instance_segmentation(out, threshold=1e-6, target_sizes=[(384, 384)], return_binary_maps=True)[0]
    order = [q for q in range(QUERIES) if score[q] > 1e-6]  # the module's are sorted by class: the first are the same choice
    assert len(theirs["segments_info"]) == len(order) > 5
    left = list(order)
    for info, on in zip(theirs["segments_info"], theirs["segmentation"]):
        match = [q for q in left if index[q] == info["label_id"] and torch.equal(mask[q], on.bool()) and abs(score[q] - info["score"]) < 2e-6]
        assert match, info
        left.remove(match[0])


def test_geneval_through_mask2former(folder, exported, clip):  # noqa: F811
    """Counts, positions and colours of what it finds, through the reward: masks cut out what CLIP sees."""
    model, module, classes = exported
    r, cases = np.random.default_rng(3), []
    tags = ["single_object", "two_object", "counting", "colors", "position", "color_attr"]
    for i, image in enumerate(some_images([(96, 64), (96, 64), (80, 80), (64, 96)] * 6)):
        want = [x for x in candidates(model, image, 96, 160) if x[1] > 0.1]
        by_class = {c: sorted((x for x in want if x[0] == c), key=lambda x: -x[1])[:16] for c in sorted({x[0] for x in want})}
        tag, limit = tags[i % 6], 0.9 if tags[i % 6] == "counting" else 0.3
        sure = {c: [x for x in v if x[1] > limit] for c, v in by_class.items()}
        sure = {c: v for c, v in sure.items() if v} or {0: []}
        picked = [int(c) for c in r.choice(sorted(sure), min(len(sure), 1 if tag in tags[::2] else 2), replace=False)]
        include = [{"class": NAMES[c], "count": max(1, len(sure[c]) - int(r.choice([0, 0, 1])))} for c in picked]
        objects = [x for v in sure.values() for x in v]
        hue = {}
        if tag.startswith("color") and objects:
            logits = color_logits(clip, [crop(image, x[3], x[2]) for x in objects], [NAMES[x[0]] for x in objects])
            top = logits.topk(2).values
            if (top[:, 0] - top[:, 1]).min() < 1e-3:
                continue
            hue = {id(x): HUES[k] for x, k in zip(objects, logits.argmax(1))}
            for clause, c in zip(include, picked):
                clause["color"] = hue[id(sure[c][0])]
        if tag == "position" and len(include) > 1:
            include[1]["position"] = [str(r.choice(["left of", "above", "below"])), 0]
        meta = dict(tag=tag, prompt="x", include=include)
        found = [(NAMES[x[0]], hue.get(id(x)), [float(v) for v in x[2]], float(np.float32(x[1]))) for v in by_class.values() for x in v]
        cases.append((meta, image, geneval_oracle.judge(meta, found)[1]))
    keys = dict(detector="script", module=str(module), classes=str(classes), clip=str(clip[0]))
    got = run_score(folder, keys, [m for m, _, _ in cases], [im for _, im, _ in cases])["images"]
    for x, (meta, _, want) in zip(got, cases):
        assert (abs(x["reward"] - want[0]) < 1e-9, x["geneval"]["strict"], x["geneval"]["correct"]) == (True, want[1], want[2]), (meta, x, want)
    assert 3 < sum(w[1] for _, _, w in cases) < len(cases) - 3 and any("color" in c for m, _, _ in cases for c in m["include"])


def test_mask2former_mistakes(tmp_path):
    with pytest.raises(RuntimeError) as e:
        tool("export_mask2former", tmp_path, tmp_path / "m.onnx")
    assert "is named .pt" in str(e.value) and str(e.value).count("\n") == 1


# ---- ImageReward -------------------------------------------------------------------------------------

SIDE, PATCH, SEE, SAY, LAYERS, HEADS = 48, 8, 32, 24, 2, (4, 3)


def imagereward_state(words, seed=0):
    """Random tensors under the published names, with those that the score does not use."""
    g, state = torch.Generator().manual_seed(seed), {}

    def add(name, *shape, scale=None):
        state[name] = torch.randn(*shape, generator=g) * (scale or (shape[1] ** -0.5 if len(shape) == 2 else 0.3))

    def linear(name, out, inner):
        add(f"{name}.weight", out, inner)
        add(f"{name}.bias", out)

    def norm(name, n):
        state[f"{name}.weight"] = 1 + 0.2 * torch.randn(n, generator=g)
        add(f"{name}.bias", n)

    v, t = "blip.visual_encoder", "blip.text_encoder"
    add(f"{v}.cls_token", 1, 1, SEE)
    add(f"{v}.pos_embed", 1, (SIDE // PATCH) ** 2 + 1, SEE)
    add(f"{v}.patch_embed.proj.weight", SEE, 3, PATCH, PATCH, scale=0.1)
    add(f"{v}.patch_embed.proj.bias", SEE)
    for i in range(LAYERS):
        b = f"{v}.blocks.{i}"
        norm(f"{b}.norm1", SEE)
        linear(f"{b}.attn.qkv", 3 * SEE, SEE)
        linear(f"{b}.attn.proj", SEE, SEE)
        norm(f"{b}.norm2", SEE)
        linear(f"{b}.mlp.fc1", 2 * SEE, SEE)
        linear(f"{b}.mlp.fc2", SEE, 2 * SEE)
    norm(f"{v}.norm", SEE)
    add(f"{t}.embeddings.word_embeddings.weight", words, SAY, scale=1)
    add(f"{t}.embeddings.position_embeddings.weight", 60, SAY)
    state[f"{t}.embeddings.position_ids"] = torch.arange(60)[None]
    norm(f"{t}.embeddings.LayerNorm", SAY)
    for i in range(LAYERS):
        b = f"{t}.encoder.layer.{i}"
        for kind, inner in ("attention", SAY), ("crossattention", SEE):
            linear(f"{b}.{kind}.self.query", SAY, SAY)
            linear(f"{b}.{kind}.self.key", SAY, inner)
            linear(f"{b}.{kind}.self.value", SAY, inner)
            linear(f"{b}.{kind}.output.dense", SAY, SAY)
            norm(f"{b}.{kind}.output.LayerNorm", SAY)
        linear(f"{b}.intermediate.dense", 3 * SAY, SAY)
        linear(f"{b}.output.dense", SAY, 3 * SAY)
        norm(f"{b}.output.LayerNorm", SAY)
    linear("blip.vision_proj", 8, SEE)
    linear("blip.text_proj", 8, SAY)
    sizes = [SAY, 20, 12, 8, 6, 1]
    for i, k in enumerate([0, 2, 4, 6, 7]):
        linear(f"mlp.layers.{k}", sizes[i + 1], sizes[i])
    return state


def attend(q, k, v, heads, mask=None):
    def split(x):
        return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)

    q, k, v = split(q), split(k), split(v)
    logits = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    if mask is not None:
        logits = logits + (1 - mask[:, None, None].to(logits.dtype)) * -10000
    return (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)


def imagereward(state, x, ids):
    """The published model's steps in float64."""
    s = {k: v.double() for k, v in state.items()}

    def linear(name, x):
        return F.linear(x, s[f"{name}.weight"], s[f"{name}.bias"])

    def norm(name, x, eps):
        return F.layer_norm(x, x.shape[-1:], s[f"{name}.weight"], s[f"{name}.bias"], eps)

    v, t = "blip.visual_encoder", "blip.text_encoder"
    x = F.conv2d(x.double(), s[f"{v}.patch_embed.proj.weight"], s[f"{v}.patch_embed.proj.bias"], stride=PATCH).flatten(2).transpose(1, 2)
    x = torch.cat([s[f"{v}.cls_token"].expand(len(x), -1, -1), x], 1) + s[f"{v}.pos_embed"]
    for i in range(LAYERS):
        b = f"{v}.blocks.{i}"
        q, k, w = linear(f"{b}.attn.qkv", norm(f"{b}.norm1", x, 1e-6)).chunk(3, -1)
        x = x + linear(f"{b}.attn.proj", attend(q, k, w, HEADS[0]))
        x = x + linear(f"{b}.mlp.fc2", F.gelu(linear(f"{b}.mlp.fc1", norm(f"{b}.norm2", x, 1e-6))))
    x = norm(f"{v}.norm", x, 1e-6)
    y = s[f"{t}.embeddings.word_embeddings.weight"][ids] + s[f"{t}.embeddings.position_embeddings.weight"][: ids.shape[1]]
    y = norm(f"{t}.embeddings.LayerNorm", y, 1e-12)
    for i in range(LAYERS):
        b = f"{t}.encoder.layer.{i}"
        for kind, of, mask in ("attention", None, ids != 0), ("crossattention", x, None):
            n = f"{b}.{kind}"
            of = y if of is None else of
            z = attend(linear(f"{n}.self.query", y), linear(f"{n}.self.key", of), linear(f"{n}.self.value", of), HEADS[1], mask)
            y = norm(f"{n}.output.LayerNorm", linear(f"{n}.output.dense", z) + y, 1e-12)
        z = linear(f"{b}.output.dense", F.gelu(linear(f"{b}.intermediate.dense", y)))
        y = norm(f"{b}.output.LayerNorm", z + y, 1e-12)
    y = y[:, 0]
    for k in 0, 2, 4, 6, 7:
        y = linear(f"mlp.layers.{k}", y)
    return (y[:, 0] - 0.16717362830052426) / 1.0333394966054072


def published_image(im):
    """Resize to the shorter side, CenterCrop, ToTensor, Normalize."""
    w, h = im.size
    w, h = (SIDE, int(SIDE * h / w)) if w <= h else (int(SIDE * w / h), SIDE)
    im = resize(im, w, h)
    left, top = int(round((w - SIDE) / 2)), int(round((h - SIDE) / 2))
    x = torch.from_numpy(np.array(im.crop((left, top, left + SIDE, top + SIDE)))).permute(2, 0, 1).float() / 255
    return (x - torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)) / torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imagereward")
    tokenizer = bert_folder(folder / "bert")
    state = imagereward_state(len(tokenizer) + 3)
    torch.save(state, folder / "ImageReward.pt")
    tool("export_imagereward", folder / "ImageReward.pt", folder / "out/judge.pt", "--tokenizer", folder / "bert", "--vision-heads", HEADS[0],
         "--text-heads", HEADS[1])  # fmt: skip
    return state, folder, tokenizer


@pytest.mark.parametrize("device", DEVICES)
def test_imagereward(tmp_path, judge, device):
    """Images and prompts to scores, through `contraflow score`."""
    state, folder, tokenizer = judge
    sizes = [(48, 48), (64, 64), (101, 70), (70, 101), (33, 47), (200, 49), (64, 64), (512, 512)]
    images = [make_image(w, h, i) for i, (w, h) in enumerate(sizes)]
    prompts = ["a photo of a red circle", "Two DOGS left of a café — 'don't' 日本", "", "[ENC] x [MASK]"] + corpus(200, seed=7, words=WORDS + BERT_WORDS)[-4:]
    for i, im in enumerate(images):
        im.save(tmp_path / f"{i}.png")
    keys = dict(module=str(folder / "out/judge.pt"), tokenizer=str(folder / "out/judge.tokenizer"), text_length=35, batch=3, device=device)
    got = [x["reward"] for x in score(tmp_path, {"script": keys}, prompts, [tmp_path / f"{i}.png" for i in range(len(images))])]
    ids = tokenizer(prompts, padding="max_length", truncation=True, max_length=35, return_tensors="pt").input_ids
    want = imagereward(state, torch.stack([published_image(im) for im in images]), ids)
    assert torch.allclose(torch.tensor(got, dtype=torch.float64), want, rtol=1e-4, atol=1e-4 * want.abs().max().item()), (got, want)
    assert want.std() > 0.1 and (ids == 0).any(1).sum() >= 4


def test_imagereward_prepares_as_pillow(judge):
    """The same bytes, but for halves that the two take to different sides."""
    sys.path.insert(0, str(ROOT / "tools"))
    from export_imagereward import Judge

    class Seen(torch.nn.Module):
        def forward(self, x, ids):
            return x

    prepare = Judge(Seen(), SIDE)
    for i, (w, h) in enumerate([(48, 48), (64, 64), (101, 70), (33, 47), (200, 49), (49, 203), (512, 512), (20, 31)]):
        im = make_image(w, h, i)
        levels = (prepare(tensor(np.array(im)), None)[0] - published_image(im)) * 255 * 0.27
        assert levels.abs().max() < 1.1 and (levels.abs() > 0.1).float().mean() < 2e-3, (w, h)


@pytest.mark.parametrize("change, message", [
    (lambda s: s.pop("mlp.layers.6.weight"), "no tensor 'mlp"), (lambda s: s.pop("blip.visual_encoder.pos_embed"), "no tensor"),
    (lambda s: s.pop("blip.text_encoder.encoder.layer.1.crossattention.self.key.bias"), "crossattention.self.key.bias does not match"),
    (lambda s: s.update({"blip.visual_encoder.blocks.0.gamma": torch.ones(3)}), "gamma does not match"),
    (lambda s: s.update({"blip.text_encoder.embeddings.word_embeddings.weight": torch.ones(5, SAY)}), "tokens, the checkpoint knows 5"),
    (lambda s: s.update(evil=Evil()), "Weights only load failed"),
])  # fmt: skip
def test_imagereward_mistakes(tmp_path, judge, change, message):
    state = dict(judge[0])
    change(state)
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(RuntimeError) as e:
        tool("export_imagereward", tmp_path / "x.pt", tmp_path / "y.pt", "--tokenizer", judge[1] / "bert", "--vision-heads", 4, "--text-heads", 3)
    assert message in str(e.value) and not (tmp_path / "y.pt").exists() and not (tmp_path / "evil").exists()


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("evil",))
