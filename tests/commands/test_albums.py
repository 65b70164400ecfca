"""Folders of images: sample -d and eval --save, in both layouts, by any number of ranks, gone on with, refused, scored again."""

import io
import json

import numpy as np
import pytest
from command import BASE, ROOT, contraflow, fails
from PIL import Image

LINES = [json.loads(line) for line in (ROOT / "data/shapes/validation.jsonl").read_text().splitlines()]
FEW = [line for tag in ("counting", "colors") for line in [x for x in LINES if x["tag"] == tag][:3]]
PER = 3
COMMON = ["--model", BASE, "--steps", 3, "--quiet"]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "few.jsonl"
    path.write_text("".join(json.dumps(x) + "\n" for x in FEW))
    return path


def sample(folder, prompts, *args, **kwargs):
    return contraflow("sample", *COMMON, "--prompts", prompts, "--per-prompt", PER, "--seed", 7, "-d", folder, *args, **kwargs).stdout


def files(folder):
    """What stays of a folder: name and bytes of all but the lock, which says who was there."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "lock"}


def assert_alike(a, b):
    """Two states of a folder: another batch rounds otherwise, and now and then a pixel is the next number."""
    assert a.keys() == b.keys()
    for name in a:
        if not name.endswith(".png"):
            assert a[name] == b[name], name
            continue
        x, y = (Image.open(io.BytesIO(files[name])) for files in (a, b))
        assert x.text == y.text and np.abs(np.asarray(x, int) - np.asarray(y, int)).max() <= 1, name


@pytest.fixture(scope="module")
def geneval(tmp_path_factory, prompts):
    folder = tmp_path_factory.mktemp("albums") / "geneval"
    return folder, sample(folder, prompts, "--layout", "geneval")


def test_layouts(tmp_path, prompts, geneval):
    """The folders that GenEval's scripts make and read; the same images flat, and in the grid that -o makes of the same noise."""
    folder, said = geneval
    assert "18 images (6 prompts, 3 each)" in said and f"{folder}/00005/samples/0002.png" in said and f"{folder}/album.json" in said
    for i, line in enumerate(FEW):
        assert json.loads((folder / f"{i:05}/metadata.jsonl").read_text()) == line
        assert sorted(p.name for p in (folder / f"{i:05}/samples").iterdir()) == ["0000.png", "0001.png", "0002.png"]
    sample(tmp_path / "flat", prompts)
    contraflow("sample", *COMMON, "--prompts", prompts, "--per-prompt", PER, "--seed", 7, "-o", tmp_path / "grid.png")
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert sorted(p.name for p in (tmp_path / "flat").iterdir())[:3] == ["00000-0000.jsonl", "00000-0000.png", "00000-0001.jsonl"]
    for i, line in enumerate(FEW):
        for k in range(PER):
            image = np.asarray(Image.open(folder / f"{i:05}/samples/{k:04}.png"))
            assert np.array_equal(image, Image.open(tmp_path / f"flat/{i:05}-{k:04}.png"))
            assert np.array_equal(image, grid[2 + 26 * i :, 2 + 26 * k :][:24, :24])
            assert json.loads((tmp_path / f"flat/{i:05}-{k:04}.jsonl").read_text()) == line


def test_what_a_png_says(tmp_path, prompts, geneval):
    folder, _ = geneval
    with Image.open(folder / "00004/samples/0001.png") as image:
        text = dict(image.text)
    version = contraflow("--version").stdout.split()[1]
    settings = json.loads(text["settings"])
    assert text["prompt"] == FEW[4]["prompt"] and text["sample"] == "1" and text["seed"] == "7" and text["model"] == BASE
    assert text["Software"] == f"contraflow {version}" and settings["steps"] == 3 and settings["solver"] == "euler" and settings["width"] == 24
    record = json.loads((folder / "album.json").read_text())
    assert record["settings"] == settings and record["transformer_hash"] == text["transformer_hash"] and len(text["transformer_hash"]) == 16
    assert record["version"] == version and "adapter_hash" not in text
    contraflow("sample", *COMMON, "--prompt", FEW[0]["prompt"], "--prompt", FEW[1]["prompt"], "-o", tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as image:
        assert image.text["prompt"] == f"{FEW[0]['prompt']}\n{FEW[1]['prompt']}" and image.text["seed"] == "0"


def test_goes_on(tmp_path, prompts, geneval):
    """Any number of ranks makes the same images; what is there whole stays, what is cut off or of another prompt is made again."""
    want = files(geneval[0])
    folder = tmp_path / "album"
    sample(folder, prompts, "--layout", "geneval", "--batch", 2, ranks=3)
    assert_alike(files(folder), want)
    gone, cut, other = (folder / f"0000{i}/samples/0001.png" for i in (0, 2, 4))
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-30])
    Image.new("RGB", (8, 8)).save(other)
    (folder / "00003/metadata.jsonl").write_text("{}\n")
    (folder / "00001/samples/0000.png.tmp-123").write_text("a writer that was killed")
    kept = {p: p.stat().st_mtime_ns for p in folder.rglob("*.png") if p not in (gone, cut, other) and "00003" not in str(p)}
    said = sample(folder, prompts, "--layout", "geneval", ranks=2)
    assert "6 made, 12 were there" in said
    assert_alike(files(folder), want)
    assert all(p.stat().st_mtime_ns == t for p, t in kept.items()) and len(kept) == 12
    assert "0 made, 18 were there" in sample(folder, prompts, "--layout", "geneval")


def test_refused(tmp_path, prompts, geneval):
    """Other images than those that are there never come beside them, and a folder of something else is left alone."""
    folder, _ = geneval
    before = files(folder)
    more = tmp_path / "more.jsonl"
    more.write_text(prompts.read_text() + json.dumps(FEW[0]) + "\n")
    command = {"--steps": 3, "--seed": 7, "--per-prompt": PER, "--prompts": prompts, "--layout": "geneval", "--model": BASE, "-d": folder}
    for option, value, why in (("--steps", 4, "settings.steps was 3 there and is 4 here"), ("--seed", 8, "seed was 7"), ("--per-prompt", 2, "images_per_prompt was 3"),
                               ("--prompts", more, "prompts_hash"), ("--layout", "flat", 'layout was "geneval"'), ("--guidance", 2, "settings.guidance was 1.0")):  # fmt: skip
        line = fails("sample", "--quiet", *(x for pair in {**command, option: value}.items() for x in pair))
        assert "holds images of another making" in line and why in line
    copy = tmp_path / "model"  # the same files elsewhere are the same model, one byte of weights is another
    for part in (ROOT / BASE).rglob("*"):
        if part.is_file():
            target = copy / part.relative_to(ROOT / BASE)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(part.read_bytes())
    assert "0 made" in sample(folder, prompts, "--layout", "geneval", "--model", copy)
    for part in "transformer", "vae", "text_encoder":
        weights = next((copy / part).glob("*.safetensors"))
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        line = fails("sample", "--quiet", *(x for pair in {**command, "--model": copy}.items() for x in pair))
        assert f"{part}_hash was" in line
        weights.write_bytes(whole)
    assert files(folder) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/00000-0000.png").write_text("my own")
    assert "not empty, and no album.json in it" in fails("sample", *COMMON, "--prompts", prompts, "-d", tmp_path / "mine")
    assert files(tmp_path / "mine") == {"00000-0000.png": b"my own"}
    assert "neither flat nor geneval" in fails("sample", *COMMON, "--prompts", prompts, "-d", tmp_path / "x", "--layout", "tree")
    assert "none was asked for" in fails("sample", *COMMON, "--prompts", prompts, "-o", tmp_path / "x.png", "--layout", "flat")
    assert "takes no -o" in fails("sample", *COMMON, "--prompts", prompts, "-d", tmp_path / "x", "-o", tmp_path / "x.png")
    assert "either --prompt TEXT or --prompts FILE" in fails("sample", *COMMON, "--prompts", prompts, "--prompt", "a", "-d", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_full_disk_ends_it(tmp_path, prompts, monkeypatch):
    """An image that cannot be written is the end, at once and with its name; what was there by then stays, and the next command has the rest."""
    folder = tmp_path / "album"
    command = ["sample", *COMMON, "--prompts", prompts, "--per-prompt", PER, "-d", folder, "--batch", 2]
    monkeypatch.setenv("CONTRAFLOW_FAULT", "rename:20:ENOSPC")
    done = contraflow(*command, check=False)
    monkeypatch.delenv("CONTRAFLOW_FAULT")
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and line.startswith("contraflow: ")
    assert "No space left" in line and str(folder) in line
    there = len(list(folder.glob("*.png")))
    assert 0 < there < 18 and not list(folder.glob("*.tmp-*"))
    said = contraflow(*command).stdout
    assert f"{18 - there} made, {there} were there" in said


def scores(path):
    return json.loads(path.read_text())


def test_eval_keeps(tmp_path, prompts):
    """eval --save: the score of what it keeps is its own, by `score`, too, in both layouts; what is there is scored as it is, in its place, by
    any number of ranks; a folder of sample -d, whose noise is another's, is refused."""
    command = ["--model", BASE, "--steps", 3, "--prompts", prompts, "--images-per-prompt", PER, "--quiet"]
    contraflow("eval", *command, "-o", tmp_path / "plain.json")
    want = {k: v for k, v in scores(tmp_path / "plain.json").items() if k != "seconds"}
    for layout, ranks in (("geneval", 0), ("flat", 2)):
        folder = tmp_path / layout
        said = contraflow("eval", *command, "--save", folder, "--layout", layout, "-o", tmp_path / "e.json", ranks=ranks).stdout
        assert {k: v for k, v in scores(tmp_path / "e.json").items() if k != "seconds"} == want
        assert f"{folder}/album.json" in said and "18 made, 0 were there" in said
        contraflow("score", folder, "-o", tmp_path / "s.json", "--quiet")
        assert scores(tmp_path / "s.json")["version"] == scores(tmp_path / "e.json")["protocol"]["version"] == contraflow("--version").stdout.split()[1]
        summary = scores(tmp_path / "s.json")["summary"]
        assert {k: v for k, v in summary.items() if k in want and k not in ("rewards", "unavailable")} == {
            k: v for k, v in want.items() if k not in ("rewards", "unavailable", "protocol", "version")}  # fmt: skip
        assert summary["rewards"]["geneval"]["score"] == want["rewards"]["geneval"]["score"]
    images = sorted((tmp_path / "geneval").rglob("*.png"))
    before = files(tmp_path / "geneval")
    for i in 0, 1, 2, 7, 11, 17:
        images[i].unlink()
    said = contraflow("eval", *command, "--save", tmp_path / "geneval", "--layout", "geneval", "--batch", 4, "-o", tmp_path / "e.json", ranks=2).stdout
    assert "6 made, 12 were there" in said
    assert_alike(files(tmp_path / "geneval"), before)
    assert {k: v for k, v in scores(tmp_path / "e.json").items() if k != "seconds"} == want
    right = next(i for i, x in enumerate(scores(tmp_path / "s.json")["images"]) if x["geneval"]["correct"])
    Image.new("RGB", (24, 24)).save(images[right])  # is looked at, so it is wrong now
    contraflow("eval", *command, "--save", tmp_path / "geneval", "--layout", "geneval", "-o", tmp_path / "e.json")
    assert scores(tmp_path / "e.json")["geneval"] < want["geneval"]
    contraflow("sample", *COMMON, "--prompts", prompts, "--per-prompt", PER, "-d", tmp_path / "sampled")
    assert 'noise was "sample" there and is "eval" here' in fails("eval", *command, "--save", tmp_path / "sampled")
