"""The whole loop on tiny Z-Image pipelines, prompts of different lengths among them: the reward rises, resuming repeats bits, and any
number of ranks makes the same run."""

import families
import torch
import z_image
from sd3 import contraflow

TARGETS = [x for x in z_image.LAYERS if x != "cap_embedder.1"]
LARGE = dict(scaling_factor=0.06)  # latents that the decoder's pictures show


def trainable(folder, **changes):
    return families.trainable(z_image, None, folder, targets=TARGETS, vae=LARGE, **changes)


def test_the_reward_rises(tmp_path):
    """Two ranks, gradient checkpointing; each prompt is encoded once, and the adapter samples elsewhere."""
    config = trainable(tmp_path)
    rows, newest = families.train(config, tmp_path / "run", 2, "train.gradient_checkpointing=true")
    assert len(rows) >= 28 and all(r["grad_norm"] > 0 for r in rows)
    families.check_rises(rows)
    assert len(list((tmp_path / "cache").glob("*/*/*.zst"))) == 4
    contraflow("sample", "--model", tmp_path / "model", "--lora", newest / "lora", "--prompt", "two dogs", "--steps", 4, "--height", 32, "--width", 32,
               "-o", tmp_path / "x.png")  # fmt: skip


def test_resume_and_ranks(tmp_path):
    """With guidance: three steps and three more are the same bits as six; 1, 2 and 3 ranks differ by rounding."""
    config = trainable(tmp_path, guidance=3.0)
    _, newest = families.train(config, tmp_path / "whole", 2, "train.max_steps=6")
    want = families.adapter_of(newest)
    _, newest = families.train(config, tmp_path / "halves", 2, "train.max_steps=3")
    assert newest.name == "step-00000003"
    families.launch(2, "train", "--run", tmp_path / "halves", "--resume", "--set", "train.max_steps=6", "--quiet")
    got = families.adapter_of(tmp_path / "halves/checkpoints/step-00000006")
    assert got.keys() == want.keys() and all(torch.equal(got[k], want[k]) for k in want)
    for ranks in 1, 3:
        _, newest = families.train(config, tmp_path / f"{ranks}", ranks, "train.max_steps=6")
        got = families.adapter_of(newest)
        apart = max((got[k] - want[k]).abs().max().item() for k in want)
        print(f"{ranks} ranks: adapters are {apart:.1e} apart")
        assert apart < 1e-5


def test_everything_else(tmp_path):
    """8-bit rollouts, sizes that are found, checkpointing of some blocks: they run, and what changes no number changes none."""
    config = trainable(tmp_path)
    adapters = {}
    for name, sets in dict(plain=[], auto=["rollout.batch=auto", "train.micro_batch=auto"], again=["train.gradient_checkpointing=3"], fp8=["rollout.fp8=true"]).items():
        _, newest = families.train(config, tmp_path / name, 1, "train.max_steps=2", *sets)
        adapters[name] = families.adapter_of(newest)
    for name in "auto", "again":
        assert max((adapters[name][k] - v).abs().max().item() for k, v in adapters["plain"].items()) < 1e-5
    assert any(not torch.equal(adapters["fp8"][k], v) for k, v in adapters["plain"].items())
