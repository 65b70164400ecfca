"""contraflow report: what a run writes for it, what the page shows, and how it behaves in a browser."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import time

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import browser
from command import ROOT, build, contraflow, fails, read_lines, read_steps, read_zst

STEPS = 3
needs_browser = pytest.mark.skipif(not browser.PROGRAM, reason="there is no Chromium (tools/setup.sh --test installs it on Debian)")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    prompts = folder / "test.jsonl"
    lines = {json.loads(l)["prompt"]: l for l in (ROOT / "data/shapes/validation.jsonl").read_text().splitlines()}
    prompts.write_text("\n".join(list(lines.values())[:: len(lines) // 12]) + "\n")
    contraflow("train", "configs/shapes.yaml", "--run", folder / "run", "--set", f"prompts.test={prompts}", "--set", "prompts.groups=3", "--set", "prompts.group_size=5",
               "--set", "eval.images_per_prompt=2", "--set", "eval.every=1", "--set", "log.grid_every=1", "--set", "log.rollouts_every=1", "--set", f"train.max_steps={STEPS}",
               "--set", "run.threads=1", "--set", "run.name=<b>&\"one\"")  # fmt: skip
    return folder / "run"


@pytest.fixture(scope="module")
def page(run):
    done = contraflow("report", run)
    assert "report.html" in done.stdout and not done.stderr
    return run / "report.html"


def embedded(path):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.S)[1])


# ---- What a run writes for it ----


def test_histograms(run):
    """The counts are numpy's of what was sampled."""
    for epoch, row in enumerate(read_steps(run)):
        archive = read_zst(run / f"rollouts/epoch-{epoch:06d}.rank-0000.safetensors.zst")
        for name, key in (("histogram/r", "r"), ("histogram/reward", "reward.geneval")):
            v = archive[key].astype(np.float64)
            edges = np.linspace(v.min(), v.max(), 25)
            ambiguous = np.isclose(v[:, None], edges[None, 1:-1], atol=1e-6).any()  # archives are float32
            h = row[name]
            assert abs(h["low"] - v.min()) < 1e-6 and abs(h["high"] - v.max()) < 1e-6 and sum(h["counts"]) == len(v)
            if not ambiguous:
                assert h["counts"] == np.histogram(v, 24, (v.min(), v.max()))[0].tolist()


def cut_out(run, step, i):
    """Image i of a grid as the file beside it says, as it was before it was enlarged; and what is said of it."""
    told = json.loads((run / f"samples/step-{step:06d}.json").read_text())
    one, w, h, zoom = told["images"][i], told["width"], told["height"], told["zoom"]
    grid = Image.open(run / f"samples/step-{step:06d}.png").convert("RGB")
    return grid.crop((one["x"], one["y"], one["x"] + w, one["y"] + h)).resize((w // zoom, h // zoom), Image.NEAREST), one


def test_scores_of_grids(run):
    """The images of a grid have the scores, and the reasons, that `score` gives to what is cut out of it."""
    folder = run.parent / "cut"
    folder.mkdir()
    prompts = {json.loads(l)["prompt"]: l for l in (run.parent / "test.jsonl").read_text().splitlines()}
    images = json.loads((run / "samples/step-000003.json").read_text())["images"]
    assert len(images) == len(prompts) == len({i["prompt"] for i in images})
    for i, image in enumerate(images):
        cut_out(run, 3, i)[0].save(folder / f"{i:02d}.png")
        (folder / f"{i:02d}.jsonl").write_text(prompts[image["prompt"]] + "\n")
    contraflow("score", "--reward", "geneval", "-o", run.parent / "scores.json", folder)
    said = json.loads((run.parent / "scores.json").read_text())["images"]
    assert [s["prompt"] for s in said] == [i["prompt"] for i in images]
    assert any("why" in i for i in images)
    for own, image in zip(said, images):
        judged = own["geneval"]
        assert (image["strict"], image.get("why")) == (judged["strict"], judged.get("why")), image
        assert image["reward"] == image["rewards"]["geneval"] == pytest.approx(judged["score"], abs=1e-9)


def test_every_name_is_explained(run):
    """docs/metrics.md is what the program prints, and has every name that a run writes."""
    said = contraflow("config", "metrics").stdout
    assert said == (ROOT / "docs/metrics.md").read_text()
    names = set(re.findall(r"^\| `([^`]+)` \|", said, re.M))
    below = {n[: -len(n.rpartition("/")[2])] for n in names if n.rpartition("/")[2] in ("TAG", "NAME")} - {"loss/"}
    for row in read_lines(run / "metrics.jsonl"):
        for name in row:
            assert name in names or any(name.startswith(b) for b in below), name


def test_tensorboard_explains(run):
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    page = (ROOT / "docs/metrics.md").read_text()
    for tag in events.Tags()["scalars"]:
        about = events.SummaryMetadata(tag).summary_description
        assert about and about.split(". ")[0] in page, tag
    assert {"reward/mean", "eval/strict/counting", "eval/low"} <= set(events.Tags()["scalars"])


# ---- The page ----


def test_data(run, page):
    """Numbers in the page are those of metrics.jsonl, to six digits; nothing of a run's own text ends the script."""
    data = embedded(page)["runs"][0]
    steps, evals = read_steps(run), [r for r in read_lines(run / "metrics.jsonl") if "epoch" not in r]
    for rows, kind in ((steps, "steps"), (evals, "evals")):
        for name in rows[0]:
            if not name.startswith("histogram/"):
                assert data["rows"][kind][name] == pytest.approx([r[name] for r in rows], rel=1e-5), name
    assert data["state"] == "finished" and data["config"]["run.name"] == '<b>&"one"'
    assert data["defaults"]["train.max_steps"] != data["config"]["train.max_steps"] == str(STEPS)
    assert [g["step"] for g in data["images"]["grids"]] == [0, 1, 2, 3]
    assert page.read_text().count("</script>") == 5


def test_differences(run, tmp_path):
    contraflow("train", "--run", run.parent / "longer", "configs/shapes.yaml", "--set", "train.max_steps=1", "--set", "prompts.groups=3", "--set", "prompts.group_size=5",
               "--set", "prompts.test=", "--set", "run.threads=1", "--set", "run.seed=7")  # fmt: skip
    contraflow("report", run, run.parent / "longer", "-o", tmp_path / "two.html")
    a, b = embedded(tmp_path / "two.html")["runs"]
    assert (a["name"], b["name"]) == ("run", "longer") and b["images"] is None
    if browser.PROGRAM:
        with browser.Page(f"file://{tmp_path}/two.html") as p:
            assert not p.errors
            rows = p.ask("[...document.querySelectorAll('#settings .panel tbody tr')].map(r => [...r.cells].map(c => c.textContent))")
    assert ["run.seed", "0", "7"] in rows and not any(r[0] == "lora.rank" for r in rows)


def test_refuses(run, tmp_path):
    assert "holds no run" in fails("report", tmp_path)
    assert "which run" in fails("report")
    assert "--watch=soon" in fails("report", run, "--watch=soon")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    (broken / "metrics.jsonl").write_text('{"step": 1, "epoch": 1}\nnonsense\n')
    assert "metrics.jsonl:2" in fails("report", broken, "-o", tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()
    (broken / "metrics.jsonl").write_text('{"step": 1, "epoch": 1}\n{"step": 2, "ep')  # being written
    contraflow("report", broken, "-o", tmp_path / "x.html")
    assert embedded(tmp_path / "x.html")["runs"][0]["rows"]["steps"]["step"] == [1]


def test_watches(run, tmp_path):
    """Of a run that has not come to its end the page loads itself again, and the last one does not."""
    going = tmp_path / "going"
    shutil.copytree(run, going, ignore=shutil.ignore_patterns("result.json", "report.html"))
    page, env = tmp_path / "page.html", {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (going / "metrics.jsonl").write_text("".join(lines[:3]))
    watcher = subprocess.Popen([build() / "contraflow", "report", going, "--watch=1", "-o", page], stderr=subprocess.PIPE, env=env, text=True)
    steps = lambda: len(embedded(page)["runs"][0]["rows"]["steps"]["step"]) if page.exists() else 0  # noqa: E731
    wait_for(lambda: steps() == 1)
    assert embedded(page)["refresh"] == 1 and embedded(page)["runs"][0]["state"] == "stopped"
    (going / "metrics.jsonl").write_text("".join(lines))
    wait_for(lambda: steps() == STEPS)
    (going / "result.json").write_bytes((run / "result.json").read_bytes())
    assert watcher.wait(60) == 0
    assert embedded(page)["refresh"] == 0 and embedded(page)["runs"][0]["state"] == "finished"


def wait_for(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("never")


def test_large(run, tmp_path):
    """A thousand steps, and grids of photographs' size: below 10 MB, and still whole."""
    big = tmp_path / "big"
    (big / "samples").mkdir(parents=True)
    (big / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    steps, evaluation = read_steps(run), [r for r in read_lines(run / "metrics.jsonl") if "epoch" not in r][0]
    rng = np.random.default_rng(0)
    rows = [{**steps[i % STEPS], "step": i + 1, "reward/mean": rng.random(), "loss/kl": rng.random() * 1e-3} for i in range(1000)]
    lines = [r for i, row in enumerate(rows) for r in ([row, {**evaluation, "step": i + 1}] if i % 25 == 24 else [row])]
    (big / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    side, told = 256, json.loads((run / "samples/step-000000.json").read_text())
    images = [{**(told["images"] * 3)[i], "x": 10 + i % 12 * (side + 6), "y": 10 + i // 12 * (side + 40)} for i in range(36)]
    noise = Image.fromarray(rng.integers(0, 255, (3 * 8, 12 * 8, 3), np.uint8)).resize((12 * side, 3 * side), Image.BICUBIC)
    noise = Image.fromarray((np.asarray(noise) + rng.integers(-9, 9, (3 * side, 12 * side, 3))).clip(0, 255).astype(np.uint8))
    grid = Image.new("RGB", (12 * (side + 6) + 20, 3 * (side + 40) + 20))
    for i, image in enumerate(images):
        x, y = i % 12 * side, i // 12 * side
        grid.paste(noise.crop((x, y, x + side, y + side)), (image["x"], image["y"]))
    grid.save(big / "samples/step-000000.png", compress_level=1)
    for step in range(0, 1001, 50):
        (big / f"samples/step-{step:06d}.json").write_text(json.dumps({"width": side, "height": side, "zoom": 1, "images": images}))
        if step:
            (big / f"samples/step-{step:06d}.png").hardlink_to(big / "samples/step-000000.png")
    contraflow("report", big, "-o", tmp_path / "big.html")
    assert (tmp_path / "big.html").stat().st_size < 10e6
    data = embedded(tmp_path / "big.html")["runs"][0]
    assert len(data["rows"]["steps"]["step"]) == 1000
    grids = data["images"]["grids"]
    assert grids[0]["step"] == 0 and grids[-1]["step"] == 1000 and len(grids) >= 6 and len(data["images"]["prompts"]) == 36
    small = Image.open(io.BytesIO(base64.b64decode(grids[3]["data"])))
    w, columns = grids[3]["width"], data["images"]["columns"]
    assert 64 <= w <= side and small.size == (columns * w, -(-36 // columns) * w)
    x, y = 17 % columns * w, 17 // columns * w
    want = noise.crop((5 * side, side, 6 * side, 2 * side)).resize((w, w), Image.BICUBIC)
    assert np.abs(np.asarray(small.crop((x, y, x + w, y + w)), float) - np.asarray(want, float)).mean() < 8


# ---- In a browser ----


@needs_browser
@pytest.mark.parametrize("width, dark", [(1280, False), (1280, True), (390, False), (390, True)])
def test_renders(page, width, dark):
    with browser.Page(f"file://{page}", width=width, dark=dark) as p:
        assert not p.errors
        assert p.ask("document.documentElement.scrollWidth") <= width
        titles = p.ask("[...document.querySelectorAll('section h2')].map(h => h.textContent)")
        assert titles == ["Result", "Held-out scores", "Training", "Health", "Images", "Time", "Distributions", "Settings", "Environment and log"]
        assert p.ask("[...document.querySelectorAll('figure')].every(f => f.querySelector('svg path.line, svg path[d], svg rect'))")
        assert p.ask("[...document.querySelectorAll('svg text, svg path')].every(e => !/NaN|undefined|Infinity/.test(e.outerHTML))")
        light = p.ask("getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).map(Number).reduce((a, b) => a + b) / 3")
        assert (light < 60) == dark


@needs_browser
def test_slider_and_keys(run, page):
    with browser.Page(f"file://{page}") as p:
        gallery, slider, label = ("document.querySelector('#images %s')" % s for s in (".gallery", "input[type=range]", "output"))
        p.wait(f"{gallery}.dataset.shown === '3'")

        def shown():
            data = p.ask(f"{gallery}.querySelectorAll('canvas')[3].toDataURL()")
            return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGB"))

        for step, press in ((3, None), (2, "ArrowLeft"), (0, "Home"), (1, "ArrowRight")):
            if press:
                p.ask(f"{slider}.focus()")
                p.key(press)
                p.wait(f"{gallery}.dataset.shown === '{step}'")
            assert p.ask(f"{label}.textContent") == ("before training" if step == 0 else f"after step {step}")
            image, said = cut_out(run, step, 1)  # canvas 3 is the second prompt's, of the chosen step
            assert np.array_equal(shown(), np.asarray(image))
            assert f"{said['reward']:.2f}" in p.ask(f"{gallery}.querySelectorAll('.score')[2].textContent")
        # the cursor of the charts
        p.ask("document.querySelector('[data-chart=\"reward/mean\"] svg').focus()")
        p.key("ArrowLeft")
        row = read_steps(run)[STEPS - 2]
        assert p.ask("document.querySelector('[data-chart=\"reward/mean\"] .readout').textContent") == f"step 2: {row['reward/mean']:.3g}"
        assert p.ask("document.querySelector('[data-chart=\"grad_norm\"] .readout').textContent").startswith("step 2: ")
        assert not p.errors


@needs_browser
def test_prints(page):
    with browser.Page(f"file://{page}", dark=True) as p:
        p.media("print")
        assert p.ask("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
        assert p.ask("getComputedStyle(document.querySelector('nav')).display") == "none"
        pdf = base64.b64decode(p.call("Page.printToPDF", printBackground=True)["data"])
        assert pdf.startswith(b"%PDF") and 2 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 30
        assert not p.errors
