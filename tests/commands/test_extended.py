"""What docs/extending.md says about adding to the program, done: an algorithm from examples/, and one that uses the rest of algorithm.h."""

import json

import numpy as np
import pytest
import yaml
from command import ROOT, TINY, build, contraflow, fails, read_lines, read_steps, read_zst
from extended import extended

STEPS = 3


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return extended(
        tmp_path_factory.mktemp("program"), "algorithms/algorithm.c",
        ["examples/algorithm_rwr.c", "tests/commands/algorithm_walk.c", "tests/commands/algorithm_falls.c"],
        {"\tX(nft)": "\tX(nft) X(rwr) X(walk) X(falls)"},
    )  # fmt: skip


def train(program, run, *sets, ranks=1):
    sets = [x for s in (f"train.max_steps={STEPS}", "train.timestep_fraction=0.5", "optimizer.lr=1e-4", *sets) for x in ("--set", s)]
    contraflow("train", "configs/shapes.yaml", "--run", run, *TINY, *sets, ranks=ranks, program=program)
    return read_zst(run / f"checkpoints/step-{STEPS:08d}/state.safetensors.zst")["theta"], read_lines(run / "metrics.jsonl")


def close(a, b):
    print(f"adapters are {np.abs(a - b).max():.1e} apart")
    return np.abs(a - b).max() < 1e-5


def test_ranks(program, tmp_path):
    """Finite losses, the algorithm's own numbers in the log, and the same adapter from any division of the work."""
    chosen = "train.algorithm=rwr"
    theta, log = train(program, tmp_path / "1", chosen)
    assert np.isfinite(theta).all() and np.abs(theta).max() > 1e-3 and len(log) == STEPS
    for line in log:
        losses = {k.removeprefix("loss/") for k in line if k.startswith("loss/")}
        assert losses == {"policy", "kl", "counts", "error"} and all(np.isfinite(line[f"loss/{k}"]) for k in losses)
        assert line["skipped"] == 0 and line["grad_norm"] > 0
    for run, ranks, *sets in ("2", 2), ("pieces", 1, "train.micro_batch=4"), ("replays", 1, "train.cuda_graphs=true"):
        other, others = train(program, tmp_path / run, chosen, *sets, ranks=ranks)
        assert close(theta, other), run
        for a, b in zip(log, others):
            assert all(abs(a[k] - b[k]) < 1e-4 * max(1, abs(a[k])) for k in a if k.startswith("loss/")), run


def test_its_section(program, tmp_path):
    """Its keys are read, checked, documented and kept, and they matter."""
    chosen = "train.algorithm=rwr"
    theta, _ = train(program, tmp_path / "plain", chosen)
    cold, log = train(program, tmp_path / "cold", chosen, "rwr.temperature=0.3", "rwr.kl_beta=0")
    assert np.abs(theta - cold).max() > 1e-5 and all(line["loss/kl"] == 0 for line in log)
    kept = yaml.safe_load((tmp_path / "cold/config.yaml").read_text())
    assert kept["train"]["algorithm"] == "rwr" and float(kept["rwr"]["temperature"]) == 0.3 and "nft" not in kept
    page = contraflow("config", "reference", program=program).stdout
    assert "## Algorithm `rwr`: reward-weighted regression\n" in page and "| `rwr.temperature` | `1` | 0.1 .. 1000 |" in page
    assert "nft, rwr, walk, falls" in page
    config = ["config", "show", "configs/shapes.yaml", "--set"]
    assert "rwr.temperature = '0': must be in [0.1, 1000]" in fails(*config, "rwr.temperature=0", program=program)
    assert "unknown key 'rwr.temprature'; did you mean 'rwr.temperature'" in fails(*config, "rwr.temprature=1", program=program)
    assert "did you mean 'rwr'" in fails(*config, "train.algorithm=rwl", program=program)


def test_stages_of_two_algorithms(program, tmp_path):
    """A stage may have another algorithm than the one before."""
    config = tmp_path / "two.yaml"
    config.write_text(f"""\
extends: {ROOT}/configs/shapes.yaml
train: {{max_steps: 2}}
stages:
  first: {{}}
  second: {{train: {{algorithm: rwr}}, rwr: {{temperature: 2}}}}
""")
    contraflow("train", config, "--run", tmp_path / "r", *TINY, program=program)
    log = read_lines(tmp_path / "r/metrics.jsonl")
    assert ["loss/r_correlation" in line for line in log] == [True, True, False, False]
    assert ["loss/error" in line for line in log] == [False, False, True, True]
    kept = yaml.safe_load((tmp_path / "r/config.yaml").read_text())["stages"]
    assert "nft" in kept["first"] and "rwr" not in kept["first"] and kept["second"]["rwr"]["temperature"] == 2


def test_steps(program, tmp_path):
    """The steps of a stochastic solver, from what the rollout kept of them: the last one leads to x0."""
    solver = build() / "solver_flow_sde.so"
    walk = ["train.algorithm=walk", f"rollout.solver={solver}", "walk.steps=3"]
    theta, log = train(program, tmp_path / "1", *walk)
    shift = json.loads((ROOT / "data/shapes/base/scheduler/scheduler_config.json").read_text())["shift"]
    last = 1e-3
    for _ in range(2):
        last = shift * last / (1 + (shift - 1) * last)
    assert all(abs(line["loss/dt"] / -last - 1) < 1e-6 for line in log)
    assert log[0]["loss/ratio"] == 1 and log[0]["loss/miss"] < 1e-9 and log[0]["loss/old_deviation"] == 0
    assert all(0.5 < line["loss/ratio"] < 2 and line["grad_norm"] > 0 for line in log)
    for run, ranks, *sets in ("2", 2), ("pieces", 1, "train.micro_batch=4", "rollout.batch=4"), ("auto", 1, "train.micro_batch=auto"):
        other, others = train(program, tmp_path / run, *walk, *sets, ranks=ranks)
        assert close(theta, other) and others[0]["loss/miss"] < 1e-9, run
    for sets in ["rollout.solver=euler"], [f"rollout.solver={solver}", "rollout.eta=0"]:
        words = [x for s in ("train.algorithm=walk", *sets) for x in ("--set", s)]
        assert "walk learns from steps with noise" in fails("config", "show", "configs/shapes.yaml", *words, program=program)
    words = [x for s in (*walk, "walk.steps=0") for x in ("--set", s)]
    said = fails("train", "configs/shapes.yaml", "--run", tmp_path / "none", *TINY, *words, program=program)
    assert "walk learns from steps with noise, and none of the 10 steps" in said


def test_astray(program, tmp_path):
    """An algorithm that gives pairs beyond what it may is named, and nothing is trained on them."""
    for key, message in (1, "walk: 6 pairs of a sample, at most 5"), (2, "walk: a pair at level 10 of 10"):
        sets = ["train.timestep_fraction=0.5", "train.algorithm=walk", f"rollout.solver={build() / 'solver_flow_sde.so'}", f"walk.astray={key}"]
        words = [x for s in sets for x in ("--set", s)]
        done = contraflow("train", "configs/shapes.yaml", "--run", tmp_path / str(key), *TINY, *words, program=program, check=False)
        assert done.returncode and message in done.stderr
        assert not list((tmp_path / str(key)).glob("checkpoints/*"))


def test_rollback(program, tmp_path):
    """Back to exactly the checkpoint, the old policy too, with other images; nothing of the steps that are taken back stays in the
    records. When it happens again and again, the run ends, its checkpoint as it was, and says what to try."""
    args = ["train.algorithm=falls", "falls.first=3", "train.max_skipped=2", "checkpoint.every=2", "checkpoint.keep=9", "log.tensorboard=true",
            "policy.old_slope=0.1", "optimizer.lr=1e-3"]  # fmt: skip

    def go(name, *more, check=True):
        sets = [x for s in (*args, *more) for x in ("--set", s)]
        return contraflow("train", "configs/shapes.yaml", "--run", tmp_path / name, *TINY, *sets, "--resume=auto", program=program, check=check)

    said = go("fell", "train.max_steps=6", "falls.count=2").stderr
    assert said.count("skipped: a loss or gradient is not finite") == 2 and "went back to the checkpoint of step 2 (1 of at most 3 times)" in said
    rows = read_steps(tmp_path / "fell")
    assert [r["step"] for r in rows] == [1, 2, 3, 4, 5, 6] and [r["epoch"] for r in rows] == [1, 2, 6, 7, 8, 9]
    taken = np.diff([0] + [r["compute/forwards"] for r in rows])
    assert taken[0] > 150 and np.allclose(taken, taken[0] * np.array([1, 1, 4, 1, 1, 1]), rtol=1e-12)  # also of the epochs without a step
    assert [r["rollbacks"] for r in rows] == [0, 0, 1, 1, 1, 1] and [r["images"] for r in rows] == [15 * s for s in range(1, 7)]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "fell/tensorboard"))
    events.Reload()
    seen = events.Scalars("epoch")
    assert [(s.step, s.value) for s in seen] == [(r["step"], r["epoch"]) for r in rows]
    # the same from outside: a run that ended at step 2, and goes on with the later epoch's images
    go("outside", "train.max_steps=2")
    path = tmp_path / "outside/checkpoints/step-00000002/state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps(state | {"epoch": 5, "rollbacks": 1}))
    go("outside", "train.max_steps=6")
    a, b = (read_zst(tmp_path / n / "checkpoints/step-00000006/state.safetensors.zst") for n in ("fell", "outside"))
    assert all(np.array_equal(a[k], b[k]) for k in a)

    done = go("falls", "train.max_steps=6", "falls.count=1000", "train.max_rollbacks=1", check=False)
    assert done.returncode == 1 and done.stderr.count("went back") == 1
    assert "after 1 returns to a checkpoint (train.max_rollbacks): the newest one is sound; go on from it with a lower optimizer.lr (it is 0.001)" in done.stderr
    assert sorted(p.name for p in (tmp_path / "falls/checkpoints").iterdir()) == ["latest", "step-00000002"]
