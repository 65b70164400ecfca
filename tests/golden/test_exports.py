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
from test_rewards import picture
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
        out = model(pixel_values=prepare(some_pictures([(96, 96)])[0], 96, 160)[0])
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


def some_pictures(sizes):
    return [np.array(picture(w, h, i)) for i, (w, h) in enumerate(sizes)]


SIZES = [(64, 64), (96, 96), (70, 50), (50, 131), (128, 96), (33, 200), (300, 200), (64, 64)]


def test_preparation_is_transformers():
    """Where sides are multiples of 32 after resizing, transformers prepares the same picture, before it is rounded to
    bytes; of bytes it makes bytes twice, in each direction, and is a level off here and there."""
    processor = Mask2FormerImageProcessor(size=dict(shortest_edge=96, longest_edge=160), image_mean=[0.485, 0.456, 0.4], image_std=[0.2, 0.224, 0.25])
    for image in some_pictures([(64, 64), (90, 90), (72, 54)]):
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
    images = some_pictures(SIZES)
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
    image = some_pictures([(384, 384)])[0]
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
    for i, image in enumerate(some_pictures([(96, 64), (96, 64), (80, 80), (64, 96)] * 6)):
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
    got = run_score(folder, keys, [m for m, _, _ in cases], [im for _, im, _ in cases])
    for x, (meta, _, want) in zip(got, cases):
        assert (abs(x["reward"] - want[0]) < 1e-9, x["geneval"]["strict"], x["geneval"]["correct"]) == (True, want[1], want[2]), (meta, x, want)
    assert 3 < sum(w[1] for _, _, w in cases) < len(cases) - 3 and any("color" in c for m, _, _ in cases for c in m["include"])


def test_mask2former_mistakes(tmp_path):
    with pytest.raises(RuntimeError) as e:
        tool("export_mask2former", tmp_path, tmp_path / "m.onnx")
    assert "is named .pt" in str(e.value) and str(e.value).count("\n") == 1
