"""Fisheye lenses against a slow oracle of one direction at a time, and directions there and back."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sal360 import sphere
from sal360.cameras.fisheye import FisheyeCamera, Lens
from sal360.cameras.settings import CameraSettings, open_camera
from sal360.errors import ParameterError

POLYNOMIAL = (0.02, -0.008, 0.002, -0.0002)
GROWTH = {
    "equidistant": lambda t: t,
    "equisolid": lambda t: 2 * math.sin(t / 2),
    "stereographic": lambda t: 2 * math.tan(t / 2),
    "kannala_brandt": lambda t: t + sum(k * t ** (2 * i + 3) for i, k in enumerate(POLYNOMIAL)),
}
projections = st.sampled_from(list(GROWTH))
angles = st.floats(-180, 180)
seeds = st.integers(0, 2**32 - 1)


def coefficients(projection: str) -> tuple[float, ...]:
    return POLYNOMIAL if projection == "kannala_brandt" else ()


def lens(
    projection: str, fov_deg: float, yaw_deg: float = 0, pitch_deg: float = 0, roll_deg: float = 0, x: float = 300
):
    rotation = sphere.rotation_yaw_pitch_roll(*(math.radians(each) for each in (yaw_deg, pitch_deg, roll_deg)))
    return Lens.with_radius(x, 290.0, 280.0, fov_deg, projection, coefficients(projection), rotation)


def directions(seed: int, count: int = 64) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((count, 3))
    return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)


@settings(max_examples=40)
@given(projections, st.floats(20, 230), angles, angles, angles, seeds)
def test_a_lens_agrees_with_the_slow_formula(projection, fov_deg, yaw_deg, pitch_deg, roll_deg, seed) -> None:
    one = lens(projection, fov_deg, yaw_deg, pitch_deg, roll_deg)
    camera = FisheyeCamera(600, 600, [one])
    x, y, weights = camera.project(directions(seed))
    focal = 280 / GROWTH[projection](math.radians(fov_deg / 2))
    for index, direction in enumerate(directions(seed)):
        forward, left, up = (float(one.rotation[:, axis] @ direction) for axis in range(3))
        theta = math.atan2(math.hypot(left, up), forward)
        assert weights[0, index] == (theta <= math.radians(fov_deg / 2))
        if weights[0, index]:
            reach, around = focal * GROWTH[projection](theta), math.atan2(up, left)
            assert x[0, index] == pytest.approx(300 - reach * math.cos(around), abs=1e-6)
            assert y[0, index] == pytest.approx(290 - reach * math.sin(around), abs=1e-6)


@settings(max_examples=40)
@given(projections, st.floats(181, 230), st.floats(-5, 5), angles, st.floats(0.1, 180), seeds)
def test_directions_return_from_the_frame(projection, fov_deg, pitch_deg, roll_deg, blend_deg, seed) -> None:
    lenses = [lens(projection, fov_deg), lens(projection, fov_deg, 180 + pitch_deg, pitch_deg, roll_deg, x=900)]
    camera = FisheyeCamera(600, 1200, lenses, blend_deg)
    drawn = directions(seed)
    x, y, weights = camera.project(drawn)
    assert np.allclose(weights.sum(axis=0), 1) or fov_deg < 180 + 2 * abs(pitch_deg) * math.sqrt(2)
    for view in range(2):
        back, has_picture = camera.unproject(x[view], y[view])
        seen = weights[view] > 0
        assert has_picture[seen].all()
        assert sphere.angular_distance(back, drawn)[seen].max(initial=0) < 1e-6


@given(st.floats(100, 200), seeds)
def test_kannala_brandt_is_opencvs_fisheye(fov_deg, seed) -> None:
    drawn = directions(seed)
    drawn = drawn[drawn[:, 0] > math.cos(math.radians(min(fov_deg / 2, 85)))]
    if not len(drawn):
        return
    optical = sphere.body_to_frame(drawn, "optical").reshape(-1, 1, 3)
    matrix = np.array([[210.0, 0, 311.5], [0, 195.0, 288.25], [0, 0, 1]])
    expected, _ = cv2.fisheye.projectPoints(optical, np.zeros(3), np.zeros(3), matrix, np.array(POLYNOMIAL))
    one = Lens(311.5, 288.25, 210.0, 195.0, fov_deg, "kannala_brandt", POLYNOMIAL)
    x, y, _ = one.project(drawn)
    assert np.allclose(np.stack([x, y], axis=-1), expected[:, 0], atol=1e-6)


@given(st.floats(182, 230), st.floats(0.2, 180), st.floats(-180, 180))
def test_blending_is_continuous_equal_in_the_middle_and_zero_at_the_edge(fov_deg, blend_deg, around_deg) -> None:
    camera = FisheyeCamera(
        600, 1200, [lens("equidistant", fov_deg), lens("equidistant", fov_deg, 180, x=900)], blend_deg
    )
    theta = np.radians(np.linspace(60, 120, 6001))
    around = math.radians(around_deg)
    arc = np.stack([np.cos(theta), np.sin(theta) * math.cos(around), np.sin(theta) * math.sin(around)], axis=-1)
    front = camera.project(arc).weights[0]
    assert np.allclose(front[3000], 0.5)
    overlap_deg = fov_deg - 180
    width_deg = min(overlap_deg, blend_deg)
    assert np.abs(np.diff(front)).max() < 2.1 * 0.01 / width_deg + 1e-9
    mixed = np.degrees(theta[(front > 0) & (front < 1)])
    assert mixed.min() > 90 - width_deg / 2 - 0.02
    assert mixed.max() < 90 + width_deg / 2 + 0.02


def test_a_lens_that_sees_a_cone_has_no_picture_behind() -> None:
    camera = FisheyeCamera(600, 600, [lens("equidistant", 180)])
    weights = camera.project(np.array([[1.0, 0, 0], [0.01, 0.99995, 0], [-0.01, 0.99995, 0], [-1, 0, 0]])).weights
    assert weights.tolist() == [[1, 1, 0, 0]]
    _, has_picture = camera.unproject(np.array([300.0, 300 + 279.9, 300 + 280.1]), np.full(3, 290.0))
    assert has_picture.tolist() == [True, True, False]


def test_a_pixel_in_two_circles_belongs_to_one_lens() -> None:
    camera = FisheyeCamera(600, 1000, [lens("equidistant", 200), lens("equidistant", 200, 180, x=700)])
    drawn = directions(3, 2000)
    x, y, weights = camera.project(drawn)
    for view in range(2):
        back, has_picture = camera.unproject(x[view], y[view])
        seen = weights[view] > 0
        assert has_picture[seen].all()
        assert sphere.angular_distance(back, drawn)[seen].max() < 1e-6


def test_single_precision_is_kept_and_close() -> None:
    camera = FisheyeCamera(600, 1200, [lens("kannala_brandt", 200), lens("equisolid", 200, 180, x=900)])
    drawn = directions(4)
    exact, fast = camera.project(drawn), camera.project(drawn.astype(np.float32))
    assert fast.x.dtype == fast.weights.dtype == np.float32
    assert np.allclose(exact.x, fast.x, atol=2e-3)
    assert np.allclose(exact.weights, fast.weights, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fov_deg": 231.0}, "fov_deg is 231"),
        ({"fov_deg": math.nan}, "fov_deg is nan"),
        ({"projection": "pinhole"}, "'pinhole'; choose one of equidistant"),
        ({"radius_px": 0.0}, "radius of a lens is 0"),
        ({"centre_x": math.inf}, "the lens's x is inf"),
        ({"coefficients": (0.1,)}, "remove them"),
        ({"projection": "kannala_brandt"}, "has 0 coefficients; set k1, k2, k3 and k4"),
        ({"projection": "kannala_brandt", "coefficients": (-0.5, 0, 0, 0)}, "stops growing before fov_deg = 190; set"),
        ({"projection": "kannala_brandt", "coefficients": (math.nan, 0, 0, 0)}, "k1 is nan"),
    ],
)
def test_an_impossible_lens_is_refused(changes, message) -> None:
    usual = {"centre_x": 300.0, "centre_y": 290.0, "radius_px": 280.0, "fov_deg": 190.0}
    with pytest.raises(ParameterError) as error:
        Lens.with_radius(**{**usual, **changes})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_lens_outside_the_frame_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"lens 2 has its centre at \(900, 290\), outside the frame of 800 x 600"):
        FisheyeCamera(600, 800, [lens("equidistant", 190), lens("equidistant", 190, 180, x=900)])


@pytest.mark.parametrize("fov_deg", [180, 195])
@pytest.mark.parametrize("front_lens", ["first", "second"])
def test_two_fisheyes_are_those_of_ffmpegs_v360_if_the_second_looks_forward(fov_deg, front_lens) -> None:
    """A panorama whose colours are its directions, through the filter: each pixel shows where the camera looks."""
    av = pytest.importorskip("av")
    colours = np.rint((sphere.erp_directions(256, 512) + 1) * 32767.5).astype(np.uint16)
    graph = pytest.importorskip("av.filter").Graph()
    options = f"input=e:output=dfisheye:h_fov={fov_deg}:v_fov={fov_deg}:w=256:h=128"
    parts = [
        graph.add_buffer(width=512, height=256, format="rgb48le", time_base=Fraction(1, 1)),
        graph.add("format", "gbrp16le"),
        graph.add("v360", options),
        graph.add("format", "rgb48le"),
        graph.add("buffersink"),
    ]
    for part, following in itertools.pairwise(parts):
        part.link_to(following)
    graph.configure()
    frame = av.VideoFrame.from_ndarray(colours, format="rgb48le")
    frame.pts, frame.time_base = 0, Fraction(1, 1)
    graph.push(frame)
    shown = graph.pull().to_ndarray() / 32767.5 - 1
    length = np.linalg.norm(shown, axis=-1)
    described = CameraSettings(model="dual_fisheye", fov_deg=float(fov_deg), front_lens=front_lens)
    camera = open_camera(described, 128, 256)
    columns, rows = np.meshgrid(np.arange(256.0), np.arange(128.0))
    expected, is_seen = camera.unproject(columns, rows)
    is_seen &= length > 0.9
    assert is_seen.mean() > 0.75
    turned = shown[is_seen] / length[is_seen, None]
    if front_lens == "first":
        turned = turned @ sphere.rotation_yaw_pitch_roll(yaw_rad=math.pi)
    apart_deg = np.degrees(sphere.angular_distance(turned, expected[is_seen]))
    assert np.percentile(apart_deg, 99) < 0.5  # a third of a pixel
