from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sal360.cameras.equirectangular import EquirectangularCamera
from sal360.outputs.smoothing import SmoothingSettings, TemporalSmoothing
from sal360.replay.recording import PlaybackClock, predicted_frames

S = 10**9


def times(stamps_s: list[float]) -> list[float]:
    clock = PlaybackClock()
    return [clock.time_s(round(stamp * S)) for stamp in stamps_s]


def test_stamps_become_times_from_0() -> None:
    assert times([1e9, 1e9 + 0.1, 1e9 + 0.3, 1e9 + 30]) == pytest.approx([0, 0.1, 0.3, 30])


@pytest.mark.parametrize("jump_s", [61, 3600, 1.7e9, -2, -1e8])
def test_jumps_and_long_pauses_become_one_interval(jump_s: float) -> None:
    start = 1e9
    later = start + 0.2 + jump_s
    assert times([start, start + 0.1, later, later + 0.1]) == pytest.approx([0, 0.1, 0.2, 0.3], abs=1e-6)


def test_a_late_stamp_does_not_delay_the_others() -> None:
    found = times([0, 1, 2, 1.9, 3, 4])
    assert found[:3] + found[4:] == pytest.approx([0, 1, 2, 3, 4])
    assert 2 < found[3] < 3


def test_times_increase_for_any_stamps() -> None:
    random = np.random.default_rng(0)
    stamps = [*(100 * random.normal(size=200)), *itertools.repeat(5.0, 50)]
    assert np.all(np.diff(times(stamps)) > 0)


def test_maps_of_frames_with_one_stamp_are_smoothed_by_the_times_of_recording() -> None:
    """As the node does it, by the times of arrival."""
    maps = [np.full((2, 4), 1, np.float32), np.full((2, 4), 1, np.float32)]
    maps[1][:, 0], maps[1][:, 1] = 2, 0
    picture = np.zeros((2, 4, 3), np.uint8), "rgb", EquirectangularCamera(2, 4)
    frames = [
        SimpleNamespace(stamp_ns=7, message=SimpleNamespace(recorded_ns=at_ns), decoded=lambda: picture)
        for at_ns in (10**9, 2 * 10**9)
    ]
    recording: Any = SimpleNamespace(frames=lambda: frames)
    predictor: Any = SimpleNamespace(predict=lambda *_, **__: maps.pop(0))
    smoothing = TemporalSmoothing(SmoothingSettings(time_constant_s=1.0, cut_distance=1.0))
    _, second = predicted_frames(recording, predictor, smoothing)
    assert second.density is not None
    np.testing.assert_allclose(second.density[0], [2 - np.exp(-1), np.exp(-1), 1, 1], rtol=1e-6)
