"""Resampling: turned panoramas, viewports and pictures on the sphere, against slow per-pixel oracles."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sal360 import projection, sphere
from sal360.errors import ParameterError
from sal360.projection import Viewport

seeds = st.integers(0, 2**32 - 1)
TABLE_ERROR_PX = 1 / 64  # OpenCV before 5 rounds the place in the pixel to 1/32


def smooth_panorama(height: int, width: int) -> NDArray[Any]:
    """A panorama without edges: a low polynomial of the direction, so that resampling it twice costs little."""
    x, y, z = np.moveaxis(sphere.erp_directions(height, width), -1, 0)
    return (x + 0.7 * y * z + 0.5 * z * z - 0.3 * x * y).astype(np.float32)


def look_up_slowly(erp: NDArray[Any], direction: NDArray[Any]) -> float:
    """Bilinear lookup of one direction, neighbour by neighbour, each found on the sphere and not by the border."""
    height, width = erp.shape
    u, v = (float(part) for part in sphere.vector_to_pixel(direction, height, width))
    column, row = math.floor(u), math.floor(v)
    total = 0.0
    for dy in (0, 1):
        for dx in (0, 1):
            weight = abs(1 - dx - (u - column)) * abs(1 - dy - (v - row))
            y, x = row + dy, column + dx
            if y < 0 or y >= height:  # over the pole: the same row, half a turn away
                y = -1 - y if y < 0 else 2 * height - 1 - y
                x += width / 2
            left, right = math.floor(x), math.ceil(x)  # they differ where half a turn falls between two columns
            total += weight * (float(erp[y, left % width]) + float(erp[y, right % width])) / 2
    return total


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 13), seeds)
def test_lookup_agrees_with_the_slow_one_everywhere(height: int, width: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    erp = generator.random((height, width)).astype(np.float32)
    directions = generator.standard_normal((4, 5, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    directions[0, 0], directions[0, 1], directions[0, 2] = (0, 0, 1), (0, 0, -1), (-1, 0, 0)
    expected = [[look_up_slowly(erp, direction) for direction in row] for row in directions]
    assert np.allclose(projection.sample_erp(erp, directions), expected, atol=2 * TABLE_ERROR_PX)


@given(seeds)
def test_maps_are_the_spheres_pixels_plus_the_border(seed: int) -> None:
    directions = np.random.default_rng(seed).standard_normal((3, 4, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    map_u, map_v = projection.sampling_maps(directions, 1920, 3840)
    u, v = sphere.vector_to_pixel(directions, 1920, 3840)
    assert np.allclose(map_v, v + 1, atol=2e-3)
    assert np.allclose((map_u - u - 1 + 1920) % 3840, 1920, atol=2e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(6, 12), (6, 12, 1), (6, 12, 3), (6, 12, 4), (5, 9, 3), (1, 2)])
def test_dtype_channels_and_odd_widths_are_kept(dtype: type, shape: tuple[int, ...]) -> None:
    turned = projection.rotate_erp(np.full(shape, 7, dtype), sphere.rotation_yaw_pitch_roll(0.3, 0.4, 0.5))
    assert turned.dtype == dtype
    assert turned.shape == shape
    assert np.all(turned == 7)


def test_an_odd_width_averages_the_two_neighbours_over_the_pole_to_the_nearest_integer() -> None:
    row = np.array([[0, 10, 20, 31, 40]], np.uint8)
    padded = projection.pad_sphere(row)
    # half a turn from column 0 is column 2.5: the mean of 20 and 31 is 25.5
    assert padded[0, 1:-1].tolist() == [26, 36, 20, 5, 15]
    assert padded[-1].tolist() == padded[0].tolist()


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_a_turn_and_its_inverse_give_the_panorama_back(seed: int) -> None:
    erp = smooth_panorama(64, 128)
    rotation = sphere.random_rotation(np.random.default_rng(seed))
    back = projection.rotate_erp(projection.rotate_erp(erp, rotation), rotation.T)
    assert np.abs(back - erp).max() < 0.02  # of a range of about 3


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_two_turns_are_their_product(seed: int) -> None:
    erp = smooth_panorama(64, 128)
    generator = np.random.default_rng(seed)
    first, second = sphere.random_rotation(generator), sphere.random_rotation(generator)
    in_turn = projection.rotate_erp(projection.rotate_erp(erp, first), second)
    at_once = projection.rotate_erp(erp, second @ first)
    assert np.abs(in_turn - at_once).max() < 0.02


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_content_at_d_moves_to_the_rotated_d(seed: int) -> None:
    erp = smooth_panorama(64, 128)
    generator = np.random.default_rng(seed)
    rotation = sphere.random_rotation(generator)
    directions = sphere.erp_directions(9, 18)
    before = projection.sample_erp(erp, directions)
    after = projection.sample_erp(projection.rotate_erp(erp, rotation), directions @ rotation.T)
    assert np.abs(after - before).max() < 0.02


@pytest.mark.parametrize("columns", [1, 17, 64, -5])
def test_a_yaw_by_whole_columns_is_a_roll_and_the_seam_has_no_seam(columns: int) -> None:
    erp = np.random.default_rng(1).random((64, 128)).astype(np.float32)
    turned = projection.rotate_erp(erp, sphere.rotation_yaw_pitch_roll(yaw_rad=2 * math.pi * columns / 128))
    assert np.abs(turned - np.roll(erp, -columns, axis=1)).max() < 2 * TABLE_ERROR_PX


def test_angles_in_single_precision_are_as_exact_as_it() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 50, 40)).astype(np.float32)
    x[0, :8], y[0, :8] = (0, 1, -1, 0, 0, -1, 1e-20, 1), (0, 0, 0, 1, -1, 1e-9, -1e-20, -1e-9)
    angle, radius = projection.polar(x, y)
    assert angle.dtype == radius.dtype == np.float32
    error = angle - np.arctan2(y.astype(float), x.astype(float))
    assert np.abs((error + math.pi) % (2 * math.pi) - math.pi).max() < 1e-6
    assert np.allclose(radius, np.hypot(x, y), rtol=1e-6)
    assert projection.polar(x[:0], y[:0])[0].shape == (0, 40)


def test_a_quarter_pitch_brings_the_pole_to_the_centre() -> None:
    height, width = 64, 128
    erp = np.zeros((height, width), np.float32)
    erp[:3] = 1  # a cap around the top
    turned = projection.rotate_erp(erp, sphere.rotation_yaw_pitch_roll(pitch_rad=math.pi / 2))
    middle = turned[height // 2 - 1 : height // 2 + 1, width // 2 - 1 : width // 2 + 1]
    assert middle.min() > 1 - 1e-6
    weight = turned * sphere.solid_angles(height, width)
    centre = (weight[..., None] * sphere.erp_directions(height, width)).sum(axis=(0, 1)) / weight.sum()
    assert sphere.angular_distance(centre / np.linalg.norm(centre), [1, 0, 0]) < 1e-3
    # the cap keeps its solid angle
    assert weight.sum() == pytest.approx((erp * sphere.solid_angles(height, width)).sum(), rel=0.05)


def test_the_cache_of_rotation_maps_distinguishes_rotations_and_sizes() -> None:
    erp, small = smooth_panorama(16, 32), smooth_panorama(8, 16)
    one, other = sphere.rotation_yaw_pitch_roll(0.1), sphere.rotation_yaw_pitch_roll(0.2)
    for picture, rotation in ((erp, one), (small, one), (erp, other), (erp, one)):
        maps = projection.rotation_maps(rotation, *picture.shape)
        assert np.array_equal(projection.rotate_erp(picture, rotation), projection.remap_sphere(picture, maps))


@settings(max_examples=50, deadline=None)
@given(seeds, st.floats(0.05, 3.0), st.integers(1, 40), st.integers(1, 40))
def test_window_pixels_come_back_from_directions(seed: int, fov: float, height: int, width: int) -> None:
    generator = np.random.default_rng(seed)
    viewport = Viewport(sphere.random_rotation(generator), fov, height, width)
    x, y = generator.uniform(-0.5, width - 0.5), generator.uniform(-0.5, height - 0.5)
    back_x, back_y, inside = viewport.project(viewport.unproject(x, y))
    assert back_x == pytest.approx(x, abs=1e-6)
    assert back_y == pytest.approx(y, abs=1e-6)
    assert inside or min(x + 0.5, width - 0.5 - x, y + 0.5, height - 0.5 - y) < 1e-6
    grid_x, grid_y, _ = viewport.project(viewport.directions)
    assert np.allclose(grid_x, np.arange(width)[None, :], atol=1e-6)
    assert np.allclose(grid_y, np.arange(height)[:, None], atol=1e-6)


def test_the_window_spans_its_field_of_view_and_shows_what_is_up_at_its_top() -> None:
    viewport = Viewport(np.eye(3), math.radians(90), 100, 100)
    left, right = viewport.unproject(-0.5, 49.5), viewport.unproject(99.5, 49.5)
    assert sphere.angular_distance(left, right) == pytest.approx(math.radians(90))
    assert left[1] > 0 > right[1]
    assert viewport.unproject(49.5, -0.5)[2] > 0


def test_a_windows_solid_angles_sum_to_a_sixth_of_the_sphere_at_a_right_angle() -> None:
    viewport = Viewport(sphere.rotation_yaw_pitch_roll(1, 0.5), math.radians(90), 100, 100)
    assert viewport.solid_angles_sr.sum() == pytest.approx(4 * math.pi / 6, rel=1e-4)


def test_nothing_behind_the_window_is_inside_it() -> None:
    viewport = Viewport(np.eye(3), math.radians(120), 10, 10)
    _, _, inside = viewport.project(np.array([[-1.0, 0, 0], [0, 1, 0], [1, 0, 0]]))
    assert inside.tolist() == [False, False, True]


@pytest.mark.parametrize("fov", [0.0, -1.0, math.pi, 4.0, math.nan])
def test_an_impossible_field_of_view_is_refused(fov: float) -> None:
    with pytest.raises(ParameterError, match="field of view"):
        Viewport(np.eye(3), fov, 10, 10)


@settings(max_examples=15, deadline=None)
@given(seeds, st.floats(0.4, 1.8))
def test_a_picture_cut_and_placed_again_lies_where_it_was(seed: int, fov: float) -> None:
    erp = smooth_panorama(96, 192)
    viewport = Viewport(sphere.random_rotation(np.random.default_rng(seed)), fov, 120, 160)
    placed, mask = projection.place_on_sphere(viewport.cut_from(erp), viewport, 96, 192)
    assert mask.any()
    assert np.all(placed[~mask] == 0)
    assert np.abs(placed - erp)[mask].max() < 0.12  # at the border, where half a reduced pixel is replicated
    assert np.abs(placed - erp)[mask].mean() < 0.01


def test_the_mask_covers_the_windows_solid_angle() -> None:
    fov = math.radians(90)  # a face of the cube: a sixth of the sphere
    viewport = Viewport(sphere.rotation_yaw_pitch_roll(0.4, 0.9), fov, 64, 64)
    _, mask = projection.place_on_sphere(np.ones((64, 64), np.float32), viewport, 128, 256)
    assert (mask * sphere.solid_angles(128, 256)).sum() == pytest.approx(4 * math.pi / 6, rel=0.01)


def test_a_fine_picture_is_reduced_before_it_is_placed() -> None:
    checkers = np.indices((800, 800)).sum(axis=0) % 2 * 255
    viewport = Viewport(np.eye(3), math.radians(60), 800, 800)
    placed, mask = projection.place_on_sphere(checkers.astype(np.uint8), viewport, 80, 160)
    assert placed.dtype == np.uint8
    assert np.abs(placed[mask].astype(float) - 127.5).max() < 20  # grey, where sampling by points would give 0 or 255
