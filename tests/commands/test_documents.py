"""README and docs name only what there is: commands with their options, configuration keys, files."""

import re
import subprocess

import pytest
from command import ROOT, contraflow

DOCUMENTS = [ROOT / "README.md", ROOT / "AGENTS.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith((".", "build"))} - {"runs"}
SPAN, FENCE = re.compile(r"`([^`\n]+)`"), re.compile(r"^(?:```.*?^```|(?:^    .*\n)+)", re.M | re.S)


def code(path):
    """Everything in backticks, and the lines of code blocks, continued ones as one."""
    text = path.read_text()
    blocks = FENCE.findall(text)
    spans = SPAN.findall(FENCE.sub("", text))
    return spans + [line.split(" # ")[0] for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def ids(path):
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def options():
    """{command: its options} of what `contraflow help` lists."""
    commands = re.findall(r"^  ([a-z-]+) ", contraflow("help").stdout.split("see also")[0], re.M)
    assert len(commands) > 10
    return {c: set(re.findall(r"^  (--[a-z0-9-]+)", contraflow(c, "--help").stdout, re.M)) | {"--help"} for c in commands}


OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z0-9-]*)")
# Where they stand alone: mpirun's and Slurm's, and those of the example programs.
OF_OTHERS = {"--bind-to", "--mca", "--requeue", *(o for p in (ROOT / "examples").rglob("*.py") for o in OPTION.findall(p.read_text()))}


def stray_options(line, options):
    """The commands and options in a line of code that no program here has."""
    called = re.findall(r"\bcontraflow ([a-z][a-z-]*)([^|;&]*)", line)
    first = line.split()[0] if line.split() else ""
    if not called and first in options:
        called = [(first, line)]
    for command, rest in called:
        if command not in options:
            yield f"contraflow {command}"
        else:
            yield from (f"contraflow {command} {o}" for o in OPTION.findall(rest) if o not in options[command])
    if called:
        return
    if first.startswith("tools/"):
        yield from (f"{first} {o}" for o in OPTION.findall(line) if o not in (ROOT / first).read_text())
    elif first.startswith("--"):
        yield from (o for o in OPTION.findall(line) if o not in OF_OTHERS.union(*options.values()))


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_commands(document, options):
    assert not [w for line in code(document) for w in stray_options(line, options)]


@pytest.fixture(scope="module")
def keys():
    """Every key, and every beginning of one: a section."""
    full = set(re.findall(r"^\| `([a-z0-9_.A-Z]+)`", contraflow("config", "reference").stdout, re.M))
    assert len(full) > 200
    return {".".join(k.split(".")[:n]) for k in full for n in range(1, k.count(".") + 2)}


FILES = {"c", "h", "cpp", "hpp", "cu", "py", "sh", "md", "json", "jsonl", "yaml", "txt", "png", "svg", "pt", "safetensors", "zst", "so"}
KEY = re.compile(r"(?<![\w/.*'-])[a-z0-9_]+(?:\.[a-zA-Z0-9_]+)+(?![\w/(*]|\.\w)")


def is_key(word, keys):
    """An entry of `rewards` has any name, and the keys of some reward."""
    parts = word.removeprefix("eval.").split(".") if word.startswith("eval.rewards") else word.split(".")
    if parts[0] != "rewards":
        return word in keys
    return len(parts) < 3 or any(k.startswith("rewards.") and k.split(".")[2:] == parts[2:] for k in keys)


@pytest.fixture(scope="module")
def imported():
    """Rows of docs/migrating.md's table: (a key of another program, ours)."""
    rows = re.findall(r"^\| `([^`]+)` \| (?:both|DiffusionNFT|flow_grpo) \| ([^|]*) \|", contraflow("config", "migrating").stdout, re.M)
    assert len(rows) > 60
    return [(theirs, re.findall(r"`([^`]+)`", ours)) for theirs, ours in rows]


def test_imported_keys(imported, keys):
    assert not [k for _, ours in imported for k in ours if k != "rewards.NAME.weight" and k not in keys]


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_keys(document, keys, imported):
    sections = {k.split(".")[0] for k in keys} | {"rewards"}
    theirs = {k for k, _ in imported} if document.name == "migrating.md" else set()
    words = [w for line in code(document) for w in KEY.findall(line) if w not in theirs]
    assert not [w for w in words if w.split(".")[0] in sections and w.split(".")[-1] not in FILES and not is_key(w, keys)]


def is_there(path):
    """NAME, N and * stand for anything."""
    path = re.sub(r"[A-Z][A-Z_]+\b|\bN\b", "*", path).rstrip("/.")
    return any(ROOT.glob(path)) or any(ROOT.glob(path + ".*"))


# What docs/extending.md and docs/sd35.md have their readers make.
MADE = ("models/dit", "models/imagereward.", "models/mask2former.", "models/clip-vit-large-patch14", "models/stable-diffusion-3.5-medium", "models/pickscore",
        "models/hpsv2", "models/HPS_v2.1", "models/aesthetic.", "models/name", "data/pickapic-", "data/geneval-", "data/geneval/", "data/ocr/", "data/pickscore/")  # fmt: skip


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_files(document):
    """Relative links from where they stand; paths in code, from the root, of whatever git has there."""
    links = [l.split("#")[0] for l in re.findall(r"\]\(([^)\s]+)\)", document.read_text()) if "://" not in l]
    assert not [l for l in links if l and not (document.parent / l).exists()]
    paths = [w for line in code(document) for w in re.findall(r"(?<![\w/.~$*-])([a-z]+/[\w./*-]*)", line) if w.split("/")[0] in FOLDERS and not w.startswith(MADE)]
    assert not [p for p in paths if not is_there(p)]


def test_configurations():
    """docs/configs.md says of every configuration how far it has been tried, and of no other."""
    page = (ROOT / "docs/configs.md").read_text()
    told = re.findall(r"^\| `([\w./-]+(?:\.yaml|/))` \| (\w+[\w ]*?) \|", page, re.M)
    names = [p.relative_to(ROOT / "configs") for p in (ROOT / "configs").rglob("*.yaml")]
    folders = {name for name, _ in told if name.endswith("/")}  # one row for all in them
    there = {f"{p.parent}/" if f"{p.parent}/" in folders else str(p) for p in names}
    assert {name for name, _ in told} == there and len(told) == len(there)
    levels = set(re.findall(r"^\| \*\*([\w ]+)\*\* \|", page, re.M))
    assert {level for _, level in told} == levels
    assert all((level == "part") == name.startswith("common/") for name, level in told)


def test_weights_are_ignored():
    """Where configs/ look for weights, judges and prompts, git sees nothing; what git has, it goes on seeing."""
    paths = set()
    for config in (ROOT / "configs").rglob("*.yaml"):
        paths |= set(re.findall(r"(?<![\w/])((?:models|data)/[\w./-]+)", config.read_text()))
    mine = sorted(p for p in paths if not p.startswith("data/shapes") and not re.search(r"\.(py|sh)$", p))
    assert len(mine) > 10
    files = [p if "." in p.split("/")[-1] and p.split("/")[-1].rsplit(".", 1)[1] in FILES else f"{p}/model.safetensors" for p in mine]
    ignored = subprocess.run(["git", "check-ignore", *files, "models/clip/pytorch_model.bin"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert set(ignored) == {*files, "models/clip/pytorch_model.bin"}
    assert not subprocess.run(["git", "ls-files", "--cached", "--ignored", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
