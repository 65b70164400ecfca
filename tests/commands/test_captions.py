"""Pictures with words: sample --captions and --against, and the grids of a run."""

import json

import numpy as np
import pytest
from command import BASE, ROOT, contraflow, fails
from PIL import Image

LINES = [json.loads(line) for line in (ROOT / "data/shapes/validation.jsonl").read_text().splitlines()]
FEW = [line for tag in ("counting", "colors") for line in [x for x in LINES if x["tag"] == tag][:2]]
PAPER = (250, 250, 248)
GREEN, RED, GREY = (0, 110, 51), (176, 0, 32), (90, 90, 96)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "few.jsonl"
    path.write_text("".join(json.dumps(x) + "\n" for x in FEW))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, prompts):
    """Of one step, large enough to be seen."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    sets = {"prompts.test": prompts, "prompts.groups": 2, "prompts.group_size": 4, "rollout.steps": 3, "eval.sampler.steps": 3, "optimizer.lr": 0.01, "run.threads": 1,
            "train.max_steps": 1, "eval.images_per_prompt": 2}  # fmt: skip
    contraflow("train", "configs/shapes.yaml", "--run", folder, *(x for k, v in sets.items() for x in ("--set", f"{k}={v}")))
    return folder


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def has(image, color):
    return bool((image == color).all(axis=2).any())


def test_against(tmp_path, run, prompts):
    """Pairs from the same noise, the other's at the left, under their names; a title each pair and a note each image: what is right is green,
    what is wrong red, as `score` finds it."""
    common = ["--prompts", prompts, "--per-prompt", 2, "--zoom", 4]
    contraflow("sample", "--lora", run, *common, "--columns", 8, "--captions", "--against", "base", "-o", tmp_path / "pairs.png")
    contraflow("sample", "--lora", run, *common, "-o", tmp_path / "own.png")
    contraflow("sample", "--config", run / "config.yaml", *common, "-o", tmp_path / "base.png")
    both, plain = pixels(tmp_path / "pairs.png"), [pixels(tmp_path / f"{n}.png") for n in ("base", "own")]
    assert not np.array_equal(*plain) and tuple(both[0, 0]) == PAPER and both.shape[1] == 10 + 4 * (96 + 4 + 96 + 10)
    for side, name in enumerate(("base", "own")):
        contraflow("sample", *(["--lora", run] if side else ["--config", run / "config.yaml"]), "--prompts", prompts, "--per-prompt", 2, "-d", tmp_path / name)
        contraflow("score", tmp_path / name, "--quiet", "-o", tmp_path / "scores.json")
        scores = json.loads((tmp_path / "scores.json").read_text())["images"]
        tops = [25]
        for i in range(8):
            if i == 4:  # the second row begins below the first's words
                below = both[25 + 96 :, 10:106]
                tops.append(25 + 96 + next(y for y in range(len(below)) if np.array_equal(below[y : y + 96], plain[0][2 + 2 * 98 :, 2:98][:96])))
            x, y = 10 + (i % 4) * 206 + side * 100, tops[i // 4]
            assert np.array_equal(both[y : y + 96, x : x + 96], plain[side][2 + i // 2 * 98 :, 2 + i % 2 * 98 :][:96, :96])
            end = tops[0] + 150 if i < 4 else len(both)
            words = both[y + 96 : min(end, len(both)), x : x + 96][:60]
            right = scores[i]["geneval"]["strict"] == 1
            assert has(words, GREEN if right else RED) and not has(words, RED if right else GREEN)


def test_captions_without_scores(tmp_path):
    """A model alone has no rewards, and a prompt without metadata no score: neither is an error."""
    contraflow("sample", "--model", BASE, "--prompt", "a photo of a red cross", "--steps", 2, "--captions", "-o", tmp_path / "a.png")
    image = pixels(tmp_path / "a.png")
    assert image.shape == (10 + 24 + 4 + 2 * 11 + 10, 116, 3) and not any(has(image, c) for c in (GREEN, RED, GREY))
    contraflow("sample", "--config", "configs/shapes.yaml", "--prompt", "a photo of a red cross", "--steps", 2, "--captions", "-o", tmp_path / "b.png")
    assert has(pixels(tmp_path / "b.png"), GREY)


def test_choose(tmp_path, prompts):
    """Of four prompts with two tags three: the first of each tag, then the second of the first."""
    contraflow("sample", "--model", BASE, "--prompts", prompts, "--choose", 3, "--steps", 1, "-d", tmp_path / "some")
    chosen = [json.loads((tmp_path / f"some/{i:05}-0000.jsonl").read_text()) for i in range(3)]
    assert chosen == [FEW[0], FEW[2], FEW[1]] and not (tmp_path / "some/00003-0000.png").exists()
    assert "--choose -1" in fails("sample", "--model", BASE, "--prompts", prompts, "--choose", -1, "-o", tmp_path / "x.png")


def test_refused(tmp_path, run, prompts):
    assert "two images belong together" in fails("sample", "--lora", run, "--prompts", prompts, "--against", "base", "--columns", 3, "-o", tmp_path / "x.png")
    assert "are of a grid" in fails("sample", "--lora", run, "--prompts", prompts, "--captions", "-d", tmp_path / "x")
    assert "need -o" in fails("sample", "--lora", run, "--prompts", prompts, "--against", "base", "--save-latents", tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_grids_of_a_run(run):
    first, last = (pixels(run / f"samples/step-{i:06}.png") for i in (0, 1))
    assert first.shape[1] == last.shape[1] == 10 + 4 * 106 and not np.array_equal(first, last)
    assert has(first, RED) and tuple(first[0, 0]) == PAPER
