"""The configurations of Stable Diffusion 3.5 Medium resolve to the published settings."""

import pytest
import yaml
from command import contraflow

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]


def resolve(name):
    return yaml.safe_load(contraflow("config", "show", f"configs/sd35m-{name}.yaml").stdout)


def common(c):
    """What the reference has the same in all its runs."""
    assert (c["prompts"]["groups"], c["prompts"]["group_size"], c["prompts"]["height"], c["prompts"]["width"]) == (48, 24, 512, 512)
    assert (c["rollout"]["solver"], c["rollout"]["guidance"], c["eval"]["sampler"]["solver"]) == ("dpm2", 1, "euler")
    assert (c["eval"]["sampler"]["steps"], c["train"]["timestep_fraction"], c["train"]["max_grad_norm"]) == (40, 0.99, 1)
    o = c["optimizer"]
    assert [float(o[k]) for k in ("lr", "beta1", "beta2", "eps", "weight_decay")] == [3e-4, 0.9, 0.999, 1e-8, 1e-4]
    assert (float(c["nft"]["kl_beta"]), c["advantage"]["clip"], c["advantage"]["std"], c["advantage"]["mode"]) == (1e-4, 5, "global", "all")
    assert c["policy"]["ema_decay"] == 0.9
    # a GPU where there is one, for the judges as well, and as much at a time as fits
    sizes = [c["rollout"]["batch"], c["eval"]["sampler"]["batch"], c["train"]["micro_batch"], c["train"]["gradient_checkpointing"]]
    assert sizes == 4 * ["auto"] and {r["device"] for r in c["rewards"].values() if "device" in r} <= {"auto"}


def test_fast():
    """The published settings but for five keys."""
    want, fast = resolve("geneval"), resolve("geneval-fast")
    want["run"]["name"] = "sd35m-geneval-fast"
    want["nft"]["kl_every"] = 4
    want["rollout"]["timesteps"] = want["eval"]["sampler"]["timesteps"] = "float"
    want["model"].update(vae_dtype="bfloat16", vae_batch=12)
    assert fast == want


@pytest.mark.parametrize("name, rewards, beta, parts, steps, schedule", [
    ("geneval", ["geneval"], 1, 1, 10, "linear"), ("ocr", ["ocr"], 0.1, 2, 10, "warm"), ("pickscore", ["pickscore"], 1, 1, 10, "linear"),
    ("hpsv2", ["hpsv2"], 1, 1, 10, "linear"), ("multireward", ["pickscore", "hpsv2", "clipscore"], 0.1, 1, 25, "linear"),
])  # fmt: skip
def test_single_runs(name, rewards, beta, parts, steps, schedule):
    c = resolve(name)
    common(c)
    assert (c["lora"]["rank"], c["lora"]["alpha"], c["lora"]["init"]) == (32, 64, "gaussian")
    assert c["lora"]["targets"] == ["attn." + t for t in ATTENTION] and c["model"]["text_length"] == 128
    assert list(c["rewards"]) == rewards and all(r["weight"] == 1 for r in c["rewards"].values())
    assert (c["nft"]["beta"], c["train"]["steps_per_epoch"], c["rollout"]["steps"]) == (beta, parts, steps)
    assert c["policy"]["old_schedule"] == schedule and "stages" not in c and c["run"]["device"] == "auto"


def test_curriculum():
    c = resolve("curriculum")
    assert [s["train"]["max_steps"] for s in c["stages"].values()] == [800, 300, 200, 200, 100]
    first = [list(s["rewards"])[0] for s in c["stages"].values()]
    assert first == ["pickscore", "geneval", "pickscore", "geneval", "ocr"]
    for stage in c["stages"].values():
        common(stage)
        assert stage["rollout"]["steps"] == 40 and {"pickscore", "hpsv2", "clipscore"} <= set(stage["rewards"])
    kinds = [s["prompts"]["train"].split("/")[-1].split("-")[0] for s in c["stages"].values()]
    assert kinds == ["pickapic", "geneval", "pickapic", "geneval", "ocr"]


# FlowGRPO's published settings: guidance, solver, eta, clip, weight of the pull, window, standard deviation.
GRPO = {
    "flowgrpo-geneval": (4.5, "flow_sde", 0.7, 1e-4, 0.04, 0, "global"), "flowgrpo-ocr": (4.5, "flow_sde", 0.7, 1e-4, 0.04, 0, "global"),
    "flowgrpo-pickscore": (4.5, "flow_sde", 0.7, 1e-4, 0.01, 0, "global"), "flowgrpo-geneval-fast": (1, "cps", 0.8, 1e-5, 0, 3, "global"),
    "flowgrpo-pickscore-fast": (1, "cps", 0.8, 1e-5, 0, 3, "global"), "flowgrpo-guard-geneval": (4.5, "flow_sde", 0.7, 2e-6, 0, 0, "group"),
}  # fmt: skip


@pytest.mark.parametrize("name", GRPO)
def test_flow_grpo(name):
    c, (guidance, solver, eta, clip, beta, window, std) = resolve(name), GRPO[name]
    assert (c["rollout"]["guidance"], c["eval"]["sampler"]["guidance"]) == (guidance, guidance)
    assert (c["rollout"]["solver"], c["rollout"]["eta"], c["rollout"]["steps"], c["rollout"]["timesteps"]) == (solver, eta, 10, "float")
    g = c["flow_grpo"]
    assert float(c["optimizer"]["lr"]) == (1e-4 if "guard" in name else 3e-4)
    assert (float(g["clip"]), float(g["kl_beta"]), g["window"], c["advantage"]["std"]) == (clip, beta, window, std)
    assert (c["train"]["algorithm"], c["train"]["steps_per_epoch"], c["policy"]["old_schedule"], c["policy"]["ema_every"]) == ("flow_grpo", 2, "on_policy", 8)
    assert g["log_ratio"] == ("guard" if "guard" in name else "unscaled" if window else "exact")
    assert (c["eval"]["sampler"]["solver"], c["eval"]["sampler"]["steps"], c["run"]["dtype"], c["model"]["text_length"]) == ("euler", 40, "float16", 128)


def test_others():
    awm, dpo, dgpo = resolve("awm-geneval"), resolve("dpo-pickscore"), resolve("dgpo-geneval")
    assert (awm["train"]["algorithm"], awm["rollout"]["steps"], int(14 * awm["train"]["timestep_fraction"]), awm["prompts"]["groups"]) == ("awm", 14, 6, 72)
    assert (dpo["train"]["algorithm"], dpo["policy"]["old_every"], float(dpo["dpo"]["beta"])) == ("dpo", 40, 100)
    assert (dgpo["train"]["algorithm"], int(10 * dgpo["train"]["timestep_fraction"]), dgpo["dgpo"]["first_levels"]) == ("dgpo", 4, 7)


# FLUX.1-dev: algorithm, solver, steps, embedded guidance, images of a prompt, side, rank, share of the levels trained, standard deviation.
FLUX = {
    "pickscore": ("nft", "dpm2", 10, 1, 24, 512, 32, 0.4, "global"), "pickscore-384": ("nft", "euler", 8, 3.5, 16, 384, 64, 0.25, "group"),
    "flowgrpo-pickscore": ("flow_grpo", "flow_sde", 6, 3.5, 24, 512, 64, 0.99, "global"),
    "flowgrpo-geneval-fast": ("flow_grpo", "cps", 6, 3.5, 24, 512, 64, 0.99, "global"),
}  # fmt: skip


@pytest.mark.parametrize("name", FLUX)
def test_flux(name):
    c = yaml.safe_load(contraflow("config", "show", f"configs/flux1-dev-{name}.yaml").stdout)
    algorithm, solver, steps, guidance, images, side, rank, share, std = FLUX[name]
    r, p, e = c["rollout"], c["prompts"], c["eval"]["sampler"]
    assert (c["train"]["algorithm"], r["solver"], r["steps"], r["guidance"], e["guidance"], e["steps"]) == (algorithm, solver, steps, guidance, guidance, 28)
    assert (p["groups"], p["group_size"], p["height"], p["width"]) == (48, images, side, side)
    assert (c["lora"]["rank"], c["lora"]["alpha"], c["train"]["timestep_fraction"], c["advantage"]["std"]) == (rank, 2 * rank, share, std)
    assert (c["model"]["text_length"], c["run"]["dtype"], c["train"]["gradient_checkpointing"], list(c["rewards"])) == (
        128, "bfloat16", "auto", ["geneval" if "geneval" in name else "pickscore"]
    )  # fmt: skip


def test_flux2():
    """Flow-Factory's example for FLUX.2-klein's base."""
    c = yaml.safe_load(contraflow("config", "show", "configs/flux2-klein-pickscore.yaml").stdout)
    r, p, e = c["rollout"], c["prompts"], c["eval"]["sampler"]
    assert (r["solver"], r["steps"], r["guidance"], e["steps"], e["guidance"]) == ("euler", 8, 4, 50, 4)
    assert (p["groups"], p["group_size"], p["height"], p["width"], round(8 * c["train"]["timestep_fraction"])) == (48, 16, 384, 384, 2)
    assert (c["lora"]["rank"], c["lora"]["alpha"], float(c["optimizer"]["lr"]), c["nft"]["beta"], c["model"]["text_length"]) == (64, 128, 1e-4, 0.1, "auto")


def test_sana():
    """cosmos-rl's."""
    c = yaml.safe_load(contraflow("config", "show", "configs/sana-pickscore.yaml").stdout)
    r, p = c["rollout"], c["prompts"]
    assert (r["solver"], r["steps"], r["guidance"], r["shift"], c["train"]["timestep_fraction"]) == ("euler", 10, 1, 0, 0.99)
    assert (p["group_size"], p["height"], p["width"], len(c["lora"]["targets"]), c["lora"]["rank"], c["lora"]["alpha"]) == (24, 1024, 1024, 8, 4, 4)
    assert (float(c["optimizer"]["lr"]), c["nft"]["beta"], float(c["nft"]["kl_beta"]), list(c["rewards"])) == (3e-4, 1, 1e-4, ["pickscore"])


@pytest.mark.parametrize("name, model", [("sd35l", "stable-diffusion-3.5-large"), ("sd3m", "stable-diffusion-3-medium-diffusers")])
def test_other_models_of_the_family(name, model):
    """3.5 Medium's settings but for the weights."""
    c, want = yaml.safe_load(contraflow("config", "show", f"configs/{name}-pickscore.yaml").stdout), resolve("pickscore")
    want["run"]["name"], want["model"]["path"] = f"{name}-pickscore", f"models/{model}"
    assert c == want


# Published recipes of Qwen-Image: algorithm, solver, steps, guidance, shift, prompts, side, share of the levels trained, learning rate, std.
QWEN_IMAGE = {
    "ocr": ("nft", "euler", 10, 1, 0, 24, 512, 1, 3e-4, "group"), "pickscore": ("nft", "euler", 30, 4, 0, 32, 512, 0.34, 2e-4, "group"),
    "pickscore-384": ("nft", "euler", 12, 1, 3, 32, 384, 0.99, 3e-4, "global"),
    "flowgrpo-pickscore": ("flow_grpo", "flow_sde", 10, 4, 0, 32, 512, 0.99, 3e-4, "group"),
}  # fmt: skip


@pytest.mark.parametrize("name", QWEN_IMAGE)
def test_qwen_image(name):
    c = yaml.safe_load(contraflow("config", "show", f"configs/qwen-image-{name}.yaml").stdout)
    algorithm, solver, steps, guidance, shift, groups, side, share, lr, std = QWEN_IMAGE[name]
    r, p, e = c["rollout"], c["prompts"], c["eval"]["sampler"]
    assert (c["train"]["algorithm"], r["solver"], r["steps"], r["guidance"], e["guidance"], r["shift"], e["shift"]) == (
        algorithm, solver, steps, guidance, guidance, shift, shift
    )  # fmt: skip
    assert (p["groups"], p["group_size"], p["height"], p["width"], float(c["optimizer"]["lr"])) == (groups, 16, side, side, lr)
    assert (c["lora"]["rank"], c["lora"]["alpha"], c["train"]["timestep_fraction"], c["advantage"]["std"]) == (64, 128, share, std)
    assert (c["model"]["text_length"], c["policy"]["merge"], c["train"]["gradient_checkpointing"]) == (256, "lean", "auto")


# Z-Image, as Flow-Factory's examples have it: guidance (one more than theirs), steps, levels trained, algorithm, standard deviation, folder.
Z_IMAGE = {
    "z-image-pickscore": (5, 10, 2, "nft", "group", "Z-Image"), "z-image-turbo-pickscore": (1, 6, 3, "nft", "global", "Z-Image-Turbo"),
    "z-image-flowgrpo-pickscore": (5, 10, 1, "flow_grpo", "group", "Z-Image"),
}  # fmt: skip


@pytest.mark.parametrize("name", Z_IMAGE)
def test_z_image(name):
    c, (guidance, steps, levels, algorithm, std, folder) = yaml.safe_load(contraflow("config", "show", f"configs/{name}.yaml").stdout), Z_IMAGE[name]
    p, r, t = c["prompts"], c["rollout"], c["train"]
    assert (p["groups"], p["group_size"], p["height"], p["width"], c["model"]["path"]) == (48, 16, 512, 512, f"models/{folder}")
    assert (r["guidance"], c["eval"]["sampler"]["guidance"], r["steps"], int(steps * t["timestep_fraction"])) == (guidance, guidance, steps, levels)
    assert (t["algorithm"], c["advantage"]["std"], c["advantage"]["clip"], float(c["optimizer"]["lr"])) == (algorithm, std, 5, 3e-4)
    assert (c["lora"]["rank"], c["lora"]["alpha"], len(c["lora"]["targets"]), c["run"]["dtype"]) == (64, 128, 7, "bfloat16")
    if algorithm == "nft":
        n, old = c["nft"], c["policy"]
        assert (n["beta"], n["kl_beta"], r["solver"], old["old_schedule"], float(old["old_slope"]), old["old_max"]) == (0.1, 0, "euler", "linear", 1e-3, 0.5)
    else:
        g = c["flow_grpo"]
        assert (r["solver"], r["eta"], t["steps_per_epoch"], float(g["clip"]), g["kl_beta"]) == ("flow_sde", 0.7, 2, 1e-4, 0)
        assert (g["window"], g["window_low"], g["window_high"], c["policy"]["old_schedule"]) == (1, 1, 4, "on_policy")
