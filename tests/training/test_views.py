"""Views of a panorama: exact on the sphere, and the same in every process."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sal360.errors import ParameterError
from sal360.sphere import angular_distance, erp_directions, pixel_to_vector
from training.data.views import (
    BOTTOM_TO_FRONT,
    TOP_TO_FRONT,
    Crop,
    ViewConfig,
    ViewPair,
    crop_and_shift,
    draw_crop,
    resize,
)
from training.pictures import draw_views, write_views

PLAIN = {
    "height": 32,
    "flip_probability": 0.0,
    "crop_scale": 1.0,
    "translation_probability": 0.0,
    "jitter_probability": 0.0,
    "grey_probability": 0.0,
}


def smooth_panorama(height: int, width: int, seed: int = 0) -> NDArray[Any]:
    """A function of direction, slow enough for bilinear lookups: (height, width, 3) uint8."""
    generator = np.random.default_rng(seed)
    waves = erp_directions(height, width) @ generator.normal(size=(3, 3))
    return np.round(127 + 100 * np.sin(2 * waves)).astype(np.uint8)


def look_up(panorama: NDArray[Any], direction: NDArray[Any]) -> NDArray[Any]:
    """Bilinear lookup in one direction, by hand: wrapped in longitude, half a turn away beyond a pole."""
    height, width = panorama.shape[:2]
    u = (math.pi - math.atan2(direction[1], direction[0])) * width / (2 * math.pi) - 0.5
    v = (math.pi / 2 - math.asin(np.clip(direction[2], -1, 1))) * height / math.pi - 0.5
    column, row = math.floor(u), math.floor(v)
    total = np.zeros(3)
    for i, weight_v in ((row, 1 - (v - row)), (row + 1, v - row)):
        for j, weight_u in ((column, 1 - (u - column)), (column + 1, u - column)):
            beyond = i < 0 or i >= height
            inside = min(max(i, 0), height - 1)
            total += weight_v * weight_u * panorama[inside, (j + (width // 2 if beyond else 0)) % width]
    return total


def test_turned_view_is_an_exact_quarter_turn_pixel_by_pixel() -> None:
    panorama = smooth_panorama(32, 64)
    seen = set()
    for index in range(8):
        view, turned = ViewPair(0, ViewConfig(**PLAIN))(panorama, 0, index)
        assert np.array_equal(view, panorama.transpose(2, 0, 1))
        errors = {}
        for name, rotation in (("top", TOP_TO_FRONT), ("bottom", BOTTOM_TO_FRONT)):
            came_from = erp_directions(32, 64) @ rotation  # Rᵀ d
            expected = np.array([[look_up(panorama, direction) for direction in row] for row in came_from])
            errors[name] = np.abs(turned.transpose(1, 2, 0) - expected).max()
        best = min(errors, key=errors.__getitem__)
        assert errors[best] <= 2  # rounding of bytes and of the lookup's thirty-seconds of a pixel
        seen.add(best)
        if len(seen) == 2:
            break
    assert seen == {"top", "bottom"}


@pytest.mark.parametrize(("rotation", "row"), [(TOP_TO_FRONT, 0), (BOTTOM_TO_FRONT, 31)])
def test_pole_comes_to_the_front(rotation: NDArray[Any], row: int) -> None:
    panorama = np.zeros((32, 64, 3), np.uint8)
    panorama[row] = 255
    panorama[:, :, 2] = 0
    _, turned = next(
        pair
        for pair in (ViewPair(0, ViewConfig(**PLAIN))(panorama, 0, index) for index in range(20))
        if pair[1][0, 15:17, 31:33].min() > 200
    )
    brightest = np.argwhere(turned[0] > 200)
    assert np.abs(brightest - [15.5, 31.5]).max() < 3
    assert angular_distance(rotation @ [0, 0, 1 if row == 0 else -1], [1, 0, 0]) < 1e-12


def test_crop_and_shift_is_a_bilinear_lookup_with_mirrored_edges() -> None:
    picture = cv2.resize(np.random.default_rng(0).integers(0, 256, (4, 8, 3), dtype=np.uint8), (40, 20))
    crop, shift = Crop(left=3, top=2, width=33, height=17), (-7.25, 4.5)
    result = crop_and_shift(picture, crop, shift)
    inside = picture[2:19, 3:36].astype(float)

    def mirrored(i: int, size: int) -> int:
        return -1 - i if i < 0 else (2 * size - 1 - i if i >= size else i)

    for y in range(20):
        for x in range(40):
            column, row = (x + 7.25 + 0.5) * 33 / 40 - 0.5, (y - 4.5 + 0.5) * 17 / 20 - 0.5
            left, top = math.floor(column), math.floor(row)
            expected = sum(
                weight_y * weight_x * inside[mirrored(i, 17), mirrored(j, 33)]
                for i, weight_y in ((top, 1 - (row - top)), (top + 1, row - top))
                for j, weight_x in ((left, 1 - (column - left)), (left + 1, column - left))
            )
            assert np.abs(result[y, x] - expected).max() <= 4


@settings(deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 2**32),
    scale=st.one_of(st.just(1.0), st.floats(0.05, 1)),
    low=st.floats(0.3, 1),
    high=st.floats(1, 3),
)
def test_crops_of_a_panorama_succeed_and_keep_their_bounds(seed: int, scale: float, low: float, high: float) -> None:
    config = ViewConfig(crop_scale=scale, crop_ratio=(low, high))
    crop = draw_crop(np.random.default_rng(seed), config, 160, 320)
    assert 0 <= crop.left <= crop.left + crop.width <= 320
    assert 0 <= crop.top <= crop.top + crop.height <= 160
    half_pixel = 1 + 0.5 / crop.width + 0.5 / crop.height  # sides are whole pixels
    assert scale / half_pixel <= crop.width * crop.height / (320 * 160) <= 1
    assert low / half_pixel <= crop.width / crop.height / 2 <= high * half_pixel


def test_crops_differ() -> None:
    """Unlike with a ratio of the square, where every draw on a 2:1 picture would fall back to the same centre."""
    crops = {draw_crop(np.random.default_rng(seed), ViewConfig(), 160, 320) for seed in range(50)}
    assert len(crops) > 45
    areas = np.array([crop.width * crop.height / (160 * 320) for crop in crops])
    assert areas.min() < 0.8
    assert areas.max() > 0.95


@pytest.mark.parametrize("family", ["paper", "rotation"])
def test_views_depend_on_seed_epoch_and_index_alone(family: str) -> None:
    panorama = smooth_panorama(64, 128)
    config = ViewConfig(family=family, height=32)  # type: ignore[arg-type]
    pair = ViewPair(1, config)
    first = pair(panorama, 3, 5)
    for index in range(4):
        pair(panorama, 0, index)  # draws in between do not matter
    again = ViewPair(1, config)(panorama, 3, 5)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (ViewPair(2, config)(panorama, 3, 5), pair(panorama, 4, 5), pair(panorama, 3, 6)):
        assert not np.array_equal(first[1], other[1])


@pytest.mark.parametrize("family", ["paper", "rotation"])
@pytest.mark.parametrize("size", [(32, 64), (50, 100), (20, 40), (128, 256)])
def test_views_are_contiguous_bytes_and_the_panorama_stays(family: str, size: tuple[int, int]) -> None:
    panorama = smooth_panorama(*size)
    panorama.flags.writeable = False  # as a memory-mapped cache is
    before = panorama.copy()
    for index in range(6):
        for view in ViewPair(0, ViewConfig(family=family, height=32))(panorama, 0, index):  # type: ignore[arg-type]
            assert view.shape == (3, 32, 64)
            assert view.dtype == np.uint8
            assert view.flags.c_contiguous
    assert np.array_equal(panorama, before)


def test_both_views_are_of_the_same_mirrored_panorama() -> None:
    panorama = smooth_panorama(32, 64)
    mirrored = ViewPair(0, ViewConfig(**{**PLAIN, "flip_probability": 1.0}))(panorama, 0, 0)
    expected = ViewPair(0, ViewConfig(**PLAIN))(panorama[:, ::-1], 0, 0)
    assert all(np.array_equal(a, b) for a, b in zip(mirrored, expected, strict=True))


def test_correspondence_says_where_each_pixel_came_from() -> None:
    panorama = smooth_panorama(32, 64)
    config = ViewConfig(family="rotation", correspondence=True, **PLAIN)
    for index in range(5):
        view, turned, places = ViewPair(0, config)(panorama, 0, index)
        assert places.shape == (2, 32, 64)
        assert places.dtype == np.float32
        assert places[0].min() >= -0.5
        assert places[0].max() <= 63.5
        came_from = pixel_to_vector(places[0], places[1], 32, 64)  # (32, 64, 3)
        looked_up = np.array([[look_up(view.transpose(1, 2, 0), d) for d in row] for row in came_from])
        assert np.abs(turned.transpose(1, 2, 0) - looked_up).max() <= 3
        # it is one rigid turn: the matrix that best carries the directions back is a rotation and leaves no rest
        to = erp_directions(32, 64).reshape(-1, 3)
        matrix, *_ = np.linalg.lstsq(came_from.reshape(-1, 3), to, rcond=None)
        np.testing.assert_allclose(came_from.reshape(-1, 3) @ matrix, to, atol=1e-5)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-5)


def test_panoramas_shrink_by_area() -> None:
    checks = np.tile(np.array([[0, 255], [255, 0]], np.uint8)[..., None], (32, 64, 3))  # pixels, finer than the view
    assert np.abs(resize(checks, 32).astype(int) - 127.5).max() <= 1


def test_picture_of_views_has_a_row_for_each_panorama(tmp_path: Path) -> None:
    panoramas = [smooth_panorama(32, 64, seed) for seed in range(3)]
    pairs = [ViewPair(0, ViewConfig(height=32))(panorama, 0, i) for i, panorama in enumerate(panoramas)]
    picture = draw_views(pairs)
    assert picture.shape == (18 + 3 * 40, 2 * 72, 3)
    assert np.array_equal(picture[18 + 4 : 18 + 36, 4:68], pairs[0][0].transpose(1, 2, 0))
    write_views(tmp_path / "views.png", pairs)
    read = cv2.cvtColor(cv2.imread(str(tmp_path / "views.png")), cv2.COLOR_BGR2RGB)
    assert np.array_equal(read, picture)


def test_picture_shows_the_correspondence_in_a_third_column() -> None:
    pair = ViewPair(0, ViewConfig(family="rotation", correspondence=True, **PLAIN))(smooth_panorama(32, 64), 0, 0)
    picture = draw_views([pair])
    assert picture.shape == (18 + 40, 3 * 72, 3)
    turned, looked_up = picture[22:54, 76:140].astype(int), picture[22:54, 148:212].astype(int)
    assert np.abs(turned - looked_up).max() <= 1


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("height", 33),
        ("correspondence", True),
        ("flip_probability", 1.5),
        ("crop_scale", 0.0),
        ("crop_ratio", (1.1, 1.4)),
        ("translation_px", -1.0),
        ("brightness", 2.0),
        ("hue", 0.6),
    ],
)
def test_settings_out_of_range_name_their_option(setting: str, value: object) -> None:
    with pytest.raises(ParameterError, match=f"^{setting} is"):
        ViewConfig(**{setting: value})  # type: ignore[arg-type]
