"""tools/make_prompts.py: the tags, their proportions and metadata."""

import collections
import json
import re
import subprocess
import sys

import pytest
from command import ROOT

TOOL = [sys.executable, ROOT / "tools/make_prompts.py"]
EVEN = "single_object=1,two_object=1,counting=1,colors=1,position=1,color_attr=1"


def make(*args):
    done = subprocess.run([*map(str, TOOL), *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_geneval(tmp_path):
    (tmp_path / "test.jsonl").write_text(make("geneval", 300, "--distinct", "--seed", 1, "--proportions", EVEN))
    test = [json.loads(line) for line in open(tmp_path / "test.jsonl")]
    rows = [json.loads(line) for line in make("geneval", 5000, "--exclude", tmp_path / "test.jsonl").splitlines()]
    assert len({r["prompt"] for r in test}) == len(test) == 300 and len({r["tag"] for r in test}) == 6
    assert not {r["prompt"] for r in test} & {r["prompt"] for r in rows} and len(rows) == 5000
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
