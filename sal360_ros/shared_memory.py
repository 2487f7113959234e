"""Shared memory of Fast DDS: a segment of the size that this process's messages need, and cleanup of /dev/shm.

The sender's segment limits the size of messages. By default it has 512 KB, and a larger best-effort message is lost. A
segment takes its whole size from /dev/shm when the process starts, and a killed process leaves it there.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import math
import os
import re
import site
import sys
import tempfile
from pathlib import Path

from sal360.errors import Sal360Error
from sal360_ros.environment import PROFILE_VARIABLES, profile_variables

SHARED_MEMORY = Path("/dev/shm")
_RECORD_PREFIX = "sal360_"
OVERLAY_BYTES = 3 * 640 * 1280
"""The node's largest message with its default parameters."""
_SMALL_MESSAGES_BYTES = 2**20
"""Room for discovery, services, diagnostics and small topics."""
_OVERHEAD = 1.05
"""Size of a segment's file, with the tables of Fast DDS, relative to the segment's size."""
_SECOND_SEGMENT_BYTES = 2**20
"""With ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST, rmw adds a segment of the default size."""
_SEGMENT = re.compile(r"fast(?:rtps|dds)_[0-9a-f]{16}")  # Fast DDS 2, 3

# option numbers of glibc's mallopt(3)
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


class SharedMemoryError(Sal360Error):
    """/dev/shm has too little space."""


def use_shared_memory_profile(max_message_bytes: int = OVERLAY_BYTES) -> None:
    """Give this process's Fast DDS a segment for messages up to this size; call it before the first node is created.

    Segments that killed processes of this package left behind are removed first. Nothing else is done if the user has
    configured the transports or another middleware.

    Args:
        max_message_bytes: size of the largest message that this process sends; messages of a few KB always fit.

    Raises:
        SharedMemoryError: /dev/shm has too little free space, or cannot be written.
    """
    if not SHARED_MEMORY.is_dir():
        return
    _remove_leftovers()
    for name in PROFILE_VARIABLES:
        if os.environ.get(name, "").startswith(f"{SHARED_MEMORY / _RECORD_PREFIX}"):
            del os.environ[name]  # inherited from a parent process, whose messages have another size
    if _user_has_chosen():
        with contextlib.suppress(OSError):  # it may be UDP because shared memory cannot be used
            _make_record("")
        return
    global _segment_bytes
    segment_bytes = 2 * max_message_bytes + _SMALL_MESSAGES_BYTES  # one message is read while the next is written
    _check_space(segment_bytes)
    profile = re.sub(r"(?<=[Ss]ize>)\d+(?=<)", str(segment_bytes), shared_memory_profile().read_text("utf-8"))
    try:
        path = _make_record(profile)
    except OSError as error:
        raise SharedMemoryError(
            f"{SHARED_MEMORY} cannot be written ({error.strerror})",
            "make it writable, or set FASTDDS_BUILTIN_TRANSPORTS=UDPv4 to do without shared memory",
        ) from None
    os.environ.update(dict.fromkeys(profile_variables(), os.fspath(path)))
    _segment_bytes = segment_bytes


def segment_bytes() -> float:
    """Size of this process's segment; infinite if the user has chosen it, or it is not known."""
    return _segment_bytes


def shared_memory_profile() -> Path:
    """The path of `config/fastdds_shm.xml`, in a checkout or installed.

    Raises:
        SharedMemoryError: it is not in any of the known folders.
    """
    root = Path(__file__).resolve().parents[1]
    prefixes = [root, Path(sys.prefix), Path(site.getuserbase())]
    prefixes += [Path(each) for each in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if each]
    places = [root / "config", *(prefix / "share" / "sal360_ros" / "config" for prefix in prefixes)]
    for place in places:
        if (place / "fastdds_shm.xml").is_file():
            return place / "fastdds_shm.xml"
    raise SharedMemoryError(f"fastdds_shm.xml is not in {places[1]} or any other prefix", "reinstall sal360_ros")


def _user_has_chosen() -> bool:
    """Whether transports, or a middleware other than Fast DDS, are configured."""
    has_transports = any(os.environ.get(name) for name in (*PROFILE_VARIABLES, "FASTDDS_BUILTIN_TRANSPORTS"))
    return has_transports or "fastrtps" not in os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")


def _check_space(segment_bytes: int) -> None:
    disk = os.statvfs(SHARED_MEMORY)
    free_bytes = disk.f_bavail * disk.f_frsize
    needed_bytes = round(_OVERHEAD * segment_bytes) + _SECOND_SEGMENT_BYTES
    if free_bytes >= needed_bytes:
        return
    used_bytes = disk.f_blocks * disk.f_frsize - free_bytes
    raise SharedMemoryError(
        f"{SHARED_MEMORY} has {free_bytes / 2**20:.0f} MB free, and the messages of this process need "
        f"{needed_bytes / 2**20:.0f} MB",
        f"delete files there, or start the container with --shm-size={_rounded_up_mb(used_bytes + needed_bytes)}m",
    )


def _rounded_up_mb(size_bytes: float) -> int:
    """Rounded up to a multiple of 64 MB."""
    return 64 * (1 + int(size_bytes / 2**20 / 64))


# --- the record: a locked file beside the segments, with the profile and the names of the segments ---
# The kernel releases the lock when the process ends, for whatever reason. So a record that can be locked belongs to a
# dead process, even if containers with separate process IDs share /dev/shm.


class _Record:
    """The record of this process."""

    def __init__(self) -> None:
        self.handle, name = tempfile.mkstemp(prefix=f".{_RECORD_PREFIX}", suffix=".xml", dir=SHARED_MEMORY)
        fcntl.flock(self.handle, fcntl.LOCK_EX)
        self.path = Path(name).with_name(Path(name).name[1:])
        os.rename(name, self.path)  # the file gets the name that others look for only after it is locked
        self.profile = ""

    def write(self) -> None:
        """Write the profile, with this process's current segments as comments."""
        content = "".join([self.profile, *(f"<!-- {name} -->\n" for name in _own_segments())]).encode()
        os.pwrite(self.handle, content, 0)
        os.ftruncate(self.handle, len(content))


_record: _Record | None = None
_segment_bytes = math.inf


def remember_segments() -> None:
    """Record the names of this process's segments; call it once the first node exists."""
    if _record is not None:
        with contextlib.suppress(OSError):  # it is full: a later process will then not find the segments
            _record.write()


def release_segments() -> None:
    """Remove the record and the segments that this process still has; call it only before the process ends."""
    if _record is None:
        return
    for name in _own_segments():
        _remove_segment(name)
    _record.path.unlink(missing_ok=True)


def _make_record(profile: str) -> Path:
    """Create this process's record, or update its profile, and return its path."""
    global _record
    if _record is None:
        _record = _Record()
        atexit.register(release_segments)
    _record.profile = profile
    _record.write()
    return _record.path


def _own_segments() -> list[str]:
    """The segments that this process created: it holds their lock files open."""
    links = []
    for handle in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile
            links.append(os.readlink(f"/proc/self/fd/{handle}"))
    names = (link.removeprefix(f"{SHARED_MEMORY}/").removesuffix("_el") for link in links)
    return sorted(name for name in names if _SEGMENT.fullmatch(name))


def _remove_leftovers() -> None:
    """Remove the segments recorded by dead processes of this package and this user."""
    for path in SHARED_MEMORY.glob(f"{_RECORD_PREFIX}*.xml"):
        # removed meanwhile, another user's, or no file: anybody can create a link or a pipe there
        with contextlib.suppress(OSError), open(path, "rb", opener=_open_file) as record:
            if os.fstat(record.fileno()).st_uid != os.geteuid() or not _is_unlocked(record.fileno()):
                continue
            for name in _SEGMENT.findall(record.read().decode(errors="replace")):
                _remove_segment(name)
            path.unlink()


def _open_file(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _is_unlocked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_segment(name: str) -> None:
    for path in (SHARED_MEMORY / name, SHARED_MEMORY / f"{name}_el"):
        with contextlib.suppress(OSError):
            path.unlink()


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
