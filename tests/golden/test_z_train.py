"""The whole loop on tiny Z-Image pipelines, prompts of different lengths among them: the reward rises, resuming repeats bits, and any
number of ranks makes the same run."""

import math

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


FEW = ["prompts.groups=3", "prompts.group_size=5", "rollout.steps=4", "optimizer.lr=1e-3"]


def learnt(adapter):
    """All of B, which began as zeros: single numbers are rounding's where a gradient is near zero."""
    return torch.cat([v.flatten() for k, v in sorted(adapter.items()) if "lora_B" in k])


def test_any_ranks(tmp_path):
    """With guidance, the same run on 1, 2 and 3 ranks, with gradient checkpointing and in sizes found by itself, and after a resume,
    there to the bit; 8-bit rollouts are others."""
    config = trainable(tmp_path, guidance=3.0)
    rows, newest = families.train(config, tmp_path / "1", 1, *FEW, "train.max_steps=2")
    want = families.adapter_of(newest)
    assert max(v.abs().max() for k, v in want.items() if "lora_B" in k) > 1e-3
    for name, ranks, sets in [("2", 2, []), ("3", 3, ["train.gradient_checkpointing=3"]), ("auto", 1, ["rollout.batch=auto", "train.micro_batch=auto"])]:
        got, where = families.train(config, tmp_path / name, ranks, *FEW, "train.max_steps=2", *sets)
        other = families.adapter_of(where)
        apart = families.error(learnt(other), learnt(want))
        print(f"{name}: {apart:.1e} apart")
        assert apart < 1e-4, name
        assert all(math.isclose(a["reward/mean"], b["reward/mean"], rel_tol=1e-4) for a, b in zip(rows, got)), name
    families.train(config, tmp_path / "resumed", 1, *FEW, "train.max_steps=1")
    families.launch(1, "train", "--run", tmp_path / "resumed", "--resume", "--set", "train.max_steps=2", "--quiet")
    got = families.adapter_of(tmp_path / "resumed/checkpoints/step-00000002")
    assert got.keys() == want.keys() and all(torch.equal(got[k], want[k]) for k in want)
    _, where = families.train(config, tmp_path / "fp8", 1, *FEW, "train.max_steps=1", "rollout.fp8=true")
    first = families.adapter_of(tmp_path / "resumed/checkpoints/step-00000001")
    assert any(not torch.equal(v, first[k]) for k, v in families.adapter_of(where).items())
