"""Where people looked in one panorama: the record that metrics, training and replay share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sal360.arrays import Density, Floats, Integers, Mask, Pixels
from sal360.errors import DataError
from sal360.sphere import nearest_pixel

PanoramaReader = Callable[[], Pixels]
"""Reads the panorama when called: (H, W, 3) uint8 RGB; raises DataError or FrameError naming the file."""


@dataclass(frozen=True, eq=False)
class GazeRecord:
    """Fixations in one panorama or video frame and, if the data set has it or it was computed, their density.

    Raises:
        DataError: the shapes of the arrays do not match, values are not finite, or vectors are not of length 1.
    """

    name: str
    """Identity in its data set ("P75", "017/frame 240"), for tables and errors."""
    panorama: PanoramaReader
    """The picture, read on demand."""
    fixations: Floats
    """Unit vectors (n, 3) float64 in body axes (REP-103); n may be 0."""
    observer: Integers
    """(n,) int64: the observer of each fixation."""
    time_s: Floats
    """(n,) float64: start of each fixation, seconds since the stimulus began; NaN if unknown."""
    density: Density | None = None
    """(h, w) float32, relative to uniform: mean 1 by solid angle over the valid part."""
    valid: Mask | None = None
    """(h, w) bool: where gaze could be recorded; None: everywhere. The same size as `density` if both are given."""

    def __post_init__(self) -> None:
        count = len(self.fixations)
        if self.fixations.shape != (count, 3) or self.observer.shape != (count,) or self.time_s.shape != (count,):
            raise self._error(
                f"fixations {self.fixations.shape}, observer {self.observer.shape}, time_s {self.time_s.shape}",
                "(n, 3), (n,) and (n,)",
            )
        lengths = np.linalg.norm(self.fixations, axis=-1)
        if not np.all(np.abs(lengths - 1) < 1e-6):  # also catches NaN
            raise self._error("fixations that are not unit vectors", "length 1 and finite values")
        if self.density is not None and not (np.isfinite(self.density).all() and self.density.min() >= 0):
            raise self._error("a density with values that are negative or not finite", "finite values from 0 up")
        if self.density is not None and self.valid is not None and self.density.shape != self.valid.shape:
            raise self._error(
                f"a density of {self.density.shape} and a mask of {self.valid.shape}", "the same size for both"
            )

    def _error(self, found: str, expected: str) -> DataError:
        return DataError(
            f"the ground truth of {self.name} has {found}", "check the data set's files", expected=expected
        )

    def observer_halves(self) -> tuple[Floats, Floats]:
        """The fixations (n, 3) of every other observer, and of the rest; with one observer the second is empty."""
        everyone = np.unique(self.observer)
        first = np.isin(self.observer, everyone[::2])
        return self.fixations[first], self.fixations[~first]


def count_fixations(fixations: Floats, height: int, width: int) -> NDArray[np.int32]:
    """Number of the directions (n, 3) in each ERP pixel, (height, width) int32."""
    column, row = nearest_pixel(fixations, height, width)
    counts = np.bincount(row * width + column, minlength=height * width).astype(np.int32)
    return counts.reshape(height, width)  # (height · width,) → (height, width)
