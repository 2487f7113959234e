"""A sequence of fixations of one person, and how positions in a panorama become directions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import ArrayLike

from sal360.ground_truth import GazeRecord
from sal360.sphere import Array, angles_to_vector


class GazeRecords(Sequence[GazeRecord]):
    """Records of one split; `names` has their names in the same order."""

    names: tuple[str, ...]
    sigma_deg: float
    """Blur that makes fixations comparable with the records' densities, degrees."""

    @abstractmethod
    def read(self, index: int) -> GazeRecord:
        """Record `index`, 0 <= index < len(self), from the disk; DataError names a broken file."""

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> GazeRecord: ...

    @overload
    def __getitem__(self, index: slice) -> list[GazeRecord]: ...

    def __getitem__(self, index: int | slice) -> GazeRecord | list[GazeRecord]:
        chosen = range(len(self))[index]
        return self.read(chosen) if isinstance(chosen, int) else [self.read(each) for each in chosen]


class Chosen(GazeRecords):
    """Some records of a data set.

    Args:
        records: the data set.
        indices: which, in this order.
    """

    def __init__(self, records: GazeRecords, indices: Iterable[int]) -> None:
        self._records, self._indices = records, [int(each) for each in indices]
        self.names = tuple(records.names[each] for each in self._indices)
        self.sigma_deg = records.sigma_deg

    def read(self, index: int) -> GazeRecord:
        return self._records.read(self._indices[index])


@dataclass(frozen=True, eq=False)
class Scanpath:
    """Fixations in the order of time."""

    directions: Array
    """Unit vectors (n, 3) float64, body axes."""
    start_s: Array
    """(n,) float64: since the stimulus began."""
    duration_s: Array
    """(n,) float64, NaN where unknown."""


def directions_of_positions(x: ArrayLike, y: ArrayLike) -> Array:
    """Unit vectors (..., 3) of positions in an ERP picture as shares of its size, from its upper left corner.

    Args:
        x: [0, 1], 0 the left edge of the picture and 1 the right one, which is the same meridian.
        y: [0, 1], 0 the upper edge and 1 the lower one.
    """
    azimuth = np.pi - 2 * np.pi * np.asarray(x, dtype=np.float64)
    elevation = np.pi / 2 - np.pi * np.asarray(y, dtype=np.float64)
    return angles_to_vector(azimuth, elevation)
