"""Levelling: rotations from a known up, up estimated from pictures, and estimates that agree over time."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sal360.cameras import levelling, tilt_evidence
from sal360.cameras.levelling import UP, RunningLevel, UpEstimate, agreement, estimate_up
from sal360.errors import DataError, FrameError, ParameterError
from sal360.images import read_picture
from sal360.projection import rotate_erp
from sal360.samples import bundled_panoramas
from sal360.sphere import (
    angular_distance,
    erp_directions,
    random_rotation,
    rotation_from_quaternion,
    rotation_yaw_pitch_roll,
)

angles = st.floats(-math.pi, math.pi)
components = st.floats(-1e200, 1e200)
vectors = st.tuples(components, components, components)


def up_of(yaw_rad: float, pitch_rad: float, roll_rad: float) -> np.ndarray:
    return levelling.up_in_camera(rotation_yaw_pitch_roll(yaw_rad, pitch_rad, roll_rad))


@given(vectors)
def test_the_levelling_rotation_turns_up_to_z_by_the_angle_of_the_tilt(vector):
    assume(max(map(abs, vector)) > 1e-200)
    up = levelling.unit_up(vector)
    rotation = levelling.levelling_rotation(vector)
    assert np.linalg.norm(up) == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(rotation @ up, UP, atol=1e-9)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    angle_rad = math.acos(max(-1.0, min(1.0, (np.trace(rotation) - 1) / 2)))
    assert angle_rad == pytest.approx(levelling.tilt(vector), abs=1e-6)


@given(vectors)
def test_levelling_does_not_turn_about_the_vertical(vector):
    assume(max(map(abs, vector)) > 1e-200)
    x, y, z, w = levelling.levelling_quaternion(vector)
    assert z == 0
    assert w >= 0
    np.testing.assert_allclose(
        rotation_from_quaternion(w, x, y, z), levelling.levelling_rotation(vector), rtol=0, atol=1e-12
    )


def test_a_camera_that_is_upside_down_still_looks_ahead():
    np.testing.assert_allclose(levelling.levelling_rotation([0, 0, -1]), np.diag([1.0, -1.0, -1.0]), atol=1e-12)


@given(angles, st.floats(-1.57, 1.57), angles)
def test_roll_and_pitch_are_those_of_the_orientation_whatever_the_heading(yaw_rad, pitch_rad, roll_rad):
    assume(abs(pitch_rad) < 1.5)
    roll, pitch = levelling.roll_and_pitch(up_of(yaw_rad, pitch_rad, roll_rad))
    assert pitch == pytest.approx(pitch_rad, abs=1e-9)
    assert math.remainder(roll - roll_rad, 2 * math.pi) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("vector", [(0, 0, 0), (math.nan, 0, 1), (0, math.inf, 1)])
def test_a_vector_without_a_direction_is_refused(vector):
    with pytest.raises(ParameterError, match="set three finite numbers, not all of them 0"):
        levelling.levelling_rotation(vector)


def horizon(up: np.ndarray, seed: int = 0) -> np.ndarray:
    """A dim, rough plain with poles under a bright, smooth sky (512, 1024, 3), with this direction up."""
    turned = erp_directions(512, 1024) @ levelling.levelling_rotation(up).T
    azimuth, height = np.arctan2(turned[..., 1], turned[..., 0]), turned[..., 2]
    rough = np.random.default_rng(seed).normal(0, 12, height.shape)
    values = np.where(height > 0, 190 + 40 * height, 70 + rough + 20 * height)
    poles = (np.abs(np.mod(azimuth * 12 / math.pi, 2) - 1) < 0.08) & (height > -0.3) & (height < 0.5)
    values = np.where(poles, 30, values).clip(0, 255)
    tint = np.where((height > 0)[..., None], [1.1, 1.0, 0.9], [0.8, 1.0, 0.9])
    return (values[..., None] * tint).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(("pitch_deg", "roll_deg"), [(0, 0), (25, -10), (-50, 20), (10, 58)])
def test_up_is_found_in_a_scene_with_a_horizon_and_poles(pitch_deg, roll_deg):
    up = up_of(0.7, math.radians(pitch_deg), math.radians(roll_deg))
    estimate = estimate_up(horizon(up))
    assert math.degrees(angular_distance(estimate.up, up)) < 2
    assert estimate.is_certain


def test_an_upside_down_camera_is_found_only_if_it_is_looked_for():
    up = levelling.unit_up([0.1, 0.2, -1])
    assert math.degrees(angular_distance(estimate_up(horizon(up), max_tilt_rad=math.pi).up, up)) < 2
    assert levelling.tilt(estimate_up(horizon(up)).up) <= levelling.MAX_TILT_RAD + 0.05


@pytest.mark.parametrize("name", ["city", "courtyard", "interior", "sunset"])
def test_up_is_found_in_tilted_bundled_panoramas(name):
    picture = read_picture(bundled_panoramas() / f"{name}.jpg")
    rotation = rotation_yaw_pitch_roll(1.0, math.radians(-20), math.radians(25))
    estimate = estimate_up(rotate_erp(picture, rotation))
    assert math.degrees(angular_distance(estimate.up, rotation @ UP)) < 3


def test_a_levelled_panorama_is_upright():
    picture = read_picture(bundled_panoramas() / "interior.jpg")
    tilted = rotate_erp(picture, rotation_yaw_pitch_roll(0.3, 0.4, -0.3))
    levelled = rotate_erp(tilted, levelling.levelling_rotation(estimate_up(tilted).up))
    assert math.degrees(levelling.tilt(estimate_up(levelled).up)) < 2


@pytest.mark.parametrize("kind", ["black", "grey", "noise"])
def test_a_picture_without_a_scene_does_not_show_which_way_is_up(kind):
    shape = (256, 512, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    picture = {"black": np.zeros(shape, np.uint8), "grey": np.full(shape, 128, np.uint8), "noise": noise}[kind]
    assert not estimate_up(picture).is_certain


def test_large_pictures_cost_no_more_directions_or_lines():
    up = up_of(0, 0.3, 0.2)
    large = cv2.resize(horizon(up), (4096, 2048), interpolation=cv2.INTER_LINEAR)
    assert math.degrees(angular_distance(estimate_up(large).up, up)) < 2


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (None, "unreadable_picture"),
        (np.zeros((64, 128), np.uint8), "not_colour"),
        (np.zeros((64, 128, 3), np.float32), "not_colour"),
        (np.zeros((64, 64, 3), np.uint8), "not_2_to_1"),
        (np.zeros((0, 0, 3), np.uint8), "not_2_to_1"),
    ],
)
def test_what_is_not_a_panorama_is_refused(picture, reason):
    with pytest.raises(FrameError) as caught:
        estimate_up(picture)
    assert caught.value.reason == reason


@pytest.mark.parametrize("max_tilt_rad", [0.0, -1.0, 4.0, math.nan])
def test_a_largest_tilt_out_of_range_is_refused(max_tilt_rad):
    with pytest.raises(ParameterError, match="above 0 and to at most π"):
        estimate_up(np.zeros((64, 128, 3), np.uint8), max_tilt_rad=max_tilt_rad)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"weights": [1, 2]}', '{"weights": "no"}'])
def test_a_file_without_weights_is_refused(tmp_path: Path, text):
    path = tmp_path / "weights.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"training\.fit_levelling"):
        levelling.read_weights(path)


def test_scores_are_the_weighted_features():
    evidence = tilt_evidence.TiltEvidence(horizon(up_of(0, 0.2, 0.1)))
    directions = tilt_evidence.fibonacci_sphere(50)
    weights = np.random.default_rng(0).normal(size=tilt_evidence.FEATURES)
    np.testing.assert_allclose(
        evidence.scores(directions, weights), evidence.features(directions) @ weights, rtol=1e-4, atol=1e-4
    )


def test_lines_lie_in_planes_whose_normals_point_to_the_brighter_side():
    """The edge of a bright half of the sphere lies in a plane at right angles to its axis."""
    generator = np.random.default_rng(2)
    for _ in range(3):
        axis = random_rotation(generator)[0]
        picture = np.where(erp_directions(512, 1024) @ axis > 0, 220, 40).astype(np.uint8)
        lines = tilt_evidence.find_lines(picture)
        is_long = lines.lengths_rad > 0.2
        assert is_long.sum() >= 4
        offsets_deg = np.degrees(angular_distance(lines.normals[is_long], axis))
        assert np.median(offsets_deg) < 0.3
        assert offsets_deg.max() < 3


def test_estimates_agree_when_most_of_their_confidence_is_in_one_direction():
    up = up_of(0, 0.2, 0.1)
    near, other = up_of(0, 0.22, 0.1), up_of(0, -0.9, 0.5)
    agreed = agreement([UpEstimate(up, 0.9), UpEstimate(near, 0.8), UpEstimate(other, 0.5)])
    assert agreed is not None
    assert math.degrees(angular_distance(agreed.up, up)) < 1.5
    assert agreed.confidence == pytest.approx(1.7 / 3)
    assert agreement([UpEstimate(up, 0.9), UpEstimate(other, 0.8)]) is None
    assert agreement([UpEstimate(up, 0.2), UpEstimate(near, 0.2)]) is None
    assert agreement([]) is None


def test_a_running_estimate_is_trusted_once_enough_pictures_agree_and_then_keeps_still():
    up = up_of(0, 0.2, 0.1)
    running = RunningLevel()
    for _ in range(RunningLevel.LEAST - 1):
        running.add(UpEstimate(up, 0.9))
    assert running.trusted is None
    running.add(UpEstimate(up, 0.9))
    assert running.trusted is not None
    before = running.trusted.up
    for _ in range(5):
        running.add(UpEstimate(up_of(0, 0.205, 0.1), 0.9))
    assert running.trusted.up is before
    running.reset()
    assert running.trusted is None


def test_a_few_wrong_pictures_do_not_move_a_running_estimate_and_a_new_mount_does():
    up, wrong = up_of(0, 0.2, 0.1), up_of(0, -0.8, 0.5)
    running = RunningLevel()
    for _ in range(12):
        running.add(UpEstimate(up, 0.9))
    for _ in range(6):
        running.add(UpEstimate(wrong, 0.9))
    assert running.trusted is not None
    assert math.degrees(angular_distance(running.trusted.up, up)) < 0.1
    for _ in range(RunningLevel.KEPT):
        running.add(UpEstimate(wrong, 0.9))
    assert math.degrees(angular_distance(running.trusted.up, wrong)) < 0.1


def test_a_running_estimate_levels_a_camera_from_its_frames():
    up = up_of(0, 0.3, -0.2)
    running = RunningLevel()
    for seed in range(RunningLevel.LEAST):
        running.update(horizon(up, seed))
    assert running.trusted is not None
    assert math.degrees(angular_distance(running.trusted.up, up)) < 2
