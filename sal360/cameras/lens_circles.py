"""The circles in which fisheye lenses draw their pictures, found by their border against the black around them."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from sal360.arrays import Floats, Mask, Pixels, Reals
from sal360.errors import DataError

_RAYS = 720
_TRIPLES = 600
"""Circles through three random points of the border that are tried."""
_LARGEST_DEVIATION = 0.01
"""Standard deviation of a centre or radius, relative to the radius, above which a circle counts as not found."""


class Circle(NamedTuple):
    """A circle in pixels, integers being pixel centres, and the standard deviation of its centre and radius."""

    x: float
    y: float
    radius: float
    deviation: float

    def shifted(self, x: float, y: float) -> Circle:
        """The circle, moved."""
        return self._replace(x=self.x + x, y=self.y + y)


def find_circle(brightness: Pixels, name: str) -> Circle:
    """The circle of a lens in its part of a picture, to a fraction of a pixel where its border is visible.

    The border is the outermost change from bright to black along rays from the middle. Dark parts of a scene hide it:
    the circle is the one on which the largest number of rays agree.

    Args:
        brightness: (h, w) uint8; the maximum of several pictures shows the border where any of them is bright.
        name: what an error calls the part: "the left half".

    Raises:
        DataError: too little of a border is visible.
    """
    height, width = brightness.shape
    nominal = min(height, width) / 2
    blurred = cv2.GaussianBlur(brightness.astype(np.float32), (0, 0), max(0.8, nominal / 500))
    soft = blurred.astype(np.float32, copy=False)
    circle = Circle(width / 2 - 0.5, height / 2 - 0.5, nominal, math.inf)
    threshold = _threshold_of_black(soft, circle)
    for _ in range(3):  # rays from the middle of the circle meet its border at right angles
        points = _border_points(soft, circle, threshold)
        fitted = _fit(points, circle, nominal)
        if fitted is None:
            raise DataError(
                f"the border of the lens's circle is not visible in {name}",
                "use a brighter picture, straight from the camera, in which the circles are whole and surrounded by "
                "black",
            )
        circle = fitted
    return circle


def _threshold_of_black(soft: Reals, nominal: Circle) -> float:
    """The brightness below which a pixel can belong to the black around the lens: its level and noise, from corners."""
    rows, columns = np.ogrid[: soft.shape[0], : soft.shape[1]]
    corners = soft[np.hypot(columns - nominal.x, rows - nominal.y) > 1.15 * nominal.radius]
    if corners.size == 0:
        return 0.0
    level = float(np.percentile(corners, 25))  # a glare may lie on some of them
    noise = 1.5 * float(np.median(np.abs(corners - level)))
    return level + max(5.0, 5 * noise)


def _border_points(soft: Reals, circle: Circle, threshold: float) -> Floats:
    """The outermost bright points (N, 2) along rays beyond which black is visible."""
    step = max(0.5, circle.radius / 800)
    inside = max(3, round(0.015 * circle.radius / step))  # samples that must be bright inside the border
    radii = np.arange(0.6 * circle.radius, 1.3 * circle.radius, step)
    angles = np.arange(_RAYS) * (2 * math.pi / _RAYS)
    x = circle.x + np.cos(angles)[:, None] * radii
    y = circle.y + np.sin(angles)[:, None] * radii
    values = cv2.remap(
        soft, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    in_picture = (x >= 0) & (x <= soft.shape[1] - 1) & (y >= 0) & (y <= soft.shape[0] - 1)
    bright = (values > threshold) & in_picture
    lit = cv2.boxFilter(bright.astype(np.float32), -1, (inside, 1), anchor=(inside - 1, 0)) > 0.8
    index = radii.size - 1 - np.argmax((bright & lit)[:, ::-1], axis=1)
    rays = np.arange(_RAYS)
    beyond = np.minimum(index + inside, radii.size - 1)  # black must follow, in the picture
    found = (bright & lit)[rays, index] & in_picture[rays, beyond] & (index >= 2 * inside)
    border = np.array([_crossing(values[ray], index[ray], inside) for ray in rays[found]])
    radius = radii[0] + step * border
    turn = angles[found]
    return np.stack([circle.x + np.cos(turn) * radius, circle.y + np.sin(turn) * radius], axis=-1)


def _crossing(values: Reals, index: int, inside: int) -> float:
    """The fractional index near `index` at which values fall through half of the brightness inside."""
    half = (
        float(np.median(values[index - 2 * inside : index])) + float(values[min(index + inside, len(values) - 1)])
    ) / 2
    start, end = index - inside, min(index + 4, len(values) - 1)
    above = np.flatnonzero(values[start:end] >= half)
    last = start + int(above[-1]) if above.size else index
    drop = float(values[last] - values[last + 1])
    return last + (min(max((float(values[last]) - half) / drop, 0.0), 1.0) if drop > 0 else 0.0)


def _fit(points: Floats, before: Circle, nominal: float) -> Circle | None:
    """The circle on which the largest number of points lie, or None if it is not determined by them."""
    if len(points) < _RAYS // 12:
        return None
    tolerance = max(0.7, 0.004 * nominal)
    x, y, radius = _circles_through(points)
    plausible = (abs(radius / nominal - 1) < 0.35) & (np.hypot(x - before.x, y - before.y) < 0.3 * nominal)
    if not plausible.any():
        return None
    x, y, radius = x[plausible], y[plausible], radius[plausible]
    distance = np.hypot(points[:, 0] - x[:, None], points[:, 1] - y[:, None]) - radius[:, None]
    best = int(np.argmin(np.minimum(np.abs(distance), tolerance).sum(axis=1)))
    return _refined(points, np.array([x[best], y[best], radius[best]]), tolerance)


def _circles_through(points: Floats) -> tuple[Floats, Floats, Floats]:
    """Centres and radii of the circles through random triples of points; triples on a line are left out."""
    generator = np.random.default_rng(0)  # the same calibration from the same picture
    a, b, c = np.moveaxis(points[generator.integers(0, len(points), (_TRIPLES, 3))], 1, 0)
    b, c = b - a, c - a
    area = 2 * (b[:, 0] * c[:, 1] - b[:, 1] * c[:, 0])
    usable = np.abs(area) > 1.0
    a, b, c, area = a[usable], b[usable], c[usable], area[usable]
    square_b, square_c = (b**2).sum(axis=1), (c**2).sum(axis=1)
    x = (c[:, 1] * square_b - b[:, 1] * square_c) / area
    y = (b[:, 0] * square_c - c[:, 0] * square_b) / area
    return a[:, 0] + x, a[:, 1] + y, np.hypot(x, y)


def _refined(points: Floats, circle: Floats, tolerance: float) -> Circle | None:
    """Gauss-Newton on the points that lie on the circle."""
    for _ in range(10):
        offset = points - circle[:2]
        length = np.hypot(offset[:, 0], offset[:, 1])
        residual = length - circle[2]
        near: Mask = np.abs(residual) < tolerance
        if near.sum() < _RAYS // 12:
            return None
        slopes = np.column_stack([-offset[near] / length[near, None], -np.ones(near.sum())])
        normal = slopes.T @ slopes
        if np.linalg.cond(normal) > 1e8:
            return None
        circle = circle - np.linalg.solve(normal, slopes.T @ residual[near])
    # neighbouring rays share their pixels and the unevenness of the border: a tenth of them is independent
    spread = float(np.sqrt(np.mean(residual[near] ** 2) + 0.01))
    deviation = spread * math.sqrt(10 * float(np.linalg.inv(normal).diagonal().max()))
    if deviation > _LARGEST_DEVIATION * circle[2]:
        return None
    x, y, radius = circle.tolist()
    return Circle(x, y, radius, deviation)
