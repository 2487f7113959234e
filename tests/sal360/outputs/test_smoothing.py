"""Temporal smoothing: a time constant in seconds, restarts, motion compensation; and its flicker and lag."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sal360 import projection, sphere
from sal360.arrays import Density, Floats
from sal360.errors import ParameterError
from sal360.outputs.smoothing import SmoothingSettings, TemporalSmoothing, flicker, map_distance, step_lag_s

SHAPE = (40, 80)


def blob(direction: Floats, concentration: float = 8.0) -> Density:
    """A von Mises–Fisher density around a direction, relative to uniform, (40, 80) float32."""
    density = np.exp(concentration * (sphere.erp_directions(*SHAPE) @ np.asarray(direction, float)))
    density /= (density * sphere.solid_angles(*SHAPE)).sum() / (4 * math.pi)
    return density.astype(np.float32)


FRONT, LEFT = blob(np.array([1, 0, 0])), blob(np.array([0, 1, 0]))
NO_CUTS = SmoothingSettings(time_constant_s=0.5, reset_gap_s=10, cut_distance=1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.001, 0.4), min_size=1, max_size=12))
def test_a_change_arrives_by_time_and_not_by_frames(intervals: list[float]) -> None:
    smoothing = TemporalSmoothing(NO_CUTS)
    smoothing.update(FRONT, 100.0)
    stamp = 100.0
    for interval in intervals:
        stamp += interval
        smoothed = smoothing.update(LEFT, stamp)
    left_over = math.exp(-(stamp - 100.0) / 0.5)
    assert np.allclose(smoothed, LEFT + left_over * (FRONT - LEFT), atol=1e-4)
    assert smoothed.dtype == np.float32


def test_the_first_map_passes_unchanged() -> None:
    assert np.array_equal(TemporalSmoothing().update(FRONT, 5.0), FRONT)


@pytest.mark.parametrize("stamp", [0.0, 4.9, 5.0, 6.01, math.inf, math.nan])
def test_gaps_and_stamps_that_do_not_go_forward_start_again(stamp: float) -> None:
    smoothing = TemporalSmoothing(SmoothingSettings(time_constant_s=0.5, reset_gap_s=1, cut_distance=1))
    smoothing.update(FRONT, 5.0)
    assert np.array_equal(smoothing.update(LEFT, stamp), LEFT)


def test_a_pause_shorter_than_the_gap_does_not_reset() -> None:
    smoothing = TemporalSmoothing(SmoothingSettings(time_constant_s=0.5, reset_gap_s=1, cut_distance=1))
    smoothing.update(FRONT, 5.0)
    assert not np.array_equal(smoothing.update(LEFT, 5.9), LEFT)


def test_a_cut_starts_again_and_a_small_change_does_not() -> None:
    near = blob(sphere.angles_to_vector(0.1, 0))
    assert map_distance(FRONT, LEFT) > 0.5 > map_distance(FRONT, near)
    smoothing = TemporalSmoothing(SmoothingSettings(cut_distance=0.5))
    smoothing.update(FRONT, 0.0)
    assert not np.array_equal(smoothing.update(near, 0.03), near)
    assert np.array_equal(smoothing.update(LEFT, 0.06), LEFT)


def test_a_time_constant_of_0_means_no_smoothing() -> None:
    smoothing = TemporalSmoothing(SmoothingSettings(time_constant_s=0, cut_distance=1))
    smoothing.update(FRONT, 0.0)
    assert np.array_equal(smoothing.update(LEFT, 0.01), LEFT)


def test_another_map_size_starts_again() -> None:
    smoothing = TemporalSmoothing(NO_CUTS)
    smoothing.update(FRONT, 0.0)
    other = np.ones((20, 40), np.float32)
    assert np.array_equal(smoothing.update(other, 0.1), other)


def test_a_map_with_nan_does_not_stay_in_the_state() -> None:
    smoothing = TemporalSmoothing(NO_CUTS)
    smoothing.update(FRONT, 0.0)
    smoothing.update(np.full(SHAPE, np.nan, np.float32), 0.1)
    assert np.array_equal(smoothing.update(LEFT, 0.2), LEFT)


def test_a_returned_map_is_not_changed_by_later_frames_nor_by_its_source() -> None:
    smoothing = TemporalSmoothing(NO_CUTS)
    source = FRONT.copy()
    first = smoothing.update(source, 0.0)
    source[:] = 0
    second = smoothing.update(LEFT, 0.1)
    kept = second.copy()
    smoothing.update(LEFT, 0.2)
    assert np.array_equal(first, FRONT)
    assert np.array_equal(second, kept)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.5))
def test_with_its_orientation_a_turning_camera_smears_nothing(seed: int, step_rad: float) -> None:
    generator = np.random.default_rng(seed)
    start = sphere.random_rotation(generator)
    axis = sphere.random_rotation(generator)
    scene = sphere.random_rotation(generator)[:, 0]  # one attractive direction in the fixed frame
    smoothing = TemporalSmoothing(NO_CUTS)
    for frame in range(8):
        turn = axis @ sphere.rotation_yaw_pitch_roll(yaw_rad=frame * step_rad) @ axis.T
        orientation = turn @ start
        seen = blob(orientation.T @ scene)
        smoothed = smoothing.update(seen, frame / 30, orientation)
    assert map_distance(smoothed, seen) < 0.02
    without = TemporalSmoothing(NO_CUTS)
    for frame in range(8):
        turn = axis @ sphere.rotation_yaw_pitch_roll(yaw_rad=frame * step_rad) @ axis.T
        plain = without.update(blob((turn @ start).T @ scene), frame / 30)
    on_the_axis = abs(float(axis[:, 2] @ scene)) > 0.9  # a direction that the turn hardly moves
    assert on_the_axis or map_distance(plain, seen) > 2 * map_distance(smoothed, seen)


def test_turns_below_a_tenth_of_a_pixel_add_up() -> None:
    step_rad = 0.06 * 2 * math.pi / SHAPE[1]
    smoothing = TemporalSmoothing(SmoothingSettings(time_constant_s=60, reset_gap_s=10, cut_distance=1))
    for frame in range(200):
        orientation = sphere.rotation_yaw_pitch_roll(yaw_rad=frame * step_rad)
        seen = blob(orientation.T @ [1, 0, 0])
        smoothed = smoothing.update(seen, frame / 30, orientation)
    assert map_distance(smoothed, seen) < 0.1  # a turn of 54°; without compensation it is .75


def test_an_orientation_that_comes_late_is_taken_up() -> None:
    smoothing = TemporalSmoothing(NO_CUTS)
    smoothing.update(FRONT, 0.0)
    smoothing.update(FRONT, 0.1, np.eye(3))
    turned = sphere.rotation_yaw_pitch_roll(yaw_rad=math.pi / 2)
    right = blob(np.array([0, -1, 0]))  # the camera turned left: what was in front is to the right
    assert map_distance(smoothing.update(right, 0.2, turned), right) < 0.02


@pytest.mark.parametrize("values", [{"time_constant_s": -1}, {"reset_gap_s": math.nan}, {"cut_distance": 1.5}])
def test_settings_out_of_range_are_refused_by_name(values: dict[str, float]) -> None:
    with pytest.raises(ParameterError, match=next(iter(values))):
        SmoothingSettings(**values)


def test_the_distance_of_maps_is_the_gaze_they_place_differently() -> None:
    upper = np.zeros(SHAPE, np.float32)
    upper[: SHAPE[0] // 2] = 2
    assert map_distance(upper, upper[::-1]) == pytest.approx(1)
    assert map_distance(upper, np.ones(SHAPE, np.float32)) == pytest.approx(0.5)
    assert map_distance(FRONT, FRONT) == 0


def test_flicker_is_the_mean_change_and_falls_by_smoothing() -> None:
    assert flicker([FRONT]) == 0
    assert flicker([FRONT, LEFT, LEFT]) == pytest.approx(map_distance(FRONT, LEFT) / 2)
    generator = np.random.default_rng(5)
    noisy = [FRONT * generator.uniform(0.7, 1.3, SHAPE).astype(np.float32) for _ in range(30)]
    smoothing = TemporalSmoothing(SmoothingSettings(time_constant_s=0.2))
    smoothed = [smoothing.update(each, frame / 30) for frame, each in enumerate(noisy)]
    assert flicker(smoothed) < 0.25 * flicker(noisy)


def test_flicker_after_motion_compensation_leaves_out_the_turn() -> None:
    turn = sphere.rotation_yaw_pitch_roll(0.3, 0.4)
    maps = [FRONT, projection.rotate_erp(FRONT, turn), projection.rotate_erp(FRONT, turn @ turn)]
    assert flicker(maps, [turn, turn]) < 0.02 < 0.2 < flicker(maps)


@pytest.mark.parametrize("time_constant_s", [0.1, 0.4])
def test_the_lag_of_smoothing_is_its_time_constant(time_constant_s: float) -> None:
    rate_hz = 100
    smoothing = TemporalSmoothing(SmoothingSettings(time_constant_s=time_constant_s, cut_distance=1))
    smoothing.update(FRONT, -1 / rate_hz)
    stamps = [frame / rate_hz for frame in range(10 * round(rate_hz * time_constant_s))]
    maps = [smoothing.update(LEFT, stamp) for stamp in stamps]
    assert step_lag_s(maps, stamps, FRONT, LEFT) == pytest.approx(time_constant_s, abs=1 / rate_hz)
    assert step_lag_s([LEFT, LEFT], [0, 1], FRONT, LEFT) == 0
