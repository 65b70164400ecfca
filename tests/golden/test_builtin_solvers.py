"""The program's solvers: against diffusers' schedulers on the same noise levels, and against float64 formulas as they are published."""

import math

import pytest
import torch
from diffusers import (
    DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler, UniPCMultistepScheduler,
)  # fmt: skip
from diffusers.schedulers import scheduling_flow_match_euler_discrete
from safetensors.torch import load_file, save_file
from sd3 import error
from test_solver import example, flow, golden_solver, noisy_flow, run

STEPS = [1, 2, 3, 4, 7, 10, 14, 15, 25]
FLOW = dict(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def shifted(u):
    return 3 * u / (1 + 2 * u)


def even(n, first=1.0):
    return [first, *(shifted(1 - i / n) for i in range(1, n)), 0.0]


def run_many(folder, solvers, f, levels, eta=0.0):
    """{(solver, steps): {name: tensor}} of one process; levels: {steps: list}."""
    save_file({**f, **{f"sigmas.{n}": torch.tensor(s, dtype=torch.float64) for n, s in levels.items()}}, folder / "in.safetensors")
    steps = ",".join(map(str, levels))
    done = golden_solver(",".join(solvers), 3.0, steps, 0, eta, 0, 1000, folder / "in.safetensors", folder / "out.safetensors")
    assert done.returncode == 0, done.stderr
    got = {}
    for key, value in load_file(folder / "out.safetensors").items():
        # of one solver at one number of steps nothing is named after them
        solver, n, what = key.split(".") if "." in key else (solvers[0], steps, key)
        got.setdefault((solver, int(n)), {})[what] = value
    return got


# ---- diffusers ---------------------------------------------------------------------------------------


def scheduler(name, n, sigmas):
    """diffusers' own for a solver, its levels overwritten."""
    make = {
        "euler": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
        "heun": lambda: FlowMatchHeunDiscreteScheduler(shift=3.0),
        "dpm1": lambda: DPMSolverMultistepScheduler(solver_order=1, **FLOW),
        "dpm2": lambda: DPMSolverMultistepScheduler(solver_order=2, **FLOW),
        "dpm3": lambda: DPMSolverMultistepScheduler(solver_order=3, **FLOW),
        "unipc": lambda: UniPCMultistepScheduler(solver_order=2, **FLOW),
        "ddim": lambda: DPMSolverMultistepScheduler(solver_order=1, algorithm_type="sde-dpmsolver++", **FLOW),  # at eta 1
        "cps": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0, stochastic_sampling=True),  # at eta 1
    }
    s = make[name]()
    s.set_timesteps(n)
    if name == "heun":  # two calls a step, each at its own level
        sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
    s.sigmas, s.timesteps = sigmas, 1000 * sigmas[:-1]
    s._step_index = s._begin_index = 0
    return s


def theirs(name, n, levels, f, monkeypatch):
    s, x = scheduler(name, n, torch.tensor(levels, dtype=torch.float64)), f["x"]
    for i, (t, sigma) in enumerate(zip(s.timesteps, s.sigmas)):
        v = f["a"] * x + sigma * f["c"]
        monkeypatch.setattr(scheduling_flow_match_euler_discrete, "randn_tensor", lambda shape, dtype, **_: f["z"][i].to(dtype))
        noise = dict(variance_noise=f["z"][i]) if name == "ddim" else {}
        x = s.step(v.to(x.dtype), t, x, return_dict=False, **noise)[0]
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 2, 5, 7), (1, 1, 1, 3)])
def test_diffusers(folder, dtype, shape, monkeypatch):
    """diffusers works in single precision, but for UniPC, whose numbers are ours to the last digits."""
    names = ["euler", "heun", "dpm1", "dpm2", "dpm3", "unipc", "ddim", "cps"]
    limits = dict(euler=3e-7, heun=4e-7, dpm1=5e-7, dpm2=5e-7, dpm3=1e-6, unipc=1e-6 if dtype == torch.float32 else 1e-14, ddim=5e-7, cps=4e-7)
    g = torch.Generator().manual_seed(5)
    f = {k: torch.randn(s, generator=g).to(dtype) for k, s in (("x", shape), ("a", shape), ("c", shape), ("z", (25, *shape)))}
    f["a"] *= 0.5
    levels = {n: even(n, 1 - 1e-6) for n in STEPS}  # diffusers has no level 1 where it takes logarithms
    got = run_many(folder, names, f, levels, eta=1.0)
    errors = {k: error(got[k]["x0"], theirs(*k, levels[k[1]], f, monkeypatch)) for k in got}
    assert len(errors) == len(names) * len(STEPS)
    assert not {k: e for k, e in errors.items() if not e < limits[k[0]]}


@pytest.mark.parametrize("eta", [0.0, 0.35, 0.5, 1.0])
def test_ddim_is_diffusers(folder, eta):
    """DDIM of any eta: diffusers' scheduler on x / |(1 - s, s)|, with the noise that the velocity implies."""
    f, levels = noisy_flow(25), {n: even(n) for n in STEPS}
    got = run_many(folder, ["ddim"], f, levels, eta)
    for n, sigmas in levels.items():
        norm = [math.hypot(1 - s, s) for s in sigmas]
        d = DDIMScheduler(num_train_timesteps=n, set_alpha_to_one=True, clip_sample=False, timestep_spacing="leading", steps_offset=0)
        d.alphas_cumprod = torch.tensor([((1 - s) / m) ** 2 for s, m in zip(sigmas[:-1], norm)][::-1], dtype=torch.float64).clamp(min=1e-30)
        d.set_timesteps(n)
        x = f["x"]
        for i, t in enumerate(d.timesteps):
            s = sigmas[i]
            noise = x + (1 - s) * (f["a"] * x + s * f["c"])
            if s == 1:  # x0 is not to be had from noise there: a sum without it
                data = x - (f["a"] * x + s * f["c"])
                to, k = sigmas[i + 1], eta
                x = (1 - to) * data + to * math.sqrt(1 - k * k) * noise + to * k * f["z"][i]
                continue
            z = f["z"][i] if i < n - 1 else torch.zeros_like(x)
            x = norm[i + 1] * d.step(noise, t, x / norm[i], eta=eta, variance_noise=z, return_dict=False)[0]
        assert error(got["ddim", n]["x0"], x) < 1e-12, n


# ---- Formulas ----------------------------------------------------------------------------------------


def snr(s):
    return -math.inf if s == 1 else math.inf if s == 0 else math.log((1 - s) / s)


def dpm3(f, sigmas):
    """DPM-Solver++(3M) with its first steps of orders 1 and 2; a level of pure noise leaves no difference to be used."""
    x, seen, n = f["x"], [], len(sigmas) - 1
    for i, (s, t) in enumerate(zip(sigmas, sigmas[1:])):
        v = f["a"] * x + s * f["c"]
        seen.insert(0, x - s * v)
        order = 1 if i in (0, n - 1) else 2 if i == 1 or (i == n - 2 and n < 15) else 3
        if order == 1:
            x = x + (t - s) * v
            continue
        h, back = snr(t) - snr(s), [snr(sigmas[j]) - snr(sigmas[j - 1]) for j in range(i, i - order + 1, -1)]
        y = t / s * x - (1 - t) * math.expm1(-h) * seen[0]
        first = (seen[0] - seen[1]) / (back[0] / h)
        if order == 2:
            y = y - (1 - t) * math.expm1(-h) * first / 2
        else:
            second, bend = (seen[1] - seen[2]) / (back[1] / h), torch.zeros_like(x)
            if back[1] < math.inf:
                bend = (first - second) / (back[0] / h + back[1] / h)
            slope = first + back[0] / h * bend
            y = y + (1 - t) * (math.expm1(-h) / h + 1) * slope - (1 - t) * ((math.expm1(-h) + h) / h**2 - 0.5) * bend
        x = y
    return x


def unipc(f, sigmas):
    """The corrector's weights from the linear system of the paper's order 2."""
    x, seen, last, n = f["x"], [], None, len(sigmas) - 1
    for i, (s, t) in enumerate(zip(sigmas, sigmas[1:])):
        m = x - s * (f["a"] * x + s * f["c"])
        if i > 0:
            before = sigmas[i - 1]
            h = snr(s) - snr(before)
            e = math.expm1(-h)
            base = s / before * last - (1 - s) * e * seen[0]
            if i == 1 or sigmas[i - 2] == 1:
                rho = 0.5 if i == 1 else (e / -h - 1) / e  # a difference from noise weighs nothing
                x = base - (1 - s) * e * rho * (m - seen[0])
            else:
                r, p1 = (snr(sigmas[i - 2]) - snr(before)) / h, e / -h - 1
                p2 = p1 / -h - 0.5
                rho = torch.linalg.solve(torch.tensor([[1, 1], [r, 1]], dtype=torch.float64), torch.tensor([p1 / e, 2 * p2 / e], dtype=torch.float64))
                x = base - (1 - s) * e * (rho[0] * (seen[1] - seen[0]) / r + rho[1] * (m - seen[0]))
        seen, last = [m, *seen[:1]], x
        if t == 0:
            return m
        h = snr(t) - snr(s)
        x = t / s * last - (1 - t) * math.expm1(-h) * m
        if 0 < i < n - 1 and sigmas[i - 1] < 1:
            x = x - (1 - t) * math.expm1(-h) * (m - seen[1]) / ((snr(s) - snr(sigmas[i - 1])) / h) / 2
    return x


def heun(f, sigmas):
    x = f["x"]
    for s, t in zip(sigmas, sigmas[1:]):
        v = f["a"] * x + s * f["c"]
        y = x + (t - s) * v
        x = y if t == 0 else x + (t - s) / 2 * (v + f["a"] * y + t * f["c"])
    return x


def test_deterministic(folder):
    """From the level 1 on, which diffusers leaves out."""
    f, levels = flow(dtype=torch.float64), {n: even(n) for n in STEPS}
    got = run_many(folder, ["heun", "dpm3", "unipc", "dpm1", "euler", "ddim", "cps", "flow_sde", "dance_sde"], f, levels)
    for n, sigmas in levels.items():
        for name, formula in (("heun", heun), ("dpm3", dpm3), ("unipc", unipc)):
            assert error(got[name, n]["x0"], formula(f, sigmas)) < 1e-12, (name, n)
        euler = got["euler", n]["x0"]
        assert error(got["dpm1", n]["x0"], euler) < 1e-12  # the same steps in other terms
        for name in ("ddim", "cps", "flow_sde", "dance_sde"):  # and without noise to the bit
            assert torch.equal(got[name, n]["x0"], euler) and "recorded" not in got[name, n], (name, n)


def sde(s, t, first, x, v, std):
    """Flow-GRPO's and DanceGRPO's mean, and the noise of a step."""
    noise = x + (1 - s) * v
    return x + (v + std**2 * noise / (2 * s)) * (t - s), std * math.sqrt(s - t)


def flow_sde(s, t, first, x, v, eta):
    return sde(s, t, first, x, v, eta * math.sqrt(s / (1 - (first if s == 1 else s))))


def dance_sde(s, t, first, x, v, eta):
    return sde(s, t, first, x, v, eta)


def ddim(s, t, first, x, v, eta):
    new = eta * t * math.sqrt(1 - (0 if s == 1 else t * (1 - s) / (s * (1 - t))) ** 2)
    return (1 - t) * (x - s * v) + math.sqrt(t**2 - new**2) * (x + (1 - s) * v), new


def cps(s, t, first, x, v, eta):
    return (1 - t) * (x - s * v) + t * math.cos(math.pi * eta / 2) * (x + (1 - s) * v), t * math.sin(math.pi * eta / 2)


@pytest.mark.parametrize("formula, eta", [(flow_sde, 0.7), (flow_sde, 1.3), (dance_sde, 0.3), (ddim, 0.5), (ddim, 1.0), (cps, 0.8), (cps, 1.0)])
def test_stochastic(folder, formula, eta):
    """Whole runs, and what is recorded: every step with noise, before and after it."""
    f, levels = noisy_flow(25), {n: even(n) for n in STEPS}
    if formula is dance_sde:
        del levels[25]  # whose last level is refused
    got = run_many(folder, [formula.__name__], f, levels, eta)
    for n, sigmas in levels.items():
        x, states = f["x"], []
        for i, (s, t) in enumerate(zip(sigmas, sigmas[1:])):
            mean, std = formula(s, t, sigmas[1], x, f["a"] * x + s * f["c"], eta)
            y = mean + std * f["z"][i]
            states += [(i, x, y)] if std > 0 else []
            x = y
        g = got[formula.__name__, n]
        assert error(g["x0"], x) < 1e-12
        assert g.get("recorded", torch.zeros(0)).tolist() == [i for i, _, _ in states]
        for k, (_, before, after) in enumerate(states):
            assert error(g["before"][k], before) < 1e-12 and error(g["after"][k], after) < 1e-12


@pytest.mark.parametrize("eta, window", [(0.7, (0, 1000)), (0.7, (2, 5)), (0.0, (0, 1000))])
def test_flow_sde_is_its_plugin(folder, eta, window):
    """examples/solver_flow_sde.c, to the bit."""
    f = noisy_flow(10)
    assert torch.equal(*(run(folder, s, 3.0, 10, f, eta=eta, window=window)["x0"] for s in ("flow_sde", example("solver_flow_sde"))))


@pytest.mark.parametrize(
    "solver, shift, steps, eta, says",
    [
        ("dance_sde", 3.0, 10, 0.3, "solver dance_sde: eta 0.3: the last noise level before 0 is 0.008929, and must be above eta^2 / 2 = 0.045"),
        ("ddim", 3.0, 4, 1.01, "solver ddim: eta 1.01: at most 1"),
        ("cps", 3.0, 4, 2.5, "solver cps: eta 2.5: at most 1"),
    ],
)
def test_refused(folder, solver, shift, steps, eta, says):
    save_file(noisy_flow(steps), folder / "in.safetensors")
    done = golden_solver(solver, shift, steps, 0, eta, 0, 1, folder / "in.safetensors", folder / "out.safetensors")
    assert done.returncode and says in done.stderr and not (folder / "out.safetensors").exists()
