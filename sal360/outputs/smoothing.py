"""Temporal smoothing: a low-pass over the maps of a stream whose strength is a time and not a number of frames.

A first-order low-pass with time constant τ, exact for any frame interval Δt:
    state ← state + (1 − exp(−Δt / τ)) · (map − state)
So 10 Hz and 60 Hz streams are smoothed alike, and a dropped frame costs nothing but its own news. The state starts
again from the newest map after a gap, after a cut of the scene and when stamps do not go forward. When the camera's
orientation is known, the state is first turned with the scene, so that a turning camera smears nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sal360.projection import remap_sphere, rotation_maps
from sal360.settings import Settings, setting
from sal360.sphere import Array, solid_angles


def map_distance(first: Array, second: Array) -> float:
    """Total-variation distance of two density maps (h, w), each of mean 1: the share of gaze they place differently.

    ½ · the solid-angle-weighted mean of |first − second|: 0 for equal maps, 1 for maps that share no place.
    """
    difference = np.abs(first - second).sum(axis=1)  # (h,)
    return float(difference @ solid_angles(*first.shape)[:, 0]) / (8 * math.pi)


def flicker(maps: Sequence[Array], turns: Sequence[Array] | None = None) -> float:
    """Mean `map_distance` between each map (h, w) and the next, in [0, 1]; 0 for fewer than two maps.

    Args:
        maps: density maps in order of time.
        turns: for each pair of neighbours the rotation (3, 3) that carries directions of the first into the second
            (motion compensation); None for a camera that does not turn.
    """
    distances = []
    for index in range(len(maps) - 1):
        earlier = maps[index]
        if turns is not None:
            earlier = remap_sphere(earlier, rotation_maps(turns[index], *earlier.shape))
        distances.append(map_distance(earlier, maps[index + 1]))
    return float(np.mean(distances)) if distances else 0.0


def step_lag_s(maps: Sequence[Array], stamps_s: Sequence[float], before: Array, after: Array) -> float:
    """Seconds by which maps follow a scene that changed at once: the area above their step response.

    Args:
        maps: what came out while the input was `after`, (h, w) each; the input was `before` until the first of them.
        stamps_s: their times, at least two, increasing; each map counts until the next one's time.
        before, after: the inputs on both sides of the step, (h, w), of mean 1.

    Returns:
        The integral over time of the remaining distance to `after`, as a share of the whole step: for a first-order
        low-pass its time constant, less what the first map has already made good.
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
    """The smoothed map of one stream; `settings` may be replaced between frames."""

    def __init__(self, settings: SmoothingSettings | None = None) -> None:
        self.settings = settings or SmoothingSettings()
        self.reset()

    def reset(self) -> None:
        """Forget the past: the next map passes unchanged."""
        self._state: Array | None = None
        self._stamp_s = -math.inf
        self._orientation: Array | None = None

    def update(self, density: Array, stamp_s: float, orientation: Array | None = None) -> Array:
        """The smoothed map after one more frame.

        Args:
            density: (h, w) float32, relative to uniform.
            stamp_s: the frame's time in seconds, of any clock that does not jump.
            orientation: (3, 3), the camera's body axes in a fixed frame (odometry or IMU), when it is known.

        Returns:
            (h, w) float32, relative to uniform: an array of its own that later updates leave alone.
        """
        state = self._turned_state(density.shape, orientation)
        interval_s = stamp_s - self._stamp_s
        self._stamp_s = stamp_s
        if state is None or not 0 < interval_s <= self.settings.reset_gap_s or self.settings.time_constant_s == 0:
            return self._start(density, orientation)
        if not map_distance(density, state) <= self.settings.cut_distance:  # also when a map is not a number
            return self._start(density, orientation)
        self._state = state + -math.expm1(-interval_s / self.settings.time_constant_s) * (density - state)
        return self._state

    def _start(self, density: Array, orientation: Array | None) -> Array:
        self._state = density.copy()
        self._orientation = orientation
        return self._state

    def _turned_state(self, shape: tuple[int, ...], orientation: Array | None) -> Array | None:
        """The state seen from the camera's present orientation, or None when there is nothing to go on from."""
        if self._state is None or self._state.shape != shape:
            return None
        if orientation is None or self._orientation is None:
            self._orientation = orientation
            return self._state
        turn = orientation.T @ self._orientation  # fixed frame ← old camera, then new camera ← fixed frame
        turned_px = math.acos(min(1.0, max(-1.0, (np.trace(turn) - 1) / 2))) / (2 * math.pi) * shape[1]
        if turned_px < 0.1:  # each resampling blurs: let tiny turns add up before one is made
            return self._state
        self._orientation = orientation
        turned = remap_sphere(self._state, rotation_maps(turn, *shape))
        mean = (turned.sum(axis=1, dtype=np.float64) @ solid_angles(*shape)[:, 0]) / (4 * math.pi)
        result: Array = turned / np.float32(mean)  # interpolation moves the mean a little from 1
        return result
