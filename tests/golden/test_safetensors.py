"""aten/safetensors.c against the safetensors library: each reads what the other writes, and both refuse the same files."""

import json
import os
import pathlib
import struct
import subprocess

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from sd3 import ROOT, contraflow

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool]


def again(folder, path):
    build = pathlib.Path(os.environ.get("BUILD", "build"))
    program = (build if build.is_absolute() else ROOT / build) / "tests" / "golden_safetensors"
    out = folder / "out.safetensors"
    return subprocess.run([program, path, out], capture_output=True, text=True), out


def metadata(path):
    with safe_open(path, "pt") as f:
        return f.metadata()


def every_kind():
    g = torch.Generator().manual_seed(0)
    kinds = {f"{d}".replace("torch.", "a."): (10 * torch.randn(3, 5, generator=g)).to(d) for d in DTYPES}
    kinds["nan"] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0])
    kinds["scalar"] = torch.tensor(3.25)
    kinds["empty"] = torch.zeros(0, 7)
    kinds["odd"] = torch.arange(7, dtype=torch.uint8)
    kinds["many dimensions"] = torch.randn(1, 2, 1, 2, 1, 2, 1, 2, generator=g)
    kinds["ünïcode.重み"] = torch.ones(2)
    return kinds


@pytest.mark.parametrize("meta", [None, {"format": "pt", "quote": 'a "b"\n\\ é 画', "": ""}])
def test_round_trip(folder, meta):
    save_file(every_kind(), folder / "in.safetensors", meta)
    done, out = again(folder, folder / "in.safetensors")
    assert done.returncode == 0, done.stderr
    got, want = load_file(out), every_kind()
    assert got.keys() == want.keys()
    for name, x in want.items():
        assert got[name].dtype == x.dtype and got[name].shape == x.shape, name
        assert got[name].contiguous().view(torch.uint8).equal(x.view(torch.uint8)) if x.dim() else got[name] == x, name
    assert metadata(out) == meta


def test_aligned(folder):
    """Every tensor begins at a multiple of its element's size, so that a reader may use the file in place."""
    save_file(every_kind(), folder / "in.safetensors")
    done, out = again(folder, folder / "in.safetensors")
    assert done.returncode == 0, done.stderr
    data = out.read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    assert n % 8 == 0
    size = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "U8": 1, "BOOL": 1}
    for name, x in json.loads(data[8 : 8 + n]).items():
        assert x["data_offsets"][0] % size[x["dtype"]] == 0, name


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


BAD = {
    "hole": (json.dumps({"a": entry(offsets=(8, 16))}), 16),
    "overlap": (json.dumps({"a": entry(), "b": entry(offsets=(4, 12))}), 12),
    "bytes behind": (json.dumps({"a": entry()}), 12),
    "short": (json.dumps({"a": entry()}), 7),
    "wrong size": (json.dumps({"a": entry(shape=(3,))}), 8),
    "overflow": (json.dumps({"a": entry(shape=(2**33, 2**33))}), 8),
    "negative": (json.dumps({"a": entry(shape=(-2,))}), 8),
    "no dtype": (json.dumps({"a": {"shape": [2], "data_offsets": [0, 8]}}), 8),
    "unknown dtype": (json.dumps({"a": entry(dtype="F33")}), 8),
    "array": ("[]", 0),
    "not JSON": ("{", 0),
    "metadata": (json.dumps({"__metadata__": {"a": 1}}), 0),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(folder, name):
    header, data = BAD[name]
    path = folder / "bad.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(data))
    with pytest.raises(SafetensorError):
        load_file(path)
    done, out = again(folder, path)
    assert done.returncode == 1 and not out.exists()
    assert "bad.safetensors" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bits(folder, dtype):
    """All 256 values, exact: torch casts them up."""
    w = torch.arange(256, dtype=torch.uint8).view(dtype).reshape(16, 16)
    save_file({"w": w}, folder / "in.safetensors")
    done, out = again(folder, folder / "in.safetensors")
    assert done.returncode == 0, done.stderr
    assert torch.equal(load_file(out)["w"].float().nan_to_num(7, 8, 9), w.float().nan_to_num(7, 8, 9))
    assert torch.equal(load_file(out)["w"].isnan(), w.float().isnan())


def test_any_type_is_listed(folder):
    """Of the library's types: sizes by the library, values of those that are ours."""
    names = "int8 int16 uint16 uint32 uint64 complex64 float8_e8m0fnu float8_e4m3fn float8_e5m2 float32".split()
    save_file({n: torch.zeros(3, 2, dtype=getattr(torch, n)) for n in names}, folder / "in.safetensors",
              {"\x1b[31mred": "a\x1b]0;title\x07\x9b2Jb"})  # fmt: skip
    text = contraflow("inspect", folder / "in.safetensors")
    with safe_open(folder / "in.safetensors", "pt") as f:
        types = {n: f.get_slice(n).get_dtype() for n in names}
    for n in names:
        assert f"  {'float32' if n == 'float32' else types[n]:<9} [3, 2] {n}\n" in text
    assert "10 tensors, 60 elements, 192 bytes" in text
    assert not any(c in text for c in "\x1b\x07\x9b") and " [31mred: a ]0;title   2Jb" in text


def test_truncated_anywhere(folder):
    save_file(every_kind(), folder / "whole.safetensors")
    data = (folder / "whole.safetensors").read_bytes()
    for n in [0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 1]:
        (folder / "cut.safetensors").write_bytes(data[:n])
        done, _ = again(folder, folder / "cut.safetensors")
        assert done.returncode == 1 and done.stderr.startswith("contraflow: "), (n, done)
