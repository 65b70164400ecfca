"""Every algorithm end to end: the same run from any division of the work, windows, what is refused."""

import numpy as np
import pytest
from command import BASE, ROOT, TINY, contraflow, fails, read_lines, read_zst
from extended import extended
from philox import WINDOW, below

STEPS = 10
SDE = ["rollout.solver=flow_sde", "train.timestep_fraction=0.5", "policy.old_schedule=on_policy"]
RUNS = {
    "flow_grpo": ["train.algorithm=flow_grpo", *SDE, "flow_grpo.clip=1e-3", "train.steps_per_epoch=2"],
    "fast": ["train.algorithm=flow_grpo", *SDE, "flow_grpo.window=2", "flow_grpo.kl_beta=0", "flow_grpo.old=rollout"],
    "cps": ["train.algorithm=flow_grpo", *SDE, "rollout.solver=cps", "flow_grpo.log_ratio=unscaled", "flow_grpo.kl=velocity"],
    "awm": ["train.algorithm=awm", "train.timestep_fraction=0.3", "awm.first=1", "awm.last=8"],
    "dpo": ["train.algorithm=dpo", "train.timestep_fraction=0.2"],
    "dgpo": ["train.algorithm=dgpo", "train.timestep_fraction=0.2", "dgpo.first_levels=7"],
}  # fmt: skip


def sets(name, *more):
    return [x for s in (f"train.max_steps={STEPS}", "optimizer.lr=1e-4", "log.rollouts_every=1", *RUNS[name], *more) for x in ("--set", s)]


def train(run, name, *more, ranks=1, program=None):
    contraflow("train", "configs/shapes.yaml", "--run", run, *TINY, *sets(name, *more), ranks=ranks, program=program)
    newest = (run / "checkpoints/latest").read_text().strip()
    return read_zst(run / "checkpoints" / newest / "state.safetensors.zst"), read_lines(run / "metrics.jsonl")


def scores(run):
    """Rewards and advantages of every image of every epoch, by epoch and image."""
    epochs = {}
    for path in sorted((run / "rollouts").glob("*.zst")):
        x = read_zst(path)
        epochs.setdefault(path.name.split(".")[0], []).append((x["sample"], np.stack([x["reward.geneval"], x["advantage"], x["r"]])))
    return np.stack([np.concatenate([v for _, v in parts], 1)[:, np.argsort(np.concatenate([i for i, _ in parts]))] for parts in epochs.values()])


@pytest.mark.parametrize("name", RUNS)
def test_ranks(tmp_path, name):
    """1, 2, 3 and 4 ranks: rewards and advantages are identical, the adapter within 1e-5 after ten steps."""
    state, log = train(tmp_path / "1", name)
    theta, want = state["theta"], scores(tmp_path / "1")
    assert np.isfinite(theta).all() and len(log) == len(want) and np.ptp(want[:, 0]) > 0
    assert all(line["grad_norm"] > 0 for line in log) and not any(line["skipped"] for line in log)
    for ranks in 2, 3, 4:
        other, got = train(tmp_path / str(ranks), name, ranks=ranks)[0]["theta"], scores(tmp_path / str(ranks))
        print(f"{name}, {ranks} ranks: adapters {np.abs(theta - other).max():.1e} apart")
        assert np.array_equal(got, want) and np.abs(theta - other).max() < 1e-5, ranks


def gradients_apart(a, b):
    """How far the mean gradients are apart, as a share of the largest: AdamW makes a step of lr of any gradient, also of what is
    rounding, so adapters say less."""
    return np.abs(a["adam.m"] - b["adam.m"]).max() / np.abs(a["adam.m"]).max()


@pytest.mark.parametrize("name", ["dpo", "dgpo"])
def test_pieces(tmp_path, name):
    """Losses of whole groups: the same gradients from micro-batches that cut groups, pair by pair, from replays, and from two ranks."""
    strong = ["train.max_steps=3", "train.timestep_fraction=0.5", "optimizer.lr=2e-5", f"{name}.beta=2000"]
    state, log = train(tmp_path / "whole", name, *strong)
    if name == "dpo":  # theta begins as the base, which it is compared with
        assert log[0]["loss/margin"] == 0 and all(line["loss/margin"] != 0 for line in log[1:])
    for run, ranks, setting in ("fours", 1, "train.micro_batch=4"), ("ones", 2, "train.micro_batch=1"), ("replays", 1, "train.cuda_graphs=true"):
        other, others = train(tmp_path / run, name, *strong, setting, ranks=ranks)
        print(f"{name}, {run}: gradients {gradients_apart(state, other):.1e} apart")
        assert gradients_apart(state, other) < 1e-3, run
        for a, b in zip(log, others):
            assert all(abs(a[k] - b[k]) < 1e-3 * max(1, abs(a[k])) for k in a if k.startswith("loss/")), run


def test_groups(tmp_path):
    """They stay whole in the parts of an epoch, and an epoch that has fewer of them than parts is refused."""
    parts = ["train.max_steps=3", "train.steps_per_epoch=3", "train.timestep_fraction=0.5", "optimizer.lr=2e-5", "dpo.beta=2000"]
    one, _ = train(tmp_path / "1", "dpo", *parts)
    two, _ = train(tmp_path / "2", "dpo", *parts, "train.micro_batch=1", ranks=2)
    print(f"gradients {gradients_apart(one, two):.1e} apart")
    assert gradients_apart(one, two) < 1e-3
    refused = ["train", "configs/shapes.yaml", "--run", tmp_path / "no", *TINY, *sets("dpo", "train.steps_per_epoch=4")]
    assert "train.steps_per_epoch = 4: dpo looks at whole groups, and an epoch has 3" in fails(*refused)
    assert not (tmp_path / "no").exists()


def test_refused(tmp_path):
    """What cannot work is said before anything runs."""

    def refused(*sets, command=("config", "show")):
        return fails(*command, "configs/shapes.yaml", *[x for s in ("train.algorithm=flow_grpo", *sets) for x in ("--set", s)])

    sde = ["rollout.solver=flow_sde"]
    assert "flow_grpo learns from steps with noise" in refused()
    assert "is made for rollout.solver = 'flow_sde'" in refused("rollout.solver=cps", "flow_grpo.log_ratio=guard")
    assert "flow_grpo.window = 6: steps 0 to 5" in refused(*sde, "flow_grpo.window=6")
    assert "awm.first = 10, awm.last = 0: no level" in refused("train.algorithm=awm", "awm.first=10")
    assert "dpo: advantage.mode = 'binary'" in refused("train.algorithm=dpo", "advantage.mode=binary")
    train = ("train", "--run", tmp_path / "r")  # needs the model's own levels
    assert "step 9 of the rollout adds noise of 0.00" in refused(*sde, "train.timestep_fraction=1", command=train)
    assert not (tmp_path / "r").exists()


# FlowGRPO as it is, that notes how long the steps are that it trains.
NOTES_STEPS = {'"clipped_down", NULL': '"clipped_down", "dt", NULL', "[CLIPPED_UP] =": "[CLIPPED_DOWN + 1] = dt_B, [CLIPPED_UP] ="}


def test_window(tmp_path):
    """The steps that take noise move from epoch to epoch as the seed says, and exactly they are trained: a step's length tells which it is."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    program = extended(tmp_path / "program", "algorithms/flow_grpo.c", [], NOTES_STEPS)
    schedule = FlowMatchEulerDiscreteScheduler.from_pretrained(ROOT / BASE / "scheduler")
    schedule.set_timesteps(10)
    sigma = schedule.sigmas.double().numpy()
    window = ["flow_grpo.window=2", "flow_grpo.window_low=1", "flow_grpo.window_high=6", "run.seed=5"]
    drawn = [1 + below(4, seed=5, purpose=WINDOW, epoch=i) for i in range(STEPS)]
    assert len(set(drawn)) == 4
    for moves, starts in {"random": drawn, "slides": [1 + i // 2 % 4 for i in range(STEPS)]}.items():
        _, log = train(tmp_path / moves, "flow_grpo", *window, f"flow_grpo.window_moves={moves}", "flow_grpo.window_every=2",
                       "train.steps_per_epoch=1", program=program)  # fmt: skip
        # 15 images: 10 steps, and two pairs of a forward, a backward and a base's forward
        assert np.allclose([line["compute/forwards"] for line in log], (150 + 30 * 3.135) * np.arange(1, STEPS + 1), rtol=1e-12)
        assert np.allclose([line["loss/dt"] for line in log], [(sigma[i + 2] - sigma[i]) / 2 for i in starts], rtol=1e-5)
