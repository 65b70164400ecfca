"""The whole loop on a tiny FLUX.2-klein pipeline: text of hidden states, normalised latents, guidance by a second forward; the reward rises."""

import math

import families
import flux2
import pytest
import torch

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.linear_in", "ff.linear_out", "to_qkv_mlp_proj", "single_transformer_blocks.0.attn.to_out", "linear_1", "linear_2"]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return flux2.folders(tmp_path_factory.mktemp("words"))


def test_loop(words, tmp_path):
    config = families.trainable(flux2, words, tmp_path, targets=TARGETS)
    rows, _ = families.train(config, tmp_path / "run", 2, "train.gradient_checkpointing=true")
    assert all(-1 < r["reward/mean"] < 0 and math.isfinite(r["loss/policy"]) and r["grad_norm"] > 0 for r in rows)
    families.check_rises(rows)
    assert len(list((tmp_path / "cache").glob("*/*/*.zst"))) == 4  # two ranks have filled the cache, each prompt once


def test_any_ranks(words, tmp_path):
    """The same run on 1, 2 and 3 ranks, with gradient checkpointing and beside the weights, and after a resume, there to the bit."""
    config = families.trainable(flux2, words, tmp_path, (24, 20), 4.0, TARGETS)
    few = ["prompts.groups=3", "prompts.group_size=5", "train.max_steps=2", "rollout.steps=4", "checkpoint.every=1", "optimizer.lr=1e-3"]
    rows, newest = families.train(config, tmp_path / "1", 1, *few)
    want = families.adapter_of(newest)
    assert max(v.abs().max() for k, v in want.items() if "lora_B" in k) > 1e-3
    for name, ranks, sets in [("2", 2, []), ("3", 3, []), ("again", 1, ["train.gradient_checkpointing=3"]), ("beside", 1, ["policy.merge=never"])]:
        got, where = families.train(config, tmp_path / name, ranks, *few, *sets)
        for a, b in zip(rows, got):
            assert math.isclose(a["reward/mean"], b["reward/mean"], rel_tol=1e-4), name
        other = families.adapter_of(where)
        assert all((other[k] - want[k]).abs().max() < 1e-5 for k in want), name
    families.train(config, tmp_path / "resumed", 1, *few[:2], "train.max_steps=1", *few[3:])
    _, where = families.train(config, tmp_path / "resumed", 1, "train.max_steps=2", resume=True)
    assert all(torch.equal(v, want[k]) for k, v in families.adapter_of(where).items())
