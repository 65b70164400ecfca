"""sampler/schedule.h and models/schedule_conf.h against diffusers' FlowMatchEulerDiscreteScheduler, over all of their settings."""

import json
import math

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from safetensors.torch import load_file
from sd3 import contraflow
from test_solver import golden_solver

FLUX = dict(shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096)
QWEN = dict(FLUX, shift=1.0, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02)
STEPS = [*range(1, 51)]


def flux2_mu(tokens, steps):
    """diffusers' compute_empirical_mu, where this version has it."""
    pipeline = pytest.importorskip("diffusers.pipelines.flux2.pipeline_flux2")
    return pipeline.compute_empirical_mu(image_seq_len=tokens, num_steps=steps)


def ours(folder, config, grid, mu, steps, tokens, shift=0.0):
    """(sigmas, timesteps) for each number of steps."""
    FlowMatchEulerDiscreteScheduler(**config).save_config(folder)
    done = golden_solver("schedule", folder / "scheduler_config.json", grid, mu, shift, tokens, folder / "out.safetensors", *steps)
    assert done.returncode == 0, done.stderr
    got = load_file(folder / "out.safetensors")
    return {n: (got[f"sigmas.{n}"], got[f"timesteps.{n}"]) for n in steps}


def theirs(config, grid, steps, mu=None):
    s = FlowMatchEulerDiscreteScheduler(**config)
    if grid == "steps":
        s.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    else:
        s.set_timesteps(steps, mu=mu)
    return s.sigmas.double(), s.timesteps.double()


def same(got, want):
    """want(steps): what diffusers has.  Its numbers are float32."""
    for n, (sigmas, timesteps) in got.items():
        w = want(n)
        assert torch.allclose(sigmas, w[0], atol=1e-6, rtol=0), (n, (sigmas - w[0]).abs().max())
        assert torch.allclose(timesteps, w[1], atol=1e-3, rtol=0)
        assert (sigmas.diff() < 0).all()


@pytest.mark.parametrize("grid", ["train", "steps"])
@pytest.mark.parametrize("config", [dict(shift=3.0), dict(shift=1.0), dict(shift=6.5, num_train_timesteps=1000), dict(shift=2.0, shift_terminal=0.05)])
def test_fixed(folder, grid, config):
    steps = STEPS[1 if "shift_terminal" in config else 0 :]
    same(ours(folder, config, grid, "linear", steps, 0), lambda n: theirs(config, grid, n))


@pytest.mark.parametrize("grid", ["train", "steps"])
@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("config", [FLUX, QWEN])
@pytest.mark.parametrize("tokens", [24, 1023, 4096, 4301])
def test_dynamic(folder, grid, kind, config, tokens):
    config = dict(config, time_shift_type=kind)
    mu = calculate_shift(tokens, *(config[k] for k in ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")))
    steps = STEPS[1 if "shift_terminal" in config else 0 :]
    same(ours(folder, config, grid, "linear", steps, tokens), lambda n: theirs(config, grid, n, mu))


@pytest.mark.parametrize("tokens", [1, 255, 4096, 4300, 4301, 16385])
def test_flux2(folder, tokens):
    same(ours(folder, FLUX, "steps", "flux2", STEPS, tokens), lambda n: theirs(FLUX, "steps", n, flux2_mu(tokens, n)))


@pytest.mark.parametrize("tokens", [100, 4500])
def test_flux2_formula(folder, tokens):
    """The published fit itself: two lines in the tokens, at 10 and at 200 steps, and a line in the steps between them."""
    hi, lo = 0.00016927 * tokens + 0.45666666, 8.73809524e-05 * tokens + 1.89833333
    got = ours(folder, FLUX, "steps", "flux2", (1, 10, 28, 50, 200), tokens)
    for steps, (sigmas, _) in got.items():
        mu = hi if tokens > 4300 else lo + (hi - lo) / 190 * (steps - 10)
        u = np.linspace(1, 1 / steps, steps)
        want = math.exp(mu) / (math.exp(mu) + 1 / u - 1)
        assert np.abs(sigmas[:-1].numpy() - want).max() < 1e-12


def test_flux1_levels(folder):
    """FLUX.1-dev, four steps of an image of 24 tokens."""
    sigmas, _ = ours(folder, FLUX, "steps", "linear", [4], 24)[4]
    assert torch.allclose(sigmas, torch.tensor([1, 0.8263, 0.6132, 0.3457, 0], dtype=torch.float64), atol=5e-5)


@pytest.mark.parametrize("grid", ["train", "steps"])
def test_a_shift_of_ones_own(folder, grid):
    """It takes the place of a dynamic one; the terminal level stays where the file has it."""
    fixed = dict(QWEN, use_dynamic_shifting=False, shift=4.0)
    same(ours(folder, QWEN, grid, "linear", STEPS[1:], 100, shift=4.0), lambda n: theirs(fixed, grid, n))


def test_multistep_scheduler(folder):
    """SANA's: its flow_shift, on the grid that its RL recipes have."""
    DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0).save_config(folder)
    done = golden_solver("schedule", folder / "scheduler_config.json", "train", "linear", 0, 0, folder / "out.safetensors", 20)
    assert done.returncode == 0, done.stderr
    got = load_file(folder / "out.safetensors")
    same({20: (got["sigmas.20"], got["timesteps.20"])}, lambda n: theirs(dict(shift=3.0), "train", n))


def test_made_of_another_class(folder):
    """from_config leaves the other class's keys in the file, which both classes of diffusers pass over."""
    euler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    dpm = DPMSolverMultistepScheduler.from_config(euler.config, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    back = FlowMatchEulerDiscreteScheduler.from_config(DPMSolverMultistepScheduler.from_config(dpm.config).config, shift=3.0)
    for scheduler in dpm, back:
        scheduler.save_config(folder)
        assert {"shift", "flow_shift"} <= json.loads((folder / "scheduler_config.json").read_text()).keys()
        done = golden_solver("schedule", folder / "scheduler_config.json", "train", "linear", 0, 0, folder / "out.safetensors", 20)
        assert done.returncode == 0, done.stderr
        got = load_file(folder / "out.safetensors")
        same({20: (got["sigmas.20"], got["timesteps.20"])}, lambda n: theirs(dict(shift=3.0), "train", n))


def test_one_step_with_a_terminal_level(folder):
    """diffusers divides 0 by 0 there."""
    assert ours(folder, QWEN, "steps", "linear", [1], 100)[1][0].tolist() == [1, 0]


def test_probe(folder):
    """contraflow probe asks for the size where the levels depend on it."""
    (folder / "scheduler").mkdir()
    FlowMatchEulerDiscreteScheduler(**FLUX).save_config(folder / "scheduler")
    args = ["probe", "schedule", "--model", folder, "--out", folder / "s.safetensors", "--steps", 9]
    with pytest.raises(RuntimeError, match="the shift depends on the image's size: give --tokens or --shift"):
        contraflow(*args)
    contraflow(*args, "--tokens", 1023)
    got = load_file(folder / "s.safetensors")
    same({9: (got["sigmas"].double(), got["timesteps"].double())}, lambda n: theirs(FLUX, "train", n, calculate_shift(1023)))


REFUSED = [("use_karras_sigmas", True), ("use_exponential_sigmas", True), ("use_beta_sigmas", True), ("invert_sigmas", True),
           ("stochastic_sampling", True), ("num_train_timesteps", 500), ("use_tomorrow", "yes")]  # fmt: skip


@pytest.mark.parametrize("key, value", REFUSED)
def test_refused(folder, key, value):
    config = json.loads(FlowMatchEulerDiscreteScheduler(**FLUX).to_json_string())
    (folder / "scheduler_config.json").write_text(json.dumps({**config, key: value}))
    done = golden_solver("schedule", folder / "scheduler_config.json", "train", "linear", 0, 24, folder / "out.safetensors", 4)
    assert done.returncode and key in done.stderr and "which is not supported" in done.stderr
