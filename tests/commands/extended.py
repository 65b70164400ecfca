"""The program with additional sources: what docs/extending.md asks of somebody who adds an algorithm (or a solver, a family of models),
without a rebuild. The new sources and a changed copy of a registry are compiled as the registry is, and linked in front of the
libraries as build.ninja links contraflow: the linker then has no use for the registry in there."""

import json
import pathlib
import shlex
import subprocess

from command import ROOT, build


def run(command, where):
    done = subprocess.run(command, cwd=where, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def compile_as(like, source, out):
    """`source` by the command that compiles `like`, a source of the program by its path from the root."""
    entries = json.loads((build() / "compile_commands.json").read_text())
    entry = next(e for e in entries if (pathlib.Path(e["directory"]) / e["file"]).resolve() == ROOT / like)
    words = shlex.split(entry["command"])
    for option in "-o", "-c", "-MF", "-MQ":
        words[words.index(option) + 1] = {"-o": str(out), "-c": str(source)}.get(option, f"{out}.d")
    run(words, entry["directory"])
    return out


def extended(folder, registry, sources, change):
    """The program, made in `folder`: `sources` compiled in, and `registry` as `change`, {old: new}, makes it."""
    folder.mkdir(parents=True, exist_ok=True)
    text = (ROOT / registry).read_text()
    for old, new in change.items():
        assert text.count(old) == 1, f"{registry}: '{old}' is there {text.count(old)} times"
        text = text.replace(old, new)
    copy = folder / pathlib.Path(registry).name
    copy.write_text(text)
    objects = [compile_as(registry, ROOT / s, folder / (pathlib.Path(s).name + ".o")) for s in [copy, *sources]]
    link = shlex.split(run(["ninja", "-t", "commands", "contraflow"], build()).splitlines()[-1])
    at = link.index("-o")
    run([*link[:at], "-o", folder / "contraflow", *objects, *link[at + 2 :]], build())
    return folder / "contraflow"
