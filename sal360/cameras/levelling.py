"""Levelling: which way is up for a tilted camera, known from gravity or estimated from its pictures.

"Up" is a unit vector in the camera's body axes, (0, 0, 1) for an upright camera. The rotation that levels the camera
turns body axes into upright axes, in which up is +z, by the shortest way: it has no turn about the vertical, so the
camera's heading stays. As a quaternion (x, y, z, w), as in ROS messages, it is the orientation in which the camera is
mounted on an upright robot.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from sal360.arrays import Floats, Pixels
from sal360.cameras.tilt_evidence import FEATURES, TiltEvidence, fibonacci_sphere
from sal360.errors import DataError, FrameError, ParameterError
from sal360.images import require_picture
from sal360.sphere import angular_distance, rotation_from_quaternion
from sal360.weights import bundled_tilt_weights

UP: Floats = np.array([0.0, 0.0, 1.0])
"""Up in upright axes, and for an upright camera."""
MAX_TILT_RAD = math.radians(75)
"""Default of the largest tilt that `estimate_up` considers. At 90° from up, a room has directions that resemble up."""
CONFIDENT_RAD = math.radians(5)
"""The error that a confidence refers to."""
MIN_CONFIDENCE = 0.5
"""Below this confidence, an estimate says that the picture does not show which way is up."""


def unit_up(vector: ArrayLike) -> Floats:
    """The unit vector (3,) of a vector that points up, for example an accelerometer's reading at rest.

    Raises:
        ParameterError: the vector is zero or not finite, so it does not give a direction.
    """
    up = np.asarray(vector, dtype=np.float64).reshape(3)
    largest = np.abs(up).max()
    if not 0 < largest < math.inf:
        raise ParameterError(f"the vector up is {tuple(up.tolist())}", "set three finite numbers, not all of them 0")
    scaled = up / largest  # squares of tiny or huge numbers would leave the range of floats
    unit: Floats = scaled / np.linalg.norm(scaled)
    return unit


def up_in_camera(orientation: Floats) -> Floats:
    """Up (3,) in the camera's body axes, for a rotation (3, 3) from body axes to any axes whose z is vertical."""
    return unit_up(orientation[2])


def levelling_quaternion(up: ArrayLike) -> tuple[float, float, float, float]:
    """The shortest rotation that turns `up` to +z, as a unit quaternion (x, y, z, w) with w ≥ 0.

    A camera that is exactly upside down is turned about its x axis, so that it still looks ahead.

    Raises:
        ParameterError: the vector is zero or not finite.
    """
    x, y, z = unit_up(up).tolist()
    horizontal = math.hypot(x, y)
    half_rad = math.atan2(horizontal, z) / 2
    axis = (y / horizontal, -x / horizontal) if horizontal else (1.0, 0.0)
    return math.sin(half_rad) * axis[0], math.sin(half_rad) * axis[1], 0.0, math.cos(half_rad)


def levelling_rotation(up: ArrayLike) -> Floats:
    """The rotation (3, 3) from the camera's body axes to upright axes; see `levelling_quaternion`."""
    x, y, z, w = levelling_quaternion(up)
    return rotation_from_quaternion(w, x, y, z)


def roll_and_pitch(up: ArrayLike) -> tuple[float, float]:
    """The camera's roll in (−π, π] and pitch in [−π/2, π/2], radians, as in `sphere.rotation_yaw_pitch_roll`.

    Positive roll: the left side is lifted; positive pitch: the front is lowered.
    """
    x, y, z = unit_up(up).tolist()
    return math.atan2(y + 0.0, z), math.atan2(-x, math.hypot(y, z))


def tilt(up: ArrayLike) -> float:
    """Angle between the camera's z axis and up, in [0, π] radians."""
    return float(angular_distance(unit_up(up), UP))


@dataclass(frozen=True, eq=False)
class UpEstimate:
    """Which way is up, estimated from one or more pictures."""

    up: Floats
    """Unit vector (3,) in the camera's body axes."""
    confidence: float
    """Estimated probability that `up` is less than 5° wrong, 0 to 1."""

    @property
    def is_certain(self) -> bool:
        """Whether the confidence is at least `MIN_CONFIDENCE`."""
        return self.confidence >= MIN_CONFIDENCE

    @property
    def rotation(self) -> Floats:
        """See `levelling_rotation`."""
        return levelling_rotation(self.up)


def estimate_up(picture: Pixels, *, max_tilt_rad: float = MAX_TILT_RAD, weights: Floats | None = None) -> UpEstimate:
    """Estimate which way is up from the lines and colours of a picture of the whole sphere.

    The picture is reduced to a fixed size, and the numbers of lines and of directions that are scored are limited, so
    that the cost has a bound (docs/cameras.md).

    Args:
        picture: equirectangular, (H, W, 3) uint8, blue, green, red, in the camera's body axes.
        max_tilt_rad: the largest tilt that is considered, above 0 and at most π. Before the picture is looked at, all
            tilts up to this one are equally likely.
        weights: those of the features, (FEATURES,); default: the bundled ones.

    Raises:
        FrameError: the picture is not an array of colours, or not about twice as wide as high.
        ParameterError: the largest tilt is out of its range.
    """
    _require_panorama(picture)
    if not 0 < max_tilt_rad <= math.pi:
        raise ParameterError(f"the largest tilt is {max_tilt_rad:g} rad", "set it above 0 and to at most π")
    evidence = TiltEvidence(picture)
    return _Search(evidence, bundled_weights() if weights is None else weights, max_tilt_rad).result()


_MAX_DEVIATION = 0.05
"""How far the width may be from twice the height, as for the frames of a predictor."""


def _require_panorama(picture: Pixels) -> None:
    require_picture(picture, "the picture")
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise FrameError(
            f"the picture is an array of shape {picture.shape} and type {picture.dtype}",
            "convert it to 8-bit colour",
            expected="(rows, columns, 3) uint8",
            reason="not_colour",
        )
    height, width = picture.shape[:2]
    if not height or abs(width / (2 * height) - 1) > _MAX_DEVIATION:
        raise FrameError(
            f"the picture is {width} x {height} pixels",
            "use an equirectangular picture of the whole sphere",
            expected="a width of twice the height",
            reason="not_2_to_1",
        )


@lru_cache(maxsize=1)
def bundled_weights() -> Floats:
    """The bundled weights of the features of `tilt_evidence`, (FEATURES,) float64, read-only and cached."""
    weights = read_weights(bundled_tilt_weights())
    weights.flags.writeable = False
    return weights


def read_weights(path: Path) -> Floats:
    """The weights (FEATURES,) in a file that `python -m training.fit_levelling` wrote.

    Raises:
        DataError: it is not such a file, or the file of another version.
        OSError: it cannot be read.
    """
    remedy = "write it again with python -m training.fit_levelling"
    try:
        weights = np.asarray(json.loads(path.read_text(encoding="utf-8"))["weights"], dtype=np.float64)
    except (ValueError, TypeError, KeyError):
        raise DataError(f"{path} has no weights for levelling", remedy) from None
    if weights.shape != (FEATURES,) or not np.isfinite(weights).all():
        raise DataError(f"{path} has weights of the shape {weights.shape}", remedy, expected=f"{FEATURES} numbers")
    return weights


class _Search:
    """The probability of each direction as up: on a grid all over the sphere, and densely around its best maxima."""

    _GRID = 2400
    """Directions on the whole sphere, 4° apart; the right one raises the score of others within about 8°."""
    _MAXIMA, _APART_RAD = 4, math.radians(12)
    _DISC_RAD, _DISC = math.radians(6), 90
    _FINE_RAD, _FINE = math.radians(2.5), 60

    def __init__(self, evidence: TiltEvidence, weights: Floats, max_tilt_rad: float) -> None:
        self._evidence, self._weights, self._max_tilt_rad = evidence, weights, max_tilt_rad

    def result(self) -> UpEstimate:
        """The most likely direction, averaged over its neighbourhood, and the probability of being near it."""
        grid = fibonacci_sphere(self._GRID)
        grid = grid[angular_distance(grid, UP) <= self._max_tilt_rad + self._DISC_RAD]  # never empty
        on_grid = self._scores(grid)
        discs, scores = [grid], [on_grid + math.log(4 * math.pi / self._GRID)]
        outside = np.ones(len(grid), dtype=bool)
        for maximum in self._maxima(grid, on_grid):
            disc = _disc(maximum, self._DISC_RAD, self._DISC)
            outside &= angular_distance(grid, maximum) > self._DISC_RAD  # there, the disc replaces the grid
            discs.append(disc)
            scores.append(self._scores(disc) + math.log(math.pi * self._DISC_RAD**2 / self._DISC))
        scores[0][~outside] = -math.inf
        directions, log_mass = np.concatenate(discs), np.concatenate(scores)
        mass = np.exp(log_mass - log_mass.max())
        up = self._refined(directions[int(np.argmax(np.concatenate([np.full(len(grid), -math.inf), *scores[1:]])))])
        near = angular_distance(directions, up) <= CONFIDENT_RAD
        return UpEstimate(up, float(mass[near].sum() / mass.sum()))

    def _scores(self, directions: Floats) -> Floats:
        """Log probabilities, up to a constant, with all tilts equally likely up to the largest, and none beyond."""
        tilts_rad = angular_distance(directions, UP)
        prior = np.where(tilts_rad <= self._max_tilt_rad, -np.log(np.maximum(np.sin(tilts_rad), 0.1)), -math.inf)
        scores: Floats = self._evidence.scores(directions, self._weights) + prior
        return scores

    def _maxima(self, grid: Floats, scores: Floats) -> list[Floats]:
        """The best directions of the grid that are apart from each other."""
        maxima: list[Floats] = []
        for index in np.argsort(-scores):
            if all(angular_distance(grid[index], each) > self._APART_RAD for each in maxima):
                maxima.append(grid[index])
            if len(maxima) == self._MAXIMA:
                break
        return maxima

    def _refined(self, direction: Floats) -> Floats:
        """The mean of the directions around one, weighted by their probabilities."""
        around = _disc(direction, self._FINE_RAD, self._FINE)
        scores = self._scores(around)
        return unit_up(np.exp(scores - scores.max()) @ around)


def _disc(middle: Floats, radius_rad: float, count: int) -> Floats:
    """Unit vectors (count, 3), spread evenly over a disc on the sphere."""
    index = np.arange(count)
    tilts = radius_rad * np.sqrt(index / count)  # the first is the middle
    turns = index * math.pi * (3 - math.sqrt(5))
    around_up = np.stack([np.sin(tilts) * np.cos(turns), np.sin(tilts) * np.sin(turns), np.cos(tilts)], axis=-1)
    disc: Floats = around_up @ levelling_rotation(middle)
    return disc


AGREEMENT_RAD = math.radians(4)
"""Estimates that are closer than this to one another agree."""
_SHARE = 0.6
"""Share of the confidence that must lie in one direction."""


def agreement(estimates: Sequence[UpEstimate]) -> UpEstimate | None:
    """The direction on which most estimates for one camera agree, weighted by confidence.

    Returns:
        Their mean, with the share of all estimates' confidence that it has; None if they do not agree, or are too
        uncertain.
    """
    if not estimates:
        return None
    ups = np.array([each.up for each in estimates])
    confidences = np.array([each.confidence for each in estimates])
    near = angular_distance(ups[:, None], ups[None]) <= AGREEMENT_RAD  # (N, N)
    agreeing = near[int(np.argmax(near @ confidences))]
    support = float(confidences[agreeing].sum())
    if support < _SHARE * confidences.sum() or support < MIN_CONFIDENCE * agreeing.sum() or not support:
        return None
    return UpEstimate(unit_up(confidences[agreeing] @ ups[agreeing]), support / len(estimates))


class RunningLevel:
    """Estimates which way is up for a camera that keeps its mount, from some of its frames.

    One picture may mislead; several, which a moving robot takes in different places, seldom agree on a wrong
    direction. So a direction is trusted only once most of the recent pictures agree on it, and it changes only when
    most of them agree on another. Not thread-safe.

    Args:
        max_tilt_rad: as for `estimate_up`.
    """

    KEPT = 24
    """Number of the last pictures that count."""
    LEAST = 8
    """Number of pictures before a direction is trusted."""
    CHANGE_RAD = math.radians(1)
    """Smaller changes of a trusted direction are ignored: each costs new lookup tables."""

    def __init__(self, max_tilt_rad: float = MAX_TILT_RAD) -> None:
        self._max_tilt_rad = max_tilt_rad
        self._recent: deque[UpEstimate] = deque(maxlen=self.KEPT)
        self._trusted: UpEstimate | None = None

    def update(self, picture: Pixels) -> UpEstimate:
        """Take one picture into account; this costs as much as `estimate_up`, so do it every few seconds.

        Args:
            picture: as for `estimate_up`; a network's frame is large enough.

        Returns:
            The estimate from this picture alone.

        Raises:
            FrameError: as `estimate_up`.
        """
        estimate = estimate_up(picture, max_tilt_rad=self._max_tilt_rad)
        self.add(estimate)
        return estimate

    def add(self, estimate: UpEstimate) -> None:
        """Take the estimate from one picture into account."""
        self._recent.append(estimate)
        agreed = agreement(self._recent) if len(self._recent) >= self.LEAST else None
        if agreed is None:
            return
        if self._trusted is not None and angular_distance(agreed.up, self._trusted.up) < self.CHANGE_RAD:
            agreed = UpEstimate(self._trusted.up, agreed.confidence)
        self._trusted = agreed

    @property
    def trusted(self) -> UpEstimate | None:
        """The last direction on which most of the recent pictures agreed; None until they have."""
        return self._trusted

    def reset(self) -> None:
        """Forget all pictures, for a camera that was mounted in another way."""
        self._recent.clear()
        self._trusted = None
