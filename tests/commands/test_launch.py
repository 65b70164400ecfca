"""How a job is started: the CPUs that its ranks were given, launchers that MPI does not hear of, what ranks leave with."""

import os
import subprocess

import pytest
from command import ROOT, build, fails

CPUS = sorted(os.sched_getaffinity(0))
ONE_STEP = ["train", "configs/shapes.yaml"] + [
    f"--set={s}" for s in ("train.max_steps=1", "prompts.test=", "prompts.groups=3", "prompts.group_size=5",
                           "log.tensorboard=false")]  # fmt: skip
several_cpus = pytest.mark.skipif(len(CPUS) < 2, reason="one CPU")


def start(*launcher, args=(), **env):
    """A command's exit status and what it said, started as a launcher does; no GPU that the machine may have is seen."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "OMP_", "SLURM_", "PMI"))}
    env = {**inherited, "CUDA_VISIBLE_DEVICES": "", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", **env}
    env = {k: v for k, v in env.items() if v is not None}
    done = subprocess.run([*launcher, build() / "contraflow", *map(str, args)], capture_output=True, text=True, cwd=ROOT, env=env, timeout=300)
    return done.returncode, done.stdout + done.stderr


def train(tmp_path, *launcher, args=(), **env):
    code, said = start(*launcher, args=[*ONE_STEP, "--run", tmp_path / f"run{len(list(tmp_path.iterdir()))}", *args], **env)
    assert code == 0, said
    return said


def count(said):
    """Of the line that says what trains: "... on 2 ranks of 1 thread"."""
    line = next(l for l in said.splitlines() if "adapter parameters" in l)
    return int(line.split(" of ")[-1].split()[0])


@several_cpus
def test_taskset(tmp_path):
    """As many threads as nproc says, not as many as the machine has."""
    assert count(train(tmp_path, "taskset", "-c", str(CPUS[0]))) == 1
    assert count(train(tmp_path, "taskset", "-c", f"{CPUS[0]},{CPUS[1]}")) == 2
    said = train(tmp_path, "taskset", "-c", str(CPUS[0]), args=["--set=run.threads=2"])
    assert count(said) == 2 and said.count("warning: 2 threads, but the launcher binds this process to 1 of") == 1
    assert "bind-to" not in said


@several_cpus
def test_bound_ranks(tmp_path):
    """A rank that mpirun binds to a core has that core alone, and does not share it among the machine's ranks again."""
    for ranks in "1", "2":
        said = train(tmp_path, "mpirun", "--bind-to", "core", "-n", ranks)
        assert count(said) == 1 and "warning" not in said
    said = train(tmp_path, "mpirun", "--bind-to", "core", "-n", "1")
    assert said.count("the launcher binds this rank to 1 of") == 1 and "--bind-to none" in said
    said = train(tmp_path, "mpirun", "--bind-to", "core", "-n", "2", args=["--set=run.threads=2"])
    assert count(said) == 2 and said.count("warning: rank 0: 2 threads, but the launcher binds this process to 1 of") == 1 and "(mpirun --bind-to none)" in said
    # a script between changes nothing
    said = train(tmp_path, "mpirun", "--bind-to", "core", "-n", "1", "sh", "-c", '"$@"; exit $?', "sh")
    assert count(said) == 1 and said.count("the launcher binds this rank to 1 of") == 1
    # where the launcher itself has no more, as in a container, there is nothing to say
    said = train(tmp_path, "taskset", "-c", str(CPUS[0]), "sh", "-c", '"$@"; exit $?', "sh", "mpirun", "--oversubscribe", "-n", "1")
    assert count(said) == 1 and "launcher binds" not in said
    # not bound, they share what there is
    for ranks in 1, 2:
        said = train(tmp_path, "mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks))
        assert count(said) == max(1, len(CPUS) // ranks) and "bind-to" not in said


@pytest.mark.parametrize("command", [ONE_STEP, ["bench"], ["eval", "--model", "data/shapes/base", "--prompts", "data/shapes/validation.jsonl"],
                                     ["pretrain", "configs/shapes-pretrain.yaml"]])  # fmt: skip
def test_srun_without_pmi(tmp_path, command):
    """Each task would be a job of its own, in one run directory."""
    args = [*command, *(["--run", tmp_path / "run"] if command is ONE_STEP else [])]
    job = dict(SLURM_JOB_ID="1", SLURM_STEP_ID="0", SLURM_STEP_NUM_TASKS="2", SLURM_NTASKS="2")
    assert start(args=args, SLURM_PROCID="1", **job) == (1, "")  # one task speaks for all
    code, said = start(args=args, SLURM_PROCID="0", **job)
    assert code == 1 and said.startswith("contraflow: the launcher started 2 ranks but MPI sees only one") and "srun --mpi=pmix" in said
    assert not (tmp_path / "run").exists()


def test_slurm_single_processes(tmp_path):
    """One process of a batch script for many tasks, one in srun's shell, and mpirun's ranks, which srun's step is below."""
    job = dict(SLURM_JOB_ID="1", SLURM_NTASKS="8", SLURM_PROCID="0")
    for launcher, env in ((), job), ((), {**job, "SLURM_STEP_NUM_TASKS": "1"}), (("mpirun", "-n", "1"), {**job, "SLURM_STEP_NUM_TASKS": "2"}):
        assert "on 1 rank of" in train(tmp_path, *launcher, **env)


@pytest.mark.parametrize("command", [["train", "/nowhere.yaml"], ["pretrain", "/nowhere.yaml"], ["bench", "--dtype", "int4"],
                                     ["eval", "--model", "/nowhere", "--prompts", "x.txt"]])  # fmt: skip
def test_exit_codes(command):
    """All ranks fail; one says why."""
    each = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", "3", "sh", "-c", '"$@"; echo "status $?"', "sh"]
    code, said = start(*each, args=command)
    assert code == 0 and said.count("status 1") == 3 and said.count("contraflow: ") == 1, said
    fails(*command)


def test_threads(tmp_path):
    """The number that was asked for, then OMP_NUM_THREADS, and a number out of range is an error of every command, told once."""
    assert count(train(tmp_path, OMP_NUM_THREADS="3")) == 3
    assert count(train(tmp_path, args=["--set=run.threads=1"], OMP_NUM_THREADS="3")) == 1
    model = ["--model", "data/shapes/base"]
    evaluation = ["eval", *model, "--prompts", "data/shapes/validation.jsonl"]
    several = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", "2"]
    for launcher, command in (([], ["bench"]), ([], evaluation), (several, [*evaluation, "--reward-ranks", 1]), ([], ["score", "--reward", "geneval", "."]),
                              ([], ["serve-reward", "--reward", "geneval"]), ([], ["sample", *model, "--prompt", "x", "-o", tmp_path / "x.png"])):
        code, said = start(*launcher, args=[*command, "--threads", 4294967296])
        line = f"contraflow: {command[0]}: --threads 4294967296: must be in [0, 1024]"
        assert code == 1 and said.count("--threads") == said.count(line) == 1 and "panic" not in said, said


def test_errors_are_agreed_once(tmp_path):
    """Which rank it was is said once."""
    several = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", "2"]
    (tmp_path / "c.yaml").write_text("rewards: {jpeg_compressibility: {}}")
    (tmp_path / "few.jsonl").write_text("".join((ROOT / "data/shapes/validation.jsonl").read_text().splitlines(True)[:2]))
    (tmp_path / "x.txt").write_text("x\n")
    evaluation = ["eval", "--model", "data/shapes/base", "--steps", 2, "--config", tmp_path / "c.yaml"]
    bench = ["bench", "--groups", 1, "--group-size", 2, "--steps", 2, "--levels", 1, "--repeats", 1]
    nowhere, here = ["-o", "/nowhere/o.json"], ["-o", tmp_path / "o.json"]
    for command, told in (([*evaluation, *here, "--prompts", "/nowhere.txt"], "/nowhere.txt"), ([*evaluation, *here, "--prompts", tmp_path / "x.txt"], "vocabulary"),
                          ([*evaluation, *nowhere, "--prompts", tmp_path / "few.jsonl"], "/nowhere/o.json"), ([*bench, *nowhere], "/nowhere/o.json"),
                          ([*bench, *nowhere, "--matrix"], "/nowhere/o.json"), ([*bench, *here, "--matrix", "--vae-dtype", "int3"], "int3")):
        code, said = start(*several, args=command, OMP_NUM_THREADS="1")
        assert code and said.count("contraflow: ") == said.count("rank 0: ") == 1 and told in said, said


def test_device(tmp_path):
    """A build without CUDA says so where the driver shows a GPU, unless the CPU was asked for; the run is the same, and goes on
    with either."""
    driver = dict(LD_LIBRARY_PATH=str(build() / "tests"), FAKE_GPUS="abcd", CUDA_VISIBLE_DEVICES=None)
    assert "cpu" == next(l for l in train(tmp_path).splitlines() if "adapter parameters" in l).split(", ")[-1]
    for device, env, told in ("auto", driver, 1), ("auto", {**driver, "CUDA_VISIBLE_DEVICES": ""}, 0), ("auto", {**driver, "CUDA_VISIBLE_DEVICES": "2"}, 1), ("cpu", driver, 0):
        said = train(tmp_path, args=[f"--set=run.device={device}"], **env)
        assert said.count("a GPU is visible: this build has no CUDA") == told, said
    said = train(tmp_path, "mpirun", "--oversubscribe", "--bind-to", "none", "-n", "2", args=["--set=run.device=auto"], **driver)
    assert said.count("a GPU is visible") == 1  # one rank says it
    code, said = start(args=[*ONE_STEP, "--run", tmp_path / "gpu", "--set=run.device=cuda"], **driver)
    assert code == 1 and "this build has no CUDA" in said and not (tmp_path / "gpu").exists()
    # commands that only open rewards have a device as well: their judges'
    for command in ["score", "--reward", "jpeg_compressibility", "."], ["serve-reward", "--reward", "jpeg_compressibility", "--port", "0", "--host", "?"]:
        assert start(args=command, **driver)[1].count("a GPU is visible: this build has no CUDA") == 1
    probe = ["probe", "schedule", "--model", "data/shapes/base", "--out", tmp_path / "s.safetensors", "--device", "auto"]
    code, said = start(args=probe, **driver)
    assert code == 0 and said.count("a GPU is visible: this build has no CUDA") == 1


def test_device_resume(tmp_path):
    two = ["--set=train.max_steps=2", "--set=run.threads=1"]
    state = "checkpoints/step-00000002/state.safetensors.zst"
    for name, devices in ("whole", ["auto"]), ("parts", ["auto", "cpu"]):
        for i, device in enumerate(devices):
            last = two if i + 1 == len(devices) else [*two, "--set=train.max_steps=1"]
            args = [*ONE_STEP, *last, f"--set=run.device={device}", "--run", tmp_path / name, *(["--resume"] if i else [])]
            code, said = start(args=args)
            assert code == 0, said
    assert (tmp_path / "whole" / state).read_bytes() == (tmp_path / "parts" / state).read_bytes()
