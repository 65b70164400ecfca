"""examples/judge_ppocr.py behind the reward `exec`: its protocol and formula with a made-up reader, and PP-OCR itself where
it is installed (CONTRAFLOW_PPOCR_PYTHON names a python that has rapidocr-onnxruntime; otherwise this one is tried)."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from command import ROOT, contraflow
from PIL import Image, ImageDraw, ImageFont

EXAMPLE = str(ROOT / "examples/judge_ppocr.py")

# "Reads" the lines that stand as bytes in the red of the first row, and talks on standard output, as libraries do.
STUB = '''
import os
print("loading the models")
class RapidOCR:
    def __call__(self, image):
        os.write(1, b"reading")
        assert image.ndim == 3 and image.flags.c_contiguous and (image[:, :, 0] == 3).all() and (image[:, :, 1] == 2).all()
        lines = bytes(image[0, :, 2]).decode().rstrip("\\0").split("\\n")
        boxes = [[[[0, 0], [1, 0], [1, 1], [0, 1]], text, 0.9] for text in lines if text]
        return (boxes, [0.1]) if boxes else (None, None)
'''


def levenshtein(a, b):
    d = np.zeros((len(a) + 1, len(b) + 1), int)
    d[:, 0], d[0] = np.arange(len(a) + 1), np.arange(len(b) + 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            d[i + 1, j + 1] = min(d[i, j + 1] + 1, d[i + 1, j] + 1, d[i, j] + (x != y))
    return d[-1, -1]


def score(folder, python, prompts, images):
    files = [folder / f"{i:03}.png" for i in range(len(images))]
    for f, im in zip(files, images):
        im.save(f)
    rewards = dict(ppocr=dict(type="exec", command=[str(python), EXAMPLE], batch=4, timeout=120, retries=0))
    (folder / "c.yaml").write_text(json.dumps(dict(rewards=rewards)))
    (folder / "p.jsonl").write_text("".join(json.dumps(dict(prompt=p)) + "\n" for p in prompts))
    done = contraflow("score", "--config", folder / "c.yaml", "--prompts", folder / "p.jsonl", *files, check=False)
    return [x["reward"] for x in json.loads(done.stdout)["images"]], done.stderr


def written(text):
    """What the made-up reader reads there."""
    data = text.encode() or b"\0"
    a = np.zeros((3, len(data), 3), np.uint8)
    a[...] = [0, 2, 3]
    a[0, :, 0] = list(data)
    return Image.fromarray(a)


def test_protocol_and_formula(tmp_path, monkeypatch):
    """1 - min(distance, length) / length; 1 when the text is within what is read; a prompt without text has no score."""
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub/rapidocr_onnxruntime.py").write_text(STUB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stub"))
    pairs = [("Grand Opening", "Grand Opening"), ("grand  OPENING", "Grand\nOpening!"), ("Opening", "Grand\nOpening\nToday"), ("Bread", "Bead"),
             ("abc", "xyz"), ("abc", ""), ("ab", "a long text of other letters"), ("Größe", "GRÖSSE"), ("Größe", "grö\nße"), ("日本 語", "日本")]  # fmt: skip
    prompts = [f'A sign that says "{want}", not "another"' for want, _ in pairs] + ["no text", 'an "open end', 'empty " "']
    got, said = score(tmp_path, sys.executable, prompts, [written(there) for _, there in pairs] + [written("no text")] * 3)
    for x, (want, there) in zip(got, pairs):
        a, b = ("".join(s.split()).lower() for s in (there, want))
        d = 0 if b in a else min(levenshtein(a, b), len(b))
        assert x == pytest.approx(1 - d / len(b), abs=1e-12), (want, there)
    assert got[:6] == pytest.approx([1, 1, 1, 0.8, 0, 0]) and got[10:] == [None] * 3 and "asks for no text" in said


def reader():
    """A python with PP-OCR, or None."""
    for python in os.environ.get("CONTRAFLOW_PPOCR_PYTHON"), sys.executable:
        if python and subprocess.run([python, "-c", "import rapidocr_onnxruntime"], capture_output=True).returncode == 0:
            return python
    return None


def fonts():
    found = sorted(p for p in pathlib.Path("/usr/share/fonts").rglob("DejaVu*.ttf") if not any(s in p.name for s in ("Oblique", "Italic")))
    return [str(f) for f in found][:10]


def sign(text, font, size=320):
    im, points = Image.new("RGB", (size, size), (235, 225, 200)), 48
    d = ImageDraw.Draw(im)
    while d.textlength(text, font=ImageFont.truetype(font, points)) > 0.9 * size:
        points -= 2
    d.text((size // 2, size // 2), text, font=ImageFont.truetype(font, points), fill=(30, 30, 60), anchor="mm")
    return im


def test_ppocr(tmp_path):
    """Rendered text is read in every font; what is not there is not."""
    python = reader()
    if not python:
        pytest.skip("no rapidocr-onnxruntime: CONTRAFLOW_PPOCR_PYTHON names no python that has it")
    texts = ["Grand Opening", "MIND THE GAP", "Fresh Bread"]
    prompts = [f'a sign that says "{t}"' for t in texts for _ in fonts()]
    got, _ = score(tmp_path, python, prompts, [sign(t, f) for t in texts for f in fonts()])
    print({pathlib.Path(f).stem: round(float(np.mean(got[i :: len(fonts())])), 3) for i, f in enumerate(fonts())})
    assert len(fonts()) >= 5 and np.mean(got) >= 0.95
    got, _ = score(tmp_path, python, ['"Quiet Garden"'] * 3, [sign("MIND THE GAP", fonts()[0]), Image.new("RGB", (64, 64)), Image.new("RGB", (1, 1), (9, 9, 9))])
    assert max(got) < 0.5
