"""Frames of every kind, rendered exactly from panoramas, look like those panoramas after the lookup, without seams."""

from __future__ import annotations

import gc
import math
from functools import cache
from typing import Any

import cv2
import numpy as np
import pytest

from sal360 import sphere
from sal360.cameras import CameraSettings, open_camera
from sal360.cameras.camera import Camera
from sal360.cameras.decoded import camera_of_decoded, rows_to_decode
from sal360.cameras.equirectangular import EquirectangularCamera
from sal360.cameras.fisheye import FisheyeCamera, Lens
from sal360.cameras.lookup import Lookup, _grid_places, equirectangular_view, lookup_for, pixels_per_rad, resize_frame
from sal360.cameras.settings import InfoWindow, camera_from_info
from sal360.errors import FrameError
from sal360.images import decode_compressed, read_picture
from sal360.predictor import Predictor
from sal360.projection import rotate_erp, rotation_maps, sample_erp
from sal360.samples import bundled_panoramas

HEIGHT, WIDTH = 192, 384
TILT = sphere.rotation_yaw_pitch_roll(0.4, 0.5, -0.3)


@cache
def panorama(name: str = "city") -> np.ndarray:
    picture = read_picture(bundled_panoramas() / f"{name}.jpg")
    return cv2.resize(picture, (1600, 800), interpolation=cv2.INTER_AREA)


def rendered(camera: Camera, picture: np.ndarray, samples: int = 2) -> np.ndarray:
    """The frame of a camera inside a panorama: the mean of `samples` squared places in each pixel; black elsewhere."""
    offsets = (np.arange(samples) + 0.5) / samples - 0.5
    total = np.zeros((camera.height, camera.width, 3))
    for dy in offsets:
        for dx in offsets:
            x, y = np.meshgrid(np.arange(camera.width) + dx, np.arange(camera.height) + dy)
            directions, known = camera.unproject(x, y)
            total += sample_erp(picture, directions) * known[..., None]
    return np.rint(total / samples**2).astype(np.uint8)


def fisheyes(fov_deg: float, *, blend_deg: float = 180.0) -> FisheyeCamera:
    """Two lenses that do not look exactly to the front and back, in a frame of 960 x 480."""
    turned = sphere.rotation_yaw_pitch_roll(math.radians(181), math.radians(1), math.radians(88))
    lenses = [
        Lens.with_radius(238.3, 241.0, 230.0, fov_deg, "equisolid"),
        Lens.with_radius(721.0, 238.5, 228.0, fov_deg, "equidistant", (), turned),
    ]
    return FisheyeCamera(480, 960, lenses, blend_deg)


def opened(height: int, width: int, **settings) -> Camera:
    return open_camera(CameraSettings(**settings), height, width)


WHOLE = {
    "equirectangular": lambda: EquirectangularCamera(500, 1000, 230, -130),
    "a few per cent off": lambda: opened(482, 960),
    "dual fisheye": lambda: fisheyes(200),
    "dual fisheye, narrow blend": lambda: fisheyes(200, blend_deg=3),
    "dual fisheye without overlap": lambda: opened(480, 960, model="dual_fisheye", fov_deg=180.0),
    "stacked fisheyes": lambda: opened(960, 480, model="dual_fisheye", layout="stacked", fov_deg=210.0),
    "stereographic": lambda: opened(500, 1000, model="dual_fisheye", lens_projection="stereographic"),
    "cube 3x2": lambda: opened(606, 909, model="cubemap", faces="opengl"),
    "cube 6x1": lambda: opened(250, 1500, model="cubemap", faces="unity"),
    "cube 1x6": lambda: opened(1500, 250, model="cubemap", faces="bfudlr:012301"),
    "cross": lambda: opened(750, 1000, model="cubemap"),
    "upright cross": lambda: opened(1000, 750, model="cubemap"),
    "eac": lambda: opened(600, 900, model="eac"),
    "eac of 16:9": lambda: opened(540, 960, model="eac"),
    "eac with borders inside pixels": lambda: opened(720, 1280, model="eac"),
    "stereo": lambda: opened(960, 960, stereo="top_bottom", eye="right"),
    "stereo cube": lambda: opened(400, 1200, model="cubemap", stereo="side_by_side"),
    "stereo fisheye": lambda: opened(960, 960, model="dual_fisheye", stereo="top_bottom", fov_deg=200.0),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("rotation", [None, TILT], ids=["upright", "turned"])
def test_a_frame_looks_like_its_panorama(name, rotation) -> None:
    camera = WHOLE[name]()
    picture = panorama()
    frame = rendered(camera, picture)
    seen = Lookup(camera, HEIGHT, WIDTH, rotation)
    found = seen(frame)
    expected = resize_frame(picture if rotation is None else rotate_erp(picture, rotation), HEIGHT, WIDTH)
    assert found.shape == (HEIGHT, WIDTH, 3)
    assert (seen.seen > 0.99).all()
    weights = np.broadcast_to(sphere.solid_angles(HEIGHT, WIDTH), (HEIGHT, WIDTH))
    difference = np.abs(found.astype(float) - expected).mean(axis=2)
    assert np.average(difference, weights=weights) < 3
    assert seam_contrast(camera, found, expected, rotation) < 1.15


def seam_contrast(camera: Camera, found: np.ndarray, expected: np.ndarray, rotation: np.ndarray | None) -> float:
    """Error of the gradients where neighbouring pixels come from different lenses or faces, relative to elsewhere."""
    directions = sphere.erp_directions(HEIGHT, WIDTH) @ (np.eye(3) if rotation is None else rotation)
    x, y, weights = camera.project(directions)
    place = np.stack([np.take_along_axis(each, weights.argmax(axis=0)[None], axis=0)[0] for each in (x, y)])
    jump = np.abs(np.diff(place, axis=2)).max(axis=0)
    interior = slice(HEIGHT // 6, -HEIGHT // 6)
    is_seam = (jump > 12 * np.median(jump)) & (np.abs(directions[..., 2]) < 0.9)[:, 1:]
    steps = [np.abs(np.diff(each.astype(float), axis=1)).mean(axis=2)[interior] for each in (found, expected)]
    seam = is_seam[interior]
    if seam.sum() < 20:
        return 0.0
    beside = cv2.dilate(seam.astype(np.uint8), np.ones((1, 9), np.uint8)).astype(bool) & ~cv2.dilate(
        seam.astype(np.uint8), np.ones((1, 3), np.uint8)
    ).astype(bool)
    of_found = steps[0][seam].mean() / steps[0][beside].mean()
    of_expected = steps[1][seam].mean() / steps[1][beside].mean()
    return of_found / of_expected


@pytest.fixture(scope="module")
def predictor():
    with Predictor(threads=1) as opened_predictor:
        yield opened_predictor


def correlation(first: np.ndarray, second: np.ndarray, valid: np.ndarray | None = None) -> float:
    weights = np.broadcast_to(sphere.solid_angles(*first.shape), first.shape) * (1 if valid is None else valid)
    first, second = (each - np.average(each, weights=weights) for each in (first, second))
    return float((weights * first * second).sum() / np.sqrt((weights * first**2).sum() * (weights * second**2).sum()))


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_the_map_of_a_frame_is_the_map_of_its_panorama(name, predictor) -> None:
    camera = WHOLE[name]()
    density = predictor.predict(rendered(camera, panorama()), "bgr", camera=camera)
    assert correlation(density, predictor.predict(panorama(), "bgr")) > 0.98
    assert sphere_mean(density) == pytest.approx(1, abs=1e-4)


def sphere_mean(density: np.ndarray) -> float:
    weights = np.broadcast_to(sphere.solid_angles(*density.shape), density.shape)
    return float(np.average(density, weights=weights))


@pytest.mark.slow
def test_a_levelled_camera_has_the_upright_map_turned(predictor) -> None:
    tilted = rotate_erp(panorama(), TILT.T)  # what an upright panorama looks like to a camera tilted by TILT
    density = predictor.predict(tilted, "bgr", rotation=TILT)
    expected = rotate_erp(predictor.predict(panorama(), "bgr"), TILT.T)
    assert correlation(density, expected) > 0.98
    assert sphere_mean(density) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    "camera",
    [
        opened(480, 640, model="fisheye", fov_deg=200.0),
        opened(300, 500, left_deg=90.0, right_deg=-60.0, top_deg=40.0, bottom_deg=-50.0),
    ],
    ids=["fisheye", "crop"],
)
def test_directions_without_a_picture_have_no_density(camera, predictor) -> None:
    density = predictor.predict(rendered(camera, panorama()), "bgr", camera=camera)
    directions = sphere.erp_directions(*density.shape)
    seen = camera.project(directions).weights.sum(axis=0)
    away = cv2.erode((seen == 0).astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    assert away.any()
    assert (density[away] == 0).all()
    assert (density[seen > 0] > 0).mean() > 0.98
    assert sphere_mean(density) == pytest.approx(1, abs=1e-4)


def test_nothing_from_beyond_a_lens_or_face_bleeds_in() -> None:
    """Frames with white faces on a black ground, and the reverse: the grid is as even as the faces."""
    for camera in (fisheyes(200), fisheyes(180), opened(303, 404, model="cubemap"), opened(451, 500, model="fisheye")):
        x, y = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
        near = [camera.unproject(x + dx, y + dy)[1] for dx in (-0.49, 0.49) for dy in (-0.49, 0.49)]
        known = np.all(near, axis=0)
        frame = np.repeat(np.where(known, 200, 0).astype(np.uint8)[..., None], 3, axis=2)
        for rotation in (None, TILT):
            lookup = Lookup(camera, 96, 192, rotation)
            grid = lookup(frame)
            assert grid[lookup.seen > 0.999].min() >= 199, (camera.height, rotation)


def test_colours_continue_where_there_is_no_picture_and_only_there() -> None:
    camera = opened(300, 500, left_deg=90.0, right_deg=-60.0, top_deg=40.0, bottom_deg=-50.0)
    lookup = Lookup(camera, 96, 192)
    seen = lookup.seen > 0.5
    even = np.full((300, 500, 3), (10, 120, 230), np.uint8)
    assert (np.abs(lookup(even).astype(int) - even[0, 0]) <= 1).all()
    assert (lookup(even, fill=False)[~seen] == 0).all()
    frame = rendered(camera, panorama(), 1)
    filled = lookup(frame)
    assert np.array_equal(filled[seen], lookup(frame, fill=False)[seen])
    assert filled[~seen].min() >= frame.min()
    assert filled[~seen].max() <= frame.max()
    assert lookup(even).dtype == np.uint8
    assert (equirectangular_view(camera, even) == 0).any()


SOME = {
    "single fisheye": lambda: opened(701, 640, model="fisheye", fov_deg=200.0),
    "crop": lambda: opened(301, 503, left_deg=110.0, right_deg=-70.0, top_deg=50.0, bottom_deg=-50.0),
    "whole panorama": lambda: opened(403, 800),
    "large fisheyes": lambda: opened(602, 1204, model="dual_fisheye", fov_deg=200.0, blend_deg=10.0),
}


@pytest.mark.parametrize("name", [*SOME, "dual fisheye without overlap", "eac of 16:9", "stereo cube"])
@pytest.mark.parametrize("rotation", [None, TILT], ids=["upright", "turned"])
def test_every_pixel_of_the_grid_comes_from_its_direction(name, rotation) -> None:
    """Frames whose colours are the directions that their pixels see."""
    camera = (WHOLE | SOME)[name]()
    frame_directions, known = camera.unproject(*np.meshgrid(np.arange(camera.width), np.arange(camera.height)))
    frame = np.rint(127.5 + 127.5 * frame_directions * known[..., None]).astype(np.uint8)
    lookup = Lookup(camera, HEIGHT, WIDTH, rotation)
    expected = 127.5 + 127.5 * sphere.erp_directions(HEIGHT, WIDTH) @ (np.eye(3) if rotation is None else rotation)
    difference = np.abs(lookup(frame, fill=False) - expected).max(axis=2)[lookup.seen > 0.999]
    assert difference.max() < 4, difference.max()  # a pixel of the grid is 2 levels wide
    assert difference.mean() < 1


@pytest.mark.parametrize(
    "name", ["equirectangular", "crop", "dual fisheye", "dual fisheye, narrow blend", "cube 3x2", "eac", "stereo"]
)
def test_interpolated_places_are_those_of_the_exact_table(name) -> None:
    reduced = Lookup((WHOLE | SOME)[name](), 384, 768, TILT)._reduced
    places, weights = _grid_places(reduced.find, reduced.pitch, 384, 768, TILT)
    exact, exact_weights = reduced.find(sphere.erp_directions(384, 768) @ TILT)
    # from one pixel of the grid to the next; much at jumps
    change = np.abs(np.gradient(exact, axis=1)) + np.abs(np.gradient(exact, axis=2))
    error, seen = np.abs(places - exact), (exact_weights > 0.1) & (weights > 0.1)
    assert (error <= 0.4 * np.maximum(change, 1))[seen].all()
    assert error[seen].mean() < 0.08
    assert (np.abs(weights - exact_weights) > 0.05).mean() < 1e-3  # corners of a crop may be missed


def test_a_levelled_density_returns_to_the_camera() -> None:
    density = np.random.default_rng(3).random((96, 192)).astype(np.float32)
    density = cv2.GaussianBlur(cv2.copyMakeBorder(density, 24, 24, 24, 24, cv2.BORDER_WRAP), (0, 0), 4)[24:-24, 24:-24]
    found = Lookup(opened(400, 800), 96, 192, TILT).to_camera(density)
    expected = rotate_erp(density, TILT.T)
    assert np.abs(found / found.mean() - expected / expected.mean()).max() < 0.01


def test_each_of_several_levelled_cameras_keeps_its_way_back(monkeypatch) -> None:
    made = []
    monkeypatch.setattr("sal360.cameras.lookup.rotation_maps", lambda *each: made.append(each) or rotation_maps(*each))
    lookups = [Lookup(opened(100, 200), 48, 96, TILT) for _ in range(3)]
    for lookup in lookups * 2:
        lookup.to_camera(np.ones((24, 48), np.float32))
    assert len(made) == 3


def test_a_small_part_of_the_sphere_is_seen_or_refused() -> None:
    frame = np.full((60, 60, 3), 200, np.uint8)
    lookup = Lookup(opened(60, 60, left_deg=3.0, right_deg=1.0, top_deg=3.0, bottom_deg=1.0), 192, 384)
    assert (lookup.seen > 0).sum() == 4
    assert (lookup(frame, fill=False)[lookup.seen > 0] == 200).all()
    for stereo in ("none", "side_by_side"):
        smaller = opened(60, 120, left_deg=0.3, right_deg=0.0, top_deg=0.3, bottom_deg=0.0, stereo=stereo)
        with pytest.raises(FrameError, match="shows no pixel of the sphere at 384 x 192; correct its angles"):
            Lookup(smaller, 192, 384)


def test_a_region_of_interest_beside_the_lens_is_refused() -> None:
    k = [100.0, 0.0, 319.5, 0.0, 100.0, 299.5, 0.0, 0.0, 1.0]
    camera = camera_from_info("equidistant", k, [0.0] * 4, 600, 640, 170.0, InfoWindow(0, 0, 40, 30))
    with pytest.raises(FrameError, match="the camera shows no pixel of the sphere") as error:
        Lookup(camera, 96, 192)
    assert error.value.reason == "camera_mismatch"


def test_stripes_of_squeezed_frames_are_averaged_along_both_axes() -> None:
    """Eyes of half the height: columns are twice as fine as rows."""
    camera = opened(640, 1280, stereo="top_bottom")  # 5 columns and 2.5 rows for each pixel of the grid
    frame = np.zeros((640, 1280, 3), np.uint8)
    frame[:, ::2] = 200
    assert np.abs(Lookup(camera, 128, 256)(frame).astype(int) - 100).max() <= 1


def test_a_plain_panorama_is_only_resized() -> None:
    frame = panorama()
    camera = opened(800, 1600)
    assert np.array_equal(Lookup(camera, HEIGHT, WIDTH)(frame), resize_frame(frame, HEIGHT, WIDTH))
    assert np.array_equal(equirectangular_view(camera, frame), frame)
    assert equirectangular_view(camera, frame, 640).shape == (320, 640, 3)


@pytest.mark.parametrize("name", ["dual fisheye", "cube 3x2", "equirectangular"])
def test_grey_read_only_and_strided_frames_are_looked_up_alike(name) -> None:
    camera = WHOLE[name]()
    frame = np.random.default_rng(2).integers(0, 256, (camera.height, camera.width, 3), np.uint8)
    lookup = Lookup(camera, 96, 192)
    expected = lookup(frame)
    wide = np.zeros((camera.height, camera.width + 5, 4), np.uint8)
    wide[:, 2:-3, :3] = frame
    wide.flags.writeable = False
    assert np.array_equal(lookup(wide[:, 2:-3, :3]), expected)
    grey = np.broadcast_to(frame[..., :1], frame.shape)
    assert np.array_equal(lookup(grey), lookup(np.ascontiguousarray(grey)))


@pytest.mark.parametrize(("size", "degrees", "width"), [((400, 800), 2, 1600), ((200, 400), 90, 800)])
def test_the_view_of_a_fine_crop_has_at_most_four_times_its_pixels(size: Any, degrees: float, width: int) -> None:
    camera = EquirectangularCamera(*size, degrees, -degrees, degrees / 2, -degrees / 2)
    view = equirectangular_view(camera, np.full((*size, 3), 200, np.uint8))
    assert view.shape == (width // 2, width, 3)
    middle = view[width // 4 - 2 : width // 4 + 2, width // 2 - 2 : width // 2 + 2]
    assert (middle == 200).all()


def test_a_view_that_is_computed_has_a_largest_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sal360.cameras.lookup.MAX_VIEW_WIDTH", 256)
    turned = EquirectangularCamera(200, 400, 170.0, -190.0)
    assert equirectangular_view(turned, np.zeros((200, 400, 3), np.uint8)).shape == (128, 256, 3)
    plain = EquirectangularCamera(200, 400)
    assert equirectangular_view(plain, np.zeros((200, 400, 3), np.uint8)).shape == (200, 400, 3)


def test_few_views_are_kept() -> None:
    frame = np.zeros((60, 120, 3), np.uint8)
    for degrees in (40, 50, 60, 70):
        equirectangular_view(EquirectangularCamera(60, 120, degrees, -degrees, 30, -30), frame)
    assert sum(isinstance(each, Lookup) and each.camera.height == 60 for each in gc.get_objects()) <= 2


def test_a_lookup_for_the_same_camera_and_rotation_is_kept() -> None:
    camera = fisheyes(200)
    assert lookup_for(camera, 96, 192, TILT) is lookup_for(camera, 96, 192, TILT.copy())
    assert lookup_for(camera, 96, 192, TILT) is not lookup_for(camera, 96, 192)


def test_a_frame_of_another_size_is_refused() -> None:
    with pytest.raises(FrameError, match="the frame is 100 x 50, and the camera's are 960 x 480") as error:
        Lookup(fisheyes(200), 96, 192)(np.zeros((50, 100, 3), np.uint8))
    assert error.value.reason == "camera_mismatch"


def test_resolution_is_measured_in_pixels_per_radian() -> None:
    assert pixels_per_rad(opened(480, 960, model="fisheye", fov_deg=180.0)) == pytest.approx(
        240 / (math.pi / 2) * math.sqrt(math.pi / 4 / math.sin(math.pi / 4)), rel=0.1
    )
    assert pixels_per_rad(EquirectangularCamera(300, 600)) == pytest.approx(600 / 2 / math.pi, rel=0.1)
    narrow = EquirectangularCamera(200, 400, 2, -2, 1, -1)
    assert pixels_per_rad(narrow) == pytest.approx(400 / math.radians(4), rel=0.01)


def test_jpegs_decoded_smaller_are_looked_up_alike() -> None:
    camera = opened(1600, 2400, model="cubemap")
    frame = rendered(camera, panorama(), 1)
    content = cv2.imencode(".jpg", frame)[1].tobytes()
    rows = rows_to_decode(camera, 384)
    assert rows == 200
    small, _ = decode_compressed(content, min_height=rows)
    assert small.shape == (200, 300, 3)
    decoded = camera_of_decoded(camera, *small.shape[:2])
    assert decoded is camera_of_decoded(camera, 200, 300)
    whole, reduced = Lookup(camera, HEIGHT, WIDTH)(frame), Lookup(decoded, HEIGHT, WIDTH)(small)
    assert np.abs(whole.astype(float) - reduced).mean() < 3
    assert camera_of_decoded(camera, 1600, 2400) is camera
    with pytest.raises(FrameError, match="the frame is 601 x 400, and the camera's are 2400 x 1600"):
        camera_of_decoded(camera, 400, 601)


def test_frames_are_decoded_in_full_where_faces_would_lose_pixels() -> None:
    assert rows_to_decode(opened(606 * 4, 909 * 4, model="cubemap"), 128) == 606
    assert rows_to_decode(opened(303 * 2, 303 * 3, model="cubemap"), 64) == 606
    assert rows_to_decode(fisheyes(200), 96) in (60, 120)
    assert rows_to_decode(opened(100, 200), 600) == 100
