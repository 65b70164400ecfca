"""`auto`: sizes that fit into run.memory, the same when a run goes on, and the same run as with the sizes written down."""

import json
import re
import shutil

import numpy as np
import pytest
from command import ROOT, TINY, contraflow, fails, read_lines, read_zst

CONFIG = "configs/shapes.yaml"
MIB = 1024 * 1024
AUTO = [f"--set={key}=auto" for key in ("rollout.batch", "eval.sampler.batch", "train.micro_batch")]
SIZES = r"rollout.batch (\d+), eval.sampler.batch (\d+), train.micro_batch (\d+), train.gradient_checkpointing (\d+)"


def train(folder, *args, **kwargs):
    return contraflow("train", CONFIG, "--run", folder, *TINY, "--set", "train.max_steps=2", *args, **kwargs)


def sizes(folder):
    """The last line that says what auto became."""
    return tuple(map(int, re.findall(SIZES, (folder / "log.txt").read_text())[-1]))


def state(folder, step):
    return read_zst(folder / f"checkpoints/step-{step:08d}/state.safetensors.zst")


def peaks(folder):
    return [line["memory/peak"] * 1024 for line in read_lines(folder / "metrics.jsonl")]


def same(a, b):
    return all(np.array_equal(a[k], b[k]) for k in a)


def test_limits(tmp_path):
    """Less memory, smaller batches; what a run takes stays below, and its results change by rounding alone."""
    seen = {}
    for limit in 100, 34, 26, 21:
        run = tmp_path / str(limit)
        train(run, *AUTO, "--set", f"run.memory={limit}MiB")
        seen[limit] = sizes(run)
        print(limit, "MiB:", seen[limit], "peak", max(peaks(run)))
        assert max(peaks(run)) <= limit
    assert seen[100] == (15, 15, 30, 0)  # all that there is at once: 15 images of two levels
    micro = [s[2] for s in seen.values()]
    assert micro == sorted(micro, reverse=True) and len(set(micro)) == 4
    for limit in 34, 26, 21:
        a, b = state(tmp_path / "100", 2), state(tmp_path / str(limit), 2)
        assert 0 < np.linalg.norm(a["theta"] - b["theta"]) < 1e-4 * np.linalg.norm(a["theta"])
    # written down, the same sizes are the same run, bit by bit
    rollout, evaluation, micro, _ = seen[26]
    given = [f"rollout.batch={rollout}", f"eval.sampler.batch={evaluation}", f"train.micro_batch={micro}"]
    train(tmp_path / "given", *(f"--set={g}" for g in given))
    assert same(state(tmp_path / "26", 2), state(tmp_path / "given", 2))
    assert not re.findall(SIZES, (tmp_path / "given/log.txt").read_text())


def test_resume(tmp_path):
    """A run that goes on where there is more memory, or less, keeps its sizes; of the latter it warns."""
    four = ["--set", "train.max_steps=4", "--set", "checkpoint.keep=9"]
    train(tmp_path / "whole", *AUTO, *four, "--set", "run.memory=26MiB")
    for name, limit in ("more", "100MiB"), ("less", "19MiB"):
        train(tmp_path / name, *AUTO, "--set", "run.memory=26MiB")
        said = train(tmp_path / name, *AUTO, *four, "--set", f"run.memory={limit}", "--resume").stderr
        assert ("runs out of memory" in said) == (name == "less"), said
        assert sizes(tmp_path / name) == sizes(tmp_path / "whole")
        assert same(state(tmp_path / name, 4), state(tmp_path / "whole", 4))
    batches = json.loads((tmp_path / "whole/checkpoints/step-00000004/state.json").read_text())["batches"]
    assert (batches["rollout"], batches["eval"], batches["micro"], batches["blocks"]) == sizes(tmp_path / "whole")
    assert batches["bytes"] <= 26 * MIB
    # a size that is given wins
    train(tmp_path / "more", *AUTO, *four, "--set", "train.micro_batch=7", "--set", "train.max_steps=5", "--resume")
    assert sizes(tmp_path / "more")[2] == 7


def test_resume_at_a_border(tmp_path):
    """The first checkpoint of a stage has its sizes already: the run goes on with them, whatever memory there is then."""
    config = tmp_path / "staged.yaml"
    config.write_text(f"extends: {ROOT / CONFIG}\nstages: {{a: {{train: {{max_steps: 1}}}}, b: {{prompts: {{group_size: 4}}, train: {{max_steps: 1}}}}}}\n")
    args = ["train", config, *TINY, *AUTO, "--set", "checkpoint.keep=9", "--run"]
    contraflow(*args, tmp_path / "whole", "--set", "run.memory=26MiB")
    cut = shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(cut / "checkpoints/step-00000002")
    (cut / "checkpoints/latest").write_text("step-00000001")  # as if killed before the first step of stage b
    contraflow(*args, cut, "--set", "run.memory=100MiB", "--resume")
    assert sizes(cut) == sizes(tmp_path / "whole") and same(state(cut, 2), state(tmp_path / "whole", 2))


def test_ranks(tmp_path):
    """All ranks take the same: three of them share what one has, and memory is a rank's."""
    train(tmp_path / "r", *AUTO, "--set", "run.memory=21MiB", ranks=3)
    assert sizes(tmp_path / "r")[0] == 5 and 1 <= sizes(tmp_path / "r")[2] < 10
    assert max(peaks(tmp_path / "r")) <= 21


def test_blocks(tmp_path):
    """As few blocks twice as fit at a given micro-batch, the fewer the more there is; the gradients stay what they are."""
    blocks = []
    for limit in 100, 36, 33, 30:
        run = tmp_path / str(limit)
        train(run, "--set", "train.micro_batch=30", "--set", "train.gradient_checkpointing=auto", "--set", f"run.memory={limit}MiB")
        blocks.append(sizes(run)[3])
        assert sizes(run)[2] == 30 and max(peaks(run)) <= limit
        assert same(state(tmp_path / "100", 2), state(run, 2))
    print(blocks)
    assert blocks[0] == 0 and blocks == sorted(blocks) and len(set(blocks)) >= 3
    # one block fewer would have been too much
    train(tmp_path / "fewer", "--set", "train.micro_batch=30", "--set", f"train.gradient_checkpointing={blocks[2] - 1}")
    assert max(peaks(tmp_path / "fewer")) > 33 * 0.98


def test_both(tmp_path):
    """Blocks are computed twice only where that makes the micro-batch larger."""
    both = [*AUTO, "--set", "train.gradient_checkpointing=auto"]
    train(tmp_path / "all", *both, "--set", "run.memory=100MiB")
    assert sizes(tmp_path / "all") == (15, 15, 30, 0)
    train(tmp_path / "less", *both, "--set", "run.memory=30MiB")
    assert sizes(tmp_path / "less")[2:] > (15, 0) and sizes(tmp_path / "less")[3] > 0
    assert max(peaks(tmp_path / "less")) <= 30


@pytest.mark.parametrize("limit, says", [("5MiB", "rollout.batch: not even 1 fits"), ("18MiB", "train.micro_batch: not even 1 fits")])
def test_too_little(tmp_path, limit, says):
    line = fails("train", CONFIG, "--run", tmp_path / "r", *TINY, *AUTO, "--quiet", "--set", f"run.memory={limit}")
    assert says in line and "run.memory allows" in line


def test_mistakes():
    assert "run.memory: '2': must be a share of the free memory (0.9) or a size" in fails("config", "show", CONFIG, "--set", "run.memory=2")
    line = fails("config", "show", CONFIG, "--set", "rollout.batch=most")
    assert "not an integer, nor one of auto" in line
    shown = contraflow("config", "show", CONFIG, *AUTO, "--set", "train.gradient_checkpointing=true").stdout
    assert shown.count("batch: auto") == 3 and "gradient_checkpointing: true" in shown
    line = fails("pretrain", "configs/shapes-pretrain.yaml", "--set", "eval.sampler.batch=auto")
    assert "eval.sampler.batch: auto is for" in line
