"""The commands of README and docs, run as they stand but for the length of the runs."""

import json
import os
import re
import subprocess

import pytest
import test_import
from command import ROOT, build, read_steps
from PIL import Image

BLOCK = re.compile(r"^```(sh|python|yaml)\n(.*?)^```", re.M | re.S)
# What makes a run of a minute one of a second; the keys are written where a command begins a run of its own.
SHORT = ["prompts.groups=2", "prompts.group_size=4", "eval.images_per_prompt=1", "prompts.test=few.jsonl", "rollout.steps=2", "eval.sampler.steps=2", "log.grid_every=0", "run.threads=1", "optimizer.decay=constant"]
# In a command's comment: nobody has these here.
NEEDS = re.compile(r"# .*\bneeds? (?:\d+ )?(a GPU|GPUs|weights|a network)\b")
# What another test runs, or what cannot be run in a test, by how the line begins.
ELSEWHERE = {
    "tools/quickstart.sh": "tools/quickstart.sh", "tools/test.sh": "tools/test.sh", "build/contraflow serve-reward": "tests/commands/test_serve.py",
    "export JUDGE_TOKEN": "tests/commands/test_serve.py", ".venv/bin/python tools/export_imagereward.py": "tests/golden/test_exports.py",
    ".venv/bin/python tools/export_mask2former.py": "tests/golden/test_exports.py", "CC=clang CXX=clang++ meson setup build-fuzz": "tests/meson.build", "ninja -C build-fuzz": "tests/meson.build",
    "build/contraflow probe text --model MODEL": "tests/golden/test_pipeline.py", "build/contraflow pretrain configs/shapes-pretrain.yaml": "tests/commands/test_ends.py",
}  # fmt: skip
# Pages whose commands want another program beside them, or hours.
PAGES_ELSEWHERE = {"docs/live.md": "tests/commands/test_live.py"}


def blocks(name):
    return BLOCK.findall((ROOT / name).read_text())


def commands(text):
    """Lines of a block of sh, continued ones as one."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith(("#", "hf ", "cp ")) and not NEEDS.search(line) and not any(line.startswith(e) for e in ELSEWHERE):
            yield line


def shortened(line):
    """The same command over fewer steps, images and prompts."""
    line = re.sub(r"(train\.max_steps)=\d+", r"\1=2", line)
    line = re.sub(r"--seeds [\d,]+", "--seeds 0", line)
    line = re.sub(r"--thresholds [\d.,]+", "--thresholds 0.1", line)
    line = line.replace("data/shapes/test.jsonl", "few.jsonl").replace("mpirun ", "mpirun --oversubscribe ")
    line = line.replace("step-00000050", "step-00000002")
    if re.search(r"contraflow (train|compare|check) ", line) and not line.split("#")[0].rstrip().endswith("--resume"):
        found = re.search(r"\s#\s", line)
        command, comment = (line[: found.start()], line[found.start() :]) if found else (line, "")
        short = [s for s in SHORT if "comparison" not in line or not s.startswith("rollout.")]  # windows of three steps want ten
        line = command + "".join(f" --set {s}" for s in short) + ("" if "max_steps" in command else " --set train.max_steps=2") + comment
    return line


@pytest.fixture
def place(tmp_path):
    """A folder that looks like the clone, with runs of its own."""
    for name in ("configs", "examples", "tools", "sampler", ".venv"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/shapes").symlink_to(ROOT / "data/shapes")
    (tmp_path / "build").symlink_to(build())
    (tmp_path / "runs").mkdir()
    lines = (ROOT / "data/shapes/test.jsonl").read_text().splitlines()
    (tmp_path / "few.jsonl").write_text("\n".join(lines[::12]) + "\n")
    return tmp_path


def run(line, place):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_mpi_yield_when_idle": "1", "CUDA_VISIBLE_DEVICES": ""}
    env.pop("LD_LIBRARY_PATH", None)
    done = subprocess.run(["bash", "-euc", shortened(line)], cwd=place, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{line}\n{done.stderr[-2000:]}"
    return done


def test_tutorial(place):
    """From the first line to the last, with its files."""
    made = set()
    for kind, text in blocks("docs/tutorial.md"):
        if kind != "sh":
            name = re.match(r"# (runs/[\w.]+)\n", text)[1]
            (place / name).write_text(text)
            made.add(name)
            continue
        for line in commands(text):
            done = run(line, place)
            if " score " in line:
                assert ('"red"' if "red" in line else '"warmth"') in done.stdout
    assert len(made) == 5
    for path in ("first/report.html", "pairs.png", "first.json", "first.safetensors", "both.html", "red/result.json", "compared/compare.svg"):
        assert (place / "runs" / path).is_file(), path
    assert "reward/red" in read_steps(place / "runs/red")[-1]


def images(place):
    """What docs/using.md takes for granted."""
    (place / "folder").mkdir()
    for path, prompt in ((place / "image.png", None), (place / "folder/sign.png", 'a sign that says "HELLO"')):
        Image.new("RGB", (64, 48), (200, 30, 30)).save(path)
        if prompt:
            path.with_suffix(".txt").write_text(prompt + "\n")
    (place / "prompts.jsonl").write_text((place / "few.jsonl").read_text().splitlines()[0] + "\n")
    (place / "theirs.json").write_text(json.dumps(test_import.nft({"ocr": 1.0})))


@pytest.mark.parametrize("name", ["README.md", "docs/using.md", "docs/migrating.md", "docs/search.md", "docs/extending.md", "docs/sd35.md", "docs/comparison.md"])
def test_commands(name, place):
    """Line by line, as a reader would."""
    images(place)
    assert [run(line, place) for kind, text in blocks(name) if kind == "sh" for line in commands(text)]


def test_all_are_run():
    """A page with commands is one of those above; what is left to others is in their files."""
    mine = {"README.md", "docs/tutorial.md", *test_commands.pytestmark[0].args[1], *PAGES_ELSEWHERE}
    pages = ["README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
    assert {p for p in pages if any(kind == "sh" for kind, _ in blocks(p))} <= mine
    assert all((ROOT / where).is_file() and (ROOT / page).is_file() for page, where in PAGES_ELSEWHERE.items())
    for begin, where in ELSEWHERE.items():
        assert any(line.startswith(begin) for p in pages for kind, text in blocks(p) if kind == "sh" for line in text.splitlines()), begin
        assert (ROOT / where).is_file(), where
