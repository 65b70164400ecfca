"""Whole images of a small Stable Diffusion 3.5 with each solver, against a loop over diffusers' transformer, scheduler and decoder."""

import numpy as np
import pytest
import torch
from diffusers.schedulers import scheduling_flow_match_euler_discrete
from PIL import Image
from safetensors.torch import load_file, save_file
from sd3 import contraflow, error
from test_builtin_solvers import even, scheduler
from test_pipeline import PROMPTS, SD35, latents, make, save, words  # noqa: F401  (words is a fixture)
from test_solver import library

SIZE = (24, 40)
LENGTH = 20


@pytest.fixture(scope="module")
def model(words, tmp_path_factory):  # noqa: F811
    pipe, folder = make(words, transformer=SD35), tmp_path_factory.mktemp("solver_images")
    save(pipe, words, folder)
    save_file({"latents": latents(pipe, dict(size=SIZE))}, folder / "start.safetensors")
    with torch.no_grad():
        text, _, pooled, _ = pipe.encode_prompt(PROMPTS[:3:2], None, None, do_classifier_free_guidance=False, max_sequence_length=LENGTH)
    return pipe, folder, dict(encoder_hidden_states=text, pooled_projections=pooled)


def ours(folder, solver, steps, *args):
    h, w = SIZE
    contraflow("sample", "--model", folder, "--prompt", PROMPTS[0], "--prompt", PROMPTS[2], "--steps", steps, "--solver", solver, "--height", h, "--width", w,
               "--latents", folder / "start.safetensors", "--save-latents", folder / "x0.safetensors", "--text-length", LENGTH, "--columns", 2,
               "-o", folder / "grid.png", *args)  # fmt: skip
    return load_file(folder / "x0.safetensors")["latents"], torch.from_numpy(np.array(Image.open(folder / "grid.png").convert("RGB"))).float()


def theirs(model, name, levels, monkeypatch, whole=False, z=None):
    """diffusers' scheduler, step by step: x0 and its images."""
    pipe, folder, text = model
    n, x = len(levels) - 1, load_file(folder / "start.safetensors")["latents"]
    s = scheduler(name, n, torch.tensor(levels, dtype=torch.float64))
    with torch.no_grad():
        for i, t in enumerate(s.timesteps):
            told = torch.floor(t + 1e-9) if whole else t
            v = pipe.transformer(hidden_states=x, timestep=told.float().expand(len(x)), return_dict=False, **text)[0]
            if z is not None:
                monkeypatch.setattr(scheduling_flow_match_euler_discrete, "randn_tensor", lambda shape, dtype, **_: z[i].to(dtype))
            x = s.step(v, t, x, return_dict=False, **(dict(variance_noise=z[i]) if name == "ddim" else {}))[0].float()
        decoded = pipe.vae.decode(x / pipe.vae.config.scaling_factor + (pipe.vae.config.shift_factor or 0), return_dict=False)[0]
    return x, ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1)


def same(got, want, limit=5e-6):
    (x, grid), (x_want, images), (h, w) = got, want, SIZE
    assert error(x, x_want) < limit
    for i, image in enumerate(images):
        at = 2 + i * (w + 2)
        assert (grid[2 : 2 + h, at : at + w] - image).abs().max() <= 1


@pytest.mark.parametrize("name", ["euler", "heun", "dpm1", "dpm2", "dpm3", "unipc"])
def test_solver(model, name, monkeypatch):
    """Ten steps on an even grid.  UniPC cannot begin at 1 in diffusers: its beginning is another one, by a little."""
    first = 1 - 1e-6 if name == "unipc" else 1.0
    limit = 1e-3 if name == "unipc" else 5e-6
    same(ours(model[1], name, 10, "--grid", "even"), theirs(model, name, even(10, first), monkeypatch), limit)


def test_integer_timesteps(model, monkeypatch):
    s = scheduling_flow_match_euler_discrete.FlowMatchEulerDiscreteScheduler(shift=3.0)
    s.set_timesteps(10)
    levels = s.sigmas.tolist()
    got = ours(model[1], "dpm2", 10, "--timesteps", "integer")
    same(got, theirs(model, "dpm2", levels, monkeypatch, whole=True))
    assert error(got[0], theirs(model, "dpm2", levels, monkeypatch)[0]) > 1e-3


SPY = """#include "sampler/solver_plugin.h"
static int noise(const struct contraflow_levels *l, int i, struct contraflow_law *out) { (void)i; out->noise = l->eta; return 0; }
static const struct contraflow_solver solver = { .abi = CONTRAFLOW_SOLVER_ABI, .eta = 1, .law = noise };
const struct contraflow_solver *contraflow_solver(void) { return &solver; }
"""


def test_noise(model, monkeypatch):
    """With all the noise of a level new, diffusers has DDIM and CPS; the noise itself is the program's, told by a solver that gives it back."""
    z = [ours(model[1], library("spy", SPY), i + 1)[0] for i in range(4)]
    assert all(0.9 < a.std() < 1.1 for a in z) and error(z[0], z[1]) > 1
    for name in "ddim", "cps":
        same(ours(model[1], name, 4, "--grid", "even", "--eta", 1), theirs(model, name, even(4, 1 - 1e-6), monkeypatch, z=z), 1e-4)
