"""How steady a stream of maps is and how far it lags: what temporal smoothing trades against each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sal360_ros.projection import remap_sphere, rotation_maps
from sal360_ros.sphere import Array, solid_angles


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
