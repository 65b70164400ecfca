"""FlowGRPO, AWM, DPO and DGPO against float64 PyTorch written from the papers' formulas, with autograd's gradients."""

import itertools
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from sd3 import error
from test_nft import run

DIMS = (1, 2, 3)
NUMBERS = 12 * 7 * 5


def inputs(seed, b=8, near=0.0):
    """Random terms; near: how far v is from v_old, in units of it."""
    g = torch.Generator().manual_seed(seed)
    x = {n: torch.randn(b, 12, 7, 5, generator=g) for n in ("v", "v_old", "v_ref", "x0", "eps", "z", "xt")}
    x["v_old"] = x["v"] + near * x["v_old"]
    x["v_ref"] = x["v"] + 0.3 * x["v_ref"]
    x |= dict(t=torch.rand(b, generator=g) * 0.9 + 0.05, r=torch.rand(b, generator=g), weight=torch.ones(b))
    x["r"][0::2] = 0.5 + 0.5 * x["r"][0::2]  # A of both signs
    x["r"][1::2] = 0.5 * x["r"][1::2]
    x["advantage"] = 5 * (2 * x["r"] - 1)
    return x


def compare(folder, name, x, oracle, *sets, notes=None, clip=5.0):
    """loss, its gradient by v and the notes; oracle(terms in float64) -> policy (B), the mean's factor, the pull's terms (B) times its weight."""
    save_file({n: y.contiguous() for n, y in x.items()}, folder / "in.safetensors")
    run("loss", name, folder / "in.safetensors", folder / "out.safetensors", clip, *sets)
    got, d = load_file(folder / "out.safetensors"), {n: y.double() for n, y in x.items()}
    d["v"].requires_grad_()
    policy, times, pull = oracle(d)
    loss = (policy * d["weight"]).mean() * times + (pull.mean() if torch.is_tensor(pull) else 0)
    loss.backward()
    assert torch.isfinite(got["grad_v"]).all()
    assert error(got["policy"], policy) < 1e-6 and error(got["loss"], loss) < 1e-6 and error(got["grad_v"], d["v"].grad) < 1e-6
    for note, want in (notes or {}).items():
        assert error(got[f"note.{note}"], want(d)) < 2e-6, note
    return got


# ---- FlowGRPO -------------------------------------------------------------------------------------------


def flow_sde(s, to, a=0.7):
    std = a * math.sqrt(s / (1 - s))
    dt = to - s
    return 1 + std**2 * dt / (2 * s), (1 + std**2 * (1 - s) / (2 * s)) * dt, std * math.sqrt(-dt), dt


def with_law(x):
    """Steps of flow_sde, and where v_old's of them led."""
    s = torch.linspace(0.95, 0.3, len(x["t"]), dtype=torch.float64).tolist()
    x["law"] = torch.tensor([flow_sde(a, a - 0.06) for a in s])
    x["t"] = torch.tensor(s).float()
    cx, cv, std, _ = (c.view(-1, 1, 1, 1) for c in x["law"].double().T)
    x["next"] = (cx * x["xt"].double() + cv * x["v_old"].double() + std * x["z"].double()).float()
    return x


def log_density(d, which, to):
    """mean over a latent's numbers of the log of the step's normal density, every term of it."""
    cx, cv, std, _ = (c.view(-1, 1, 1, 1) for c in d["law"].T)
    mean = cx * d["xt"] + cv * d[which]
    return (-((to - mean) ** 2) / (2 * std**2) - std.log() - math.log(2 * math.pi) / 2).mean(DIMS)


def reached(d):
    cx, cv, std, _ = (c.view(-1, 1, 1, 1) for c in d["law"].T)
    return cx * d["xt"] + cv * d["v_old"] + std * d["z"]


def log_ratio(d, kind):
    _, cv, std, _ = (c.view(-1, 1, 1, 1) for c in d["law"].T)
    to = reached(d)
    if kind == "exact":
        return log_density(d, "v", to) - log_density(d, "v_old", to)
    if kind == "unscaled":
        mean = [cx_v for cx_v in (to - std * d["z"] - cv * d["v_old"] + cv * d[n] for n in ("v", "v_old"))]
        return ((to - mean[1]) ** 2).mean(DIMS) - ((to - mean[0]) ** 2).mean(DIMS)
    return (d["z"] * cv * (d["v"] - d["v_old"])).mean(DIMS)


def pull_of(d, kind, beta):
    _, cv, std, dt = d["law"].T
    far = ((d["v"] - d["v_ref"]) ** 2).mean(DIMS)
    weight = {"published": cv**2 * -dt / (2 * std**2), "exact": cv**2 / (2 * std**2), "velocity": torch.ones_like(cv)}[kind]
    return beta * weight * far


def ppo(lr, a, clip):
    ratio = lr.exp()
    return torch.maximum(-a * ratio, -a * ratio.clamp(1 - clip, 1 + clip))


@pytest.mark.parametrize("kind, old, kl", list(itertools.product(["exact", "unscaled", "guard"], ["replayed", "rollout"], ["published", "exact", "velocity"])))
def test_flow_grpo(folder, kind, old, kl):
    """Half of the ratios are outside of the clip, on both sides, with advantages of both signs."""
    x = with_law(inputs(3, b=12, near=0.05))
    lr = log_ratio({n: y.double() for n, y in x.items()}, kind)
    clip = (lr.exp() - 1).abs().median().item() * 1.001
    outside = (lr.exp() - 1).abs() > clip
    stops = outside & ((lr > 0) == (x["advantage"] > 0))
    assert stops.any() and (outside & ~stops).any() and (~outside).any() and (lr > 0).any() and (lr < 0).any()

    def oracle(d):
        policy = ppo(log_ratio(d, kind), d["advantage"], clip)
        return policy / -d["law"][:, 3] if kind == "guard" else policy, 1, pull_of(d, kl, 0.04)

    sets = [f"clip={clip!r}", f"log_ratio={kind}", f"old={old}", f"kl={kl}", "kl_beta=0.04"]
    if old == "rollout":  # what the rollout stored is in float32, and only that of v_old is left out of the file
        x["v_old"], kept = x["v_old"] * 0, x["v_old"]
        got_old = compare_rollout(folder, x, kept, oracle, sets)
    else:
        got_old = compare(folder, "flow_grpo", x, oracle, *sets)
    up = x["advantage"] > 0
    assert torch.equal(got_old["note.clipped_up"] > 0, stops & up) and torch.equal(got_old["note.clipped_down"] > 0, stops & ~up)
    assert error(got_old["note.ratio"], lr.exp()) < 1e-6


def compare_rollout(folder, x, kept, oracle, sets):
    """The program gets no v_old: it knows where the step led."""
    save_file({n: y.contiguous() for n, y in x.items()}, folder / "in.safetensors")
    run("loss", "flow_grpo", folder / "in.safetensors", folder / "out.safetensors", 5.0, *sets)
    got, d = load_file(folder / "out.safetensors"), {n: y.double() for n, y in x.items()}
    d["v_old"] = kept.double()
    d["v"].requires_grad_()
    policy, _, pull = oracle(d)
    (policy.mean() + pull.mean()).backward()
    assert error(got["policy"], policy) < 1e-5 and error(got["grad_v"], d["v"].grad) < 1e-5  # x' was rounded to float32
    return got


def test_flow_grpo_at_the_start(folder):
    """v = v_old: the ratio is exactly 1, and the gradient that of -A lr, without a bias from the clip."""
    x = with_law(inputs(5, near=0.0))
    got = compare(folder, "flow_grpo", x, lambda d: (ppo(log_ratio(d, "exact"), d["advantage"], 1e-4), 1, 0), "clip=1e-4", "kl_beta=0")
    assert (got["note.ratio"] == 1).all() and (got["note.log_ratio"] == 0).all() and (got["note.old_kl"] == 0).all()
    assert (got["note.clipped_up"] == 0).all() and got["grad_v"].abs().sum() > 0
    cv, std = x["law"][:, 1].view(-1, 1, 1, 1), x["law"][:, 2].view(-1, 1, 1, 1)
    want = -x["advantage"].view(-1, 1, 1, 1) * x["z"] * cv / std / NUMBERS / len(cv)
    assert error(got["grad_v"], want.double()) < 1e-6


def test_flow_dppo(folder):
    """No gradient where the divergence has reached the bound and the step would lead further; the value stays."""
    x = with_law(inputs(6, b=12, near=0.05))
    d = {n: y.double() for n, y in x.items()}
    lr, cv, std = log_ratio(d, "exact"), d["law"][:, 1], d["law"][:, 2]
    k = cv**2 * ((d["v"] - d["v_old"]) ** 2).mean(DIMS) / (2 * std**2)
    bound = k.median().item() * 1.001
    stop = (k >= bound) & ((lr > 0) == (d["advantage"] > 0))
    assert stop.any() and not stop.all()

    def oracle(d):
        ratio = log_ratio(d, "exact").exp()
        return -d["advantage"] * torch.where(stop, ratio.detach(), ratio), 1, 0

    got = compare(folder, "flow_grpo", x, oracle, "rule=kl", f"kl_bound={bound!r}", "kl_beta=0")
    assert torch.equal((got["note.clipped_up"] + got["note.clipped_down"]) > 0, stop) and error(got["note.old_kl"], k) < 1e-6


# ---- AWM ------------------------------------------------------------------------------------------------


def matching(d, which="v"):
    return ((d[which] - (d["eps"] - d["x0"])) ** 2).mean(DIMS)


@pytest.mark.parametrize("power, old_beta, kl_beta", [(0.25, 1.0, 1e-3), (0.0, 0.5, 0.0), (1.0, 0.0, 0.2)])
def test_awm(folder, power, old_beta, kl_beta):
    def oracle(d):
        e, dist = 1e-10, matching(d)
        lp = -d["t"] * ((dist + e) ** power - e**power) / power if power else -dist
        policy = -(2 * d["r"] - 1) * (lp - lp.detach()).exp() + old_beta * ((d["v"] - d["v_old"]) ** 2).mean(DIMS)
        return policy, 1, kl_beta * ((d["v"] - d["v_ref"]) ** 2).mean(DIMS)

    compare(folder, "awm", inputs(7, near=0.2), oracle, f"power={power}", f"old_beta={old_beta}", f"kl_beta={kl_beta}", notes=dict(error=matching))


# ---- DPO ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference, beta", [("base", 100.0), ("old", 3.0)])
def test_dpo(folder, reference, beta):
    """Couples: rows 2 i and 2 i + 1 are a prompt's best and worst, of one eps and level.  The gradient is that of -log sigmoid."""
    x, ref = inputs(8, near=0.2), "v_ref" if reference == "base" else "v_old"
    x["eps"], x["t"] = (y[0::2].repeat_interleave(2, 0) for y in (x["eps"], x["t"]))
    x["weight"] = torch.tensor([1.0, -1.0]).repeat(4)

    def margins(d):
        far = matching(d) - matching(d, ref)
        return -beta / 2 * (far[0::2] - far[1::2])

    d = {n: y.double() for n, y in x.items()}
    x["group"] = margins(d).repeat_interleave(2)
    save_file({n: y.contiguous() for n, y in x.items()}, folder / "in.safetensors")
    run("loss", "dpo", folder / "in.safetensors", folder / "out.safetensors", 5.0, f"beta={beta}", f"reference={reference}")
    got = load_file(folder / "out.safetensors")
    d["v"].requires_grad_()
    loss = -torch.nn.functional.logsigmoid(margins(d))
    loss.mean().backward()
    assert error(got["group"].view(-1, 2).sum(1), margins(d)) < 1e-6
    assert error(got["grad_v"], d["v"].grad) < 1e-6 and error(got["note.dpo"][0::2], loss) < 1e-6
    assert torch.equal(got["note.right"][0::2] > 0, margins(d) > 0)


# ---- DGPO -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference, clips", [("base", False), ("base", True), ("old", True)])
def test_dgpo(folder, reference, clips):
    """Two prompts of four images: -log sigmoid(-s) has the gradient of the loss, up to beta / G."""
    beta, G, ref = 30.0, 4, "v_ref" if reference == "base" else "v_old"
    x = inputs(9, near=0.05)
    x["weight"] = torch.full((8,), 1 / G)

    def sums(d):
        return (d["advantage"] * beta / G * (matching(d) - matching(d, ref))).view(2, G).sum(1)

    d = {n: y.double() for n, y in x.items()}
    x["group"] = sums(d).repeat_interleave(G)
    gone = (matching(d, "v_old") - matching(d)).exp() - 1
    clip = gone.abs().median().item() * 0.9 if clips else 0.0
    stop = (gone.abs() > clip) & ((gone > 0) == (d["advantage"] > 0)) if clip else torch.zeros(8, dtype=torch.bool)
    assert not clip or (stop.any() and not stop.all())

    def oracle(d):
        dist = matching(d)
        held = torch.where(stop, dist.detach(), dist)
        return torch.sigmoid(d["group"]) * d["advantage"] * held * G, 1, 1e-3 * ((d["v"] - d["v_ref"]) ** 2).mean(DIMS)

    got = compare(folder, "dgpo", x, oracle, f"beta={beta}", f"clip={clip}", f"reference={reference}")
    assert error(got["group"].view(2, G).sum(1), sums(d)) < 1e-6 and torch.equal(got["note.stopped"] > 0, stop)
    if not clip:  # and that is the preference's own gradient
        d["v"].requires_grad_()
        (-torch.nn.functional.logsigmoid(-sums(d))).sum().mul(G / beta / 8).backward()
        pull = 1e-3 * 2 * (d["v"] - d["v_ref"]).detach() / NUMBERS / 8
        assert error(got["grad_v"], d["v"].grad + pull) < 1e-6
