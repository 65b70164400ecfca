"""The whole loop on a tiny FLUX.1 pipeline: its two encoders, packed latents, guidance as an input; the reward rises."""

import math

import families
import flux
import pytest
import torch
from sd3 import contraflow

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_mlp", "proj_out", "linear_1", "linear_2"]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return flux.folders(tmp_path_factory.mktemp("words"))


def test_loop(words, tmp_path):
    config = families.trainable(flux, words, tmp_path, guidance=3.5, targets=TARGETS)
    rows, newest = families.train(config, tmp_path / "run", 2, "train.gradient_checkpointing=true")
    assert len(rows) == 28 and all(-1 < r["reward/mean"] < 0 and math.isfinite(r["loss/policy"]) and r["grad_norm"] > 0 for r in rows)
    families.check_rises(rows)
    assert len(list((tmp_path / "cache").glob("*/*/*.zst"))) == 4  # two ranks have filled the cache, each prompt once
    contraflow("sample", "--model", tmp_path / "model", "--lora", newest / "lora", "--prompt", "two dogs", "--steps", 4, "--guidance", 3.5,
               "--height", 32, "--width", 32, "-o", tmp_path / "x.png")  # fmt: skip


@pytest.mark.parametrize("guided", [True, False])
def test_any_ranks(words, tmp_path, guided):
    """The same run on 1, 2 and 3 ranks, with gradient checkpointing, in sizes found by itself, merged and beside the weights, and after a resume,
    there to the bit; 8-bit rollouts are near."""
    scheduler = flux.DEV if guided else dict(shift=1.0)
    config = families.trainable(flux, words, tmp_path, (24, 20), 3.5 if guided else 1.0, TARGETS, transformer=dict(guidance_embeds=guided), scheduler=scheduler)
    few = ["prompts.groups=3", "prompts.group_size=5", "train.max_steps=2", "rollout.steps=4", "checkpoint.every=1", "optimizer.lr=1e-3"]
    rows, newest = families.train(config, tmp_path / "1", 1, *few)
    want = families.adapter_of(newest)
    assert max(v.abs().max() for k, v in want.items() if "lora_B" in k) > 1e-3
    others = [("2", 2, []), ("3", 3, []), ("again", 1, ["train.gradient_checkpointing=3"])]
    others += [("auto", 1, ["rollout.batch=auto", "train.micro_batch=auto"]), ("beside", 1, ["policy.merge=never"])] if guided else []
    for name, ranks, sets in others:
        got, where = families.train(config, tmp_path / name, ranks, *few, *sets)
        for a, b in zip(rows, got):
            assert math.isclose(a["reward/mean"], b["reward/mean"], rel_tol=1e-4), name
        other = families.adapter_of(where)
        print(name, max((other[k] - want[k]).abs().max().item() for k in want))
        assert all((other[k] - want[k]).abs().max() < 1e-5 for k in want), name
    families.train(config, tmp_path / "resumed", 1, *few[:2], "train.max_steps=1", *few[3:])
    _, where = families.train(config, tmp_path / "resumed", 1, "train.max_steps=2", resume=True)
    assert all(torch.equal(v, want[k]) for k, v in families.adapter_of(where).items())
    if guided:
        coarse, _ = families.train(config, tmp_path / "fp8", 1, *few, "rollout.fp8=true")
        assert 0 < abs(coarse[0]["reward/mean"] - rows[0]["reward/mean"]) < 0.05 * abs(rows[0]["reward/mean"])
