#!/usr/bin/env python3
"""Soft scores in the manner of GenEval 2's Soft-TIFA (arXiv 2512.16853) behind the reward `exec`: questions about the image, each
scored by the probability that a vision-language model gives to the right answer. Python alone, with a server that has OpenAI's
interface and returns log probabilities (vLLM, SGLang).

    vllm serve Qwen/Qwen3-VL-8B-Instruct
    rewards: {soft_vqa: {type: exec, sub_scores: [am], command: [python3, examples/rewards/judge_soft_vqa.py, --model, Qwen/Qwen3-VL-8B-Instruct]}}

Each line of the prompt file has GenEval 2's `vqa_list`: [["How many bicycles are in the image?", "four"], ...]. The score is the
geometric mean over the questions (one wrong answer costs most of it), the sub-score `am` the arithmetic mean. Options: --url,
--model, --key-env NAME, --threads, --timeout, --mean (gm or am).
"""

import argparse
import concurrent.futures
import json
import math
import os
import urllib.request

from frames import png, serve

options = argparse.ArgumentParser()
options.add_argument("--url", default="http://127.0.0.1:8000/v1/chat/completions")
options.add_argument("--model", required=True)
options.add_argument("--key-env")
options.add_argument("--threads", type=int, default=32)
options.add_argument("--timeout", type=float, default=120)
options.add_argument("--mean", choices=["gm", "am"], default="gm")
options = options.parse_args()

NUMBERS = "zero one two three four five six seven eight nine ten".split()
# loopback and clusters are not reached through a proxy
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def spellings(answer):
    """What a right answer's first token may be: case and a leading space do not matter, a number may be a digit."""
    word = answer.strip().lower()
    return {word, str(NUMBERS.index(word))} if word in NUMBERS else {word}


def probability(image, question, answer):
    content = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
               {"type": "text", "text": f"{question} Answer with one word."}]  # fmt: skip
    body = {"model": options.model, "messages": [{"role": "user", "content": content}], "max_tokens": 1, "temperature": 0,
            "logprobs": True, "top_logprobs": 20}  # fmt: skip
    headers = {"Content-Type": "application/json"}
    if options.key_env:
        headers["Authorization"] = f"Bearer {os.environ[options.key_env]}"
    request = urllib.request.Request(options.url, json.dumps(body).encode(), headers)
    with opener.open(request, timeout=options.timeout) as reply:
        first = json.load(reply)["choices"][0]["logprobs"]["content"][0]
    # what is not among the first 20 has no probability worth the name
    return sum(math.exp(t["logprob"]) for t in first["top_logprobs"] if t["token"].strip().lower() in spellings(answer))


def score(item, p):
    am, gm = sum(p) / len(p), math.exp(sum(math.log(max(x, 1e-6)) for x in p) / len(p))
    return {"score": min(gm if options.mean == "gm" else am, 1), "am": min(am, 1)}


def judge(items, pixels):
    scores, asked = [], []
    for item, p in zip(items, pixels):
        questions = item["meta"].get("vqa_list")
        image = png(item, p) if questions else None
        asked.append([pool.submit(probability, image, q, a) for q, a in questions or []])
    for item, answers in zip(items, asked):
        try:
            scores.append(score(item, [a.result() for a in answers]) if answers else {"error": "the prompt's line has no vqa_list"})
        except Exception as e:  # of the server: this image has no score, others may
            scores.append({"error": f"{type(e).__name__}: {e}"[:150]})
    return scores


with concurrent.futures.ThreadPoolExecutor(options.threads) as pool:
    serve(judge)
