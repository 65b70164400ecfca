"""sampler/ against diffusers' scheduler and float64 formulas."""

import functools
import math
import os
import pathlib
import subprocess
import tempfile

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file
from sd3 import ROOT, error

SHELF = tempfile.TemporaryDirectory()  # of plug-ins, each built once
CASES = [(3.0, 10), (3.0, 40), (3.0, 2), (3.0, 1), (1.0, 7), (1.5, 25), (6.0, 3)]


def golden_solver(*args):
    build = pathlib.Path(os.environ.get("BUILD", "build"))
    program = (build if build.is_absolute() else ROOT / build) / "tests" / "golden_solver"
    return subprocess.run([program, *map(str, args)], capture_output=True, text=True)


def run(folder, solver, shift, steps, x, integer=0, eta=0.0, window=(0, 1000)):
    save_file(x, folder / "in.safetensors")
    done = golden_solver(solver, shift, steps, integer, eta, *window, folder / "in.safetensors", folder / "out.safetensors")
    assert done.returncode == 0, done.stderr
    return load_file(folder / "out.safetensors")


@functools.cache
def library(name, text):
    """A plug-in as a user builds it: the header is all that it needs."""
    folder = pathlib.Path(tempfile.mkdtemp(dir=SHELF.name))
    (folder / f"{name}.c").write_text(text)
    build = ["cc", "-std=c11", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", f"-I{ROOT}", "-o", folder / f"{name}.so", folder / f"{name}.c", "-lm"]
    subprocess.run(build, check=True)
    return folder / f"{name}.so"


def example(name):
    return library(name, (ROOT / "examples" / f"{name}.c").read_text())


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


# ---- Plug-ins, in float64 against their formulas ---------------------------------------------------------


def noisy_flow(steps, seed=0):
    f = flow(seed, torch.float64)
    return {**f, "z": torch.randn((steps, *f["x"].shape), generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)}


@pytest.mark.parametrize("shift, steps", CASES[:4])
def test_midpoint(folder, shift, steps):
    f = flow(dtype=torch.float64)
    got = run(folder, example("solver_midpoint"), shift, steps, f)
    x, sigmas = f["x"], got["sigmas"].tolist()
    for s, t in zip(sigmas, sigmas[1:]):
        half = x + (t - s) / 2 * (f["a"] * x + s * f["c"])
        x = x + (t - s) * (f["a"] * half + (s + t) / 2 * f["c"])
    assert error(got["x0"], x) < 1e-13 and "recorded" not in got


def flow_sde(f, sigmas, eta, window):
    """Euler-Maruyama as Flow-GRPO writes it: the mean is x + (v + std^2 (x + (1 - s) v) / (2 s)) dt."""
    x, states = f["x"], []
    for i, (s, t) in enumerate(zip(sigmas, sigmas[1:])):
        a = eta if window[0] <= i < window[1] else 0
        v, dt, std = f["a"] * x + s * f["c"], t - s, a * math.sqrt(s / (1 - (sigmas[1] if s == 1 else s)))
        y = x + (v + std**2 * (x + (1 - s) * v) / (2 * s)) * dt + std * math.sqrt(-dt) * f["z"][i]
        if std > 0:
            states.append((i, x, y))
        x = y
    return x, states


@pytest.mark.parametrize("shift, steps", [(3.0, 10), (3.0, 1), (1.5, 25)])
@pytest.mark.parametrize("eta, window", [(0.7, (0, 1000)), (0.3, (2, 5)), (1.2, (0, 0)), (0.0, (0, 1000))])
def test_flow_sde(folder, shift, steps, eta, window):
    """Also what is recorded: every step with noise, before and after it, and no other."""
    f = noisy_flow(steps)
    got = run(folder, example("solver_flow_sde"), shift, steps, f, eta=eta, window=window)
    want, states = flow_sde(f, got["sigmas"].tolist(), eta, window)
    assert error(got["x0"], want) < 1e-12
    assert got.get("recorded", torch.zeros(0)).tolist() == [i for i, _, _ in states]
    for k, (_, before, after) in enumerate(states):
        assert error(got["before"][k], before) < 1e-12 and error(got["after"][k], after) < 1e-12
    if not states:
        assert error(got["x0"], run(folder, "euler", shift, steps, flow(dtype=torch.float64))["x0"]) < 1e-14


def test_flow_sde_table(folder):
    """The coefficients at 10 steps and shift 3: with v = 0 and z = 0 a step multiplies x, with z alone it adds S."""
    S = [0.7, 0.742964, 0.536152, 0.445897, 0.391794, 0.352797, 0.319070, 0.282007, 0.225360, 0.006278]
    cx = [0.755, 0.712541, 0.842635, 0.884093, 0.902892, 0.912011, 0.915465, 0.914463, 0.908672, 0.997793]
    f, solver = noisy_flow(10), example("solver_flow_sde")
    f["a"], f["c"], f["x"] = torch.zeros_like(f["a"]), torch.zeros_like(f["c"]), torch.ones_like(f["x"])
    still = run(folder, solver, 3.0, 10, {**f, "z": torch.zeros_like(f["z"])}, eta=0.7)
    assert torch.allclose((still["after"] / still["before"])[:, 0, 0, 0, 0], torch.tensor(cx, dtype=torch.float64), atol=1e-6)
    got = run(folder, solver, 3.0, 10, {**f, "x": torch.zeros_like(f["x"])}, eta=0.7)
    cx_B = (still["after"] / still["before"])[:, :1, :1, :1, :1]
    assert torch.allclose(((got["after"] - cx_B * got["before"]) / f["z"])[:, 0, 0, 0, 0], torch.tensor(S, dtype=torch.float64), atol=1e-6)


DPM2 = r"""
#include "sampler/solver_plugin.h"
#include <math.h>
static double lambda(double s) { return log(1 - s) - log(s); }
static int dpm2(const struct contraflow_levels *l, int i, struct contraflow_step *out)
{
	double from = l->sigma[i], to = l->sigma[i + 1];
	out->velocities = out->memories = 1;
	out->sigma[0] = from;
	out->at[0].x = out->memory[0].x = 1;
	out->memory[0].v[0] = -from;
	if (i == 0 || i == l->steps - 1) {
		out->next.x = 1;
		out->next.v[0] = to - from;
		return 0;
	}
	double h = lambda(to) - lambda(from), r0 = (lambda(from) - lambda(l->sigma[i - 1])) / h, k = -(1 - to) * expm1(-h);
	out->next.x = to / from + k * (1 + 0.5 / r0);
	out->next.v[0] = -from * k * (1 + 0.5 / r0);
	out->next.memory[0] = -k * 0.5 / r0;
	return 0;
}
static const struct contraflow_solver solver = { .abi = CONTRAFLOW_SOLVER_ABI, .step = dpm2 };
const struct contraflow_solver *contraflow_solver(void) { return &solver; }
"""

# Heun's method with noise in its predictor and its end: two velocities, one noise, and a memory that is added at the next step.
HEUN = r"""
#include "sampler/solver_plugin.h"
static int heun(const struct contraflow_levels *l, int i, struct contraflow_step *out)
{
	double from = l->sigma[i], to = l->sigma[i + 1], dt = to - from;
	out->velocities = 2;
	out->sigma[0] = from;
	out->sigma[1] = to;
	out->at[0].x = out->at[1].x = out->next.x = 1;
	out->at[1].v[0] = dt;
	out->at[1].noise = out->next.noise = 0.1 * l->eta;
	out->next.v[0] = out->next.v[1] = dt / 2;
	out->next.memory[0] = out->next.memory[1] = i ? 0.01 : 0;
	out->memories = 2;
	out->memory[0].v[1] = out->memory[1].noise = l->eta;
	out->memory[1].x = 0.5;
	return 0;
}
static const struct contraflow_solver solver = { .abi = CONTRAFLOW_SOLVER_ABI, .eta = 1, .step = heun };
const struct contraflow_solver *contraflow_solver(void) { return &solver; }
"""


@pytest.mark.parametrize("shift, steps", CASES[:4])
def test_multistep_plugin(folder, shift, steps):
    f = flow(dtype=torch.float64)
    got = run(folder, library("dpm2", DPM2), shift, steps, f)
    assert error(got["x0"], dpm2(f, got["sigmas"].tolist())) < 1e-12


@pytest.mark.parametrize("shift, steps", CASES[:4])
def test_everything_at_once(folder, shift, steps):
    f, eta = noisy_flow(steps), 0.6
    got = run(folder, library("heun", HEUN), shift, steps, f, eta=eta)
    x, sigmas = f["x"], got["sigmas"].tolist()
    memory = [torch.zeros_like(x)] * 2
    for i, (s, t) in enumerate(zip(sigmas, sigmas[1:])):
        v0 = f["a"] * x + s * f["c"]
        v1 = f["a"] * (x + (t - s) * v0 + 0.1 * eta * f["z"][i]) + t * f["c"]
        y = x + (t - s) / 2 * (v0 + v1) + 0.1 * eta * f["z"][i] + 0.01 * (memory[0] + memory[1])
        memory, x = [eta * v1, 0.5 * x + eta * f["z"][i]], y
    assert error(got["x0"], x) < 1e-12


@pytest.mark.parametrize("kind", ["law", "step"])
@pytest.mark.parametrize("shift, steps", CASES[:4:3])
def test_euler_as_a_plugin(folder, kind, shift, steps):
    """To the bit: a plug-in costs no accuracy."""
    body = {"law": "out->x = 1; out->v = dt;", "step": "out->velocities = 1; out->sigma[0] = l->sigma[i]; out->at[0].x = out->next.x = 1; out->next.v[0] = dt;"}[kind]
    text = f"""#include "sampler/solver_plugin.h"
static int f(const struct contraflow_levels *l, int i, struct contraflow_{kind} *out) {{ double dt = l->sigma[i + 1] - l->sigma[i]; {body} return 0; }}
static const struct contraflow_solver solver = {{ .abi = CONTRAFLOW_SOLVER_ABI, .{kind} = f }};
const struct contraflow_solver *contraflow_solver(void) {{ return &solver; }}
"""
    f = flow()
    assert torch.equal(run(folder, library("euler", text), shift, steps, f)["x0"], run(folder, "euler", shift, steps, f)["x0"])


def test_noise_where_none_is_given(folder):
    save_file(flow(), folder / "in.safetensors")
    done = golden_solver(example("solver_flow_sde"), 3.0, 4, 0, 0.7, 0, 4, folder / "in.safetensors", folder / "out.safetensors")
    assert done.returncode and "adds noise at step 0, and this run has none to give" in done.stderr
