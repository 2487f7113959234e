"""Shading rates: both specifications decode them alike; thresholds, budget, hysteresis, cube faces."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sal360 import projection, sphere
from sal360.arrays import Density
from sal360.errors import ParameterError
from sal360.outputs.shading_rate import ShadingRate, ShadingRateSettings, decode_rates, shaded_share
from sal360.outputs.tiles import ErpTiles

seeds = st.integers(0, 2**32 - 1)

# D3D12_SHADING_RATE of d3d12.h, as fragment width and height
D3D12_SHADING_RATES = {0x0: (1, 1), 0x1: (1, 2), 0x4: (2, 1), 0x5: (2, 2), 0x6: (2, 4), 0x9: (4, 2), 0xA: (4, 4)}


def vulkan_fragment_size(texel: int) -> tuple[int, int]:
    """VK_KHR_fragment_shading_rate: width 2^((texel / 4) & 3), height 2^(texel & 3), in whole numbers."""
    return 2 ** ((texel // 4) & 3), 2 ** (texel & 3)


def noise(seed: int, shape: tuple[int, int] = (20, 40)) -> Density:
    return np.random.default_rng(seed).gamma(1.0, 1.0, shape).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from(["2x2", "4x4"]), st.sampled_from([8, 16, 32]))
def test_vulkan_and_d3d12_decode_every_byte_alike_and_within_the_limit(seed: int, limit: str, tile_px: int) -> None:
    rates = ShadingRate(320, 640, ShadingRateSettings(tile_px=tile_px, limit=limit)).update(noise(seed))
    assert rates.dtype == np.uint8
    assert rates.shape == (-(-320 // tile_px), -(-640 // tile_px))
    sides = {"2x2": {1, 2}, "4x4": {1, 2, 4}}[limit]
    for byte, width, height in zip(rates.flat, *(part.flat for part in decode_rates(rates)), strict=True):
        assert vulkan_fragment_size(int(byte)) == D3D12_SHADING_RATES[int(byte)] == (width, height)
        assert width == height
        assert width in sides


def test_decoding_agrees_with_both_specifications_for_every_byte_they_share() -> None:
    for byte, size in D3D12_SHADING_RATES.items():
        assert vulkan_fragment_size(byte) == size
        assert tuple(int(side) for side in decode_rates(np.array(byte, np.uint8))) == size


def test_thresholds_choose_the_rate() -> None:
    columns = np.repeat(np.array([0.2, 0.7, 1.5, 0.7], np.float32), 40)  # four quarters of the panorama
    density = np.repeat(columns[None], 80, axis=0)
    chosen = {}
    for limit in ("2x2", "4x4"):
        settings_ = ShadingRateSettings(limit=limit, full_rate_density=1, half_rate_density=0.5)
        chosen[limit] = ShadingRate(320, 640, settings_).update(density)[10, [5, 15, 25, 35]].tolist()
    assert chosen == {"2x2": [0b0101, 0b0101, 0, 0b0101], "4x4": [0b1010, 0b0101, 0, 0b0101]}


@settings(max_examples=40, deadline=None)
@given(seeds, st.floats(0.01, 1), st.sampled_from([(320, 640), (322, 641), (100, 200)]))
def test_a_budget_is_spent_on_the_densest_tiles_and_never_passed(
    seed: int, share: float, size: tuple[int, int]
) -> None:
    settings_ = ShadingRateSettings(full_rate_share=share)
    grid = ErpTiles(*size, 16)
    density = noise(seed)
    full = ShadingRate(*size, settings_).update(density) == 0
    average = grid.average(density)
    spent = grid.pixels[full].sum() / grid.pixels.sum()
    assert spent <= share + 1e-12
    if not full.all():
        assert not full.any() or average[full].min() >= average[~full].max()
        next_best = average[~full].max()
        assert spent + grid.pixels[~full & (average == next_best)].max() / grid.pixels.sum() > share - 1e-12


def test_the_whole_budget_is_full_rate_everywhere() -> None:
    assert not ShadingRate(322, 641, ShadingRateSettings(full_rate_share=1)).update(noise(1)).any()


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_hysteresis_holds_a_tile_until_it_is_clearly_below(share: float) -> None:
    steady = noise(3)
    changes = {}
    for hysteresis in (0.0, 0.3):
        rate = ShadingRate(320, 640, ShadingRateSettings(full_rate_share=share, hysteresis=hysteresis))
        generator = np.random.default_rng(4)
        pictures = [
            rate.update(steady * generator.uniform(0.9, 1.1, steady.shape).astype(np.float32)) for _ in range(20)
        ]
        changes[hysteresis] = sum(int((a != b).sum()) for a, b in pairwise(pictures))
    assert changes[0.3] < 0.3 * changes[0.0]


def test_a_held_tile_is_released_below_its_share_and_a_reset_forgets() -> None:
    rate = ShadingRate(16, 32, ShadingRateSettings(full_rate_density=1, hysteresis=0.2))

    def full(level: float) -> bool:
        return bool((rate.update(np.full((8, 16), level, np.float32)) == 0).all())

    assert [full(level) for level in (0.9, 1.1, 0.9, 0.81, 0.79, 0.9)] == [False, True, True, True, False, False]
    assert full(1.1)
    rate.reset()
    assert not full(0.9)


def test_rates_turn_with_the_panorama() -> None:
    density = noise(5, (20, 40))
    rolled = np.roll(density, 4, axis=1)  # 4 of 40 columns are 64 of 640 pixels: four tiles
    settings_ = ShadingRateSettings(limit="4x4")
    first = ShadingRate(320, 640, settings_).update(density)
    second = ShadingRate(320, 640, settings_).update(rolled)
    assert np.array_equal(np.roll(first, 4, axis=1), second)


def test_cube_faces_are_full_rate_where_the_direction_is_dense() -> None:
    face_px, tile_px = 128, 16
    per_face = face_px // tile_px
    settings_ = ShadingRateSettings(projection="cubemap", tile_px=tile_px, full_rate_density=4)
    order = [(0, -1, 0), (0, 1, 0), (0, 0, 1), (0, 0, -1), (1, 0, 0), (-1, 0, 0)]  # right left top bottom front back
    for layer, direction in enumerate(order):
        density = np.exp(40 * (sphere.erp_directions(80, 160) @ np.array(direction, float) - 1)) * 20
        rates = ShadingRate(face_px, face_px, settings_).update(density.astype(np.float32))
        assert rates.shape == (6 * per_face, per_face)
        full_faces = {int(row) // per_face for row in np.nonzero(rates == 0)[0]}
        assert full_faces == {layer}


def test_a_turned_map_gives_the_turned_cube() -> None:
    density = projection.sample_erp(noise(6, (10, 20)), sphere.erp_directions(80, 160))
    settings_ = ShadingRateSettings(projection="cubemap", tile_px=8)
    before = ShadingRate(64, 64, settings_).update(density).reshape(6, 8, 8)
    left = np.roll(density, -40, axis=1)  # a quarter turn to the left: what was in front is on the left
    after = ShadingRate(64, 64, settings_).update(left).reshape(6, 8, 8)
    for was, now in ((4, 1), (1, 5), (5, 0), (0, 4)):  # front → left → back → right → front
        assert np.mean(before[was] == after[now]) > 0.95


def test_the_shaded_share_counts_fragments() -> None:
    grid = ErpTiles(32, 64, 16)  # 2 x 4 tiles
    rates = np.array([[0, 0, 0b0101, 0b0101], [0b1010, 0b1010, 0b1010, 0b1010]], np.uint8)
    assert shaded_share(rates, grid) == pytest.approx((2 + 2 / 4 + 4 / 16) / 8)


@pytest.mark.parametrize(
    "values",
    [{"tile_px": 12}, {"limit": "8x8"}, {"projection": "fisheye"}, {"full_rate_share": 1.1}, {"hysteresis": 1.0}],
)
def test_settings_out_of_range_are_refused_by_name(values: dict[str, object]) -> None:
    with pytest.raises(ParameterError, match=next(iter(values))):
        ShadingRateSettings(**values)  # type: ignore[arg-type]
