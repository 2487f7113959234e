"""Classical saliency through perspective views of a panorama: ProSal and GBVS360, and their authors' equatorial prior.

Lebreton and Raake, "GBVS360, BMS360, ProSal: Extending existing saliency prediction models from 2D to omnidirectional
images", Signal Processing: Image Communication 69, 2018. Both look at the panorama through square views of 70°, every
35° of azimuth at the elevations −70°, 0° and 70°, and average over the views what they found there:

ProSal   the Boolean map saliency of each view (`classical`);
GBVS360  features of each view (colour, intensity, orientation at three scales), as the nodes of graph-based visual
         saliency (Harel, Koch, Perona, NIPS 2006) on the sphere: distances are angles, and a node counts by its solid
         angle. Random walks over the graph stay where features differ from what is near; that is closed-form here,
         because the walks are reversible.

`with_equatorial_prior` multiplies a map by the authors' prior. They also move it to the height of faces; this does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from sal360.arrays import Floats, Mask, Pixels
from sal360.density import blur_sphere
from sal360.projection import Viewport
from sal360.sphere import angular_distance, erp_directions, rotation_yaw_pitch_roll, solid_angles
from training.data.views import resize
from training.evaluation.classical import attention_of_view
from training.models.prior import row_elevations_deg

_FOV_DEG, _ELEVATIONS_DEG = 70, (-70, 0, 70)
_Places = tuple[Floats, Floats, Mask]

_PROSAL_HEIGHT = 128
_PROSAL_VIEW = 64  # pixels
_PROSAL_BLUR_DEG = 5.0


def prosal(panorama: Pixels) -> Floats:
    """Saliency (128, 256), not negative, of a panorama (H, W, 3) RGB."""
    small = resize(panorama, 2 * _PROSAL_HEIGHT)
    found = []
    for view in _views(_PROSAL_VIEW):
        lab = np.asarray(cv2.cvtColor(view.cut_from(small), cv2.COLOR_RGB2LAB), np.uint8)
        found.append(attention_of_view(lab, view.solid_angles_sr))
    saliency = mean_over_views(found, _PROSAL_VIEW, _PROSAL_HEIGHT)
    return np.maximum(blur_sphere(saliency, _PROSAL_BLUR_DEG), 0)


_GBVS_HEIGHT = 30  # rows of the graph; the longer side has the authors' 60 nodes
_GBVS_VIEW = 128  # pixels
_GBVS_LOOKED_UP = 16  # pixels to which the features of a view are averaged: finer than the nodes
_LEVELS = (2, 4, 8)  # by which a view is reduced
_ANGLES_DEG = (0, 45, 90, 135)
_ACTIVATION_SIGMA_DEG = 40.5  # .15 of the mean of the graph's sides, 45 nodes of 6 degrees
_CONCENTRATION_SIGMA_DEG = 16.2  # .06 of it
_SMALLEST_CONTRAST = 1e-6  # of features, whose scale is that of RGB in [0, 1]
_GBVS_BLUR_DEG = 7.2  # .02 of the panorama's width
_LMS = np.array([[0.31399, 0.63951, 0.04650], [0.15537, 0.75789, 0.08670], [0.01775, 0.10944, 0.87277]])
"""Responses of the three cones to linear RGB; grey has the same in all three (Hunt-Pointer-Estevez, D65)."""


def gbvs360(panorama: Pixels) -> Floats:
    """Saliency (30, 60), not negative, of a panorama (H, W, 3) RGB."""
    small = resize(panorama, 2 * _GBVS_VIEW)
    of_views = [_features(view.cut_from(small)) for view in _views(_GBVS_VIEW)]
    channels: list[Floats] = []
    for channel in of_views[0]:
        maps = []
        for i in range(len(of_views[0][channel])):
            feature = mean_over_views([each[channel][i] for each in of_views], _GBVS_LOOKED_UP, _GBVS_HEIGHT)
            maps.append(concentration(activation(feature, _ACTIVATION_SIGMA_DEG), _CONCENTRATION_SIGMA_DEG))
        channels.append(np.asarray(np.mean(maps, axis=0)))
    return np.maximum(blur_sphere(np.asarray(np.sum(channels, axis=0)), _GBVS_BLUR_DEG), 0)


def activation(feature: Floats, sigma_deg: float) -> Floats:
    """Where a feature map (h, w) on the sphere differs from what is near: a density (h, w) with mass 1, or zeros.

    The equilibrium of a random walk from node i to node j with a probability ∝ |f_i − f_j| · exp(−θ² / 2σ²) · Ω_j. All
    but Ω, the solid angle, is symmetric, so the walk is reversible, and the time that it spends at i is ∝ Ω_i times the
    sum over j.
    """
    height, width = feature.shape
    flat = feature.ravel()
    if np.ptp(flat) < _SMALLEST_CONTRAST:  # what rounding leaves of a flat picture
        return np.zeros_like(feature)
    area = _areas(height, width)
    weights = np.abs(flat[:, None] - flat) * _nearness(height, width, sigma_deg)
    return _scaled((weights @ area).reshape(height, width))


def concentration(values: Floats, sigma_deg: float) -> Floats:
    """A density (h, w) drawn together to its peaks: a density (h, w) with mass 1, or zeros.

    The equilibrium of a random walk with probabilities ∝ a_j · exp(−θ² / 2σ²) · Ω_j, which is reversible too.
    """
    height, width = values.shape
    near = _nearness(height, width, sigma_deg) @ (values.ravel() * _areas(height, width))
    return _scaled(values * near.reshape(height, width))


def _scaled(density: Floats) -> Floats:
    mass = float((density * solid_angles(*density.shape)).sum())
    return density / mass if mass > 0 else density


@lru_cache(maxsize=4)
def _nearness(height: int, width: int, sigma_deg: float) -> Floats:
    """exp(−θ² / 2σ²) of the angle θ between each two pixels: (h · w, h · w)."""
    directions = erp_directions(height, width).reshape(-1, 3)
    angle = angular_distance(directions[:, None], directions[None])
    return np.asarray(np.exp(-0.5 * (angle / math.radians(sigma_deg)) ** 2))


def _areas(height: int, width: int) -> Floats:
    return np.broadcast_to(solid_angles(height, width), (height, width)).ravel()


def _features(view: Pixels) -> dict[str, list[Floats]]:
    """Feature maps of a view (h, h, 3) RGB by channel, (16, 16) each."""
    linear = (view / 255.0) ** 2.2
    found: dict[str, list[Floats]] = {"colour": [], "intensity": [], "orientation": []}
    for level in _LEVELS:
        size = (view.shape[1] // level, view.shape[0] // level)
        reduced = cv2.resize(linear, size, interpolation=cv2.INTER_AREA)
        long, middle, short = np.moveaxis(reduced @ _LMS.T, -1, 0)
        intensity = np.ascontiguousarray(reduced.mean(axis=2)) ** (1 / 2.2)
        found["colour"] += [long + middle, long - middle, short - (long + middle) / 2]
        found["intensity"].append(intensity)
        found["orientation"] += [_edges(intensity, math.radians(angle)) for angle in _ANGLES_DEG]
    side = (_GBVS_LOOKED_UP, _GBVS_LOOKED_UP)
    return {
        channel: [np.asarray(cv2.resize(each, side, interpolation=cv2.INTER_AREA)) for each in maps]
        for channel, maps in found.items()
    }


def _edges(intensity: Floats, angle_rad: float) -> Floats:
    """Strength of structures of one orientation: the magnitude of an even and an odd Gabor filter, period 7 pixels."""
    responses = []
    for phase in (0.0, math.pi / 2):
        kernel = cv2.getGaborKernel((9, 9), 7 / 3, angle_rad, 7.0, 1.0, phase, cv2.CV_64F)
        responses.append(cv2.filter2D(intensity, cv2.CV_64F, kernel - kernel.mean(), borderType=cv2.BORDER_REFLECT))
    return np.asarray(np.hypot(*responses))


# --- views ---


@lru_cache(maxsize=8)
def _views(size: int) -> tuple[Viewport, ...]:
    """The views, `size` pixels square."""
    azimuths_deg = np.arange(0, 360, _FOV_DEG // 2)
    return tuple(
        Viewport(
            rotation_yaw_pitch_roll(math.radians(azimuth), math.radians(-elevation)),
            math.radians(_FOV_DEG),
            size,
            size,
        )
        for elevation in _ELEVATIONS_DEG
        for azimuth in azimuths_deg
    )


@lru_cache(maxsize=4)
def _places_in_views(size: int, height: int) -> tuple[_Places, ...]:
    """Column, row and visibility of each pixel of a panorama of `height` rows in each view."""
    directions = erp_directions(height, 2 * height)
    return tuple(view.project(directions) for view in _views(size))


def mean_over_views(pictures: Sequence[Floats], size: int, height: int) -> Floats:
    """The mean of what the views show of each pixel, (height, 2 · height).

    Args:
        pictures: one for each view, (size, size).
        size: their sides, pixels.
        height: rows of the result; no view is empty, and together they show the whole sphere.
    """
    total, seen = np.zeros((height, 2 * height)), np.zeros((height, 2 * height))
    for picture, (x, y, inside) in zip(pictures, _places_in_views(size, height), strict=True):
        maps = x.astype(np.float32), y.astype(np.float32)
        shown = cv2.remap(picture.astype(np.float64), *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        total += np.where(inside, shown, 0)
        seen += inside
    return total / seen


# --- the authors' equatorial prior ---


def with_equatorial_prior(saliency: Floats) -> Floats:
    """A map (h, w), not negative, times the authors' prior: a Gaussian of latitude, and lobes at the poles.

    Its middle lies half-way from the horizon to the mean latitude of the map, at most 9° from it.
    """
    latitude = row_elevations_deg(len(saliency))
    of_rows = saliency.mean(axis=1)
    total = float(of_rows.sum())
    mean = float((of_rows * latitude).sum()) / total if total > 0 else 0.0
    return saliency * equatorial_prior(latitude, min(max(mean, -18.0), 18.0) / 2)[:, None]


def equatorial_prior(latitude_deg: Floats, middle_deg: float = 0.0) -> Floats:
    """The authors' prior at latitudes (n,), degrees: at most 1."""

    def bump(at_deg: float, width: float) -> Floats:
        return np.asarray(np.exp(-((latitude_deg - at_deg) ** 2) / width))

    prior = (0.01 + 0.40 * bump(middle_deg, 700) + 0.75 * bump(100, 200) + 0.75 * bump(-90, 200)) / 0.41
    return np.minimum(prior, 1)
