#!/usr/bin/env python3
"""HPSv3 (MizzenAI, arXiv 2508.03789) behind the reward `exec`: how much people would like the image, for its prompt.

    python3 -m venv hpsv3 && hpsv3/bin/pip install hpsv3      # the weights (7B) come from the hub on first use
    rewards: {hpsv3: {type: exec, command: [hpsv3/bin/python, examples/rewards/judge_hpsv3.py]}}

The model gives a mean and a spread for each image; the score is the mean. Options: --device, --checkpoint FILE, --config FILE.
"""

import argparse

from frames import serve

options = argparse.ArgumentParser()
options.add_argument("--device", default="cuda")
options.add_argument("--checkpoint")
options.add_argument("--config")
options = options.parse_args()

import torch  # noqa: E402
from hpsv3 import HPSv3RewardInferencer  # noqa: E402
from PIL import Image  # noqa: E402

model = HPSv3RewardInferencer(config_path=options.config, checkpoint_path=options.checkpoint, device=options.device)


@torch.no_grad()
def judge(items, pixels):
    images = [Image.frombytes("RGB", (i["width"], i["height"]), p) for i, p in zip(items, pixels)]
    # by name: releases of the package have these two in either order
    return [float(r[0]) for r in model.reward(prompts=[i["prompt"] for i in items], image_paths=images)]


serve(judge)
