"""Training with judges inside and outside of the program: the same numbers, and something is learnt from their sum."""

import base64
import http.server
import io
import json
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from command import ROOT, TINY, contraflow, read_lines, read_zst
from PIL import Image

CONFIG = "configs/shapes.yaml"

# The share of one colour among an image's bytes: whole numbers and one division, the same in every language.
PLUGIN = r"""
#include "rewards/judges/plugin.h"
#include <stdlib.h>

static int open_share(void **state, const char *options, char *error, size_t size)
{
	(void)error, (void)size;
	*state = malloc(sizeof(int));
	*(int *)*state = atoi(options);
	return 0;
}

static int score(void *state, const struct contraflow_item *item, int n, struct contraflow_score *out)
{
	for (int i = 0; i < n; i++) {
		double mine = 0, all = 0;
		for (int k = 0; k < 3 * item[i].width * item[i].height; k++) {
			all += item[i].rgb[k];
			mine += k % 3 == *(int *)state ? item[i].rgb[k] : 0;
		}
		out[i].value = mine / all;
		out[i].ok = 1;
	}
	return 0;
}

static const struct contraflow_reward share = { CONTRAFLOW_PLUGIN_ABI, "share", open_share, score, free };

const struct contraflow_reward *contraflow_reward(void)
{
	return &share;
}
"""


def share(pixels, channel):
    return int(pixels[..., channel].sum(dtype=np.int64)) / int(pixels.sum(dtype=np.int64))


@pytest.fixture
def judge_of_blue():
    """An HTTP server whose score is the share of blue."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            items = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["items"]
            requests.append(len(items))
            scores = [share(np.array(Image.open(io.BytesIO(base64.b64decode(x["image"])))), 2) for x in items]
            reply = json.dumps(dict(scores=scores)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/", requests
    server.shutdown()
    server.server_close()


def plugin(folder):
    (folder / "share.c").write_text(PLUGIN)
    subprocess.run(["cc", "-shared", "-fPIC", f"-I{ROOT}", "-o", folder / "share.so", folder / "share.c"], check=True)
    return str(folder / "share.so")


def write(folder, name, rewards, **sections):
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({"extends": f"{ROOT}/{CONFIG}", "rewards": rewards, **sections}))
    return path


def rollouts(folder, epoch):
    parts = [read_zst(p) for p in sorted((folder / "rollouts").glob(f"epoch-{epoch:06d}.rank-*.zst"))]
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


@pytest.mark.parametrize("combine", ["sum", "normalised"])
def test_outside_as_inside(tmp_path, judge_of_blue, combine):
    """geneval + jpeg + exec + http under two ranks against the same judges in process: the same scores, advantages and
    adapters, bit for bit."""
    url, requests = judge_of_blue
    here = {"geneval": {"weight": 1}, "jpeg_compressibility": {"weight": 0.5}}
    library = plugin(tmp_path)
    red = [sys.executable, f"{ROOT}/examples/judge_exec.py"]
    outside = write(tmp_path, "outside", here | {"red": {"type": "exec", "command": red, "batch": 3, "weight": 2},
                                                 "blue": {"type": "http", "url": url, "batch": 2, "weight": -3}})  # fmt: skip
    inside = write(tmp_path, "inside", here | {"red": {"type": "plugin", "path": library, "options": "0", "weight": 2},
                                               "blue": {"type": "plugin", "path": library, "options": "2", "weight": -3}})  # fmt: skip
    for config in (outside, inside):
        contraflow("train", config, "--run", tmp_path / config.stem, *TINY, "--set", "train.max_steps=3",
                   "--set", "log.rollouts_every=1", "--set", f"advantage.combine={combine}", ranks=2)  # fmt: skip
    assert sum(requests) == 3 * 15
    names = {"reward.geneval", "reward.jpeg_compressibility", "reward.red", "reward.blue", "advantage", "r", "x0"}
    for epoch in range(3):
        a, b = rollouts(tmp_path / "outside", epoch), rollouts(tmp_path / "inside", epoch)
        assert names <= set(a) and not np.isnan(a["reward.blue"]).any()
        assert np.ptp(a["reward.red"]) > 0.01 and np.ptp(a["reward.blue"]) > 0.01
        for name in names:
            assert np.array_equal(a[name], b[name]), (epoch, name)
    one, other = (read_zst(tmp_path / f"{n}/checkpoints/step-00000003/state.safetensors.zst") for n in ("outside", "inside"))
    assert all(np.array_equal(one[k], other[k]) for k in one) and np.abs(one["theta"]).max() > 1e-4


@pytest.mark.parametrize("combine, weight", [("sum", 2), ("normalised", 0.3)])
def test_both_ways_to_combine_learn(tmp_path, combine, weight):
    """The rules and a judge outside, as a weighted sum and normalised one by one (GDPO): both rewards rise."""
    red = {"type": "exec", "command": [sys.executable, f"{ROOT}/examples/judge_exec.py"], "weight": weight}
    config = write(tmp_path, "learn", {"geneval": {"weight": 1}, "red": red}, prompts={"groups": 24, "group_size": 8, "test": ""},
                   train={"max_steps": 40}, advantage={"combine": combine}, optimizer={"decay": "constant"})  # fmt: skip
    contraflow("train", config, "--run", tmp_path / "run", "--quiet", "--set", "run.threads=1", "--set", "log.tensorboard=false", ranks=2)
    rows = read_lines(tmp_path / "run/metrics.jsonl")
    for name in ("reward/geneval", "reward/red"):
        values = np.array([r[name] for r in rows])
        first, last = values[:8], values[-8:]
        spread = np.sqrt((first.var(ddof=1) + last.var(ddof=1)) / 8)
        print(f"{combine} {name}: {first.mean():.4f} -> {last.mean():.4f} +- {spread:.4f}")
        assert last.mean() - first.mean() > 4 * spread, name


class BlindAtTimes(torch.nn.Module):
    """Sees a circle, unless an image's bytes add up to a multiple of `every`: then it fails."""

    def __init__(self, every: int):
        super().__init__()
        self.every = every

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        n = images.size(0)
        for i in range(n):
            if int((images[i].double() * 255).round().sum().item()) % self.every == 0:
                raise ValueError("blind")
        return torch.tensor([[[2.0, 2.0, 9.0, 9.0]]]).expand(n, 1, 4), torch.zeros(n, 1), torch.ones(n, 1)


@pytest.mark.parametrize("every", [3, 1], ids=["some", "all"])
def test_left_out_of_an_evaluation(tmp_path, every):
    """GenEval's judge fails for some of the held-out images, or for all, and the quorum lets them go on without: the numbers are
    those of the others, or null, the checkpoints are written, and a resumed run ends as one that was never interrupted."""
    torch.jit.script(BlindAtTimes(every)).save(str(tmp_path / "eyes.pt"))
    (tmp_path / "classes.txt").write_text("circle\nsquare\n")
    lines = [dict(prompt=f"a photo of a {c}", tag=c, include=[{"class": c, "count": 1}]) for c in ("circle", "square")]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(x) + "\n" for x in 9 * lines))
    eyes = {"detector": "script", "module": str(tmp_path / "eyes.pt"), "classes": str(tmp_path / "classes.txt"), "quorum": 0.5}
    config = write(tmp_path, "blind", {"geneval": eyes, "jpeg_compressibility": {}})
    sets = {"prompts.train": tmp_path / "prompts.jsonl", "prompts.test": tmp_path / "prompts.jsonl", "eval.images_per_prompt": 1,
            "eval.sampler.batch": 1, "rollout.batch": 1, "eval.every": 1, "checkpoint.every": 1, "log.grid_every": 0}  # fmt: skip
    args = [*TINY, "--quiet", *(x for k, v in sets.items() for x in ("--set", f"{k}={v}"))]
    for name, steps in ("whole", [3]), ("cut", [2, 3]):
        for i, n in enumerate(steps):
            contraflow("train", config, "--run", tmp_path / name, *args, "--set", f"train.max_steps={n}", *["--resume"][:i])
    states = [json.loads((tmp_path / n / "checkpoints/step-00000003/state.json").read_text()) for n in ("whole", "cut")]
    for s in states:
        for part in s, s["before"]:
            for k in [k for k in part if "seconds" in k]:
                del part[k]
    assert states[0] == states[1]
    tensors = [read_zst(tmp_path / n / "checkpoints/step-00000003/state.safetensors.zst") for n in ("whole", "cut")]
    assert all(np.array_equal(tensors[0][k], tensors[1][k]) for k in tensors[0])
    for r in states[0]["before"], json.loads((tmp_path / "cut/result.json").read_text())["after"]:
        assert (r["images"], r["unavailable"]) == (18, 0) and np.isfinite(r["reward"])
        if every == 1:
            assert (r["strict"], r["strict_95"], r["geneval"], r["soft"], r["strict_images"]) == (None, None, None, None, 0)
        else:
            assert 0 < r["strict_images"] < 18
            assert (r["tags"]["circle"]["strict"], r["tags"]["square"]["strict"], r["strict"]) == (1, 0, 0.5)
    assert (states[0]["held_out"] is None) == (every == 1)
    rows = read_lines(tmp_path / "whole/metrics.jsonl")
    assert (rows[0]["eval/strict"] is None) == (every == 1) and rows[0]["eval/unavailable"] == 0
