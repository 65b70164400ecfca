"""The whole loop on a tiny Qwen-Image pipeline: prompts of different lengths, guidance that keeps lengths; the reward rises."""

import math

import families
import pytest
import qwen_image
import torch
from sd3 import contraflow

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_v_proj", "img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.2", "proj_out", "linear_2"]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return qwen_image.folders(tmp_path_factory.mktemp("words"))


def test_loop(words, tmp_path):
    config = families.trainable(qwen_image, words, tmp_path, targets=TARGETS)
    rows, newest = families.train(config, tmp_path / "run", 2, "train.gradient_checkpointing=true", "model.text_length=48")
    assert len(rows) == 28 and all(-1 < r["reward/mean"] < 0 and math.isfinite(r["loss/policy"]) and r["grad_norm"] > 0 for r in rows)
    families.check_rises(rows)
    assert len(list((tmp_path / "cache").glob("*/*/*.zst"))) == 4  # two ranks have filled the cache, each prompt once
    contraflow("sample", "--model", tmp_path / "model", "--lora", newest / "lora", "--prompt", "two dogs", "--steps", 4, "--guidance", 3.5,
               "--height", 32, "--width", 32, "-o", tmp_path / "x.png")  # fmt: skip


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_any_ranks(words, tmp_path, guidance):
    """The same run on 1, 2 and 3 ranks, with gradient checkpointing, beside the weights, and after a resume, there to the bit;
    8-bit rollouts are near."""
    config = families.trainable(qwen_image, words, tmp_path, (24, 16), guidance, TARGETS)
    few = ["prompts.groups=3", "prompts.group_size=5", "train.max_steps=2", "rollout.steps=4", "checkpoint.every=1", "optimizer.lr=1e-3",
           "model.text_length=48"]  # fmt: skip
    rows, newest = families.train(config, tmp_path / "1", 1, *few)
    want = families.adapter_of(newest)
    assert max(v.abs().max() for k, v in want.items() if "lora_B" in k) > 1e-3
    others = [("2", 2, []), ("3", 3, ["train.gradient_checkpointing=1"])]
    others += [("auto", 1, ["rollout.batch=auto", "train.micro_batch=auto"]), ("beside", 1, ["policy.merge=never"])] if guidance > 1 else []
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
    if guidance == 1:
        coarse, _ = families.train(config, tmp_path / "fp8", 1, *few, "rollout.fp8=true")
        assert 0 < abs(coarse[0]["reward/mean"] - rows[0]["reward/mean"]) < 0.05 * abs(rows[0]["reward/mean"])
