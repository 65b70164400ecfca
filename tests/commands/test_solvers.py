"""The program's solvers, grids and timesteps through its commands: what an image depends on, and what is refused."""

import numpy as np
import pytest
from command import BASE, ROOT, TINY, contraflow, fails, read_zst
from safetensors.numpy import load_file
from test_solver_plugin import LAW, build

PROMPTS = ["--prompt", "a photo of a red cross", "--prompt", "a photo of a blue circle", "--per-prompt", 4]


def sample(folder, solver, *args, steps=4):
    contraflow("sample", "--model", BASE, *PROMPTS, "--solver", solver, "--steps", steps, "--save-latents", folder / "x.safetensors", *args)
    return load_file(folder / "x.safetensors")["latents"]


def rms(a, b):
    return float(np.sqrt(((a - b) ** 2).mean()))


@pytest.mark.parametrize("solver, more", [("ddim", []), ("cps", []), ("flow_sde", []), ("dance_sde", ["--grid", "even"]), ("heun", []), ("unipc", [])])
def test_batch_size(tmp_path, solver, more):
    """The same images for any batch, with noise on the way or memories."""
    want = sample(tmp_path, solver, "--batch", 8, *more)
    assert rms(sample(tmp_path, solver, "--batch", 3, *more), want) < 1e-5
    if solver not in ("heun", "unipc"):
        assert rms(sample(tmp_path, solver, "--seed", 1, *more), want) > 0.05


def test_solvers_agree(tmp_path):
    """All that follow the flow's ODE come to the same images; those of higher order sooner, at 40 forwards."""
    exact = sample(tmp_path, "heun", "--grid", "even", steps=60)
    error = {s: rms(sample(tmp_path, s, "--grid", "even", *(["--eta", 0] if s == "ddim" else []), steps=n), exact) for s, n in
             [("euler", 40), ("ddim", 40), ("heun", 20), ("dpm2", 40), ("dpm3", 40), ("unipc", 40)]}  # fmt: skip
    assert error["ddim"] == error["euler"] < 0.05
    assert all(error[s] < 0.8 * error["euler"] for s in ("heun", "dpm2", "dpm3", "unipc")), error


def test_timesteps(tmp_path):
    """The whole part of 1000 sigma: nothing changes where that is all of it, and a little where it is not."""
    whole = ["--grid", "even", "--shift", 1]
    assert np.array_equal(sample(tmp_path, "heun", *whole, "--timesteps", "integer", steps=10), sample(tmp_path, "heun", *whole, steps=10))
    assert 0 < rms(sample(tmp_path, "heun", "--timesteps", "integer"), sample(tmp_path, "heun", "--timesteps", "float")) < 0.05


def test_grid(tmp_path):
    """The levels that a solver gets, told by one that refuses them."""
    tell = 'snprintf(out->why, sizeof out->why, "levels %.6f %.6f %.6f %.6f", l->sigma[0], l->sigma[1], l->sigma[2], l->sigma[3]); return -1;'
    spy = build(tmp_path, "spy", "#include <stdio.h>\n" + LAW.replace("BODY", tell))
    command = ["sample", "--model", BASE, "--prompt", "a photo of a red cross", "--solver", spy, "--steps", 3, "-o", tmp_path / "x.png", "--shift", 3]
    even = "levels 1.000000 0.857143 0.600000 0.000000"  # 3 u / (1 + 2 u) of 1, 2 / 3 and 1 / 3
    assert even in fails(*command, "--grid", "even")
    published = "levels 1.000000 0.751121 0.008929 0.000000"
    assert published in fails(*command) and published in fails(*command, "--grid", "diffusers")
    for section in "rollout", "eval.sampler":
        sets = [f"{section}.{k}" for k in (f"solver={spy}", "steps=3", "shift=3", "grid=even")]
        line = fails("train", "configs/shapes.yaml", "--run", tmp_path / "run", *TINY, *(x for s in sets for x in ("--set", s)))
        assert even in line and f"{section}: solver {spy}" in line


def test_ranks(tmp_path):
    """A rollout with noise has the same latents on one rank and on two."""
    sets = ["train.max_steps=1", "log.rollouts_every=1", "eval.every=0", "rollout.solver=cps", "rollout.grid=even", "rollout.timesteps=integer",
            "eval.sampler.solver=unipc", "eval.sampler.steps=3"]  # fmt: skip
    got = []
    for ranks, batch in ((1, 7), (2, 4)):
        run = tmp_path / str(ranks)
        contraflow("train", "configs/shapes.yaml", "--run", run, *TINY, *(x for s in sets for x in ("--set", s)), "--set", f"rollout.batch={batch}",
                   ranks=ranks)  # fmt: skip
        got.append(np.concatenate([read_zst(p)["x0"] for p in sorted((run / "rollouts").glob("epoch-000000.rank-*.zst"))]))
    assert rms(*got) < 1e-5


def test_refused(tmp_path):
    command = ["sample", "--model", BASE, "--prompt", "a photo of a red cross", "-o", tmp_path / "x.png", "--steps", 4]
    for args, line in [
        (["--grid", "evn"], "sample: grid: 'evn' is neither diffusers nor even"),
        (["--timesteps", "int"], "sample: timesteps: 'int' is neither float nor integer"),
        (["--solver", "unipc", "--eta", 0.5], "sample: eta: solver unipc adds no noise, so it cannot be 0.5"),
        (["--solver", "dance_sde"], "sample: solver dance_sde: eta 0.3: the last noise level before 0 is 0.008929, and must be above eta^2 / 2 = 0.045"),
        (["--solver", "cps", "--eta", 1.5], "sample: solver cps: eta 1.5: at most 1"),
    ]:
        assert line in fails(*command, *args)
    assert not (tmp_path / "x.png").exists()
    (tmp_path / "x.yaml").write_text(f"extends: {ROOT / 'configs/shapes.yaml'}\nrollout: {{grid: oven}}\n")
    assert "did you mean 'even'" in fails("train", tmp_path / "x.yaml", "--run", tmp_path / "run")


@pytest.mark.parametrize("command", ["sample", "eval"])
def test_help(command):
    assert "euler, heun, ddim, dpm1, dpm2, dpm3, unipc, flow_sde, dance_sde, cps, or a plug-in's path" in contraflow(command, "--help").stdout
