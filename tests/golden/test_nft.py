"""algorithms/nft.c, an example's loss, advantage.c, optimizer.c and policies.c against float64 PyTorch written from the paper's formulas."""

import itertools
import os
import pathlib
import subprocess

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sd3 import ROOT, add_adapter, error, make_transformer

MODES = ["all", "positive_only", "negative_only", "one_only", "binary"]
TARGETS = ["attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_k_proj", "attn.add_v_proj"]


def run(*args):
    build = pathlib.Path(os.environ.get("BUILD", "build"))
    program = (build if build.is_absolute() else ROOT / build) / "tests" / "golden_nft"
    done = subprocess.run([program, *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def advantage_oracle(reward, group, std, mode, clip):
    reward, advantage = reward.numpy(), np.full(len(reward), np.nan)
    for g in np.unique(group):
        of = group == g
        spread = reward.std() if std == "global" else reward[of].std()
        advantage[of] = (reward[of] - reward[of].mean()) / (spread + 1e-4)
    a = np.clip(advantage, -clip, clip)
    if mode == "positive_only":
        a = np.clip(a, 0, clip)
    elif mode == "negative_only":
        a = np.clip(a, -clip, 0)
    elif mode == "one_only":
        a = np.where(a > 0, 1.0, 0.0)
    elif mode == "binary":
        a = np.sign(a)
    return torch.tensor(advantage), torch.tensor(np.clip(a / clip / 2 + 0.5, 0, 1))


@pytest.mark.parametrize("std, mode, clip", list(itertools.product(["global", "group"], MODES, [5.0, 0.7])))
def test_advantage(folder, std, mode, clip):
    g = torch.Generator().manual_seed(3)
    group = torch.tensor([i for i, size in enumerate([7, 2, 5, 1, 24]) for _ in range(size)])
    reward = torch.randn(len(group), generator=g, dtype=torch.float64)
    reward[group == 2] = 0.25  # a group that teaches nothing
    save_file(dict(reward=reward, group=group), folder / "in.safetensors")
    run("advantage", folder / "in.safetensors", folder / "out.safetensors", std, mode, clip, 0)
    got = load_file(folder / "out.safetensors")
    advantage, r = advantage_oracle(reward, group.numpy(), std, mode, clip)
    assert torch.allclose(got["advantage"], advantage, rtol=1e-12, atol=1e-12)
    assert torch.allclose(got["r"], r, rtol=1e-12, atol=1e-12)


def gdpo_oracle(value, weight, group, bound=0.0):
    """arXiv 2601.05242: every reward by its group's mean and spread, their weighted sum by the batch's."""
    total = np.zeros(value.shape[1])
    for v, w in zip(value.numpy(), weight.numpy(), strict=True):
        for g in np.unique(group):
            a = (v[group == g] - v[group == g].mean()) / (v[group == g].std() + 1e-4)
            total[group == g] += w * (np.clip(a, -bound, bound) if bound else a)
    return (total - total.mean()) / (total.std() + 1e-4)


@pytest.mark.parametrize("std, bound", list(itertools.product(["global", "group"], [0.0, 0.8])))
def test_gdpo(folder, std, bound):
    """Three rewards of very different scales, each normalised before they are added; the sum is normalised again."""
    g = torch.Generator().manual_seed(4)
    group = torch.tensor([i for i, size in enumerate([7, 2, 5, 24]) for _ in range(size)])
    value = torch.randn(3, len(group), generator=g, dtype=torch.float64) * torch.tensor([[1.0], [300.0], [1e-2]], dtype=torch.float64)
    value[1, group == 2] = 7
    weight = torch.tensor([1.0, 0.25, -2.0], dtype=torch.float64)
    save_file(dict(value=value, weight=weight, reward=value[0].clone(), group=group), folder / "in.safetensors")
    run("advantage", folder / "in.safetensors", folder / "out.safetensors", std, "all", 5.0, bound)
    got, advantage = load_file(folder / "out.safetensors"), torch.tensor(gdpo_oracle(value, weight, group.numpy(), bound))
    assert torch.allclose(got["advantage"], advantage, rtol=1e-10, atol=1e-12)
    assert torch.allclose(got["r"], (advantage.clip(-5, 5) / 10 + 0.5), rtol=1e-10, atol=1e-12)


def test_gdpo_drowns_nobody(folder):
    """Two rewards of equal spread within prompts; for one some prompts are easier than others.  Both count alike."""
    g = torch.Generator().manual_seed(6)
    group = torch.arange(40).repeat_interleave(24)
    value = torch.randn(2, len(group), generator=g, dtype=torch.float64)
    value[1] += 5 * torch.randn(40, generator=g, dtype=torch.float64)[group]
    save_file(dict(value=value, weight=torch.ones(2, dtype=torch.float64), reward=value[0].clone(), group=group), folder / "in.safetensors")
    run("advantage", folder / "in.safetensors", folder / "out.safetensors", "global", "all", 5.0, 0)
    within = value - torch.stack([value[:, group == k].mean(1) for k in range(40)], 1)[:, group]
    share = [np.corrcoef(load_file(folder / "out.safetensors")["advantage"], w)[0, 1] for w in within]
    assert abs(share[0] - share[1]) < 0.05 and min(share) > 0.6, share


def test_gdpo_without_a_reward(folder):
    """What is left out of a group moves nothing: the other groups' numbers are those of a run without it there."""
    g = torch.Generator().manual_seed(5)
    group = torch.tensor([i for i in range(4) for _ in range(6)])
    value = torch.randn(2, len(group), generator=g, dtype=torch.float64) * torch.tensor([[1.0], [50.0]], dtype=torch.float64)
    weight, left_out = torch.tensor([1.0, 0.5], dtype=torch.float64), torch.zeros(2, 4, dtype=torch.int64)
    left_out[1, 2] = left_out[0, 3] = left_out[1, 3] = 1
    given = value.clone()
    given[1, 12:15] = float("nan")  # left out because of these; the three others' scores do not count either
    save_file(dict(value=given, weight=weight, reward=value[0].clone(), group=group, left_out=left_out), folder / "in.safetensors")
    run("advantage", folder / "in.safetensors", folder / "out.safetensors", "global", "all", 5.0, 0)
    got, total = load_file(folder / "out.safetensors"), np.zeros(18)
    for k, n in (0, 18), (1, 12):  # rewards that count in the first three, and in the first two groups
        for of in (group.numpy()[:n] == i for i in range(n // 6)):
            v = value[k, :n].numpy()[of]
            total[:n][of] += weight[k].item() * (v - v.mean()) / (v.std() + 1e-4)
    advantage = torch.tensor((total - total.mean()) / (total.std() + 1e-4))
    r = advantage.clip(-5, 5) / 10 + 0.5
    assert torch.allclose(got["advantage"][:18], advantage, rtol=1e-10, atol=1e-12) and torch.allclose(got["r"][:18], r, rtol=1e-10, atol=1e-12)
    assert got["advantage"][18:].isnan().all() and got["r"][18:].isnan().all()


def loss_oracle(v, v_old, v_ref, x0, xt, t, r, beta, kl_beta, clip):
    """The formulas of the paper, in the dtype of the inputs."""
    t, dims = t.view(-1, 1, 1, 1), (1, 2, 3)
    positive, negative = beta * v + (1 - beta) * v_old, (1 + beta) * v_old - beta * v
    losses = []
    for u in (positive, negative):
        e = xt - t * u - x0
        w = e.detach().abs().mean(dims, keepdim=True).clip(min=1e-5)
        losses.append((e**2 / w).mean(dims))
    policy = ((r * losses[0] + (1 - r) * losses[1]) / beta).mean() * clip
    return policy + kl_beta * ((v - v_ref) ** 2).mean(), *losses


@pytest.mark.parametrize("beta, kl_beta, mode", list(itertools.product([0.1, 1.0], [0.0, 0.3], MODES)))
def test_loss(folder, beta, kl_beta, mode):
    g = torch.Generator().manual_seed(7)
    b, shape, clip = 6, (6, 3, 5, 7), 5.0
    names = ["v", "v_old", "v_ref", "x0", "eps"]
    x = {n: torch.randn(shape, generator=g) for n in names}
    x["v_old"] = x["v"] + 0.2 * x["v_old"]
    x["t"] = torch.rand(b, generator=g) * 0.95 + 0.03
    t = x["t"].view(-1, 1, 1, 1)
    x["xt"] = (1 - t) * x["x0"] + t * x["eps"]
    reward = torch.randn(b, generator=g, dtype=torch.float64)
    x["r"] = advantage_oracle(reward, np.array([0, 0, 0, 1, 1, 1]), "global", mode, clip)[1].float()
    save_file(x, folder / "in.safetensors")
    run("loss", "nft", folder / "in.safetensors", folder / "out.safetensors", clip, f"beta={beta}", f"kl_beta={kl_beta}")
    got = load_file(folder / "out.safetensors")
    d = {n: y.double() for n, y in x.items() if n != "eps"}
    d["v"].requires_grad_()
    loss, positive, negative = loss_oracle(**d, beta=beta, kl_beta=kl_beta, clip=clip)
    loss.backward()
    assert error(got["loss"], loss) < 1e-6
    assert error(got["policy"], d["r"] * positive + (1 - d["r"]) * negative) < 1e-6
    for name, want in ("d", negative - positive), ("r", d["r"]), ("dd", (negative - positive) ** 2), ("rd", d["r"] * (negative - positive)):
        assert error(got[f"note.{name}"], want) < 1e-5, name  # d: a difference of what agrees to 1e-6
    assert error(got["grad_v"], d["v"].grad) < 1e-6


def test_loss_at_a_perfect_prediction(folder):
    """e = 0: the weight's floor of 1e-5 keeps the loss finite, and zero."""
    g = torch.Generator().manual_seed(1)
    x0, eps, t = torch.randn(2, 1, 2, 2, generator=g), torch.randn(2, 1, 2, 2, generator=g), torch.tensor([0.5, 0.25])
    v = eps - x0
    xt = (1 - t.view(-1, 1, 1, 1)) * x0 + t.view(-1, 1, 1, 1) * eps
    save_file(dict(v=v, v_old=v.clone(), v_ref=v.clone(), x0=x0, eps=eps, xt=xt, t=t, r=torch.tensor([1.0, 0.0])),
              folder / "in.safetensors")  # fmt: skip
    run("loss", "nft", folder / "in.safetensors", folder / "out.safetensors", 5.0)
    got = load_file(folder / "out.safetensors")
    assert all(torch.isfinite(y).all() for y in got.values())
    assert got["loss"].abs() < 1e-6


def test_loss_of_the_example(folder):
    """examples/algorithm_rwr.c, from the same formula as its comment has."""
    g = torch.Generator().manual_seed(9)
    x = {n: torch.randn(5, 3, 4, 6, generator=g) for n in ("v", "v_old", "v_ref", "x0", "eps")}
    x |= dict(t=torch.rand(5, generator=g), r=torch.rand(5, generator=g), weight=torch.ones(5))
    t = x["t"].view(-1, 1, 1, 1)
    x["xt"], x["advantage"] = (1 - t) * x["x0"] + t * x["eps"], 5 * (2 * x["r"] - 1)
    save_file(x, folder / "in.safetensors")
    run("loss", "rwr", folder / "in.safetensors", folder / "out.safetensors", 5.0, "temperature=0.7")
    got, d = load_file(folder / "out.safetensors"), {n: y.double() for n, y in x.items()}
    d["v"].requires_grad_()
    far = ((d["v"] - (d["eps"] - d["x0"])) ** 2).mean((1, 2, 3))
    policy = far * (d["advantage"] / 0.7).exp()
    loss = policy.mean() + 1e-2 * ((d["v"] - d["v_ref"]) ** 2).mean()
    loss.backward()
    assert error(got["loss"], loss) < 1e-6 and error(got["policy"], policy) < 1e-6 and error(got["grad_v"], d["v"].grad) < 1e-6
    notes = dict(counts=policy / far, error=far)
    assert {n.removeprefix("note.") for n in got if n.startswith("note.")} == set(notes)
    assert all(error(got[f"note.{n}"], want) < 1e-6 for n, want in notes.items())


def make_batches(model, steps, b=4):
    c, g = model.config, torch.Generator().manual_seed(11)
    x = {}
    for k in range(steps):
        x[f"x0.{k}"] = torch.randn(b, c.in_channels, 6, 4, generator=g)
        x[f"eps.{k}"] = torch.randn(b, c.in_channels, 6, 4, generator=g)
        x[f"t.{k}"] = torch.rand(b, generator=g) * 0.9 + 0.05
        x[f"r.{k}"] = torch.rand(b, generator=g)
        x[f"text.{k}"] = torch.randn(b, 5, c.joint_attention_dim, generator=g)
        x[f"pooled.{k}"] = torch.randn(b, c.pooled_projection_dim, generator=g)
    return x


def eta_oracle(schedule, step):
    if schedule == "on_policy":
        return 0.0
    if schedule == "warm":
        return 0.0 if step < 1 else min(0.1 * (step - 1), 0.25)
    return min(0.1 * step, 0.25)


def train_oracle(peft_model, x, steps, beta, kl_beta, clip, schedule):
    """PEFT's model in float64, torch's AdamW, the paper's EMA and old policy."""
    theta = {n: p for n, p in peft_model.named_parameters() if "lora_" in n}
    old, ema = ({n: p.detach().clone() for n, p in theta.items()} for _ in range(2))
    opt = torch.optim.AdamW(theta.values(), lr=1e-2, weight_decay=1e-2, eps=1e-8)
    out = {}

    def velocity(k, xt, t):
        return peft_model(
            hidden_states=xt, encoder_hidden_states=x[f"text.{k}"].double(), timestep=1000 * t,
            pooled_projections=x[f"pooled.{k}"].double(), return_dict=False,
        )[0]  # fmt: skip

    for k in range(steps):
        x0, eps, t, r = (x[f"{n}.{k}"].double() for n in ("x0", "eps", "t", "r"))
        xt = (1 - t.view(-1, 1, 1, 1)) * x0 + t.view(-1, 1, 1, 1) * eps
        with torch.no_grad():
            now = {n: p.clone() for n, p in theta.items()}
            for n, p in theta.items():
                p.copy_(old[n])
            v_old = velocity(k, xt, t)
            for n, p in theta.items():
                p.copy_(now[n])
            with peft_model.disable_adapter():
                v_ref = velocity(k, xt, t)
        loss = loss_oracle(velocity(k, xt, t), v_old, v_ref, x0, xt, t, r, beta, kl_beta, clip)[0]
        opt.zero_grad()
        loss.backward()
        out[f"loss.{k}"] = loss.detach()
        out[f"grad_norm.{k}"] = torch.nn.utils.clip_grad_norm_(theta.values(), 1.0)
        opt.step()
        s = k + 1
        decay, eta = min((1 + s) / (10 + s), 0.9), eta_oracle(schedule, s)
        with torch.no_grad():
            for n, p in theta.items():
                ema[n] += (1 - decay) * (p - ema[n])
                old[n] = eta * old[n] + (1 - eta) * p
    for prefix, policy in (("theta", theta), ("old", old), ("ema", ema)):
        for n, p in policy.items():
            name = n.removeprefix("base_model.model.").replace(".default.weight", "")
            out[f"{prefix}.{name}"] = p.detach()
    return out


@pytest.mark.parametrize(
    "beta, kl_beta, schedule",
    [(1.0, 1e-4, "linear"), (0.1, 0.0, "linear"), (1.0, 0.3, "on_policy"), (0.1, 0.05, "warm")],
)
def test_updates(folder, beta, kl_beta, schedule):
    steps, clip = 4, 5.0
    model = make_transformer(qk_norm="rms_norm", dual_attention_layers=(0,))
    model.save_pretrained(folder / "transformer")
    x = make_batches(model, steps)
    peft_model = add_adapter(model, 4, 8, TARGETS)
    peft_model.save_pretrained(folder / "adapter")
    save_file(x, folder / "in.safetensors")
    run("train", folder / "transformer", folder / "adapter", folder / "in.safetensors", folder / "out.safetensors",
        beta, kl_beta, clip, schedule, steps)  # fmt: skip
    got, want = load_file(folder / "out.safetensors"), train_oracle(peft_model.double(), x, steps, beta, kl_beta, clip, schedule)
    assert got.keys() == want.keys()
    for name in want:
        assert error(got[name], want[name]) < 1e-5, name
