"""README and docs name only what there is: commands with their options, configuration keys, files."""

import re

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


OF_OTHERS = {"--bind-to", "--mca", "--requeue"}  # mpirun's and Slurm's, where they stand alone
OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z0-9-]*)")


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


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_keys(document, keys):
    sections = {k.split(".")[0] for k in keys} | {"rewards"}
    words = [w for line in code(document) for w in KEY.findall(line)]
    assert not [w for w in words if w.split(".")[0] in sections and w.split(".")[-1] not in FILES and not is_key(w, keys)]


def is_there(path):
    """NAME, N and * stand for anything."""
    path = re.sub(r"[A-Z][A-Z_]+\b|\bN\b", "*", path).rstrip("/.")
    return any(ROOT.glob(path)) or any(ROOT.glob(path + ".*"))


# What docs/extending.md has its reader make.
MADE = "models/dit", "models/imagereward.", "models/mask2former.", "models/clip-vit-large-patch14"


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_files(document):
    """Relative links from where they stand; paths in code, from the root, of whatever git has there."""
    links = [l.split("#")[0] for l in re.findall(r"\]\(([^)\s]+)\)", document.read_text()) if "://" not in l]
    assert not [l for l in links if l and not (document.parent / l).exists()]
    paths = [w for line in code(document) for w in re.findall(r"(?<![\w/.~$*-])([a-z]+/[\w./*-]*)", line) if w.split("/")[0] in FOLDERS and not w.startswith(MADE)]
    assert not [p for p in paths if not is_there(p)]
