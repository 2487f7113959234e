"""Maps in shared memory, for renderers in other processes: the writer, a reader, and the layout that `sal360.h` reads.

A file in /dev/shm holds a ring of slots. The writer fills the oldest slot while readers take the newest, so that nobody
waits for anybody. Each slot has a sequence number that is odd while the slot is written; a reader that finds another
number after its copy than before it copies again (a sequence lock).

A machine with weakly ordered memory may show another core the writer's stores in another order. C has fences; Python
has none, but a lock: to release it and take it again keeps the stores and loads before it before those after it, on
x86-64, Armv8, POWER and RISC-V, as their memory models and the locks of CPython and glibc are. The other assumption is
that the assignment of an aligned element of a uint64 array is one store, which numpy compiles it to. On x86-64, stores
keep their order in any case.

The lock on the file tells a living writer from a dead one: the kernel releases it when the process ends. It belongs to
the open file, not to the process, so that readers in the writer's process do not release it.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
import secrets
import stat
import struct
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sal360.arrays import Density, Floats, Reals
from sal360.errors import ParameterError, Sal360Error, describe_os_error
from sal360.outputs.overlay import FULL_SCALE
from sal360.sphere import FRAME_CONVENTIONS

FOLDER = Path("/dev/shm")
PERMISSIONS = {"user": 0o600, "group": 0o640, "all": 0o644}
"""Who may read → the permissions of the file."""
SLOTS = 4
"""A reader has the time of three maps to copy one."""
_MAGIC, _VERSION, _BYTE_ORDER = b"sal360sm", 1, 0x01020304
_OPEN, _CLOSED = 1, 2
_HAS_UP, _HAS_ORIENTATION = 1, 2
_MAX_ATTEMPTS = 1000
_MAX_NAME = 240  # of a file that also gets a temporary name
_TOPIC = re.compile(r"/?(\w+(?:/\w+)*)", re.ASCII)

RING = np.dtype(
    [
        ("magic", "S8"),
        ("version", "u4"),
        ("byte_order", "u4"),
        ("header_bytes", "u4"),
        ("slots", "u4"),
        ("slot_bytes", "u4"),
        ("state", "u4"),
        ("newest", "u8"),
        ("writer", "u8"),
        ("process", "u4"),
        ("topic", "S204"),
    ]
)
"""The beginning of the file, as `sal360_ring_header_` in sal360.h."""
SLOT = np.dtype(
    [
        ("sequence", "u8"),
        ("number", "u8"),
        ("stamp_ns", "i8"),
        ("written_ns", "i8"),
        ("width", "u4"),
        ("height", "u4"),
        ("flags", "u4"),
        ("frame_axes", "u4"),
        ("full_scale", "f4"),
        ("yaw_offset_rad", "f4"),
        ("up", "f4", 3),
        ("orientation", "f4", (3, 3)),
        ("frame_id", "S152"),
    ]
)
"""The beginning of each slot, as `sal360_slot_header_`; the map follows, float32."""
_NEWEST, _STATE = 32, 28
"""Offsets of `newest` and `state` in the file, bytes."""


class SharedMapError(Sal360Error):
    """The shared memory of a topic cannot be written or read."""


def include_path() -> Path:
    """The folder of sal360.h, for a compiler's option -I."""
    return Path(__file__).resolve().parents[1] / "include"


def shared_path(topic: str) -> Path:
    """The file that has the maps of a topic: /dev/shm/sal360.front.saliency for "/front/saliency".

    If ROS_DOMAIN_ID is not 0, it stands before the topic (sal360.7.front.saliency), because two ROS domains may have
    topics of the same name.

    Raises:
        ParameterError: this is not the full name of a topic.
    """
    match = _TOPIC.fullmatch(topic)
    if match is None:
        raise ParameterError(f"{topic!r} is not the full name of a topic", "use one such as /front/saliency")
    digits = re.match(r"\s*\+?(\d+)", os.environ.get("ROS_DOMAIN_ID", ""), re.ASCII)
    domain = f"{int(digits[1])}." if digits and int(digits[1]) else ""
    name = f"sal360.{domain}{match[1].replace('/', '.')}"
    if len(name) > _MAX_NAME:
        raise ParameterError(f"the topic {topic} has {len(topic)} characters", f"use at most {_MAX_NAME - 20} for shm")
    return FOLDER / name


class StampedMap(NamedTuple):
    """A map from shared memory, a copy of the reader's own."""

    density: Density
    """(h, w) float32, relative to uniform."""
    number: int
    """1 for the writer's first map."""
    stamp_ns: int
    """Stamp of the source frame, nanoseconds."""
    written_ns: int
    """When it was written, by `time.monotonic_ns`."""
    frame_id: str
    """Of the source frame; longer ones are cut to 151 bytes."""
    frame_axes: str
    """Axes of frame_id, one of `sphere.FRAME_CONVENTIONS`."""
    full_scale: float
    """Density of the brightest value in 8 bits."""
    yaw_offset_rad: float
    """Azimuth of the map's middle in frame_id."""
    up: Reals | None
    """(3,) unit vector, up in the body axes of frame_id; None if it is not known."""
    orientation: Reals | None
    """(3, 3), from body axes of frame_id to a fixed frame; None if it is not known."""


@dataclass(frozen=True, eq=False)
class MapInfo:
    """What a map in shared memory says besides its values; the fields are those of `StampedMap`."""

    stamp_ns: int = 0
    frame_id: str = ""
    frame_axes: str = "body"
    full_scale: float = FULL_SCALE
    yaw_offset_rad: float = 0.0
    up: Floats | None = None
    orientation: Floats | None = None


class _Memory:
    """A mapped file, with views of its parts. The last reference unmaps it."""

    def __init__(self, file: int, size: int, *, writable: bool) -> None:
        mapped = mmap.mmap(file, size, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ)
        self.header: NDArray[Any] = np.frombuffer(mapped, RING, 1)
        self.words: NDArray[np.uint64] = np.frombuffer(mapped, np.uint64, size // 8)
        self.bytes: NDArray[np.uint8] = np.frombuffer(mapped, np.uint8)
        self.slots = int(self.header["slots"][0])
        self.slot_bytes = int(self.header["slot_bytes"][0])
        self.writer = int(self.header["writer"][0])

    @property
    def newest(self) -> int:
        """Number of the newest whole map; 0: none."""
        return int(self.words[_NEWEST // 8])

    def start_of(self, number: int) -> int:
        """Where the slot of a map begins, bytes."""
        return RING.itemsize + (number - 1) % self.slots * self.slot_bytes

    def values(self, start: int, height: int, width: int) -> Density:
        """The map in the slot that begins at `start`: a view, (height, width)."""
        begin = start + SLOT.itemsize
        values: Density = self.bytes[begin : begin + 4 * height * width].view(np.float32)
        return values.reshape(height, width)


class _Fence:
    """Keeps memory accesses before a call before those after it; see the module's text."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def __call__(self) -> None:
        self._lock.release()
        self._lock.acquire()


class SharedMapWriter:
    """Writes maps for other processes, until `close` removes them; thread-safe.

    A file that a dead process left behind is replaced, and its readers find the new one. Readers never slow the writer:
    it does not know of them.

    Args:
        topic: full name of the topic that the maps are of.
        height, width: of the largest map.
        readers: who may read, a key of `PERMISSIONS`.

    Raises:
        SharedMapError: a living process has the name, or the file cannot be made.
        ParameterError: the topic or `readers` is not one.
    """

    def __init__(self, topic: str, height: int, width: int, *, readers: str = "user") -> None:
        if readers not in PERMISSIONS:
            raise ParameterError(f"readers is {readers!r}", f"choose one of {', '.join(PERMISSIONS)}")
        self.path = shared_path(topic)
        self._capacity = height * width
        self._lock = threading.Lock()
        self._fence = _Fence()
        self._number = 0
        slot_bytes = SLOT.itemsize + -(-4 * self._capacity // 64) * 64
        header = np.zeros(1, RING)
        header["magic"], header["version"], header["byte_order"] = _MAGIC, _VERSION, _BYTE_ORDER
        header["header_bytes"], header["slots"], header["slot_bytes"] = RING.itemsize, SLOTS, slot_bytes
        header["state"], header["writer"], header["process"] = _OPEN, secrets.randbits(63), os.getpid()
        header["topic"] = topic.encode()[: RING["topic"].itemsize - 1]
        self._file = _create(self.path, header, RING.itemsize + SLOTS * slot_bytes, PERMISSIONS[readers])
        self._memory: _Memory | None = _Memory(self._file, RING.itemsize + SLOTS * slot_bytes, writable=True)

    def write(self, density: Density, info: MapInfo) -> None:
        """Write a map (h, w); nothing after `close`.

        Raises:
            ParameterError: the map is larger than the largest.
        """
        height, width = density.shape
        if height * width > self._capacity:
            raise ParameterError(
                f"the map is {width} x {height}, larger than the {self._capacity} pixels of the shared memory",
                "create another SharedMapWriter for it",
            )
        with self._lock:
            memory = self._memory
            if memory is None:
                return
            number = self._number = self._number + 1
            start = memory.start_of(number)
            record = _record(number, height, width, info)
            memory.words[start // 8] = 2 * number - 1
            self._fence()
            memory.bytes[start + 8 : start + SLOT.itemsize] = record.view(np.uint8)[8:]
            np.copyto(memory.values(start, height, width), density)
            self._fence()
            memory.words[start // 8] = 2 * number
            self._fence()
            memory.words[_NEWEST // 8] = number

    def close(self) -> None:
        """Tell the readers that there are no more maps, and remove the file."""
        with self._lock:
            memory, self._memory = self._memory, None
            if memory is None:
                return
            memory.header["state"] = _CLOSED
            del memory
            with contextlib.suppress(OSError):  # somebody removed it
                if os.path.samestat(os.stat(self.path, follow_symlinks=False), os.fstat(self._file)):
                    os.unlink(self.path)
            os.close(self._file)

    def __enter__(self) -> SharedMapWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _record(number: int, height: int, width: int, info: MapInfo) -> NDArray[Any]:
    """A slot's header, (1,) `SLOT`, except for its sequence number."""
    record = np.zeros(1, SLOT)
    record["number"], record["height"], record["width"] = number, height, width
    record["stamp_ns"], record["written_ns"] = info.stamp_ns, time.monotonic_ns()
    record["frame_axes"] = FRAME_CONVENTIONS.index(info.frame_axes)
    record["full_scale"], record["yaw_offset_rad"] = info.full_scale, info.yaw_offset_rad
    record["frame_id"] = info.frame_id.encode()[: SLOT["frame_id"].itemsize - 1]
    if info.up is not None:
        record["up"] = info.up
    if info.orientation is not None:
        record["orientation"] = info.orientation
    record["flags"] = _HAS_UP * (info.up is not None) + _HAS_ORIENTATION * (info.orientation is not None)
    return record


# --- the file: made whole under another name, locked, and renamed ---


def _create(path: Path, header: NDArray[Any], size: int, permissions: int) -> int:
    """The open, locked file of a new ring, which takes the place of one that a dead process left.

    Raises:
        SharedMapError: a living process has the name, or the file cannot be made.
    """
    if not path.parent.is_dir():
        raise SharedMapError(f"there is no {path.parent}", "use Linux, or mount a tmpfs there")
    try:
        old = _claim(path)
        try:
            made = _make(path, header, size, permissions)
            _mark_closed(old)
            return made
        finally:
            os.close(old)
    except OSError as error:
        raise _cannot_make(path, size, error) from None


def _claim(path: Path) -> int:
    """The open, locked file that has the name now; an empty one is made if there is none."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(path, flags, 0o600)
        try:
            if not _lock(file):
                raise SharedMapError(
                    f"{path} is in use by a living process{_process_of(file)}",
                    "stop that node, or give this one another namespace or ROS_DOMAIN_ID",
                )
            if os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(file)):
                return file
        except FileNotFoundError:
            pass  # its owner has just removed it
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _make(path: Path, header: NDArray[Any], size: int, permissions: int) -> int:
    """Make the file under another name, then give it this one."""
    temporary = ""
    try:
        file, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            os.fchmod(file, permissions)
            os.posix_fallocate(file, 0, size)  # a full tmpfs would otherwise kill the process at the first map
            os.pwrite(file, header.tobytes(), 0)
            _lock(file)
            os.rename(temporary, path)
            return file
        except BaseException:
            os.close(file)
            raise
    except BaseException:
        for name in filter(None, (temporary, _if_empty(path))):
            with contextlib.suppress(OSError):
                os.unlink(name)
        raise


def _if_empty(path: Path) -> str:
    """The path of a file that `_claim` has just made; "" if it is not empty."""
    with contextlib.suppress(OSError):
        if os.stat(path, follow_symlinks=False).st_size == 0:
            return os.fspath(path)
    return ""


def _mark_closed(file: int) -> None:
    """Tell the readers of a dead process's ring that there is a new one."""
    with contextlib.suppress(OSError):
        if os.pread(file, len(_MAGIC), 0) == _MAGIC:
            os.pwrite(file, np.uint32(_CLOSED).tobytes(), _STATE)


def _cannot_make(path: Path, size: int, error: OSError) -> SharedMapError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM):
        disk = os.statvfs(path.parent)
        free = disk.f_bavail * disk.f_frsize
        return SharedMapError(
            f"{path.parent} has {free / 1e3:.0f} kB free, and the maps in {path.name} need {size / 1e3:.0f} kB",
            "delete files there, or start the container with a larger --shm-size",
        )
    if error.errno in (errno.EACCES, errno.EPERM) and path.exists():
        return SharedMapError(
            f"{path} belongs to another user", "remove it, or give this node another namespace or ROS_DOMAIN_ID"
        )
    if error.errno in (errno.ELOOP, errno.EISDIR):
        return SharedMapError(f"{path} is a link or a folder", "remove it")
    return SharedMapError(f"{path} cannot be made ({error.strerror})", f"make {path.parent} writable")


def _lock(file: int) -> bool:
    """Lock a file for as long as it is open; returns whether nobody else has."""
    import fcntl  # not at the top: other systems have none, and import this module

    request = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)  # struct flock of 64-bit Linux
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, request)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _process_of(file: int) -> str:
    """The process that wrote a ring, in words; "" if it cannot be read."""
    with contextlib.suppress(OSError):
        header = os.pread(file, RING.itemsize, 0)
        if len(header) == RING.itemsize and header.startswith(_MAGIC):
            return f" ({np.frombuffer(header, RING)['process'][0]})"
    return ""


# --- the reader ---


class SharedMap:
    """Reads the maps that another process writes; made by `open`. For one thread at a time.

    A reader outlives its writer: when that ends, there are no newer maps, and when it starts again, they are found.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fence = _Fence()
        self._memory: _Memory | None = None
        self._last: tuple[int, int] | None = None  # writer and number of the map that was read last

    @classmethod
    def open(cls, topic: str) -> SharedMap:
        """A reader of a topic's maps, by its full name on the ROS graph, such as "/saliency".

        Raises:
            SharedMapError: there are none, or they cannot be read.
            ParameterError: this is not the full name of a topic.
        """
        reader = cls(shared_path(topic))
        reader._memory = _connect(reader._path)
        if reader._memory is None:
            raise SharedMapError(
                f"there is no {reader._path}",
                "set the node's parameter shm, and use its ROS_DOMAIN_ID and the full name of the topic",
            )
        return reader

    def read(self) -> StampedMap | None:
        """The newest map; None if there is none newer than the one that was read last.

        Raises:
            SharedMapError: the file cannot be read.
        """
        if self._memory is not None and self._memory.header["state"][0] != _OPEN:
            self._memory = None
        self._memory = self._memory or _connect(self._path)
        return self._read_newest(self._memory) if self._memory is not None else None

    def close(self) -> None:
        """Release the memory; `read` would connect again."""
        self._memory = None

    def _read_newest(self, memory: _Memory) -> StampedMap | None:
        for _ in range(_MAX_ATTEMPTS):
            newest = memory.newest
            if newest == 0 or self._last == (memory.writer, newest):
                return None
            copied = self._copy(memory, newest)
            if copied is not None:
                self._last = memory.writer, newest
                return copied
        raise SharedMapError("maps are written faster than they can be read", "read again")

    def _copy(self, memory: _Memory, number: int) -> StampedMap | None:
        """A copy of a map; None if the writer has come round to its slot meanwhile."""
        start = memory.start_of(number)
        self._fence()
        if int(memory.words[start // 8]) != 2 * number:
            return None
        self._fence()
        record = memory.bytes[start : start + SLOT.itemsize].copy().view(SLOT)[0]
        height, width = int(record["height"]), int(record["width"])
        is_possible = SLOT.itemsize < SLOT.itemsize + 4 * height * width <= memory.slot_bytes
        is_possible = is_possible and record["frame_axes"] < len(FRAME_CONVENTIONS)
        density = memory.values(start, height, width).copy() if is_possible else None
        self._fence()
        if int(memory.words[start // 8]) != 2 * number:
            return None
        if density is None:
            raise SharedMapError(f"{self._path} is damaged", "start the node again")
        return _stamped_map(record, density)


def _stamped_map(record: Any, density: Density) -> StampedMap:
    flags = int(record["flags"])
    return StampedMap(
        density,
        int(record["number"]),
        int(record["stamp_ns"]),
        int(record["written_ns"]),
        bytes(record["frame_id"]).decode(errors="replace"),
        FRAME_CONVENTIONS[int(record["frame_axes"])],
        float(record["full_scale"]),
        float(record["yaw_offset_rad"]),
        np.array(record["up"]) if flags & _HAS_UP else None,
        np.array(record["orientation"]) if flags & _HAS_ORIENTATION else None,
    )


def _connect(path: Path) -> _Memory | None:
    """The ring in a file; None if there is no file, or a writer is about to replace it."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _cannot_read(path, error) from None
    try:
        about = os.fstat(file)
        is_file = stat.S_ISREG(about.st_mode)
        if is_file and about.st_size == 0:
            return None
        begin = os.pread(file, RING.itemsize, 0) if is_file else b""
        _check(path, np.frombuffer(begin.ljust(RING.itemsize, b"\0"), RING)[0], about.st_size)
        return _Memory(file, about.st_size, writable=False)
    finally:
        os.close(file)


def _check(path: Path, header: Any, size: int) -> None:
    if header["magic"] != _MAGIC:
        raise SharedMapError(f"{path} was not written by sal360", "remove it")
    if header["version"] != _VERSION:
        raise SharedMapError(
            f"{path} has the layout version {header['version']}; expected {_VERSION}",
            "install the same version of sal360 for the node and for this program",
        )
    needed = RING.itemsize + int(header["slots"]) * int(header["slot_bytes"])
    is_possible = header["header_bytes"] == RING.itemsize and header["slots"] > 1 and needed <= size
    is_possible = is_possible and header["byte_order"] == _BYTE_ORDER
    if not is_possible or header["slot_bytes"] % 8 or header["slot_bytes"] <= SLOT.itemsize:
        raise SharedMapError(f"{path} is damaged", "start the node again")


def _cannot_read(path: Path, error: OSError) -> SharedMapError:
    if isinstance(error, PermissionError):
        return SharedMapError(f"{path} belongs to another user", "read as that user, or set the node's shm_readers")
    return SharedMapError(describe_os_error(error), "start the node again")
