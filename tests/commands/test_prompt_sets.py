"""Several sets of prompts in one run, each with rewards of its own: shares, scores, evaluation, and the same run by any number of ranks."""

import json

import numpy as np
import pytest
import yaml
from command import ROOT, contraflow, fails, read_lines, read_steps, read_zst

SHAPES = [json.loads(line) for line in (ROOT / "data/shapes/train.jsonl").read_text().splitlines()]
HELD_OUT = [json.loads(line) for line in (ROOT / "data/shapes/validation.jsonl").read_text().splitlines()]


@pytest.fixture
def config(tmp_path):
    """Composition twice as often as pictures, whose prompts say nothing that GenEval could look at."""
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(x) + "\n" for x in SHAPES[::100]))
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(x) + "\n" for x in HELD_OUT[::24]))
    (tmp_path / "train.txt").write_text("".join(x["prompt"] + "\n" for x in SHAPES[50::200]))
    (tmp_path / "test.txt").write_text("".join(x["prompt"] + "\n" for x in HELD_OUT[12::48]))
    path = tmp_path / "sets.yaml"
    path.write_text(f"""
extends: {ROOT}/configs/shapes.yaml
run: {{threads: 1, name: sets}}
prompts:
  train: null
  test: null
  by_tag: null
  groups: 4
  group_size: 4
  sets:
    composition:
      train: {tmp_path}/train.jsonl
      test: {tmp_path}/test.jsonl
      weight: 2
      by_tag: true
      rewards: {{geneval: 1}}
    pictures:
      train: {tmp_path}/train.txt
      test: {tmp_path}/test.txt
      rewards: {{small: 0.5, large: 0}}
rewards:
  geneval: {{weight: 1}}
  small: {{type: jpeg_compressibility, weight: 2}}
  large: {{type: jpeg_incompressibility}}
eval: {{every: 2, images_per_prompt: 1, rewards: {{watched: {{type: jpeg_incompressibility}}}}}}
train: {{max_steps: 3, micro_batch: 16}}
rollout: {{steps: 4, batch: 8}}
optimizer: {{decay: constant}}
log: {{tensorboard: false, grid_every: 0, rollouts_every: 1}}
checkpoint: {{every: 1, keep: 100}}
""")
    return path


def train(config, run, *args, ranks=0, **kwargs):
    return contraflow("train", config, "--run", run, "--quiet", *args, ranks=ranks, **kwargs)


def rows(run):
    return [{k: v for k, v in r.items() if not k.startswith(("time/", "memory/", "ranks/", "scoring/"))} for r in read_lines(run / "metrics.jsonl")]


def state(run, step=3):
    return read_zst(run / f"checkpoints/step-{step:08d}/state.safetensors.zst")


def result(run):
    return json.loads((run / "result.json").read_text())


def test_a_run(config, tmp_path):
    run = tmp_path / "run"
    said = contraflow("train", config, "--run", run)
    steps = read_steps(run)
    # 12 groups in three epochs, two thirds of them composition: 8 and 4, and never a group off
    composition = np.cumsum([r["reward/composition/images"] // 4 for r in steps])
    assert [r["reward/composition/images"] + r["reward/pictures/images"] for r in steps] == [16] * 3
    assert composition[-1] == 8 and all(abs(c - 4 * (i + 1) * 2 / 3) < 1 for i, c in enumerate(composition))
    for r in steps:
        # each image by the rewards of its set alone, with the entry's weight times the set's
        assert "reward/composition/small" not in r and "reward/pictures/geneval" not in r
        assert r["reward/composition/mean"] == pytest.approx(r["reward/composition/geneval"])
        assert r["reward/pictures/mean"] == pytest.approx(r["reward/pictures/small"] * 2 * 0.5)
        assert r["reward/pictures/large"] == pytest.approx(-500 * r["reward/pictures/small"])
        assert not any(r[k] for k in r if k.endswith("unavailable"))  # what a reward does not score is no lack
        assert r["reward/unavailable"] == 0 and 0 <= r["reward/strict"] <= 1
    # Advantages are by each set's own mean of the group and spread over the epoch, from the values in the archive.
    for i in range(3):
        (file,) = (run / "rollouts").glob(f"epoch-{i:06d}.rank-*.zst")
        a = read_zst(file)
        value = {k: a[f"reward.{k}"].astype(np.float64) for k in ("geneval", "small", "large")}
        of_pictures = np.isnan(value["geneval"])
        assert of_pictures.sum() == steps[i]["reward/pictures/images"] and (np.isnan(value["small"]) == ~of_pictures).all()
        for which, total in (of_pictures, value["small"]), (~of_pictures, value["geneval"]):
            t = total[which]
            mean = np.repeat(t.reshape(-1, 4).mean(1), 4)
            assert np.allclose(a["advantage"][which], (t - mean) / (t.std() + 1e-4), atol=2e-3, rtol=2e-3)
    # Evaluation: each set's own file by its own rewards and those held out; the whole is their mean by weight.
    ends = result(run)
    before, sets = ends["before"], ends["before"]["sets"]
    assert set(sets) == {"composition", "pictures"} == set(before["tags"])
    assert set(sets["composition"]["rewards"]) == {"geneval", "watched"} and set(sets["pictures"]["rewards"]) == {"small", "large", "watched"}
    assert sets["composition"]["images"] == 6 and sets["pictures"]["images"] == 3 and before["images"] == 9
    assert sets["pictures"]["strict"] is None and sets["pictures"]["rewards"]["large"]["watched"]
    held_out = (2 * sets["composition"]["strict"] + sets["pictures"]["soft"]) / 3
    assert before["soft"] == pytest.approx(held_out) and before["tags"]["pictures"]["soft"] == sets["pictures"]["soft"]
    first = read_lines(run / "metrics.jsonl")[0]
    assert first["eval/composition/strict"] == sets["composition"]["strict"] and first["eval/soft"] == before["soft"]
    assert first["eval/pictures/reward/watched"] == sets["pictures"]["rewards"]["watched"]["score"]
    assert first["eval/soft/composition"] == sets["composition"]["strict"] and "eval/reward/geneval" not in first
    assert "held-out images of set composition" in said.stdout and "held-out images of set pictures" in said.stdout
    told = json.loads((run / "samples/step-000000.json").read_text())
    assert {tuple(sorted(x["rewards"])) for x in told["images"]} == {("geneval", "watched"), ("large", "small", "watched")}
    # eval of the run scores both sets, with the same noise: the run's own last numbers
    contraflow("eval", "--lora", run, "-o", tmp_path / "eval.json")
    again = json.loads((tmp_path / "eval.json").read_text())
    assert again["soft"] == ends["after"]["soft"] and again["sets"]["pictures"]["soft"] == ends["after"]["sets"]["pictures"]["soft"]
    assert again["protocol"]["prompts"] == f"{tmp_path}/test.jsonl, {tmp_path}/test.txt"
    # What the run keeps is the same experiment, and a resumed run's inputs name the files.
    assert contraflow("config", "show", run / "config.yaml").stdout == contraflow("config", "show", config).stdout
    saved = json.loads((run / "checkpoints/step-00000003/state.json").read_text())
    assert saved["dealt"] == {"composition": {"groups": 8, "weight": 2}, "pictures": {"groups": 4, "weight": 1}}
    assert {f"prompts.sets.{s}.{f}" for s in ("composition", "pictures") for f in ("train", "test")} < set(saved["inputs"])
    (tmp_path / "test.txt").write_text(SHAPES[3]["prompt"] + "\n")
    warned = contraflow("train", config, "--run", run, "--resume", "--set", "train.max_steps=4").stderr
    assert "prompts.sets.pictures.test: the file has changed since the run's checkpoint" in warned
    # A replay trains from what was sampled, to the bit where the old policy is the same: the first step's.
    contraflow("replay", config, *sorted((run / "rollouts").glob("epoch-000000.*")), "--run", tmp_path / "replay", "--quiet",
               "--set", "prompts.sets.composition.test=", "--set", "prompts.sets.pictures.test=")  # fmt: skip
    assert np.array_equal(state(tmp_path / "replay", 1)["theta"], state(run, 1)["theta"])


def test_the_same_run(config, tmp_path):
    """By one, two and three ranks, with a rank that scores for the others, and gone on with in the middle."""
    train(config, tmp_path / "one")
    for ranks, args in (2, []), (3, []), (3, ["--set", "ranks.reward=1"]):
        run = tmp_path / f"{ranks}{len(args)}"
        train(config, run, *args, ranks=ranks)
        keys = [k for k in rows(run)[0] if k.startswith("eval/")]
        assert [{k: r[k] for k in keys} for r in rows(run)[:1]] == [{k: r[k] for k in keys} for r in rows(tmp_path / "one")[:1]]
        a, b = read_steps(run), read_steps(tmp_path / "one")
        assert [r["reward/composition/images"] for r in a] == [r["reward/composition/images"] for r in b]
        for k in "reward/mean", "reward/composition/geneval", "reward/pictures/small", "reward/pictures/std":
            assert a[0][k] == b[0][k], (ranks, k)  # the same images of the same prompts; later ones by sums in another order
            assert np.allclose([r[k] for r in a], [r[k] for r in b], rtol=1e-3)
    with_rank, without = tmp_path / "32", tmp_path / "20"
    assert {k: v.tobytes() for k, v in state(with_rank).items()} == {k: v.tobytes() for k, v in state(without).items()}
    cut = tmp_path / "cut"
    train(config, cut, "--set", "train.max_steps=2")
    train(config, cut, "--resume")
    assert {k: v.tobytes() for k, v in state(cut).items()} == {k: v.tobytes() for k, v in state(tmp_path / "one").items()}
    assert read_steps(cut)[2]["reward/pictures/images"] == read_steps(tmp_path / "one")[2]["reward/pictures/images"]


def test_more_drawn_than_trained_and_stages(config, tmp_path):
    """Choosing among more, advantages by groups of several rewards, and a curriculum whose stages have other sets."""
    text = yaml.safe_load(config.read_text())
    sets = text["prompts"].pop("sets")
    text["prompts"]["train"] = str(tmp_path / "train.jsonl")
    rewards = text.pop("rewards")
    text["rewards"] = {"geneval": {}}
    text["train"] = {"max_steps": 2}
    text["log"]["rollouts_every"] = 0
    text["stages"] = {
        "one": {},
        "both": {"prompts": {"sets": sets, "draw": 6}, "rewards": rewards, "advantage": {"combine": "normalised", "over": "drawn"}},
        "last": {"prompts": {"sets": {"pictures": {**sets["pictures"], "rewards": {"small": 1}}}}, "rewards": {"small": rewards["small"]}},
    }
    config.write_text(json.dumps(text))  # as YAML without anchors
    train(config, tmp_path / "run")
    steps = read_steps(tmp_path / "run")
    assert [("reward/composition/mean" in r, "reward/pictures/mean" in r) for r in steps] == [(0, 0)] * 2 + [(1, 1)] * 2 + [(0, 1)] * 2
    assert [r["reward/composition/images"] for r in steps[2:4]] in ([12, 8], [8, 12])  # 5 or 6 of 8 groups, counted in the stage
    shown = contraflow("config", "show", config).stdout
    assert contraflow("config", "show", tmp_path / "run/config.yaml").stdout == shown
    assert set(yaml.safe_load(shown)["stages"]["last"]["prompts"]["sets"]) == {"pictures"}


def test_what_is_refused(config, tmp_path):
    def said(*changes):
        return fails("train", config, "--run", tmp_path / "refused", *[x for c in changes for x in ("--set", c)])

    key = "prompts.sets.pictures"
    assert "prompts.train: with prompts.sets each set has its own" in said(f"prompts.train={tmp_path}/train.txt")
    assert "prompts.by_tag: with prompts.sets each set has its own" in said("prompts.by_tag=true")
    assert "the weight of every set is 0: at least one must be trained" in said(f"{key}.weight=0", "prompts.sets.composition.weight=0")
    assert f"{key}.weight = '-1'" in said(f"{key}.weight=-1")
    assert "'prompts.sets.words.train' is required" in said("prompts.sets.words={rewards: {small: 1}}")
    assert "a set cannot be called 'strict'" in said(f"prompts.sets.strict={{train: {tmp_path}/train.txt, rewards: {{small: 1}}}}")
    assert "no set of `prompts.sets` names this reward" in said("rewards.more={type: jpeg_compressibility}")
    assert f"{key}.rewards: `rewards` has no entry 'smal'; did you mean 'small'?" in said(f"{key}.rewards.smal=1")
    assert f"{key}.rewards: the weight of every reward is 0" in said(f"{key}.rewards.small=0")
    assert "did you mean 'prompts.sets.pictures.weight'?" in said(f"{key}.wieght=1")
    assert "prompts.sets: write sets by name" in said("prompts.sets=[a.txt, b.txt]")
    (tmp_path / "empty.txt").write_text("\n")
    assert "prompts.sets.pictures: " in said(f"{key}.train={tmp_path}/empty.txt") and "no prompts in this file" in said(f"{key}.train={tmp_path}/empty.txt")
    lines = said(f"{key}.rewards.geneval=1", "prompts.sets.composition.rewards.geneval=1")
    assert f"{tmp_path}/train.txt: prompt 1 (" in lines and "reward geneval cannot score" in lines
    assert not (tmp_path / "refused").exists()
