"""`contraflow score` over folders: whose prompt is whose, what the summary says, groups in more images than are read at a time."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from command import FRAMES, ROOT, build, contraflow, fails
from PIL import Image

LINES = (ROOT / "data/shapes/validation.jsonl").read_text().splitlines()[:48]
# How many images it was given at a time.
CHILD = FRAMES + r"""
while True:
    items = json.loads(frame())["items"]
    for _ in items: frame()
    assert len({i["prompt"] for i in items}) == 1
    answer([len(items)] * len(items))
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """GenEval's folders: of each prompt its own image and that of the next prompt, and a grid that is nobody's."""
    top = tmp_path_factory.mktemp("score")
    contraflow("shapes", "--render", "data/shapes/validation.jsonl", "-o", top / "true")
    true = sorted((top / "true").glob("*.png"))[: len(LINES)]
    for i, line in enumerate(LINES):
        folder = top / "out" / f"{i:05d}"
        (folder / "samples").mkdir(parents=True)
        (folder / "metadata.jsonl").write_text(line)
        (folder / "samples/0000.png").write_bytes(true[i].read_bytes())
        (folder / "samples/0001.png").write_bytes(true[(i + 1) % len(true)].read_bytes())
        Image.new("RGB", (48, 24)).save(folder / "grid.png")
    return top / "out"


def test_geneval_folders(out, tmp_path):
    """96 images: the same scores as one by one, and GenEval's summary of them."""
    got = json.loads(contraflow("score", out).stdout)
    images, summary = got["images"], got["summary"]
    files = sorted(out.glob("*/samples/*.png"))
    assert [x["image"] for x in images] == [str(f) for f in files] and len(files) == 96
    (tmp_path / "p.jsonl").write_text("\n".join(line for line in LINES for _ in range(2)))
    assert json.loads(contraflow("score", "--prompts", tmp_path / "p.jsonl", *files).stdout)["images"] == images
    strict = np.array([x["geneval"]["strict"] for x in images])
    assert (strict[::2] == 1).all() and strict[1::2].mean() < 0.5
    tags, shares = [json.loads(line)["tag"] for line in LINES for _ in range(2)], {}
    for tag in dict.fromkeys(tags):
        shares[tag] = np.mean([s for s, t in zip(strict, tags, strict=True) if t == tag])
        assert summary["tags"][tag]["strict"] == pytest.approx(shares[tag]) and summary["tags"][tag]["images"] == tags.count(tag)
    assert summary["strict"] == pytest.approx(np.mean(list(shares.values()))) and (summary["images"], summary["unavailable"]) == (96, 0)
    assert summary["reward"] == pytest.approx(np.mean([x["reward"] for x in images]))
    mean = summary["rewards"]["geneval"]
    assert mean["score"] == pytest.approx(np.mean([x["geneval"]["score"] for x in images])) and mean["images"] == 96
    assert mean["strict"] == pytest.approx(strict.mean())


def test_a_file_and_a_table(out, tmp_path):
    done = contraflow("score", out / "00000", "--reward", "jpeg_incompressibility", "--quiet", "-o", tmp_path / "s.json")
    got = json.loads((tmp_path / "s.json").read_text())
    assert len(got["images"]) == 2 and not done.stderr
    assert got["summary"]["reward"] == pytest.approx(np.mean([x["reward"] for x in got["images"]]), rel=1e-6)
    assert f"{got['summary']['reward']:.3f}" in done.stdout


def test_reasons(out, tmp_path):
    """Why an image has not the full score, in the JSON and before the table; of a score that nothing has, null."""
    images = json.loads(contraflow("score", out).stdout)["images"]
    assert all("why" not in x["geneval"] for x in images[::2])  # their own images are right
    wrong = [x for x in images if not x["geneval"]["strict"]]
    assert len(wrong) > 20 and sum("found" in x["geneval"]["why"] for x in wrong) > len(wrong) / 2
    wanted = json.loads(LINES[0])["include"][0]
    assert f"wanted {wanted['count']} {wanted['class']}, found 0" in {x["geneval"]["why"] for x in wrong}
    table = contraflow("score", out, "-o", tmp_path / "s.json").stdout
    assert [l for l in table.splitlines() if ": geneval: " in l] == [f"{x['image']}: geneval: {x['geneval']['why']}" for x in wrong]
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    (tmp_path / "x.txt").write_text('a sign "x"')
    done = contraflow("score", "--reward", "exec", "--set", "rewards.exec.command=[false]", "--set", "rewards.exec.retries=0", tmp_path / "x.png", check=False)
    got = json.loads(done.stdout)
    assert done.returncode == 1 and got["images"][0]["reward"] is None and "ended" in got["images"][0]["exec"]["why"]
    assert got["summary"]["reward"] is got["summary"]["soft"] is got["summary"]["strict"] is got["summary"]["rewards"]["exec"]["score"] is None


def test_memory_is_bounded_by_pixels(tmp_path):
    """Twelve images of 12 Mpixel have 432 MB; read 64 at a time, they and their copies took 860."""
    for i in range(12):
        Image.new("L", (4000, 3000), 20 * i).save(tmp_path / f"{i}.png", compress_level=1)
        (tmp_path / f"{i}.txt").write_text("x")
    Image.new("L", (8, 8)).save(tmp_path / "small.png")
    (tmp_path / "small.txt").write_text("x")
    peak = []
    for what in tmp_path / "small.png", tmp_path:
        args = [build() / "contraflow", "score", "--reward", "exec", "--set", "rewards.exec.command=[false]", "--set", "rewards.exec.retries=0", "--quiet"]
        env = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"} | {"CUDA_VISIBLE_DEVICES": ""}
        child = subprocess.Popen([*args, what], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
        peak.append(os.wait4(child.pid, 0)[2].ru_maxrss / 1024)
    assert peak[1] - peak[0] < 250, peak


def test_whole_groups(tmp_path):
    """Groups that lie among each other, one larger than a piece."""
    own = ["a"] * 70 + ["b"] * 30 + ["c"]
    own = [own[i] for i in np.random.default_rng(0).permutation(len(own))]
    (tmp_path / "in").mkdir()
    for i, prompt in enumerate(own):
        Image.new("RGB", (3, 2)).save(tmp_path / f"in/{i}.png")
        (tmp_path / f"in/{i}.txt").write_text(prompt + "\n")
    (tmp_path / "c.yaml").write_text(json.dumps(dict(rewards={"exec": dict(command=[sys.executable, "-c", CHILD], group=True)})))
    got = json.loads(contraflow("score", "--config", tmp_path / "c.yaml", tmp_path / "in").stdout)["images"]
    assert [x["prompt"] for x in got] == own and [x["image"] for x in got] == [str(tmp_path / f"in/{i}.png") for i in range(len(own))]
    assert [x["reward"] for x in got] == [own.count(p) for p in own]


def test_names_that_are_no_utf8(tmp_path):
    """Every image is in the report, and counts, whatever its file and its prompt are called."""
    (tmp_path / "in").mkdir()
    for name, prompt in [(b"a.png", b"a cat"), (b"\xff.png", b"a dog"), (b"z.png", b"caf\xe9")]:
        Image.new("RGB", (4, 4)).save(tmp_path / "in/new.png")
        os.rename(tmp_path / "in/new.png", os.fsencode(tmp_path / "in") + b"/" + name)
        with open(os.fsencode(tmp_path / "in") + b"/" + name[:-3] + b"txt", "wb") as f:
            f.write(prompt)
    got = json.loads(contraflow("score", "--reward", "jpeg_compressibility", tmp_path / "in").stdout)
    assert sorted(((x["image"] or "")[-5:], x["prompt"]) for x in got["images"] if x["prompt"]) == [("", "a dog"), ("a.png", "a cat")]
    assert [x["prompt"] for x in got["images"] if (x["image"] or "").endswith("z.png")] == [None]
    assert len(got["images"]) == got["summary"]["images"] == 3 and all(x["reward"] < 0 for x in got["images"])


def test_prompts_for_judges_are_utf8(tmp_path):
    """JSON cannot hold others; before, they went out without a prompt.  What follows "--" is a file."""
    Image.new("RGB", (4, 4)).save(tmp_path / "-a.png")
    (tmp_path / "-a.txt").write_bytes(b"caf\xe9")
    assert "byte 4 of the prompt is not UTF-8" in fails("score", "--reward", "exec", "--set", "rewards.exec.command=[false]", "--", tmp_path / "-a.png", errors="replace")


def test_bad_input(out, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    assert "1.png: no prompt beside it" in fails("score", tmp_path)
    (tmp_path / "1.txt").write_text("a cat")
    assert "prompt 'a cat'" in fails("score", tmp_path)  # GenEval's rules need its metadata
    (tmp_path / "2.txt").write_text("a cat")
    (tmp_path / "2.png").write_text("text")
    assert "2.png: neither PNG nor JPEG" in fails("score", "--reward", "jpeg_compressibility", tmp_path, "-o", tmp_path / "s.json")
    whole = (out / "00000/samples/0000.png").read_bytes()
    (tmp_path / "2.png").write_bytes(whole[: len(whole) // 2])
    assert "2.png: not a valid PNG" in fails("score", "--reward", "jpeg_compressibility", tmp_path, "-o", tmp_path / "s.json")
    assert not (tmp_path / "s.json").exists()
    assert "geneva" in fails("score", "--reward", "geneva", out) and "only keys of `rewards`" in fails("score", "--set", "run.seed=1", out)
    assert "--threads -1" in fails("score", "--threads", "-1", out)
    (tmp_path / "2.png").write_bytes(whole)
    with open("/dev/full", "w") as full:
        done = subprocess.run([build() / "contraflow", "score", "--reward", "jpeg_compressibility", tmp_path], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and done.stderr == "contraflow: cannot write all of standard output: is the disk full?\n"
    assert "no such file or folder" in fails("score", "no/such/folder") and "usage" in fails("score")


def test_nothing_scored(tmp_path):
    """What was not measured is null, never 0, in the report of images none of which has a score."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a cat")
    silent = FRAMES + "\nwhile True:\n    n = len(json.loads(frame())['items'])\n    for _ in range(n): frame()\n    answer([None] * n)\n"
    (tmp_path / "c.yaml").write_text(json.dumps(dict(rewards={"exec": dict(command=[sys.executable, "-c", silent])})))
    assert "1 of 1 images could not be scored" in fails("score", "--config", tmp_path / "c.yaml", "--quiet", "-o", tmp_path / "s.json", tmp_path)
    s = json.loads((tmp_path / "s.json").read_text())["summary"]
    assert [s[k] for k in ("reward", "soft", "strict", "geneval", "soft_95", "reward_95")] == [None] * 6 and s["tags"]["all"]["strict"] is None
    assert (s["images"], s["unavailable"], s["rewards"]["exec"]["score"], s["rewards"]["exec"]["images"]) == (0, 1, None, 0)
