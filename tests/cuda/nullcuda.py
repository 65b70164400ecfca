"""Running the CUDA build on the stand-in for CUDA of tests/nullcuda."""

import json
import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build-cuda"
LIBRARIES = ["cudart.so.13", "cublas.so.13", "cublasLt.so.13", "cudnn.so.9", "cuda.so.1", "nvidia-ml.so.1"]
NCCL = BUILD / "tests/fakenccl/libnccl.so.2"
TINY = ["prompts.groups=4", "prompts.group_size=6", "prompts.test=", "log.tensorboard=false", "run.threads=1", "train.max_steps=2",
        "run.device=cuda"]  # fmt: skip


class Done:
    def __init__(self, process, logs):
        self.out, self.err, self.code = process.stdout, process.stderr, process.returncode
        self.logs = logs

    def sum(self, key):
        return sum(log[key] for log in self.logs)


def run(folder, *command, ranks=0, check=True, visible=None, **nullcuda):
    """Runs a command; what each of its processes logged.  DEVICES=4 is NULLCUDA_DEVICES=4.  One rank has the real NCCL, which
    ends the program at its first call: it needs none."""
    libraries = [BUILD / "tests/nullcuda" / f"lib{x}" for x in LIBRARIES] + ([NCCL] if ranks and NCCL.exists() else [])
    folder.mkdir(exist_ok=True)
    prefix = folder / "nullcuda"
    for old in folder.glob("nullcuda.*"):
        old.unlink()
    mine = {"LD_PRELOAD": ":".join(map(str, libraries)), "NULLCUDA_LOG": str(prefix), **{f"NULLCUDA_{k}": str(v) for k, v in nullcuda.items()}}
    env = {k: v for k, v in os.environ.items() if k not in ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")}
    env.update(OMP_NUM_THREADS="1", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_mpi_yield_when_idle="1")
    if visible is not None:
        env["CUDA_VISIBLE_DEVICES"] = visible
    launch = []
    if ranks:
        launch = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)]
        launch += ["env", *(f"{k}={v}" for k, v in mine.items())]  # not for mpirun itself
    else:
        env.update(mine)
    process = subprocess.run([*launch, *map(str, command)], capture_output=True, text=True, cwd=ROOT, env=env, timeout=300)
    assert not check or process.returncode == 0, process.stderr
    return Done(process, [json.loads(p.read_text()) for p in sorted(folder.glob("nullcuda.*"))])


def train(folder, *sets, config="configs/shapes.yaml", **kwargs):
    args = [x for s in [*TINY, *sets] for x in ("--set", s)]
    return run(folder, BUILD / "contraflow", "train", config, "--run", folder / "run", "--quiet", *args, **kwargs)


def warnings(folder):
    return [line.split("warning: ", 1)[1] for line in (folder / "run/log.txt").read_text().splitlines() if "warning: " in line]
