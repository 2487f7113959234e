"""A sequence of fixations of one person, and how positions in a panorama become directions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sal360_ros.sphere import Array, angles_to_vector


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
