"""The raw saliency maps of Salient360!: `…_{width}x{height}[x{frames}]_{bits}b.bin`, little-endian floats by rows."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from sal360_ros.errors import DataError
from sal360_ros.sphere import Array, solid_angles

_NAME = re.compile(r".*_(\d+)x(\d+)(?:x(\d+))?_(16|32|64)b\.bin")


def map_shape(path: Path) -> tuple[int, int, int, np.dtype[np.floating]]:
    """(frames, height, width, dtype) that the name promises and the file's size keeps.

    Raises:
        DataError: the file is missing, has another name or another size.
    """
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise DataError(
            f"{path} has no size in its name", "name_{width}x{height}[x{frames}]_{bits}b.bin", "restore its name"
        )
    width, height, frames, bits = (int(each or 1) for each in match.groups())
    dtype = np.dtype(f"<f{bits // 8}")
    if not path.is_file():
        raise DataError(f"there is no {path}", "a saliency map", "copy the data set again")
    expected = frames * height * width * dtype.itemsize
    size = path.stat().st_size
    if size != expected:
        what = "is cut short: it has" if size < expected else "has"
        raise DataError(f"{path} {what} {size} bytes", f"{expected} as its name says", "copy it again")
    return frames, height, width, dtype


def read_density(path: str | Path, frame: int = 0) -> Array:
    """One map as a density relative to uniform: (height, width) float32, solid-angle-weighted mean 1.

    Args:
        path: of a picture's map, or of a video's, of which only the frame's part is read.
        frame: from 0.

    Raises:
        DataError: the file is missing or short, or the map is negative, not finite or empty.
    """
    path = Path(path)
    frames, height, width, dtype = map_shape(path)
    if not 0 <= frame < frames:
        raise DataError(f"frame {frame} of {path}", f"0 to {frames - 1}", "choose another frame")
    pixels = height * width
    values = np.fromfile(path, dtype, count=pixels, offset=frame * pixels * dtype.itemsize).astype(np.float64)
    values = values.reshape(height, width)  # (height · width,) → (height, width)
    return density_of_map(values, str(path))


def density_of_map(values: Array, source: str) -> Array:
    """A map of any scale as a density relative to uniform, (h, w) float32; `source` names it in errors.

    Raises:
        DataError: the map is negative, not finite or empty.
    """
    if not np.isfinite(values).all() or values.min() < 0:
        raise DataError(f"{source} has values that are negative or not finite", "a saliency map", "copy it again")
    total = float(values.sum(axis=1, dtype=np.float64) @ solid_angles(*values.shape)[:, 0])
    if total == 0:
        raise DataError(f"{source} is zero everywhere", "a saliency map", "copy it again")
    return (values * (4 * math.pi / total)).astype(np.float32)
