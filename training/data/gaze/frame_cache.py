"""Decoded frames on disk: each is read from its picture or video once, by whichever process needs it first.

    CACHE/frames-HEIGHT-FINGERPRINT.rgb     (records, height, 2 * height, 3) uint8, memory-mapped
    CACHE/frames-HEIGHT-FINGERPRINT.done    (records,) uint8: 1 where the frame has been written

Several processes may write one frame at the same time, because all write the same bytes; the mark comes after them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sal360.arrays import Pixels


class FrameCache:
    """The frames of a data set at one height.

    Args:
        folder: where the files are; made if it is missing.
        root: folder of the data set; its files, with their sizes and times, are part of the cache's name.
        names: names of the records.
        height: rows of the frames, pixels; the width is twice that.

    Raises:
        OSError: the files cannot be made, for instance because the disk is full.
    """

    def __init__(self, folder: str, root: str, names: Sequence[str], height: int) -> None:
        self._shape = (len(names), height, 2 * height, 3)
        self._path = Path(folder) / f"frames-{height}-{_fingerprint(root, names, folder)}.rgb"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._make(self._path, int(np.prod(self._shape)))
        self._make(self._path.with_suffix(".done"), len(names))

    @staticmethod
    def _make(path: Path, size: int) -> None:
        """Reserve a file of zeros, unless it is there; another process may be doing the same."""
        with open(path, "ab") as file:
            if file.tell() < size:
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is noticed here, not while a page is written

    def get(self, index: int, read: Callable[[], Pixels]) -> Pixels:
        """Frame `index`, (height, 2 * height, 3): from the cache, or by `read`."""
        if not self._done[index]:
            self._frames[index] = read()
            self._done[index] = 1
        frame: Pixels = np.array(self._frames[index])
        return frame

    @cached_property
    def _frames(self) -> Pixels:
        return np.memmap(self._path, np.uint8, mode="r+", shape=self._shape)

    @cached_property
    def _done(self) -> Pixels:
        return np.memmap(self._path.with_suffix(".done"), np.uint8, mode="r+", shape=self._shape[:1])

    def __getstate__(self) -> dict[str, Any]:
        return {"_shape": self._shape, "_path": self._path}  # each process maps the files itself


def _fingerprint(root: str, names: Sequence[str], cache: str) -> str:
    """A hash of the names and of the files below `root`, except those of the cache, which may lie there, too."""
    digest = hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape"))
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(each for each in folders if not _is_same(os.path.join(folder, each), cache))
        for name in sorted(files):
            with contextlib.suppress(OSError):  # a link to a file that is gone
                status = os.stat(os.path.join(folder, name))
                digest.update(os.fsencode(name) + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _is_same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
