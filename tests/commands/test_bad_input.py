"""Every mistake of a user: one clear line, a non-zero exit, nothing half-written."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest
from command import BASE, ROOT, TINY, contraflow, fails
from PIL import Image
from safetensors.numpy import save_file

CONFIG = ROOT / "configs/shapes.yaml"


def config(folder, text):
    path = folder / "x.yaml"
    path.write_text(f"extends: {CONFIG}\n" + text)
    return path


def train_fails(folder, text="", *args):
    line = fails("train", config(folder, text), "--run", folder / "run", *TINY, *args)
    assert not (folder / "run").exists(), "a run directory was left behind"
    return line


@pytest.mark.parametrize(
    "text, parts",
    [
        ("train: {max_steps: 3\n", ["x.yaml:", "not valid YAML"]),
        ("train: {max_stesp: 3}\n", ["x.yaml:2", "train.max_stesp", "did you mean 'train.max_steps'"]),
        ("trian: {max_steps: 3}\n", ["x.yaml:2", "'trian'", "did you mean 'train'"]),
        ("train: {max_steps: many}\n", ["x.yaml:2", "train.max_steps", "'many'", "integer"]),
        ("train: {max_steps: 0}\n", ["x.yaml:2", "train.max_steps", "must be in [1,"]),
        ("optimizer: {lr: fast}\n", ["x.yaml:2", "optimizer.lr", "number"]),
        ("rollout: {solver: dpm22}\n", ["x.yaml:2", "rollout.solver", "did you mean 'dpm2'"]),
        ("nft: 3\n", ["x.yaml:2", "'nft'", "section"]),
        ("stages: {a/b: {train: {max_steps: 1}}}\n", ["x.yaml:2", "'a/b'", "use letters"]),
        ("advantage: {reward_clip: 3}\n", ["x.yaml:2", "reward_clip = 3", "advantage.combine: normalised"]),
        ("rewards: {genevil: {}}\n", ["genevil", "did you mean 'geneval'"]),
        ("rewards: {geneval: {detector: yolo}}\n", ["geneval", "detector", "yolo"]),
        ("model: {path: no/such/model}\n", ["no/such/model: no such folder", "docs/sd35.md"]),
        ("rewards: {pickscore: {model: no/such/clip}}\n", ["reward pickscore: no/such/clip: no such folder", "docs/sd35.md"]),
        ("prompts: {train: no/such.jsonl}\n", ["no/such.jsonl", "No such file"]),
        ("lora: {targets: [attn.to_z]}\n", ["attn.to_z"]),
        ("run: {device: cuda}\n", ["cuda"]),
        ("train: {gradient_checkpointing: 30}\n", ["train.gradient_checkpointing = 30: the transformer has 4 blocks"]),
        ("rollout: {lr: 1}\n", ["unknown key 'rollout.lr'; there is optimizer.lr"]),
        ("max_steps: 3\n", ["unknown key 'max_steps'; there is train.max_steps"]),
        # diffusers: a ValueError unless both are divisible by the VAE's scale times the patch (here 4 * 2)
        ("prompts: {height: 25}\n", ["x.yaml:2: prompts.height 25: must be a multiple of 8, at most 24"]),
        ("prompts: {width: 32}\n", ["x.yaml:2: prompts.width 32: must be a multiple of 8, at most 24"]),
        ("stages: {a: {prompts: {width: 4}}}\n", ["stage a", "prompts.width 4: must be a multiple of 8"]),
        ("rewards: {geneval: null}\n", ["rewards: there is none"]),
    ],
)
def test_configs(tmp_path, text, parts):
    line = train_fails(tmp_path, text)
    for part in parts:
        assert part in line, line


def test_missing_config():
    assert "no/such.yaml" in fails("train", "no/such.yaml")
    assert "usage" in fails("train")


def test_set(tmp_path):
    assert "did you mean 'optimizer.lr'" in train_fails(tmp_path, "", "--set", "optimizer.rl=1")
    assert "KEY=VALUE" in train_fails(tmp_path, "", "--set", "optimizer.lr")


def test_prompt_files(tmp_path):
    for name, content, part in [
        ("empty.jsonl", "", "empty"),
        ("empty.txt", "\n\n", "empty"),
        ("broken.jsonl", '{"prompt": "a photo of a cross"\n', "broken.jsonl:1"),
        ("missing.jsonl", '{"tag": "colors"}\n', "prompt"),
        ("class.jsonl", '{"prompt": "a photo of a cross", "tag": "single_object", "include": [{"class": "horse", "count": 1}]}\n', "horse"),
        ("word.jsonl", '{"prompt": "a photo of a horse", "tag": "single_object", "include": [{"class": "cross", "count": 1}]}\n', "horse"),
    ]:  # fmt: skip
        (tmp_path / name).write_text(content)
        line = train_fails(tmp_path, f"prompts: {{train: {tmp_path / name}}}\n")
        assert part in line, line


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_truncated_weights(tmp_path, part):
    shutil.copytree(ROOT / BASE, tmp_path / "model")
    file = next((tmp_path / "model" / part).glob("*.safetensors"))
    data = file.read_bytes()
    for size in (len(data) - 5, 100, 4, 0):
        file.write_bytes(data[:size])
        line = fails("sample", "--model", tmp_path / "model", "--prompt", "a photo of a cross", "-o", tmp_path / "x.png")
        assert file.name in line
        assert not (tmp_path / "x.png").exists()


def test_missing_model_files(tmp_path):
    shutil.copytree(ROOT / BASE, tmp_path / "model")
    for name in ("model_index.json", "transformer/config.json", "vae/config.json", "text_encoder/vocab.json"):
        (tmp_path / "model" / name).rename(tmp_path / "aside")
        line = fails("sample", "--model", tmp_path / "model", "--prompt", "a photo of a cross", "-o", tmp_path / "x.png")
        assert pathlib.Path(name).name in line
        (tmp_path / "aside").rename(tmp_path / "model" / name)


def test_unknown_class(tmp_path):
    shutil.copytree(ROOT / BASE, tmp_path / "model")
    index = tmp_path / "model/model_index.json"
    j = json.loads(index.read_text())
    j["vae"][1] = "HolographicAutoencoder"
    index.write_text(json.dumps(j))
    line = fails("sample", "--model", tmp_path / "model", "--prompt", "a photo of a cross", "-o", tmp_path / "x.png")
    assert "HolographicAutoencoder" in line and "LinearAutoencoder" in line


def test_adapter_of_another_shape(tmp_path):
    lora = tmp_path / "lora"
    lora.mkdir()
    (lora / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["attn.to_q"]}))  # fmt: skip
    name = "base_model.model.transformer_blocks.0.attn.to_q"
    save_file({f"{name}.lora_A.weight": np.zeros((4, 77), np.float32), f"{name}.lora_B.weight": np.zeros((128, 4), np.float32)},
              lora / "adapter_model.safetensors")  # fmt: skip
    line = fails("sample", "--model", BASE, "--lora", lora, "--prompt", "a photo of a cross", "-o", tmp_path / "x.png")
    assert "transformer_blocks.0.attn.to_q" in line and "77" in line
    assert not (tmp_path / "x.png").exists()


def test_adapter_of_a_broken_run(tmp_path):
    """The run's configuration says which model an adapter is of: when it cannot be read, that is what is wrong."""
    run = tmp_path / "run"
    contraflow("train", CONFIG, "--run", run, *TINY, "--set", "train.max_steps=1")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("model:", "modle:"))
    for command in (["sample", "--lora", run, "--prompt", "a photo of a cross"], ["export", run, "--format", "kohya"]):
        line = fails(*command, "-o", tmp_path / "out")
        assert "config.yaml" in line and "modle" in line and "--model" in line, line
    (run / "config.yaml").unlink()
    assert "does not belong to a run: give --model DIR" in fails("sample", "--lora", run, "--prompt", "a photo", "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unwritable_run_directory(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    line = fails("train", CONFIG, "--run", tmp_path / "file/run", *TINY)
    assert "file" in line
    # these look before they work, too: nothing of a configuration or a prompt file that is not there is said
    assert "compare: " in (line := fails("compare", tmp_path / "no.yaml", "-d", tmp_path / "file/out")) and "file/out" in line
    assert "shapes: " in (line := fails("shapes", "--render", tmp_path / "no.jsonl", "-o", tmp_path / "file/out")) and "file/out" in line
    assert "file/out" in fails("shapes", "--prompts", tmp_path / "file/out", "--render", tmp_path / "no.jsonl", "-o", tmp_path / "out")
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        assert "ermission" in fails("train", CONFIG, "--run", tmp_path / "locked/run", *TINY)


def test_command_line(tmp_path):
    done = contraflow("trian", check=False)
    assert done.returncode == 2 and "did you mean 'train'" in done.stderr
    assert "did you mean --steps" in fails("sample", "--stepz", "3")
    assert "--vae-batch 0" in fails("sample", "--model", BASE, "--prompt", "a photo of a cross", "--vae-batch", "0", "-o", "x.png")
    assert "--text-length -5" in fails("sample", "--model", BASE, "--prompt", "a photo of a cross", "--text-length", "-5", "-o", "x.png")
    assert "no component 'tokenise'" in fails("probe", "tokenise", "--model", BASE, "--in", f"{BASE}/vae/diffusion_pytorch_model.safetensors",
                                              "--out", "x.safetensors")  # fmt: skip
    assert "no/such/x.safetensors" in fails("probe", "schedule", "--model", BASE, "--out", "no/such/x.safetensors")
    assert "not an integer" in fails("sample", "--steps", "three")
    assert "--model" in fails("sample", "--prompt", "x", "-o", tmp_path / "x.png")
    assert "--prompt" in fails("sample", "--model", BASE, "-o", tmp_path / "x.png")
    assert "horse" in fails("sample", "--model", BASE, "--prompt", "a horse", "-o", tmp_path / "x.png")
    assert "dpm2" in fails("sample", "--model", BASE, "--prompt", "a photo of a cross", "--solver", "dpm22", "-o", tmp_path / "x.png")


@pytest.mark.parametrize("size", [26, 28, 32, 7, 8192])
def test_sample_sizes(tmp_path, size):
    line = fails("sample", "--model", BASE, "--prompt", "a", "--height", size, "-o", tmp_path / "x.png")
    assert line.startswith(f"contraflow: sample: --height {size}: must be a multiple of 8, at most 24")
    assert not (tmp_path / "x.png").exists()


def test_sample_names(tmp_path):
    for name in "x.jpg", "x.JPEG", "x.webp":
        assert "images are written as PNG" in fails("sample", "--model", BASE, "--prompt", "a", "-o", tmp_path / name)
    line = fails("sample", "--lora", tmp_path / "nope", "--prompt", "a", "-o", tmp_path / "x.png")
    assert f"--lora {tmp_path / 'nope'}: no such file or folder" in line


def test_sample_latents(tmp_path):
    """Latents that were saved start a run again; of another shape they are refused by name."""
    common = ["--model", BASE, "--prompt", "a photo of a cross", "--steps", 4]
    contraflow("sample", *common, "--save-latents", tmp_path / "a.safetensors", "-o", tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size == (24, 24)
    contraflow("sample", *common, "--latents", tmp_path / "a.safetensors", "-o", tmp_path / "b.png")
    save_file({"latents": np.zeros((1, 20, 5, 5), np.float32)}, tmp_path / "bad.safetensors")
    line = fails("sample", *common, "--latents", tmp_path / "bad.safetensors", "-o", tmp_path / "c.png")
    assert "latents" in line and "[1, 20, 5, 5]" in line and "[1, 20, 6, 6]" in line


def test_score(tmp_path):
    """Images of the world's own renderer are right; others are not; what is no image is refused."""
    contraflow("shapes", "--render", "data/shapes/validation.jsonl", "-o", tmp_path / "true")
    images = sorted((tmp_path / "true").glob("*.png"))[:24]
    prompts = tmp_path / "p.jsonl"
    prompts.write_text("\n".join((ROOT / "data/shapes/validation.jsonl").read_text().splitlines()[:24]))
    out = json.loads(contraflow("score", "--prompts", prompts, *images).stdout)["images"]
    assert [x["geneval"]["strict"] for x in out] == [1.0] * 24
    Image.new("RGB", (24, 24)).save(tmp_path / "black.png")
    one = tmp_path / "one.jsonl"
    one.write_text(prompts.read_text().splitlines()[0])
    out = json.loads(contraflow("score", "--prompts", one, tmp_path / "black.png").stdout)["images"]
    assert out[0]["geneval"]["strict"] == 0 and out[0]["reward"] == 0
    (tmp_path / "x.png").write_text("not an image")
    assert "x.png" in fails("score", "--prompts", one, tmp_path / "x.png")
    assert "2 images" in fails("score", "--prompts", prompts, images[0], images[1])


def test_inspect(tmp_path):
    assert "pos_embed.proj.weight" in contraflow("inspect", next((ROOT / BASE / "transformer").glob("*.safetensors"))).stdout
    assert "no/such" in fails("inspect", "no/such")
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 64)
    assert "x.safetensors" in fails("inspect", tmp_path / "x.safetensors")


def test_config_reference_is_current():
    page = (ROOT / "docs/config.md").read_text()
    assert page == contraflow("config", "reference").stdout, "run: build/contraflow config reference > docs/config.md"


def test_config_show_reads_back(tmp_path):
    shown = contraflow("config", "show", CONFIG, "--set", "run.name=007").stdout
    (tmp_path / "again.yaml").write_text(shown)
    assert contraflow("config", "show", tmp_path / "again.yaml").stdout == shown


@pytest.mark.parametrize("path", sorted(p.name for p in (ROOT / "configs").glob("*.yaml") if "pretrain" not in p.name))
def test_configs_are_valid(path):
    contraflow("config", "show", f"configs/{path}")


@pytest.mark.parametrize(
    "args",
    [
        ["eval", "--model", "none", "-o"],
        ["sample", "--model", "none", "--prompt", "x", "-o"],
        ["sample", "--model", "none", "--prompt", "x", "--save-latents"],
        ["export", "none", "--format", "kohya", "-o"],
        ["score", "--reward", "jpeg_compressibility", "none.png", "-o"],
        ["probe", "vae-decode", "--model", "none", "--in", "none", "--out"],
        ["bench", "--model", "none", "-o"],
    ],
    ids=lambda a: a[0],
)
def test_results_that_have_no_place(args, tmp_path):
    """Found before anything is loaded: what is to be loaded is not there at all."""
    path = tmp_path / "none/x.png"
    assert f"cannot write {path}: No such file or directory" in fails(*args, path) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("args", [["sample", "--model", "none", "--prompt", "x", "-d"], ["eval", "--model", "none", "--save"], ["export", "none", "--format", "peft", "-o"]], ids=lambda a: a[0])
def test_folders_that_have_no_place(args, tmp_path):
    (tmp_path / "file").touch()
    assert f"cannot write {tmp_path}/file/x: Not a directory" in fails(*args, tmp_path / "file/x")


def test_a_key_without_effect(tmp_path):
    """`old_start` is read by `warm` alone: said, and not refused, because a stage may inherit it."""
    start = ["train", "configs/shapes.yaml", "--run", tmp_path / "run", "--set", "policy.old_start=9", "--set", "train.max_steps=1", *TINY]
    assert "policy.old_start = 9 has no effect" in contraflow(*start).stderr
    assert "no effect" not in contraflow("train", "configs/shapes.yaml", "--run", tmp_path / "warm", "--set", "policy.old_schedule=warm", *start[4:]).stderr
