"""contraflow replay: the run that made the archives again, from them alone; other divisions of the work; resume; what is refused."""

import json

import numpy as np
import pytest
import zstandard
from command import ROOT, TINY, contraflow, fails, read_lines, read_zst
from safetensors.numpy import save_file

STEPS = 3
C = json.loads((ROOT / "data/shapes/base/transformer/config.json").read_text())["in_channels"]
SETS = [*TINY, "--set", "optimizer.lr=1e-4", "--set", "train.timestep_fraction=0.3", "--set", "train.steps_per_epoch=1"]


def theta(run, step=STEPS):
    return read_zst(run / f"checkpoints/step-{step:08d}/state.safetensors.zst")["theta"]


def replay(run, archives, *sets, ranks=0, resume=False):
    sets = [x for s in sets for x in ("--set", s)]
    contraflow("replay", "configs/shapes.yaml", *archives, "--run", run, *SETS, *sets, *(["--resume"] if resume else []), ranks=ranks)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two ranks, of which each wrote its part of every epoch."""
    run = tmp_path_factory.mktemp("trained")
    contraflow("train", "configs/shapes.yaml", "--run", run / "r", *SETS, "--set", f"train.max_steps={STEPS}", "--set", "log.rollouts_every=1", ranks=2)
    archives = sorted((run / "r/rollouts").iterdir())
    assert len(archives) == 2 * STEPS
    return run / "r", archives


def test_the_same_run_again(tmp_path, trained):
    """Prompts file and rewards play no part: the same images, levels and noise, so the same bytes on as many ranks, and 1e-5 on others."""
    run, archives = trained
    replay(tmp_path / "2", archives, "prompts.train=no-such-file.jsonl", ranks=2)
    assert np.array_equal(theta(tmp_path / "2"), theta(run))
    for ranks in 1, 3:
        replay(tmp_path / str(ranks), archives, ranks=ranks)
        assert np.abs(theta(tmp_path / str(ranks)) - theta(run)).max() < 1e-5
    then, now = read_lines(run / "metrics.jsonl"), read_lines(tmp_path / "2/metrics.jsonl")
    assert len(now) == STEPS
    for a, b in zip(then, now):
        assert all(abs(a[k] - b[k]) < 1e-6 for k in ("loss/policy", "loss/kl", "grad_norm", "reward/mean", "advantage/r_mean", "health/x0_norm", "health/diversity"))
        assert a["images"] == b["images"] and b["health/pixel_mean"] is None


def test_health_of_the_latents(trained):
    """Root mean square, and the distance from a group's mean as a share of it, in float64; the groups are split between two ranks."""
    run, archives = trained
    for epoch, row in enumerate(read_lines(run / "metrics.jsonl")):
        parts = [read_zst(f) for f in archives[2 * epoch : 2 * epoch + 2]]
        x = np.concatenate([p["x0"] for p in parts])
        x, group = x.reshape(len(x), -1).astype(np.float64), np.arange(len(x)) // 5
        assert len(parts[0]["x0"]) % 5 and abs(np.sqrt((x**2).mean()) - row["health/x0_norm"]) < 1e-6
        within = sum(((x[group == g] - x[group == g].mean(0)) ** 2).sum() for g in set(group))
        expected = np.sqrt(within / (len(x) - len(set(group))) / x.shape[1]) / np.sqrt((x**2).mean())
        assert 0 < expected and abs(expected - row["health/diversity"]) < 1e-6


def test_resume(tmp_path, trained):
    """Stopped after two epochs and gone on with: the same bytes; with other archives, a warning."""
    _, archives = trained
    replay(tmp_path / "whole", archives)
    replay(tmp_path / "cut", archives, "train.max_steps=2")
    replay(tmp_path / "cut", archives, resume=True)
    assert np.array_equal(theta(tmp_path / "whole"), theta(tmp_path / "cut"))
    replay(tmp_path / "other", archives[:4])
    replay(tmp_path / "other", [*archives[:4], archives[0]], resume=True)
    assert "archives: the file has changed since the run's checkpoint" in (tmp_path / "other/log.txt").read_text()


def write(path, drop=(), meta=True, **changes):
    n = 6
    x = dict(x0=np.random.default_rng(0).standard_normal((n, C, 6, 6)).astype(np.float32), prompt_id=np.arange(n) // 2,
             r=np.linspace(0, 1, n, dtype=np.float32))  # fmt: skip
    x = {k: v for k, v in {**x, **changes}.items() if k not in drop}
    prompts = {"0": "a red circle", "1": "two blue squares", "2": "a green cross"}
    save_file(x, path, {"prompts": json.dumps(prompts)} if meta else None)
    return path


BAD = [
    ("no x0", dict(drop=["x0"]), "x0 (N, C, H, W) is missing"),
    ("no r", dict(drop=["r"]), "tensor 'r' is missing"),
    ("no prompts", dict(meta=False), "the metadata have no prompts"),
    ("a prompt without text", dict(prompt_id=np.array([0, 0, 1, 1, 2, 5])), "prompt_id[5] = 5 has no text"),
    ("r beyond 1", dict(r=np.full(6, 1.5, np.float32)), "r[0] = 1.5 is not in [0, 1]"),
    ("not finite", dict(x0=np.full((6, C, 6, 6), np.inf, np.float32)), "x0 has numbers that are not finite"),
    ("half precision", dict(x0=np.zeros((6, C, 6, 6), np.float16)), "x0 must be float32"),
    ("another size", dict(x0=np.zeros((6, C, 8, 6), np.float32)), f"latents are ({C}, 8, 6), and the configuration's are ({C}, 6, 6)"),
    ("levels beyond 1000", dict(timesteps=np.full((6, 2), 1001, np.float32)), "timesteps are 1000 t, above 0 and at most 1000"),
    ("levels as sigmas, of another count", dict(timesteps=np.full((5, 2), 1, np.float32)), "timesteps must be (6, T)"),
    ("too many levels", dict(timesteps=np.full((6, 11), 1, np.float32)), "11 timesteps an image are more than rollout.steps = 10"),
    ("noise alone", dict(noise=np.zeros((6, 2, C, 6, 6), np.float32)), "noise without timesteps"),
    ("noise of another shape", dict(timesteps=np.full((6, 2), 500, np.float32), noise=np.zeros((6, 1, C, 6, 6), np.float32)), "noise must be (N, T, C, H, W)"),
]  # fmt: skip


@pytest.mark.parametrize("name, changes, message", BAD, ids=[b[0] for b in BAD])
def test_bad_archives(tmp_path, name, changes, message):
    """One line that names the file, and no run directory."""
    good, bad = write(tmp_path / "good.safetensors"), write(tmp_path / "bad.safetensors", **changes)
    sets = [*SETS, "--run", tmp_path / "run"]
    done = contraflow("replay", "configs/shapes.yaml", good, bad, *sets, check=False)
    lines = [l for l in done.stderr.splitlines() if l.startswith("contraflow: ")]
    assert done.returncode == 1 and len(lines) == 1 and message in lines[0] and "bad.safetensors" in lines[0], done.stderr
    assert not (tmp_path / "run/checkpoints").exists() and not (tmp_path / "run/metrics.jsonl").exists()


def test_a_bomb(tmp_path):
    """What goes on behind the last tensor is refused before it is in memory: 2.7 GB of zeros."""
    good = write(tmp_path / "a.safetensors").read_bytes()
    squeeze, bomb = zstandard.ZstdCompressor(level=1).compressobj(), tmp_path / "bomb.safetensors.zst"
    with open(bomb, "wb") as f:
        f.write(squeeze.compress(good))
        for _ in range(40):
            f.write(squeeze.compress(bytes(1 << 26)))
        f.write(squeeze.flush())
    for command in ["inspect", bomb], ["replay", "configs/shapes.yaml", bomb, "--run", tmp_path / "r"]:
        assert "the compressed data go on behind byte" in fails(*command)


def test_refused(tmp_path):
    path = write(tmp_path / "a.safetensors")
    assert "name a configuration and archives" in fails("replay", "configs/shapes.yaml")
    assert "no-such.safetensors" in fails("replay", "configs/shapes.yaml", tmp_path / "no-such.safetensors", "--run", tmp_path / "r")
    staged = tmp_path / "two.yaml"
    staged.write_text(f"extends: {ROOT}/configs/shapes.yaml\nstages: {{a: {{}}, b: {{}}}}\n")
    assert "replay: the configuration has stages" in fails("replay", staged, path, "--run", tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_python_archives_of_groups(tmp_path):
    """DPO looks at whole groups, which an archive has by its prompts."""
    path = write(tmp_path / "a.safetensors")
    replay(tmp_path / "r", [path, path], "train.algorithm=dpo")
    assert len(read_lines(tmp_path / "r/metrics.jsonl")) == 2
