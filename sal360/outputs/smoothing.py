"""Temporal smoothing of a stream of maps, independent of the frame rate.

A first-order low-pass filter with the time constant τ, exact for any frame interval Δt:
    state ← state + (1 − exp(−Δt / τ)) · (map − state)
So streams of 10 Hz and 60 Hz are smoothed alike. The state starts over from the newest map after a gap, after a scene
cut and when timestamps do not increase. When the camera's orientation is known, the state is rotated with the scene
first, so that the map of a turning camera is not smeared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sal360.arrays import Density, Floats, Reals
from sal360.density import normalised
from sal360.projection import remap_sphere, rotation_maps
from sal360.settings import Settings, setting
from sal360.sphere import solid_angles


def map_distance(first: Reals, second: Reals) -> float:
    """Total-variation distance of two density maps (h, w) of mean 1: the share of gaze that they place differently.

    Half the solid-angle-weighted mean of |first − second|: 0 for equal maps, 1 for maps that do not overlap.
    """
    difference = np.abs(first - second).sum(axis=1)  # (h,)
    return float(difference @ solid_angles(*first.shape)[:, 0]) / (8 * math.pi)


def flicker(maps: Sequence[Density], turns: Sequence[Floats] | None = None) -> float:
    """Mean `map_distance` between each map (h, w) and the next, in [0, 1]; 0 for fewer than two maps.

    Args:
        maps: density maps in chronological order.
        turns: for each pair of neighbours, the rotation (3, 3) that takes directions of the first to the second
            (motion compensation); None for a camera that does not turn.
    """
    distances = []
    for index in range(len(maps) - 1):
        earlier = maps[index]
        if turns is not None:
            earlier = remap_sphere(earlier, rotation_maps(turns[index], *earlier.shape))
        distances.append(map_distance(earlier, maps[index + 1]))
    return float(np.mean(distances)) if distances else 0.0


def step_lag_s(maps: Sequence[Density], stamps_s: Sequence[float], before: Density, after: Density) -> float:
    """Lag behind a sudden change of the scene, in seconds: the area above the step response.

    Args:
        maps: filter outputs (h, w) while the input was `after`; before the first of them it was `before`.
        stamps_s: their timestamps in seconds, at least two, increasing.
        before, after: the inputs before and after the step, (h, w), of mean 1.

    Returns:
        The integral over time of the remaining distance to `after`, relative to the whole step. For a first-order
        low-pass filter this is its time constant, minus the part that the first output has already covered.
    """
    step = map_distance(before, after)
    remaining = [map_distance(each, after) / step for each in maps]
    return float(np.sum(np.asarray(remaining[:-1]) * np.diff(stamps_s)))


@dataclass(frozen=True)
class SmoothingSettings(Settings):
    """How maps are smoothed over time."""

    time_constant_s: float = setting(
        0.2, "time constant of the temporal low-pass filter; 0: no smoothing", minimum=0, maximum=60, unit="s"
    )
    reset_gap_s: float = setting(
        1.0, "pause in the stream after which smoothing starts over", minimum=0, maximum=3600, unit="s"
    )
    cut_distance: float = setting(
        0.25,
        "total-variation distance from the smoothed map above which a map is a scene cut; 1: never",
        minimum=0,
        maximum=1,
    )
    """The bundled model stays below .13 on a moving camera and below .23 on one that turns at 3 rad/s; maps of two
    different scenes are .3 to .5 apart."""


class TemporalSmoothing:
    """Smooths the maps of one stream, frame by frame; `settings` may be replaced between frames."""

    def __init__(self, settings: SmoothingSettings | None = None) -> None:
        self.settings = settings or SmoothingSettings()
        self.reset()

    def reset(self) -> None:
        """Forget the past, so that the next map passes unchanged."""
        self._state: Density | None = None
        self._stamp_s = -math.inf
        self._orientation: Floats | None = None

    def update(self, density: Density, stamp_s: float, orientation: Floats | None = None) -> Density:
        """The smoothed map after the next frame.

        Args:
            density: (h, w) float32, relative to uniform.
            stamp_s: timestamp of the frame in seconds, from a clock that does not jump.
            orientation: (3, 3), the camera's body axes in a fixed frame (odometry or IMU), if it is known.

        Returns:
            (h, w) float32, relative to uniform: a new array, which later updates do not change.
        """
        state = self._turned_state(density.shape, orientation)
        interval_s = stamp_s - self._stamp_s
        self._stamp_s = stamp_s
        if state is None or not 0 < interval_s <= self.settings.reset_gap_s or self.settings.time_constant_s == 0:
            return self._start(density, orientation)
        if not map_distance(density, state) <= self.settings.cut_distance:  # written so that NaN also starts over
            return self._start(density, orientation)
        self._state = state + -math.expm1(-interval_s / self.settings.time_constant_s) * (density - state)
        return self._state

    def _start(self, density: Density, orientation: Floats | None) -> Density:
        self._state = density.copy()
        self._orientation = orientation
        return self._state

    def _turned_state(self, shape: tuple[int, ...], orientation: Floats | None) -> Density | None:
        """The state as seen from the camera's current orientation; None without a state of this shape."""
        if self._state is None or self._state.shape != shape:
            return None
        if orientation is None or self._orientation is None:
            self._orientation = orientation
            return self._state
        turn = orientation.T @ self._orientation  # old camera → fixed frame → new camera
        turned_px = math.acos(min(1.0, max(-1.0, (np.trace(turn) - 1) / 2))) / (2 * math.pi) * shape[1]
        if turned_px < 0.1:  # every resampling blurs, so tiny turns are accumulated first
            return self._state
        self._orientation = orientation
        turned = remap_sphere(self._state, rotation_maps(turn, *shape))
        return normalised(turned)  # interpolation moves the mean slightly away from 1
