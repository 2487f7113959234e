"""Gaze targets: peaks on the sphere that turn with it, against a slow oracle."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sal360 import projection, sphere
from sal360.arrays import Density, Floats
from sal360.errors import ParameterError
from sal360.outputs.targets import PeakSettings, find_peaks

HEIGHT, WIDTH = 80, 160
PIXEL_RAD = math.pi / HEIGHT
seeds = st.integers(0, 2**32 - 1)
places = st.tuples(st.floats(-math.pi, math.pi), st.floats(-math.pi / 2, math.pi / 2))


def bumps(directions: Floats, heights: Floats, concentration: float = 40.0) -> Density:
    """A floor with Gaussian-like bumps (von Mises–Fisher): (80, 160) float32, mean 1."""
    cosines = sphere.erp_directions(HEIGHT, WIDTH) @ np.asarray(directions, float).T  # (80, 160, k)
    density = 0.2 + (np.asarray(heights) * np.exp(concentration * (cosines - 1))).sum(axis=-1)
    density /= (density * sphere.solid_angles(HEIGHT, WIDTH)).sum() / (4 * math.pi)
    return density.astype(np.float32)


def slow_peaks(density: Density, settings: PeakSettings) -> list[tuple[int, int]]:
    """Rows and columns by plain loops: neighbours by the sphere's own pixel arithmetic, angles by arccos."""
    height, width = density.shape
    found = []
    for row in range(height):
        for column in range(width):
            around = []
            for y in (row - 1, row, row + 1):
                for x in (column - 1, column, column + 1):
                    near_x, near_y = sphere.nearest_pixel(sphere.pixel_to_vector(x, y, height, width), height, width)
                    around.append(density[near_y, near_x])
            if density[row, column] >= max(max(around), settings.min_score):
                found.append((float(density[row, column]), row, column))
    kept: list[tuple[int, int]] = []
    for _, row, column in sorted(found, key=lambda each: -each[0]):
        here = sphere.pixel_to_vector(column, row, height, width)
        others = [sphere.pixel_to_vector(x, y, height, width) for y, x in kept]
        if all(math.acos(np.clip(here @ other, -1, 1)) > settings.min_separation_rad for other in others):
            kept.append((row, column))
    return kept[: settings.count]


@settings(max_examples=5, deadline=None)
@given(seeds)
def test_peaks_are_those_of_the_slow_oracle(seed: int) -> None:
    noise = np.random.default_rng(seed).random((12, 24)).astype(np.float32) * 4
    choice = PeakSettings(count=8, min_separation_rad=0.5, min_score=1.5)
    peaks = find_peaks(noise, choice)
    expected = slow_peaks(noise, choice)
    assert peaks.scores.tolist() == [float(noise[place]) for place in expected]
    for direction, (row, column) in zip(peaks.directions, expected, strict=True):
        pixel = sphere.pixel_to_vector(column, row, 12, 24)
        assert sphere.angular_distance(direction, pixel) <= 1.5 * math.pi / 12  # at most a pixel each way


@settings(max_examples=40, deadline=None)
@given(places)
def test_a_single_bump_is_found_between_the_pixels_wherever_it_lies(place: tuple[float, float]) -> None:
    direction = sphere.angles_to_vector(*place)
    peaks = find_peaks(bumps(direction[None], np.array([1.0])), PeakSettings(min_score=2))
    assert len(peaks.directions) == 1
    assert sphere.angular_distance(peaks.directions[0], direction) < 0.1 * PIXEL_RAD


@pytest.mark.parametrize(
    "direction", [(0, 0, 1), (0, 0, -1), (-1, 0, 0), (-1, 1e-9, 0), (-1, -1e-9, 0), (-1, 0, 30), (0.02, 0, -1)]
)
def test_a_bump_at_a_pole_or_on_the_seam_is_one_target(direction: tuple[float, float, float]) -> None:
    unit = np.array(direction, float) / np.linalg.norm(direction)
    peaks = find_peaks(bumps(unit[None], np.array([1.0])), PeakSettings(min_separation_rad=0.1))
    assert len(peaks.directions) == 1
    assert sphere.angular_distance(peaks.directions[0], unit) < 0.1 * PIXEL_RAD


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_turning_the_map_turns_the_targets(seed: int) -> None:
    generator = np.random.default_rng(seed)
    spread = np.array([(1, 0, 0), (0, 1, 0), (-1, 0, 0), (0, 0, 1)], float)  # far apart: no order is by chance
    density = bumps(spread @ sphere.random_rotation(generator).T, np.array([1.0, 0.8, 0.6, 0.4]))
    rotation = sphere.random_rotation(generator)
    before = find_peaks(density)
    after = find_peaks(projection.rotate_erp(density, rotation))
    assert len(before.directions) == len(after.directions) == 4
    assert sphere.angular_distance(after.directions, before.directions @ rotation.T).max() < 0.5 * PIXEL_RAD
    assert np.allclose(after.scores, before.scores, rtol=0.05)


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(0.05, 1.5), st.integers(1, 20))
def test_targets_keep_their_distance_order_and_number(seed: int, separation: float, count: int) -> None:
    noise = np.random.default_rng(seed).random((20, 40)).astype(np.float32) * 4
    peaks = find_peaks(noise, PeakSettings(count=count, min_separation_rad=separation, min_score=1))
    assert 1 <= len(peaks.scores) <= count
    assert np.all(np.diff(peaks.scores) <= 0)
    assert np.allclose(np.linalg.norm(peaks.directions, axis=-1), 1)
    first, second = np.triu_indices(len(peaks.scores), 1)
    apart = sphere.angular_distance(peaks.directions[first], peaks.directions[second])
    assert np.all(apart > separation - 3 * math.pi / 20)  # each may have moved by a pixel and a half


@pytest.mark.parametrize("make", [np.ones, np.zeros])
def test_a_flat_map_has_no_target(make: Callable[..., Density]) -> None:
    peaks = find_peaks(make((20, 40), np.float32))
    assert peaks.directions.shape == (0, 3)
    assert peaks.scores.shape == (0,)


def test_a_clipped_plateau_stays_where_it_is() -> None:
    density = np.zeros((20, 40), np.float32)
    density[8:11, 18:23] = 5
    peaks = find_peaks(density, PeakSettings(min_separation_rad=1))
    assert len(peaks.scores) == 1
    column, row = sphere.nearest_pixel(peaks.directions[0], 20, 40)
    assert 8 <= row <= 10
    assert 17 <= column <= 23


def test_an_oblique_ridge_is_placed_by_its_own_axes() -> None:
    erp = sphere.erp_directions(HEIGHT, WIDTH)
    top = sphere.angles_to_vector(0.013, 0.021)
    along, across = erp @ np.array([0, 0.8, 0.6]), erp @ np.array([0, -0.6, 0.8])
    along, across = along - top @ np.array([0, 0.8, 0.6]), across - top @ np.array([0, -0.6, 0.8])
    ridge = np.exp(-(along**2) / 0.08 - across**2 / 0.01) * (erp[..., 0] > 0) * 9
    peaks = find_peaks(ridge.astype(np.float32))
    assert sphere.angular_distance(peaks.directions[0], top) < 0.15 * PIXEL_RAD


@pytest.mark.parametrize("values", [{"count": 0}, {"min_separation_rad": 0.0}, {"min_score": -1.0}])
def test_settings_out_of_range_are_refused_by_name(values: dict[str, float]) -> None:
    with pytest.raises(ParameterError, match=next(iter(values))):
        PeakSettings(**values)  # type: ignore[arg-type]
