"""Fixation densities: against the definition in slow loops, near the poles, over the seam."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sal360.density import spherical_density
from sal360.errors import ParameterError
from sal360.projection import rotate_erp
from sal360.sphere import (
    angles_to_vector,
    angular_distance,
    erp_directions,
    random_rotation,
    rotation_yaw_pitch_roll,
    solid_angles,
)


def slow_density(fixations, height, width, sigma_deg):
    """Every kernel at every pixel, without windows."""
    sigma = math.radians(sigma_deg)
    density = np.zeros((height, width))
    for fixation in fixations:
        angle = angular_distance(erp_directions(height, width), fixation)
        density += np.exp((np.cos(angle) - 1) / sigma**2)
    return density / (density * solid_angles(height, width)).sum() * 4 * math.pi


@pytest.mark.parametrize("sigma_deg", [3.0, 10.0, 40.0])
def test_density_agrees_with_its_definition(sigma_deg):
    fixations = np.random.default_rng(2).normal(size=(30, 3))
    fixations /= np.linalg.norm(fixations, axis=1, keepdims=True)
    fixations = np.concatenate([fixations, [[0, 0, 1], [0, 0, -1], [-1, 0, 0]]])  # the poles and the seam
    expected = slow_density(fixations, 32, 64, sigma_deg)
    density = spherical_density(fixations, 32, 64, sigma_deg)
    np.testing.assert_allclose(density, expected, rtol=1e-6, atol=1e-6 * expected.max())


@settings(max_examples=40, deadline=None)
@given(
    azimuth=st.floats(-math.pi, math.pi),
    elevation=st.floats(-math.pi / 2, math.pi / 2),
    sigma_deg=st.floats(3.0, 60.0),
    width=st.integers(3, 70),
)
def test_windows_never_cut_a_kernel(azimuth, elevation, sigma_deg, width):
    fixation = angles_to_vector([azimuth], [elevation])
    sigma_deg = max(sigma_deg, 180 / width)
    expected = slow_density(fixation, 31, width, sigma_deg)
    density = spherical_density(fixation, 31, width, sigma_deg)
    np.testing.assert_allclose(density, expected, rtol=1e-5, atol=1e-6 * expected.max())


def test_a_fixation_near_the_pole_has_the_map_of_one_on_the_equator_turned():
    turn = rotation_yaw_pitch_roll(pitch_rad=math.radians(-87))
    equator = np.array([[1.0, 0.0, 0.0]])
    near_pole = equator @ turn.T
    assert near_pole[0, 2] > 0.998
    turned = rotate_erp(spherical_density(equator, 256, 512, 8.0), turn)
    direct = spherical_density(near_pole, 256, 512, 8.0)
    np.testing.assert_allclose(turned, direct, atol=0.01 * direct.max())  # the error of bilinear resampling


def test_turning_the_fixations_turns_the_density_exactly():
    """No resampling: a cloud of fixations keeps its values at directions that turn with it."""
    rng = np.random.default_rng(3)
    cloud = angles_to_vector(rng.normal(0, 0.1, 50), rng.normal(0, 0.1, 50))
    turn = random_rotation(rng)
    offsets = angles_to_vector(rng.normal(0, 0.2, 20), rng.normal(0, 0.2, 20))
    sigma = math.radians(5)

    def values(fixations, places):
        return np.exp((places @ fixations.T - 1) / sigma**2).sum(axis=1)

    height, width = 360, 720
    for rotation in (np.eye(3), turn):
        density = spherical_density(cloud @ rotation.T, height, width, 5.0)
        places = offsets @ rotation.T
        pixel = np.argmax(erp_directions(height, width).reshape(-1, 3) @ places.T, axis=0)
        centres = erp_directions(height, width).reshape(-1, 3)[pixel] @ rotation  # turned back
        expected = values(cloud, centres) * 2 / (50 * sigma**2)  # 4π over the kernel's integral 2πσ², a mean of 50
        np.testing.assert_allclose(density.ravel()[pixel], expected, rtol=2e-3)


def test_kernels_have_mean_one_and_the_same_peak_everywhere():
    peaks = []
    for elevation in (0, 30, 60, 85, 90):
        density = spherical_density(angles_to_vector([0.0], [math.radians(elevation)]), 180, 360, 6.0)
        assert (density * solid_angles(180, 360)).sum() == pytest.approx(4 * math.pi, rel=1e-5)
        peaks.append(density.max())
    assert max(peaks) / min(peaks) < 1.02


def test_the_seam_has_no_seam():
    density = spherical_density(angles_to_vector([math.pi], [0.0]), 90, 180, 6.0)
    np.testing.assert_allclose(density, density[:, ::-1], rtol=1e-5)


def test_unusable_widths_and_no_fixations_are_refused():
    with pytest.raises(ParameterError, match="half a pixel"):
        spherical_density(np.array([[1.0, 0, 0]]), 32, 64, 1.0)
    with pytest.raises(ParameterError, match="no fixation"):
        spherical_density(np.zeros((0, 3)), 32, 64, 10.0)
