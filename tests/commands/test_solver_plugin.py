"""Solvers of one's own: the examples built as they say, on the program's commands; what is refused, and how."""

import json
import subprocess

import numpy as np
import pytest
from command import BASE, ROOT, TINY, contraflow, fails, read_zst
from PIL import Image
from safetensors.numpy import load_file, save_file

PROMPTS = ["--prompt", "a photo of a red cross", "--prompt", "a photo of a blue circle", "--per-prompt", 4]
TRAIN = ["--set", "train.max_steps=1", "--set", "log.rollouts_every=1", "--set", "eval.every=0"]


def build(folder, name, text):
    (folder / f"{name}.c").write_text(text)
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Werror", f"-I{ROOT}", "-o", folder / f"{name}.so", folder / f"{name}.c", "-lm"], check=True)
    return folder / f"{name}.so"


def test_docs_show_the_examples():
    """What docs/extending.md shows is what is built and run here."""
    docs = (ROOT / "docs/extending.md").read_text()
    for path, first in (("examples/solver_midpoint.c", "#include"), ("sampler/solver_euler.c", "static")):
        text = (ROOT / path).read_text()
        assert f"```c\n{text[text.index(first):]}```" in docs, path


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    folder = tmp_path_factory.mktemp("solvers")
    return {n: build(folder, n, (ROOT / f"examples/solver_{n}.c").read_text()) for n in ("midpoint", "flow_sde")}


def sample(folder, solver, *args, steps=8):
    out = folder / "x.safetensors"
    contraflow("sample", "--model", BASE, *PROMPTS, "--solver", solver, "--steps", steps, "--save-latents", out, "-o", folder / "x.png", *args)
    return load_file(out)["latents"], np.array(Image.open(folder / "x.png"))


def rms(a, b):
    return float(np.sqrt(((a - b) ** 2).mean()))


def test_midpoint(plugins, tmp_path):
    """Closer to the flow's solution than Euler at as many forwards."""
    exact, _ = sample(tmp_path, "euler", steps=400)
    midpoint, euler = (rms(sample(tmp_path, s, steps=n)[0], exact) for s, n in ((plugins["midpoint"], 20), ("euler", 40)))
    assert midpoint < euler / 2


def test_eta(plugins, tmp_path):
    """0 is Euler; else images are others than Euler's, and others again for another seed or another eta."""
    sde, (euler, _) = plugins["flow_sde"], sample(tmp_path, "euler")
    assert np.array_equal(sample(tmp_path, sde, "--eta", 0)[0], euler)
    own, some = sample(tmp_path, sde)[0], sample(tmp_path, sde, "--eta", 0.3)[0]
    assert np.array_equal(own, sample(tmp_path, sde, "--eta", 0.7)[0])
    assert rms(own, euler) > rms(some, euler) > 0.05
    assert abs(own - some).min((1, 2, 3)).max() > 0 and rms(own, sample(tmp_path, sde, "--seed", 1)[0]) > 0.05
    # of two images from one initial latent, each has noise of its own
    (tmp_path / "y").mkdir()
    start = np.repeat(np.random.default_rng(0).standard_normal((1, *own.shape[1:])), 8, 0).astype(np.float32)
    save_file({"latents": start}, tmp_path / "start.safetensors")
    twins, _ = sample(tmp_path, sde, "--latents", tmp_path / "start.safetensors")
    assert all(rms(twins[0], x) > 0.05 for x in twins[1:4])


def test_batch_size(plugins, tmp_path):
    """The same images for any batch."""
    want, image = sample(tmp_path, plugins["flow_sde"], "--batch", 8)
    for batch in (1, 3, 7):
        got, again = sample(tmp_path, plugins["flow_sde"], "--batch", batch)
        assert rms(got, want) < 1e-5 and np.array_equal(image, again)


def rollout(run):
    return np.concatenate([read_zst(p)["x0"] for p in sorted((run / "rollouts").glob("epoch-000000.rank-*.zst"))])


def test_training(plugins, tmp_path):
    """A rollout has the same latents on one rank and on two, for any batch; and `auto` finds one."""
    conf = ["--set", f"rollout.solver={plugins['flow_sde']}", "--set", "rollout.eta=0.5", "--set", f"eval.sampler.solver={plugins['midpoint']}",
            "--set", "eval.sampler.steps=3"]  # fmt: skip
    runs = {}
    for name, ranks, batch in (("one", 1, 7), ("three", 1, 3), ("two", 2, 4), ("auto", 1, "auto")):
        contraflow("train", "configs/shapes.yaml", "--run", tmp_path / name, *TINY, *TRAIN, *conf, "--set", f"rollout.batch={batch}", ranks=ranks)
        runs[name] = rollout(tmp_path / name)
    assert all(rms(x, runs["one"]) < 1e-5 for x in runs.values())
    contraflow("train", "configs/shapes.yaml", "--run", tmp_path / "other", *TINY, *TRAIN, *conf, "--set", "rollout.eta=0.25")
    assert rms(rollout(tmp_path / "other"), runs["one"]) > 0.05
    resolved = (tmp_path / "one/config.yaml").read_text()
    assert f"solver: {plugins['flow_sde']}" in resolved and "eta: 0.5" in resolved and "eta: auto" in resolved


def test_eval(plugins, tmp_path):
    """The same held-out score on one rank and on two."""
    prompts, scores = tmp_path / "p.jsonl", []
    prompts.write_text("".join((ROOT / "data/shapes/validation.jsonl").read_text().splitlines(keepends=True)[:7]))
    for ranks, batch in ((1, 7), (2, 3)):
        contraflow("eval", "--model", BASE, "--prompts", prompts, "--solver", plugins["flow_sde"], "--steps", 5, "--batch", batch,
                   "--images-per-prompt", 2, "-o", tmp_path / "e.json", ranks=ranks)  # fmt: skip
        scores.append(json.loads((tmp_path / "e.json").read_text()))
    assert scores[0]["tags"] == scores[1]["tags"] and abs(scores[0]["soft"] - scores[1]["soft"]) < 1e-9


# ---- Refused -------------------------------------------------------------------------------------------

LAW = """#include "sampler/solver_plugin.h"
#include <math.h>
#include <string.h>
static int f(const struct contraflow_levels *l, int i, struct contraflow_law *out) { out->x = 1; out->v = l->sigma[i + 1] - l->sigma[i]; BODY return 0; }
static const struct contraflow_solver solver = { .abi = CONTRAFLOW_SOLVER_ABI, .eta = 1, .law = f };
const struct contraflow_solver *contraflow_solver(void) { return &solver; }
"""
STEP = """#include "sampler/solver_plugin.h"
#include <math.h>
static int f(const struct contraflow_levels *l, int i, struct contraflow_step *out)
{
	out->velocities = 1; out->sigma[0] = l->sigma[i]; out->at[0].x = out->next.x = 1; out->next.v[0] = l->sigma[i + 1] - l->sigma[i];
	BODY
	return 0;
}
static const struct contraflow_solver solver = { .abi = CONTRAFLOW_SOLVER_ABI, .eta = 1, .step = f };
const struct contraflow_solver *contraflow_solver(void) { return &solver; }
"""
LOADING = {  # found before a model is read
    "empty": ("int x;", "exports no contraflow_solver(): see sampler/solver_plugin.h"),
    "newer": (LAW.replace("= CONTRAFLOW_SOLVER_ABI", "= 2").replace("BODY", ""), "is built for version 2 of the solvers' interface, this is 1"),
    "null": (LAW.replace("BODY", "").replace("return &solver", "return (void)solver, (void *)0"), "is built for version 0 of"),
    "neither": (LAW.replace("BODY", "").replace(", .law = f", "").replace("static int f", "int f"), "must have either law() or step()"),
    "both": (LAW.replace("BODY", "").replace(".law = f", ".law = f, .step = (void *)f"), "must have either law() or step()"),
    "strength": (LAW.replace("BODY", "").replace(".eta = 1", ".eta = -1"), "eta -1 is not a valid amount of noise"),
}
NUMBERS = {
    "nan": (LAW, "out->v = i == 3 ? NAN : out->v;", "step 3 of 5, eta 1: x 1, v nan, noise 0: not numbers to use"),
    "negative": (LAW, "out->noise = -l->eta;", "noise -1: not numbers to use"),
    "always": (LAW, "out->noise = 0.25;", "step 0 of 5 adds noise (0.25) though eta is 0"),
    "why": (LAW, 'if (i == 2) { strcpy(out->why, "there is no third step"); return -1; }', "step 2: there is no third step"),
    "mute": (LAW, "if (i == 2) return -1;", "step 2: the library refuses it and does not say why"),
    "infinite": (STEP, "out->next.v[0] *= i == 4 ? INFINITY : 1;", "step 4 of 5, eta 1: next[0] has a coefficient that is not finite"),
    "level": (STEP, "out->sigma[0] = 2;", "sigma[0] is 2: a level is in [0, 1]"),
    "none": (STEP, "out->velocities = 0;", "0 velocities and 0 memories: there can be 1 to 4 and 0 to 4"),
    "many": (STEP, "out->memories = 5;", "1 velocities and 5 memories"),
    "early": (STEP, "out->at[0].v[0] = 1;", "at[0] is of v[0], which there is not yet"),
    "missing": (STEP, "out->next.v[2] = 1;", "next[0] is of v[2], which there is not yet"),
    "forgotten": (STEP, "out->memories = i != 1; out->memory[0].x = 1; out->next.memory[0] = i > 0;", "step 2 of 5, eta 1: next[0] is of memory[0], which the step before did not keep"),
    "noisy": (STEP, "out->next.noise = 1;", "step 0 of 5, eta 0: next[0] has noise though eta is 0"),
}  # fmt: skip


def sample_fails(solver, folder, *args):
    line = fails("sample", "--model", BASE, "--prompt", "a photo of a cross", "--solver", solver, "--steps", 5, "-o", folder / "x.png", *args)
    assert not (folder / "x.png").exists()
    return line


@pytest.mark.parametrize("name", LOADING)
def test_libraries(tmp_path, name):
    source, message = LOADING[name]
    path = build(tmp_path, name, source)
    assert message in sample_fails(path, tmp_path) and str(path) in sample_fails(path, tmp_path)


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(tmp_path, name):
    source, body, message = NUMBERS[name]
    path = build(tmp_path, name, source.replace("BODY", body))
    line = sample_fails(path, tmp_path)
    assert message in line and str(path) in line, line


def test_names(plugins, tmp_path):
    assert "cannot load ./none.so" in sample_fails("./none.so", tmp_path)
    line = sample_fails("midpoint.so", tmp_path)
    assert "unknown solver 'midpoint.so'" in line and "euler, heun" in line and "path has a slash" in line
    assert "eta: solver euler adds no noise, so it cannot be 0.5" in sample_fails("euler", tmp_path, "--eta", 0.5)
    assert "adds no noise" in sample_fails(plugins["midpoint"], tmp_path, "--eta", 0.5)
    assert "--eta 101: must be in [0, 100]" in sample_fails(plugins["flow_sde"], tmp_path, "--eta", 101)


@pytest.mark.parametrize(
    "text, parts",
    [
        ("rollout: {solver: ./none.so}\n", ["x.yaml:2: rollout: solver: cannot load ./none.so"]),
        ("eval: {sampler: {solver: ./none.so}}\n", ["x.yaml:2: eval.sampler: solver: cannot load ./none.so"]),
        ("rollout: {solver: none.so}\n", ["x.yaml:2", "rollout.solver = 'none.so'", "dance_sde, cps, or a path with a slash in it"]),
        ("rollout: {solver: euler, eta: 0.7}\n", ["x.yaml:2: rollout: eta: solver euler adds no noise"]),
        ("rollout: {eta: much}\n", ["x.yaml:2", "rollout.eta = 'much': not a number, nor one of auto"]),
    ],
)
def test_configurations(tmp_path, text, parts):
    """Before anything is made: no model is read, and there is no run."""
    (tmp_path / "x.yaml").write_text(f"extends: {ROOT / 'configs/shapes.yaml'}\nmodel: {{path: no/such/model}}\n".replace("\nmodel", "\n" + text + "model"))
    line = fails("train", tmp_path / "x.yaml", "--run", tmp_path / "run", *TINY)
    assert all(p in line for p in parts), line
    assert not (tmp_path / "run").exists()
