"""The interface of every gaze data set: a sequence of `GazeRecord`s, and its split.

A module for a data set (salient360, sitzmann, vr_eyetracking) or for a form on disk has one class that inherits
`GazeRecords` and reads the files, and one function that takes inventory of a copy. `datasets.py` lists them.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar, overload

import cv2
import numpy as np
from numpy.typing import ArrayLike

from sal360.arrays import Density, Floats, Integers, Reals
from sal360.density import resize_map
from sal360.errors import DataError
from sal360.ground_truth import GazeRecord
from sal360.sphere import angles_to_vector, solid_angles

Item = TypeVar("Item")


class GazeRecords(Sequence[GazeRecord]):
    """The records of one split of a data set, read from disk one by one."""

    names: tuple[str, ...]
    """The names of the records, in their order."""
    sigma_deg: float
    """Blur that makes fixations comparable with the records' densities, degrees."""
    left_out: str = ""
    """Counts of the samples that were lost in the recording and are left out; empty if there are none."""

    @property
    def scenes(self) -> tuple[str, ...]:
        """The scene that each record shows, in their order; "" where the data set does not say it.

        Frames of one video are of one scene. Unless a reader says otherwise, each record is a picture of its own scene.
        """
        return self.names

    @abstractmethod
    def read(self, index: int) -> GazeRecord:
        """Read record `index`, 0 <= index < len(self), from disk; a DataError names a damaged file."""

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> GazeRecord: ...

    @overload
    def __getitem__(self, index: slice) -> list[GazeRecord]: ...

    def __getitem__(self, index: int | slice) -> GazeRecord | list[GazeRecord]:
        chosen = range(len(self))[index]
        return self.read(chosen) if isinstance(chosen, int) else [self.read(each) for each in chosen]


class GazeSubset(GazeRecords):
    """Some records of a data set.

    Args:
        records: the data set.
        indices: indices of the records, in this order.
    """

    def __init__(self, records: GazeRecords, indices: Iterable[int]) -> None:
        self._records, self._indices = records, [int(each) for each in indices]
        self.names = tuple(records.names[each] for each in self._indices)
        self.sigma_deg, self.left_out = records.sigma_deg, records.left_out

    @property
    def scenes(self) -> tuple[str, ...]:
        of_all = self._records.scenes
        return tuple(of_all[each] for each in self._indices)

    def read(self, index: int) -> GazeRecord:
        return self._records.read(self._indices[index])


class GazeSplit(NamedTuple):
    """Two parts of a data set that have no picture in common."""

    training: GazeRecords
    measuring: GazeRecords
    description: str
    """The split in words, for reports."""


def spread(count: int, limit: int) -> list[int]:
    """Indices of at most `limit` of `count` things, spread evenly from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(limit, count)).astype(int)).tolist() if count else []


def evenly(items: Sequence[Item], limit: int) -> list[Item]:
    """At most `limit` of the items, spread evenly from the first to the last."""
    return [items[index] for index in spread(len(items), limit)]


def split_scenes(records: GazeRecords, folds: int, seed: int) -> tuple[list[Integers], str]:
    """Split records into folds so that no scene is on both sides; each fold's indices, and in words what was split.

    Where some scenes are not known, or there are fewer than folds, the pictures are split.

    Raises:
        DataError: there are fewer pictures than folds.
    """
    scenes = np.array(records.scenes)
    names = np.unique(scenes)
    if "" in names or len(names) < folds:
        why = "scenes are not known" if "" in names else f"there are {len(names)} scenes"
        return split_folds(records.names, folds, seed), f"by panorama ({why})"
    parts = split_folds(names.tolist(), folds, seed)
    return [np.flatnonzero(np.isin(scenes, names[part])) for part in parts], "by scene"


def split_folds(names: Sequence[str], folds: int, seed: int) -> list[Integers]:
    """Split pictures into folds by name, so that no picture is on both sides of a split; returns each fold's indices.

    The sorted names are shuffled with `seed`, so the folds do not depend on the order on disk.

    Raises:
        DataError: there are fewer names than folds.
    """
    if len(names) < folds:
        raise DataError(f"there are {len(names)} pictures for {folds} folds", "use fewer folds, or more pictures")
    order = np.argsort(names, kind="stable")
    return [np.sort(part) for part in np.array_split(np.random.default_rng(seed).permutation(order), folds)]


def summary_of(names: Sequence[str]) -> str:
    """The number of pictures with these names and a hash of the names, to notice that data have changed."""
    digest = hashlib.sha256("\0".join(names).encode(errors="surrogateescape"))
    return f"{len(names)} ({digest.hexdigest()[:8]})"


def mean_over_cells(values: Reals, height: int, width: int) -> Density:
    """A map on the sphere (h, w) on another grid (height, width): the mean over each cell, weighted by solid angle.

    Along an axis on which the grid is finer, it is looked up bilinearly, for there is no more to know.
    """
    if height > values.shape[0] or width > values.shape[1]:
        coarse = mean_over_cells(values, min(height, values.shape[0]), min(width, values.shape[1]))
        return np.asarray(resize_map(coarse, height, width), np.float32)
    if values.shape == (height, width):
        return np.asarray(values, np.float32)
    area = solid_angles(*values.shape)
    mass = cv2.resize(values * area, (width, height), interpolation=cv2.INTER_AREA)
    whole = cv2.resize(area.copy(), (1, height), interpolation=cv2.INTER_AREA)  # of each row, the same in all columns
    return np.asarray(mass / whole.reshape(height, 1), np.float32)


def directions_of_positions(x: ArrayLike, y: ArrayLike) -> Floats:
    """Unit vectors (..., 3) of positions in an equirectangular picture, given as fractions of its size.

    Args:
        x: [0, 1], 0 the left edge of the picture and 1 the right one, which is the same meridian.
        y: [0, 1], 0 the upper edge and 1 the lower one.
    """
    azimuth = np.pi - 2 * np.pi * np.asarray(x, dtype=np.float64)
    elevation = np.pi / 2 - np.pi * np.asarray(y, dtype=np.float64)
    return angles_to_vector(azimuth, elevation)
