"""Shared by the metrics: a common grid, pixel weights, weighted sums over a map, and ranks among its fixated values.

A map has many pixels and few fixations. Sums process it in blocks that fit into the CPU's cache, and `RankAmong` ranks
all its values among those at the fixations without sorting them. A `WeightedMap` and the `FixationPixels` of a record
serve several metrics, so that nothing is computed for each of them again.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sal360.arrays import Floats, Integers, Reals
from sal360.density import resize_map
from sal360.errors import ParameterError
from sal360.sphere import nearest_pixel, solid_angles

Weights = Literal["solid_angle"] | Reals | None
"""How much each pixel counts: see `sal360.metrics.measures`."""

_BLOCK_PX = 1 << 17
"""Pixels of a block. The few float64 blocks of 1 MiB that a sum needs stay in the cache, and each takes long enough for
the threads of an evaluation to wait little for the interpreter lock: with 2¹⁵, two threads take a third longer."""


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


class WeightedMap:
    """A map with its pixel weights, its smallest and largest value and its mean, for several metrics.

    Args:
        values: (h, w).
        weight: (h, 1) or (h, w), from `pixel_weights`; pixels of weight 0 are left out.
        known: the smallest and the largest value; None: they are looked for.

    Raises:
        ParameterError: the map has values that are not finite.
    """

    def __init__(self, values: Reals, weight: Floats, known: tuple[float, float] | None = None) -> None:
        self.values, self.weight = values, weight
        self.low, self.high = known or extremes(values, weight)
        check_finite(self.low, self.high)
        self.mean = weighted_mean(weight, lambda v: v, values)
        self._deviation: float | None = None

    @property
    def deviation(self) -> float:
        """The population's standard deviation; exactly 0 for a constant map."""
        if self._deviation is None:
            mean = self.mean
            square = (
                0.0 if self.low == self.high else weighted_mean(self.weight, lambda v: (v - mean) ** 2, self.values)
            )
            self._deviation = math.sqrt(square)
        return self._deviation

    def to_density(self) -> Callable[[Floats], Floats]:
        """A function from values of the map to those of a density: mean 1, and negative values lifted to 0."""
        lift = -min(0.0, self.low)
        mean = self.mean + lift
        if not mean > 0:
            return np.ones_like
        gain, offset = 1 / mean, lift / mean
        return (lambda v: v * gain + offset) if offset else (lambda v: v * gain)


MapLike: TypeAlias = ArrayLike | WeightedMap
"""A map, perhaps with what other metrics have computed of it."""


def weighted(values: MapLike, weights: Weights) -> WeightedMap:
    """A map on its own grid with its weights."""
    if isinstance(values, WeightedMap):
        return values
    height, width = finer_size(values, values)
    return WeightedMap(as_real(values), pixel_weights(weights, height, width))


def on_finer_grid(first: MapLike, second: MapLike, weights: Weights) -> tuple[WeightedMap, WeightedMap]:
    """Two dense maps with the pixel weights, on (larger height, larger width).

    Two of `WeightedMap` have the same grid and weights, and stay as they are.
    """
    if isinstance(first, WeightedMap) and isinstance(second, WeightedMap):
        return first, second
    plain = [each.values if isinstance(each, WeightedMap) else as_real(each) for each in (first, second)]
    height, width = finer_size(*plain)
    weight = pixel_weights(weights, height, width)
    one, other = (WeightedMap(resize_map(each, height, width, spherical=weights is not None), weight) for each in plain)
    return one, other


class FixationPixels(NamedTuple):
    """The fixated pixels of a map that have a weight, each once."""

    row: Integers
    """(n,)"""
    column: Integers
    """(n,)"""
    times: Integers
    """(n,) number of fixations in the pixel."""


def pixels_of(directions: Floats, weight: Floats, height: int, width: int) -> FixationPixels:
    """The pixels of an ERP grid that fixations (n, 3) hit, without those of weight 0."""
    column, row = nearest_pixel(directions, height, width)
    pixel, count = np.unique(row * width + column, return_counts=True)
    return with_weight(FixationPixels(*np.divmod(pixel, width), count), weight, width)


def fixated_pixels(fixations: NDArray[Any], height: int, width: int) -> FixationPixels:
    """The fixated pixels of a map of counts (h, w), on a grid (height, width) that is at least as fine.

    Raises:
        ParameterError: the map has values that are not counts.
    """
    pixel = np.flatnonzero(fixations != 0)
    row, column = np.divmod(pixel, fixations.shape[1])
    count = fixations.ravel()[pixel]
    if not np.array_equal(count, np.abs(np.rint(count))):  # False for NaN
        raise ParameterError(
            "a fixation map has values that are not counts",
            "pass a density to cc, sim or kld instead",
            expected="the number of fixations in each pixel",
        )
    row = (2 * row + 1) * height // (2 * fixations.shape[0])  # the pixel that contains the old one's centre
    column = (2 * column + 1) * width // (2 * fixations.shape[1])
    return FixationPixels(row, column, count.astype(np.int64))


def with_weight(pixels: FixationPixels, weight: Floats, width: int) -> FixationPixels:
    """The pixels whose weight is above 0."""
    exists = np.broadcast_to(weight, (len(weight), width))[pixels.row, pixels.column] > 0
    return FixationPixels(*(each[exists] for each in pixels))


Result = TypeVar("Result")


class PerRecord(Generic[Result]):
    """A result that depends on a record, kept for the newest one of each thread.

    Many models are measured on one record in turn, and several records at once in threads.
    """

    def __init__(self, compute: Callable[..., Result]) -> None:
        self._compute, self._newest = compute, threading.local()

    def __call__(self, record: Hashable, *more: Hashable) -> Result:
        """`compute(record, *more)`, or the newest result if that was of the same."""
        key = (record, *more)
        if getattr(self._newest, "key", None) != key:
            self._newest.result = self._compute(*key)
            self._newest.key = key
        return cast(Result, self._newest.result)


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
    total = 0.0
    with np.errstate(invalid="ignore", over="ignore"):  # reported below
        for rows in blocks(maps[0]):
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


def blocks(values: Reals) -> Iterator[slice]:
    """Rows of a map, a block at a time."""
    height, width = values.shape
    rows_a_block = max(1, _BLOCK_PX // width)
    for start in range(0, height, rows_a_block):
        yield slice(start, start + rows_a_block)


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
        values = values[np.broadcast_to(weight > 0, values.shape)][None]
    parts = [(values[rows].min(), values[rows].max()) for rows in blocks(values)]
    low, high = np.array(parts, np.float64).T
    return float(low.min()), float(high.max())  # NaN if there is one


class RankAmong:
    """Ranks of values among reference values (n,), n > 0, all float64 and finite.

    A table gives the rank of every value except those that share a bucket with references: there it gives the first
    one, with which they are compared. Only in buckets with several, a search finds the place. This is exact, and
    several times faster than sorting the map. Buckets are linear near the lowest reference and logarithmic above it,
    which suits densities: a bucket's number is the upper bits of a float32 in [1, 2¹⁶].
    """

    _OCTAVES, _BITS = 16, 16

    def __init__(self, references: Floats) -> None:
        self._values, count = np.unique(references, return_counts=True)
        self._doubled = np.append(2 * np.cumsum(count) - 2 * count, 2 * count.sum()).astype(np.int32)  # up to each
        self._count = np.append(count, 0).astype(np.int32)
        span = float(self._values[-1]) - float(self._values[0])
        self._scale = (2**self._OCTAVES - 2) / span if span > 1e-290 else 0.0
        bucket = self._bucket(self._values)
        first = np.flatnonzero(np.diff(bucket, prepend=-1))  # of each bucket, for they are sorted
        up_to = np.append(0, self._doubled[np.append(first[1:], len(bucket))])
        buckets = np.diff(bucket[first], prepend=0, append=(self._OCTAVES << self._BITS) + 1)
        self._table = np.repeat(up_to.astype(np.int32), buckets)
        self._table[bucket[first]] = -1 - first
        self._is_shared = np.zeros(len(self._values), np.bool_)
        self._is_shared[first] = np.diff(first, append=len(bucket)) > 1

    def _bucket(self, values: Floats) -> NDArray[np.int32]:
        shifted = values - self._values[0]
        shifted *= self._scale
        scaled = np.empty(shifted.shape, np.float32)
        # the lowest reference becomes 2: the many values below it, in [1, 2], do not share its bucket
        np.add(shifted, 2, out=scaled, casting="same_kind")
        np.clip(scaled, 1, 2**self._OCTAVES, out=scaled)
        upper: NDArray[np.int32] = scaled.view(np.int32)
        upper >>= 23 - self._BITS
        upper -= np.int32(127 << self._BITS)
        return upper

    def doubled(self, values: Floats) -> NDArray[np.int32]:
        """Twice the number of references below each value plus the number equal to it; int32, of the same shape."""
        rank = self._table.take(self._bucket(values), mode="clip")
        unsure = np.flatnonzero(rank < 0)
        searched = values.ravel()[unsure]
        first = -1 - rank.ravel()[unsure]
        place = first + (searched > self._values[first])
        shared = np.flatnonzero(self._is_shared[first])
        place[shared] = np.searchsorted(self._values, searched[shared])
        equal = self._values.take(place, mode="clip") == searched
        rank.ravel()[unsure] = self._doubled[place] + equal * self._count[place]
        return rank
