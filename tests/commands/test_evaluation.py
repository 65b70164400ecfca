"""What an evaluation says: rewards that are watched, held out, compared, lacking; the protocol of a run."""

import json

import pytest
from command import ROOT, contraflow, read_lines

LINES = [json.loads(line) for line in (ROOT / "data/shapes/test.jsonl").read_text().splitlines()]
# 12 prompts for evaluations that cost next to nothing.
FEW = [line for tag in ("counting", "colors", "position") for line in [x for x in LINES if x["tag"] == tag][:4]]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "few.jsonl"
    path.write_text("".join(json.dumps(x) + "\n" for x in FEW))
    return path


def train(folder, prompts, rewards, *args, held_out=None, ranks=0, steps=2, **kwargs):
    """Of the shapes world's base, two steps, evaluated before and after each."""
    config = folder.parent / f"{folder.name}.yaml"
    conf = dict(extends=str(ROOT / "configs/shapes.yaml"), rewards=rewards, eval=dict(rewards=held_out) if held_out else {})
    sets = {"prompts.test": prompts, "prompts.groups": 3, "prompts.group_size": 4, "eval.images_per_prompt": 1, "eval.every": 1, "rollout.steps": 4,
            "eval.sampler.steps": 4, "log.grid_every": 0, "run.threads": 1, "train.max_steps": steps}  # fmt: skip
    (folder.parent / f"{folder.name}.json").write_text(json.dumps(conf))
    config.write_text(json.dumps(conf))
    return contraflow("train", config, "--run", folder, *(x for k, v in sets.items() for x in ("--set", f"{k}={v}")), *args, ranks=ranks, **kwargs)


def test_watched_and_held_out(tmp_path, prompts):
    """A reward of weight 0 that can score nothing costs no image; one of eval.rewards scores evaluations alone. The adapter is that of a run
    without them; a reward rank changes nothing; an evaluation of the run has all of them."""
    watched = {"geneval": {"weight": 2}, "ocr": {"weight": 0}}
    runs = {"plain": ({"geneval": {"weight": 2}}, None, 0, ()), "watched": (watched, {"jpeg_compressibility": {}}, 0, ()),
            "normalised": (watched, {"jpeg_compressibility": {}}, 0, ("--set", "advantage.combine=normalised")),
            "ranks": (watched, {"jpeg_compressibility": {}}, 2, ("--set", "ranks.reward=1"))}  # fmt: skip
    rows = {}
    for name, (rewards, held_out, ranks, more) in runs.items():
        train(tmp_path / name, prompts, rewards, *more, held_out=held_out, ranks=ranks)
        rows[name] = read_lines(tmp_path / name / "metrics.jsonl")
    for name in "watched", "normalised", "ranks":
        for row in rows[name]:
            assert row["reward/unavailable"] == 0 and "reward/jpeg_compressibility" not in row
            assert row.get("reward/ocr") is None and ("reward/ocr" in row) == ("reward/geneval" in row)
            assert row["reward/mean"] == pytest.approx(2 * row["reward/geneval"])
        result = json.loads((tmp_path / name / "result.json").read_text())["after"]
        assert result["unavailable"] == 0 and result["rewards"]["ocr"]["score"] is None and result["rewards"]["ocr"]["watched"]
        assert result["rewards"]["jpeg_compressibility"]["images"] == 12 and result["rewards"]["jpeg_compressibility"]["score"] < 0
        assert result["reward"] == pytest.approx(2 * result["rewards"]["geneval"]["score"])
        assert rows[name][0]["eval/reward/jpeg_compressibility"] < 0 and rows[name][0]["eval/reward/ocr"] is None
    adapters = {n: (tmp_path / n / "checkpoints/step-00000002/lora/adapter_model.safetensors").read_bytes() for n in runs}
    assert "watched, scored no image" in (tmp_path / "watched/log.txt").read_text()
    assert adapters["plain"] == adapters["watched"] == adapters["ranks"] != adapters["normalised"]
    for name in "watched", "ranks":
        assert [r["reward/mean"] for r in rows[name]] == [r["reward/mean"] for r in rows["plain"]]
    stored = contraflow("config", "show", tmp_path / "watched/config.yaml").stdout
    assert "jpeg_compressibility" in stored[stored.index("eval:"):]
