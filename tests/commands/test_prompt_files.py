"""Prompt files: those of tools/make_prompts.py, those of the shapes world, and what is held out from training."""

import collections
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from command import ROOT, TINY, contraflow, fails
from safetensors.numpy import load_file

TOOL = [sys.executable, ROOT / "tools/make_prompts.py"]
EVEN = "single_object=1,two_object=1,counting=1,colors=1,position=1,color_attr=1"


def make(*args):
    done = subprocess.run([*map(str, TOOL), *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def scene(row):
    """What an image must show, whatever the order of the words: from the metadata alone."""
    objects = [(c["class"], c["count"], c.get("color")) for c in row["include"]]
    for at, c in enumerate(row["include"]):
        if "position" in c:
            where, other = c["position"]
            turned = {"right of": "left of", "below": "above"}.get(where)
            return (turned, objects[other], objects[at]) if turned else (where, objects[at], objects[other])
    return row["tag"], tuple(sorted(objects, key=str))


def mirrored(row):
    a, _, b = row["prompt"].removeprefix("a photo of ").partition(" and ")
    return f"a photo of {b} and {a}"


def test_geneval(tmp_path):
    (tmp_path / "test.jsonl").write_text(make("geneval", 300, "--distinct", "--seed", 1, "--proportions", EVEN))
    test = [json.loads(line) for line in open(tmp_path / "test.jsonl")]
    rows = [json.loads(line) for line in make("geneval", 5000, "--exclude", tmp_path / "test.jsonl").splitlines()]
    assert len({r["prompt"] for r in test}) == len(test) == 300 and len({r["tag"] for r in test}) == 6
    assert len(rows) == 5000 and not {scene(r) for r in test} & {scene(r) for r in rows}
    assert {r["prompt"] for r in rows} & {mirrored(r) for r in rows}  # both orders of what is not excluded
    tags = collections.Counter(r["tag"] for r in rows)
    for tag, share in dict(position=7, counting=5, color_attr=3, colors=1, two_object=1).items():
        assert abs(tags[tag] / 5000 - share / 17) < 0.04 + 0.02 * (tag == "position"), tags  # the excluded are missed most where few are
    for r in rows + test:
        words = {2: "two", 3: "three", 4: "four"}
        for clause in r["include"]:
            name = clause["class"]
            assert name in r["prompt"] or r["tag"] == "counting"
            assert clause.get("color", "") in r["prompt"]
            if r["tag"] == "counting":
                assert f" {words[clause['count']]} " in r["prompt"] and r["exclude"] == [{"class": name, "count": clause["count"] + 1}]
            if "position" in clause:
                where, other = clause["position"]
                assert f"{name} {where} " in r["prompt"] and r["prompt"].endswith(r["include"][other]["class"])
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", r["prompt"])
    assert make("geneval", 50) == make("geneval", 50) != make("geneval", 50, "--seed", 2)


def test_exclude_is_by_scene(tmp_path):
    """The two commands of configs/sd35m-geneval.yaml: half of the test's relations had their mirror image in the training file."""
    even = ["--distinct", "--seed", 1, "--proportions", EVEN]
    (tmp_path / "test.jsonl").write_text(make("geneval", 553, *even))
    (tmp_path / "test.txt").write_text("".join(json.loads(line)["prompt"] + "\n" for line in open(tmp_path / "test.jsonl")))
    train = make("geneval", 20000, "--exclude", tmp_path / "test.jsonl")
    assert not {scene(json.loads(line)) for line in open(tmp_path / "test.jsonl")} & {scene(json.loads(line)) for line in train.splitlines()}
    assert make("geneval", 20000, "--exclude", tmp_path / "test.txt") == train


def test_shapes_files(tmp_path):
    """The shapes world's prompt files are what `contraflow shapes` writes."""
    contraflow("shapes", "--prompts", tmp_path)
    for name in ("train", "validation", "test"):
        assert (tmp_path / f"{name}.jsonl").read_bytes() == (ROOT / f"data/shapes/{name}.jsonl").read_bytes()


def test_held_out_prompts_that_are_trained(tmp_path):
    """A warning at the start of a run, once, that names one of them; none with the shapes world's own files."""
    lines = (ROOT / "data/shapes/train.jsonl").read_text().splitlines()[:5]
    (tmp_path / "held.jsonl").write_text("\n".join([*lines[:3], *lines[:2], *(ROOT / "data/shapes/test.jsonl").read_text().splitlines()[:2]]))
    args = ["train", "configs/shapes.yaml", *TINY, "--set", "train.max_steps=1", "--set", "rollout.steps=2", "--set", "eval.sampler.steps=2",
            "--set", "rollout.solver=euler", "--set", "eval.sampler.solver=euler"]  # fmt: skip
    for held, said in ((tmp_path / "held.jsonl", 1), ("data/shapes/validation.jsonl", 0)):
        done = contraflow(*args, "--set", f"prompts.test={held}", "--run", tmp_path / str(said), ranks=2)
        warnings = [line for line in done.stderr.splitlines() if "are trained on" in line]
        assert len(warnings) == said, done.stderr
        if said:
            assert warnings[0].startswith(f"warning: {held}: 3 of its prompts are trained on (in data/shapes/train.jsonl, too: \"a photo of a ")


def test_pretrain(tmp_path):
    """A base model in two parts, evaluated on the way; it samples."""
    small = [x for v in ("steps=9", "end=2", "batch=4") for x in ("--set", f"train.{v}")]
    small += [x for v in ("every=1", "images_per_prompt=1", "sampler.steps=2", "sampler.solver=euler") for x in ("--set", f"eval.{v}")]
    first, second = tmp_path / "first", tmp_path / "second"
    for config, out, start in ("shapes-pretrain", first, ""), ("shapes-pretrain-base", second, first):
        done = contraflow("pretrain", f"configs/{config}.yaml", *small, "--set", f"run.out={out}", "--set", f"model.start={start}", ranks=2)
        assert [line.split()[1] for line in done.stderr.splitlines() if line.startswith("step ")] == ["1", "2"] and "are trained on" not in done.stderr
    weights = [load_file(folder / "transformer/diffusion_pytorch_model.safetensors") for folder in (first, second)]
    far = max(np.abs(weights[0][k] - weights[1][k]).max() for k in weights[0])
    assert 0 < far < 1e-3  # two steps of warmup away from where it started; random weights would be others
    assert (first / "vae/diffusion_pytorch_model.safetensors").read_bytes() == (second / "vae/diffusion_pytorch_model.safetensors").read_bytes()
    contraflow("sample", "--model", second, "--prompt", "a photo of a ring", "--steps", 2, "--solver", "euler", "-o", tmp_path / "x.png")
    shutil.copytree(first, tmp_path / "old")
    words = tmp_path / "old/text_encoder/vocab.json"
    words.write_text(words.read_text().replace("ring", "star"))
    assert "text_encoder: its words are not this world's" in fails("pretrain", "configs/shapes-pretrain-base.yaml", "--set", f"run.out={tmp_path}/no", "--set", f"model.start={tmp_path}/old")


def test_ocr():
    rows = make("ocr", 2000, "--distinct").splitlines()
    assert len(set(rows)) == len(rows) == 2000
    assert all(r.count('"') == 2 and re.search(r'"[A-Za-z0-9 ]+"', r) and r[0].isupper() and "  " not in r for r in rows)


@pytest.mark.parametrize("args, message", [
    (["geneval", 0], "at least 1"), (["geneval", 5, "--proportions", "cats=1"], "the tags are"),
    (["geneval", 2000, "--distinct", "--proportions", "counting=1"], "there are only 240"),
])  # fmt: skip
def test_mistakes(args, message):
    done = subprocess.run([*map(str, TOOL), *map(str, args)], capture_output=True, text=True)
    assert done.returncode != 0 and message in done.stderr
