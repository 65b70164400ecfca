"""The start of a run on a tiny Stable Diffusion 3.5 pipeline: model files read once, room for embeddings looked at first."""

import os
import pathlib
import re
import subprocess
import time

import pytest
from sd3 import ROOT
from test_pipeline import SD35, make, save, words  # noqa: F401 (words is a fixture)

CONFIG = """
run: {{seed: 3, threads: 1, device: cpu}}
model: {{path: {model}, text_length: 16, text_cache: {cache}}}
lora: {{rank: 2, alpha: 4}}
prompts: {{train: {prompts}, groups: 2, group_size: 2, height: 32, width: 32}}
rollout: {{steps: 2}}
rewards: {{jpeg_compressibility: {{}}}}
train: {{max_steps: 1}}
eval: {{every: 0}}
log: {{tensorboard: false, grid_every: 0}}
"""
WEIGHTS = ["transformer/diffusion_pytorch_model.safetensors"] + [f"text_encoder{k}/model.safetensors" for k in ("", "_2", "_3")]


def train(folder, run, *args, ranks=2):
    build = pathlib.Path(os.environ.get("BUILD", "build"))
    program = (build if build.is_absolute() else ROOT / build) / "contraflow"
    env = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMP_NUM_THREADS="1")
    command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks), program, "train", folder / "c.yaml", "--run", folder / run]
    return subprocess.run([*command, *args], env=env, capture_output=True, text=True)


@pytest.fixture
def folder(words, tmp_path):  # noqa: F811
    save(make(words, transformer=SD35, seed=11), words, tmp_path / "model")
    (tmp_path / "p.txt").write_text("a red circle\ntwo dogs\nx\na cat\n")
    (tmp_path / "c.yaml").write_text(CONFIG.format(cache=tmp_path / "cache", model=tmp_path / "model", prompts=tmp_path / "p.txt"))
    return tmp_path


def read_for_hashes(said):
    assert said.returncode == 0, said.stderr
    found = re.findall(r"model files: ([\d.]+) MB read for their hashes", said.stderr)
    assert len(found) <= 1
    return float(found[0]) if found else 0


def test_files_are_hashed_once(folder):
    """By one of two ranks, and never again while they are the same; an equal copy is read, another model is refused."""
    time.sleep(5)  # what has just been written is not remembered
    weights = sum((folder / "model" / w).stat().st_size for w in WEIGHTS) * 1e-6
    words = sum(f.stat().st_size for f in (folder / "model").glob("tokenizer*/*")) * 1e-6
    first = train(folder, "run")
    assert weights <= read_for_hashes(first) < weights + words + 0.1 and words < weights  # and configurations
    assert "4 prompts to encode: about" in first.stderr
    second = train(folder, "again")
    assert read_for_hashes(second) == 0 and "prompts to encode" not in second.stderr
    # the same bytes, as somebody copied them anew: its size, name and time of modification are no proof
    file = folder / "model" / WEIGHTS[0]
    data, times = file.read_bytes(), (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    file.write_bytes(data)
    os.utime(file, ns=times)
    assert abs(read_for_hashes(train(folder, "run", "--resume", "--set", "train.max_steps=2")) - len(data) * 1e-6) < 0.01
    # other bytes with the same size and time
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(file, ns=times)
    other = train(folder, "run", "--resume", "--set", "train.max_steps=3")
    assert other.returncode and "made from another base model" in other.stderr


def test_no_room_for_embeddings(folder):
    """Said after the first prompts, not when the disk is full."""
    disk = folder / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        (folder / "p.txt").write_text("".join(f"{i} dogs\n" for i in range(50000)))
        said = train(folder, "run", "--set", f"model.text_cache={disk}/cache")
        assert said.returncode
        assert re.search(r"p.txt: (rank 0: )?50000 prompts are to be encoded, and their embeddings take about 0.0\d MB each \(\d+\.\d+ [MG]B in all\), but the "
                         r"file system of .*disk/cache/\S+ has \d\.\d\d MB free: free some, or set model.text_cache", said.stderr), said.stderr  # fmt: skip
        assert len(list((disk / "cache").glob("*/*/*.zst"))) == 2
        (folder / "p.txt").write_text("".join(f"{i} dogs\n" for i in range(20)))
        said = train(folder, "run", "--set", f"model.text_cache={disk}/cache")
        assert said.returncode == 0 and re.search(r"18 prompts to encode: about 0\.\d\d MB in .* MB each, compressed from .* free", said.stderr), said.stderr
    finally:
        subprocess.run(["umount", disk], check=True)
