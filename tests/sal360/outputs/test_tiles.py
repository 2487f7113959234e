"""Tiles of panoramas and windows: their sizes, and averages against a slow oracle."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sal360 import projection, sphere
from sal360.arrays import Density, Floats
from sal360.outputs.tiles import ErpTiles, TileGrid, WindowTiles, cube_faces
from sal360.projection import Viewport


def scene(height: int, width: int) -> Density:
    """A smooth map of mean 1 with structure in every direction, float32."""
    x, y, z = np.moveaxis(sphere.erp_directions(height, width), -1, 0)
    density = 1 + 0.6 * x * y + 0.5 * y * z - 0.4 * z
    return density.astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 100), st.integers(1, 200), st.sampled_from([8, 16, 32]))
def test_tiles_cover_the_panorama_once(height: int, width: int, tile_px: int) -> None:
    grid = ErpTiles(height, width, tile_px)
    assert grid.shape == (-(-height // tile_px), -(-width // tile_px))
    assert grid.pixels.sum() == height * width
    assert grid.pixels[0, 0] == min(tile_px, height) * min(tile_px, width)
    assert grid.solid_angle_sr.sum() == pytest.approx(4 * math.pi)


@pytest.mark.parametrize(("height", "width", "tile_px"), [(80, 160, 16), (70, 150, 32), (33, 41, 8), (320, 640, 32)])
def test_an_average_is_the_mean_of_the_tiles_pixels_by_solid_angle(height: int, width: int, tile_px: int) -> None:
    density = scene(40, 80)
    grid = ErpTiles(height, width, tile_px)
    fine = projection.sample_erp(density, sphere.erp_directions(height, width))
    weight = np.broadcast_to(sphere.solid_angles(height, width), (height, width))
    averages = grid.average(density)
    assert averages.dtype == np.float32
    for row in range(grid.shape[0]):
        for column in range(grid.shape[1]):
            tile = np.s_[row * tile_px : (row + 1) * tile_px, column * tile_px : (column + 1) * tile_px]
            assert grid.solid_angle_sr[row, column] == pytest.approx(weight[tile].sum())
            assert averages[row, column] == pytest.approx((fine * weight)[tile].sum() / weight[tile].sum(), abs=0.01)


def test_averages_keep_the_whole() -> None:
    density = scene(160, 320)
    grids: list[TileGrid] = [ErpTiles(320, 640, 16), ErpTiles(322, 641, 32), WindowTiles(cube_faces(100), 8)]
    for grid in grids:
        whole = (grid.average(density) * grid.solid_angle_sr).sum() / (4 * math.pi)
        assert whole == pytest.approx(1, abs=2e-3)


def test_a_single_bright_pixel_is_never_passed_over() -> None:
    density = np.zeros((160, 320), np.float32)
    density[37, 211] = 1
    assert (ErpTiles(320, 640, 32).average(density) > 0).sum() in (1, 2, 4)
    assert WindowTiles(cube_faces(64), 32).average(density).max() > 0


def test_tables_follow_the_maps_size() -> None:
    grid = ErpTiles(64, 128, 16)
    for size in ((20, 40), (40, 80), (20, 40)):
        assert np.allclose(grid.average(np.full(size, 3, np.float32)), 3, atol=1e-5)


def cube_lookup(vector: Floats) -> tuple[int, float, float]:
    """Layer, s and t in [0, 1] of a vector (x right, y up, z forward): Vulkan's cube map face selection."""
    rx, ry, rz = (float(part) for part in vector)
    major = max(abs(rx), abs(ry), abs(rz))
    if major == abs(rz):
        layer, sc, tc = (4, rx, -ry) if rz > 0 else (5, -rx, -ry)
    elif major == abs(ry):
        layer, sc, tc = (2, rx, rz) if ry > 0 else (3, rx, -rz)
    else:
        layer, sc, tc = (0, -rz, -ry) if rx > 0 else (1, rz, -ry)
    return layer, (sc / major + 1) / 2, (tc / major + 1) / 2


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_cube_faces_are_those_that_a_sampler_looks_up(seed: int) -> None:
    body = sphere.random_rotation(np.random.default_rng(seed))[:, 0]
    layer, s, t = cube_lookup(np.array([-body[1], body[2], body[0]]))
    faces = cube_faces(64)
    x, y, inside = faces[layer].project(body)
    assert inside
    assert ((x + 0.5) / 64, (y + 0.5) / 64) == pytest.approx((s, t), abs=1e-9)
    assert sum(bool(face.project(body)[2]) for face in faces) == 1


def test_cube_tiles_share_the_sphere_and_see_their_own_part_of_the_map() -> None:
    density = scene(80, 160)
    grid = WindowTiles(cube_faces(32), 8)
    assert grid.shape == (24, 4)
    assert grid.pixels.sum() == 6 * 32 * 32
    assert grid.solid_angle_sr.sum() == pytest.approx(4 * math.pi)
    averages = grid.average(density)
    for layer, face in enumerate(cube_faces(32)):
        for row in range(4):
            for column in range(4):
                middle = face.unproject(np.float64(column * 8 + 3.5), np.float64(row * 8 + 3.5))
                x, y, z = middle
                expected = 1 + 0.6 * x * y + 0.5 * y * z - 0.4 * z
                assert averages[4 * layer + row, column] == pytest.approx(expected, abs=0.05)


def test_an_odd_windows_tiles_cover_it_once() -> None:
    window = Viewport(sphere.rotation_yaw_pitch_roll(0.3), math.radians(100), 50, 90)
    grid = WindowTiles([window], 16)
    assert grid.shape == (4, 6)
    assert grid.pixels.sum() == 50 * 90
    assert grid.solid_angle_sr.sum() == pytest.approx(window.solid_angles_sr.sum(), rel=1e-3)
