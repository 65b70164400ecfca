"""docs/comparison.md says what docs/comparison.json does, which compare wrote, and configs/comparison/ are still the settings that it had."""

import json

import pytest
import yaml
from command import ROOT, contraflow

TOLD = json.loads((ROOT / "docs/comparison.json").read_text())
PAGE = (ROOT / "docs/comparison.md").read_text()
AXES = "steps", "images", "forwards", "device_seconds"
HEALTH = "health/diversity", "health/x0_norm", "health/pixel_saturated", "lora_norm", "eval/reward/jpeg_compressibility"


def number(value, axis):
    if axis in ("steps", "device_seconds"):
        return f"{value:.0f}"
    return f"{value / 1000:.1f}k" if value < 1e5 else f"{value / 1000:.0f}k"


def first_reached(r, axis):
    if r["seeds"] < r["of"]:
        return f"by {r['seeds']} of {r['of']}" if r["seeds"] else "not reached"
    return f"{number(r['mean'], axis)} ({number(r['least'], axis)} to {number(r['most'], axis)})"


def score(r):
    return f"{r['mean']:.3f} ({r['least']:.3f} to {r['most']:.3f})"


def test_tables():
    rows = {tuple(c.strip() for c in line.strip("|").split("|")) for line in PAGE.splitlines() if line.startswith("|")}
    for k, c in enumerate(TOLD["configs"]):
        assert [r["seed"] for r in c["runs"]] == [0, 1, 2]
        for t in c["thresholds"]:
            if any(x["steps"]["seeds"] for o in TOLD["configs"] for x in o["thresholds"] if x["threshold"] == t["threshold"]):
                assert ("" if k else str(t["threshold"]), f"`{c['name']}`", *(first_reached(t[a], a) for a in AXES)) in rows
        health = [sum(r["health"][key] for r in c["runs"]) / 3 for key in HEALTH]
        health[-1] *= -500  # of kB
        assert (f"`{c['name']}`", score(c["at_equal_device_seconds"]), score(c["final"]), *(f"{h:.3g}" for h in health)) in rows


def test_settings():
    assert {d["config"] for d in TOLD["differences"]} == {c["name"] for c in TOLD["configs"][1:]}
    for name in (c["name"] for c in TOLD["configs"]):
        now = yaml.safe_load(contraflow("config", "show", f"configs/comparison/{name}.yaml").stdout)
        assert now["prompts"]["test"] == "data/shapes/test.jsonl" and now["optimizer"]["lr"] == pytest.approx(2.4e-3)
        for d in TOLD["differences"]:
            if d["config"] in ("nft", name) or name == "nft":
                want, value = d["first" if name == "nft" else "here"], now
                for part in d["key"].split("."):
                    value = (value or {}).get(part)
                if want is not None:
                    assert str(value).lower() == want.lower() or float(value) == pytest.approx(float(want)), (name, d["key"])


def test_picture():
    svg = (ROOT / "docs/comparison.svg").read_text()
    assert svg.count("<polyline") == 2 * len(TOLD["configs"]) and all(f">{c['name']}</text>" in svg for c in TOLD["configs"])
