"""A map on another grid: bilinear, exact in double precision, right across the seam and the poles."""

from __future__ import annotations

import numpy as np

from sal360_ros.sphere import Array


def resize_map(values: Array, height: int, width: int, *, spherical: bool = True) -> Array:
    """Look a map (h, w) up bilinearly at the pixel centres of a (height, width) grid that covers the same area.

    Args:
        values: any real map; it is not changed.
        spherical: an ERP map, whose columns wrap and whose rows go on beyond the poles half a turn away. Otherwise
            the map is a picture and its border pixels are repeated.

    Returns:
        (height, width) float64, or `values` itself when it already has this size.
    """
    if values.shape == (height, width):
        return values
    values = values.astype(np.float64)
    if spherical:
        above, below = _half_turn(values[0]), _half_turn(values[-1])
    else:
        above, below = values[0], values[-1]
    padded = np.concatenate([above[None], values, below[None]])  # (h + 2, w)
    row, row_part = _places(values.shape[0], height)
    rows = padded[row + 1]  # + 1: the row above
    rows += row_part[:, None] * (padded[row + 2] - rows)  # (height, w)
    column, column_part = _places(values.shape[1], width)
    last = values.shape[1] - 1
    if spherical:
        left, right = column % (last + 1), (column + 1) % (last + 1)
    else:
        left, right = np.clip(column, 0, last), np.clip(column + 1, 0, last)
    resized = rows[:, left]
    resized += column_part * (rows[:, right] - resized)  # (height, width)
    return resized


def nearest_index(size: int, new_size: int) -> Array:
    """For each of `new_size` pixels along one axis, the one of `size` pixels that its centre lies in."""
    return (2 * np.arange(new_size) + 1) * size // (2 * new_size)


def _places(size: int, new_size: int) -> tuple[Array, Array]:
    """The pixel before each new pixel centre (−1 … size − 1) and the share [0, 1) of the way to the next one."""
    place = (np.arange(new_size) + 0.5) * (size / new_size) - 0.5
    before = np.floor(place)
    return before.astype(np.int64), place - before


def _half_turn(row: Array) -> Array:
    """A row (w,) seen from beyond the pole; an odd width puts half a turn between two pixels."""
    half = row.shape[0] // 2
    if row.shape[0] % 2:
        return (np.roll(row, half) + np.roll(row, half + 1)) / 2
    return np.roll(row, half)
