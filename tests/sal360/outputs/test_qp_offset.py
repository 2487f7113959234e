"""Quantiser offsets: bounded, mean zero by solid angle, better where the gaze is; tile weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sal360 import sphere
from sal360.arrays import Density
from sal360.errors import ParameterError
from sal360.outputs.qp_offset import QpOffset, QpOffsetSettings, tile_weights

seeds = st.integers(0, 2**32 - 1)


def noise(seed: int, shape: tuple[int, int] = (20, 40)) -> Density:
    return np.random.default_rng(seed).gamma(0.5, 2.0, shape).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    seeds,
    st.sampled_from([(320, 640), (322, 641), (64, 128)]),
    st.sampled_from([16, 32]),
    st.floats(0, 2),
    st.integers(1, 25),
    st.booleans(),
)
def test_offsets_are_bounded_with_a_mean_of_zero_by_solid_angle(
    seed: int, size: tuple[int, int], block_px: int, strength: float, bound: int, weigh_projection: bool
) -> None:
    output = QpOffset(*size, QpOffsetSettings(block_px, strength, bound, weigh_projection))
    offsets = output.update(noise(seed))
    assert offsets.dtype == np.int8
    assert offsets.shape == (-(-size[0] // block_px), -(-size[1] // block_px))
    assert np.abs(offsets).max() <= bound
    mean = float((offsets * output.grid.solid_angle_sr).sum() / (4 * math.pi))
    # equal blocks round together, at most two rows of one latitude: no constant is surely nearer than half their share
    assert abs(mean) <= output.grid.solid_angle_sr.sum(axis=1).max() / (4 * math.pi) + 0.01


@settings(max_examples=30, deadline=None)
@given(seeds, st.floats(0.1, 2))
def test_denser_blocks_of_a_row_are_never_worse(seed: int, strength: float) -> None:
    output = QpOffset(160, 320, QpOffsetSettings(strength=strength))
    density = noise(seed)
    average, offsets = output.grid.average(density), output.update(density)
    for means, row in zip(average, offsets, strict=True):
        assert np.all(np.diff(row[np.argsort(means)].astype(int)) <= 0)


def test_full_strength_is_three_steps_an_octave() -> None:
    density = np.ones((80, 160), np.float32)
    density[:, 40:80], density[:, 80:120] = 2, 4
    offsets = QpOffset(320, 640, QpOffsetSettings(strength=1, max_offset=25, weigh_projection=False)).update(density)
    plain, double, fourfold = offsets[10, 5], offsets[10, 15], offsets[10, 25]
    assert (plain - double, double - fourfold) == (3, 3)
    half = QpOffset(320, 640, QpOffsetSettings(strength=0.5, max_offset=25, weigh_projection=False)).update(density)
    assert half[10, 5] - half[10, 25] == 3


def test_a_flat_map_asks_only_for_the_projections_own_offset() -> None:
    flat = np.ones((20, 40), np.float32)
    plain = QpOffset(320, 640, QpOffsetSettings(weigh_projection=False)).update(flat)
    assert not plain.any()
    weighed = QpOffset(320, 640, QpOffsetSettings(weigh_projection=True, max_offset=25)).update(flat)
    assert np.all(weighed == weighed[:, :1])
    colatitude = math.pi * (np.arange(20) + 0.5) / 20
    slope = weighed[:, 0] - weighed[10, 0]
    assert np.abs(slope + 3 * np.log2(np.sin(colatitude) / np.sin(colatitude[10]))).max() <= 1


@pytest.mark.parametrize("level", [0.0, 1e-12, 1e6])
def test_extreme_maps_stay_bounded(level: float) -> None:
    density = np.full((20, 40), level, np.float32)
    density[10, 20] = 1e6
    offsets = QpOffset(320, 640, QpOffsetSettings(strength=2)).update(density)
    assert offsets.min() >= -8
    assert offsets.max() <= 8


def test_offsets_roll_with_the_panorama_across_the_seam() -> None:
    output = QpOffset(320, 640)
    density = noise(3)
    assert np.array_equal(
        np.roll(output.update(density), 8, axis=1), output.update(np.roll(density, 8, axis=1))
    )  # 8 of 40 columns are 128 pixels: eight blocks


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(1, 8), st.integers(1, 16))
def test_tile_weights_share_out_all_gaze(seed: int, rows: int, columns: int) -> None:
    weights = tile_weights(noise(seed), rows, columns)
    assert weights.shape == (rows, columns)
    assert weights.sum() == pytest.approx(1)
    assert np.all(weights >= 0)


def test_tile_weights_are_the_solid_angle_sums_of_the_maps_pixels() -> None:
    density = noise(9, (40, 80))
    gaze = density * sphere.solid_angles(40, 80)
    expected = gaze.reshape(4, 10, 8, 10).sum(axis=(1, 3)) / gaze.sum()
    assert np.allclose(tile_weights(density, 4, 8), expected, atol=2e-4)


@pytest.mark.parametrize("values", [{"block_px": 8}, {"strength": -0.1}, {"max_offset": 0}])
def test_settings_out_of_range_are_refused_by_name(values: dict[str, float]) -> None:
    with pytest.raises(ParameterError, match=next(iter(values))):
        QpOffsetSettings(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(("rows", "columns"), [(0, 4), (4, 0), (21, 4)])
def test_impossible_tilings_are_refused(rows: int, columns: int) -> None:
    with pytest.raises(ParameterError, match=r"^(rows|columns) is"):
        tile_weights(noise(1), rows, columns)
