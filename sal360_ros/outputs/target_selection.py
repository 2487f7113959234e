"""The one direction to look at now: dwell on a target, and inhibition of return to those just left, in seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sal360_ros.outputs.ranges import check_range
from sal360_ros.outputs.targets import Peaks
from sal360_ros.sphere import Array, angular_distance


@dataclass(frozen=True)
class SelectionSettings:
    """When to stay with a target and when to leave it.

    Raises:
        ParameterError: a value is out of its range.
    """

    min_dwell_s: float = 0.5
    """A target is not left before this time, seconds, 0 to 3600; one that vanishes is kept this long as well."""
    max_dwell_s: float = 0.0
    """After this time another target is looked at, seconds, 0 to 3600; 0: never, while it is the best."""
    switch_ratio: float = 1.2
    """Another target wins only when its score is this many times the present one's, 1 to 100."""
    inhibition_s: float = 2.0
    """A place that was left is not returned to for this time, seconds, 0 to 3600."""
    radius_rad: float = 0.35
    """Peaks within this angle are the same target, radians, 0.01 to π."""
    reset_gap_s: float = 1.0
    """A pause in the stream longer than this forgets the past, seconds, 0 to 3600."""

    def __post_init__(self) -> None:
        for name in ("min_dwell_s", "max_dwell_s", "inhibition_s", "reset_gap_s"):
            check_range(name, getattr(self, name), 0, 3600)
        check_range("switch_ratio", self.switch_ratio, 1, 100)
        check_range("radius_rad", self.radius_rad, 0.01, math.pi)


@dataclass(frozen=True)
class Target:
    """What to look at."""

    direction: Array
    """(3,) float64 unit vector in the camera's body axes."""
    score: float
    """Density there when it was last seen, relative to uniform."""
    since_s: float
    """Time of the frame on which it was chosen, seconds."""


@dataclass
class _Held:
    """The present target, its direction in the fixed frame."""

    direction: Array
    score: float
    since_s: float
    seen_s: float


class TargetSelector:
    """The present target of one stream; `settings` may be replaced between frames."""

    def __init__(self, settings: SelectionSettings | None = None) -> None:
        self.settings = settings or SelectionSettings()
        self.reset()

    def reset(self) -> None:
        """Forget the present target and every inhibition."""
        self._held: _Held | None = None
        self._inhibited: list[tuple[Array, float]] = []  # direction in the fixed frame, until when
        self._stamp_s = -math.inf

    def update(self, peaks: Peaks, stamp_s: float, orientation: Array | None = None) -> Target | None:
        """The target after one more map.

        Args:
            peaks: of the map, by `targets.find_peaks`.
            stamp_s: the frame's time in seconds, of any clock that does not jump.
            orientation: (3, 3), the camera's body axes in a fixed frame, when it turns and its turning is known.

        Returns:
            The target, or None when there is nothing to look at.
        """
        if not 0 <= stamp_s - self._stamp_s <= self.settings.reset_gap_s:
            self.reset()
        self._stamp_s = stamp_s
        axes = np.eye(3) if orientation is None else orientation
        directions = peaks.directions @ axes.T  # (k, 3) in the fixed frame
        self._inhibited = [(place, until_s) for place, until_s in self._inhibited if until_s > stamp_s]
        self._follow(directions, peaks.scores, stamp_s)
        best = self._best(directions, peaks.scores)
        held = self._held
        if held is not None and held.seen_s < stamp_s and stamp_s - held.seen_s >= self.settings.min_dwell_s:
            held = self._held = None  # it vanished of itself: it may come back at once
        if best is not None and (held is None or self._may_leave(held, float(peaks.scores[best]), stamp_s)):
            if held is not None and self.settings.inhibition_s > 0:
                self._inhibited.append((held.direction, stamp_s + self.settings.inhibition_s))
            self._held = _Held(directions[best], float(peaks.scores[best]), since_s=stamp_s, seen_s=stamp_s)
        if self._held is None:
            return None
        return Target(axes.T @ self._held.direction, self._held.score, self._held.since_s)

    def _follow(self, directions: Array, scores: Array, stamp_s: float) -> None:
        """Move the present target with the peak that is now nearest to it."""
        if self._held is None or not len(directions):
            return
        distances = angular_distance(directions, self._held.direction)
        nearest = int(np.argmin(distances))
        if distances[nearest] <= self.settings.radius_rad:
            self._held.direction, self._held.score = directions[nearest], float(scores[nearest])
            self._held.seen_s = stamp_s

    def _best(self, directions: Array, scores: Array) -> int | None:
        """The strongest peak that is neither the present target nor inhibited."""
        places = [place for place, _ in self._inhibited] + ([self._held.direction] if self._held else [])
        for index in np.argsort(-scores, kind="stable"):
            if all(angular_distance(directions[index], place) > self.settings.radius_rad for place in places):
                return int(index)
        return None

    def _may_leave(self, held: _Held, best_score: float, stamp_s: float) -> bool:
        dwell_s = stamp_s - held.since_s
        tired = 0 < self.settings.max_dwell_s <= dwell_s
        return dwell_s >= self.settings.min_dwell_s and (tired or best_score > self.settings.switch_ratio * held.score)
