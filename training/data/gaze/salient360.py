"""Salient360! images: panoramas, raw saliency maps and scanpaths of head (H) or head and eyes (HE).

Gutiérrez et al., "Introducing UN Salient360! Benchmark" (QoMEX 2018). On disk, in any folders below the root:
`P{n}_{W}x{H}.jpg`, `HEsalmap_{n}_2048x1024_32b.bin`, `Hsalmap_{n}_…`, and `Scanpaths/{L,R}/HEscanpath_{n}.txt` with a
header row and the columns index, longitude, latitude, start in milliseconds; index 0 starts the next observer.
`Salient360` pairs them by n and reads a picture's maps with `read_density` and its scanpaths with `read_scanpaths`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sal360.arrays import Density, Floats, Integers
from sal360.density import HEADSET_SIGMA_DEG, as_density
from sal360.errors import DataError, ParameterError
from sal360.ground_truth import GazeRecord
from training.data.gaze.dataset_files import (
    Inventory,
    Irregular,
    check_picture,
    files_by_identity,
    off_panorama,
    read_lines,
    read_numbers,
    require_files,
    require_folder,
)
from training.data.gaze.records import GazeRecords, directions_of_positions
from training.data.panoramas import read_panorama

Movement = Literal["HE", "H"]
Eye = Literal["L", "R"]

IMAGES = 85
"""Number of pictures in the complete data set; they are numbered from 1 to 98 with gaps."""
FIRST_VALIDATION = 75
"""P75 to P98 are the 24 pictures that the paper most likely validates on; those before are for training."""
SPLITS = ("train", "validation", "all")
_PICTURE = re.compile(r"P(\d+)_(\d+)x(\d+)\.jpe?g", re.IGNORECASE)
_MAP = re.compile(r"(HE|H)salmap_(\d+)_\d+x\d+_\d+b\.bin")
_MAP_SIZE = re.compile(r".*_(\d+)x(\d+)(?:x(\d+))?_(16|32|64)b\.bin")
_SCANPATH = re.compile(r"(HE|H)scanpath_(\d+)\.txt")
_COLUMNS = "index, longitude, latitude, start"


class Salient360(GazeRecords):
    """Records of one split; names are P1 to P98.

    Args:
        root: folder of the data set.
        split: train, validation (P75 to P98) or all.
        movement: HE, head and eyes, or H, the head alone.
        eye: left or right, if the copy has scanpaths by eye.
        panorama_height: rows of the panoramas as they are read, pixels.
        strict: refuse what is irregular in the scanpaths.

    Raises:
        DataError: a picture of the split lacks its map or scanpaths, or there is no picture. A copy may lack all
            scanpaths of the head alone: its records then have maps and no fixations.
        ParameterError: the split is unknown.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        movement: Movement = "HE",
        eye: Eye = "R",
        panorama_height: int = 512,
        *,
        strict: bool = False,
    ) -> None:
        self.sigma_deg, self._strict = HEADSET_SIGMA_DEG, strict  # that of its own maps
        self._root, self._panorama_height = require_folder(root), panorama_height
        self._pictures, maps, scanpaths = _index(self._root)
        ids = in_split(self._pictures, split)
        if not ids:
            found = f"{root} has no picture of the split {split}"
            raise DataError(found, "check the path", expected="pictures named P{n}_{W}x{H}.jpg")
        self._maps = {number: path for (of, number), path in maps.items() if of == movement}
        self._scanpaths = {
            number: path for (of, number, by), path in scanpaths.items() if of == movement and by in (eye, "")
        }
        require_files(self._maps, ids, f"{movement} saliency maps", self._root)
        if movement == "HE" or self._scanpaths:
            require_files(self._scanpaths, ids, f"{movement} scanpaths", self._root)
        self.names = tuple(f"P{each}" for each in ids)

    def read(self, index: int) -> GazeRecord:
        number = int(self.names[index][1:])
        gaze: tuple[Floats, Integers, Floats] = (np.zeros((0, 3)), np.zeros(0, np.int64), np.zeros(0))
        if number in self._scanpaths:
            gaze = read_scanpaths(self._scanpaths[number], Irregular(self._strict))
        fixations, observer, time_s = gaze
        return GazeRecord(
            name=self.names[index],
            panorama=partial(read_panorama, self._pictures[number], self._panorama_height),
            fixations=fixations,
            observer=observer,
            time_s=time_s,
            density=read_density(self._maps[number]),
        )


def in_split(numbers: Iterable[int], split: str) -> list[int]:
    """The picture numbers of a split, sorted.

    Raises:
        ParameterError: there is no such split.
    """
    if split not in SPLITS:
        raise ParameterError(f"Salient360! has no split {split!r}", f"choose one of {', '.join(SPLITS)}")
    validates = {"train": (False,), "validation": (True,), "all": (False, True)}[split]
    return sorted(each for each in numbers if (each >= FIRST_VALIDATION) in validates)


def read_density(path: str | Path, frame: int = 0) -> Density:
    """One map as a density relative to uniform: (height, width) float32, solid-angle-weighted mean 1.

    Args:
        path: path of a picture's map, or of a video's, of which only the frame's part is read.
        frame: number of the frame, from 0.

    Raises:
        DataError: the file is missing or short, or the map is negative, not finite or empty.
    """
    path = Path(path)
    frames, height, width, dtype = map_shape(path)
    if not 0 <= frame < frames:
        raise DataError(f"{path} has no frame {frame}", "choose another frame", expected=f"0 to {frames - 1}")
    pixels = height * width
    stored = np.fromfile(path, dtype, count=pixels, offset=frame * pixels * dtype.itemsize)
    with np.errstate(invalid="ignore"):  # NaN is refused below
        values = stored if stored.dtype == np.float32 else stored.astype(np.float64)
    return as_density(values.reshape(height, width), str(path))  # (height · width,) → (height, width)


def map_shape(path: Path) -> tuple[int, int, int, np.dtype[np.floating[Any]]]:
    """(frames, height, width, dtype) from the name, checked against the file's size.

    Raises:
        DataError: the file is missing, has another name or another size.
    """
    match = _MAP_SIZE.fullmatch(path.name)
    if match is None:
        raise DataError(
            f"{path} has no size in its name",
            "restore its name",
            expected="name_{width}x{height}[x{frames}]_{bits}b.bin",
        )
    width, height, frames, bits = (int(each or 1) for each in match.groups())
    dtype = np.dtype(f"<f{bits // 8}")
    if not path.is_file():
        raise DataError(f"{path} does not exist", "copy the data set again", expected="a saliency map")
    expected = frames * height * width * dtype.itemsize
    size = path.stat().st_size
    if size != expected:
        what = "is cut short: it has" if size < expected else "has"
        raise DataError(f"{path} {what} {size} bytes", "copy it again", expected=f"{expected} as its name says")
    return frames, height, width, dtype


def read_scanpaths(path: Path, irregular: Irregular | None = None) -> tuple[Floats, Integers, Floats]:
    """Fixations (n, 3), their observers (n,) and start times (n,) in seconds, of all observers of one panorama.

    Args:
        path: the file.
        irregular: counts what is irregular in it.

    Raises:
        DataError: the file is missing or malformed, or a fixation lies outside the panorama.
    """
    irregular = irregular or Irregular()
    if not path.is_file():
        raise DataError(f"{path} does not exist", "copy the data set again", expected="scanpaths")
    lines = read_lines(path)
    has_header = re.match(r"[\s\d.,+-]*$", "".join(lines.texts[:1])) is None
    irregular.note("scanpaths without a header row", int(not has_header), path)
    rows = lines.beyond(int(has_header))
    table = read_numbers(path, rows, (0, 1, 2, 3), _COLUMNS)
    lost = ~np.isfinite(table).all(axis=1)
    irregular.note("fixations that are no numbers, left out", int(lost.sum()), path)
    numbers, table = np.asarray(rows.numbers)[~lost], table[~lost]
    outside = off_panorama(table[:, 1:3], irregular, path)
    if outside.any():
        raise DataError(
            f"line {numbers[outside][0]} of {path} is outside the panorama",
            "copy it again",
            expected="positions from 0 to 1",
        )
    if len(table) == 0:
        raise DataError(f"{path} has no fixations", "copy it again", expected="whole scanpaths")
    index, start_s = table[:, 0], table[:, 3] / 1000
    irregular.note("scanpaths whose first person has no beginning", int(index[0] != 0), path)
    starts = np.append(True, index[1:] <= index[:-1])  # of the next person, whose own first fixation may be missing
    irregular.note("people whose scanpath has no beginning", int((starts[1:] & (index[1:] != 0)).sum()), path)
    back = ~starts[1:] & (np.diff(start_s) < 0)
    irregular.note("fixations that start before the one before", int(back.sum()), path)
    return directions_of_positions(table[:, 1], table[:, 2]), np.cumsum(starts) - 1, start_s


def inventory(root: str | Path) -> Inventory:
    """The contents of a copy: every picture needs its HE map and scanpaths."""
    folder = require_folder(root)
    pictures, maps, scanpaths = _index(folder)
    found = Inventory()
    found.count("pictures", len(pictures), IMAGES)
    for movement in ("HE", "H"):
        of_movement = [number for of, number in maps if of == movement]
        found.count(f"{movement} saliency maps", len(of_movement), IMAGES)
        found.problems += [f"P{n} lacks its {movement} map" for n in sorted(set(pictures) - set(of_movement))]
    for eye in sorted({by for _, _, by in scanpaths}) or ["R"]:
        of_eye = [number for of, number, by in scanpaths if of == "HE" and by == eye]
        found.count(f"HE scanpaths {eye}".rstrip(), len(of_eye), IMAGES)
        found.problems += [f"P{n} lacks its HE scanpaths {eye}".rstrip() for n in sorted(set(pictures) - set(of_eye))]
    for path in pictures.values():
        found.try_file(partial(check_picture, path))
    for path in maps.values():
        found.try_file(partial(map_shape, path))
    for path in scanpaths.values():
        found.try_file(partial(read_scanpaths, path, found.irregular))
    return found


def _index(root: Path) -> tuple[dict[int, Path], dict[tuple[str, int], Path], dict[tuple[str, int, str], Path]]:
    """Pictures by number, maps by movement and number, scanpaths by movement, number and eye ("" if not by eye)."""

    def eye_of(path: Path) -> str:
        return path.parent.name if path.parent.name in ("L", "R") else ""

    return (
        files_by_identity(root, _PICTURE, lambda match, _: int(match[1])),
        files_by_identity(root, _MAP, lambda match, _: (match[1], int(match[2]))),
        files_by_identity(root, _SCANPATH, lambda match, path: (match[1], int(match[2]), eye_of(path))),
    )
