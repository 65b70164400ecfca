"""What `meson install` puts under a prefix: found wherever the prefix lies and whatever folder the program is started in; pages and completions
have every command and every option."""

import json
import os
import re
import shutil
import subprocess

import pytest
from command import build, contraflow


def run(program, *args, cwd):
    env = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
    done = subprocess.run([program, *map(str, args)], cwd=cwd, env={**env, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """Installed, and then moved."""
    root = tmp_path_factory.mktemp("root")
    subprocess.run(["meson", "install", "-C", build(), "--no-rebuild", "--destdir", root], check=True, capture_output=True)
    made = next(root.rglob("bin/contraflow")).parents[1]
    return made.rename(root / "elsewhere")


@pytest.fixture(scope="module")
def commands(prefix):
    return run(prefix / "bin/contraflow", "--help=names", cwd="/").split()


def test_files_are_found(prefix, tmp_path):
    """configs/shapes.yaml, its model and its prompts, from an empty folder; what lies in that folder comes first."""
    program = prefix / "bin/contraflow"
    said = run(program, "sample", "--config", "configs/shapes.yaml", "--prompts", "data/shapes/test.jsonl", "--steps", 1, "-d", "images", cwd=tmp_path)
    assert "images/album.json" in said and json.loads((tmp_path / "images/album.json").read_text())["model"].startswith(str(prefix / "share/contraflow"))
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/shapes.yaml").write_text("model: {path: mine}\nprompts: {train: also_mine.txt}\nrewards: {geneval: {}}\n")
    shown = run(program, "config", "show", "configs/shapes.yaml", cwd=tmp_path)
    assert "path: mine" in shown and "train: also_mine.txt" in shown


def test_library(prefix, tmp_path):
    """An example is built with what pkg-config says, from the installed header, and finds the installed model."""
    where = next(prefix.rglob("contraflow.pc"))
    env = {**os.environ, "PKG_CONFIG_PATH": str(where.parent)}
    flags = subprocess.run(["pkg-config", f"--define-variable=prefix={prefix}", "--cflags", "--libs", "contraflow"], env=env, capture_output=True, text=True, check=True).stdout.split()
    assert f"-I{prefix}/include" in flags and "-lcontraflow" in flags
    source, program = prefix / "share/contraflow/examples/library/sample_images.c", tmp_path / "sample"
    libraries = where.parents[1]
    subprocess.run(["cc", source, "-o", program, *flags, f"-Wl,-rpath,{libraries}"], check=True, cwd=tmp_path)
    run(program, "data/shapes/base", "-", "out.ppm", "a photo of a ring", cwd=tmp_path)
    assert (tmp_path / "out.ppm").stat().st_size > 1000 and (libraries / "libcontraflow.so.0").exists()


def test_pages(prefix, commands):
    pages = prefix / "share/man/man1"
    assert {p.name for p in pages.iterdir()} == {"contraflow.1", *(f"contraflow-{c}.1" for c in commands)}
    program = (pages / "contraflow.1").read_text()
    for command in commands:
        page = (pages / f"contraflow-{command}.1").read_text()
        options = re.findall(r"^  (--?[\w-]+)", contraflow(command, "--help").stdout, re.M)
        assert [o.replace("\\-", "-") for o in re.findall(r"^\.B (\\-[^ \n\[]+)", page, re.M)] == options and f"contraflow\\-{command} (1)" in program
        if shutil.which("groff"):
            done = subprocess.run(["groff", "-man", "-ww", "-Tutf8", "-rLL=100n", pages / f"contraflow-{command}.1"], capture_output=True, text=True, check=True)
            assert not done.stderr and all(o in re.sub("\x1b\\[[0-9;]*m|.\b", "", done.stdout).replace("‐", "-") for o in options)


def complete(prefix, *words):
    """What bash offers for the last word."""
    script = f"""source {prefix}/share/bash-completion/completions/contraflow; PATH={prefix}/bin:$PATH
COMP_WORDS=({" ".join(words)} ""); [[ "{words[-1]}" == -* ]] && COMP_WORDS=({" ".join(words)}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _contraflow; echo "${{COMPREPLY[@]}}" """
    return run("bash", "-c", script, cwd="/").split()


def test_completions(prefix, commands):
    assert complete(prefix, "contraflow") == commands
    assert complete(prefix, "contraflow", "sample", "--pro") == ["--prompt", "--prompts"]
    zsh = (prefix / "share/zsh/site-functions/_contraflow").read_text()
    fish = (prefix / "share/fish/vendor_completions.d/contraflow.fish").read_text()
    for command in commands:
        options = re.findall(r"^  (--?[\w-]+)", contraflow(command, "--help").stdout, re.M)
        assert complete(prefix, "contraflow", command, "-") == ["--help", *options]
        assert re.findall(rf"from {command}' -[ls] ([\w-]+)", fish) == [o.lstrip("-") for o in options]
        block = zsh[zsh.index(f"\t{command}) _arguments") :].split(";;")[0]
        assert re.findall(r"(--?[\w-]+)=?'\['", block) == options
    for shell, file in (("zsh", prefix / "share/zsh/site-functions/_contraflow"), ("fish", prefix / "share/fish/vendor_completions.d/contraflow.fish")):
        if shutil.which(shell):
            subprocess.run([shell, "-n", file], check=True)
