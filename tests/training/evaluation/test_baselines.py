"""Baselines: the Laplace fit, dense blur, Boolean maps and spectral residual on the sphere."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from sal360.density import blur_sphere
from sal360.errors import DataError
from sal360.ground_truth import GazeRecord
from sal360.sphere import (
    angles_to_vector,
    angular_distance,
    erp_directions,
    rotation_yaw_pitch_roll,
    solid_angles,
    vector_to_angles,
)
from training.evaluation.baselines import Laplace, fit_laplace, fit_priors, open_baselines
from training.evaluation.classical import boolean_map_saliency, spectral_residual, surrounded, surrounded_in_view
from training.evaluation.view_saliency import (
    activation,
    concentration,
    equatorial_prior,
    gbvs360,
    mean_over_views,
    prosal,
    with_equatorial_prior,
)


def record(elevations_deg, density=None):
    fixations = angles_to_vector(np.zeros(len(elevations_deg)), np.radians(elevations_deg))
    count = len(fixations)
    return GazeRecord("a", lambda: None, fixations, np.arange(count), np.zeros(count), density)


@pytest.mark.parametrize(("mean_deg", "scale_deg"), [(-1.4, 17.9), (12.0, 8.0), (0.0, 40.0)])
def test_the_laplace_is_found_again_in_its_own_samples(mean_deg, scale_deg):
    rng = np.random.default_rng(5)
    elevation_deg = np.linspace(-90, 90, 20001)
    chance = Laplace(mean_deg, scale_deg).density(20001)[:, 0][::-1] * np.cos(np.radians(elevation_deg))
    samples = rng.choice(elevation_deg, 20000, p=chance / chance.sum())
    found = fit_laplace(np.radians(samples))
    assert found.mean_deg == pytest.approx(mean_deg, abs=0.8)
    assert found.scale_deg == pytest.approx(scale_deg, rel=0.05)


def test_a_fit_to_a_window_does_not_take_its_edges_for_people():
    """Uniform gaze in a window 40° high is as good as uniform, though all of it lies within 20° of the equator."""
    samples = np.random.default_rng(6).uniform(-20, 20, 20000)
    rows_deg = 90 - 180 * (np.arange(360) + 0.5) / 360
    seen = (np.abs(rows_deg) < 20) * 0.3
    assert fit_laplace(np.radians(samples), seen).scale_deg > 200
    assert fit_laplace(np.radians(samples)).scale_deg < 15


def test_a_laplace_counts_gaze_per_degree_of_latitude():
    gaze = (Laplace(0.0, 17.9).density(180) * solid_angles(180, 360)).sum(axis=1)
    assert gaze[29] / gaze[89] == pytest.approx(math.exp(-60 / 17.9), rel=0.01)


def test_a_laplace_map_is_a_density():
    density = Laplace(-1.4, 17.9).density(64)
    assert density.shape == (64, 128)
    assert (density * solid_angles(64, 128)).sum() == pytest.approx(4 * math.pi, rel=1e-6)
    assert np.ptp(density[10]) == 0


def test_priors_are_fitted_to_the_training_part():
    halves = [np.zeros((8, 16), np.float32), np.full((8, 16), 2, np.float32)]
    priors = fit_priors([record([10, 12], each) for each in halves], limit=10)
    assert 9 < priors.laplace.mean_deg < 13
    assert np.allclose(priors.mean_map, 1)
    assert fit_priors([record([10])], limit=1).mean_map is None
    with pytest.raises(DataError, match="no fixation"):
        fit_priors([record([])], limit=1)


@pytest.mark.parametrize(("mean_deg", "scale_deg"), [(-1.4, 17.9), (12.0, 40.0)])
def test_priors_of_records_without_fixations_are_fitted_to_their_maps(mean_deg, scale_deg):
    density = Laplace(mean_deg, scale_deg).density(512).astype(np.float32)
    found = fit_priors([record([], density), record([], 3 * density)], limit=10).laplace
    assert found.mean_deg == pytest.approx(mean_deg, abs=0.1)
    assert found.scale_deg == pytest.approx(scale_deg, rel=0.01)


def test_the_mean_map_is_left_out_where_there_are_no_densities():
    names = ("uniform", "mean", "people", "bms360")
    assert list(open_baselines(names, fit_priors([record([10])], 1))) == ["uniform", "bms360"]


def test_blur_is_the_sum_over_all_pixels_and_keeps_the_mean():
    values = np.random.default_rng(6).random((12, 24)) ** 8
    weights, directions = solid_angles(12, 24), erp_directions(12, 24)
    expected = np.zeros_like(values)
    for pixel in np.ndindex(values.shape):
        angle = angular_distance(directions, directions[pixel])
        expected += values[pixel] * weights[pixel[0], 0] * np.exp((np.cos(angle) - 1) / math.radians(20) ** 2)
    expected *= (values * weights).sum() / (expected * weights).sum()
    np.testing.assert_allclose(blur_sphere(values, 20.0), expected, rtol=1e-9)


def test_surrounded_regions_continue_across_the_seam_and_never_touch_a_pole():
    boolean = np.zeros((8, 12), np.uint8)
    boolean[3:5, 10:] = boolean[3:5, :2] = 1  # one region across the seam
    boolean[0:3, 4:6] = 1  # touches the first row
    boolean[6:, 7] = 1  # touches the last one
    expected = np.zeros_like(boolean)
    expected[3:5, 10:] = expected[3:5, :2] = 1
    np.testing.assert_array_equal(surrounded(boolean), expected)

    boolean[:4, 11] = 1  # now the region across the seam touches the first row on one side only
    assert surrounded(boolean).sum() == 0
    corner = np.zeros((6, 6), np.uint8)
    corner[2, 0] = corner[1, 5] = corner[0, 4] = 1  # connected by corners across the seam, up to the first row
    assert surrounded(corner).sum() == 0
    assert surrounded(np.ones((4, 8), np.uint8)).sum() == 0


def disc(azimuth, elevation, radius_deg=10):
    """A grey panorama with one red disc."""
    centre = angles_to_vector(azimuth, elevation)
    picture = np.full((64, 128, 3), 128, np.uint8)
    picture[angular_distance(erp_directions(64, 128), centre) < math.radians(radius_deg)] = (220, 40, 40)
    return picture, centre


@pytest.mark.parametrize("place", [(0, 0), (math.pi, 0.2), (1, 1.1), (0, math.pi / 2), (2, -math.pi / 2)])
def test_boolean_maps_find_a_disc_wherever_it_lies_on_the_sphere(place):
    picture, centre = disc(*place)
    saliency = boolean_map_saliency(picture)
    assert saliency.min() >= 0
    peak = erp_directions(*saliency.shape)[np.unravel_index(np.argmax(saliency), saliency.shape)]
    assert np.degrees(angular_distance(peak, centre)) < 10


@pytest.mark.parametrize("predict", [boolean_map_saliency, spectral_residual])
def test_maps_turn_with_a_panorama_about_the_vertical(predict):
    rng = np.random.default_rng(7)
    panorama = np.kron(rng.integers(0, 255, (16, 32, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    saliency = predict(panorama)
    quarter = predict(np.roll(panorama, panorama.shape[1] // 4, axis=1))
    expected = np.roll(saliency, saliency.shape[1] // 4, axis=1)
    # the turned projections of the Boolean maps are resampled
    assert np.corrcoef(quarter.ravel(), expected.ravel())[0, 1] > 0.95


def test_spectral_residual_finds_what_breaks_a_texture():
    rng = np.random.default_rng(13)
    level = 100 + 40 * np.sin(np.linspace(0, 2 * math.pi, 128, endpoint=False)) + rng.normal(0, 4, (64, 128))
    level[30:34, 60:66] = 255
    panorama = np.repeat(level[..., None], 3, axis=2).astype(np.uint8)
    saliency = spectral_residual(panorama)
    row, column = np.unravel_index(np.argmax(saliency), saliency.shape)
    assert abs(row - 32) < 4
    assert abs(column - 63) < 6


def test_baselines_have_no_preference_for_the_seam():
    flat = np.full((64, 128, 3), 90, np.uint8)
    assert np.ptp(boolean_map_saliency(flat)) == 0
    elevation = vector_to_angles(erp_directions(64, 128))[1]
    bands = np.repeat((128 + 100 * np.sin(6 * elevation))[..., None], 3, axis=2).astype(np.uint8)
    assert np.ptp(spectral_residual(bands), axis=1).max() < 1e-6 * spectral_residual(bands).max()


@pytest.mark.parametrize("predict", [prosal, gbvs360])
@pytest.mark.parametrize("place", [(0, 0), (math.pi, 0.2), (1, -1.2)])
def test_saliency_through_views_finds_a_disc_wherever_it_lies_on_the_sphere(predict, place):
    picture, centre = disc(*place, radius_deg=8)
    saliency = predict(picture)
    assert saliency.min() >= 0
    peak = erp_directions(*saliency.shape)[np.unravel_index(np.argmax(saliency), saliency.shape)]
    assert np.degrees(angular_distance(peak, centre)) < 12
    assert np.ptp(predict(np.full((64, 128, 3), 90, np.uint8))) == 0


def equilibrium(transitions):
    """The share of time that a random walk spends at each node, by walking; rows are normalised first."""
    transitions = transitions / transitions.sum(axis=1, keepdims=True)
    time = np.full(len(transitions), 1 / len(transitions))
    for _ in range(5000):
        time = 0.5 * time + 0.5 * time @ transitions  # staying now and then changes nothing but parity
    return time


def test_activation_and_concentration_are_the_equilibria_of_their_random_walks():
    feature = np.random.default_rng(3).random((5, 10))
    directions = erp_directions(5, 10).reshape(-1, 3)
    area = np.repeat(solid_angles(5, 10).ravel(), 10)
    near = np.array(
        [[math.exp(-0.5 * (float(angular_distance(a, b)) / 0.5) ** 2) for b in directions] for a in directions]
    )
    unlike = np.abs(feature.ravel()[:, None] - feature.ravel()[None])
    active = activation(feature, math.degrees(0.5))
    np.testing.assert_allclose(active.ravel() * area, equilibrium(unlike * near * area), rtol=1e-6)
    drawn = concentration(active, math.degrees(0.5))
    np.testing.assert_allclose(drawn.ravel() * area, equilibrium(active.ravel() * near * area), rtol=1e-6)


def test_views_cover_the_sphere_and_their_mean_is_that_of_what_each_shows():
    """Each view shows one number: a pixel gets the mean of the numbers of the views that see its direction."""
    numbers = np.random.default_rng(4).random(33)
    found = mean_over_views([np.full((8, 8), number) for number in numbers], 8, 16)
    assert np.isfinite(found).all()
    for row, column in ((0, 0), (7, 3), (9, 20), (15, 31)):
        direction = erp_directions(16, 32)[row, column]
        seen = []
        for number, (elevation, azimuth) in zip(
            numbers, itertools.product((-70, 0, 70), range(0, 360, 35)), strict=True
        ):
            turned = rotation_yaw_pitch_roll(math.radians(azimuth), math.radians(-elevation)).T @ direction
            if turned[0] > 0 and max(abs(turned[1:] / turned[0])) < math.tan(math.radians(35)):
                seen.append(number)
        assert found[row, column] == pytest.approx(np.mean(seen))


def test_regions_of_a_view_that_touch_its_border_are_not_surrounded():
    boolean = np.random.default_rng(5).integers(0, 2, (20, 24)).astype(np.uint8)
    reached = np.zeros_like(boolean)
    reached[0], reached[-1], reached[:, 0], reached[:, -1] = 1, 1, 1, 1
    reached &= boolean
    for _ in range(boolean.size):  # step by step from the border
        padded = np.pad(reached, 1)
        around = [padded[1 + i : 21 + i, 1 + j : 25 + j] for i in (-1, 0, 1) for j in (-1, 0, 1)]
        reached = np.max(around, axis=0) & boolean
    np.testing.assert_array_equal(surrounded_in_view(boolean), boolean - reached)


def test_the_authors_prior_is_1_at_its_middle_and_follows_half_of_the_maps_latitude():
    by_hand = (0.01 + 0.40 * math.exp(-(30**2) / 700)) / 0.41
    assert equatorial_prior(np.array([0.0, 30.0, -90.0])) == pytest.approx([1, by_hand, 1], abs=1e-4)
    rows = np.zeros((180, 360))
    rows[90 - 11] = 1.0  # 10.5° above the horizon
    low, high = (with_equatorial_prior(rows + each)[:, 0] for each in (0.0, 1e-9))
    assert low[79] == pytest.approx(float(equatorial_prior(np.array([10.5]), 5.25)[0]))
    assert high[79] == pytest.approx(low[79], rel=1e-4)
    assert np.ptp(with_equatorial_prior(np.zeros((6, 12)))) == 0
    priors = fit_priors([record([10])], 1)
    names = ("bms360", "uniform")
    plain, prior = (open_baselines(names, priors, equatorial_prior=each) for each in (False, True))
    picture, _ = disc(0, 0.3)
    np.testing.assert_allclose(prior["bms360"](picture), with_equatorial_prior(plain["bms360"](picture)))
    assert np.ptp(prior["uniform"](picture)) == 0
