#!/usr/bin/env python3
"""DeQA-Score (arXiv 2501.11561) behind the reward `exec`: the quality of the picture as such; the prompt is not looked at.

    python3 -m venv deqa        # with the packages that the model's page names: its code wants transformers of its time
    rewards: {deqa: {type: exec, command: [deqa/bin/python, examples/rewards/judge_deqa.py, --model, models/DeQA-Score-Mix3]}}

The model's own code, which the folder (or the hub's zhiyuanyou/DeQA-Score-Mix3) brings along, gives 1 (bad) to 5 (excellent); the
score is a fifth of that. Options: --model, --device, --dtype.
"""

import argparse

from frames import serve

options = argparse.ArgumentParser()
options.add_argument("--model", default="zhiyuanyou/DeQA-Score-Mix3")
options.add_argument("--device", default="cuda")
options.add_argument("--dtype", default="float16")
options = options.parse_args()

import torch  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

model = AutoModelForCausalLM.from_pretrained(
    options.model, trust_remote_code=True, attn_implementation="eager", torch_dtype=getattr(torch, options.dtype), device_map=None
).to(options.device)


@torch.no_grad()
def judge(items, pixels):
    images = [Image.frombytes("RGB", (i["width"], i["height"]), p) for i, p in zip(items, pixels)]
    return [float(s) / 5 for s in model.score(images)]


serve(judge)
