"""The sphere: round trips, conventions, solid angles and rotations."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sal360 import sphere
from sal360.errors import ParameterError

sizes = st.tuples(st.integers(1, 4096), st.integers(1, 8192))
fractions = st.floats(0, 1, exclude_max=True)
azimuths = st.floats(-math.pi, math.pi, exclude_min=True)
elevations = st.floats(-math.pi / 2, math.pi / 2)
wild_angles = st.floats(-50, 50)
seeds = st.integers(0, 2**32 - 1)


@given(sizes, fractions, fractions)
def test_pixels_come_back_from_angles_and_vectors(size: tuple[int, int], across: float, down: float) -> None:
    height, width = size
    u, v = across * width - 0.5, down * height - 0.5
    angles_u, angles_v = sphere.angles_to_pixel(*sphere.pixel_to_angles(u, v, height, width), height, width)
    assert abs(_around(angles_u - u, width)) < 1e-6
    assert abs(angles_v - v) < 1e-6
    vector = sphere.pixel_to_vector(u, v, height, width)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-12)
    back_u, back_v = sphere.vector_to_pixel(vector, height, width)
    assert abs(back_v - v) < 1e-6
    # near a pole a column is no direction: compare along the parallel
    assert abs(_around(back_u - u, width)) * math.sin(math.pi * down) < 1e-6


def _around(columns: float, width: int) -> float:
    """A difference of columns the short way round, in [−W/2, W/2)."""
    return (columns + width / 2) % width - width / 2


@pytest.mark.parametrize("convention", sphere.FRAME_CONVENTIONS)
@given(azimuths, elevations)
def test_angles_come_back_from_vectors_in_each_convention(convention: str, azimuth: float, elevation: float) -> None:
    in_frame = sphere.body_to_frame(sphere.angles_to_vector(azimuth, elevation), convention)
    back_azimuth, back_elevation = sphere.vector_to_angles(sphere.frame_to_body(in_frame, convention))
    assert abs(back_elevation - elevation) < 1e-6
    turn = (back_azimuth - azimuth + math.pi) % (2 * math.pi) - math.pi
    assert abs(turn) * math.cos(elevation) < 1e-6


@pytest.mark.parametrize(
    ("convention", "forward", "left", "up"),
    [
        ("body", (1, 0, 0), (0, 1, 0), (0, 0, 1)),
        ("optical", (0, 0, 1), (-1, 0, 0), (0, -1, 0)),
        ("openxr", (0, 0, -1), (-1, 0, 0), (0, 1, 0)),
    ],
)
def test_each_convention_has_its_axes(
    convention: str, forward: tuple[int, ...], left: tuple[int, ...], up: tuple[int, ...]
) -> None:
    assert np.array_equal(sphere.body_to_frame(np.eye(3), convention), [forward, left, up])
    turn = sphere.body_to_frame(np.eye(3), convention)
    assert np.linalg.det(turn) == pytest.approx(1)  # a turn, never a mirror


def test_an_unknown_convention_is_refused_by_name() -> None:
    with pytest.raises(ParameterError, match=r"'unity'.*body, optical, openxr"):
        sphere.body_to_frame(np.zeros(3), "unity")


def test_the_picture_is_laid_on_the_sphere_as_documented() -> None:
    height, width = 200, 400

    def look(u: float, v: float) -> list[float]:
        return [round(float(part), 9) + 0.0 for part in sphere.pixel_to_vector(u, v, height, width)]

    middle = height / 2 - 0.5
    assert look(width / 2 - 0.5, middle) == [1, 0, 0]
    assert look(3 * width / 4 - 0.5, middle) == [0, -1, 0]
    assert look(width / 4 - 0.5, middle) == [0, 1, 0]
    assert look(-0.5, middle) == [-1, 0, 0]
    assert look(width / 2 - 0.5, -0.5) == [0, 0, 1]


@given(wild_angles, wild_angles)
def test_any_angles_are_brought_into_range_without_moving(azimuth: float, elevation: float) -> None:
    new_azimuth, new_elevation = sphere.normalise_angles(azimuth, elevation)
    assert -math.pi < new_azimuth <= math.pi
    assert -math.pi / 2 <= new_elevation <= math.pi / 2
    before, after = sphere.angles_to_vector(azimuth, elevation), sphere.angles_to_vector(new_azimuth, new_elevation)
    assert np.allclose(before, after, atol=1e-12)


@pytest.mark.parametrize("azimuth", [math.pi, -math.pi, math.nextafter(math.pi, 4), 3 * math.pi, -7 * math.pi])
def test_directly_behind_stays_in_the_half_open_ranges(azimuth: float) -> None:
    normal, _ = sphere.normalise_angles(azimuth, 0)
    assert -math.pi < normal <= math.pi
    u, _ = sphere.angles_to_pixel(azimuth, 0, 8, 16)
    assert -0.5 <= u < 15.5


def test_vectors_directly_behind_have_an_azimuth_in_range_for_either_sign_of_zero() -> None:
    for y in (0.0, -0.0, -1e-300, 1e-300):
        azimuth, _ = sphere.vector_to_angles([-1, y, 0])
        assert abs(float(azimuth)) == math.pi
        u, _ = sphere.vector_to_pixel([-1, y, 0], 8, 16)
        assert float(u) == -0.5


def test_pixels_past_the_border_continue_around_the_sphere() -> None:
    height, width = 10, 20
    assert np.allclose(
        sphere.pixel_to_vector([-1, width], [3, 3], height, width),
        sphere.pixel_to_vector([width - 1, 0], [3, 3], height, width),
    )
    over_the_top = sphere.pixel_to_vector(4, -1, height, width)
    assert np.allclose(over_the_top, sphere.pixel_to_vector(4 + width / 2, 0, height, width))


@given(sizes, azimuths, elevations)
def test_the_nearest_pixel_holds_its_direction(size: tuple[int, int], azimuth: float, elevation: float) -> None:
    height, width = size
    column, row = sphere.nearest_pixel(sphere.angles_to_vector(azimuth, elevation), height, width)
    assert 0 <= column < width
    assert 0 <= row < height
    _, row_elevation = sphere.pixel_to_angles(column, row, height, width)
    assert abs(row_elevation - elevation) <= math.pi / height / 2 + 1e-9


@given(st.integers(1, 300), st.integers(1, 600))
def test_solid_angles_sum_to_the_whole_sphere(height: int, width: int) -> None:
    assert sphere.solid_angles(height, width).sum() * width == pytest.approx(4 * math.pi, rel=1e-12)


def test_solid_angles_are_the_integral_over_each_pixel() -> None:
    height, width = 7, 5
    edges = np.linspace(0, math.pi, height + 1)
    bands = [(math.cos(top) - math.cos(bottom)) * 2 * math.pi / width for top, bottom in pairwise(edges)]
    assert np.allclose(sphere.solid_angles(height, width)[:, 0], bands, rtol=1e-12)


@given(seeds)
def test_random_rotations_are_rotations(seed: int) -> None:
    rotation = sphere.random_rotation(np.random.default_rng(seed))
    assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)


@given(st.floats(-3, 3), st.floats(0.1, 9))
def test_quaternions_of_any_length_rotate_about_their_axis(angle: float, length: float) -> None:
    half = (length * math.cos(angle / 2), length * math.sin(angle / 2))
    about_z = sphere.rotation_from_quaternion(half[0], 0, 0, half[1])
    assert np.allclose(about_z, sphere.rotation_yaw_pitch_roll(yaw_rad=angle), atol=1e-12)
    about_y = sphere.rotation_from_quaternion(half[0], 0, half[1], 0)
    assert np.allclose(about_y, sphere.rotation_yaw_pitch_roll(pitch_rad=angle), atol=1e-12)
    about_x = sphere.rotation_from_quaternion(half[0], half[1], 0, 0)
    assert np.allclose(about_x, sphere.rotation_yaw_pitch_roll(roll_rad=angle), atol=1e-12)


@pytest.mark.parametrize("w", [0.0, math.nan, math.inf])
def test_an_empty_orientation_is_refused(w: float) -> None:
    with pytest.raises(ParameterError, match="quaternion"):
        sphere.rotation_from_quaternion(w, 0, 0, 0)


def test_random_rotations_favour_no_direction() -> None:
    generator = np.random.default_rng(3)
    turned = np.array([sphere.random_rotation(generator)[:, 0] for _ in range(4000)])
    assert np.abs(turned.mean(axis=0)).max() < 0.05  # 5.5 standard errors
    assert np.allclose(turned.T @ turned / len(turned), np.eye(3) / 3, atol=0.03)


def test_positive_angles_turn_as_documented() -> None:
    quarter = math.pi / 2
    assert np.allclose(sphere.rotation_yaw_pitch_roll(yaw_rad=quarter) @ [1, 0, 0], [0, 1, 0])
    assert np.allclose(sphere.rotation_yaw_pitch_roll(pitch_rad=quarter) @ [0, 0, 1], [1, 0, 0])
    assert np.allclose(sphere.rotation_yaw_pitch_roll(roll_rad=quarter) @ [0, 1, 0], [0, 0, 1])


@given(st.floats(0, math.pi), seeds)
def test_angular_distance_is_the_angle_of_a_turn(angle: float, seed: int) -> None:
    rotation = sphere.random_rotation(np.random.default_rng(seed))
    start = rotation @ [1, 0, 0]
    end = rotation @ [math.cos(angle), math.sin(angle), 0]
    assert sphere.angular_distance(start, end) == pytest.approx(angle, abs=1e-12)


def test_tiny_angles_keep_their_digits() -> None:
    assert sphere.angular_distance([1, 0, 0], [1, 1e-9, 0]) == pytest.approx(1e-9, rel=1e-6)


def test_shared_tables_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        sphere.erp_directions(4, 8)[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        sphere.solid_angles(4, 8)[0] = 0
