"""Panoramas from a folder: found, checked once, and decoded either each time or once into a cache.

`open_panoramas` finds and checks them, `Panoramas` gives their pixels, `PanoramaViews` makes pretraining samples.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from sal360.arrays import Pixels
from sal360.errors import DataError, FrameError
from sal360.files import write_text, written_beside
from sal360.predictor import check_frame
from training.config import require_at_least, require_path
from training.data.loader import Key
from training.data.views import ViewPair, resize


@dataclass(frozen=True)
class PanoramaConfig:
    """Which panoramas are read, and at what size."""

    root: str
    """Folder of panoramas (jpg, png, webp; searched recursively), or of tar shards from
    `python -m training.data.shards`."""
    height: int = 160
    """Height to which panoramas are reduced when they are read, pixels; the width is twice that."""
    cache: str = ""
    """Folder that keeps the decoded panoramas (uint8, memory-mapped); empty: decode them each time."""

    def __post_init__(self) -> None:
        require_path("root", self.root, "a folder of panoramas")
        require_at_least("height", self.height, 16)


SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MAX_UNUSABLE = 0.1
"""Max fraction of unusable files; more mean that the folder is the wrong one."""

# A limit against hostile uploads, below the 16384 x 8192 of a usual panorama; these files are the user's own.
Image.MAX_IMAGE_PIXELS = None


def read_panorama(path: str | Path, height: int, data: bytes | None = None) -> Pixels:
    """A picture file as (height, 2 * height, 3) uint8 RGB.

    Args:
        path: of the file, or its name in errors if `data` is given.
        height: rows of the result, pixels.
        data: the file's bytes; None reads the file.

    Raises:
        DataError: it is missing, cannot be decoded to its end, or is not 2:1.
    """
    try:
        with Image.open(path if data is None else io.BytesIO(data)) as picture:
            check_frame(picture.height, picture.width)
            picture.draft("RGB", (2 * height, height))  # a large JPEG is decoded at the nearest larger size
            pixels = np.asarray(picture.convert("RGB"))
    except FrameError as error:
        raise DataError(f"{path}: {error.found}", "convert or remove it", expected=error.expected) from None
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError) as error:
        # ValueError, SyntaxError: Pillow's answers to some malformed headers
        reason = "the file is missing" if isinstance(error, FileNotFoundError) else f"cannot be decoded ({error})"
        raise DataError(f"{path}: {reason}", "replace or remove it", expected="a whole jpg, png or webp") from None
    return resize(pixels, height)


@dataclass(frozen=True)
class Panoramas:
    """The usable panoramas of a folder; item i is (height, 2 * height, 3) uint8 RGB."""

    paths: tuple[str, ...]
    """Their files, sorted."""
    unusable: tuple[str, ...]
    """What is wrong with each of the other files, one line per file."""
    height: int
    """Rows, pixels."""
    cache: str = ""
    """File with all panoramas decoded, one after the other; empty: each is decoded when it is asked for."""

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
    """Find the panoramas of a folder and decode each once, so that a broken file is found now and not in a week.

    Raises:
        DataError: the folder is missing, has fewer than two usable panoramas, or more than 10 % unusable ones.
        OSError: the cache cannot be written.
    """
    root = Path(config.root)
    if not root.is_dir():
        raise DataError(f"there is no folder {root}", "check the path", expected="a folder of panoramas")
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not config.cache:
        panoramas = _checked(paths, config, None)
    else:
        data = Path(config.cache) / f"panoramas-{config.height}-{_fingerprint(paths, config)}.rgb"
        index = data.with_suffix(".json")
        if index.is_file():  # written after the data, so they are complete
            found = json.loads(index.read_text(encoding="utf-8"))
            panoramas = Panoramas(tuple(found["paths"]), tuple(found["unusable"]), config.height, str(data))
        else:
            with written_beside(data) as temporary:
                panoramas = _checked(paths, config, temporary)
            panoramas = Panoramas(panoramas.paths, panoramas.unusable, config.height, str(data))
            write_text(index, json.dumps({"paths": panoramas.paths, "unusable": panoramas.unusable}))
    refuse_unusable(len(panoramas), panoramas.unusable, str(root))
    return panoramas


def refuse_unusable(usable: int, unusable: Sequence[str], where: str) -> None:
    """Stop if too few panoramas are left.

    Raises:
        DataError: fewer than two panoramas are usable, or more than 10 % of the files are not.
    """
    example = f" (first: {unusable[0]})" if unusable else ""
    if usable < 2:
        found = f"{where} has {usable} usable panoramas and {len(unusable)} unusable files{example}"
        raise DataError(
            found, "check the path", expected="at least 2 panoramas in jpg, png or webp, twice as wide as high"
        )
    if len(unusable) > MAX_UNUSABLE * (usable + len(unusable)):
        found = f"{len(unusable)} of {usable + len(unusable)} files in {where} are unusable{example}"
        raise DataError(found, "repair or remove them, or check the path", expected=f"at most {MAX_UNUSABLE:.0%}")


def describe(panoramas: Panoramas) -> str:
    """The number of panoramas, and every unusable file with its reason."""
    lines = [f"{len(panoramas)} panoramas, {len(panoramas.unusable)} unusable files skipped"]
    return "\n".join([*lines, *(f"  skipped {each}" for each in panoramas.unusable)])


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

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without the interpreter's lock
        yield from tqdm(pool.map(decode, paths), total=len(paths), desc="panoramas", unit="file", leave=False)


def _fingerprint(paths: Sequence[Path], config: PanoramaConfig) -> str:
    """A hash of the files' names, sizes and times, so that a changed folder gets another cache."""
    digest = hashlib.sha256()
    for path in paths:
        status = path.stat()
        digest.update(f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0{config.height}\n".encode())
    return digest.hexdigest()[:16]
