"""contraflow compare: runs side by side, what it tells of them against numpy, and going on."""

import json

import numpy as np
import pytest
from command import ROOT, contraflow, fails, read_lines, read_zst

SETS = [x for s in ("prompts.groups=2", "prompts.group_size=4", "eval.images_per_prompt=1", "log.tensorboard=false", "log.grid_every=0",
                    "run.threads=1", "optimizer.decay=constant") for x in ("--set", s)]  # fmt: skip
A = "train: {max_steps: 4}\neval: {every: 1}\n"
B = A.replace("every: 1", "every: 2").replace("4}", "4, algorithm: flow_grpo}") + "rollout: {solver: flow_sde}\npolicy: {old_schedule: on_policy}\nflow_grpo: {kl_beta: 0, clip: 1e-3}\n"


def compare(folder, *more, ranks=2, **kwargs):
    args = ["compare", folder / "nft.yaml", folder / "grpo.yaml", "-d", folder / "out", "--seeds", "0,3", *SETS, *more]
    return contraflow(*args, ranks=ranks, **kwargs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One of the runs was interrupted: it is taken up again."""
    folder = tmp_path_factory.mktemp("compare")
    for name, text in ("nft", A), ("grpo", B):
        (folder / f"{name}.yaml").write_text(f"extends: {ROOT}/configs/shapes.yaml\n{text}")
    contraflow("train", folder / "nft.yaml", "--run", folder / "out/nft/seed-3", *SETS, "--set", "run.seed=3", "--set", "train.max_steps=2", ranks=2)
    (folder / "out/nft/seed-3/result.json").unlink()
    compare(folder, "--thresholds", "0.2,0.25,0.99")
    return folder


def series(run):
    """Score and what training had taken, by evaluation."""
    steps, images, forwards, seconds, scores, taken = [], [], [], [], [], [0, 0, 0.0, 0]
    for row in read_lines(run / "metrics.jsonl"):
        if "compute/forwards" in row:
            taken = [row["step"], row["images"], row["compute/forwards"], row["time/device_total"]]
        if row.get("eval/strict") is not None:
            for of, v in zip((steps, images, forwards, seconds, scores), (*taken, row["eval/strict"])):
                of.append(v)
    return dict(steps=steps, images=images, forwards=forwards, device_seconds=seconds, score=scores)


def first(x, threshold):
    """By numpy: where the line between evaluations first is at the threshold."""
    s, at = np.array(x["score"]), np.array(x["steps"], float)
    reached = np.nonzero(s >= threshold)[0]
    if not len(reached):
        return None
    i = reached[0]
    return at[0] if i == 0 else float(np.interp(threshold, s[i - 1 : i + 1], at[i - 1 : i + 1]))


def test_report(folder):
    told = json.loads((folder / "out/compare.json").read_text())
    assert [c["name"] for c in told["configs"]] == ["nft", "grpo"] and told["score"] == "strict"
    ends = []
    for c in told["configs"]:
        runs = [series(folder / f"out/{c['name']}/seed-{s}") for s in (0, 3)]
        assert [r["seed"] for r in c["runs"]] == [0, 3] and all(len(x["score"]) == {"nft": 5, "grpo": 3}[c["name"]] for x in runs)
        for r, x in zip(c["runs"], runs):
            for key in x:
                assert np.allclose([p[key] for p in r["curve"]], x[key], rtol=1e-12), key
            assert r["health"]["lora_norm"] > 0
        final = [x["score"][-1] for x in runs]
        assert c["final"] == {"mean": pytest.approx(np.mean(final)), "least": min(final), "most": max(final), "seeds": 2, "of": 2}
        for t in c["thresholds"]:
            want = [first(x, t["threshold"]) for x in runs]
            have = [w for w in want if w is not None]
            assert t["steps"]["seeds"] == len(have)
            assert not have or (t["steps"]["mean"] == pytest.approx(np.mean(have)) and t["steps"]["most"] == pytest.approx(max(have)))
        ends += [x["device_seconds"][-1] for x in runs]
    assert told["equal_device_seconds"] == pytest.approx(min(ends))
    for c in told["configs"]:
        at = [float(np.interp(min(ends), x["device_seconds"], x["score"])) for x in (series(folder / f"out/{c['name']}/seed-{s}") for s in (0, 3))]
        assert c["at_equal_device_seconds"]["mean"] == pytest.approx(np.mean(at))
    differ = {d["key"]: (d["first"], d["here"]) for d in told["differences"]}
    assert differ["train.algorithm"] == ("nft", "flow_grpo") and differ["rollout.solver"] == ("dpm2", "flow_sde") and "run.seed" not in differ
    svg = (folder / "out/compare.svg").read_text()
    assert svg.startswith("<svg") and svg.count("<polyline") == 4 and ">grpo</text>" in svg


def test_the_same_as_train(folder, tmp_path):
    """A run of it, also one that went on, is that of train."""
    for seed in 0, 3:
        contraflow("train", folder / "nft.yaml", "--run", tmp_path / str(seed), *SETS, "--set", f"run.seed={seed}", ranks=2)
        last = "checkpoints/step-00000004/state.safetensors.zst"
        a, b = read_zst(tmp_path / str(seed) / last), read_zst(folder / f"out/nft/seed-{seed}" / last)
        assert all(np.array_equal(a[k], b[k]) for k in a)


def test_again(folder):
    """Everything is there: nothing is trained, the report is made anew, also of another score."""
    before = (folder / "out/nft/seed-0/log.txt").read_text()
    done = compare(folder, "--score", "geneval", ranks=0)
    assert done.stdout.count("held-out geneval") == 1 and (folder / "out/nft/seed-0/log.txt").read_text() == before
    assert done.stderr.count("done already") == 4 and "more than the algorithm" not in done.stderr  # eval.every is not the same, and may be
    assert "no evaluation has eval/nope" in fails(*["compare", folder / "nft.yaml", "-d", folder / "out", "--score", "nope", "--quiet", *SETS])


def test_unfair(folder, tmp_path):
    (tmp_path / "small.yaml").write_text(f"extends: {folder}/nft.yaml\nlora: {{rank: 4}}\n")
    done = contraflow("compare", folder / "nft.yaml", tmp_path / "small.yaml", "-d", tmp_path / "out", *SETS, "--set", "train.max_steps=1")
    assert done.stderr.count("lora.rank is not the same in small: what is compared is more than the algorithm") == 1
    assert done.stderr.count("more than the algorithm") == 1


def test_refused(folder, tmp_path):
    assert "name configurations and a directory" in fails("compare", folder / "nft.yaml")
    assert "--seeds 0;1" in fails("compare", folder / "nft.yaml", "-d", tmp_path, "--seeds", "0;1")
    assert "--seeds 0.5: a seed is a whole number" in fails("compare", folder / "nft.yaml", "-d", tmp_path, "--seeds", "0.5")
    assert "two configurations are called nft" in fails("compare", folder / "nft.yaml", folder / "nft.yaml", "-d", tmp_path)
    assert not list(tmp_path.iterdir())
