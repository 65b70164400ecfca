"""The whole loop on a tiny Stable Diffusion 3.5 pipeline: VAE, three encoders, two ranks; the reward rises."""

import json
import math
import os
import pathlib
import subprocess

import pytest
import torch
from sd3 import ROOT, contraflow
from test_pipeline import SD35, make, save, words  # noqa: F401 (words is a fixture)
from transformers import CLIPConfig, CLIPModel

CONFIG = """
run: {{seed: 3}}
model: {{path: {model}, text_length: 16, text_cache: {cache}}}
lora: {{rank: 8, alpha: 16, targets: [to_q, to_k, to_v, to_out.0, ff.net.0.proj, ff.net.2, proj_out, linear_1, linear_2]}}
prompts: {{train: {prompts}, groups: 4, group_size: 12, height: 32, width: 32}}
rollout: {{solver: dpm2, steps: 6, batch: 12}}
rewards: {{jpeg_compressibility: {{}}}}
train: {{max_steps: 40, timestep_fraction: 0.5, micro_batch: 16, gradient_checkpointing: true}}
optimizer: {{lr: 1e-2, decay: constant}}
nft: {{beta: 0.1}}
policy: {{old_schedule: linear, old_slope: 0.1, old_max: 0.3}}
eval: {{every: 0}}
log: {{tensorboard: false, grid_every: 20}}
"""


def launch(ranks, *args):
    build = pathlib.Path(os.environ.get("BUILD", "build"))
    program = (build if build.is_absolute() else ROOT / build) / "contraflow"
    env = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    subprocess.run(["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks), program, *args], env=env, check=True, capture_output=True)


def flatten(decoder):
    """A random decoder normalises its latents' size away.  This one paints images that are the flatter the smaller the
    latents are: a constant that the latents only modulate, and blocks that add little."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in decoder.named_parameters():
            if "conv2" in name or "to_out" in name:
                p.mul_(0.05)
            if "upsamplers" in name:
                p.zero_()
                if p.dim() == 4:
                    p[range(len(p)), range(len(p)), 1, 1] = 1
        decoder.conv_in.weight.mul_(0.03)
        decoder.conv_in.bias.copy_(2 * torch.randn(decoder.conv_in.bias.shape, generator=g))
        decoder.conv_norm_out.weight.fill_(1)
        decoder.conv_norm_out.bias.zero_()


def test_loop(words, tmp_path):  # noqa: F811
    pipe = make(words, transformer=SD35, seed=11)
    flatten(pipe.vae.decoder)
    save(pipe, words, tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("a red circle\ntwo dogs\nx\na café left of a house\n")
    (tmp_path / "tiny.yaml").write_text(CONFIG.format(cache=tmp_path / "cache", model=tmp_path / "model", prompts=tmp_path / "prompts.txt"))
    launch(2, "train", tmp_path / "tiny.yaml", "--run", tmp_path / "run", "--set", "run.threads=1", "--quiet")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    rows = [r for r in rows if r["reward/mean"] is not None]
    assert len(rows) == 40
    for r in rows:
        assert -1 < r["reward/mean"] < 0 and math.isfinite(r["loss/policy"])
        assert r["grad_norm"] > 0 and r["lora_norm"] > 0
    # 10 rounds of 48 images each: the mean's standard error is 1 / 22 of an image's deviation
    first, last = (sum(r["reward/mean"] for r in part) / 10 for part in (rows[:10], rows[-10:]))
    deviation = sum(r["reward/std"] for r in rows) / 40
    assert last - first > 0.4 * deviation > 0
    # two ranks have filled the cache, each prompt once
    assert len(list((tmp_path / "cache").glob("*/*/*.zst"))) == 4
    lora = next((tmp_path / "run/checkpoints").glob("step-*")) / "lora"
    contraflow("sample", "--model", tmp_path / "model", "--lora", lora, "--prompt", "two dogs", "--steps", 4, "--height", 32,
               "--width", 32, "-o", tmp_path / "x.png")  # fmt: skip


def tiny_clip(folder, words):  # noqa: F811
    """A random CLIPModel with the pipeline's own vocabulary."""
    torch.manual_seed(5)
    text = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=words[1], eos_token_id=words[1] - 1)
    vision = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(folder)
    for file in (words[0] / "tokenizer").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())


def test_three_rewards(words, tmp_path):  # noqa: F811
    """The published sum of PickScore, HPSv2 and CLIPScore on a tiny pipeline: any number of ranks, the scores of `score`."""
    save(make(words, transformer=SD35, seed=11), words, tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("a red circle\ntwo dogs\nx\na café left of a house\n")
    for name in "pick", "hps":
        tiny_clip(tmp_path / name, words)
    text = CONFIG.format(cache=tmp_path / "cache", model=tmp_path / "model", prompts=tmp_path / "prompts.txt")
    rewards = dict(pickscore=dict(model=str(tmp_path / "pick"), weight=1), hpsv2=dict(model=str(tmp_path / "hps"), weight=0.5),
                   clipscore=dict(model=str(tmp_path / "pick"), weight=2))  # fmt: skip
    (tmp_path / "c.yaml").write_text(text.replace("rewards: {jpeg_compressibility: {}}", "rewards: " + json.dumps(rewards)))
    rows = []
    for ranks in 1, 2:
        run = tmp_path / f"run{ranks}"
        launch(ranks, "train", tmp_path / "c.yaml", "--run", run, "--set", "run.threads=1", "--set", "train.max_steps=2", "--quiet")
        rows.append([json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()])
    for a, b in zip(*rows):
        for key in "reward/mean", "reward/std", "reward/pickscore", "reward/hpsv2", "reward/clipscore":
            assert math.isclose(a[key], b[key], rel_tol=1e-4), key
        total = a["reward/pickscore"] + 0.5 * a["reward/hpsv2"] + 2 * a["reward/clipscore"]
        assert math.isclose(a["reward/mean"], total, rel_tol=1e-6) and a["reward/std"] > 0 and not a["reward/unavailable"]


# A line of every tag, as GenEval's metadata.jsonl has them.
GENEVAL = """
{"tag": "single_object", "include": [{"class": "umbrella", "count": 1}], "prompt": "a photo of an umbrella"}
{"tag": "two_object", "include": [{"class": "tv remote", "count": 1}, {"class": "hair drier", "count": 1}], "prompt": "a photo of a tv remote and a hair drier"}
{"tag": "counting", "include": [{"class": "computer mouse", "count": 3}], "exclude": [{"class": "computer mouse", "count": 4}], "prompt": "a photo of three computer mouses"}
{"tag": "colors", "include": [{"class": "fire hydrant", "count": 1, "color": "purple"}], "prompt": "a photo of a purple fire hydrant"}
{"tag": "position", "include": [{"class": "kite", "count": 1}, {"class": "cow", "count": 1, "position": ["left of", 0]}], "prompt": "a photo of a cow left of a kite"}
{"tag": "color_attr", "include": [{"class": "oven", "count": 1, "color": "pink"}, {"class": "sink", "count": 1, "color": "brown"}], "prompt": "a photo of a pink oven and a brown sink"}
"""  # fmt: skip


class Eyes(torch.nn.Module):
    """Sees one of everything that is asked for, and three mice: where, and how surely, hangs on the image's pixels."""

    def forward(self, images):
        classes = torch.tensor([25, 65, 78, 64, 64, 64, 10, 33, 19, 69, 71])
        n, at = images.shape[0], torch.arange(11)
        x = (images[:, 0, 0, :11] * 16).floor()
        y = (images[:, 1, 1, :11] * 16).floor()
        boxes = torch.stack([x, y, x + 10, y + 10], 2)
        return boxes, (classes + 0 * at).expand(n, 11), 0.85 + 0.15 * images[:, 2, 2, :11]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_geneval_prompts(words, tmp_path):  # noqa: F811
    """GenEval's own prompt file, for training and for evaluation: every tag is judged."""
    save(make(words, transformer=SD35, seed=11), words, tmp_path / "model")
    (tmp_path / "metadata.jsonl").write_text(GENEVAL.lstrip())
    tiny_clip(tmp_path / "clip", words)
    torch.jit.script(Eyes()).save(tmp_path / "eyes.pt")
    rewards = {"geneval": dict(detector="script", module=str(tmp_path / "eyes.pt"), clip=str(tmp_path / "clip"), threshold=0.9, counting_threshold=0.9)}
    text = CONFIG.format(cache=tmp_path / "cache", model=tmp_path / "model", prompts=tmp_path / "metadata.jsonl")
    text = text.replace("{train: ", f"{{by_tag: true, test: {tmp_path / 'metadata.jsonl'}, train: ").replace("groups: 4", "groups: 6").replace("group_size: 12", "group_size: 4")
    (tmp_path / "c.yaml").write_text(text.replace("rewards: {jpeg_compressibility: {}}", "rewards: " + json.dumps(rewards)))
    launch(2, "train", tmp_path / "c.yaml", "--run", tmp_path / "run", "--set", "run.threads=1", "--set", "train.max_steps=2", "--set", "eval.every=2",
           "--set", "eval.images_per_prompt=4", "--quiet")  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    first = next(r for r in rows if "epoch" in r)
    assert not first["reward/unavailable"] and first["reward/std"] > 0 and 0 < first["reward/geneval"] < 1
    lora = next((tmp_path / "run/checkpoints").glob("step-00000002")) / "lora"
    contraflow("eval", "--model", tmp_path / "model", "--lora", lora, "--prompts", tmp_path / "metadata.jsonl", "--config", tmp_path / "c.yaml",
               "--images-per-prompt", 4, "--height", 32, "--width", 32, "--steps", 6, "-o", tmp_path / "eval.json")  # fmt: skip
    tags = json.loads((tmp_path / "eval.json").read_text())["tags"]
    assert sorted(tags) == ["color_attr", "colors", "counting", "position", "single_object", "two_object"]
    assert all(t["images"] == 4 and 0 <= t["strict"] <= 1 for t in tags.values()) and len({t["soft"] for t in tags.values()}) > 2
