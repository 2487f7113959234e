"""The benchmark of what regions of interest are worth: what it judges by, and its summary."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("av")


@pytest.fixture(scope="module")
def benchmark_module(repository: Path) -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("qp_encoding", repository / "benchmarks" / "qp_encoding.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["qp_encoding"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_each_photograph_keeps_the_weight_of_its_solid_angle(benchmark_module: ModuleType) -> None:
    densities = np.zeros((2, 16, 32), np.float32)
    masks = np.zeros((2, 16, 32), bool)
    masks[0, 6:10, 4:12] = True
    densities[0, 6, 4] = 50  # all of the gaze on one pixel
    whole = benchmark_module.judged(densities, masks)
    from sal360.sphere import solid_angles

    area = np.broadcast_to(solid_angles(16, 32), (16, 32))
    assert (whole * area)[masks[0]].sum() == pytest.approx(area[masks[0]].sum(), rel=1e-5)
    assert whole[~masks[0]] == pytest.approx(1)
    assert whole[7, 8] < 1e-3 < 1 < whole[6, 4]


def test_maps_turn_with_the_picture(benchmark_module: ModuleType) -> None:
    density = np.zeros((2, 8), np.float32)
    density[:, 7] = 1
    assert benchmark_module.turned(density, 2.5 / 8)[0].tolist() == [0, 0.5, 0.5, 0, 0, 0, 0, 0]


def test_frames_of_one_scene_count_as_one(benchmark_module: ModuleType) -> None:
    rows = [{"scene": "a", "x": -50.0}] * 9 + [{"scene": "b", "x": 100.0}] + [{"scene": "c", "x": math.nan}]
    mean, low, high = benchmark_module._interval(rows, lambda each: each["x"])
    assert mean == pytest.approx(0)  # half and twice the rate
    assert (low, high) == (pytest.approx(-50), pytest.approx(100))


def test_a_map_that_people_follow_saves_rate(benchmark_module: ModuleType) -> None:
    generator = np.random.default_rng(0)
    picture = np.kron(generator.integers(0, 256, (32, 64, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    gaze = np.full((16, 32), 0.1, np.float32)
    gaze[6:10, 4:12] = 14
    module = benchmark_module
    scene = module.Scene("a", "a", picture, gaze)
    chosen = {"projection": gaze, "map": gaze, "mean map": np.roll(gaze, 16, 1), "people": gaze}
    arguments = type("Options", (), {"height": 128, "frames": 2, "strength": 0.5, "max_offset": 8})
    settings = module.EncoderSettings(module.find_codec("libx264"), "ultrafast")
    rows = {each["variant"]: each for each in module._compare(scene, chosen, settings, arguments)}
    assert rows["map"]["gaze_bd_rate_percent"] < -15
    assert rows["people"]["gaze_bd_rate_percent"] == rows["map"]["gaze_bd_rate_percent"]
    assert rows["mean map"]["gaze_bd_rate_percent"] > rows["map"]["gaze_bd_rate_percent"] + 5
    summary = module._summary([{"codec": "libx264", **each} for each in rows.values()], ["libx264"])
    assert summary[1]["gaze"][0] == pytest.approx(rows["map"]["gaze_bd_rate_percent"])
