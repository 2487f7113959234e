"""From fixations to a density: a Gaussian around each, exact on the sphere; and the planar one, to see the difference.

On the sphere a fixation's kernel depends on the angle to it alone: it is as round at a pole as on the equator and does
not end at the seam. It is evaluated directly, in the rows and columns around each fixation outside of which it is
below 1e-9 of its peak.
"""

from __future__ import annotations

import math
from typing import Literal

import cv2
import numpy as np

from sal360_ros.errors import ParameterError
from sal360_ros.ground_truth import count_fixations
from sal360_ros.sphere import Array, solid_angles, vector_to_angles

Kernel = Literal["von_mises_fisher", "gaussian"]

HEADSET_SIGMA_DEG = 3.34
"""Deviation of the kernel for gaze in a headset, degrees: the fovea and the tracker's error, as Salient360! has it."""
_TAIL = 1e-9


def spherical_density(
    fixations: Array, height: int, width: int, sigma_deg: float, kernel: Kernel = "von_mises_fisher"
) -> Array:
    """The density of fixations on the sphere, relative to uniform.

    Args:
        fixations: unit vectors (n, 3), n > 0.
        height, width: of the ERP map.
        sigma_deg: deviation of the kernel, degrees: at least half a pixel, or fixations would fall between pixels.
        kernel: von_mises_fisher is exp(κ (cos θ − 1)) with κ = 1/σ², the normal distribution of directions;
            gaussian is exp(−θ² / 2σ²).

    Returns:
        (height, width) float32, solid-angle-weighted mean 1. Leaving the tails out takes less than 1e-9 of its own
        peak from each kernel at any pixel.

    Raises:
        ParameterError: no fixation, or sigma_deg is too small for the map or larger than 60.
    """
    check_sigma(sigma_deg, height, width)
    _require_fixations(fixations)
    sigma = math.radians(sigma_deg)
    radius = _radius(sigma, kernel)
    row_elevation = math.pi / 2 - math.pi * (np.arange(height) + 0.5) / height
    column_azimuth = math.pi - 2 * math.pi * (np.arange(width) + 0.5) / width
    density = np.zeros((height, width))
    for azimuth, elevation in zip(*vector_to_angles(fixations), strict=True):
        rows = _rows_around(elevation, radius, height)
        columns = _columns_around(azimuth, elevation, radius, width)
        # haversine of the angle θ between the fixation and each pixel centre, (1 − cos θ) / 2: exact for small θ
        of_rows = np.sin((row_elevation[rows] - elevation) / 2) ** 2
        of_columns = np.sin((column_azimuth[columns] - azimuth) / 2) ** 2
        haversine = of_rows[:, None] + np.outer(math.cos(elevation) * np.cos(row_elevation[rows]), of_columns)
        if kernel == "von_mises_fisher":
            bump = np.exp(haversine * (-2 / sigma**2))
        else:
            bump = np.exp(np.arcsin(np.sqrt(np.minimum(haversine, 1.0))) ** 2 * (-2 / sigma**2))
        _add_around(density[rows], columns, bump)
    total = float(density.sum(axis=1) @ solid_angles(height, width)[:, 0])
    return (density * (4 * math.pi / total)).astype(np.float32)


def check_sigma(sigma_deg: float, height: int, width: int) -> None:
    """Check the deviation of a kernel, degrees, against the size of its map.

    Raises:
        ParameterError: it is too small for the map or larger than 60.
    """
    half_pixel_deg = max(90 / height, 180 / width)
    if not half_pixel_deg <= sigma_deg <= 60:
        raise ParameterError(
            f"sigma_deg is {sigma_deg:g} for a map of {width} x {height}",
            f"{half_pixel_deg:g} (half a pixel) to 60",
            "use a wider kernel or a larger map",
        )


def planar_density(fixations: Array, height: int, width: int, sigma_deg: float) -> Array:
    """The same with a Gaussian in the plane of the ERP picture, as if it were no sphere: for comparison only.

    A kernel there ends at the seam, and near a pole it is too narrow: by the cosine of the elevation.

    Returns:
        (height, width) float32, solid-angle-weighted mean 1.

    Raises:
        ParameterError: no fixation.
    """
    _require_fixations(fixations)
    counts = count_fixations(fixations, height, width).astype(np.float64)
    sigma_px = sigma_deg * height / 180
    density: Array = cv2.GaussianBlur(counts, (0, 0), sigma_px, borderType=cv2.BORDER_CONSTANT)
    total = float(density.sum(axis=1) @ solid_angles(height, width)[:, 0])
    return (density * (4 * math.pi / total)).astype(np.float32)


def _require_fixations(fixations: Array) -> None:
    if len(fixations) == 0:
        raise ParameterError("there is no fixation", "at least one", "leave this picture out")


def _radius(sigma: float, kernel: Kernel) -> float:
    """The angle beyond which the kernel is below `_TAIL`, radians."""
    if kernel == "gaussian":
        return min(math.pi, sigma * math.sqrt(-2 * math.log(_TAIL)))
    haversine = -math.log(_TAIL) * sigma**2 / 2
    return math.pi if haversine >= 1 else 2 * math.asin(math.sqrt(haversine))


def _rows_around(elevation: float, radius: float, height: int) -> slice:
    first = math.ceil((math.pi / 2 - elevation - radius) * height / math.pi - 0.5)
    last = math.floor((math.pi / 2 - elevation + radius) * height / math.pi - 0.5)
    return slice(max(0, first), min(height, last + 1))


def _columns_around(azimuth: float, elevation: float, radius: float, width: int) -> Array:
    """Indices of the columns that the cap touches, wrapped at the seam."""
    if abs(elevation) + radius >= math.pi / 2:  # it holds a pole: it touches every meridian
        return np.arange(width)
    half = math.asin(math.sin(radius) / math.cos(elevation))
    middle, half_px = (math.pi - azimuth) * width / (2 * math.pi) - 0.5, half * width / (2 * math.pi)
    return np.arange(math.ceil(middle - half_px), math.floor(middle + half_px) + 1) % width


def _add_around(rows: Array, columns: Array, bump: Array) -> None:
    """rows[:, columns] += bump in place, by slices: the columns are consecutive but for one wrap at the seam."""
    wrap = int(np.argmin(columns)) if len(columns) else 0
    for part in (slice(0, wrap), slice(wrap, None)):
        if len(columns[part]):
            first = columns[part][0]
            rows[:, first : first + len(columns[part])] += bump[:, part]
