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

from sal360.arrays import Density, Floats, Integers, Mask
from sal360.density import HEADSET_SIGMA_DEG, as_density
from sal360.errors import DataError, ParameterError
from sal360.ground_truth import GazeRecord
from training.data.gaze.dataset_files import (
    Inventory,
    Irregular,
    Lines,
    files_by_identity,
    is_header,
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
_MAP = re.compile(r"(HE|H)salmap_(\d+)_\d+x\d+_\d+b\.bin", re.IGNORECASE)
_MAP_SIZE = re.compile(r".*_(\d+)x(\d+)(?:x(\d+))?_(16|32|64)b\.bin", re.IGNORECASE)
_SCANPATH = re.compile(r"(HE|H)scanpath_(\d+)\.txt", re.IGNORECASE)
_COLUMNS = "index, longitude, latitude, start"
_NAMES = (("idx", "index"), ("lon",), ("lat",), ("start", "time"))
"""How the names of these columns may begin, in the header."""
_EYES = {"l": "L", "left": "L", "r": "R", "right": "R"}
"""Eye by name of the folder."""


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
            number: path
            for chosen in ("", eye)  # where there are both, those of the eye
            for (of, number, by), path in scanpaths.items()
            if of == movement and by == chosen
        }
        require_files(self._maps, ids, f"{movement} saliency maps", self._root)
        if movement == "HE" or self._scanpaths:
            require_files(self._scanpaths, ids, f"{movement} scanpaths", self._root)
        self.names = tuple(f"P{each}" for each in ids)
        alone = len(set(in_split(self._maps, split)) - set(ids))
        self.left_out = f"maps without a picture: {alone}" if alone else ""

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
            density=_read_own_map(self._maps[number]),
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


def _read_own_map(path: Path) -> Density:
    """A map of the data set as a density; a DataError if it is not that of a panorama."""
    _, height, width, _ = map_shape(path)
    if not 1.9 * height <= width <= 2.1 * height:
        raise DataError(f"the map {path} is {width} x {height}", "copy it again", expected="twice as wide as high")
    return read_density(path)


def map_shape(path: Path) -> tuple[int, int, int, np.dtype[np.floating[Any]]]:
    """(frames, height, width, dtype) from the name, checked against the file's size.

    Raises:
        DataError: the file is missing, has another name or another size.
    """
    match = _MAP_SIZE.fullmatch(path.name)
    width, height, frames, bits = (int(each or 1) for each in match.groups()) if match else (0, 0, 0, 0)
    if width * height * frames == 0:
        raise DataError(
            f"{path} has no size in its name",
            "restore its name",
            expected="name_{width}x{height}[x{frames}]_{bits}b.bin with 16, 32 or 64 bits",
        )
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
    rows, columns = _rows(path, irregular)
    table = read_numbers(path, rows, columns, _COLUMNS)
    again = _repeats(table)
    irregular.note("fixations that come twice, left out", int(again.sum()), path)
    numbers, table = np.asarray(rows.numbers, dtype=np.int64)[~again], table[~again]
    _check_indices(path, numbers, table[:, 0])
    lost = ~np.isfinite(table[:, :3]).all(axis=1)
    irregular.note("fixations that are no numbers, left out", int(lost.sum()), path)
    outside = off_panorama(table[:, 1:3], irregular, path) & ~lost
    if outside.any():
        raise DataError(
            f"line {numbers[outside][0]} of {path} is outside the panorama",
            "copy it again",
            expected="positions from 0 to 1",
        )
    if lost.all():
        raise DataError(f"{path} has no fixations", "copy it again", expected="whole scanpaths")
    start_s = np.where(np.isfinite(table[:, 3]), table[:, 3] / 1000, np.nan)
    irregular.note("fixations without a start time", int((np.isnan(start_s) & ~lost).sum()), path)
    observer = np.full(len(table), -1)
    counted = np.isfinite(table[:, 0])  # a lost fixation may be the first of a person
    observer[counted] = _people(table[counted, 0], start_s[counted], irregular, path)
    table = table[~lost]
    return directions_of_positions(table[:, 1], table[:, 2]), observer[~lost], start_s[~lost]


def _rows(path: Path, irregular: Irregular) -> tuple[Lines, tuple[int, ...]]:
    """The lines of fixations, and the columns of index, longitude, latitude and start.

    Without a header that names them, they are the first four.

    Raises:
        DataError: a line has more columns than the header and no decimal point: it has decimal commas between commas.
    """
    lines = read_lines(path)
    header = lines.texts[0] if lines.texts and is_header(lines.texts[0]) else ""
    irregular.note("scanpaths without a header row", int(bool(lines.texts) and not header), path)
    rows = lines.without(header)
    irregular.note("header rows that come again, left out", len(lines.texts) - len(rows.texts) - bool(header), path)
    names = [name.strip().lower() for name in header.split(",")]
    columns = [next((i for i, name in enumerate(names) if name.startswith(each)), -1) for each in _NAMES]
    is_named = min(columns) >= 0
    width = len(names) if is_named else len(columns) + 1  # with the duration
    for number, text in zip(*rows, strict=True):
        if "." not in text and text.rstrip(", ").count(",") >= width:
            found = f"line {number} of {path} is malformed"
            raise DataError(found, "write decimal points, or semicolons between columns", expected=_COLUMNS)
    return rows, tuple(columns) if is_named else (0, 1, 2, 3)


def _check_indices(path: Path, numbers: Integers, index: Floats) -> None:
    """Refuse indices that are no whole numbers from 0; NaN is lost."""
    is_none = np.isfinite(index) & ((index < 0) | (index % 1 != 0))
    if is_none.any():
        found = f"line {numbers[is_none][0]} of {path} has the index {index[is_none][0]:g}"
        raise DataError(found, "correct it, or copy the file again", expected="whole numbers from 0")


def _people(index: Floats, start_s: Floats, irregular: Irregular, path: Path) -> Integers:
    """The number of the person of each fixation, (n,), from the indices, which begin again with each person."""
    irregular.note("scanpaths whose first person has no beginning", int(index[0] != 0), path)
    step, is_back = np.diff(index), np.diff(start_s) < 0
    # where the next person's first fixations are missing, the index may be larger, but the time is smaller
    begins = (step <= 0) | (step > 1) & is_back
    irregular.note("people whose scanpath has no beginning", int((begins & (index[1:] != 0)).sum()), path)
    irregular.note("fixations that are missing between others", int((step - 1)[~begins].sum()), path)
    irregular.note("fixations that start before the one before", int((~begins & is_back).sum()), path)
    return np.cumsum(np.append(False, begins))


def _repeats(table: Floats) -> Mask:
    """Which fixations (n, 4) are the one before again; equal first ones may be those of two people."""
    again = np.zeros(len(table), bool)
    again[1:] = (table[1:] == table[:-1]).all(axis=1) & (table[1:, 0] > 0)
    return again


def inventory(root: str | Path) -> Inventory:
    """The contents of a copy: every picture needs its HE map and scanpaths."""
    folder = require_folder(root)
    found = Inventory()
    pictures, maps, scanpaths = _index(folder, found.problems)
    found.count("pictures", len(pictures), IMAGES)
    for movement in ("HE", "H"):
        of_movement = [number for of, number in maps if of == movement]
        found.count(f"{movement} saliency maps", len(of_movement), IMAGES)
        found.problems += [f"P{n} lacks its {movement} map" for n in sorted(set(pictures) - set(of_movement))]
    for eye in sorted({by for _, _, by in scanpaths}) or ["R"]:
        of_eye = [number for of, number, by in scanpaths if of == "HE" and by == eye]
        found.count(f"HE scanpaths {eye}".rstrip(), len(of_eye), IMAGES)
        found.problems += [f"P{n} lacks its HE scanpaths {eye}".rstrip() for n in sorted(set(pictures) - set(of_eye))]
    alone = {number for _, number in maps} | {number for _, number, _ in scanpaths}
    found.problems += [f"P{n} has a map or scanpaths, but no picture" for n in sorted(alone - set(pictures))]
    for path in pictures.values():
        found.try_file(partial(read_panorama, path, 1))
    for path in maps.values():
        found.try_file(partial(_read_own_map, path))
    for path in scanpaths.values():
        found.try_file(partial(read_scanpaths, path, found.irregular))
    return found


def _index(
    root: Path, problems: list[str] | None = None
) -> tuple[dict[int, Path], dict[tuple[str, int], Path], dict[tuple[str, int, str], Path]]:
    """Pictures by number, maps by movement and number, scanpaths by movement, number and eye ("" if not by eye)."""

    def eye_of(path: Path) -> str:
        return _EYES.get(path.parent.name.lower(), "")

    return (
        files_by_identity(root, _PICTURE, lambda match, _: int(match[1]), problems),
        files_by_identity(root, _MAP, lambda match, _: (match[1].upper(), int(match[2])), problems),
        files_by_identity(
            root, _SCANPATH, lambda match, path: (match[1].upper(), int(match[2]), eye_of(path)), problems
        ),
    )
