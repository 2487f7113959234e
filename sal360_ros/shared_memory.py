"""Settings for large images: the Fast DDS profile with shared memory, and malloc."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

# Fast DDS 2 (to Jazzy) reads the first, Fast DDS 3 (from Kilted) the second.
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")

# option numbers of glibc's mallopt(3)
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def shared_memory_profile() -> Path | None:
    """The path of `config/fastdds_shm.xml`, in a checkout or installed; None if it is not there."""
    package = Path(__file__).resolve().parents[1]
    places = [package / "config", Path(sys.prefix) / "share" / "sal360_ros" / "config"]
    places += [
        Path(prefix) / "share" / "sal360_ros" / "config"
        for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
        if prefix
    ]
    return next((place / "fastdds_shm.xml" for place in places if (place / "fastdds_shm.xml").is_file()), None)


def use_shared_memory_profile() -> None:
    """Select the shipped Fast DDS profile for this process, unless the user has configured the transports.

    Without it, the sender's shared-memory segment is 512 KB, and larger best-effort messages are lost.
    """
    profile = shared_memory_profile()
    chosen = any(name in os.environ for name in (*PROFILE_VARIABLES, "FASTDDS_BUILTIN_TRANSPORTS"))
    if profile is not None and not chosen:
        os.environ.update(dict.fromkeys(PROFILE_VARIABLES, os.fspath(profile)))


def keep_freed_memory() -> None:
    """Make malloc reuse large blocks for the next frame instead of requesting new pages from the kernel.

    An image of 22 MB is copied several times between the middleware and Python; the page faults of new memory take
    three to five times as long as the copies.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # not glibc
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 64 << 20)
