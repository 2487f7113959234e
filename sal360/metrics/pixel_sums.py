"""Shared by the metrics: a common grid, pixel weights, weighted sums over a map, and ranks among its fixated values.

A map has many pixels and few fixations. Sums process it in blocks that fit into the CPU's cache, and `RankAmong` ranks
all its values among those at the fixations without sorting them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sal360.arrays import Floats, Reals
from sal360.density import resize_map
from sal360.errors import ParameterError
from sal360.sphere import solid_angles

Weights = Literal["solid_angle"] | Reals | None
"""How much each pixel counts: see `sal360.metrics.measures`."""

_BLOCK_PX = 1 << 16  # float64 blocks of 512 KiB stay in the cache


def pixel_weights(weights: Weights, height: int, width: int) -> Floats:
    """The weights as an array, (height, 1) or (height, width) float64.

    Raises:
        ParameterError: an unknown name, or an array of another size, with negative values or only zeros.
    """
    if weights is None:
        return np.ones((height, 1))
    if isinstance(weights, str):
        if weights != "solid_angle":
            raise ParameterError(f"weights is {weights!r}", 'pass "solid_angle", None or an array')
        return solid_angles(height, width)
    array = np.asarray(weights, dtype=np.float64)
    if array.shape not in ((height, 1), (height, width)) or not (array >= 0).all() or not array.any():
        raise ParameterError(
            f"weights of shape {array.shape} for maps of {height} x {width}",
            "resize the maps to one grid first",
            expected=f"({height}, 1) or ({height}, {width}), not negative and not all 0",
        )
    return array


def on_finer_grid(first: ArrayLike, second: ArrayLike, weights: Weights) -> tuple[Reals, Reals, Floats]:
    """Two dense maps and the pixel weights on (larger height, larger width)."""
    height, width = finer_size(first, second)
    spherical = weights is not None
    one, other = (resize_map(as_real(each), height, width, spherical=spherical) for each in (first, second))
    return one, other, pixel_weights(weights, height, width)


def finer_size(first: ArrayLike, second: ArrayLike) -> tuple[int, int]:
    """(larger height, larger width) of two maps.

    Raises:
        ParameterError: one is empty or does not have two axes.
    """
    for each in (first, second):
        if np.ndim(each) != 2 or np.size(each) == 0:
            raise ParameterError(
                f"a map has the shape {np.shape(each)}", "pass one map at a time", expected="(height, width)"
            )
    height, width = np.maximum(np.shape(first), np.shape(second))
    return int(height), int(width)


def as_real(values: ArrayLike) -> Reals:
    """The map as an array (h, w) of float32 or float64."""
    array: NDArray[Any] = np.asarray(values)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def weighted_sum(weight: Floats, integrand: Callable[..., NDArray[Any]], *maps: Reals) -> float:
    """Σ weight · integrand(maps) over the pixels; `integrand` gets float64 blocks of rows and returns as many values.

    Raises:
        ParameterError: the sum is not finite, because a map has values that are not.
    """
    height, width = maps[0].shape
    rows_a_block = max(1, _BLOCK_PX // width)
    total = 0.0
    with np.errstate(invalid="ignore", over="ignore"):  # reported below
        for start in range(0, height, rows_a_block):
            rows = slice(start, start + rows_a_block)
            values = integrand(*(each[rows].astype(np.float64, copy=False) for each in maps))
            if weight.shape[1] == 1:  # one weight a row
                total += float(values.sum(axis=1, dtype=np.float64) @ weight[rows, 0])
            else:
                part = float(np.vdot(values, weight[rows]))
                if not np.isfinite(part):  # pixels of weight 0 may be NaN
                    part = float(np.sum(values * weight[rows], where=weight[rows] > 0))
                total += part
    check_finite(total)
    return total


def check_finite(*values: float) -> None:
    """Refuse a map if a value computed from it is not finite.

    Raises:
        ParameterError: one of the values is not finite.
    """
    if not np.isfinite(values).all():
        raise ParameterError("a map has values that are not finite", "look for NaN and infinity in the maps")


def total_weight(weight: Floats, width: int) -> float:
    """Σ weight over all pixels of maps of this width."""
    return float(weight.sum()) * (width / weight.shape[1])


def weighted_mean(weight: Floats, integrand: Callable[..., NDArray[Any]], *maps: Reals) -> float:
    """`weighted_sum` over the total weight."""
    return weighted_sum(weight, integrand, *maps) / total_weight(weight, maps[0].shape[1])


def extremes(values: Reals, weight: Floats) -> tuple[float, float]:
    """The smallest and the largest value among the pixels with a weight above 0."""
    if not weight.all():
        values = values[np.broadcast_to(weight > 0, values.shape)]
    return float(values.min()), float(values.max())


class RankAmong:
    """Ranks of values among reference values (n,), n > 0, all float64 and finite.

    A table gives the rank of every value except the few per cent that share a bucket with a reference; those are found
    by a search. This is exact, and several times faster than sorting the map. Buckets are linear near the lowest
    reference and logarithmic above it, which suits densities: a bucket's number is the upper bits of a float32 in
    [1, 2¹⁶].
    """

    _OCTAVES, _BITS = 16, 16

    def __init__(self, references: Floats) -> None:
        self._values, count = np.unique(references, return_counts=True)
        self._doubled = np.append(2 * np.cumsum(count) - 2 * count, 2 * count.sum()).astype(np.int32)  # up to each
        self._count = np.append(count, 0).astype(np.int32)
        span = float(self._values[-1]) - float(self._values[0])
        self._scale = (2**self._OCTAVES - 1) / span if span > 1e-290 else 0.0
        bucket = self._bucket(self._values)
        in_bucket = np.bincount(bucket, weights=2 * count, minlength=(self._OCTAVES << self._BITS) + 1)
        self._table = np.cumsum(in_bucket).astype(np.int32)
        self._table[bucket] = -1

    def _bucket(self, values: Floats) -> NDArray[np.int32]:
        scaled = (np.clip(values, self._values[0], self._values[-1]) - self._values[0]) * self._scale + 1
        upper: NDArray[np.int32] = scaled.astype(np.float32).view(np.int32) >> (23 - self._BITS)
        return upper - np.int32(127 << self._BITS)

    def doubled(self, values: Floats) -> NDArray[np.int32]:
        """Twice the number of references below each value plus the number equal to it; int32, of the same shape."""
        rank = self._table.take(self._bucket(values), mode="clip")
        unsure = np.flatnonzero(rank < 0)
        searched = values.ravel()[unsure]
        place = np.searchsorted(self._values, searched)
        equal = self._values.take(place, mode="clip") == searched
        rank.ravel()[unsure] = self._doubled[place] + equal * self._count[place]
        return rank
