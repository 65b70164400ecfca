"""Keys that were renamed: the earlier name still works everywhere, is warned of once, and is never written."""

import pytest
import yaml
from command import ROOT, TINY, contraflow, fails, read_lines, read_zst

PARENT = f"""
extends: {ROOT}/configs/shapes.yaml
train: {{checkpoint_blocks: 1}}
"""
CHILD = """
extends: parent.yaml
rollout: {graphs: false}
model: {t5_length: 77}
eval: {sampler: {graphs: false}}
rewards: {vision: {type: openai, picture: jpeg}, geneval: {weight: 2}}
stages:
  one: {train: {max_steps: 2}}
  two: {train: {gradient_checkpointing: 2, graphs: true}}
  three: {train: {checkpoint_blocks: auto}, rewards: {openai: {picture: jpeg}}}
"""
OLD = ("checkpoint_blocks", "graphs:", "picture")


def warnings(done):
    return [line for line in done.stderr.splitlines() if line.startswith("warning: ")]


def test_everywhere(tmp_path):
    (tmp_path / "parent.yaml").write_text(PARENT)
    (tmp_path / "child.yaml").write_text(CHILD)
    done = contraflow("config", "show", tmp_path / "child.yaml", "--set", "rollout.graphs=true")
    c = yaml.safe_load(done.stdout)
    one, two, three = c["stages"].values()
    assert not any(old in done.stdout.replace("cuda_graphs:", "") for old in OLD)
    assert [s["train"]["gradient_checkpointing"] for s in (c, one, two, three)] == [1, 1, 2, "auto"]
    assert [s["train"]["cuda_graphs"] for s in (one, two, three)] == [False, True, False]
    assert c["rollout"]["cuda_graphs"] is True and c["eval"]["sampler"]["cuda_graphs"] is False
    assert c["model"]["text_length"] == 77
    assert one["rewards"]["vision"]["image"] == "jpeg" == three["rewards"]["openai"]["image"]
    where = tmp_path / "child.yaml"
    assert sorted(warnings(done)) == sorted(
        [f"warning: {tmp_path}/parent.yaml:3: train.checkpoint_blocks is now called train.gradient_checkpointing",
         "warning: --set rollout.graphs=true: rollout.graphs is now called rollout.cuda_graphs",
         f"warning: {where}:4: model.t5_length is now called model.text_length",
         f"warning: {where}:5: eval.sampler.graphs is now called eval.sampler.cuda_graphs",
         f"warning: {where}:6: rewards.vision.picture is now called rewards.vision.image",
         f"warning: {where}:9: train.graphs is now called train.cuda_graphs",
         f"warning: {where}:10: train.checkpoint_blocks is now called train.gradient_checkpointing",
         f"warning: {where}:10: rewards.openai.picture is now called rewards.openai.image"])  # fmt: skip


@pytest.mark.parametrize("text, parts", [
    ("train:\n  checkpoint_blocks: 1\n  gradient_checkpointing: 1\n",
     ["x.yaml:3: train.checkpoint_blocks is now called train.gradient_checkpointing, which is given as well (", "x.yaml:4)"]),
    ("rewards: {openai: {image: png, picture: jpeg}}\n", ["rewards.openai.picture is now called rewards.openai.image, which"]),
])  # fmt: skip
def test_both_names(tmp_path, text, parts):
    (tmp_path / "x.yaml").write_text(f"extends: {ROOT}/configs/shapes.yaml\n" + text)
    line = fails("config", "show", tmp_path / "x.yaml")
    assert all(part in line for part in parts), line


def test_mistakes_name_what_was_written(tmp_path):
    done = contraflow("config", "show", "configs/shapes.yaml", "--set", "train.checkpoint_blocks=some", check=False)
    assert "train.checkpoint_blocks = 'some': not an integer" in done.stderr and done.returncode != 0


def test_resume(tmp_path):
    """A run that an earlier version began: what it wrote as its configuration goes on as it was, with the names of today."""
    sets = [*TINY, "--set", "train.gradient_checkpointing=1"]
    contraflow("train", "configs/shapes.yaml", "--run", tmp_path / "whole", *sets, "--set", "train.max_steps=2")
    contraflow("train", "configs/shapes.yaml", "--run", tmp_path / "cut", *sets, "--set", "train.max_steps=1")
    config = tmp_path / "cut/config.yaml"
    today = config.read_text()
    config.write_text(today.replace("gradient_checkpointing:", "checkpoint_blocks:").replace("cuda_graphs:", "graphs:"))
    done = contraflow("train", config, "--run", tmp_path / "cut", "--resume", "--set", "train.max_steps=2", ranks=2)
    assert len(warnings(done)) == 4 and "resuming at step 1" in done.stderr
    assert config.read_text() == today.replace("max_steps: 1\n", "max_steps: 2\n")
    assert [r["step"] for r in read_lines(tmp_path / "cut/metrics.jsonl")] == [1, 2]
    a, b = (read_zst(tmp_path / r / "checkpoints/step-00000002/state.safetensors.zst") for r in ("whole", "cut"))
    assert a.keys() == b.keys() and abs(a["theta"] - b["theta"]).max() < 1e-5
