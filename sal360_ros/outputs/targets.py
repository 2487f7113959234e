"""Gaze targets: the peaks of a map as directions, and the one direction to look at now.

Peaks are found on the sphere: local maxima of the map (over the seam and the poles), thinned by their angular
distance, placed between the pixels by a quadratic fit in the plane that touches the sphere there. The selector adds
time: it stays on a target for a dwell, and does not soon return to one that it left (inhibition of return; Itti,
Koch and Niebur, 1998), both in seconds and not in frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from sal360_ros.outputs.ranges import check_range
from sal360_ros.projection import pad_sphere, sample_erp
from sal360_ros.sphere import Array, angular_distance, erp_directions


@dataclass(frozen=True)
class PeakSettings:
    """Which places of a map are targets.

    Raises:
        ParameterError: a value is out of its range.
    """

    count: int = 5
    """Most targets of one map, 1 to 100."""
    min_separation_rad: float = 0.35
    """Least angle between two targets, radians, 0.01 to π: the radius of non-maximum suppression."""
    min_score: float = 1.5
    """Least density of a target, relative to uniform, 0 to 1e6: below it a map may have no target at all."""

    def __post_init__(self) -> None:
        check_range("count", self.count, 1, 100)
        check_range("min_separation_rad", self.min_separation_rad, 0.01, math.pi)
        check_range("min_score", self.min_score, 0, 1e6)


class Peaks(NamedTuple):
    """Targets of one map, best first."""

    directions: Array
    """(k, 3) float64 unit vectors in body axes."""
    scores: Array
    """(k,) float64: the density there, relative to uniform."""


def find_peaks(density: Array, settings: PeakSettings | None = None) -> Peaks:
    """The strongest local maxima of a map (h, w) float32 that keep their distance from each other, best first."""
    settings = settings or PeakSettings()
    height, width = density.shape
    highest_around = cv2.dilate(pad_sphere(density), np.ones((3, 3), np.uint8))[1:-1, 1:-1]
    rows, columns = np.nonzero((density >= highest_around) & (density >= settings.min_score))
    scores = density[rows, columns]  # (n,)
    directions = erp_directions(height, width)[rows, columns]  # (n, 3)
    kept: list[int] = []
    candidates = np.argsort(-scores, kind="stable")
    while len(candidates) and len(kept) < settings.count:
        best = candidates[0]
        kept.append(best)
        candidates = candidates[1:]
        apart = angular_distance(directions[candidates], directions[best]) > settings.min_separation_rad
        candidates = candidates[apart]
    if not kept:
        return Peaks(np.empty((0, 3)), np.empty(0))
    return Peaks(_between_pixels(density, directions[kept]), scores[kept].astype(np.float64))


def _between_pixels(density: Array, directions: Array) -> Array:
    """Directions (k, 3) of pixels moved to the top of a quadratic through the log-density around them.

    The log of a Gaussian is a quadratic, so the fit is exact for one. It moves by less than a pixel each way, and not
    at all where the surface is no hill.
    """
    step_rad = math.pi / density.shape[0]
    upward = np.where(np.abs(directions[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])  # (k, 3), not parallel
    right = np.cross(directions, upward)
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    up = np.cross(right, directions)
    offsets = np.tan(step_rad) * np.array([-1.0, 0.0, 1.0])
    grid = (
        directions[:, None, None]
        + offsets[None, :, None, None] * up[:, None, None]  # axis 1: down, here, up
        + offsets[None, None, :, None] * right[:, None, None]  # axis 2: left, here, right
    )  # (k, 3, 3, 3)
    around = sample_erp(density, grid.reshape(-1, 9, 3)).reshape(-1, 3, 3)  # (k, 3, 3)
    log = np.log(np.maximum(around, np.finfo(np.float32).tiny), dtype=np.float64)
    slope_x, slope_y = (log[:, 1, 2] - log[:, 1, 0]) / 2, (log[:, 2, 1] - log[:, 0, 1]) / 2
    bend_xx = log[:, 1, 2] + log[:, 1, 0] - 2 * log[:, 1, 1]
    bend_yy = log[:, 2, 1] + log[:, 0, 1] - 2 * log[:, 1, 1]
    bend_xy = (log[:, 2, 2] + log[:, 0, 0] - log[:, 2, 0] - log[:, 0, 2]) / 4
    determinant = bend_xx * bend_yy - bend_xy**2
    hill = (bend_xx < 0) & (determinant > 1e-12)
    safe = np.where(hill, determinant, 1.0)
    move_x = np.where(hill, (bend_xy * slope_y - bend_yy * slope_x) / safe, 0.0).clip(-1, 1)
    move_y = np.where(hill, (bend_xy * slope_x - bend_xx * slope_y) / safe, 0.0).clip(-1, 1)
    moved = directions + np.tan(step_rad) * (move_x[:, None] * right + move_y[:, None] * up)
    result: Array = moved / np.linalg.norm(moved, axis=-1, keepdims=True)
    return result
