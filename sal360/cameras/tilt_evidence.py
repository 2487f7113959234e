"""What a picture of the whole sphere says about which way is up.

Buildings, trees and furniture have vertical lines, rooms and streets have level ones, the sky is above the ground and
brighter. `TiltEvidence` takes straight lines and coarse colours from a picture once, and then scores any direction: the
more the picture looks as pictures do whose top is there, the higher the score. The score is a log probability up to a
constant, a weighted sum of
    - the share of the lines' length that is vertical, for lines of several lengths,
    - the share at each elevation and slope, with the brighter side up or down,
    - the share along the horizon,
    - how brightness, colour and texture change with elevation (Legendre polynomials of its sine).
The weights come from upright panoramas (`training/fit_levelling.py`), by multinomial logistic regression of the true up
against all other directions. Everything is measured relative to the direction that is scored, so the score does not
depend on how the picture is turned, and there is nothing to learn for each tilt.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray

from sal360.arrays import Floats, Integers, Pixels
from sal360.projection import sample_erp
from sal360.sphere import angles_to_vector

_Singles = NDArray[np.float32]

_WIDTH = 1024
"""Pictures are reduced to this width: the weights belong to lines at this scale, and it bounds the cost."""
_FACE_PX = 192
"""Lines are found on the faces of a cube, where straight lines are straight."""
_SHORTEST_RAD, _LONGEST_RAD = math.radians(1.5), math.radians(20)
_MAX_LINES = 1500
_POINTS = 600
_DEGREES = 5

_LENGTHS_RAD = np.radians([3, 6, 12])
"""Between the classes of lines by length."""
_FROM_VERTICAL_DEG = (0.75, 1.5, 3, 5, 8, 12, 20, 35)
"""Between the classes of lines by the angle between up and the plane through the line and the camera."""
_FROM_HORIZON_DEG = (15, 8, 4, 2, 1)
"""Between the classes of lines by the angle between up and that plane's normal."""
_SLOPES_DEG = (-85, -70, -45, -20, -7, -2, 2, 7, 20, 45, 70, 85)
_ELEVATIONS_DEG = (-50, -25, -10, -3, 3, 10, 25, 50)
_CELLS = 2048
"""Cosines from −1 to 1 are classified through a table with twice this many cells."""

_VERTICALS = (len(_LENGTHS_RAD) + 1) * (len(_FROM_VERTICAL_DEG) + 1)
_PLACES = (len(_SLOPES_DEG) + 1) * (len(_ELEVATIONS_DEG) + 1)
_HORIZONTALS = 2 * (len(_FROM_HORIZON_DEG) + 1)
_COLOURS = 11
COUNTS = _VERTICALS + _PLACES + _HORIZONTALS
"""Number of features that come from lines."""
FEATURES = COUNTS + _DEGREES * _COLOURS
"""Number of features, and of weights."""


class Lines(NamedTuple):
    """Straight lines in a picture of the sphere: each lies in a plane through the camera."""

    normals: _Singles
    """(N, 3) unit normals of the planes, towards the line's brighter side."""
    middles: _Singles
    """(N, 3) unit vectors of the lines' middles."""
    lengths_rad: _Singles
    """(N,) angles that they span."""


class TiltEvidence:
    """The lines and colours of one picture.

    Args:
        picture: equirectangular, (H, W, 3) uint8, blue, green, red, in the camera's body axes.
    """

    def __init__(self, picture: Pixels) -> None:
        height, width = picture.shape[:2]
        if width > _WIDTH:
            size = _WIDTH, max(1, round(height * _WIDTH / width))
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        lines = find_lines(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(np.uint8, copy=False))
        self._normals, self._middles = lines.normals.T, lines.middles.T  # (3, N)
        self._class = np.digitize(lines.lengths_rad, _LENGTHS_RAD)
        length_deg = np.degrees(np.minimum(lines.lengths_rad, _LONGEST_RAD))
        total_deg = float(length_deg.sum())
        # shares of the length, times the root of their number: many lines are more evidence, but not independent
        self._share = length_deg / max(math.sqrt(total_deg * _USUAL_TOTAL_DEG), 1e-6)
        self._colours = _colours(picture)

    def features(self, directions: Floats) -> Floats:
        """The features of each direction as up.

        Args:
            directions: (M, 3) unit vectors.

        Returns:
            (M, FEATURES).
        """
        firsts = COUNTS * np.arange(len(directions))[:, None]
        bins = np.stack([firsts + places for places in self._places(directions)])  # (3, M, N)
        shares = np.broadcast_to(self._share, bins.shape)
        counts = np.bincount(bins.ravel(), shares.ravel(), COUNTS * len(directions)).reshape(-1, COUNTS)
        return np.concatenate([counts, self._colour_features(directions)], axis=1)

    def scores(self, directions: Floats, weights: Floats) -> Floats:
        """The log probability, up to a constant, of each direction as up: (M,) for directions (M, 3)."""
        vertical, place, horizontal = self._places(directions)
        of_lines = weights[vertical] + weights[place] + weights[horizontal]  # (M, N)
        total: Floats = of_lines @ self._share + self._colour_features(directions) @ weights[COUNTS:]
        return total

    def _places(self, directions: Floats) -> tuple[Integers, Integers, Integers]:
        """For each direction and line (M, N), the three features that the line counts for."""
        up = directions.astype(np.float32)
        across = up @ self._normals  # cosine between up and the plane's normal: 0 for vertical lines
        height = up @ self._middles  # sine of the elevation of the line's middle
        slope = across / np.sqrt(np.maximum(1 - height * height, 1e-3))
        tables = _tables()
        vertical = tables.from_vertical[_cell(across)] + (len(_FROM_VERTICAL_DEG) + 1) * self._class
        place = tables.slopes[_cell(slope)] + (len(_SLOPES_DEG) + 1) * tables.elevations[_cell(height)]
        return vertical, _VERTICALS + place, _VERTICALS + _PLACES + tables.from_horizon[_cell(across)]

    def _colour_features(self, directions: Floats) -> Floats:
        heights = directions @ fibonacci_sphere(_POINTS).T
        return np.concatenate(
            [
                math.sqrt(2 * degree + 1) / _POINTS * (legendre.Legendre.basis(degree)(heights) @ self._colours)
                for degree in range(1, _DEGREES + 1)
            ],
            axis=1,
        )


_USUAL_TOTAL_DEG = 600.0
"""A usual sum of the lengths of a picture's lines; a scale, without influence on the result."""


class _Tables(NamedTuple):
    """The class of each cell of cosines from −1 to 1."""

    from_vertical: Integers
    from_horizon: Integers
    slopes: Integers
    elevations: Integers


@lru_cache(maxsize=1)
def _tables() -> _Tables:
    cosines = np.arange(-_CELLS, _CELLS + 1) / _CELLS
    near = np.digitize(np.abs(cosines), np.cos(np.radians(_FROM_HORIZON_DEG)))
    return _Tables(
        np.digitize(np.abs(cosines), np.sin(np.radians(_FROM_VERTICAL_DEG))),
        np.where(cosines < 0, near + len(_FROM_HORIZON_DEG) + 1, near),
        np.digitize(cosines, np.sin(np.radians(_SLOPES_DEG))),
        np.digitize(cosines, np.sin(np.radians(_ELEVATIONS_DEG))),
    )


def _cell(cosines: _Singles) -> Integers:
    cells: Integers = np.rint(cosines * np.float32(_CELLS)).astype(np.int64)
    return np.clip(cells, -_CELLS, _CELLS, out=cells) + _CELLS


def find_lines(grey: Pixels) -> Lines:
    """The longest straight lines of a panorama (H, W) uint8.

    They are found on the faces of a cube by the line segment detector of von Gioi et al. (LSD, 2010).
    """
    found = [_lines_of_face(grey, axes) for axes in _face_axes()]
    lines = Lines(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
    longest = np.argsort(-lines.lengths_rad, kind="stable")[:_MAX_LINES]
    longest = longest[lines.lengths_rad[longest] > _SHORTEST_RAD]
    return Lines(*(part[longest] for part in lines))


def _lines_of_face(grey: Pixels, axes: Floats) -> Lines:
    face = sample_erp(grey, _face_rays(np.arange(_FACE_PX)[None, :], np.arange(_FACE_PX)[:, None], axes))
    ends = cv2.createLineSegmentDetector().detect(face)[0]
    if ends is None:
        return Lines(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32), np.zeros(0, np.float32))
    # the detector works at 0.8 of the size, and its coordinates are 1/8 pixel too small
    x1, y1, x2, y2 = ends.reshape(-1, 4).astype(np.float64).T + 0.125  # (N, 1, 4) → (N, 4)
    first, last = _face_rays(x1, y1, axes), _face_rays(x2, y2, axes)
    normals = np.cross(last, first)  # the detector goes from first to last with the brighter side on the right
    sines = np.linalg.norm(normals, axis=-1)
    middles = first + last
    return Lines(
        (normals / np.maximum(sines, 1e-9)[:, None]).astype(np.float32),
        (middles / np.linalg.norm(middles, axis=-1, keepdims=True)).astype(np.float32),
        np.arcsin(np.minimum(sines, 1)).astype(np.float32),
    )


@lru_cache(maxsize=1)
def _face_axes() -> Floats:
    """The faces' axes as rows (forward, left, up), (6, 3, 3)."""
    x, y, z = np.eye(3)
    return np.array([(x, y, z), (y, -x, z), (-x, -y, z), (-y, x, z), (z, y, -x), (-z, y, x)])


def _face_rays(x: Floats | Integers, y: Floats | Integers, axes: Floats) -> Floats:
    """Unit vectors (..., 3) of pixel coordinates of a face."""
    left, up = 1 - (x + 0.5) * (2 / _FACE_PX), 1 - (y + 0.5) * (2 / _FACE_PX)
    rays = np.stack(np.broadcast_arrays(1.0, left, up), axis=-1) @ axes
    unit: Floats = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    return unit


def _colours(picture: Pixels) -> Floats:
    """Brightness, colours and texture around points spread over the sphere, standardised, and some of their products:
    (_POINTS, _COLOURS)."""
    small = cv2.resize(picture, (512, 256), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    blue, green, red = np.moveaxis(small, -1, 0)
    grey = 0.114 * blue + 0.587 * green + 0.299 * red
    brightest = small.max(axis=-1)
    horizontal = np.cos((np.arange(256) + 0.5) / 256 * math.pi - math.pi / 2)[:, None]  # pixels shrink to the poles
    texture = np.hypot(np.gradient(grey, axis=1) / np.maximum(horizontal, 0.1), np.gradient(grey, axis=0))
    saturation = (brightest - small.min(axis=-1)) / (brightest + 0.05)
    channels = np.stack([grey, blue - red, saturation, texture, green - (blue + red) / 2], axis=-1)
    coarse = cv2.resize(channels.astype(np.float32), (128, 64), interpolation=cv2.INTER_AREA)
    wrapped = np.concatenate([coarse[:, -4:], coarse, coarse[:, :4]], axis=1)
    smooth = np.ascontiguousarray(cv2.blur(wrapped, (3, 3))[:, 4:-4], dtype=np.float32)
    values = sample_erp(smooth, fibonacci_sphere(_POINTS)[None])[0].astype(np.float64)  # (_POINTS, 5)
    grey, blue, saturation, texture, green = ((values - values.mean(0)) / (values.std(0) + 1e-3)).T
    products = grey * texture, grey * blue, grey * grey, texture * texture, blue * texture, grey * saturation
    return np.stack([grey, blue, saturation, texture, green, *products], axis=-1)


@lru_cache(maxsize=4)
def fibonacci_sphere(count: int) -> Floats:
    """Unit vectors (count, 3), spread evenly over the sphere from top to bottom; read-only and cached."""
    index = np.arange(count) + 0.5
    elevation = np.arcsin(1 - 2 * index / count)
    vectors = angles_to_vector(index * math.pi * (1 + math.sqrt(5)), elevation)
    vectors.flags.writeable = False
    return vectors
