"""Equirectangular, cube and stereo frames against slow oracles, and directions there and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sal360 import sphere
from sal360.cameras.cubemap import FACES, LAYOUTS, CubeCamera, Faces
from sal360.cameras.equirectangular import EquirectangularCamera, GPano, check_frame, read_gpano
from sal360.cameras.settings import parse_faces
from sal360.cameras.stereo import StereoCamera
from sal360.errors import FrameError, ParameterError

seeds = st.integers(0, 2**32 - 1)
turns = st.lists(st.sampled_from("0123"), min_size=6, max_size=6).map("".join)
orders = st.permutations("fblrud").map("".join)


def directions(seed: int, count: int = 200) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((count, 3))
    return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)


def returned(camera, drawn: np.ndarray) -> np.ndarray:
    """Angles between directions and what their places see, of those that are seen."""
    x, y, weights = camera.project(drawn)
    assert np.isfinite(x).all()
    assert np.isfinite(y).all()
    back, has_picture = camera.unproject(x[0], y[0])
    seen = weights[0] > 0
    assert has_picture[seen].all()
    return sphere.angular_distance(back, drawn)[seen]


@given(seeds)
def test_a_whole_equirectangular_frame_has_the_spheres_pixels(seed) -> None:
    drawn = directions(seed)
    x, y, weights = EquirectangularCamera(50, 100).project(drawn)
    u, v = sphere.vector_to_pixel(drawn, 50, 100)
    assert np.allclose(x[0], u, atol=1e-9)
    assert np.allclose(y[0], v, atol=1e-9)
    assert (weights == 1).all()


@given(st.floats(-180, 360), st.floats(1, 360), st.floats(-89, 90), st.floats(1, 100), seeds)
def test_a_crop_agrees_with_the_slow_formula(left_deg, across_deg, top_deg, down_deg, seed) -> None:
    bottom_deg = max(-90.0, top_deg - down_deg)
    camera = EquirectangularCamera(70, 90, left_deg, left_deg - across_deg, top_deg, bottom_deg)
    drawn = directions(seed)
    assert returned(camera, drawn).max(initial=0) < 1e-6
    x, y, weights = camera.project(drawn)
    for index, direction in enumerate(drawn):
        azimuth, elevation = (math.degrees(each) for each in sphere.vector_to_angles(direction))
        across = (left_deg - azimuth) % 360
        assert (weights[0, index] > 0) == (
            across < left_deg - (left_deg - across_deg) and bottom_deg < elevation <= top_deg
        )
        if weights[0, index]:
            assert x[0, index] == pytest.approx(across / across_deg * 90 - 0.5, abs=1e-6)
            assert y[0, index] == pytest.approx((top_deg - elevation) / (top_deg - bottom_deg) * 70 - 0.5, abs=1e-6)


def slow_face(letter: str, turn: int, direction: np.ndarray) -> tuple[float, float] | None:
    """Where a face seen from inside shows a direction: fractions from left to right and from top to bottom."""
    looking = {"f": (0, 0), "l": (90, 0), "b": (180, 0), "r": (-90, 0), "u": (0, -90), "d": (0, 90)}
    yaw, pitch = (math.radians(each) for each in looking[letter])
    forward, left, up = sphere.rotation_yaw_pitch_roll(yaw, pitch).T @ direction
    if forward < max(abs(left), abs(up)) - 1e-12:
        return None
    across, down = -left / forward, -up / forward
    for _ in range(turn):  # clockwise: what was at the right comes to the bottom
        across, down = -down, across
    return (across + 1) / 2, (down + 1) / 2


@settings(max_examples=40)
@given(st.sampled_from(["3x2", "6x1", "1x6"]), orders, turns, seeds)
def test_a_cube_agrees_with_the_slow_formula(layout, order, turned, seed) -> None:
    rows, columns = LAYOUTS[layout]
    camera = CubeCamera(rows * 40, columns * 40, layout, Faces(order, turned))
    drawn = directions(seed, 40)
    assert returned(camera, drawn).max() < 1e-6
    x, y, _ = camera.project(drawn)
    for index, direction in enumerate(drawn):
        places = [slow_face(letter, int(turn), direction) for letter, turn in zip(order, turned, strict=True)]
        stored = next(each for each, place in enumerate(places) if place is not None)
        row, column = divmod(stored, columns)
        across, down = places[stored]
        assert x[0, index] == pytest.approx((column + across) * 40 - 0.5, abs=1e-4)
        assert y[0, index] == pytest.approx((row + down) * 40 - 0.5, abs=1e-4)


@settings(max_examples=20)
@given(st.sampled_from(list(LAYOUTS)), st.sampled_from(list(FACES)), st.booleans(), seeds)
def test_directions_return_from_every_cube(layout, faces, equiangular, seed) -> None:
    rows, columns = LAYOUTS[layout]
    camera = CubeCamera(rows * 30, columns * 30, layout, FACES[faces], equiangular=equiangular)
    assert returned(camera, directions(seed)).max() < 1e-6
    assert returned(camera, np.concatenate([np.eye(3), -np.eye(3)])).max() < 1e-6


@pytest.mark.parametrize(("layout", "faces"), [("cross_4x3", "ffmpeg"), ("cross_3x4", "ffmpeg"), ("3x2", "youtube")])
def test_neighbours_in_an_unfolded_cube_are_neighbours_on_the_sphere(layout, faces) -> None:
    rows, columns = LAYOUTS[layout]
    size = 90
    camera = CubeCamera(rows * size, columns * size, layout, FACES[faces])
    joined = 0
    for row in range(rows):
        for column in range(columns - 1):
            x = np.array([column * size + size - 1.0, column * size + size])
            directions, known = camera.unproject(x, np.full(2, row * size + 31.0))
            if known.all():
                assert sphere.angular_distance(directions[0], directions[1]) < 2 * math.pi / 2 / size
                joined += 1
    assert joined >= 2
    if layout.startswith("cross"):
        for row in range(rows - 1):
            y = np.array([row * size + size - 1.0, row * size + size])
            directions, known = camera.unproject(np.full(2, size + 31.0), y)
            assert known.all()
            assert sphere.angular_distance(directions[0], directions[1]) < 2 * math.pi / 2 / size


def test_the_corners_of_a_cross_have_no_picture() -> None:
    camera = CubeCamera(90, 120, "cross_4x3")
    _, known = camera.unproject(*np.meshgrid(np.arange(120.0), np.arange(90.0)))
    assert known.sum() == 6 * 30 * 30


def test_opengl_faces_are_those_of_its_specification() -> None:
    """OpenGL 4.6, table 8.19: the axes sc and tc of each face, in x right, y up, and −z forward."""
    table = {  # face: major axis, sc, tc
        0: ((1, 0, 0), (0, 0, -1), (0, -1, 0)),
        1: ((-1, 0, 0), (0, 0, 1), (0, -1, 0)),
        2: ((0, 1, 0), (1, 0, 0), (0, 0, 1)),
        3: ((0, -1, 0), (1, 0, 0), (0, 0, -1)),
        4: ((0, 0, 1), (1, 0, 0), (0, -1, 0)),
        5: ((0, 0, -1), (-1, 0, 0), (0, -1, 0)),
    }
    camera = CubeCamera(40, 240, "6x1", FACES["opengl"])
    for face, (major, sc, tc) in table.items():
        gl = np.array(major) + 0.5 * np.array(sc) + 0.25 * np.array(tc)
        x, y, _ = camera.project(np.array([-gl[2], -gl[0], gl[1]]) / np.linalg.norm(gl))
        assert x[0] == pytest.approx(40 * face + 20 * 1.5 - 0.5)
        assert y[0] == pytest.approx(20 * 1.25 - 0.5)


def test_equi_angular_faces_have_even_angles() -> None:
    camera = CubeCamera(60, 90, equiangular=True)
    directions, _ = camera.unproject(np.arange(30.0), np.full(30, 14.5))
    steps = sphere.angular_distance(directions[1:], directions[:-1])
    assert np.allclose(steps, math.pi / 2 / 30)


@settings(max_examples=20)
@given(st.sampled_from(["top_bottom", "side_by_side"]), st.sampled_from(["left", "right"]), st.booleans(), seeds)
def test_an_eye_of_a_stereo_frame_is_its_half(packing, eye, is_cube, seed) -> None:
    def model(height: int, width: int):
        return CubeCamera(height, width) if is_cube else EquirectangularCamera(height, width)

    height, width = (120, 90) if packing == "top_bottom" else (60, 180)
    camera = StereoCamera(height, width, packing, eye, model)
    drawn = directions(seed)
    assert returned(camera, drawn).max() < 1e-6
    x, y, _ = camera.project(drawn)
    alone = model(60, 90).project(drawn)
    shift = eye == "right"
    assert np.allclose(x, alone.x + 90 * shift * (packing == "side_by_side"))
    assert np.allclose(y, alone.y + 60 * shift * (packing == "top_bottom"))


def test_both_eyes_pixels_see_directions() -> None:
    camera = StereoCamera(120, 100, "top_bottom", "left", EquirectangularCamera)
    first, known = camera.unproject(np.array([7.0, 7.0]), np.array([11.0, 71.0]))
    assert known.all()
    assert np.allclose(first[0], first[1])
    _, known = camera.unproject(np.array([7.0, 7.0, -1.0]), np.array([-1.0, 120.0, 60.0]))
    assert not known.any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CubeCamera(60, 100), "whose faces in the layout 3x2 would be 33.3333 x 30"),
        (lambda: CubeCamera(60, 120), "would be 40 x 30; expected square faces, a size of 3:2"),
        (lambda: CubeCamera(61, 90), "would be 30 x 30.5"),
        (lambda: CubeCamera(0, 0), "would be 0 x 0"),
        (lambda: CubeCamera(60, 90, "2x3"), "the layout is '2x3'; choose one of 3x2"),
        (lambda: StereoCamera(101, 100, "top_bottom", "left", EquirectangularCamera), "its height cannot be halved"),
        (lambda: StereoCamera(100, 101, "side_by_side", "left", EquirectangularCamera), "its width cannot be halved"),
        (lambda: StereoCamera(100, 100, "left_right", "left", EquirectangularCamera), "stereo is 'left_right'; choose"),
        (lambda: EquirectangularCamera(10, 20, 10, 10), "set left_deg above right_deg"),
        (lambda: EquirectangularCamera(10, 20, 200, -180), "by at most 360"),
        (lambda: EquirectangularCamera(10, 20, 180, -180, -10, 10), "set top_deg above bottom_deg"),
        (lambda: parse_faces("rludff"), "faces is 'rludff'; choose one of ffmpeg, unity"),
        (lambda: parse_faces("rludfb:0004"), "faces is 'rludfb:0004'"),
    ],
)
def test_impossible_frames_and_settings_are_refused(make, message) -> None:
    with pytest.raises((FrameError, ParameterError)) as error:
        make()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


XMP = """<x:xmpmeta><rdf:Description GPano:ProjectionType="equirectangular"
 GPano:CroppedAreaImageWidthPixels="1000" GPano:CroppedAreaImageHeightPixels="250"
 GPano:FullPanoWidthPixels="2000" GPano:FullPanoHeightPixels="1000"
 GPano:CroppedAreaLeftPixels="250" GPano:CroppedAreaTopPixels="300"/>"""


def test_gpano_metadata_give_the_crop() -> None:
    gpano = read_gpano(b"\xff\xd8\xff\xe1" + XMP.encode())
    assert gpano == GPano(2000, 1000, 250, 300, 1000, 250)
    as_elements = XMP.replace('="', ">").replace('"', "<")
    assert read_gpano(as_elements.encode()) == gpano
    camera = gpano.camera(125, 500)
    directions, known = camera.unproject(np.array([0.0, 499.0]), np.array([0.0, 124.0]))
    expected = sphere.pixel_to_vector(np.array([125.0, 624.0]), np.array([150.0, 274.0]), 500, 1000)
    assert known.all()
    assert np.allclose(directions, expected)


def test_pictures_without_a_crop_have_no_gpano() -> None:
    assert read_gpano(b"\xff\xd8\xff") is None
    assert read_gpano(XMP.replace("CroppedAreaTopPixels", "Other").encode()) is None


@pytest.mark.parametrize(
    ("gpano", "message"),
    [
        (GPano(2000, 1000, 1500, 0, 1000, 500), "crop 1000 x 500 at (1500, 0) from a panorama of 2000 x 1000"),
        (GPano(0, 0, 0, 0, 0, 0), "crop 0 x 0"),
        (GPano(2000, 1000, 0, 0, 2000, 500), "its GPano metadata are those of 2000 x 500"),
    ],
)
def test_gpano_metadata_that_do_not_fit_are_refused(gpano, message) -> None:
    with pytest.raises(FrameError) as error:
        gpano.camera(500, 1000)
    assert message in str(error.value)
    assert error.value.reason == "camera_mismatch"


@pytest.mark.parametrize(
    ("height", "width", "likely"),
    [
        (1920, 1920, "stereo top-bottom (stereo: top_bottom) or one fisheye"),
        (1280, 1920, "a cube map or an equi-angular cube (model: cubemap or eac)"),
        (960, 3840, "stereo side by side"),
        (1080, 1920, "YouTube (model: eac)"),
        (480, 2880, "a cube map in one row"),
        (1440, 1920, "cross"),
    ],
)
def test_a_refused_size_says_what_it_looks_like(height, width, likely) -> None:
    with pytest.raises(FrameError) as error:
        check_frame(height, width)
    assert likely in str(error.value)
    assert error.value.reason == "not_2_to_1"
