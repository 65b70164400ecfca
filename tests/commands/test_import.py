"""`contraflow config import`: configurations of DiffusionNFT and flow_grpo, as their trainers log them.

The dumps are made here: the values that the published settings resolve to, written down from their code.
"""

import json
import re

import pytest
import yaml
from command import ROOT, contraflow, fails


def base():
    """What both programs' base.py have in common once a setting of SD3.5 Medium is resolved."""
    return {
        "run_name": "", "seed": 42, "logdir": "logs", "save_dir": "logs/x", "mixed_precision": "fp16", "allow_tf32": True, "use_lora": True,
        "dataset": "/home/me/dataset/pickscore", "resolution": 512, "prompt_fn": "general_ocr", "prompt_fn_kwargs": {}, "per_prompt_stat_tracking": True,
        "pretrained": {"model": "stabilityai/stable-diffusion-3.5-medium", "revision": "main"},
        "sample": {
            "num_steps": 10, "eval_num_steps": 40, "guidance_scale": 4.5, "train_batch_size": 9, "num_image_per_prompt": 24, "test_batch_size": 16,
            "global_std": True, "noise_level": 0.7,
        },
        "train": {
            "batch_size": 9, "learning_rate": 3e-4, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_weight_decay": 1e-4, "adam_epsilon": 1e-8,
            "max_grad_norm": 1.0, "num_inner_epochs": 1, "adv_clip_max": 5, "timestep_fraction": 0.99, "lora_path": None, "ema": True,
        },
    }  # fmt: skip


def nft(rewards, beta=1.0, decay_type=1, steps=10, parts=1, geneval=False):
    c = base()
    c.update(debug=False, num_epochs=100000, save_freq=30, eval_freq=10, resume_from="", base_model="sd3", beta=beta, decay_type=decay_type, reward_fn=rewards)
    c["pretrained"]["revision"] = ""
    # eight GPUs: 72 images at a time, 16 times
    c["sample"].update(num_steps=steps, guidance_scale=1.0, num_batches_per_epoch=16, deterministic=True, solver="dpm2")
    c["train"].update(beta=1e-4, adv_mode="all", gradient_accumulation_steps=16 // parts)
    if geneval:
        c.update(dataset="/home/me/dataset/geneval", prompt_fn="geneval")
    return c


def grpo(rewards, beta, gpus=32, fast=False, guard=False, group=24, groups=48, geneval=False):
    c = base()
    c.update(num_checkpoint_limit=5, save_freq=30 if guard else 60, eval_freq=30 if guard else 60, reward_fn=rewards)
    batches = groups * group // (gpus * 9)
    # the window is in every dump, and only the fast trainers read it
    c["sample"].update(num_image_per_prompt=group, num_batches_per_epoch=batches, same_latent=False, sde_window_size=2, sde_window_range=(0, 10), eval_guidance_scale=4.5, batch_size=8)
    c["train"].update(beta=beta, cfg=True, clip_range=1e-4, use_8bit_adam=False, gradient_accumulation_steps=batches // 2)
    if fast:
        c["sample"].update(guidance_scale=1, eval_guidance_scale=1, noise_level=0.8, sde_window_size=3, sde_window_range=(0, 5), sde_type="cps")
        c["train"].update(cfg=False, clip_range=1e-5, timestep_fraction=1.0)
    if guard:
        c.update(rationorm=True, train_attribute=None)
        c["sample"].update(global_std=False)
        c["train"].update(clip_range=2e-6, highclip_range=2e-6, learning_rate=1e-4)
    if geneval:
        c.update(dataset="/home/me/dataset/geneval", prompt_fn="geneval")
    return c


class Tuple(yaml.SafeDumper):
    """PyYAML's ordinary dumper names tuples; the safe one does not know them."""


Tuple.add_representer(tuple, lambda d, t: d.represent_sequence("tag:yaml.org,2002:python/tuple", t))


def as_object(c):
    """What ConfigDict.to_yaml() writes."""

    def lines(v, key, indent):
        pad = "  " * indent
        if not isinstance(v, dict):
            text = yaml.dump({key: v}, Dumper=Tuple).rstrip("\n")
            return [pad + l for l in text.splitlines()]
        tag = "!!python/object:ml_collections.config_dict.config_dict.ConfigDict"
        inner = [l for k in sorted(v) for l in lines(v[k], k, indent + 2)]
        fields = [pad + "  _fields:", *inner] if inner else [pad + "  _fields: {}"]
        return [f"{pad}{key}: {tag}", f"{pad}  _allow_dotted_keys: false", f"{pad}  _convert_dict: true", *fields, f"{pad}  _locked: true", f"{pad}  _type_safe: true"]

    out = lines(c, "root", -1)
    return "\n".join([out[0].strip().removeprefix("root: "), *out[1:]]) + "\n"


FORMS = {
    "json": lambda c: json.dumps(c),  # config.to_json_best_effort()
    "yaml": lambda c: yaml.dump(c, Dumper=Tuple),  # str(config), as both trainers print it
    "object": as_object,  # config.to_yaml()
    "wandb": lambda c: "wandb_version: 1\n" + yaml.dump({"_wandb": {"desc": None, "value": {"t": {"1": [1, 5]}, "python_version": "3.10"}}, **{k: {"desc": None, "value": v} for k, v in c.items()}}, Dumper=Tuple),
}


def imported(tmp_path, config, *args, form="json"):
    """What comes out, as a file, resolved, and what was warned of."""
    source, out = tmp_path / f"theirs.{form}", tmp_path / "ours.yaml"
    source.write_text(FORMS[form](config))
    done = contraflow("config", "import", source, *args)
    out.write_text(done.stdout)
    return done.stdout, yaml.safe_load(contraflow("config", "show", out).stdout), done.stderr


def flat(v, at=""):
    if isinstance(v, dict):
        return {k2: x for k, w in v.items() for k2, x in flat(w, f"{at}.{k}" if at else k).items()}
    return {at: v}


def number(v):
    try:
        return float(v) if not isinstance(v, bool) else v
    except (TypeError, ValueError):
        return v


def differences(theirs, name):
    ours = flat(yaml.safe_load(contraflow("config", "show", f"configs/{name}.yaml").stdout))
    theirs = flat(theirs)
    return {k: (theirs.get(k), ours.get(k)) for k in {*theirs, *ours} if number(theirs.get(k)) != number(ours.get(k))}


# Our configurations against the dumps: where prompts lie, the seed, and what is written down in docs/migrating.md.
ALWAYS = {"run.name", "run.seed", "prompts.train", "prompts.test"}
KEPT = {"checkpoint.keep": (2, 3)}
PRECISION = {"run.dtype": ("float16", "bfloat16")}
JUDGE = "rewards.{}.dtype"
NFT = {
    "sd35m-geneval": (nft({"geneval": 1.0}, geneval=True), {**KEPT, **PRECISION, "eval.images_per_prompt": (1, 4)}),
    "sd35m-ocr": (nft({"ocr": 1.0}, 0.1, 2, parts=2), {**KEPT, **PRECISION, "eval.every": (20, 10), "checkpoint.every": (60, 30)}),
    "sd35m-pickscore": (nft({"pickscore": 1.0}), {**KEPT, **PRECISION, JUDGE.format("pickscore"): ("float32", "bfloat16")}),
    "sd35m-hpsv2": (nft({"hpsv2": 1.0}), {**KEPT, **PRECISION, JUDGE.format("hpsv2"): ("float32", "bfloat16")}),
    "sd35m-multireward": (
        nft({"pickscore": 1.0, "hpsv2": 1.0, "clipscore": 1.0}, 0.1, steps=25),
        {**KEPT, **PRECISION, **{JUDGE.format(r): ("float32", "bfloat16") for r in ("pickscore", "hpsv2", "clipscore")}},
    ),
}
# Their epochs have two steps, so that ours evaluate and save twice as often; DiffusionNFT's files give the rest.
OFTEN = {"eval.every": (120, 60), "checkpoint.every": (120, 30), "checkpoint.keep": (5, 3), "train.timesteps": ("rollout", "float")}
FOUR = {"eval.images_per_prompt": (1, 4)}
WINDOW = {"flow_grpo.window_high": (5, 0), "train.timestep_fraction": (1, 0.99)}
PICK = {JUDGE.format("pickscore"): ("float32", "bfloat16")}
GRPO = {
    "sd35m-flowgrpo-geneval": (grpo({"geneval": 1.0}, 0.04, geneval=True), 32, {**OFTEN, **FOUR}),
    "sd35m-flowgrpo-ocr": (grpo({"ocr": 1.0}, 0.04), 32, OFTEN),
    "sd35m-flowgrpo-pickscore": (grpo({"pickscore": 1.0}, 0.01), 32, {**OFTEN, **PICK}),
    "sd35m-flowgrpo-geneval-fast": (grpo({"geneval": 1.0}, 0, fast=True, geneval=True), 32, {**OFTEN, **FOUR, **WINDOW}),
    "sd35m-flowgrpo-pickscore-fast": (grpo({"pickscore": 1.0}, 0, fast=True, group=18, groups=64), 32, {**OFTEN, **PICK, **WINDOW}),
    "sd35m-flowgrpo-guard-geneval": (grpo({"geneval": 1.0}, 0.0, 16, guard=True, geneval=True), 16, {**OFTEN, **FOUR, "eval.every": None}),
}


@pytest.mark.parametrize("name", NFT)
def test_diffusion_nft(name, tmp_path):
    config, want = NFT[name]
    text, c, said = imported(tmp_path, config, "--gpus", 8)
    found = {k: v for k, v in differences(c, name).items() if k not in ALWAYS}
    assert {k: tuple(map(number, v)) for k, v in found.items()} == {k: tuple(map(number, v)) for k, v in want.items()}
    assert not said, said
    assert c["prompts"]["train"] == config["dataset"] + ("/train_metadata.jsonl" if config["prompt_fn"] == "geneval" else "/train.txt")
    assert c["run"]["seed"] == 42 and "# sample.noise_level: 0.7 (this solver adds no noise)" in text


@pytest.mark.parametrize("name", GRPO)
def test_flow_grpo(name, tmp_path):
    config, gpus, want = GRPO[name]
    text, c, said = imported(tmp_path, config, "--gpus", gpus)
    found = {k: v for k, v in differences(c, name).items() if k not in ALWAYS}
    want = {k: v for k, v in want.items() if v} | ({"checkpoint.every": (60, 30)} if "guard" in name else {})
    assert {k: tuple(map(number, v)) for k, v in found.items()} == {k: tuple(map(number, v)) for k, v in want.items()}
    assert not said, said
    assert c["train"]["algorithm"] == "flow_grpo" and ("sample.sde_window_size: 2" in text) == ("fast" not in name)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("config, gpus", [(nft({"ocr": 1.0}, 0.1, 2, parts=2), 8), (grpo({"ocr": 1.0}, 0.04), 32)])
def test_forms(form, config, gpus, tmp_path):
    """The same from each way of writing it down."""
    text, c, said = imported(tmp_path, config, "--gpus", gpus, form=form)
    _, want, _ = imported(tmp_path, config, "--gpus", gpus)
    assert c == want and not said


def test_objects_are_as_ml_collections_writes_them(tmp_path):
    """Where the package is there, its own files; as_object() above writes them otherwise."""
    ml = pytest.importorskip("ml_collections")
    config = grpo({"ocr": 1.0}, 0.04)
    (tmp_path / "theirs.yaml").write_text(ml.ConfigDict(config).to_yaml())
    mine, out = imported(tmp_path, config, "--gpus", 32, form="object")[0], contraflow("config", "import", tmp_path / "theirs.yaml", "--gpus", 32).stdout
    assert {k: number(v) for k, v in flat(yaml.safe_load(out)).items()} == {k: number(v) for k, v in flat(yaml.safe_load(mine)).items()}


def test_what_cannot_be_had(tmp_path):
    """Each is warned of by its name and stands in the file; nothing changes without a word."""
    config = nft({"ocr": 1.0, "taste": 0.5, "jpeg_compressibility": 0.25}) | {"use_lora": False, "per_prompt_stat_tracking": False, "new": {"key": 3}}
    config["train"].update(num_inner_epochs=2, learning_rte=1e-4)
    text, c, said = imported(tmp_path, config, "--gpus", 8)
    lost = ["use_lora: false", "per_prompt_stat_tracking: false", "train.num_inner_epochs: 2", "taste: 0.5", "new.key: 3", "train.learning_rte: 0.0001"]
    for what in lost:
        assert f"warning: {what}: " in said and f"# {what} (" in text, what
    assert len(said.splitlines()) == len(lost)
    assert {k: v["weight"] for k, v in c["rewards"].items()} == {"ocr": 1, "jpeg_compressibility": 0.25}
    guided = grpo({"ocr": 1.0}, 0.04)
    guided["train"]["cfg"] = False
    assert "train.cfg: false: the update has the rollout's guidance" in imported(tmp_path, guided, "--gpus", 32)[2]


def test_solvers(tmp_path):
    for theirs, deterministic, solver, eta in [("flow", True, "euler", "auto"), ("flow", False, "flow_sde", 0.7), ("dance", False, "dance_sde", 0.7), ("ddim", True, "ddim", 0), ("dpm1", True, "dpm1", "auto")]:
        config = nft({"ocr": 1.0})
        config["sample"].update(solver=theirs, deterministic=deterministic)
        c = imported(tmp_path, config, "--gpus", 8)[1]["rollout"]
        assert (c["solver"], number(c["eta"])) == (solver, eta)


def test_other_models(tmp_path):
    """FLUX.1 and Qwen-Image have larger adapters, the latter's trainer windows and no averaged policy."""
    flux = grpo({"pickscore": 1.0}, 0, 32)
    flux["pretrained"]["model"], flux["mixed_precision"] = "black-forest-labs/FLUX.1-dev", "bf16"
    c = imported(tmp_path, flux, "--gpus", 32)[1]
    assert (c["lora"]["rank"], len(c["lora"]["targets"]), c["model"]["path"], c["flow_grpo"]["window"]) == (64, 12, "models/FLUX.1-dev", 0)
    qwen = grpo({"pickscore": 1.0}, 0, 32)
    qwen["pretrained"]["model"], qwen["train"]["ema"] = "Qwen/Qwen-Image", False
    c = imported(tmp_path, qwen, "--gpus", 32)[1]
    assert ("img_mlp.net.2" in c["lora"]["targets"], c["flow_grpo"]["window"], c["policy"]["ema_decay"]) == (True, 2, 0)
    qwen["pretrained"]["model"] = "Qwen/Qwen-Image-Edit"
    assert "editing" in imported(tmp_path, qwen, "--gpus", 32)[2]


def test_refused(tmp_path):
    def refused(config, *args):
        (tmp_path / "c.json").write_text(json.dumps(config))
        return fails("config", "import", tmp_path / "c.json", *args)

    config = nft({"ocr": 1.0})
    assert "add --gpus N" in refused(config)
    assert "no whole number of prompts" in refused(grpo({"ocr": 1.0}, 0.04), "--gpus", 31)
    assert "neither a configuration of DiffusionNFT" in refused({"seed": 1})
    assert "DPO or SFT" in refused({**grpo({"ocr": 1}, 0), "train": {"algorithm": "dpo", "clip_range": 1}})
    config["train"]["learning_rate"] = "fast"
    assert "optimizer.lr" in refused(config, "--gpus", 8)
    config["train"]["learning_rate"], config["reward_fn"] = 1e-4, {}
    assert "reward" in refused(config, "--gpus", 8)
    (tmp_path / "nft.py").write_text("config = 1\n")
    assert "is Python, which is not run here" in fails("config", "import", tmp_path / "nft.py")
    assert "sd3_geneval" in fails("config", "import", "config/nft.py:sd3_geneva")


def test_names(tmp_path):
    """A published setting by the name that their trainer is started with."""
    pairs = re.findall(r"^\| `(config/\w+\.py:\w+)` \| \[`([\w-]+)`\]", contraflow("config", "migrating").stdout, re.M)
    assert len(pairs) > 10
    for theirs, ours in pairs:
        (tmp_path / f"{ours}.yaml").write_text(contraflow("config", "import", theirs).stdout)
        assert contraflow("config", "show", tmp_path / f"{ours}.yaml").stdout == contraflow("config", "show", f"configs/{ours}.yaml").stdout
    assert contraflow("config", "import", "sd3_geneval").stdout == contraflow("config", "import", "config/nft.py:sd3_geneval").stdout


def test_page():
    """docs/migrating.md has the tables of `config migrating`, and names every key in which configs/ differ from a dump."""
    page = (ROOT / "docs/migrating.md").read_text()
    assert page.endswith(contraflow("config", "migrating").stdout)
    told = page[page.index("differ from an imported dump") : page.index("## Tables")]
    for key in {k for _, want in NFT.values() for k in want} | {k for _, _, want in GRPO.values() for k in want} | ALWAYS:
        assert f"`{re.sub(r'^rewards[.][a-z0-9]+', 'rewards.*', key)}`" in told, key
