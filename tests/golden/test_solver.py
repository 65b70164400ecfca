"""sampler/ against diffusers' scheduler and float64 formulas."""

import math
import os
import pathlib
import subprocess

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file
from sd3 import ROOT, error

CASES = [(3.0, 10), (3.0, 40), (3.0, 2), (3.0, 1), (1.0, 7), (1.5, 25), (6.0, 3)]


def run(folder, solver, shift, steps, x, integer=0):
    build = pathlib.Path(os.environ.get("BUILD", "build"))
    program = (build if build.is_absolute() else ROOT / build) / "tests" / "golden_solver"
    save_file(x, folder / "in.safetensors")
    args = [program, solver, shift, steps, integer, folder / "in.safetensors", folder / "out.safetensors"]
    done = subprocess.run([*map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return load_file(folder / "out.safetensors")


def flow(seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    shape = (3, 2, 5, 7)
    return dict(
        x=torch.randn(shape, generator=g).to(dtype),
        a=(0.5 * torch.randn(shape, generator=g)).to(dtype),
        c=torch.randn(shape, generator=g).to(dtype),
    )


def scheduler(shift, steps):
    s = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
    s.set_timesteps(steps)
    return s


@pytest.mark.parametrize("shift, steps", CASES)
def test_schedule(folder, shift, steps):
    got, want = run(folder, "euler", shift, steps, flow()), scheduler(shift, steps)
    assert torch.allclose(got["sigmas"], want.sigmas.double(), atol=2e-7)
    assert torch.allclose(got["timesteps"], want.timesteps.double(), atol=2e-4)
    integer = run(folder, "euler", shift, steps, flow(), integer=1)["timesteps"]
    assert torch.equal(integer, torch.floor(got["timesteps"] + 1e-9))


@pytest.mark.parametrize("shift, steps", CASES)
def test_euler(folder, shift, steps):
    f, s = flow(), scheduler(shift, steps)
    x = f["x"]
    for i, t in enumerate(s.timesteps):
        x = s.step(f["a"] * x + s.sigmas[i] * f["c"], t, x, return_dict=False)[0]
    assert error(run(folder, "euler", shift, steps, f)["x0"], x) < 1e-5


def dpm2(f, sigmas):
    """DPM-Solver++ 2M in float64, from the formulas of its paper with alpha = 1 - sigma."""
    x, before, h_before = f["x"], None, None
    n = len(sigmas) - 1
    lam = [math.log(1 - s) - math.log(s) if 0 < s < 1 else -math.inf if s == 1 else math.inf for s in sigmas]
    for i in range(n):
        s, t = sigmas[i], sigmas[i + 1]
        v = f["a"] * x + s * f["c"]
        d = x - s * v
        if i in (0, n - 1):  # DDIM: x0 and noise as the velocity implies them, put together at the next level
            x, h = (1 - t) * d + t * (d + v), lam[i + 1] - lam[i]
        else:
            h = lam[i + 1] - lam[i]
            d1 = (d - before) / (h_before / h) if math.isfinite(h_before) else torch.zeros_like(d)
            x = (t / s) * x - (1 - t) * (math.exp(-h) - 1) * (d + d1 / 2)
        before, h_before = d, h
    return x


@pytest.mark.parametrize("shift, steps", CASES)
@pytest.mark.parametrize("dtype, limit", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_dpm2(folder, shift, steps, dtype, limit):
    f = flow(dtype=dtype)
    got = run(folder, "dpm2", shift, steps, f)
    want = dpm2({k: v.double() for k, v in f.items()}, got["sigmas"].tolist())
    assert error(got["x0"], want) < limit


def test_dpm2_is_of_second_order(folder):
    """Against the exact flow of a field whose x0 prediction changes with sigma: halving the step quarters the error."""
    f = flow(dtype=torch.float64)
    fine = dpm2(f, run(folder, "dpm2", 1.0, 1000, f)["sigmas"].tolist())
    errors = [error(run(folder, "dpm2", 1.0, n, f)["x0"], fine) for n in (10, 20, 40)]
    euler = error(run(folder, "euler", 1.0, 40, f)["x0"], fine)
    assert errors[2] < errors[1] < errors[0] and errors[2] < euler / 2
