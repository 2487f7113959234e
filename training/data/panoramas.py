"""Panoramas from a folder: found, checked once, and decoded either each time or once into a cache.

`open_panoramas` finds and checks them, `Panoramas` returns their pixels, `PanoramaViews` makes pretraining samples.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sal360.arrays import Pixels
from sal360.errors import DataError, FrameError
from sal360.files import write_text, written_beside
from sal360.images import decode_picture, read_picture
from sal360.predictor import check_frame
from sal360.sources.pictures import FolderContent, look_into
from training.config import is_first_process, require_at_least, require_path
from training.data.loader import Key
from training.data.views import ViewPair, resize


@dataclass(frozen=True)
class PanoramaConfig:
    """Which panoramas are read, and at what size."""

    root: str
    """Folder of panoramas (searched recursively), or of tar shards from `python -m training.data.shards`."""
    height: int = 160
    """Height to which panoramas are reduced when they are read, pixels; the width is twice that."""
    cache: str = ""
    """Folder that keeps the decoded panoramas (uint8, memory-mapped); empty: decode them each time."""

    def __post_init__(self) -> None:
        require_path("root", self.root, "a folder of panoramas")
        require_at_least("height", self.height, 16)


MAX_UNUSABLE = 0.1
"""Maximum fraction of unusable files; more suggest that it is the wrong folder."""
_READER = b"upright, 16 bits scaled\n"
"""Part of the cache's name: it changes when the same files are decoded to different pixels."""
MAX_PIXELS = 2**28
"""Maximum size of a panorama, 23170 x 11585. Files for training may be larger than a camera's frames."""


def read_panorama(path: str | Path, height: int, data: bytes | None = None) -> Pixels:
    """A picture file as (height, 2 * height, 3) uint8 RGB, turned upright by its EXIF orientation.

    Args:
        path: path of the file, or its name in errors if `data` is given.
        height: rows of the result, pixels.
        data: the file's bytes; None reads the file.

    Raises:
        DataError: it is missing, damaged or incomplete, or is not 2:1.
    """

    def decode(min_height: int) -> Pixels:
        if data is None:
            return read_picture(path, min_height=min_height, max_pixels=MAX_PIXELS)
        return decode_picture(data, str(path), min_height=min_height, max_pixels=MAX_PIXELS)

    try:
        picture = decode(height)  # a large JPEG is decoded at the nearest larger size
        if not is_panoramic(picture):
            rows, columns = decode(0).shape[:2]
            raise DataError(f"{path} is {columns} x {rows}", "convert or remove it", expected="twice as wide as high")
    except FrameError as error:
        remedy = "reduce or remove it" if error.reason == "too_large" else error.remedy
        raise DataError(error.found, remedy, expected=error.expected) from None
    return resize(np.ascontiguousarray(picture[:, :, ::-1]), height)


def is_panoramic(picture: Pixels) -> bool:
    """Whether a picture is about twice as wide as high, with the tolerance of `check_frame`."""
    try:
        check_frame(*picture.shape[:2])
    except FrameError:
        return False
    return True


@dataclass(frozen=True)
class Panoramas:
    """The usable panoramas of a folder; item i is (height, 2 * height, 3) uint8 RGB."""

    paths: tuple[str, ...]
    """Their files, sorted."""
    unusable: tuple[str, ...]
    """The problem of each of the other files, one line per file."""
    height: int
    """Rows, pixels."""
    left_out: str = ""
    """Other contents of the folder: hidden files, videos and pictures in unsupported formats."""
    cache: str = ""
    """File with all panoramas decoded, one after the other; empty: each is decoded when it is requested."""

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Pixels:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._decoded[index] if self.cache else read_panorama(self.paths[index], self.height)

    @cached_property
    def _decoded(self) -> Pixels:
        return np.memmap(self.cache, np.uint8, mode="r", shape=(len(self), self.height, 2 * self.height, 3))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_decoded"}  # each process maps its own


class PanoramaViews:
    """Pretraining samples: both views of a panorama, (3, H, W) uint8 each, and its index; keys are (epoch, index)."""

    def __init__(self, panoramas: Sequence[Pixels] | Panoramas, views: ViewPair) -> None:
        self.panoramas, self.views = panoramas, views

    def __len__(self) -> int:
        return len(self.panoramas)

    def __getitem__(self, key: Key, /) -> tuple[Pixels, Pixels, int]:
        epoch, index = key
        view, turned = self.views(self.panoramas[index], epoch, index)[:2]
        return view, turned, index


def open_panoramas(config: PanoramaConfig) -> Panoramas:
    """Find the panoramas of a folder and decode each once, so that a damaged file is found now and not in a week.

    Raises:
        DataError: the folder is missing, has fewer than two usable panoramas, or more than 10 % unusable ones.
        OSError: the cache cannot be written.
    """
    root = Path(config.root)
    if not root.is_dir():
        raise DataError(f"there is no folder {root}", "check the path", expected="a folder of panoramas")
    content = look_into(root, recursive=True)
    paths = sorted(content.pictures)
    if not config.cache:
        panoramas = _checked(paths, config, None)
    else:
        data = Path(config.cache) / f"panoramas-{config.height}-{_fingerprint(paths, config)}.rgb"
        index = data.with_suffix(".json")
        found = _cached(data, index, paths, config)
        if found is None:
            with written_beside(data) as temporary:
                found = _checked(paths, config, temporary)
            usable = set(found.paths)
            numbers = [number for number, path in enumerate(paths) if str(path) in usable]
            write_text(index, json.dumps({"usable": numbers, "unusable": found.unusable}))
        panoramas = replace(found, cache=str(data))
    panoramas = replace(panoramas, left_out=_left_out(content))
    _refuse_unusable(panoramas, root)
    if is_first_process():
        print(describe(panoramas), file=sys.stderr)
    return panoramas


def _cached(data: Path, index: Path, paths: Sequence[Path], config: PanoramaConfig) -> Panoramas | None:
    """The panoramas in a cache; None if it is missing or damaged.

    The index, written after the data, has the numbers of the usable files: the folder's name may have changed.
    """
    try:
        found = json.loads(index.read_text(encoding="utf-8"))
        usable = tuple(str(paths[number]) for number in found["usable"])
        unusable = tuple(map(str, found["unusable"]))
        is_whole = data.stat().st_size == len(usable) * 6 * config.height**2 and bool(usable)
    except (FileNotFoundError, LookupError, TypeError, ValueError, RecursionError):
        return None
    return Panoramas(usable, unusable, config.height) if is_whole else None


def _refuse_unusable(panoramas: Panoramas, root: Path) -> None:
    """Raise a DataError if fewer than two panoramas are usable, or more than 10 % of the files are not."""
    usable, unusable = len(panoramas), len(panoramas.unusable)
    example = f" (first: {panoramas.unusable[0]})" if unusable else ""
    if usable < 2:
        found = f"{root} has {usable} usable panoramas and {unusable} unusable files{example}"
        if panoramas.left_out:
            found += f"; it also has {panoramas.left_out}"
        raise DataError(found, "check the path", expected="at least 2 panoramas, twice as wide as high")
    if unusable > MAX_UNUSABLE * (usable + unusable):
        found = f"{unusable} of {usable + unusable} files in {root} are unusable{example}"
        raise DataError(found, "repair or remove them, or check the path", expected=f"at most {MAX_UNUSABLE:.0%}")


def _left_out(content: FolderContent) -> str:
    kinds = {
        "hidden pictures and folders of thumbnails": content.hidden,
        "pictures in unsupported formats": content.other_formats,
        "videos": content.videos,
    }
    return ", ".join(f"{kind}: {len(paths)} (such as {paths[0]})" for kind, paths in kinds.items() if paths)


def describe(panoramas: Panoramas) -> str:
    """The number of panoramas, the files that are left out, and every unusable file with its reason."""
    first = f"{len(panoramas)} panoramas, {len(panoramas.unusable)} unusable files skipped"
    if panoramas.left_out:
        first += f"; left out: {panoramas.left_out}"
    return "\n".join([first, *(f"  skipped {each}" for each in panoramas.unusable)])


def _checked(paths: Sequence[Path], config: PanoramaConfig, cache: Path | None) -> Panoramas:
    """The usable files among `paths`; their pixels are appended to the file `cache`, if one is given."""
    usable, unusable = [], []
    with open(cache or os.devnull, "wb") as file:
        for path, pixels, problem in _decode_all(paths, config.height):
            if problem:
                unusable.append(problem)
            else:
                usable.append(str(path))
                file.write(pixels.tobytes())
    return Panoramas(tuple(usable), tuple(unusable), config.height)


def _decode_all(paths: Sequence[Path], height: int) -> Iterator[tuple[Path, Pixels, str]]:
    """Path, pixels and problem (empty if none) of each file, in order, decoded on all cores."""

    def decode(path: Path) -> tuple[Path, Pixels, str]:
        try:
            return path, read_panorama(path, height), ""
        except DataError as error:
            return path, np.empty(0, np.uint8), error.found

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV releases the interpreter lock while decoding
        found = pool.map(decode, paths)
        hidden = None if is_first_process() else True
        yield from tqdm(found, total=len(paths), desc="panoramas", unit="file", leave=False, disable=hidden)


def _fingerprint(paths: Sequence[Path], config: PanoramaConfig) -> str:
    """A hash of the files' names, sizes and times, so that a changed folder gets another cache."""
    digest = hashlib.sha256(_READER)
    for path in paths:
        digest.update(os.fsencode(os.path.realpath(path)))  # any name, UTF-8 or not
        try:
            status = path.stat()
        except OSError:  # a link to a file that is gone is one of the unusable files
            continue
        digest.update(f"\0{status.st_size}\0{status.st_mtime_ns}\0{config.height}\n".encode())
    return digest.hexdigest()[:16]
