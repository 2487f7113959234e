"""Maps that travel as sensor_msgs/Image: ground truth in bags, and the node's answers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sal360_ros.errors import DataError
from sal360_ros.sphere import Array, solid_angles

_DTYPES: dict[str, np.dtype[Any]] = {
    "32FC1": np.dtype(np.float32),
    "64FC1": np.dtype(np.float64),
    "mono8": np.dtype(np.uint8),
    "8UC1": np.dtype(np.uint8),
    "mono16": np.dtype(np.uint16),
    "16UC1": np.dtype(np.uint16),
}


def read_map(message: Any) -> Array:
    """The map (h, w) float32 of a one-channel Image, in the numbers that it holds.

    Args:
        message: a sensor_msgs/Image of rclpy or of a bag.

    Raises:
        DataError: another encoding, or the sizes do not fit the data.
    """
    dtype = _DTYPES.get(message.encoding)
    if dtype is None:
        raise DataError(
            f"a map of encoding {message.encoding!r}", "one of " + ", ".join(_DTYPES), "record it as 32FC1 or mono8"
        )
    dtype = dtype.newbyteorder(">" if message.is_bigendian else "<")
    height, width, step = message.height, message.width, message.step
    stored = memoryview(message.data).nbytes
    if height < 1 or width < 1 or step < width * dtype.itemsize or stored < step * height:
        raise DataError(
            f"a map of {width} x {height} {message.encoding} with {stored} bytes in rows of {step}",
            f"rows of at least {width * dtype.itemsize} bytes",
            "record it again",
        )
    values: Array = np.ndarray(
        (height, width), dtype, np.frombuffer(message.data, np.uint8), strides=(step, dtype.itemsize)
    )
    return values.astype(np.float32)


def as_density(values: Array, name: str) -> Array:
    """A map (h, w) scaled to a density relative to uniform: solid-angle-weighted mean 1, float32.

    Raises:
        DataError: it has values that are negative or not finite, or is 0 everywhere.
    """
    mean = float((values * solid_angles(*values.shape)).sum()) / (4 * math.pi)
    if not (math.isfinite(mean) and mean > 0 and values.min() >= 0):
        raise DataError(
            f"the map {name} has a mean of {mean:g}", "values from 0 up, some above", "leave this frame out"
        )
    return (values / mean).astype(np.float32)
