"""Outputs in a camera's own layout, against sums over dense directions and over single pixels."""

from __future__ import annotations

import math
from functools import cache, lru_cache

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sal360 import sphere
from sal360.arrays import Density, Floats
from sal360.cameras.camera import Camera
from sal360.cameras.cubemap import FACES, CubeCamera
from sal360.cameras.equirectangular import EquirectangularCamera
from sal360.cameras.fisheye import FisheyeCamera, Lens
from sal360.cameras.stereo import StereoCamera
from sal360.density import normalised
from sal360.errors import ParameterError
from sal360.outputs.layout import EQUIRECTANGULAR, CameraTiles, SourceLayout
from sal360.outputs.qp_offset import QpOffset, QpOffsetSettings, tile_weights
from sal360.outputs.shading_rate import RATE_1X1, RATE_2X2, RATE_4X4, ShadingRate, ShadingRateSettings
from sal360.outputs.tiles import ErpTiles, TileGrid
from sal360.projection import remap_sphere, sampling_maps

WHOLE_SR = 4 * math.pi


def dual_fisheye(height: int, width: int, fov_deg: float = 200.0, blend_deg: float = 180.0, tilt: float = 0) -> Camera:
    """Two lenses side by side; `tilt` turns the second one and moves its centre."""
    radius = min(height, width / 2) / 2 - 2
    back = sphere.rotation_yaw_pitch_roll(math.pi + tilt, tilt, tilt)
    first = Lens.with_radius(width / 4 - 0.5, height / 2 - 0.5, radius, fov_deg)
    second = Lens.with_radius(0.75 * width - 0.5 + 10 * tilt, height / 2 - 0.5, radius, fov_deg, rotation=back)
    return FisheyeCamera(height, width, [first, second], blend_deg)


def one_fisheye(size: int, fov_deg: float = 180.0) -> Camera:
    return FisheyeCamera(size, size, [Lens.with_radius(size / 2 - 0.5, size / 2 - 0.5, size / 2, fov_deg)])


def stereo(packing: str) -> Camera:
    if packing == "top_bottom":
        return StereoCamera(320, 320, packing, "right", lambda height, width: dual_fisheye(height, width))
    return StereoCamera(360, 120, packing, "right", lambda height, width: CubeCamera(height, width, "1x6"))


CAMERAS: dict[str, Camera] = {
    "dual fisheye": dual_fisheye(240, 480),
    "dual fisheye with a narrow blend": dual_fisheye(240, 480, 210, 4),
    "dual fisheye out of true": dual_fisheye(240, 480, 195, 180, 0.05),
    "fisheye": one_fisheye(250),
    "cube map": CubeCamera(240, 360, "3x2"),
    "cross": CubeCamera(240, 320, "cross_4x3"),
    "equi-angular cube, stretched": CubeCamera(216, 384, "3x2", FACES["youtube"], equiangular=True, may_stretch=True),
    "stereo top-bottom": stereo("top_bottom"),
    "stereo side by side": stereo("side_by_side"),
    "equirectangular": EquirectangularCamera(180, 360),
    "equirectangular, cropped": EquirectangularCamera(160, 320, 100, -40, 50, -20),
}


@lru_cache(maxsize=1)
def dense_directions(count: int = 1 << 18) -> Floats:
    """Directions on a spiral of Fibonacci, each the centre of the same solid angle: (count, 3)."""
    index = np.arange(count) + 0.5
    z = 1 - 2 * index / count
    azimuth = math.pi * (1 + math.sqrt(5)) * index
    return np.stack([np.sqrt(1 - z * z) * np.cos(azimuth), np.sqrt(1 - z * z) * np.sin(azimuth), z], axis=-1)


def scene(height: int = 64) -> Density:
    """A smooth map with structure in every direction, from 0.2 to 4 times uniform."""
    x, y, z = np.moveaxis(sphere.erp_directions(height, 2 * height), -1, 0)
    density: Density = np.exp(0.6 * np.sin(3 * x + y) + 0.5 * y * z + 0.7 * np.cos(4 * z)).astype(np.float32)
    return density


def seen(camera: Camera, density: Density) -> Density:
    """The map where the camera sees something, as a density; 0 elsewhere."""
    height, width = density.shape
    weight = camera.project(sphere.erp_directions(height, width)).weights.sum(axis=0)
    values = density * weight
    return normalised(values)


def at_dense_directions(density: Density) -> Floats:
    """The map at the dense directions, bilinearly: (count,)."""
    maps = sampling_maps(dense_directions().reshape(512, -1, 3), *density.shape)
    return remap_sphere(density, maps).ravel().astype(np.float64)


@cache
def places(camera: Camera) -> list[tuple[Floats, Floats, Floats]]:
    """Pixel coordinates that show the dense directions, and how gaze is shared between them; both eyes get the same."""
    found = list(zip(*camera.project(dense_directions()), strict=True))
    if isinstance(camera, StereoCamera):
        shift = np.array([camera.height - camera.eye.height, camera.width - camera.eye.width])
        # the camera was made for the right eye, whose picture is the second one
        return [(x - k * shift[1], y - k * shift[0], weight / 2) for x, y, weight in found for k in (0, 1)]
    return found


def sums(camera: Camera, values: Floats, rows: int, columns: int, tile_px: float = 0) -> Floats:
    """Values of the dense directions times their solid angle, summed over the tiles that show them."""
    total = np.zeros(rows * columns)
    for x, y, weight in places(camera):  # type: ignore[arg-type]  # every model is hashable
        down, right = tile_px or camera.height / rows, tile_px or camera.width / columns
        row, column = np.clip((y + 0.5) // down, 0, rows - 1), np.clip((x + 0.5) // right, 0, columns - 1)
        total += np.bincount((row * columns + column).astype(int), weight * values, len(total))
    return total.reshape(rows, columns) * (WHOLE_SR / len(values))


@pytest.mark.parametrize("name", CAMERAS)
def test_a_tile_covers_the_solid_angle_of_the_directions_that_it_shows(name: str) -> None:
    camera = CAMERAS[name]
    grid = SourceLayout(camera).tiles(camera.height, camera.width, 20)
    expected = sums(camera, np.ones(len(dense_directions())), *grid.shape, 20)
    assert grid.solid_angle_sr.sum() == pytest.approx(expected.sum(), rel=1e-3)
    # hundreds of dense directions lie in a tile: their number is exact to the square root of those on its border
    assert np.abs(grid.solid_angle_sr - expected).max() < 0.03 * expected.max()
    assert np.abs(grid.solid_angle_sr - expected).mean() < 0.005 * expected.max()
    assert np.all(grid.solid_angle_sr[expected == 0] < 1e-3 * expected.max())


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [*((name, 4, 8) for name in CAMERAS), ("dual fisheye", 1, 1), ("cross", 3, 5), ("fisheye", 25, 25)],
)
def test_tile_weights_are_the_gaze_at_the_directions_that_each_tile_shows(name: str, rows: int, columns: int) -> None:
    camera = CAMERAS[name]
    density = seen(camera, scene())
    expected = sums(camera, at_dense_directions(density), rows, columns)
    weights = tile_weights(density, rows, columns, SourceLayout(camera))
    assert weights.shape == (rows, columns)
    assert weights.sum() == pytest.approx(1)
    assert np.abs(weights - expected / expected.sum()).max() < 0.02 * weights.max()


@pytest.mark.parametrize("name", CAMERAS)
def test_a_pixel_of_the_map_is_the_density_of_its_direction(name: str) -> None:
    camera = CAMERAS[name]
    density = scene()
    values = SourceLayout(camera).map(density)
    rows, columns = values.shape
    assert values.dtype == np.float32
    x = (np.arange(columns) + 0.5) * camera.width / columns - 0.5
    y = (np.arange(rows) + 0.5) * camera.height / rows - 0.5
    directions, has_picture = camera.unproject(*np.meshgrid(x, y))
    u, v = sphere.vector_to_pixel(directions, *density.shape)
    expected = remap_sphere(density, ((u + 1).astype(np.float32), (v + 1).astype(np.float32)))
    inside = has_picture & (np.abs(values) > 0)
    assert inside.sum() >= has_picture.sum() * 0.99
    difference = np.abs(values - expected)[inside]
    assert np.quantile(difference, 0.95) < 0.02
    assert difference.max() < 0.25  # at the border a pixel is only partly picture


@pytest.mark.parametrize("name", CAMERAS)
def test_a_map_in_the_cameras_layout_is_turned_back(name: str) -> None:
    camera = CAMERAS[name]
    layout, density = SourceLayout(camera), scene()
    found = layout.equirectangular(layout.map(density))
    height, width = found.shape
    assert (found.dtype, width) == (np.float32, 2 * height)
    weights = camera.project(sphere.erp_directions(height, width)).weights.sum(axis=0)
    expected = cv2.resize(density, (width, height), interpolation=cv2.INTER_AREA)
    assert np.quantile(np.abs(found - expected)[weights > 0.99], 0.95) < 0.1 * float(density.max())
    blind = cv2.erode((weights == 0).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert not found[blind].any()


@pytest.mark.parametrize(("size", "expected"), [((240, 480), (64, 128)), ((480, 480), (91, 91)), ((40, 80), (40, 80))])
def test_the_map_keeps_its_number_of_pixels_and_takes_the_pictures_shape(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    layout = SourceLayout(dual_fisheye(*size))
    assert layout.map_size(64, 128) == expected
    assert layout.map(scene()).shape == expected


@pytest.mark.parametrize(
    ("name", "weigh_projection"), [*((name, True) for name in CAMERAS), ("dual fisheye", False), ("fisheye", False)]
)
def test_offsets_follow_the_gaze_per_pixel_of_each_block(name: str, weigh_projection: bool) -> None:
    camera = CAMERAS[name]
    density = seen(camera, scene())
    settings_ = QpOffsetSettings(strength=1, max_offset=25, weigh_projection=weigh_projection)
    output = QpOffset(camera.height, camera.width, settings_, SourceLayout(camera))
    offsets = output.update(density)
    rows, columns = offsets.shape
    gaze = sums(camera, at_dense_directions(density), rows, columns, 16)
    solid = sums(camera, np.ones(len(dense_directions())), rows, columns, 16)
    x, y = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    _, has_picture = camera.unproject(x.astype(np.float64), y.astype(np.float64))
    pixels = np.add.reduceat(
        np.add.reduceat(has_picture.astype(float), np.arange(0, camera.height, 16), 0),
        np.arange(0, camera.width, 16),
        1,
    )
    well = (pixels > 100) & (solid > 0.2 * solid.max())
    value = gaze[well] / (pixels if weigh_projection else solid)[well]
    constant = offsets[well] + 3 * np.log2(value)
    assert np.ptp(constant) < 1.6  # rounding, and the oracle's own errors
    assert np.all(offsets[pixels == 0] == 25)
    mean = float((offsets * output.grid.solid_angle_sr).sum() / output.grid.solid_angle_sr.sum())
    assert abs(mean) < 0.05


def test_rates_follow_the_density_and_are_coarsest_where_there_is_no_picture() -> None:
    camera = one_fisheye(256)
    density = seen(camera, scene())
    layout = SourceLayout(camera)
    for coarsest, byte in (("2x2", RATE_2X2), ("4x4", RATE_4X4)):
        settings_ = ShadingRateSettings(limit=coarsest, full_rate_density=1, half_rate_density=0)
        rates = ShadingRate(256, 256, settings_, layout)
        found = rates.update(density)
        average = rates.grid.average(density)
        shows_nothing = rates.grid.picture_pixels == 0
        assert 8 < shows_nothing.sum() < 60
        assert np.all(found[shows_nothing] == byte)
        assert np.array_equal(found == RATE_1X1, average >= 1)
        assert np.all(found[~shows_nothing & (average < 1)] == RATE_2X2)


@pytest.mark.parametrize("values", [{"full_rate_density": 0.0}, {"full_rate_share": 1.0}])
def test_a_tile_without_a_picture_is_never_fine(values: dict[str, float]) -> None:
    camera = one_fisheye(256)
    settings_ = ShadingRateSettings(limit="4x4", **values)  # type: ignore[arg-type]
    rates = ShadingRate(256, 256, settings_, SourceLayout(camera))
    shows_nothing = rates.grid.picture_pixels == 0
    for _ in range(2):  # the second time with hysteresis
        found = rates.update(seen(camera, scene()))
        assert np.array_equal(found == RATE_1X1, ~shows_nothing)
        assert np.all(found[shows_nothing] == RATE_4X4)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(20, 60),
    st.integers(20, 60),
    st.floats(183, 230),
    st.floats(1, 180),
    st.floats(-0.02, 0.02),
    st.sampled_from([8, 16, 32]),
    st.floats(0, 100),
)
def test_two_lenses_cover_the_sphere_once(
    half_height: int, half_width: int, fov_deg: float, blend_deg: float, tilt: float, tile_px: int, level: float
) -> None:
    camera = dual_fisheye(2 * half_height, 4 * half_width, fov_deg, blend_deg, tilt)
    grid = CameraTiles(camera, camera.height, camera.width, tile_px)
    assert grid.pixels.sum() == camera.height * camera.width
    assert np.all(grid.picture_pixels <= grid.pixels)
    assert grid.solid_angle_sr.sum() == pytest.approx(WHOLE_SR, rel=5e-3)
    average = grid.average(np.full((20, 40), level, np.float32))
    assert np.allclose(average[grid.picture_pixels > 0], level, rtol=1e-5)
    assert not average[grid.picture_pixels == 0].any()


def test_a_direction_in_the_overlap_is_shared_by_its_weights_in_the_blend() -> None:
    camera = dual_fisheye(240, 480, 220)
    density = np.zeros((90, 180), np.float32)
    density[45, 42] = 1  # 5° in front of the seam between the lenses
    direction = sphere.pixel_to_vector(42, 45, 90, 180)
    share = camera.project(direction).weights
    assert np.all(share > 0.2)
    halves = tile_weights(density, 1, 2, SourceLayout(camera))[0]
    assert halves == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("packing", ["top_bottom", "side_by_side"])
def test_both_eyes_get_the_same(packing: str) -> None:
    camera = stereo(packing)
    axis = 0 if packing == "top_bottom" else 1
    layout, density = SourceLayout(camera), seen(camera, scene())
    tile_px = 16 if axis == 0 else 20
    for first, second in (
        np.split(layout.map(density), 2, axis),
        np.split(tile_weights(density, 4, 4, layout), 2, axis),
        np.split(layout.tiles(camera.height, camera.width, tile_px).solid_angle_sr, 2, axis),
    ):
        assert first.any()
        assert np.allclose(first, second, rtol=1e-5, atol=1e-9)


def test_an_equirectangular_camera_gives_what_its_layout_gives() -> None:
    density = scene()
    camera = EquirectangularCamera(320, 640)
    layout = SourceLayout(camera)
    grid, expected = layout.tiles(320, 640, 16), ErpTiles(320, 640, 16)
    assert layout.map_size(96, 192) == (96, 192)
    assert np.allclose(grid.solid_angle_sr, expected.solid_angle_sr, rtol=2e-3)
    assert np.allclose(grid.average(density), expected.average(density), atol=0.02)
    offsets, plain = QpOffset(320, 640, layout=layout).update(density), QpOffset(320, 640).update(density)
    assert np.abs(offsets.astype(int) - plain).max() <= 1
    assert np.mean(offsets != plain) < 0.05
    assert np.allclose(tile_weights(density, 4, 8, layout), tile_weights(density, 4, 8), atol=1e-3)


def test_a_scaled_picture_has_the_same_tiles_as_a_camera_of_that_size() -> None:
    density = scene()
    small, large = dual_fisheye(240, 480), dual_fisheye(480, 960)
    scaled = SourceLayout(small).tiles(480, 960, 32)
    own = SourceLayout(small).tiles(240, 480, 16)
    assert scaled.pixels.sum() == 480 * 960
    assert np.allclose(scaled.average(density), own.average(density))
    assert np.allclose(scaled.solid_angle_sr, own.solid_angle_sr)
    assert SourceLayout(large).tiles(480, 960, 32).shape == scaled.shape


def test_tables_follow_the_maps_size() -> None:
    grid: TileGrid = SourceLayout(CAMERAS["dual fisheye"]).tiles(240, 480, 16)
    for size in ((20, 40), (400, 800), (20, 40)):
        assert np.allclose(grid.average(np.full(size, 3, np.float32))[4:10, 4:10], 3, atol=1e-5)


def test_a_single_bright_pixel_is_never_passed_over() -> None:
    density = np.zeros((400, 800), np.float32)
    density[187, 611] = 1
    assert SourceLayout(CAMERAS["dual fisheye"]).tiles(240, 480, 32).average(density).max() > 0


@pytest.mark.parametrize("size", [(320, 640), (322, 641)])
def test_outputs_are_equirectangular_unless_told_otherwise(size: tuple[int, int]) -> None:
    density = scene()
    assert isinstance(QpOffset(*size).grid, ErpTiles)
    assert isinstance(ShadingRate(*size).grid, ErpTiles)
    assert np.array_equal(QpOffset(*size).update(density), QpOffset(*size, layout=EQUIRECTANGULAR).update(density))
    assert np.array_equal(tile_weights(density, 4, 8), tile_weights(density, 4, 8, EQUIRECTANGULAR))


def test_a_picture_that_is_scaled_keeps_the_shape_of_the_cameras() -> None:
    assert EQUIRECTANGULAR.width_of(480) == 960
    assert SourceLayout(CAMERAS["cube map"]).width_of(480) == 720
    assert SourceLayout(one_fisheye(250)).width_of(1) == 1


def test_the_equirectangular_map_is_the_map_itself() -> None:
    density = scene()
    assert EQUIRECTANGULAR.map(density) is density


def test_a_rendered_cube_map_contradicts_the_cameras_layout() -> None:
    with pytest.raises(ParameterError, match=r"^projection is 'cubemap'.*; set projection to erp"):
        ShadingRate(256, 256, ShadingRateSettings(projection="cubemap"), SourceLayout(one_fisheye(256)))
