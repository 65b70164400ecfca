"""contraflow train: any number of ranks gives the same run, a killed one goes on, and what it leaves can be read."""

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest
from command import BASE, ROOT, TINY, build, contraflow, read_lines, read_steps, read_zst

CONFIG = "configs/shapes.yaml"


def train(folder, *args, ranks=0, **kwargs):
    return contraflow("train", CONFIG, "--run", folder, *TINY, *args, ranks=ranks, **kwargs)


def rollouts(folder, epoch):
    parts = [read_zst(p) for p in sorted((folder / "rollouts").glob(f"epoch-{epoch:06d}.rank-*.zst"))]
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


def test_ranks(tmp_path):
    """1, 2 and 3 ranks: the same prompts, noises, rewards, advantages; the same adapter to 1e-5 after 5 steps."""
    extra = ["--set", "train.max_steps=5", "--set", "log.rollouts_every=1", "--set", "optimizer.lr=3e-4"]
    runs = []
    for ranks in (1, 2, 3):
        train(tmp_path / str(ranks), *extra, ranks=ranks)
        runs.append(tmp_path / str(ranks))
    for run in runs[1:]:
        for epoch in range(5):
            a, b = rollouts(runs[0], epoch), rollouts(run, epoch)
            assert np.array_equal(a["sample"], np.arange(15)) and np.array_equal(b["sample"], np.arange(15))
            assert np.array_equal(a["prompt_id"], b["prompt_id"])
            # The same noise through the same policy; ten steps enlarge what rounding leaves.
            assert np.linalg.norm(a["x0"] - b["x0"]) < 1e-4 * np.linalg.norm(a["x0"])
            for name in ("reward.geneval", "advantage", "r"):
                assert np.allclose(a[name], b[name], atol=1e-6), name
        one, other = (read_zst(r / "checkpoints/step-00000005/state.safetensors.zst") for r in (runs[0], run))
        for policy in ("theta", "old", "ema"):
            assert np.abs(one[policy] - other[policy]).max() < 1e-5, policy
        assert np.abs(one["theta"]).max() > 1e-3  # it moved: B starts at zero


def test_sampling_in_8_bits(tmp_path):
    """E4M3 moves the samples by a few per cent, not the policies of the update; replays change nothing at all."""
    extra = ["--set", "train.max_steps=2", "--set", "log.rollouts_every=1"]
    for name, *sets in ("plain",), ("graphs", "rollout.cuda_graphs=false"), ("fp8", "rollout.fp8=true"):
        train(tmp_path / name, *extra, *(x for s in sets for x in ("--set", s)))
    plain, graphs, fp8 = ([rollouts(tmp_path / n, epoch)["x0"] for epoch in (0, 1)] for n in ("plain", "graphs", "fp8"))
    for epoch in 0, 1:  # the second epoch samples with weights that have been rounded again
        assert np.array_equal(plain[epoch], graphs[epoch])
        far = np.linalg.norm(fp8[epoch] - plain[epoch]) / np.linalg.norm(plain[epoch])
        print(f"epoch {epoch}: samples of 8-bit weights are {far:.3f} away")
        assert 0.005 < far < 0.5
    state = read_zst(tmp_path / "fp8/checkpoints/step-00000002/state.safetensors.zst")
    assert np.isfinite(state["theta"]).all() and np.abs(state["theta"]).max() > 1e-4


@pytest.mark.parametrize("sets", [(), ("nft.kl_beta=0",), ("nft.kl_every=2",), ("lora.rank=2", "train.gradient_checkpointing=2")])
def test_update_as_a_graph(tmp_path, sets):
    """With train.cuda_graphs the update goes through CUDA graphs (which only a GPU replays): the same bits, whether theta is the old
    policy or not, with references for all pairs, for some and for none, micro-batches that are not whole, adapters merged or not."""
    sets = [x for s in ("train.max_steps=3", "train.micro_batch=9", "nft.kl_beta=0.1", *sets) for x in ("--set", s)]
    for name in "false", "true":
        contraflow("train", "configs/shapes.yaml", "--run", tmp_path / name, *TINY, *sets, "--set", f"train.cuda_graphs={name}")
    plain, graphs = (read_zst(tmp_path / name / "checkpoints/step-00000003/state.safetensors.zst") for name in ("false", "true"))
    assert plain.keys() == graphs.keys() and all(np.array_equal(plain[k], graphs[k]) for k in plain)


def test_more_ranks_than_images(tmp_path):
    done = contraflow("train", CONFIG, "--run", tmp_path / "r", *TINY, "--set", "prompts.groups=1",
                      "--set", "prompts.group_size=2", ranks=3, check=False)  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.count("contraflow: ") == 1 and "fewer than the 3 ranks" in done.stderr
    assert not (tmp_path / "r").exists()


def test_resume_after_kill(tmp_path):
    """A run killed in the middle and resumed ends where one that was never interrupted ends."""
    extra = ["--set", "train.max_steps=8", "--set", "checkpoint.every=2", "--set", "checkpoint.keep=100"]
    train(tmp_path / "whole", *extra)
    command = [build() / "contraflow", "train", CONFIG, "--run", tmp_path / "cut", *TINY, *extra]
    child = subprocess.Popen([*map(str, command)], cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             env={k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"})  # fmt: skip
    latest = tmp_path / "cut/checkpoints/latest"
    while not (latest.exists() and latest.read_text() >= "step-00000004"):
        assert child.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    train(tmp_path / "cut", *extra, "--resume")
    a, b = (read_zst(tmp_path / r / "checkpoints/step-00000008/state.safetensors.zst") for r in ("whole", "cut"))
    for name in a:
        assert np.array_equal(a[name], b[name]), name
    steps = [line["step"] for line in read_lines(tmp_path / "cut/metrics.jsonl")]
    assert steps == list(range(1, 9))


def test_run_directory(tmp_path):
    """Metrics with the time of every phase, result.json, grids, adapter, TensorBoard."""
    run = tmp_path / "run"
    args = [a for a in TINY if a not in ("prompts.test=", "log.tensorboard=false")]
    args = [a for i, a in enumerate(args) if not (a == "--set" and (i + 1 == len(args) or args[i + 1] == "--set"))]
    contraflow("train", CONFIG, "--run", run, *args, "--set", "train.max_steps=2", "--set", "eval.every=1")
    result = json.loads((run / "result.json").read_text())
    assert result["optimizer_steps"] == 2 and result["images"] == 30 and result["train_seconds"] > 0
    for when in ("before", "after"):
        r = result[when]
        assert r["images"] == 144 and 0 <= r["strict"] <= 1 and 0 <= r["soft"] <= 1
        assert set(r["tags"]) == {"single_object", "two_object", "counting", "colors", "position", "color_attr"}
        for kind in "geneval", "strict", "soft":
            assert abs(r[kind] - np.mean([t[kind] for t in r["tags"].values()])) < 1e-9
            assert r[f"{kind}_95"][0] < r[kind] < r[f"{kind}_95"][1]
        assert r["geneval"] >= r["strict"] and r["prompts"] == len({(p["tag"], p["prompt"]) for p in read_lines(ROOT / "data/shapes/validation.jsonl")})
        assert r["rewards"]["geneval"]["score"] == r["reward"]
    rows = read_lines(run / "metrics.jsonl")
    lines, evals = read_steps(run), [r for r in rows if "eval/strict" in r]
    # the first and the last evaluation have their lines, too
    assert [r["step"] for r in rows] == [0, 1, 1, 2, 2] and [r["step"] for r in lines] == [1, 2] and [r["step"] for r in evals] == [0, 1, 2]
    for r, when in (evals[0], "before"), (evals[-1], "after"):
        assert (r["eval/strict"], r["eval/reward"]) == (result[when]["strict"], result[when]["reward"])
    for phase in ("rollout", "reward_wait", "update", "all_reduce"):
        assert lines[0][f"time/{phase}"] >= 0
    assert all(r["time/eval"] > 0 for r in evals)
    assert sorted(p.name for p in (run / "samples").iterdir()) == [f"step-{i:06}.{kind}" for i in (0, 2) for kind in ("json", "png")]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [s.step for s in events.Scalars("reward/mean")] == [1, 2] and [s.step for s in events.Scalars("eval/strict")] == [0, 1, 2]
    assert abs(events.Scalars("reward/mean")[1].value - lines[1]["reward/mean"]) < 1e-6
    image = events.Images("samples")[0]
    from PIL import Image
    import io

    grid = Image.open(io.BytesIO(image.encoded_image_string))
    assert grid.size == (image.width, image.height) == Image.open(run / "samples/step-000000.png").size
    # The adapter gives eval the same score as the run's own last evaluation.
    contraflow("eval", "--model", BASE, "--lora", run / "checkpoints/step-00000002/lora", "--prompts", "data/shapes/validation.jsonl",
               "--solver", "dpm2", "--steps", 10, "--batch", 96, "-o", tmp_path / "eval.json")  # fmt: skip
    again = json.loads((tmp_path / "eval.json").read_text())
    assert abs(again["strict"] - result["after"]["strict"]) <= 1.5 / 144


def test_old_run_is_not_written_over(tmp_path):
    train(tmp_path / "r", "--set", "train.max_steps=1")
    before = (tmp_path / "r/metrics.jsonl").read_bytes()
    done = train(tmp_path / "r", "--set", "train.max_steps=1", check=False)
    assert done.returncode != 0 and "--resume" in done.stderr
    assert (tmp_path / "r/metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_damaged_checkpoint(tmp_path, damage):
    run = tmp_path / "r"
    train(run, "--set", "train.max_steps=2", "--set", "checkpoint.every=1")
    state = run / "checkpoints/step-00000002/state.safetensors.zst"
    data = bytearray(state.read_bytes())
    if damage == "truncated":
        state.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        data[len(data) // 2] ^= 1
        state.write_bytes(data)
    done = train(run, "--resume", "--set", "train.max_steps=3", check=False)
    assert done.returncode != 0
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("contraflow: ") and "step-00000001" in message  # the one before is offered
    assert "damaged" in message


def test_start_from_an_adapter(tmp_path):
    """A run that starts from another's exported adapter begins where that ended, with its modules, rank and alpha."""
    extra = ["--set", "train.max_steps=2", "--set", "optimizer.lr=3e-3"]
    train(tmp_path / "first", *extra, "--set", "lora.rank=3", "--set", "lora.alpha=5")
    adapter = tmp_path / "adapter.safetensors"
    said = contraflow("export", tmp_path / "first", "--format", "kohya", "-o", adapter)
    assert "kohya, float32" in said.stdout
    train(tmp_path / "second", *extra, "--set", f"lora.start={adapter}", "--set", "train.max_steps=1")
    config = json.loads((tmp_path / "second/checkpoints/step-00000001/lora/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (3, 5)
    first, second = (read_zst(tmp_path / r / "checkpoints" / s / "state.safetensors.zst")
                     for r, s in (("first", "step-00000002"), ("second", "step-00000001")))  # fmt: skip
    moved = np.abs(second["theta"] - first["ema"])
    assert 0 < moved.max() <= 3e-3 * 1.01 and np.abs(first["ema"]).max() > 10 * moved.max()  # one step of Adam
    done = train(tmp_path / "third", "--set", "lora.start=runs/none", check=False)
    assert done.returncode != 0 and "lora.start: runs/none: no such file or folder" in done.stderr


def test_sample_with_a_run(tmp_path):
    """--lora takes a run, whose model need not be named, as it takes the adapter inside."""
    run = tmp_path / "run"
    train(run, "--set", "train.max_steps=1", "--set", "optimizer.lr=1e-2")
    images = []
    for i, lora in enumerate([run, run / "checkpoints/step-00000001", run / "checkpoints/step-00000001/lora"]):
        contraflow("sample", "--lora", lora, "--prompt", "a photo of a red cross", "--steps", 4, "-o", tmp_path / f"{i}.png")
        images.append((tmp_path / f"{i}.png").read_bytes())
    assert images[0] == images[1] == images[2]
