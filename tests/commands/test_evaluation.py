"""What an evaluation says: rewards that are watched, held out, compared, lacking; the protocol of a run."""

import json
import sys

import pytest
from command import BASE, FRAMES, ROOT, contraflow, fails, read_lines

LINES = [json.loads(line) for line in (ROOT / "data/shapes/validation.jsonl").read_text().splitlines()]
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
    lines = [x for x in (ROOT / "configs/shapes.yaml").read_text().splitlines() if not x.startswith("rewards:")]
    config.write_text("\n".join([*lines, f"rewards: {json.dumps(rewards)}"]))
    sets = {"prompts.test": prompts, "prompts.groups": 3, "prompts.group_size": 4, "eval.images_per_prompt": 1, "eval.every": 1, "rollout.steps": 4,
            "eval.sampler.steps": 4, "log.grid_every": 0, "run.threads": 1, "train.max_steps": steps}  # fmt: skip
    if held_out:
        sets["eval.rewards"] = json.dumps(held_out)
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
        for row in [r for r in rows[name] if "reward/mean" in r]:
            assert row["reward/unavailable"] == 0 and "reward/jpeg_compressibility" not in row
            assert row["reward/ocr"] is None
            assert row["reward/mean"] == pytest.approx(2 * row["reward/geneval"])
        result = json.loads((tmp_path / name / "result.json").read_text())["after"]
        assert result["unavailable"] == 0 and result["rewards"]["ocr"]["score"] is None and result["rewards"]["ocr"]["watched"]
        assert result["rewards"]["jpeg_compressibility"]["images"] == 12 and result["rewards"]["jpeg_compressibility"]["score"] < 0
        assert result["reward"] == pytest.approx(2 * result["rewards"]["geneval"]["score"])
        evals = [r for r in rows[name] if "eval/reward" in r]
        assert [r["step"] for r in evals] == [0, 1, 2] and all(r["eval/reward/jpeg_compressibility"] < 0 and r["eval/reward/ocr"] is None for r in evals)
    adapters = {n: (tmp_path / n / "checkpoints/step-00000002/lora/adapter_model.safetensors").read_bytes() for n in runs}
    assert "watched, scored no image" in (tmp_path / "watched/log.txt").read_text()
    assert adapters["plain"] == adapters["watched"] == adapters["ranks"] != adapters["normalised"]
    for name in "watched", "ranks":
        assert [r.get("reward/mean") for r in rows[name]] == [r.get("reward/mean") for r in rows["plain"]]
    stored = contraflow("config", "show", tmp_path / "watched/config.yaml").stdout
    assert "jpeg_compressibility" in stored[stored.index("eval:"):]


NUMBERS = ("geneval", "strict", "soft", "reward", "geneval_95", "strict_95", "soft_95", "images", "prompts", "unavailable", "rewards", "tags")


def evaluate(out, *args):
    contraflow("eval", *args, "--quiet", "-o", out)
    return json.loads(out.read_text())


def numbers(result):
    return {k: result[k] for k in NUMBERS}


@pytest.fixture(scope="module")
def run(tmp_path_factory, prompts):
    """Of two steps large enough to be seen, with a protocol of its own: guidance, shift, integer timesteps, a negative prompt, 2 images a prompt."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    sets = {"optimizer.lr": 0.01, "eval.images_per_prompt": 2, "run.seed": 5, "eval.sampler.solver": "euler", "eval.sampler.shift": 2, "eval.sampler.timesteps": "integer",
            "eval.sampler.guidance": 1.5, "eval.sampler.negative": "a photo of a red cross", "model.text_length": 19}  # fmt: skip
    train(folder, prompts, {"geneval": {}, "jpeg_compressibility": {"weight": 0}}, *(x for k, v in sets.items() for x in ("--set", f"{k}={v}")))
    return folder, json.loads((folder / "result.json").read_text())


def test_the_run_s_protocol(tmp_path, run):
    """eval of a run, of its checkpoint, of its adapter, and of its configuration without one gives the run's own numbers, every digit; options
    override, and the result says what was used."""
    folder, result = run
    checkpoint = folder / "checkpoints/step-00000002"
    for i, lora in enumerate((folder, checkpoint, checkpoint / "lora")):
        got = evaluate(tmp_path / f"{i}.json", "--lora", lora)
        assert numbers(got) == numbers(result["after"])
    used = got["protocol"]
    assert {k: used[k] for k in ("solver", "steps", "guidance", "shift", "timesteps", "dtype", "seed", "images_per_prompt", "text_length", "negative")} == dict(
        solver="euler", steps=4, guidance=1.5, shift=2, timesteps="integer", dtype="float32", seed=5, images_per_prompt=2, text_length=19,
        negative="a photo of a red cross")  # fmt: skip
    assert used["settings_of"].endswith("config.yaml") and used["model"] == BASE and used["height"] == used["width"] > 0 and "cpu" in used["device"]
    assert numbers(evaluate(tmp_path / "b.json", "--config", folder / "config.yaml")) == numbers(result["before"])
    other = evaluate(tmp_path / "o.json", "--lora", folder, "--timesteps", "float", "--steps", "3", "--guidance", "1", "--images-per-prompt", "1", "--seed", "0")
    assert {k: other["protocol"][k] for k in ("timesteps", "steps", "guidance", "shift", "images_per_prompt", "seed")} == dict(
        timesteps="float", steps=3, guidance=1, shift=2, images_per_prompt=1, seed=0)  # fmt: skip
    assert other["images"] == 12 and other["rewards"]["jpeg_compressibility"] != got["rewards"]["jpeg_compressibility"]
    plain = evaluate(tmp_path / "p.json", "--model", BASE, "--prompts", used["prompts"], "--steps", 2)
    assert plain["protocol"]["settings_of"] is None and plain["protocol"]["text_length"] == "the family's" and plain["protocol"]["guidance"] == 1


def test_sample_of_a_run(tmp_path, run):
    """sample takes the run's protocol too: the same image as with every option written out; and says it."""
    folder, _ = run
    args = ["--lora", folder, "--prompt", FEW[0]["prompt"], "--seed", "1"]
    said = contraflow("sample", *args, "-o", tmp_path / "a.png").stdout
    assert json.loads(said[said.index("{"):])["timesteps"] == "integer" and str(tmp_path / "a.png") in said
    contraflow("sample", *args, "--steps", 4, "--solver", "euler", "--shift", 2, "--guidance", 1.5, "--negative", "a photo of a red cross", "--timesteps", "integer",
               "-o", tmp_path / "b.png")  # fmt: skip
    contraflow("sample", *args, "--timesteps", "float", "-o", tmp_path / "c.png")
    a, b, c = ((tmp_path / f"{n}.png").read_bytes() for n in "abc")
    assert a == b != c
    assert "timesteps: 'whole' is neither float nor integer" in fails("sample", *args, "--timesteps", "whole", "-o", tmp_path / "d.png")
    (tmp_path / "config.yaml").write_text("somebody: else\n")  # beside an adapter that is in no run
    (tmp_path / "lora").mkdir()
    for file in (folder / "checkpoints/step-00000002/lora").iterdir():
        (tmp_path / "lora" / file.name).write_bytes(file.read_bytes())
    assert "does not belong to a run" in fails("sample", "--lora", tmp_path / "lora", "--prompt", "a photo of a red cross", "-o", tmp_path / "e.png")
    contraflow("sample", "--model", BASE, "--lora", tmp_path / "lora", "--prompt", "a photo of a red cross", "--steps", 1, "-o", tmp_path / "e.png")


def test_against(tmp_path, run):
    """Pairs on the same prompts and noise: the difference of the run's own before and after; nothing between an adapter and itself."""
    folder, result = run
    got = evaluate(tmp_path / "a.json", "--lora", folder, "--against", "base")
    against = got["against"]
    assert numbers(got) == numbers(result["after"]) and numbers(against["result"]) == numbers(result["before"]) and against["lora"] == "base"
    for kind in "geneval", "strict", "soft", "reward":
        d = against["difference"]
        assert d[kind] == pytest.approx(got[kind] - against["result"][kind], abs=1e-12) and d[f"{kind}_95"][0] <= d[kind] <= d[f"{kind}_95"][1]
    same = evaluate(tmp_path / "b.json", "--lora", folder, "--against", folder / "checkpoints/step-00000002")["against"]
    assert numbers(same["result"]) == numbers(got) and same["difference"]["strict"] == 0 == same["difference"]["reward"]
    low, high = same["difference"]["strict_95"]
    assert low == -high and 0 < high < 0.6 and same["difference"]["soft_95"] == [0, 0]
    said = contraflow("eval", "--lora", folder, "--against", "base", "--quiet").stdout
    assert "pair by pair" in said and "before: base" in said and "geneval" in said
    assert "no such file or folder" in fails("eval", "--lora", folder, "--against", tmp_path / "none", "--quiet")


# Scores every n-th image it is ever asked about.
JUDGE = FRAMES + r"""
k, every = 0, int(sys.argv[1])
while True:
    items = json.loads(frame())["items"]
    for _ in items: frame()
    scores = [1 if (k + i) % every == 0 else None for i in range(len(items))]
    k += len(items)
    answer(scores)
"""


def test_a_remnant(tmp_path, prompts):
    """Of an evaluation that most images lack a score in: a warning in a run, and no end by stop_at; an error of eval, which says what is missing."""
    judge = {"type": "exec", "command": [sys.executable, "-c", JUDGE, "6"]}
    done = train(tmp_path / "run", prompts, {"judge": judge}, "--set", "train.stop_at=0.5", "--set", "train.max_unavailable=1")
    rows = read_lines(tmp_path / "run/metrics.jsonl")
    assert [r["step"] for r in rows if "grad_norm" in r] == [1, 2] and "decide nothing" in done.stderr
    assert [r["eval/unavailable"] for r in rows if "eval/soft" in r][0] == 10
    assert json.loads((tmp_path / "run/result.json").read_text())["after"]["soft"] == 1
    train(tmp_path / "all", prompts, {"judge": {**judge, "command": [*judge["command"][:3], "1"]}}, "--set", "train.stop_at=0.5")
    assert json.loads((tmp_path / "all/result.json").read_text())["optimizer_steps"] == 1  # the same score of all images ends it
    line = fails("eval", "--lora", tmp_path / "run", "--quiet", "-o", tmp_path / "e.json")
    assert "83 % of the images have no reward score (--max-unavailable is 0.5): judge: " in line
    assert json.loads((tmp_path / "e.json").read_text())["unavailable"] == 10
    evaluate(tmp_path / "e.json", "--lora", tmp_path / "run", "--max-unavailable", "0.9")


# A score that moves by so much with every batch.
MOVING = FRAMES + r"""
k, slope = 0, float(sys.argv[1])
while True:
    items = json.loads(frame())["items"]
    for _ in items: frame()
    k += 1
    answer([slope * k] * len(items))
"""


def test_alarm(tmp_path, prompts):
    """A held-out reward that falls while the trained one rises: said, the end, or a stronger pull to the base, as the key says; a checkpoint knows."""
    moving = {name: {"type": "exec", "command": [sys.executable, "-c", MOVING, slope]} for name, slope in (("up", "1"), ("down", "-1"))}
    states, rewards = {}, {"geneval": {}, "up": moving["up"]}
    for alarm in "warn", "stop", "kl", "none":
        run = tmp_path / alarm
        more = [] if alarm == "warn" else ["--set", f"eval.alarm={alarm}"]
        said = train(run, prompts, rewards, *more, held_out={"down": moving["down"]}, steps=3).stderr
        assert ("down fell from" in said) == (alarm != "none") and ("this ends here" in said) == (alarm == "stop")
        states[alarm] = json.loads(sorted(run.glob("checkpoints/step-*/state.json"))[-1].read_text())
    assert [states[a]["step"] for a in states] == [3, 1, 3, 3] and states["stop"]["alarm"]["stopped"]
    assert states["kl"]["alarm"]["kl"] == 4 and states["warn"]["alarm"]["kl"] == 0 and states["warn"]["alarm"]["marks"]["down"]["best"] < 0
    theta = {a: (tmp_path / a / "checkpoints/step-00000003/lora/adapter_model.safetensors").read_bytes() for a in ("warn", "kl", "none")}
    assert theta["warn"] == theta["none"] != theta["kl"]
    done = contraflow("train", "--run", tmp_path / "stop", "--resume")
    assert json.loads((tmp_path / "stop/result.json").read_text())["optimizer_steps"] == 1, done.stderr
    assert "kl_beta" in train(tmp_path / "no", prompts, rewards, "--set", "eval.alarm=kl", "--set", "nft.kl_beta=0", check=False).stderr
