"""The whole loop on a tiny Stable Diffusion 3.5 pipeline: VAE, three encoders, two ranks; an adapter that sample takes."""

import json
import math
import os
import pathlib
import subprocess

from sd3 import ROOT, contraflow
from test_pipeline import SD35, make, save, words  # noqa: F401 (words is a fixture)

CONFIG = """
run: {{seed: 3}}
model: {{path: {model}, t5_length: 16, text_cache: {cache}}}
lora: {{rank: 8, alpha: 16}}
prompts: {{train: {prompts}, groups: 4, group_size: 12, height: 32, width: 32}}
rollout: {{solver: dpm2, steps: 6, batch: 12}}
rewards: {{jpeg_compressibility: {{}}}}
train: {{max_steps: 4, timestep_fraction: 0.5, micro_batch: 16, checkpoint_every: 1}}
optimizer: {{lr: 3e-3}}
policy: {{old_schedule: linear, old_slope: 0.1, old_max: 0.3}}
eval: {{every: 0}}
log: {{tensorboard: false, grid_every: 2}}
"""


def test_loop(words, tmp_path):  # noqa: F811
    pipe = make(words, transformer=SD35, seed=11)
    save(pipe, words, tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("a red circle\ntwo dogs\nx\na café left of a house\n")
    (tmp_path / "tiny.yaml").write_text(CONFIG.format(cache=tmp_path / "cache", model=tmp_path / "model", prompts=tmp_path / "prompts.txt"))
    build = pathlib.Path(os.environ.get("BUILD", "build"))
    program = (build if build.is_absolute() else ROOT / build) / "contraflow"
    env = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    subprocess.run(["mpirun", "--oversubscribe", "--bind-to", "none", "-n", "2", program, "train", tmp_path / "tiny.yaml",
                    "--run", tmp_path / "run", "--set", "run.threads=1", "--quiet"], env=env, check=True, capture_output=True)  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    rows = [r for r in rows if r["reward/mean"] is not None]
    assert len(rows) == 4
    for r in rows:
        assert -1 < r["reward/mean"] < 0 and math.isfinite(r["loss/policy"])
        assert r["grad_norm"] > 0 and r["lora_norm"] > 0
    assert rows[-1]["lora_norm"] != rows[0]["lora_norm"]
    lora = next((tmp_path / "run/checkpoints").glob("step-*")) / "lora"
    contraflow("sample", "--model", tmp_path / "model", "--lora", lora, "--prompt", "two dogs", "--steps", 4, "--height", 32,
               "--width", 32, "-o", tmp_path / "x.png")  # fmt: skip
