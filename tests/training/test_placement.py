"""Photographs on the sphere: where they lie, and that their gaze keeps its mass and its place."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sal360.arrays import Density, Pixels
from sal360.projection import Viewport, place_on_sphere
from sal360.sphere import erp_directions, nearest_pixel, solid_angles
from training.data.gaze.placed_photographs import (
    Inset,
    PlacedPhotographs,
    PlacementConfig,
    bounding_window,
    crop,
    draw_picture,
    fitted,
    gaze_on_sphere,
    inset_at,
    vary_exposure,
    viewport_at,
)

ANGLE = st.floats(-math.pi, math.pi)
ELEVATION = st.floats(-math.pi / 2, math.pi / 2)
FOV = st.floats(math.radians(20), math.radians(120))


@settings(max_examples=60, deadline=None)
@given(ANGLE, ELEVATION, ANGLE, FOV)
def test_the_window_holds_the_whole_viewport(azimuth: float, elevation: float, roll: float, fov: float) -> None:
    height, width = 40, 80
    viewport = viewport_at(azimuth, elevation, roll, fov, 3, 4)
    window = bounding_window(viewport, height, width)
    held = np.zeros((height, width), bool)
    held[window.first_row : window.first_row + window.rows, window.column_indices(width)] = True
    assert not (viewport.project(erp_directions(height, width))[2] & ~held).any()


def test_drawing_in_the_window_equals_drawing_on_the_whole_sphere() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    viewport = viewport_at(3.0, 0.4, 0.2, 1.2, 30, 40)
    panorama = np.zeros((128, 256, 3), np.uint8)
    draw_picture(panorama, picture, viewport)
    whole, _ = place_on_sphere(picture, viewport, 128, 256)
    np.testing.assert_array_equal(panorama, whole)


@settings(max_examples=25, deadline=None)
@given(ANGLE, st.floats(-1.2, 1.2), st.floats(0.6, 1.9), st.floats(0.15, 0.85), st.floats(0.15, 0.85))
def test_gaze_keeps_its_place_and_its_mass(
    azimuth: float, elevation: float, fov: float, across: float, down: float
) -> None:
    viewport = viewport_at(azimuth, elevation, 0.1, fov, 90, 120)
    row, column = np.mgrid[:90, :120]
    x, y = across * 120 - 0.5, down * 90 - 0.5
    bump = np.exp(-((column - x) ** 2 + (row - y) ** 2) / (2 * 6.0**2)).astype(np.float32)
    on_sphere, mask = gaze_on_sphere(bump, viewport, 320, 640)
    # ∫ over the plane = ∫ over the sphere, in units of the plane's pixels: one steradian at the middle is f² of them
    mass = (on_sphere * solid_angles(320, 640)).sum() * viewport.focal_px**2
    inside_photograph = bump.sum()
    assert mass == pytest.approx(inside_photograph, rel=0.03)
    weighted = (on_sphere * solid_angles(320, 640))[..., None] * erp_directions(320, 640)
    mean = weighted.sum(axis=(0, 1))
    angle = math.acos(np.clip(mean @ viewport.unproject(np.array(x), np.array(y)) / np.linalg.norm(mean), -1, 1))
    assert math.degrees(angle) < 1.5
    assert not on_sphere[~mask].any()


def test_an_inset_wraps_at_the_seam_and_its_gaze_lies_on_it() -> None:
    panorama = np.zeros((64, 128, 3), np.uint8)
    inset = inset_at(0, 40, 64, multiple=8)
    inset.draw(panorama, np.full((30, 40, 3), 255, np.uint8))
    on_map, mask = inset.gaze(np.ones((30, 40), np.float32), 8, 16, of_height=64)
    assert panorama[32, 0].all()
    assert panorama[32, -1].all()
    assert not panorama[32, 64].any()
    np.testing.assert_array_equal(panorama[4::8, 4::8, 0] > 0, mask)
    np.testing.assert_array_equal(on_map > 0, mask)
    np.testing.assert_array_equal(inset.cut(on_map, 64), 1.0)


def test_an_item_depends_on_its_key_alone() -> None:
    first, second = _placed(seed=1), _placed(seed=1)
    second[3, 1]  # another draw in between changes nothing
    for a, b in zip(first[2, 0], second[2, 0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[2, 0][0], first[3, 0][0])
    assert not np.array_equal(first[2, 0][0], _placed(seed=2)[2, 0][0])


@pytest.mark.parametrize(("inset_share", "insets"), [(0.0, 1), (1.0, 1), (1.0, 3)])
def test_photographs_do_not_overlap_and_unused_slots_are_empty(inset_share: float, insets: int) -> None:
    placed = _placed(seed=0, inset_share=inset_share, insets=insets)
    _, densities, masks = placed[0, 0]
    used = masks.any(axis=(1, 2))
    assert used.sum() >= 2
    assert (masks.sum(axis=0) > 1).mean() < 0.03  # corners may touch by a pixel of the coarse grid
    np.testing.assert_array_equal(densities.any(axis=(1, 2)), used)
    assert not densities[~masks].any()


def test_several_photographs_lie_flat_side_by_side() -> None:
    placed = _placed(seed=0, inset_share=1.0, insets=3, attempts=1)
    together = {int(placed[0, index][2].any(axis=(1, 2)).sum()) for index in range(20)}
    assert together >= {1, 2, 3}


def test_every_photograph_occurs_in_an_epoch() -> None:
    """Pictures are distinguished by their brightness."""
    placed = _placed(seed=0, count=12)
    seen = set()
    for index in range(len(placed)):
        frame, _, masks = placed[0, index]
        for mask in masks:
            if mask.any():
                seen.add(int(np.median(frame[::8, ::8][mask])) // 20)
    assert len(seen) >= 11  # where less than the mean fits, the last one waits for the next epoch


def test_exposure_varies_and_strength_zero_changes_nothing() -> None:
    picture = np.full((2, 2, 3), 128, np.uint8)
    assert vary_exposure(picture, 0.0, np.random.default_rng(0)) is picture
    assert len({vary_exposure(picture, 0.3, np.random.default_rng(i)).tobytes() for i in range(5)}) == 5


def test_a_crop_keeps_picture_and_gaze_together_and_most_of_the_gaze() -> None:
    picture = np.arange(60 * 80, dtype=np.int64).reshape(60, 80)[..., None].repeat(3, axis=2)
    density = np.zeros((30, 40), np.float32)
    density[10, 30] = 1
    sizes = set()
    for seed in range(30):
        part, gaze = crop(picture, density, 0.5, np.random.default_rng(seed))
        assert gaze.sum() == 1
        row, column = (int(index) for index in np.unravel_index(gaze.argmax(), gaze.shape))
        shown = part[
            round((row + 0.5) * part.shape[0] / gaze.shape[0]), round((column + 0.5) * part.shape[1] / gaze.shape[1])
        ]
        assert abs(shown[0] // 80 - 21) <= 1
        assert abs(shown[0] % 80 - 61) <= 1
        sizes.add(part.shape[1])
    assert min(sizes) >= 40
    assert len(sizes) > 5
    assert crop(picture, density, 1.0, np.random.default_rng(0))[0].shape == picture.shape


def test_gaze_of_a_placed_photograph_is_looked_up_where_it_was_put() -> None:
    density = np.zeros((15, 20), np.float32)
    density[7, 10] = 1
    viewport = viewport_at(1.0, 0.3, 0.0, 1.0, 15, 20)
    on_sphere, _ = gaze_on_sphere(density, viewport, 80, 160)
    column, row = nearest_pixel(viewport.unproject(np.array(10.0), np.array(7.0)), 80, 160)
    peak = np.unravel_index(on_sphere.argmax(), on_sphere.shape)
    assert abs(peak[0] - row) <= 1
    assert abs(peak[1] - column) <= 1


def _placed(
    *, seed: int, count: int = 6, inset_share: float = 0.0, insets: int = 1, attempts: int = 120
) -> PlacedPhotographs:
    pictures: list[Pixels] = [np.full((30, 40, 3), 20 * i + 10, np.uint8) for i in range(count)]
    densities: list[Density] = [np.ones((15, 20), np.float32)] * count
    background = np.random.default_rng(0).integers(0, 256, (64, 128, 3)).astype(np.uint8)
    config = PlacementConfig(
        fov_deg=(50.0, 80.0),
        inset_share=inset_share,
        insets=insets,
        mean_photographs=3.0,
        attempts=attempts,
        exposure=0.0,
    )
    return PlacedPhotographs(pictures, densities, [background], config, (8, 16), seed)


def test_gaze_on_a_coarse_sphere_is_the_mean_over_its_cells() -> None:
    """One bright pixel of a photograph, between the centres of the map's cells, keeps its mass."""
    viewport = viewport_at(0.3, 0.1, 0.0, math.radians(60), 3, 4)
    fine, coarse = (96, 192), (24, 48)
    for row, column in ((31, 52), (75, 99), (100, 150)):
        density = np.full((150, 200), 1e-6, np.float32)
        density[row : row + 6, column : column + 6] = 1
        exact, _ = gaze_on_sphere(density, viewport, *fine)
        mass = (exact * solid_angles(*fine)).sum()
        on_sphere, _ = gaze_on_sphere(density, viewport, *coarse)
        assert (on_sphere * solid_angles(*coarse)).sum() == pytest.approx(mass, rel=0.15)


@pytest.mark.parametrize("size", [(30, 90), (80, 40), (50, 50)])
def test_photographs_of_any_shape_keep_it(size: tuple[int, int]) -> None:
    height, width = size
    viewport = fitted(viewport_at(0.0, 0.0, 0.0, math.radians(60), 3, 4), height, width, multiple=8)
    assert isinstance(viewport, Viewport)
    assert (viewport.height, viewport.width) == size
    half = math.tan(viewport.horizontal_fov_rad / 2)
    assert half <= math.tan(math.radians(30)) + 1e-9
    assert half * height / width <= math.tan(math.radians(30)) * 0.75 + 1e-9
    inset = fitted(inset_at(128, 120, 256, multiple=8), height, width, multiple=8)
    assert isinstance(inset, Inset)
    assert inset.rows % 8 == inset.columns % 8 == inset.first_row % 8 == inset.first_column % 8 == 0
    assert inset.columns / inset.rows == pytest.approx(width / height, rel=0.25)
    assert inset.rows <= 88
    assert inset.columns <= 120
