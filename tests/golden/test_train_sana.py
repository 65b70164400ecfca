"""The whole loop on a tiny SANA pipeline: prompts behind an instruction, of different lengths; guidance away from one without it."""

import math

import families
import pytest
import sana
import torch

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "linear_1", "linear_2", "time_embed.linear"]
SMALL = dict(scaling_factor=2.0)  # latents that only modulate what the decoder paints, whose ways around its blocks pass them on


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return sana.folders(tmp_path_factory.mktemp("words"))


def trainable(words, folder, *args):
    return families.trainable(sana, words, folder, *args, vae=SMALL)


def test_loop(words, tmp_path):
    config = trainable(words, tmp_path, (32, 32), 1.0, TARGETS)
    rows, _ = families.train(config, tmp_path / "run", 2, "train.gradient_checkpointing=true")
    assert all(-1 < r["reward/mean"] < 0 and math.isfinite(r["loss/policy"]) and r["grad_norm"] > 0 for r in rows)
    families.check_rises(rows)
    assert len(list((tmp_path / "cache").glob("*/*/*.zst"))) == 4  # two ranks have filled the cache, each prompt once


def learnt(adapter):
    """All of B, which began as zeros: single numbers are rounding's where a gradient is near zero."""
    return torch.cat([v.flatten() for k, v in sorted(adapter.items()) if "lora_B" in k])


def test_any_ranks(words, tmp_path):
    """The same run on 1, 2 and 3 ranks, with gradient checkpointing and beside the weights, and after a resume, there to the bit."""
    config = trainable(words, tmp_path, (12, 10), 4.5, TARGETS)
    few = ["prompts.groups=3", "prompts.group_size=5", "train.max_steps=2", "rollout.steps=4", "checkpoint.every=1", "optimizer.lr=1e-3"]
    rows, newest = families.train(config, tmp_path / "1", 1, *few)
    want = families.adapter_of(newest)
    assert max(v.abs().max() for k, v in want.items() if "lora_B" in k) > 1e-3
    for name, ranks, sets in [("2", 2, []), ("3", 3, []), ("again", 1, ["train.gradient_checkpointing=2"]), ("beside", 1, ["policy.merge=never"])]:
        got, where = families.train(config, tmp_path / name, ranks, *few, *sets)
        for a, b in zip(rows, got):
            assert math.isclose(a["reward/mean"], b["reward/mean"], rel_tol=1e-4), name
        apart = families.error(learnt(families.adapter_of(where)), learnt(want))
        print(f"{name}: {apart:.1e} apart")
        assert apart < 1e-4, name
    families.train(config, tmp_path / "resumed", 1, *few[:2], "train.max_steps=1", *few[3:])
    _, where = families.train(config, tmp_path / "resumed", 1, "train.max_steps=2", resume=True)
    assert all(torch.equal(v, want[k]) for k, v in families.adapter_of(where).items())
