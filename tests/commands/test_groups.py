"""Rewards that get a prompt's whole group: rankings by judges of every kind, with any number of ranks."""

import json
import sys

import numpy as np
import pytest
from command import FRAMES, ROOT, TINY, contraflow, read_lines
from PIL import Image
from test_judges import build_plugin, means, serve  # noqa: F401 (serve is a fixture)

RANKS = {"command": [sys.executable, str(ROOT / "examples/judge_group.py")], "group": True}
# A judge that writes down what it was given, and ranks by brightness.
CHILD = FRAMES + r"""
while True:
    request = json.loads(frame())
    light = [sum(frame()) for _ in request["items"]]
    with open(os.path.join(sys.argv[1], f"{os.getpid()}.jsonl"), "a") as f:
        print(json.dumps([request.get("group"), [i["prompt"] for i in request["items"]], light]), file=f)
    answer([sum(x < y for x in light) / len(light) for y in light])
"""


def ranking(v):
    return [sum(x < y for x in v) for y in v]


@pytest.fixture
def images(tmp_path):
    """Six images of prompts a, b, a, c, b, a."""
    r, files = np.random.default_rng(1), []
    for i in range(6):
        Image.fromarray(r.integers(0, 256, (8, 6, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        files.append(tmp_path / f"{i}.png")
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(dict(prompt=p, tag="t")) + "\n" for p in "abacba"))
    return files


def score(folder, files, rewards):
    (folder / "c.yaml").write_text(json.dumps(dict(rewards=rewards)))
    done = contraflow("score", "--config", folder / "c.yaml", "--prompts", folder / "p.jsonl", *files, check=False)
    return json.loads(done.stdout)["images"] if done.stdout else done.stderr


def ranks_of(v):
    """The places within a, b, a, c, b, a."""
    out = np.zeros(6)
    for group in [0, 2, 5], [1, 4], [3]:
        out[group] = ranking([v[i] for i in group])
    return out


PLUGIN = r"""
#include "rewards/judges/plugin.h"
static double light(const struct contraflow_item *x)
{
	double sum = 0;
	for (int p = 0; p < 3 * x->width * x->height; p++)
		sum += x->rgb[p];
	return sum;
}
static int score(void *state, const struct contraflow_item *item, int n, struct contraflow_score *out)
{
	for (int i = 0; i < n; i++) {
		out[i].ok = 1;
		for (int k = 0; k < n; k++)
			out[i].value += light(&item[k]) < light(&item[i]);
	}
	return 0;
}
static const struct contraflow_reward ranks = { .abi = ABI, .name = "ranks", .score = score FLAGS };
const struct contraflow_reward *contraflow_reward(void) { return &ranks; }
"""


def test_judges_of_every_kind(serve, images, tmp_path):  # noqa: F811
    """Images of one prompt are one request, in order, though they lie apart; `batch` does not cut it."""
    light = [int(np.array(Image.open(f)).astype(int).sum()) for f in images]
    s = serve(lambda n, body: (200, json.dumps(dict(scores=ranking(means(body)))), {}))

    def plugin(name, abi, flags):
        return build_plugin(tmp_path, name, PLUGIN.replace(".abi = ABI", f".abi = {abi}").replace("FLAGS", flags))

    rewards = dict(http=dict(url=s.url, batch=1, in_flight=1, group=True), exec=RANKS,
                   asks=dict(type="plugin", path=plugin("asks", 2, ", .flags = CONTRAFLOW_GROUP")),
                   told=dict(type="plugin", path=plugin("told", 1, ""), group=True), all=dict(type="plugin", path=plugin("all", 1, "")))  # fmt: skip
    rows = score(tmp_path, images, rewards)
    got = {k: np.array([r[k]["score"] for r in rows]) for k in rewards}
    for k in "http", "asks", "told":
        assert np.array_equal(got[k], ranks_of(light)), k
    assert np.array_equal(got["all"], ranking(light))  # the same library without: one call for all
    red = [float(a[..., 0].sum() / a.sum()) for a in (np.array(Image.open(f)).astype(float) for f in images)]
    assert np.allclose(got["exec"], ranks_of(red) / np.array([2, 1, 2, 1, 1, 2]))
    bodies = [b for _, _, b, _ in s.requests]
    assert [[i["prompt"] for i in b["items"]] for b in bodies] == [["a"] * 3, ["b"] * 2, ["c"]] and all(b["group"] is True for b in bodies)
    said = score(tmp_path, images, dict(odd=dict(type="plugin", path=plugin("odd", 2, ", .flags = 6"))))
    assert "flags 0x6" in said and said.count("\n") == 1


def test_unavailable_groups(serve, images, tmp_path):  # noqa: F811
    """What a judge cannot rank is unavailable; the other groups' places stand."""
    s = serve(lambda n, b: (400, "no", {}) if b["items"][0]["prompt"] == "b" else (200, json.dumps(dict(scores=ranking(means(b)))), {}))
    rows = score(tmp_path, images, dict(http=dict(url=s.url, group=True, in_flight=1, retries=0)))
    light = [int(np.array(Image.open(f)).astype(int).sum()) for f in images]
    for i, (row, want) in enumerate(zip(rows, ranks_of(light))):
        assert row["reward"] == (None if i in (1, 4) else want)
    said = score(tmp_path, images, dict(exec={**RANKS, "group": False}))
    assert all(r["reward"] is None for r in said)


def test_script(images, tmp_path):
    """A network that centres its batch: the batch must be the group."""
    torch = pytest.importorskip("torch")

    class Centred(torch.nn.Module):
        def forward(self, x):
            light = x.mean((1, 2, 3))
            return light - light.mean()

    torch.jit.script(Centred()).save(str(tmp_path / "m.pt"))
    rows = score(tmp_path, images, dict(script=dict(module=str(tmp_path / "m.pt"), group=True, batch=1)))
    light, want = np.array([np.array(Image.open(f)).astype(float).mean() / 255 for f in images]), np.zeros(6)
    for group in [0, 2, 5], [1, 4], [3]:
        want[group] = light[group] - light[group].mean()
    assert np.allclose([r["reward"] for r in rows], want, atol=1e-6)


def calls(folder):
    return [json.loads(line) for p in folder.glob("*.jsonl") for line in p.read_text().splitlines()]


def test_any_number_of_ranks(tmp_path):
    """15 images of 3 prompts, and 6 of one, on 1, 2 and 3 ranks: every call is one prompt's whole group, the same
    images each time, and so are rewards, advantages and adapters. Image by image, so that the shares' batches are alike."""
    (tmp_path / "child.py").write_text(CHILD)
    for groups, size in (3, 5), (1, 6):
        runs, seen = [], []
        for ranks in 1, 2, 3:
            run, log = tmp_path / f"{groups}-{ranks}", tmp_path / f"calls-{groups}-{ranks}"
            log.mkdir()
            rewards = {"exec": dict(command=[sys.executable, str(tmp_path / "child.py"), str(log)], group=True), "geneval": dict(weight=0.1),
                       "red": dict(type="exec", **RANKS)}  # fmt: skip
            args = [x for k, v in rewards.items() for x in ("--set", f"rewards.{k}={json.dumps(v)}")]
            contraflow("train", "configs/shapes.yaml", "--run", run, *TINY, *args, "--set", f"prompts.groups={groups}", "--set",
                       f"prompts.group_size={size}", "--set", "train.max_steps=2", "--set", "rollout.batch=1", ranks=ranks)  # fmt: skip
            runs.append(read_lines(run / "metrics.jsonl"))
            seen.append(sorted(json.dumps(c) for c in calls(log)))
        assert len(seen[0]) == 2 * groups  # two rounds
        for group, prompts, light in calls(tmp_path / f"calls-{groups}-1"):
            assert group is True and len(prompts) == size and len(set(prompts)) == 1
        for other, metrics in zip(seen[1:], runs[1:]):
            # the first round's images are the same bits; the second's come of adapters that differ by rounding
            same = sum(a in seen[0] for a in other)
            assert len(other) == len(seen[0]) and same >= groups
            for key in runs[0][0]:
                if not key.startswith("time/") and (key.startswith("reward/") or key.startswith("advantage/")):
                    assert metrics[0][key] == runs[0][0][key], key
                    assert abs(metrics[1][key] - runs[0][1][key]) < 1e-2, key


def test_evaluation(tmp_path):
    """images_per_prompt is the group."""
    (tmp_path / "child.py").write_text(CHILD)
    lines = (ROOT / "data/shapes/validation.jsonl").read_text().splitlines()[:3]
    (tmp_path / "p.jsonl").write_text("\n".join(lines) + "\n")
    results = []
    for ranks in 1, 2, 3:
        log = tmp_path / f"calls-{ranks}"
        log.mkdir()
        (tmp_path / "c.yaml").write_text(json.dumps(dict(rewards=dict(exec=dict(command=[sys.executable, str(tmp_path / "child.py"), str(log)], group=True)))))
        contraflow("eval", "--model", "data/shapes/base", "--prompts", tmp_path / "p.jsonl", "--config", tmp_path / "c.yaml", "--steps", 4,
                   "--images-per-prompt", 4, "--batch", 1, "-o", tmp_path / f"{ranks}.json", "--quiet", ranks=ranks)  # fmt: skip
        result = json.loads((tmp_path / f"{ranks}.json").read_text())
        results.append((result["soft"], result["reward"], result["images"], sorted(json.dumps(c) for c in calls(log))))
    assert results[0] == results[1] == results[2] and results[0][2] == 12 and len(results[0][3]) == 3
