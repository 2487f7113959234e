"""Where the many values of a map stand among the few values at its fixations."""

from __future__ import annotations

import numpy as np

from sal360_ros.sphere import Array


class RankAmong:
    """Ranks of values among reference values (n,), n > 0, all float64 and finite.

    A table answers for all values but those that share a bucket with a reference, some per cent, which are searched
    for: exact, and several times faster than sorting or searching the whole map. Buckets are linear near the lowest
    reference and logarithmic above, because densities are: their number is the upper bits of a float32 in [1, 2¹⁶].
    """

    _OCTAVES, _BITS = 16, 16

    def __init__(self, references: Array) -> None:
        self._values, count = np.unique(references, return_counts=True)
        self._doubled = np.append(2 * np.cumsum(count) - 2 * count, 2 * count.sum()).astype(np.int32)  # up to each
        self._count = np.append(count, 0).astype(np.int32)
        span = float(self._values[-1]) - float(self._values[0])
        self._scale = (2**self._OCTAVES - 1) / span if span > 1e-290 else 0.0
        bucket = self._bucket(self._values)
        in_bucket = np.bincount(bucket, weights=2 * count, minlength=(self._OCTAVES << self._BITS) + 1)
        self._table = np.cumsum(in_bucket).astype(np.int32)
        self._table[bucket] = -1

    def _bucket(self, values: Array) -> Array:
        scaled = (np.clip(values, self._values[0], self._values[-1]) - self._values[0]) * self._scale + 1
        return (scaled.astype(np.float32).view(np.int32) >> (23 - self._BITS)) - (127 << self._BITS)

    def doubled(self, values: Array) -> Array:
        """Twice the number of references below each value plus the number equal to it; int32, of the same shape."""
        rank = self._table.take(self._bucket(values), mode="clip")
        unsure = np.flatnonzero(rank < 0)
        searched = values.ravel()[unsure]
        place = np.searchsorted(self._values, searched)
        equal = self._values.take(place, mode="clip") == searched
        rank.ravel()[unsure] = self._doubled[place] + equal * self._count[place]
        return rank
