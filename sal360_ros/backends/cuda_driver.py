"""The few calls of NVIDIA's driver (libcuda) that the GPU backends need, without any Python package.

The driver's library comes with every driver, on desktop and Jetson alike, and its interface is kept stable across
CUDA releases; a wheel of bindings would have to match the driver's major version.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache

SUCCESS = 0


@lru_cache(maxsize=1)
def load_driver() -> ctypes.CDLL | None:
    """The initialised driver library, or None on a machine without an NVIDIA driver or device."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return library if library.cuInit(ctypes.c_uint(0)) == SUCCESS else None


def cuda_device_count() -> int:
    """Number of CUDA devices that this process sees; 0 without a driver."""
    driver = load_driver()
    count = ctypes.c_int(0)
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)) != SUCCESS:
        return 0
    return count.value
