"""The GPU path without a GPU: tests/nullcuda stands in for CUDA.  Kernels compute nothing, so no number is looked at;
what is: which device each rank uses, what is captured and replayed, and what must not be called meanwhile."""

import json
import sys

import pytest
import torch
from nullcuda import BUILD, NCCL, ROOT, run, train, warnings

sys.path.insert(0, str(ROOT / "tests/golden"))
from test_pipeline import SD35, make, save, words  # noqa: E402, F401 (words is a fixture)
from test_train_sd3 import CONFIG as SD3_RUN  # noqa: E402
from vocabularies import clip_folder  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not (BUILD / "tests/nullcuda/libcudart.so.13").exists(), reason="no headers of cuDNN: not built"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
several_ranks = pytest.mark.skipif(not NCCL.exists(), reason="several ranks need tests/fakenccl")
STAGES = f"""
extends: {ROOT}/configs/shapes.yaml
stages:
  first:
    train: {{max_steps: 2}}
  second:
    train: {{max_steps: 2}}
"""


# ---- The stand-in itself ----
@pytest.mark.parametrize("probe, answers", [("capture_probe", "capture_h100.txt"), ("rules_probe", "rules_h200.txt")], ids=["captures", "rules"])
def test_as_on_a_gpu(tmp_path, probe, answers):
    """What GPUs answered to each call in a capture, by each thread, in each mode; and to sequences of calls."""
    assert run(tmp_path, BUILD / "tests/nullcuda" / probe).out == (ROOT / "tests/nullcuda" / answers).read_text()


# ---- CUDA graphs ----
def test_graphs(tmp_path):
    done = train(tmp_path, "train.cuda_graphs=true")
    (log,) = done.logs
    assert log["illegal_calls"] == {} and log["captures_invalidated"] == 0 and log["escaped_launches"] == 0
    # Two shapes of rollout (one forward, two under dpm2's corrector) and the update.
    assert log["captures_begun"] == log["captures_ended"] == 3 and log["graph_launches"] > 10 and log["captured_launches"] > 500
    assert log["launches_unchecked"] == 0 and not warnings(tmp_path)


def test_graphs_in_every_stage(tmp_path):
    """A stage's graphs are freed at its end; the memory that graphs share must outlive it."""
    (tmp_path / "c.yaml").write_text(STAGES)
    done = train(tmp_path, "train.cuda_graphs=true", config=tmp_path / "c.yaml")
    assert not warnings(tmp_path)
    assert done.sum("captures_ended") == 6


@pytest.mark.parametrize("which", ["1", "2", "3", "3:450"], ids=lambda x: x.replace(":", "-"))  # the 450th of the update is near the end of its backward
def test_broken_capture(tmp_path, which):
    """One capture fails in its middle: that graph alone is not replayed."""
    done = train(tmp_path, "train.cuda_graphs=true", BREAK_CAPTURE=which)
    assert len(warnings(tmp_path)) == 1 and "run without a CUDA graph" in warnings(tmp_path)[0]
    assert done.sum("captures_begun") == 3 and done.sum("captures_ended") == 2 and done.sum("graph_launches")


def test_one_stream_for_captures(tmp_path):
    """Each stream that a product runs in has a workspace of 32 MB, for ever."""
    (log,) = train(tmp_path, "train.cuda_graphs=true").logs
    assert log["capture_streams"] == 1
    # The trainer's handle in its stream and in that of captures, and autograd's handle the same.
    assert log["workspaces"] <= 4


def test_syncs_a_micro_batch(tmp_path):
    """The host never waits for the GPU between micro-batches: each time the GPU would have nothing to do."""
    few, many = (train(tmp_path / str(n), f"train.micro_batch={n}", "train.max_steps=1").sum("host_syncs") for n in (12, 6))
    assert 0 < few == many  # 72 pairs: 6 and 12 micro-batches


def test_syncs_a_batch(tmp_path):
    """Sampling waits for a batch once, when its images have come, while the next is under way; and its judge for its own stream."""
    few, many = (train(tmp_path / str(n), f"rollout.batch={n}", "train.max_steps=1").sum("host_syncs") for n in (12, 6))
    assert 0 <= (many - few) / 2 <= 2  # 24 images: 2 and 4 batches


def test_memory_of_graphs(tmp_path):
    """It is given back when the last graph goes, and the next capture may begin anew."""
    (log,) = run(tmp_path, BUILD / "tests/test_memory").logs
    assert log["captures_ended"] == 3


def test_near_the_limit(tmp_path):
    """What the runs before a capture left in the allocator's caches is given back first: a capture cannot take it."""
    large = ["prompts.groups=8", "prompts.group_size=24", "rollout.batch=192", "train.micro_batch=192", "train.cuda_graphs=true"]
    done = train(tmp_path, *large, MEMORY=420 << 20)
    assert done.sum("allocations_failed") > 0 and done.sum("captures_ended") == 3 and not warnings(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_stable_diffusion(tmp_path, words, dtype):  # noqa: F811
    """A tiny SD3.5: text encoders, VAE, gradient checkpointing, updates as graphs."""
    save(make(words, transformer=SD35, seed=11), words, tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("a red circle\ntwo dogs\nx\n")
    text = SD3_RUN.format(cache=tmp_path / "cache", model=tmp_path / "model", prompts=tmp_path / "prompts.txt")
    (tmp_path / "c.yaml").write_text(text)
    (log,) = train(tmp_path, f"run.dtype={dtype}", "train.cuda_graphs=true", config=tmp_path / "c.yaml").logs
    assert log["illegal_calls"] == {} and log["captures_ended"] >= 2 and log["launches_unchecked"] == 0
    assert log["devices"]["0"]["dnn"] > 0 and not warnings(tmp_path)


@pytest.mark.parametrize("merge, forward, micro_batch", [("always", 44, 303), ("auto", 51, 310)])
def test_launches(tmp_path, merge, forward, micro_batch):
    """How many kernels a forward takes, in 16 bits and in 8, and a micro-batch (theta's forward and backward, the old policy's and the
    base's forward): of bench's two blocks, by what more steps and levels add."""
    bench = [BUILD / "contraflow", "bench", "--model", "tiny", "--dtype", "bfloat16", "--device", "cuda", "--repeats", 1, "--groups", 1]
    bench += ["--group-size", 4, "--batch", 4, "--micro-batch", 4, "--no-graphs", "--merge", merge]

    def launches(steps, levels, *more):
        (log,) = run(tmp_path, *bench, "--steps", steps, "--levels", levels, *more).logs
        return log["devices"]["0"]["launches"]

    start = launches(4, 1)
    # Once to warm up, once to be timed.
    assert (launches(8, 1) - start) / 8 <= forward
    assert (launches(8, 1, "--fp8") - launches(4, 1, "--fp8")) / 8 <= 62
    assert (launches(4, 3) - start) / 4 <= micro_batch


def test_bench(tmp_path):
    """Every setting of bench's table: 8 bits, batches, gradient checkpointing, updates as graphs, adapters merged and beside the weights."""
    out = tmp_path / "b.json"
    done = run(tmp_path, BUILD / "contraflow", "bench", "--model", "tiny", "--dtype", "bfloat16", "--matrix", "--repeats", 1, "--device", "cuda", "-o", out, COUNT=1)
    (log,) = done.logs
    # Noise is the GPU's, and so is the group norm of channels-last images.
    assert all(any(name in k for k in log["kernels"]) for name in ("7normals", "10group_norm"))
    assert log["illegal_calls"] == {} and log["captures_ended"] == log["captures_begun"] > 10 and log["capture_streams"] == 1
    assert "2 + update" in done.out
    rows = {r["name"]: r for r in json.loads(out.read_text())["settings"]}
    assert all((r["replayed"] > 10) == (name != "nothing replayed") for name, r in rows.items())
    assert rows["all at a time"]["merge"] == "auto" and rows["adapters merged"]["merge"] == "always"


# ---- The checks of the stand-in ----
@pytest.mark.parametrize("mistake, message", [
    ("none", ""),
    ("pointer", "on device 1 is given memory of device 0"),
    ("product", "cublasSgemm on device 1 is given memory of device 0"),
    ("stream", "its stream is of device 1, the thread's device is 0"),
    ("grid", "a grid of (1, 65536, 1)"),
    ("block", "blocks of (33, 32, 1) threads"),
    ("copy", "leaves what was allocated"),
])  # fmt: skip
def test_mistakes_are_caught(tmp_path, mistake, message):
    done = run(tmp_path, BUILD / "tests/nullcuda/launch_probe", mistake, check=False, DEVICES=2)
    assert message in done.err and (done.code == 0) == (mistake == "none"), done.err


# ---- A GPU a rank ----
class Judge(torch.nn.Module):
    """One that takes its time, so that it works while the next batches are sampled."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.last = torch.nn.Linear(4, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images
        for _ in range(200):
            x = torch.nn.functional.gelu(self.conv(images))
        return self.last(x.mean((2, 3)))[:, 0]


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    """Rewards that use a GPU: a TorchScript module, and a tiny CLIP by two names (which share one tower)."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    folder = tmp_path_factory.mktemp("judges")
    torch.jit.script(Judge().eval()).save(str(folder / "judge.pt"))
    size = clip_folder(folder / "clip", merges=300)
    text = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, vocab_size=size, eos_token_id=size - 1)
    vision = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=30, patch_size=6)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)).save_pretrained(folder / "clip")
    CLIPImageProcessorPil(size={"shortest_edge": 30}, crop_size={"height": 30, "width": 30}).save_pretrained(folder / "clip")
    clip = dict(model=str(folder / "clip"), device="cuda")
    return {"script": dict(module=str(folder / "judge.pt"), device="cuda", size=24), "clipscore": clip, "pickscore": clip}


def write(path, stages, **keys):
    """configs/shapes.yaml with other keys, in one stage or two."""
    config = dict(extends=str(ROOT / "configs/shapes.yaml"), **keys)
    if stages:
        config["stages"] = {name: dict(train=dict(max_steps=1)) for name in ("first", "second")}
    path.write_text(json.dumps(config))
    return path


def one_device_each(done, devices):
    """Each process made a context on one device alone, and no two on the same."""
    logs = [log for log in done.logs if log["contexts"]]  # to count devices makes none
    assert sorted(log["contexts"] for log in logs) == [[d] for d in devices]
    for log in logs:
        assert list(log["devices"]) == [str(log["contexts"][0])] and log["illegal_calls"] == {}


def threads(log):
    (device,) = log["devices"].values()
    return device["threads"]


@pytest.fixture
def short(tmp_path):
    """A short prompt file for evaluations."""
    lines = (ROOT / "data/shapes/validation.jsonl").read_text().splitlines()[::12]
    (tmp_path / "test.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "test.jsonl"


def test_eval_on_a_gpu_each(tmp_path, judges, short):
    config = write(tmp_path / "c.yaml", False, rewards=judges)
    args = ["--model", "data/shapes/base", "--prompts", short, "--config", config, "--device", "cuda", "--steps", 4]
    one_device_each(run(tmp_path, BUILD / "contraflow", "eval", *args, ranks=4, DEVICES=4), range(4))


def test_rewards_in_streams_of_their_own(tmp_path, judges):
    """A scoring thread does not wait behind the batches that the trainer has queued."""
    config = write(tmp_path / "c.yaml", False, rewards=judges)
    (log,) = train(tmp_path, "rollout.cuda_graphs=false", config=config).logs
    busy = [t for name, t in threads(log).items() if t["launches"] and "pt_autograd" not in name]
    assert log["launch_streams"] == len(busy) > 1 and log["illegal_calls"] == {}


def test_rewards_beside_captures(tmp_path, judges):
    """Threads that score on the same GPU do nothing that breaks a capture, which any thread's cudaDeviceSynchronize would."""
    config = write(tmp_path / "c.yaml", False, rewards=judges)
    # The last batch of an epoch has another size, and is captured while those before it are scored.
    (log,) = train(tmp_path, "train.cuda_graphs=true", "rollout.batch=5", config=config).logs
    assert log["illegal_calls"] == {} and log["captures_ended"] == 4 and not warnings(tmp_path)
    assert len([t for t in threads(log) if "pt_autograd" not in t]) >= 2


@several_ranks
@pytest.mark.parametrize("stages", [False, True], ids=["one-stage", "stages"])
def test_training_on_a_gpu_each(tmp_path, judges, stages):
    config = write(tmp_path / "c.yaml", stages, rewards=judges)
    done = train(tmp_path, config=config, ranks=4, DEVICES=4)
    one_device_each(done, range(4))
    for log in done.logs:  # the judges' threads worked there too
        assert sum(t["launches"] > 0 for name, t in threads(log).items() if "pt_autograd" not in name) >= 2


@several_ranks
@pytest.mark.parametrize("stages", [False, True], ids=["one-stage", "stages"])
def test_reward_ranks_on_a_gpu_each(tmp_path, judges, stages):
    config = write(tmp_path / "c.yaml", stages, rewards=judges)
    done = train(tmp_path, "ranks.reward=2", config=config, ranks=6, DEVICES=6)
    one_device_each(done, range(6))


@several_ranks
def test_reward_ranks_without_a_gpu(tmp_path):
    """Judges on the CPU need no device, so six ranks do with four."""
    done = train(tmp_path, "ranks.reward=2", ranks=6, DEVICES=4)
    one_device_each(done, range(4))


@several_ranks
@pytest.mark.parametrize("visible", ["3,1", "GPU-1a,GPU-3a"], ids=["numbers", "uuids"])
def test_some_of_the_gpus(tmp_path, visible):
    one_device_each(train(tmp_path, ranks=2, visible=visible, DEVICES=4), [1, 3])


@several_ranks
def test_fewer_gpus_than_ranks(tmp_path):
    done = train(tmp_path, ranks=2, DEVICES=1, check=False)
    assert done.code and "2 ranks on this machine and 1 GPU" in done.err
