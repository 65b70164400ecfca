"""The order of the folders: each includes only what stands above it. Also: file sizes, names, lists, JSON, and what a folder must
not know of. Plain Python."""

import collections
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Each folder, and what it may include besides itself.
MAY = {
    "base": set(),
    "aten": {"base"},
    "dist": {"base", "aten"},
    "models": {"base", "aten"},
    "sampler": {"base", "aten", "models"},
    "algorithms": {"base", "aten", "models", "sampler"},
    "data": {"base"},
    "rewards": {"base", "aten", "models", "data"},
    "trainer": {"base", "aten", "dist", "models", "sampler", "algorithms", "data", "rewards"},
    "commands": {"base", "aten", "dist", "models", "sampler", "algorithms", "data", "rewards", "trainer"},
    "library": {"base", "aten", "dist", "models", "sampler", "algorithms", "data", "rewards", "trainer"},
}
FAMILIES = re.findall(r"&family_(\w+)", (ROOT / "models/families.c").read_text())
ALGORITHMS = re.findall(r"^\tX\((\w+)\)", (ROOT / "algorithms/algorithm.c").read_text(), re.M)
# What a folder may not say outside comments: who trains knows no algorithm and no model family, and who learns no trainer.
UNSAID = {
    "trainer": rf"(?<![A-Za-z0-9])({'|'.join(ALGORITHMS + FAMILIES)})(?![A-Za-z0-9])",
    "algorithms": r"\bstruct trainer\b",
}
# A model family's folder is seen by itself, by the list of families, and by who makes models of the shapes world.
SHARED_MODELS = {"layers", "lora", "text", "vae"}
MAY_SEE_FAMILY = {("models/families.c", "*"), ("models/tiny/", "sd3"), ("trainer/pretrain/", "tiny")}
# Names of transformers' modules, which their families' folders alone know, and of Stable Diffusion 3's own.
BLOCKS = r"\b(transformer_blocks|joint_blocks|double_blocks|single_blocks)"
ITS_BLOCKS = ("models/sd3/", r"\b(mmdit\w*|MMDIT\w*)")
MOST_FILES = 25  # of a folder, sources and headers
LONGEST = 600


def listed(path, builds):
    """A unit test by its name in the table of tests, an example in the test that builds it in, another source by its path from a
    meson.build above it."""
    unit = re.fullmatch(r"tests/unit/test_(\w+)\.c", path)
    if unit:
        return f"'{unit[1]}':" in builds["tests/meson.build"]
    if path in builds["extended"]:
        return True
    return any(f"'{path.removeprefix(p.removesuffix('meson.build'))}'" in text for p, text in builds.items())


def bare(text):
    """C without its comments; strings stay."""
    return re.sub(r'("(?:\\.|[^"\\\n])*")|/\*.*?\*/|//[^\n]*', lambda m: m[1] or " ", text, flags=re.S)


def bare_numbers(text):
    """Doubles that get into JSON other than by json_number, and so make a file impossible when they are NaN."""
    packed = re.findall(r'json_v?pack(?:_ex)?\s*\(\s*(?:[^",]+,\s*)*((?:"[^"]*"\s*)+)', text)
    return [p.strip() for p in packed if "f" in p] + re.findall(r"\bjson_real(?:_set)?\s*\(", text)


# Ways to write a file that know less than base/io.h of what can go wrong.
WRITES = re.compile(r'\bfopen\s*\([^;]*?"[wa][^"]*"\s*\)|\b(?:mkstemp|mkostemp|creat|renameat2?)\s*\(|(?<![\w:.>])rename\s*\(')


def sees_families(path, text):
    """Includes of a family's folder that this file may not have."""
    for family in set(re.findall(r'^#include "models/(\w+)/', text, re.M)) - SHARED_MODELS:
        may = any(path.startswith(place) and which in ("*", family) for place, which in MAY_SEE_FAMILY)
        if not may and not path.startswith(f"models/{family}/"):
            yield f"{path}: must not see models/{family}/: models/family.h and transformer.h are what a family shows"


def main():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    sources = [p for p in tracked if re.search(r"\.(c|h|cpp|hpp|cu)$", p)]
    builds = {p: (ROOT / p).read_text() for p in tracked if p.endswith("meson.build")}
    builds["extended"] = "".join(p.read_text() for p in (ROOT / "tests/commands").glob("test_*.py"))
    bad, names = [] if ALGORITHMS else ["algorithms/algorithm.c: no algorithm found"], {}
    for path in sources:
        folder, name = path.split("/")[0], path.split("/")[-1]
        text = (ROOT / path).read_text()
        if name in names:
            bad.append(f"{path}: {names[name]} has the same file name")
        names[name] = path
        if text.count("\n") > LONGEST:
            bad.append(f"{path}: {text.count(chr(10))} lines; split it")
        if path.endswith(("cpp", "hpp")) and folder != "aten":
            bad.append(f"{path}: C++ lives in aten/ alone")
        if path.endswith((".c", ".cpp")) and not listed(path, builds):
            bad.append(f"{path}: not in any meson.build")
        if folder in UNSAID:
            said = re.search(UNSAID[folder], bare(text), re.I)
            bad += [f"{path}: {folder} must not say '{said[0]}'"] if said else []
        if folder in MAY:
            bad += sees_families(path, text)
            said = re.search(ITS_BLOCKS[1], bare(text))
            bad += [f"{path}: only {ITS_BLOCKS[0]} knows '{said[0]}'"] if said and not path.startswith(ITS_BLOCKS[0]) else []
            said = re.search(BLOCKS, bare(text))
            own = any(path.startswith(f"models/{family}/") for family in FAMILIES)
            bad += [f"{path}: only a family's folder knows '{said[0]}'"] if said and not own else []
        found = WRITES.search(bare(text)) if folder in MAY and path != "base/io.c" else None
        bad += [f"{path}: {found[0]} writes a file: base/file.h, base/io.h"] if found else []
        if folder in MAY and path != "base/json.c":
            bad += [f"{path}: {found} refuses NaN: json_number" for found in bare_numbers(text)]
        if folder in MAY:
            for included in re.findall(r'^#include "([^"/]+)/[^"]+"', text, re.M):
                if included != folder and included not in MAY[folder]:
                    bad.append(f"{path}: {folder} must not include {included}")
            for included in re.findall(r'^#include "([^"/]+)"', text, re.M):
                bad.append(f"{path}: write the folder of {included}")
    rooms = collections.Counter(p.rsplit("/", 1)[0] for p in sources if p.split("/")[0] in MAY)
    bad += [f"{room}/: {n} files; a room has {MOST_FILES} at most" for room, n in rooms.items() if n > MOST_FILES]
    for line in bad:
        print(line)
    print(f"{len(sources)} files looked at, {len(bad)} complaints")
    return bool(bad) or not sources


sys.exit(main())
