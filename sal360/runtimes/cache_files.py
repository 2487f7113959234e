"""The cache folder for compiled models: entries are locked while they are built, and limited in number."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sal360.errors import ModelError

KEEP = 8
"""Default number of compiled forms of one model, or of model folders, that are kept."""

_log = logging.getLogger(__name__)


def writable_folder(folder: Path) -> Path:
    """A folder of the cache, made if it is missing.

    Raises:
        ModelError: it cannot be made or written; this is found before minutes are spent on building its contents.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise unwritable(folder, PermissionError(13, "Permission denied"))
    return folder


def unwritable(folder: Path, error: OSError) -> ModelError:
    """The error for a cache folder that cannot be written."""
    return ModelError(
        f"the cache folder {folder} cannot be written ({error.strerror or error})",
        "free some space, change its owner, or set XDG_CACHE_HOME to another folder",
    )


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a cache entry: one process or thread at a time is inside, the others wait.

    The lock is the file `path` with ".lock" appended. It is released when its process ends, for whatever reason, and
    the file is removed at the end of the block. On Windows, and on file systems without locks, nothing is locked.

    Raises:
        ModelError: the folder cannot be written.
    """
    lock = path.with_name(f"{path.name}.lock")
    try:
        handle = _acquire(lock)
    except OSError as error:
        raise unwritable(path.parent, error) from None
    try:
        yield
    finally:
        if handle is not None:
            with contextlib.suppress(OSError):  # of another user, in a folder where each may remove only their own
                lock.unlink()  # while it is held: a waiting process sees that it is gone, and starts over
            os.close(handle)


def _acquire(lock: Path) -> int | None:
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        return None
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _wait_for(handle, lock, fcntl)
        except BaseException:
            os.close(handle)
            raise
        if _is_same_file(handle, lock):
            return handle
        os.close(handle)


def _wait_for(handle: int, lock: Path, fcntl: Any) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _log.info("waiting for another process that is building %s", lock.with_suffix(""))
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:  # a network file system without locks
        _log.warning("%s cannot be locked (%s): two processes may do the same work", lock, error)


def _is_same_file(handle: int, path: Path) -> bool:
    try:
        there, here = os.stat(path), os.fstat(handle)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def mark_used(path: Path) -> None:
    """Make a cache entry the newest one."""
    with contextlib.suppress(OSError):
        os.utime(path)


def remove_all_but_newest(entries: Sequence[Path], keep: int) -> list[Path]:
    """Remove all cache entries (files or folders) except the `keep` most recently used; returns the removed ones.

    Entries that cannot be removed, such as those of another user, stay.
    """
    newest_first = sorted(entries, key=_used_at, reverse=True)
    return [entry for entry in newest_first[keep:] if remove(entry)]


def remove(entry: Path) -> bool:
    """Remove a cache entry, if it can be removed; returns whether it is gone."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            entry.unlink(missing_ok=True)
    return not os.path.lexists(entry)


def _used_at(entry: Path) -> float:
    try:
        return entry.stat().st_mtime
    except OSError:
        return 0.0
