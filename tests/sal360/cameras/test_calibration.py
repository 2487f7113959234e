"""Self-calibration of two fisheye lenses, on frames rendered from panoramas through lenses that are known."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from sal360.cameras.calibration import areas, calibrate, ring
from sal360.cameras.fisheye import FisheyeCamera, Lens
from sal360.cameras.lens_circles import find_circle
from sal360.cameras.settings import read_calibration
from sal360.cli import main
from sal360.errors import DataError
from sal360.projection import sample_erp
from sal360.samples import bundled_panoramas
from sal360.sphere import angular_distance, rotation_yaw_pitch_roll

SIZE = 400


def camera_with_errors(seed, *, stacked=False, fov_deg=200.0, roll_deg=0.0, projection="equidistant"):
    """Centres and radii up to 2 % off, and the second lens turned by up to 3° about each axis."""
    random = np.random.default_rng(seed)
    lenses = []
    for number in range(2):
        x, y = (SIZE - 1) / 2 + random.uniform(-0.02, 0.02, 2) * SIZE
        x, y = (x, y + number * SIZE) if stacked else (x + number * SIZE, y)
        error = rotation_yaw_pitch_roll(*np.radians(random.uniform(-3, 3, 3)))
        turn = rotation_yaw_pitch_roll(math.pi, 0, math.radians(roll_deg)) @ error if number else np.eye(3)
        radius = 0.47 * SIZE * (1 + random.uniform(-0.02, 0.02))
        lenses.append(Lens.with_radius(x, y, radius, fov_deg, projection, rotation=turn))
    return FisheyeCamera(2 * SIZE if stacked else SIZE, SIZE if stacked else 2 * SIZE, lenses)


def render(camera, panorama, seed, *, exposure=0.7, noise=3.0, texture=1.0):
    """What the camera sees of a panorama, antialiased, with vignettes, noise and an exposure of the second lens."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: 2 * camera.height, : 2 * camera.width] / 2 - 0.25
    directions, is_seen = camera.unproject(columns, rows)
    seen = sample_erp(panorama, directions).astype(np.float32) * texture + (1 - texture) * 110
    is_second = rows >= SIZE if camera.height > camera.width else columns >= SIZE
    centre_x, centre_y = ([getattr(each, name) for each in camera.lenses] for name in ("centre_x", "centre_y"))
    distance = np.hypot(columns - np.where(is_second, *centre_x[::-1]), rows - np.where(is_second, *centre_y[::-1]))
    seen *= (1 - 0.35 * np.minimum(distance / (0.47 * SIZE), 1) ** 4)[..., None]
    seen[is_second] = 255 * (seen[is_second] / 255) ** 1.15 * exposure
    seen[~is_seen] = 0
    frame = cv2.resize(seen, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
    return np.clip(frame + random.normal(0, noise, frame.shape), 0, 255).astype(np.uint8)


def sample(name):
    return cv2.imread(str(bundled_panoramas() / f"{name}.jpg"))


def step_deg(camera, lenses):
    """The angle between what two lenses say of directions that the camera's two lenses see: what a viewer sees."""
    directions = ring(np.radians(np.linspace(82, 98, 9))[:, None], np.radians(np.arange(0, 360, 5)))
    found, seen = [], True
    for number, lens in enumerate(camera.lenses):
        x, y, angle = lens.project(directions)
        seen = seen & (angle < lens.half_fov_rad - 0.01)
        found.append(lenses[number].unproject(x, y)[0])
    return np.degrees(angular_distance(*found))[seen]


CASES = {
    "side by side": ("city", {}),
    "stacked": ("courtyard", {"stacked": True}),
    "the second upside down": ("courtyard", {"roll_deg": 180.0}),
    "wide, equisolid": ("city", {"fov_deg": 215.0, "projection": "equisolid"}),
    "narrow": ("courtyard", {"fov_deg": 192.0}),
    "in a room": ("interior", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_lenses_are_found_in_spite_of_errors_noise_and_exposure(case):
    name, options = CASES[case]
    camera = camera_with_errors(3, **options)
    picture = render(camera, sample(name), 4)
    found = calibrate([picture], projection=camera.lenses[0].projection)
    assert np.median(step_deg(camera, found.rig)) < 0.2
    assert step_deg(camera, found.rig).max() < 0.5
    assert found.residual_rad < math.radians(0.3)
    assert found.rig.fov_deg == pytest.approx(camera.lenses[0].fov_deg, abs=0.5)
    for lens, true in zip(found.rig, camera.lenses, strict=True):
        assert lens.radius_px == pytest.approx(true.radius_px, rel=0.01)
        assert (lens.centre_x, lens.centre_y) == pytest.approx((true.centre_x, true.centre_y), abs=0.01 * SIZE)


def test_pictures_that_alone_have_too_little_texture_are_enough_together():
    camera = camera_with_errors(5)
    panorama = sample("courtyard")
    left, right = panorama.copy(), panorama.copy()
    left[:, 512:], right[:, :512] = 120, 120
    pictures = [render(camera, each, 6) for each in (left, right)]
    found = calibrate(pictures)
    assert set(found.matches.picture) == {0, 1}
    assert np.median(step_deg(camera, found.rig)) < 0.2
    assert found.uncertainty_rad < calibrate(pictures[:1]).uncertainty_rad


def test_a_given_field_of_view_is_kept():
    picture = render(camera_with_errors(7), sample("courtyard"), 8)
    assert calibrate([picture], fov_deg=200.5).rig.fov_deg == pytest.approx(200.5, abs=0.01)


@pytest.mark.parametrize("texture", [0.0, 0.02])
def test_a_scene_with_too_little_texture_is_refused(texture):
    picture = render(camera_with_errors(9), sample("courtyard"), 10, texture=texture)
    with pytest.raises(DataError, match="too little texture"):
        calibrate([picture])


def test_texture_in_one_direction_alone_is_refused():
    panorama = np.full((512, 1024, 3), 120, np.uint8)
    panorama[230:280, 230:280] = sample("courtyard")[230:280, 230:280]
    with pytest.raises(DataError, match="too little texture"):
        calibrate([render(camera_with_errors(9), panorama, 10)])


def test_lenses_without_overlap_are_refused():
    picture = render(camera_with_errors(11, fov_deg=176.0), sample("courtyard"), 12)
    with pytest.raises(DataError, match="too narrow"):
        calibrate([picture])


@pytest.mark.parametrize("picture", ["stitched", "black", "grey"])
def test_pictures_without_circles_are_refused(picture):
    pixels = {
        "stitched": sample("city"),
        "black": np.zeros((400, 800, 3), np.uint8),
        "grey": np.full((400, 800, 3), 128, np.uint8),
    }[picture]
    with pytest.raises(DataError, match="circle is not visible in the left half"):
        calibrate([pixels])


@pytest.mark.parametrize("size", [(400, 400), (400, 600), (400, 801), (801, 400)])
def test_sizes_that_two_lenses_do_not_have_are_refused(size):
    with pytest.raises(DataError, match=f"the picture is {size[1]} x {size[0]} pixels"):
        areas(*size)


def test_a_circle_is_found_although_a_part_of_it_is_dark_or_cut_off():
    rows, columns = np.mgrid[:400, :400]
    picture = np.where(np.hypot(columns - 203.3, rows - 190.6) < 196.4, 140.0, 0.0)
    picture[:, :150] = 0  # a dark side of the scene; the circle's top is beyond the picture
    picture += np.random.default_rng(1).normal(4, 3, picture.shape)
    found = find_circle(np.clip(picture, 0, 255).astype(np.uint8), "the picture")
    assert (found.x, found.y, found.radius) == pytest.approx((203.3, 190.6, 196.4), abs=0.5)


@pytest.fixture
def run(tmp_path, capfd):
    def run_it(*arguments):
        status = main(["calibrate-lenses", *map(str, arguments), "--output", str(tmp_path / "out" / "mine.yaml")])
        return status, *capfd.readouterr()

    return run_it


def test_the_command_writes_a_calibration_and_a_picture_to_look_at(run, tmp_path):
    camera = camera_with_errors(13)
    cv2.imwrite(str(tmp_path / "a.png"), render(camera, sample("courtyard"), 14))
    status, out, err = run(tmp_path / "a.png")
    assert (status, err) == (0, "")
    assert "median residual 0." in out
    written = read_calibration(tmp_path / "out" / "mine.yaml")
    assert written.size == (SIZE, 2 * SIZE)
    assert np.median(step_deg(camera, written.lenses)) < 0.2
    assert np.array_equal(written.lenses[0].rotation, np.eye(3))
    assert cv2.imread(str(tmp_path / "out" / "mine.jpg")).shape[1] == 1440


def test_a_preset_says_where_front_and_up_are(run, tmp_path):
    camera = camera_with_errors(13)
    cv2.imwrite(str(tmp_path / "a.png"), render(camera, sample("courtyard"), 14))
    status, _, err = run(tmp_path / "a.png", "--preset", "insta360_x3")
    assert (status, err) == (0, "")
    first = read_calibration(tmp_path / "out" / "mine.yaml").lenses[0]
    assert first.rotation == pytest.approx(rotation_yaw_pitch_roll(0, 0, math.radians(-90)), abs=1e-6)
    assert (first.centre_x, first.centre_y) == pytest.approx(
        (camera.lenses[1].centre_x, camera.lenses[1].centre_y), abs=4
    )


def test_the_command_says_which_picture_does_not_fit(run, tmp_path):
    for name, size in {"a.png": (100, 200), "b.png": (120, 240)}.items():
        cv2.imwrite(str(tmp_path / name), np.zeros((*size, 3), np.uint8))
    status, _, err = run(tmp_path / "a.png", tmp_path / "b.png")
    assert status == 2
    assert "b.png is 240 x 120 pixels; expected 200 x 100, as" in err
    assert not (tmp_path / "out").exists()


def test_a_preset_of_another_shape_is_refused_with_what_the_command_can_do(run, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((400, 800, 3), np.uint8))
    status, _, err = run(tmp_path / "a.png", "--preset", "ricoh_theta_s")
    assert status == 2
    assert err.startswith(
        "error: the frame is 800 x 400, and the preset ricoh_theta_s is for frames of 16:9; use pictures"
    )
    assert err.count("\n") == 1


def test_the_command_says_which_picture_did_not_help(run, tmp_path):
    camera = camera_with_errors(13)
    cv2.imwrite(str(tmp_path / "a.png"), render(camera, sample("courtyard"), 14))
    cv2.imwrite(str(tmp_path / "b.png"), render(camera, sample("courtyard"), 14, texture=0.0))
    status, _, err = run(tmp_path / "a.png", tmp_path / "b.png")
    assert status == 0
    assert err.count("\n") == 1
    assert "b.png did not help" in err
