"""What ptxas says of rows.cu for an H100: nothing is spilled, and registers leave room for enough warps to keep memory busy."""

import pathlib
import re
import shutil
import subprocess

import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
NVCC = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
# A multiprocessor has 65,536 registers: 64 a thread are 32 warps.  Kernels that keep a row in registers need fewer warps: each of
# their lanes has all of its row's loads under way at once.  The wider of the two sizes (SD3.5 Large's) is one block.
MOST = 64
ROW_IN_REGISTERS = {"gate_modulate": (144, 200)}


def kernels(tmp_path):
    """(name, template arguments, registers, bytes of stack, bytes spilled)"""
    command = [NVCC, "-cubin", "-O3", "-std=c++17", "-DCONTRAFLOW_CUDA", "-I", ROOT, "-isystem", pathlib.Path(torch.__file__).parent / "include",
               "-arch", "sm_90", "-Xptxas", "-v", "-o", tmp_path / "rows.cubin", ROOT / "aten/kernels/rows.cu"]  # fmt: skip
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    entry = r"Compiling entry function '(\S+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers"
    for symbol, stack, stores, loads, registers in re.findall(entry, told, re.S):
        name = re.search(r"\d([a-z]\w*?)_kernel(\w*)", symbol)
        yield name[1].lstrip("0123456789"), name[2], int(registers), int(stack), int(stores) + int(loads)


@pytest.mark.skipif(not pathlib.Path(NVCC).exists(), reason="no nvcc")
def test_registers(tmp_path):
    found = list(kernels(tmp_path))
    names = {re.sub(r"^.*\d", "", name) for name, *_ in found}
    assert {"modulate", "rms", "gate", "quantise", "qkv", "qkv_back", "gate_modulate_back", "adamw"} <= names, names
    for name, arguments, registers, stack, spilled in found:
        most = MOST
        for part, (narrow, wide) in ROW_IN_REGISTERS.items():
            if part in name:
                most = wide if re.search(r"Li(10|20)E", arguments) else narrow
        assert stack == 0 and spilled == 0 and registers <= most, (name, arguments, registers, stack, spilled)
