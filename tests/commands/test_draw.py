"""More images drawn than trained: which are chosen, and that they are the ones that were judged."""

import numpy as np
import pytest
from command import TINY, contraflow, fails, read_lines, read_zst

DRAW, KEEP = 10, 4
SETS = [*TINY, "--set", "optimizer.lr=1e-4", "--set", "log.rollouts_every=1", "--set", "train.timestep_fraction=0.3"]


def train(run, *sets, ranks=1, steps=1):
    sets = [x for s in (f"train.max_steps={steps}", *sets) for x in ("--set", s)]
    contraflow("train", "configs/shapes.yaml", "--run", run, *SETS, *sets, ranks=ranks)
    parts = [read_zst(p) for p in sorted((run / "rollouts").glob("epoch-000000.*"))]
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}, read_lines(run / "metrics.jsonl")


def best_and_worst(rewards):
    """Of each prompt, sorted by reward and then by place: the first half of KEEP from either end."""
    chosen = []
    for g, of in enumerate(rewards.reshape(-1, DRAW)):
        best = sorted(range(DRAW), key=lambda i: (-of[i], i))[: (KEEP + 1) // 2]
        worst = sorted(set(range(DRAW)) - set(best), key=lambda i: (of[i], i))[: KEEP // 2]
        chosen += [g * DRAW + i for i in sorted(best + worst)]
    return np.array(chosen)


@pytest.fixture(scope="module")
def all_of_them(tmp_path_factory):
    """Every image that is drawn, trained."""
    return train(tmp_path_factory.mktemp("all"), f"prompts.group_size={DRAW}")[0]


def test_best_and_worst(tmp_path, all_of_them):
    want, theta = best_and_worst(all_of_them["reward.geneval"]), []
    for ranks in 1, 2, 3:
        run = tmp_path / str(ranks)
        x, log = train(run, f"prompts.draw={DRAW}", f"prompts.group_size={KEEP}", ranks=ranks, steps=2)
        assert np.array_equal(x["reward.geneval"], all_of_them["reward.geneval"][want])
        assert np.abs(x["x0"] - all_of_them["x0"][want]).max() < 1e-4
        assert log[0]["images"] == 3 * (DRAW + KEEP) and abs(log[0]["reward/drawn"] - all_of_them["reward.geneval"].mean()) < 1e-6
        theta.append(read_zst(run / "checkpoints/step-00000002/state.safetensors.zst")["theta"])
    assert all(np.abs(theta[0] - other).max() < 1e-5 for other in theta[1:])


def test_over_all_that_were_drawn(tmp_path, all_of_them):
    """The mean and the standard deviation are those of all images."""
    want = best_and_worst(all_of_them["reward.geneval"])
    x, _ = train(tmp_path / "r", f"prompts.draw={DRAW}", f"prompts.group_size={KEEP}", "advantage.over=drawn")
    assert np.abs(x["advantage"] - all_of_them["advantage"][want]).max() < 1e-6
    reward = all_of_them["reward.geneval"].astype(np.float64)
    a = (reward - np.repeat(reward.reshape(-1, DRAW).mean(1), DRAW)) / (reward.std() + 1e-4)
    assert np.abs(x["advantage"] - a[want]).max() < 1e-5


def test_preview(tmp_path, all_of_them):
    """Chosen by images of four steps; trained on images of ten from the same noise, with their own scores."""
    few, _ = train(tmp_path / "few", f"prompts.group_size={DRAW}", "rollout.steps=4", "rollout.solver=euler")
    want = best_and_worst(few["reward.geneval"])
    sets = [f"prompts.draw={DRAW}", f"prompts.group_size={KEEP}", "rollout.preview.steps=4", "rollout.preview.solver=euler"]
    x, log = train(tmp_path / "r", *sets)
    assert np.array_equal(x["reward.geneval"], all_of_them["reward.geneval"][want]) and np.abs(x["x0"] - all_of_them["x0"][want]).max() < 1e-4
    assert abs(log[0]["reward/drawn"] - few["reward.geneval"].mean()) < 1e-6


def test_refused():
    def refused(*sets):
        return fails("config", "show", "configs/shapes.yaml", *[x for s in sets for x in ("--set", s)])

    assert "prompts.draw = 3: fewer than the prompts.group_size = 16" in refused("prompts.draw=3")
    assert "rollout.preview.steps: nothing is chosen from" in refused("rollout.preview.steps=4")
    assert "advantage.over = 'drawn': nothing is chosen from" in refused("advantage.over=drawn")
    assert "scores of previews" in refused("prompts.draw=32", "rollout.preview.steps=4", "advantage.over=drawn")
