"""Where to look: the strongest peaks of a map, and the one to look at now, with dwell and inhibition of return."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from sal360.arrays import Density, Floats
from sal360.projection import pad_sphere, sample_erp
from sal360.settings import Settings, setting
from sal360.sphere import angular_distance, erp_directions


@dataclass(frozen=True)
class PeakSettings(Settings):
    """Which peaks of a map are targets."""

    count: int = setting(5, "maximum number of targets per map", minimum=1, maximum=100)
    min_separation_rad: float = setting(
        0.35, "minimum angle between two targets", minimum=0.01, maximum=math.pi, unit="rad"
    )
    min_score: float = setting(1.5, "minimum density of a target, relative to uniform", minimum=0, maximum=1e6)


class Peaks(NamedTuple):
    """Peaks of one map, the densest first."""

    directions: Floats
    """(k, 3) float64 unit vectors in body axes."""
    scores: Floats
    """(k,) float64: the density there, relative to uniform."""


def find_peaks(density: Density, settings: PeakSettings | None = None) -> Peaks:
    """The local maxima of a map (h, w) float32 after non-maximum suppression on the sphere, the densest first."""
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


def _between_pixels(density: Density, directions: Floats) -> Floats:
    """Pixel directions (k, 3), moved to the maximum of a quadratic fit to the log-density around each.

    The log of a Gaussian is quadratic, so the fit is exact for one. A direction moves by at most one pixel along each
    axis, and stays where the fit has no maximum.
    """
    step_rad = math.pi / density.shape[0]
    upward = np.where(np.abs(directions[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])  # (k, 3), never parallel
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
    unit: Floats = moved / np.linalg.norm(moved, axis=-1, keepdims=True)
    return unit


@dataclass(frozen=True)
class SelectionSettings(Settings):
    """When to stay on a target and when to leave it."""

    min_dwell_s: float = setting(
        0.5, "minimum time to stay on a target, even if it vanishes", minimum=0, maximum=3600, unit="s"
    )
    max_dwell_s: float = setting(
        0.0, "maximum time to stay on a target if there are others; 0: no limit", minimum=0, maximum=3600, unit="s"
    )
    switch_ratio: float = setting(
        1.2, "factor by which another target must be denser to replace the current one", minimum=1, maximum=100
    )
    inhibition_s: float = setting(
        2.0,
        "inhibition of return: how long the target just left is ignored",
        minimum=0,
        maximum=3600,
        unit="s",
    )
    radius_rad: float = setting(
        0.35, "angle within which peaks count as the same target", minimum=0.01, maximum=math.pi, unit="rad"
    )
    reset_gap_s: float = setting(
        1.0, "pause in the stream after which target selection starts over", minimum=0, maximum=3600, unit="s"
    )


@dataclass(frozen=True)
class Target:
    """A target to look at."""

    direction: Floats
    """(3,) float64 unit vector in the camera's body axes."""
    score: float
    """Density there when it was last seen, relative to uniform."""
    since_s: float
    """Timestamp of the frame on which it was chosen, seconds."""


@dataclass
class _Current:
    """The current target; its direction is in the selector's axes."""

    direction: Floats
    score: float
    since_s: float
    seen_s: float


class TargetSelector:
    """Selects the target of one stream, frame by frame; `settings` may be replaced between frames.

    The current target and the inhibited places are stored in the fixed frame while the camera's orientation is known,
    else in the camera's body axes. When the orientation becomes known or unknown they are re-expressed, so that the
    target keeps its direction as the camera sees it.
    """

    def __init__(self, settings: SelectionSettings | None = None) -> None:
        self.settings = settings or SelectionSettings()
        self.reset()

    def reset(self) -> None:
        """Forget the current target and all inhibited places."""
        self._current: _Current | None = None
        self._inhibited: list[tuple[Floats, float]] = []  # direction, until when in seconds
        self._orientation: Floats | None = None
        self._stamp_s = -math.inf

    def update(self, peaks: Peaks, stamp_s: float, orientation: Floats | None = None) -> Target | None:
        """The target after the next map.

        Args:
            peaks: peaks of the map; see `find_peaks`.
            stamp_s: timestamp of the frame in seconds, from a clock that does not jump.
            orientation: (3, 3), the camera's body axes in a fixed frame, if it is known.

        Returns:
            The target, or None if there is nothing to look at.
        """
        if not 0 <= stamp_s - self._stamp_s <= self.settings.reset_gap_s:
            self.reset()
        self._stamp_s = stamp_s
        self._follow_orientation(orientation)
        axes = np.eye(3) if orientation is None else orientation
        directions = peaks.directions @ axes.T  # (k, 3)
        self._inhibited = [(place, until_s) for place, until_s in self._inhibited if until_s > stamp_s]
        self._track(directions, peaks.scores, stamp_s)
        best = self._best(directions, peaks.scores)
        current = self._current
        if current is not None and current.seen_s < stamp_s and stamp_s - current.seen_s >= self.settings.min_dwell_s:
            current = self._current = None  # it vanished, so it is not inhibited
        if best is not None and (current is None or self._may_leave(current, float(peaks.scores[best]), stamp_s)):
            if current is not None and self.settings.inhibition_s > 0:
                self._inhibited.append((current.direction, stamp_s + self.settings.inhibition_s))
            self._current = _Current(directions[best], float(peaks.scores[best]), since_s=stamp_s, seen_s=stamp_s)
        if self._current is None:
            return None
        return Target(axes.T @ self._current.direction, self._current.score, self._current.since_s)

    def _follow_orientation(self, orientation: Floats | None) -> None:
        """Re-express the stored directions when the orientation becomes known or unknown."""
        before, self._orientation = self._orientation, orientation
        if (before is None) == (orientation is None):
            return
        turn = before.T if before is not None else orientation
        assert turn is not None  # one of them is known
        if self._current is not None:
            self._current.direction = turn @ self._current.direction
        self._inhibited = [(turn @ place, until_s) for place, until_s in self._inhibited]

    def _track(self, directions: Floats, scores: Floats, stamp_s: float) -> None:
        """Move the current target to the peak that is nearest to it now."""
        if self._current is None or not len(directions):
            return
        distances = angular_distance(directions, self._current.direction)
        nearest = int(np.argmin(distances))
        if distances[nearest] <= self.settings.radius_rad:
            self._current.direction, self._current.score = directions[nearest], float(scores[nearest])
            self._current.seen_s = stamp_s

    def _best(self, directions: Floats, scores: Floats) -> int | None:
        """The strongest peak that is neither the current target nor inhibited."""
        places = [place for place, _ in self._inhibited] + ([self._current.direction] if self._current else [])
        for index in np.argsort(-scores, kind="stable"):
            if all(angular_distance(directions[index], place) > self.settings.radius_rad for place in places):
                return int(index)
        return None

    def _may_leave(self, current: _Current, best_score: float, stamp_s: float) -> bool:
        """Whether the dwell is over, and another peak is strong enough or the maximum dwell is reached."""
        dwell_s = stamp_s - current.since_s
        is_overdue = 0 < self.settings.max_dwell_s <= dwell_s
        is_stronger = best_score > self.settings.switch_ratio * current.score
        return dwell_s >= self.settings.min_dwell_s and (is_overdue or is_stronger)
