"""A photograph of any size with its gaze, as fixations or as a map.

`photographs_with_fixations.py` and `photographs_with_maps.py` read them from disk. For evaluation, `PhotographRecords`
places each in front on a real panorama, valid inside its viewport; for training, `placed_photographs.py` and
`mixed_photographs.py` place several on one panorama.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from sal360.arrays import Density, Floats, Pixels, Reals
from sal360.density import normalised
from sal360.errors import DataError, FrameError
from sal360.ground_truth import GazeRecord
from sal360.images import decode_picture, read_picture
from sal360.picture_formats import picture_size
from sal360.projection import Viewport
from training.data.gaze.placed_photographs import draw_picture, gaze_on_sphere, viewport_at
from training.data.gaze.records import GazeRecords

COPY_AGAIN = "copy the data set again"
LARGEST_MAP_VALUE = 1e30
"""Maps of gaze have any scale that sums of float32 can hold."""
SIGMA_SHARE = 0.03
"""Blur of a fixation in the ground truth, as a share of the picture's long side. On OSIE's 800 pixels these are 24, one
degree of visual angle in the recording; the viewing distance for photographs on screens is usually similar."""


@dataclass(frozen=True, eq=False)
class Photograph:
    """One photograph and the gaze on it."""

    name: str
    path: Path
    height: int
    """Rows of the stored picture, pixels."""
    width: int
    """Columns of the stored picture, pixels."""
    x: NDArray[np.float32]
    """(n,) pixels of the stored picture, 0 at its left edge."""
    y: NDArray[np.float32]
    """(n,) pixels of the stored picture, 0 at its upper edge."""
    subject: NDArray[np.signedinteger[Any]]
    """(n,): number of the observer."""
    duration_ms: NDArray[np.float32]
    """(n,) milliseconds; NaN where it is unknown."""
    gaze_map: NDArray[Any] | None = None
    """(h, w), of any scale, over the whole picture: the gaze, if no fixations are known."""

    @property
    def sigma_px(self) -> float:
        """Blur of a fixation, pixels of the stored picture."""
        return SIGMA_SHARE * max(self.height, self.width)

    def size(self, long_side: int | None = None) -> tuple[int, int]:
        """Rows and columns of the picture when its longer side has `long_side` pixels; None: as stored."""
        if long_side is None:
            return self.height, self.width
        scale = long_side / max(self.height, self.width)
        return max(1, round(self.height * scale)), max(1, round(self.width * scale))

    def read(self, long_side: int | None = None) -> Pixels:
        """The picture, RGB uint8, (h, w, 3), reduced by area until its longer side has at most `long_side` pixels.

        Raises:
            DataError: the file is missing or broken, or has another size than its fixations are for.
        """
        try:
            picture = read_picture(self.path)
        except FrameError as error:
            raise DataError(error.found, _remedy(error), expected=error.expected) from None
        if picture.shape != (self.height, self.width, 3):
            found = f"{self.path} is {picture.shape[1]} x {picture.shape[0]}"
            raise DataError(found, COPY_AGAIN, expected=f"a photograph of {self.width} x {self.height}")
        if long_side is not None and long_side < max(picture.shape):
            height, width = self.size(long_side)
            picture = np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        return np.ascontiguousarray(picture[:, :, ::-1])

    def seen_by(self, people: ArrayLike) -> Photograph:
        """The photograph with the fixations of some observers alone."""
        mine = np.isin(self.subject, people)
        return replace(
            self, x=self.x[mine], y=self.y[mine], subject=self.subject[mine], duration_ms=self.duration_ms[mine]
        )

    def density(
        self, long_side: int | None = None, sigma_px: float | None = None, subjects: Sequence[int] | None = None
    ) -> Density:
        """The gaze per area of the picture, (h, w) float32, mean 1: fixations blurred by a Gaussian, or the map.

        Args:
            long_side: pixels of the density's longer side; None: as the stored picture.
            sigma_px: standard deviation of the Gaussian, pixels of the stored picture; None: `self.sigma_px`.
            subjects: observers whose fixations count; None counts everybody's.
        """
        height, width = self.size(long_side)
        if self.gaze_map is not None:
            density: Reals = resize_plane(self.gaze_map.astype(np.float32), height, width) + 1e-6
            return np.asarray(density / density.mean(), np.float32)
        sigma = self.sigma_px if sigma_px is None else sigma_px
        counted = slice(None) if subjects is None else np.isin(self.subject, subjects)
        # exact and separable: the sum over fixations of g(row − y) · g(column − x) is one matrix product
        columns = _cell_means(self.x[counted] * (width / self.width), width, sigma * width / self.width)  # (n, width)
        rows = _cell_means(self.y[counted] * (height / self.height), height, sigma * height / self.height)
        blurred: Floats = rows.T @ columns + 1e-12
        return np.asarray(blurred / blurred.mean(), np.float32)


def resize_plane(values: Reals, height: int, width: int) -> Density:
    """A map over a picture (h, w) on another grid: the mean over each cell, or looked up along an axis that grows."""
    shrunk = (min(width, values.shape[1]), min(height, values.shape[0]))
    coarse = cv2.resize(np.ascontiguousarray(values), shrunk, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _cell_means(centres: Reals, size: int, sigma: float) -> Floats:
    """The mean of a Gaussian over each of `size` pixels, one row for each centre: (len(centres), size)."""
    parts = max(1, math.ceil(4 / sigma))  # places in a pixel, so that none is farther than σ/4 from the next
    place = (np.arange(size * parts) + 0.5) / parts
    values = np.exp(-0.5 * ((place - np.asarray(centres, np.float64)[:, None]) / sigma) ** 2)
    return np.asarray(values.reshape(len(values), size, parts).mean(axis=2))


def _remedy(error: FrameError) -> str:
    """What to do about a photograph that cannot be read: an index names it, so that it cannot just be removed."""
    if error.reason == "too_large":
        return "reduce it"
    return COPY_AGAIN if "remove" in error.remedy or error.reason == "missing" else error.remedy


class _Column(NamedTuple):
    """What an array of an index holds, and how many axes it has (docs/gaze_data.md)."""

    content: Literal["text", "whole numbers", "numbers"]
    axes: tuple[int, ...] = (1,)

    def fits(self, values: NDArray[Any]) -> bool:
        """Whether an array holds such values."""
        if values.ndim not in self.axes:
            return False
        if self.content == "text":
            return values.dtype.kind == "U"
        is_whole = values.dtype.kind in "biu"
        if self.content == "numbers" or is_whole:
            return is_whole or values.dtype.kind == "f"
        return values.dtype.kind == "f" and bool(np.isfinite(values).all() and (values % 1 == 0).all())


_COLUMNS = {
    "names": _Column("text"),
    "scene": _Column("text"),
    "image": _Column("whole numbers"),
    "subject": _Column("whole numbers"),
    "observer": _Column("whole numbers", (1, 2)),
    "size_hw": _Column("whole numbers", (2,)),
    "maps": _Column("numbers", (3,)),
    **dict.fromkeys(("x", "y", "duration_ms", "lon_rad", "lat_rad", "t_s"), _Column("numbers")),
}


def read_table(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """The named arrays of an .npz file, checked for their types; optional ones only if it has them.

    Raises:
        DataError: the file is missing or broken, lacks an array or has one of another type, or names no picture or one
            twice.
    """
    if not path.is_file():
        raise DataError(
            f"there is no {path}",
            f"give the folder of a data set, with {path.name} and stimuli in it (docs/gaze_data.md)",
        )
    try:
        # opened here, because numpy leaves a broken file open
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            found = [name for name in optional if name in archive.files]
            table = {name: archive[name] for name in (*columns, *found)}
    except Exception as error:  # zip, zlib and numpy's parser of headers raise various exceptions
        expected = "the columns " + ", ".join(columns)
        raise DataError(f"{path} cannot be read ({error})", COPY_AGAIN, expected=expected) from None
    for name, values in table.items():
        column = _COLUMNS[name]
        if not column.fits(values):
            raise DataError(
                f"{path} has {name} of type {values.dtype} and shape {values.shape}",
                "write it as docs/gaze_data.md describes",
                expected=f"{column.content} with {' or '.join(map(str, column.axes))} axes",
            )
    _check_names(table["names"].tolist(), path)
    return table


def _check_names(names: list[str], path: Path) -> None:
    """Refuse an index without pictures, or one that names a picture twice: it could be trained on and measured."""
    if not names:
        raise DataError(f"{path} names no pictures", COPY_AGAIN)
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"{path} names {name} twice", "remove one of the two with its gaze")
        seen.add(name)


def stimulus(root: Path, name: str, index: Path) -> Path:
    """The path of a picture; DataError if it is missing."""
    path = root / "stimuli" / name
    if not path.is_file():
        raise DataError(f"there is no {path}, which {index.name} names", COPY_AGAIN)
    return path


_TURNED = (b"Exif\0", b"eXIf", b"EXIF")
"""What a file contains if its picture may have to be turned upright: in JPEG, PNG and WebP."""


def size_of(path: Path) -> tuple[int, int]:
    """Rows and columns of a picture by its header, or as `read_picture` turns it upright.

    Raises:
        DataError: the header does not contain the size, or a picture that may be turned is damaged.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})", COPY_AGAIN) from None
    height, width = picture_size(content)
    if height * width and any(each in content for each in _TURNED):
        try:
            height, width = decode_picture(content, str(path)).shape[:2]
        except FrameError as error:
            raise DataError(error.found, _remedy(error), expected=error.expected) from None
    if height * width == 0:
        raise DataError(f"{path} is not a picture, or its header is damaged", COPY_AGAIN)
    return height, width


@dataclass(frozen=True, eq=False, kw_only=True)
class PlacedPhotograph(GazeRecord):
    """A photograph that lies on a panorama."""

    photograph: Photograph
    """The photograph, with its gaze in its own plane."""
    viewport: Viewport
    """Where it lies: a window as large as the photograph is stored."""


class PhotographRecords(GazeRecords):
    """Photographs at azimuth and elevation 0, each on a panorama; names are those of the photographs.

    Args:
        photographs: at least one.
        backgrounds: panoramas (H, W, 3) uint8 RGB, used in turn.
        fov_deg: field of view of the longer side of a photograph, degrees.
        map_height: rows of the densities.
    """

    def __init__(
        self, photographs: Sequence[Photograph], backgrounds: Sequence[Pixels], fov_deg: float, map_height: int = 256
    ) -> None:
        self._photographs, self._backgrounds, self._map_height = photographs, backgrounds, map_height
        self._fov_rad = math.radians(fov_deg)
        self.names = tuple(each.name for each in photographs)
        self.sigma_deg = math.degrees(2 * SIGMA_SHARE * math.tan(self._fov_rad / 2))

    def read(self, index: int) -> PlacedPhotograph:
        photograph = self._photographs[index]
        viewport = viewport_of(photograph.height, photograph.width, self._fov_rad)
        gaze, valid = gaze_on_sphere(photograph.density(), viewport, self._map_height, 2 * self._map_height)
        background = self._backgrounds[index % len(self._backgrounds)]
        return PlacedPhotograph(
            name=photograph.name,
            panorama=partial(_draw, photograph, background, viewport),
            # a photograph's x counts from its left edge, a viewport's from the middle of its first pixel
            fixations=viewport.unproject(
                (photograph.x - 0.5).astype(np.float64), (photograph.y - 0.5).astype(np.float64)
            ),
            observer=photograph.subject.astype(np.int64),
            time_s=np.full(len(photograph.x), np.nan),
            density=normalised(gaze.astype(np.float64), valid),
            valid=valid,
            photograph=photograph,
            viewport=viewport,
        )


def viewport_of(height: int, width: int, fov_rad: float, azimuth_rad: float = 0.0) -> Viewport:
    """A viewport on the horizon whose longer side spans `fov_rad` radians."""
    horizontal = fov_rad if width >= height else 2 * math.atan(math.tan(fov_rad / 2) * width / height)
    return viewport_at(azimuth_rad, 0.0, 0.0, horizontal, height, width)


def _draw(photograph: Photograph, background: Pixels, viewport: Viewport) -> Pixels:
    panorama = background.copy()
    draw_picture(panorama, photograph.read(), viewport)
    return panorama
