"""Maps that another model has written: a folder of files that are named like the pictures.

A file is a NumPy array (.npy, (h, w)), a picture of grey values (8 or 16 bits), or a float map of the Salient360!
benchmark, whose name holds its size and type (`P75_2048x1024_32b.bin`, `HEsalmap_75_2048x1024_32b.bin`). Values are of
any scale, from 0 up. A map covers the whole picture, at any size: `Prediction` brings it to that of the truth.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock

import numpy as np

from sal360.arrays import Reals
from sal360.errors import DataError, FrameError
from sal360.ground_truth import GazeRecord, PanoramaReader
from sal360.images import read_map_picture, read_picture
from sal360.picture_formats import PICTURE_SUFFIXES
from sal360.sources.pictures import is_hidden, is_overlay
from training.checkpoint import holds_checkpoint
from training.data.gaze.dataset_files import first_of
from training.data.gaze.salient360 import map_shape, read_density
from training.data.panoramas import MAX_PIXELS
from training.evaluation.predictions import Prediction, picture_size
from training.processes import in_threads

_COLOUR_TOLERANCE = 12
"""Largest difference between the channels of a grey JPEG, of 255."""
_SIZE = re.compile(r"_\d+x\d+(x\d+)?(_\d+b)?$")
_SALIENT360 = re.compile(r"(?:HE|H)salmap_(\d+)")


class MapFolder:
    """The maps of one model; `pair` comes before `predict`.

    Args:
        folder: searched with its subfolders.

    Raises:
        DataError: there are no maps in it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder)
        self.name = self.path.resolve().name
        self._files = list(_map_files(self.path))
        if not self._files:
            raise DataError(
                f"{folder} has no checkpoint and no maps",
                "give the folder of a training run, or maps named like the pictures",
                expected=f"files with {' '.join(_READERS)}",
            )
        self._of: dict[str, Path] = {}
        self._resampled: Counter[tuple[tuple[int, int], tuple[int, int]]] = Counter()
        self._counting = Lock()
        self.unused = ""
        """The maps that are not used, for people; "" if there are none."""

    def pair(self, known: Sequence[str], measured: Collection[str]) -> None:
        """Find the map of each picture, and read those that will be needed once.

        Args:
            known: the names of all pictures of the data set.
            measured: those that are measured.

        Raises:
            DataError: a picture that is measured has no map or several, a map fits several pictures, or is unusable.
        """
        self._of, extra = pair_files(self.path, self._files, known)
        if not self._of:
            raise DataError(
                f"{self.path} has no checkpoint, and its maps are named like no picture of the data: {first_of(extra)}",
                "rename them, or choose another folder",
                expected=f"names such as {_without_suffix(next(iter(measured)))}{self._files[0].suffix}",
            )
        missing = [name for name in measured if name not in self._of]
        if missing:
            raise DataError(
                f"{self.path} lacks the maps of {len(missing)} of {len(measured)} pictures: {first_of(missing)}"
                + (f"; it has maps of no picture: {first_of(extra)}" if extra else ""),
                "add them, named like the pictures, or measure another part of the data",
            )
        names = list(measured)
        for _ in in_threads(len(names), lambda index: read_map_file(self._of[names[index]]).shape):
            pass
        spare = len(self._of) - len(set(measured))
        notes = [f"{_maps(len(extra))} of no picture left out: {first_of(extra)}"] if extra else []
        notes += [f"{_maps(spare)} of pictures that are not measured"] if spare else []
        self.unused = "; ".join(notes)

    def read(self, name: str) -> Reals:
        """The map of a picture, (h, w), as written."""
        return read_map_file(self._of[name])

    def predict(self, record: GazeRecord, _panorama: PanoramaReader) -> Prediction:
        """The map of a record's picture."""
        values = self.read(record.name)
        height, width = values.shape
        if (height, width) != picture_size(record):
            with self._counting:  # several threads predict at once
                self._resampled[(height, width), picture_size(record)] += 1
        return Prediction(values, record, of_picture=True)

    @property
    def resampled(self) -> str:
        """How maps were brought to the size of the truth so far, for people; "" if none had another size."""
        notes = []
        for (size, wanted), count in self._resampled.items():
            is_finer = size[0] >= wanted[0] and size[1] >= wanted[1]
            how = "averaged over the pixels of" if is_finer else "interpolated to"
            notes.append(f"{_maps(count)} of {size[1]} x {size[0]} {how} {wanted[1]} x {wanted[0]}")
        return "; ".join(notes)


def is_map_folder(path: str | Path) -> bool:
    """Whether a path is a folder that is not a checkpoint or a training run."""
    return Path(path).is_dir() and not holds_checkpoint(path)


def _map_files(folder: Path) -> Iterator[Path]:
    """The maps below a folder; hidden files, and overlays beside the maps of `sal360 predict`, are ignored."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(each for each in folders if not is_hidden(each))
        for path in (Path(parent, name) for name in sorted(names) if not is_hidden(name)):
            if path.suffix.lower() in _READERS and not is_overlay(path, names):
                yield path


# --- names ---


def pair_files(folder: Path, files: Sequence[Path], names: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
    """The file of each picture by its name, and the files of no picture, relative to the folder.

    A file fits a picture whose name is its own, with or without the picture's suffix, in any subfolder.

    Raises:
        DataError: two files fit one picture, or one file fits two.
    """
    exact, stems = set(names), _by_stem(names)
    found: dict[str, Path] = {}
    extra = []
    for file in files:
        relative = file.relative_to(folder)
        name = next((name for form in _forms(relative) if (name := _name_of(form, file, exact, stems))), "")
        if not name:
            extra.append(relative.as_posix())
            continue
        if name in found:
            raise DataError(f"{found[name]} and {file} are both maps of {name}", "remove one of them")
        found[name] = file
    return found, extra


def _by_stem(names: Sequence[str]) -> dict[str, list[str]]:
    stems: dict[str, list[str]] = {}
    for name in names:
        stems.setdefault(_without_suffix(name), []).append(name)
    return stems


def _name_of(form: str, file: Path, exact: Collection[str], stems: Mapping[str, list[str]]) -> str:
    """The picture that a form of a file's name means; "" if there is none."""
    if form in exact:
        return form
    fitting = stems.get(_without_suffix(form), [])
    if len(fitting) > 1:
        raise DataError(f"{file} fits {' and '.join(fitting)}", f"name it {Path(fitting[0]).name}{file.suffix}")
    return fitting[0] if fitting else ""


def _forms(relative: Path) -> Iterator[str]:
    """The names of pictures that a file may belong to, the most literal first."""
    for path in (relative, Path(relative.name)):
        plain = path.with_suffix("").as_posix()
        yield plain
        sizeless = _SIZE.sub("", _without_suffix(plain))
        yield sizeless
        if match := _SALIENT360.fullmatch(Path(sizeless).name):
            yield f"P{int(match[1])}"


def _without_suffix(name: str) -> str:
    suffix = Path(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in PICTURE_SUFFIXES else name


def _maps(count: int) -> str:
    return f"{count} map{'s' if count != 1 else ''}"


# --- files ---


def read_map_file(path: Path) -> Reals:
    """A map (h, w) with the values as stored; those of .bin files are scaled to mean 1 on the sphere.

    float32 where that holds them exactly, else float64.

    Raises:
        DataError: the file is missing, damaged or in colour, or does not hold one map of values from 0 up, not all 0.
    """
    values = _READERS[path.suffix.lower()](path)
    if not np.isfinite(values).all():
        raise DataError(f"{path} has values that are not finite", _WRITE_AGAIN)
    if values.min() < 0:
        raise DataError(f"{path} has negative values", "write densities: the exponential of log-densities")
    if not values.any():
        raise DataError(f"{path} is zero everywhere", _WRITE_AGAIN)
    return values


_WRITE_AGAIN = "let the model write it again"


def _read_array(path: Path) -> Reals:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)  # a header may promise more than the file holds
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})", "check the file") from None
    except Exception as error:  # numpy's parser of headers raises various exceptions
        raise DataError(f"{path} is not a NumPy array ({error})", _WRITE_AGAIN) from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "buif":
        raise DataError(f"{path} does not hold one array of numbers", _WRITE_AGAIN, expected="a map (h, w)")
    shape = values.shape
    if values.ndim > 2:  # (1, h, w), (h, w, 1)
        values = values.reshape([side for side in shape if side > 1])
    if values.ndim != 2 or values.size == 0:
        raise DataError(f"{path} has the shape {shape}", "write one file for each picture", expected="a map (h, w)")
    exact = values.dtype in (np.float32, np.float16, np.uint16, np.int16, np.uint8, np.int8, np.bool_)
    return values.astype(np.float32 if exact else np.float64)


def _read_grey(path: Path) -> Reals:
    try:
        blue, green, red = np.moveaxis(read_picture(path, max_pixels=MAX_PIXELS), 2, 0)
        values = read_map_picture(path, max_pixels=MAX_PIXELS)
    except FrameError as error:
        raise DataError(error.found, error.remedy, expected=error.expected) from None
    difference = np.maximum(np.maximum(blue, green), red) - np.minimum(np.minimum(blue, green), red)
    if difference.max() > _COLOUR_TOLERANCE:
        raise DataError(f"{path} is in colour", "write the map itself, not a heat map", expected="grey values")
    return values


def _read_binary(path: Path) -> Reals:
    frames = map_shape(path)[0]
    if frames > 1:
        raise DataError(f"{path} holds the maps of {frames} frames", "write one file for each picture")
    return read_density(path)


_READERS: dict[str, Callable[[Path], Reals]] = {
    ".npy": _read_array,
    ".bin": _read_binary,
    **dict.fromkeys(PICTURE_SUFFIXES, _read_grey),
}
"""Suffix of a map's file → its reader."""
