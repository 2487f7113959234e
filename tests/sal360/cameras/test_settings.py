"""Cameras from parameters, presets, calibration files and CameraInfo; contradictions are refused in one line."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sal360 import sphere
from sal360.cameras.cubemap import CubeCamera
from sal360.cameras.equirectangular import EquirectangularCamera
from sal360.cameras.fisheye import FisheyeCamera
from sal360.cameras.presets import PRESETS
from sal360.cameras.settings import (
    CameraSettings,
    InfoWindow,
    camera_from_info,
    check_camera,
    check_info_size,
    open_camera,
    read_calibration,
    write_calibration,
    yaw_pitch_roll,
)
from sal360.cameras.stereo import StereoCamera
from sal360.errors import FrameError, ParameterError

LENSES = """
model: dual_fisheye
width: 1200
height: 600
lenses:
- {x: 299.5, y: 301, radius: 290, fov_deg: 196, roll_deg: 90}
- {x: 899, y: 298.5, fx: 170, fy: 171, fov_deg: 200, projection: kannala_brandt, k: [0.01, 0, 0, 0], yaw_deg: 180}
"""


@pytest.fixture
def calibration(tmp_path):
    def write(text: str = LENSES) -> str:
        path = tmp_path / "lenses.yaml"
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize(
    ("changes", "height", "width", "kind"),
    [
        ({}, 960, 1920, EquirectangularCamera),
        ({}, 322, 640, EquirectangularCamera),
        ({"left_deg": 90.0, "right_deg": -90.0}, 500, 500, EquirectangularCamera),
        ({"stereo": "top_bottom"}, 1920, 1920, StereoCamera),
        ({"stereo": "top_bottom"}, 1920, 3840, StereoCamera),
        ({"stereo": "top_bottom"}, 2160, 3840, StereoCamera),
        ({"stereo": "side_by_side"}, 960, 3840, StereoCamera),
        ({"model": "fisheye"}, 900, 1600, FisheyeCamera),
        ({"model": "dual_fisheye"}, 960, 1920, FisheyeCamera),
        ({"model": "dual_fisheye", "layout": "stacked"}, 1920, 960, FisheyeCamera),
        ({"model": "cubemap"}, 40, 60, CubeCamera),
        ({"model": "cubemap"}, 20, 120, CubeCamera),
        ({"model": "cubemap"}, 120, 20, CubeCamera),
        ({"model": "cubemap", "faces": "opengl"}, 60, 80, CubeCamera),
        ({"model": "eac"}, 1280, 1920, CubeCamera),
        ({"model": "eac"}, 1080, 1920, CubeCamera),
        ({"model": "cubemap", "stereo": "top_bottom", "eye": "right"}, 80, 60, StereoCamera),
    ],
)
def test_settings_open_the_camera_they_describe(changes, height, width, kind) -> None:
    camera = open_camera(CameraSettings(**changes), height, width)
    assert isinstance(camera, kind)
    assert (camera.height, camera.width) == (height, width)
    assert camera.project(np.array([1.0, 0, 0])).weights.sum() == 1


@pytest.mark.parametrize("name", PRESETS)
def test_presets_see_the_whole_sphere(name) -> None:
    across, down = PRESETS[name].aspect
    camera = open_camera(CameraSettings(preset=name), 120 * down, 120 * across)
    assert np.allclose(camera.project(sphere.erp_directions(32, 64)).weights.sum(axis=0), 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eye": "right"}, "eye is 'right', and stereo is none; set stereo, or remove eye"),
        ({"fov_deg": 200.0}, "fov_deg is 200.0, which is not used for frames without a model (auto)"),
        (
            {"model": "cubemap", "fov_deg": 200.0},
            "not used for the model cubemap; remove fov_deg, or set model to fisheye",
        ),
        ({"model": "fisheye", "layout": "stacked"}, "layout is 'stacked', which is not used for the model fisheye"),
        ({"model": "fisheye", "top_deg": 30.0}, "top_deg is 30.0, which is not used"),
        ({"model": "cubemap", "layout": "stacked"}, "layout is 'stacked', and model is 'cubemap'; choose one of 3x2"),
        ({"model": "dual_fisheye", "layout": "3x2"}, "choose side_by_side or stacked"),
        ({"model": "fisheye", "front_lens": "second"}, "which is not used for the model fisheye"),
        ({"model": "cubemap", "preset": "gear_360"}, "preset is 'gear_360', and model is 'cubemap'; set one of them"),
        ({"preset": "gear_360", "fov_deg": 170.0}, "fov_deg is 170.0, which is not used for the preset gear_360"),
        ({"preset": "gear_360", "file": "a.yaml"}, "set one of them, not both"),
        ({"model": "cubemap", "faces": "unreal"}, "faces is 'unreal'; choose one of ffmpeg"),
    ],
)
def test_contradictory_settings_are_refused(changes, message) -> None:
    with pytest.raises(ParameterError) as error:
        open_camera(CameraSettings(**changes), 40, 60)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "height", "width", "message"),
    [
        ({}, 1920, 1920, "looks like stereo top-bottom"),
        ({"model": "equirectangular"}, 1280, 1920, "looks like a cube map"),
        ({"stereo": "top_bottom"}, 961, 961, "cannot be halved for two eyes"),
        ({"stereo": "side_by_side"}, 960, 960, "expected a width of twice the height"),
        ({"model": "dual_fisheye"}, 960, 1921, "its width cannot be halved for two lenses"),
        ({"model": "cubemap"}, 50, 60, "expected square faces"),
        ({"model": "eac"}, 50, 60, "expected square faces"),
        ({"preset": "insta360_x3"}, 1080, 1920, "the preset insta360_x3 is for frames of 2:1"),
    ],
)
def test_frames_that_do_not_fit_are_refused(changes, height, width, message) -> None:
    with pytest.raises(FrameError) as error:
        open_camera(CameraSettings(**changes), height, width)
    assert message in str(error.value)
    assert error.value.reason in ("camera_mismatch", "not_2_to_1")


def test_a_calibration_file_gives_the_lenses(calibration) -> None:
    camera = open_camera(CameraSettings(file=calibration(), blend_deg=4.0), 600, 1200)
    assert isinstance(camera, FisheyeCamera)
    first, second = camera.lenses
    assert camera.blend_deg == 4
    assert (first.centre_x, first.radius_px, first.fov_deg) == (299.5, 290, 196)
    assert np.allclose(first.rotation, sphere.rotation_yaw_pitch_roll(0, 0, math.pi / 2))
    assert (second.focal_x_px, second.focal_y_px, second.coefficients) == (170, 171, (0.01, 0, 0, 0))
    stereo = calibration(LENSES + "stereo: top_bottom\n")
    with pytest.raises(FrameError, match=r"the frame is 1200 x 1200, and the calibration .* is for 1200 x 600"):
        open_camera(CameraSettings(file=stereo), 1200, 1200)


def test_a_calibration_file_may_describe_any_model(calibration) -> None:
    camera = open_camera(CameraSettings(file=calibration("model: cubemap\nfaces: unity\nstereo: top_bottom\n")), 80, 60)
    assert isinstance(camera, StereoCamera)
    assert isinstance(camera.eye, CubeCamera)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no keys"),
        ("- 1", "has no keys"),
        ("a: [", "is not YAML (line 1)"),
        ("\x00", "is not YAML"),
        ("modell: fisheye", "has the key 'modell'"),
        ("model: pinhole", "model is 'pinhole'; set it to auto"),
        ("model: 3", "has model = 3"),
        ("fov_deg: wide", "has fov_deg = 'wide'; set a finite number"),
        ("fov_deg: .nan", "has fov_deg = nan"),
        (LENSES.replace("width: 1200\n", ""), "has width = None"),
        (LENSES.replace("width: 1200\nheight: 600\n", ""), "has lenses without the frame's size"),
        (LENSES.replace("width: 1200", "width: 0"), "has width = 0"),
        (LENSES + "fov_deg: 190\n", "has both lenses and fov_deg"),
        (LENSES.replace("dual_fisheye", "cubemap"), "has 2 lenses and the model 'cubemap'"),
        (LENSES.replace("x: 299.5", "x: left"), "x of lens 1 = 'left'"),
        (LENSES.replace("x: 299.5", "x: true"), "x of lens 1 = True"),
        (LENSES.replace("x: 299.5, ", ""), "has lens 1 with the keys y, radius"),
        (LENSES.replace("fx: 170", "radius: 9, fx: 170"), "either radius or both fx and fy"),
        (LENSES.replace("fx: 170, ", ""), "either radius or both fx and fy"),
        (LENSES.replace("fov_deg: 196", "fov_deg: 196, zoom: 2"), "has the key 'zoom' in lens 1"),
        (LENSES.replace("fov_deg: 196", "fov_deg: 296"), "lens 1: fov_deg is 296"),
        (LENSES.replace("k: [0.01, 0, 0, 0]", "k: [0.01]"), "lens 2: a kannala_brandt lens has 1 coefficients"),
        (LENSES.replace("k: [0.01, 0, 0, 0]", "k: 1"), "list k1, k2, k3 and k4"),
        (LENSES.replace("kannala_brandt", "mei"), "lens 2: the lens projection is 'mei'"),
        ("lenses: []\nwidth: 4\nheight: 2", "list at least one lens"),
        ("lenses: [3]\nwidth: 4\nheight: 2", "lens 1 = 3"),
    ],
)
def test_a_wrong_calibration_file_is_refused(calibration, text, message) -> None:
    with pytest.raises(ParameterError) as error:
        read_calibration(calibration(text))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "cubemap"}, "model is 'cubemap', and"),
        ({"fov_deg": 120.0}, "describes the lenses; remove fov_deg"),
        ({"layout": "stacked"}, "describes the lenses; remove layout"),
        ({"faces": "unity"}, "faces is 'unity', which is not used for the model dual_fisheye"),
        ({"front_lens": "second"}, "describes the lenses"),
    ],
)
def test_settings_that_contradict_the_file_are_refused(calibration, changes, message) -> None:
    with pytest.raises(ParameterError) as error:
        open_camera(CameraSettings(file=calibration(), **changes), 600, 1200)
    assert message in str(error.value)


def test_a_missing_calibration_file_is_named(tmp_path) -> None:
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(ParameterError, match="the calibration cannot be read: .*" + path.name):
            open_camera(CameraSettings(file=str(path)), 600, 1200)


def test_a_lens_outside_the_frame_of_its_calibration_is_refused(calibration) -> None:
    path = calibration(LENSES.replace("x: 899", "x: 1899"))
    with pytest.raises(ParameterError, match=r"lens 2 has its centre at \(1899, 298.5\), outside the frame"):
        open_camera(CameraSettings(file=path), 600, 1200)
    with pytest.raises(ParameterError, match="outside the frame"):
        check_camera(CameraSettings(file=path))


def test_settings_without_a_contradiction_need_no_frame_to_be_checked(calibration) -> None:
    for each in (
        CameraSettings(file=calibration()),
        CameraSettings(model="cubemap"),
        CameraSettings(preset="gear_360"),
    ):
        check_camera(each)


def test_a_written_calibration_is_read_back(tmp_path, calibration) -> None:
    camera = open_camera(CameraSettings(file=calibration()), 600, 1200)
    assert isinstance(camera, FisheyeCamera)
    turned = replace(camera.lenses[1], rotation=sphere.rotation_yaw_pitch_roll(3.1, 0.02, -0.03))
    written = FisheyeCamera(600, 1200, [camera.lenses[0], turned], 12.5)
    write_calibration(tmp_path / "again.yaml", written, "two lines\nof comment")
    again = open_camera(CameraSettings(file=str(tmp_path / "again.yaml")), 600, 1200)
    directions = sphere.erp_directions(16, 32)
    for before, after in zip(written.project(directions), again.project(directions), strict=True):
        assert np.allclose(before, after, atol=1e-5)
    assert yaml.safe_load((tmp_path / "again.yaml").read_text())["blend_deg"] == 12.5


@settings(max_examples=50)
@given(st.floats(-math.pi, math.pi), st.floats(-math.pi / 2, math.pi / 2), st.floats(-math.pi, math.pi))
def test_angles_of_a_rotation_make_it_again(yaw, pitch, roll) -> None:
    rotation = sphere.rotation_yaw_pitch_roll(yaw, pitch, roll)
    assert np.allclose(sphere.rotation_yaw_pitch_roll(*yaw_pitch_roll(rotation)), rotation, atol=1e-6)


K = [210.0, 0, 311.5, 0, 195.0, 288.25, 0, 0, 1]
D = [0.02, -0.008, 0.002, -0.0002]


def test_camera_info_is_opencvs_fisheye() -> None:
    camera = camera_from_info("equidistant", K, D, 600, 640, 170.0)
    direction = np.array([[0.6, 0.64, -0.48]])
    optical = sphere.body_to_frame(direction, "optical").reshape(-1, 1, 3)
    expected, _ = cv2.fisheye.projectPoints(optical, np.zeros(3), np.zeros(3), np.array(K).reshape(3, 3), np.array(D))
    x, y, _ = camera.project(direction)
    assert np.allclose([x[0, 0], y[0, 0]], expected.ravel())
    check_info_size(camera, 600, 640)
    with pytest.raises(FrameError, match=r"the frame is 320 x 300, and its CameraInfo is for 640 x 600"):
        check_info_size(camera, 300, 320)


@pytest.mark.parametrize(
    ("window", "size"),
    [
        (InfoWindow(binning_x=4, binning_y=2), (300, 160)),
        (InfoWindow(binning_x=1, binning_y=7), (85, 640)),  # 5 rows are left over
        (InfoWindow(40, 100, 500, 401), (401, 500)),
        (InfoWindow(40, 100, 500, 401, 2, 3), (133, 250)),
        (InfoWindow(400, 0, 240, 600, 2, 2), (300, 120)),  # without the lens's centre
    ],
)
def test_binning_and_region_of_a_camera_info_move_its_pixels(window, size) -> None:
    whole = camera_from_info("equidistant", K, D, 600, 640, 170.0)
    part = camera_from_info("equidistant", K, D, 600, 640, 170.0, window)
    assert (part.height, part.width) == size
    directions, is_seen = part.unproject(*np.meshgrid(np.arange(size[1]), np.arange(size[0])))
    x, y, _ = whole.project(directions)
    across, down = max(window.binning_x, 1), max(window.binning_y, 1)
    # the middle of the pixels that became one
    expected_x = window.x + np.arange(across * size[1]).reshape(-1, across).mean(axis=1)
    expected_y = window.y + np.arange(down * size[0]).reshape(-1, down).mean(axis=1)
    assert is_seen.mean() > 0.3
    assert np.abs(x[0] - expected_x)[is_seen].max() < 1e-6
    assert np.abs(y[0] - expected_y[:, None])[is_seen].max() < 1e-6
    check_info_size(part, *size)
    with pytest.raises(FrameError, match="or correct binning and roi in the CameraInfo"):
        check_info_size(part, 600, 640)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": InfoWindow(200, 0, 500, 600)}, "a region of interest of 500 x 600 at (200, 0) in a picture of 640"),
        ({"window": InfoWindow(200, 10)}, "0 x 0 at (200, 10)"),
        ({"window": InfoWindow(0, 0, 640, 10, 2, 20)}, "bins 2 x 20 pixels of a region of 640 x 10; correct binning_x"),
        ({"distortion_model": "plumb_bob"}, "the distortion model 'plumb_bob'; expected equidistant"),
        ({"distortion_model": ""}, "the distortion model ''"),
        ({"d": [0.0] * 5}, "9 numbers in K and 5 in D"),
        ({"d": []}, "9 numbers in K and 0 in D"),
        ({"k": [0.0] * 9}, "focal lengths 0 and 0; expected finite numbers above 0"),
        ({"k": [math.nan] * 9}, "focal lengths nan"),
        ({"k": [210.0, 3, 311.5, 0, 195.0, 288.25, 0, 0, 1]}, "a skew of 3"),
        ({"k": [210.0, 0, 1311.5, 0, 195.0, 288.25, 0, 0, 1]}, "outside the frame of 640 x 600"),
        ({"d": [-0.5, 0, 0, 0]}, "stops growing"),
    ],
)
def test_a_camera_info_that_does_not_fit_is_refused(changes, message) -> None:
    values = {"distortion_model": "equidistant", "k": K, "d": D, "height": 600, "width": 640}
    with pytest.raises(ParameterError) as error:
        camera_from_info(**{**values, **changes})
    assert message in str(error.value)
    assert "\n" not in str(error.value)
