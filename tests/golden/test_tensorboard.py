"""trainer/record/tensorboard.c: TensorBoard's own reader gets back what was written."""

import io
import math
import os
import pathlib
import subprocess

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import SessionLog

ROOT = pathlib.Path(__file__).resolve().parents[2]


def write(folder, *lines, after=0):
    build = pathlib.Path(os.environ.get("BUILD", "build"))
    program = (build if build.is_absolute() else ROOT / build) / "tests" / "golden_tensorboard"
    subprocess.run([program, folder, str(after)], input="\n".join(lines), text=True, check=True)


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "histograms": 0, "tensors": 0})
    return events.Reload()


def test_scalars(folder):
    # Negative, large, tiny and past 2^31 steps: what a varint or a float field gets wrong.
    values = [(0, 0.0), (1, -1.5), (2, 0.1), (127, 1e30), (128, 1e-30), (2**33, 3.25)]
    write(folder, *(f"scalar reward/mean {s} {v!r}" for s, v in values), "scalar loss 5 nan", "scalar loss 6 inf")
    events = read(folder)
    assert sorted(events.Tags()["scalars"]) == ["loss", "reward/mean"]
    got = [(e.step, e.value) for e in events.Scalars("reward/mean")]
    assert got == [(s, np.float32(v)) for s, v in values]
    assert math.isnan(events.Scalars("loss")[0].value) and events.Scalars("loss")[1].value == math.inf
    assert all(abs(e.wall_time - os.stat(folder).st_mtime) < 60 for e in events.Scalars("loss"))


@pytest.mark.parametrize("w, h", [(1, 1), (5, 3), (64, 48)])
def test_images(folder, w, h):
    rgb = np.random.default_rng(w).integers(0, 256, (h, w, 3), dtype=np.uint8)
    write(folder, f"image samples 7 {w} {h} {rgb.tobytes().hex()}")
    (image,) = read(folder).Images("samples")
    assert (image.step, image.width, image.height) == (7, w, h)
    assert (np.asarray(Image.open(io.BytesIO(image.encoded_image_string))) == rgb).all()
    (raw,) = [e for path in folder.iterdir() for e in EventFileLoader(str(path)).Load() if e.HasField("summary")]
    assert raw.step == 7


def histogram(folder, v):
    write(folder, f"histogram r 3 {len(v)} " + " ".join(repr(float(x)) for x in v))
    events = read(folder)
    return [e.histogram_value for e in events.Histograms("r")] if "r" in events.Tags()["histograms"] else []


def test_histogram(folder):
    v = np.random.default_rng(0).normal(size=1000)
    (got,) = histogram(folder, [*v, math.nan, math.inf, -math.inf])
    assert (got.min, got.max, got.num) == (v.min(), v.max(), 1000)
    assert got.sum == pytest.approx(v.sum(), rel=1e-12) and got.sum_squares == pytest.approx((v * v).sum(), rel=1e-12)
    counts, edges = np.histogram(v, bins=30)
    assert got.bucket == list(counts)
    np.testing.assert_allclose(got.bucket_limit, edges[1:], rtol=1e-12, atol=1e-12)
    assert got.bucket_limit[-1] == v.max()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # TensorBoard's own, in its quantiles of 1e308
@pytest.mark.parametrize(
    "v, fullest",
    [([0.0] * 9, 9), ([-7.5] * 4, 4), ([1e300] * 2, 2), ([-1.7e308, 1.7e308, 1.7e308], 2), ([3.0], 1), ([0.0, 5e-324], 2)],
)
def test_histogram_of_the_extreme(folder, v, fullest):
    (got,) = histogram(folder, v)
    assert (got.min, got.max, got.num) == (min(v), max(v), len(v))
    assert sum(got.bucket) == len(v) and max(got.bucket) == fullest
    assert all(map(math.isfinite, got.bucket_limit)) and got.bucket_limit == sorted(got.bucket_limit)
    assert got.bucket_limit[-1] >= max(v)


def test_histogram_of_nothing(folder):
    assert histogram(folder, [math.nan, math.inf]) == []


def test_resumed_run(folder):
    """A second file in the same second; the steps after the checkpoint that a killed run wrote are gone."""
    write(folder, *(f"scalar loss {s} {s}" for s in range(1, 8)), "scalar eval 6 6", "histogram r 5 1 5", "histogram r 4 1 4")
    write(folder, *(f"scalar loss {s} {s + 100}" for s in range(6, 8)), after=5)
    assert len(list(folder.iterdir())) == 2
    events = read(folder)
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(s, s) for s in range(1, 6)] + [(6, 106), (7, 107)]
    assert "eval" not in events.Tags()["scalars"] or not events.Scalars("eval")
    assert [e.step for e in events.Histograms("r")] == [5, 4]


def test_frames(folder):
    """The first records of a file: the version, then the session's start. The reader checks both checksums of each."""
    write(folder, "scalar loss 1 1", after=41)
    (path,) = folder.iterdir()
    assert path.name.startswith("events.out.tfevents.")
    version, start, scalar = EventFileLoader(str(path)).Load()
    assert version.file_version == "brain.Event:2" and version.step == 0
    assert start.session_log.status == SessionLog.START and start.step == 42
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(data)
    assert len(list(EventFileLoader(str(path)).Load())) == 2
