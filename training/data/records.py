"""A data set of gaze as a sequence of records, each read when it is asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import overload

from sal360_ros.ground_truth import GazeRecord


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
