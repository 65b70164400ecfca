"""examples/rewards: the protocol and formula of each recipe, with a model or a server made up in its place."""

import base64
import http.server
import io
import json
import math
import os
import sys
import threading

import numpy as np
import pytest
from command import ROOT, contraflow
from PIL import Image

RECIPES = ROOT / "examples/rewards"


def noise(seed, size):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def score(folder, recipe, lines, images, command, **more):
    files = [folder / f"{i:03}.png" for i in range(len(images))]
    for f, im in zip(files, images):
        im.save(f)
    (folder / "p.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    sets = {"command": command, "batch": 2, "timeout": 30, "retries": 0, **more}
    args = [x for k, v in sets.items() for x in ("--set", f"rewards.{recipe}.{k}={json.dumps(v)}")]
    done = contraflow("score", "--config", RECIPES / f"{recipe}.yaml", *args, "--prompts", folder / "p.jsonl", *files, check=False)
    return json.loads(done.stdout)["images"], done.stderr


# As much of torch as the recipes touch themselves: the real one takes its time to load.
TORCH = """
import contextlib
float16, float32 = "float16", "float32"
class no_grad(contextlib.ContextDecorator):
    inside = 0
    def __enter__(self):
        no_grad.inside += 1
    def __exit__(self, *e):
        no_grad.inside -= 1
"""


def stand_in(folder, monkeypatch, name, text):
    (folder / "stand_in").mkdir()
    (folder / "stand_in" / f"{name}.py").write_text(text)
    (folder / "stand_in" / "torch.py").write_text(TORCH)
    monkeypatch.setenv("PYTHONPATH", str(folder / "stand_in"))


HPSV3 = """
import os, torch
print("loading 7B weights")  # on standard output, as libraries do
class HPSv3RewardInferencer:
    def __init__(self, config_path=None, checkpoint_path=None, device="cuda"):
        assert device == "cpu" and checkpoint_path == "some.safetensors" and config_path is None
    def reward(self, image_paths, prompts):
        os.write(1, b"scoring")
        assert torch.no_grad.inside == 1 and len(prompts) == len(image_paths) <= 2
        mean = [sum(i.getdata(), ())[0] / 255 + len(p) for i, p in zip(image_paths, prompts)]
        return [[m, 7.0] for m in mean]
"""


def test_hpsv3(tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, "hpsv3", HPSV3)
    images = [noise(i, (9 + i, 7)) for i in range(5)]
    lines = [dict(prompt="a" * (i + 1)) for i in range(5)]
    command = [sys.executable, str(RECIPES / "judge_hpsv3.py"), "--device", "cpu", "--checkpoint", "some.safetensors"]
    got, err = score(tmp_path, "hpsv3", lines, images, command)
    assert "loading 7B weights" in err  # and not between frames
    for i, x in enumerate(got):
        assert x["reward"] == pytest.approx(np.asarray(images[i])[0, 0, 0] / 255 + i + 1)


DEQA = """
import torch
class Model:
    def to(self, device):
        assert device == "cpu"
        return self
    def score(self, images):
        assert torch.no_grad.inside == 1
        return [1 + 4 * sum(sum(p) for p in i.getdata()) / (765 * i.width * i.height) for i in images]
class AutoModelForCausalLM:
    @staticmethod
    def from_pretrained(name, trust_remote_code, attn_implementation, torch_dtype, device_map):
        assert name == "models/here" and trust_remote_code and attn_implementation == "eager" and torch_dtype == torch.float32
        return Model()
"""


def test_deqa(tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, "transformers", DEQA)
    images = [noise(i, (8, 8)) for i in range(3)] + [Image.new("RGB", (8, 8), "white"), Image.new("RGB", (8, 8))]
    command = [sys.executable, str(RECIPES / "judge_deqa.py"), "--model", "models/here", "--device", "cpu", "--dtype", "float32"]
    got, _ = score(tmp_path, "deqa", [dict(prompt="any")] * 5, images, command)
    wanted = [(1 + 4 * np.asarray(i, float).mean() / 255) / 5 for i in images]
    assert np.allclose([x["reward"] for x in got], wanted)
    assert got[3]["reward"] == pytest.approx(1) and got[4]["reward"] == pytest.approx(0.2)


class Chat(http.server.BaseHTTPRequestHandler):
    """A model that is as sure as the image is red: p for the right word in one spelling or another, and what else it thinks of."""

    seen = []

    def log_message(self, *args):
        pass

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        image, text = asked["messages"][0]["content"]
        assert asked["model"] == "made-up" and asked["max_tokens"] == 1 and asked["temperature"] == 0
        assert asked["logprobs"] is True and asked["top_logprobs"] == 20 and self.headers["Authorization"] == "Bearer secret"
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(image["image_url"]["url"].removeprefix("data:image/png;base64,")))))
        self.seen.append((picture, text["text"]))
        p = picture[0, 0, 0] / 255
        right = {"How many": [("four", 0.5 * p), (" 4", 0.25 * p), ("Four", 0.25 * p)], "Are the b": [("Yes", 0.9 * p), (" yes", 0.1 * p)]}
        if "broken" in text["text"]:
            self.send_error(500)
            return
        tokens = [(t, x) for k, v in right.items() if text["text"].startswith(k) for t, x in v] + [("No", 0.01), ("five", 0.02)]
        top = [dict(token=t, logprob=math.log(x) if x > 0 else -1e9) for t, x in tokens]
        body = json.dumps(dict(choices=[dict(message=dict(content="No"), logprobs=dict(content=[dict(token="No", top_logprobs=top)]))])).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_soft_vqa(tmp_path, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MADE_UP_KEY", "secret")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # a proxy must not see it
    four, white = ["How many bicycles are in the image?", "four"], ["Are the bicycles white?", "Yes"]
    absent = ["Is there a cow in the image?", "Yes"]
    lines = [dict(prompt="four white bicycles", vqa_list=x) for x in ([four, white], [four], [four, absent], [["broken?", "Yes"], four])]
    lines.append(dict(prompt="no questions"))
    reds = [255, 128, 51, 204, 90]
    images = [Image.fromarray(np.full((5, 3 + i, 3), [r, i, 7], np.uint8)) for i, r in enumerate(reds)]
    command = [sys.executable, str(RECIPES / "judge_soft_vqa.py"), "--url", f"http://127.0.0.1:{server.server_port}/v1/chat/completions",
               "--model", "made-up", "--key-env", "MADE_UP_KEY", "--threads", "3"]  # fmt: skip
    got, err = score(tmp_path, "soft_vqa", lines, images, command)
    server.shutdown()
    p = [r / 255 for r in reds]
    gm = [p[0], p[1], math.sqrt(p[2] * 1e-6)]
    am = [p[0], p[1], p[2] / 2]
    for i in range(3):
        assert got[i]["reward"] == pytest.approx(gm[i], rel=1e-6) and got[i]["soft_vqa"]["am"] == pytest.approx(am[i], rel=1e-6)
    assert got[3]["reward"] is None and "500" in json.dumps(got[3])
    assert got[4]["reward"] is None and "no vqa_list" in json.dumps(got[4])
    for picture, text in Chat.seen:  # the pixels came whole, whatever their size
        assert any(np.array_equal(picture, np.asarray(i)) for i in images) and text.endswith(" Answer with one word.")
    assert os.environ["MADE_UP_KEY"] == "secret"
