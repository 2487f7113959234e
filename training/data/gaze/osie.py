"""OSIE: photographs of 800 x 600 and where 15 people looked in them (Xu et al., Journal of Vision 14(1), 2014).

On disk: `stimuli/*.jpg` and `fixations.npz` with the columns image, subject, x, y, duration_ms and names.
`read_osie` reads them as `Photograph`s. For evaluation, `OsieRecords` puts each in front on a real panorama, valid
inside its viewport; for training, `placed_photographs.py` lays several on one panorama.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sal360.arrays import Density, Floats, Pixels, Reals
from sal360.density import normalised
from sal360.errors import DataError, FrameError
from sal360.ground_truth import GazeRecord
from sal360.images import read_picture
from sal360.projection import Viewport
from training.data.gaze.dataset_files import Inventory, check_picture, require_folder
from training.data.gaze.placed_photographs import draw_picture, gaze_on_sphere, viewport_at
from training.data.gaze.records import GazeRecords

HEIGHT_PX, WIDTH_PX = 600, 800
SIGMA_PX = 24.0
"""Blur of a fixation in the ground truth, pixels: one degree of visual angle in the recording."""
PHOTOGRAPHS, FIXATIONS, PEOPLE = 600, 84_290, 15
_COLUMNS = ("image", "subject", "x", "y", "duration_ms", "names")
_REMEDY = "copy the data set again"


@dataclass(frozen=True, eq=False)
class Photograph:
    """One photograph and the fixations on it."""

    name: str
    path: Path
    x: NDArray[np.float32]
    """(n,) pixels, 0 at the left edge of the photograph."""
    y: NDArray[np.float32]
    """(n,) pixels, 0 at its upper edge."""
    subject: NDArray[np.signedinteger[Any]]
    """(n,): number of the observer."""

    def read(self, width: int = WIDTH_PX) -> Pixels:
        """The picture, RGB uint8, reduced by area to `width` columns: (width · 3/4, width, 3).

        Raises:
            DataError: the file is missing, broken or not 800 x 600.
        """
        try:
            picture = read_picture(self.path)
        except FrameError as error:
            raise DataError(error.found, _REMEDY, expected=error.expected) from None
        if picture.shape != (HEIGHT_PX, WIDTH_PX, 3):
            found = f"{self.path} is {picture.shape[1]} x {picture.shape[0]}"
            raise DataError(found, _REMEDY, expected="a photograph of 800 x 600")
        if width != WIDTH_PX:
            size = width, width * HEIGHT_PX // WIDTH_PX
            picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        return np.ascontiguousarray(picture[:, :, ::-1])

    def density(
        self, width: int = WIDTH_PX, sigma_px: float = SIGMA_PX, subjects: Sequence[int] | None = None
    ) -> Density:
        """The fixations blurred by a Gaussian, (width · 3/4, width) float32, mean 1.

        Args:
            width: columns of the map.
            sigma_px: standard deviation of the Gaussian, pixels of the 800 x 600 photograph.
            subjects: observers whose fixations count; None counts everybody's.
        """
        height = width * HEIGHT_PX // WIDTH_PX
        sigma = sigma_px * width / WIDTH_PX
        counted = slice(None) if subjects is None else np.isin(self.subject, subjects)
        # exact and separable: the sum over fixations of g(row − y) · g(column − x) is one matrix product
        columns = _gaussians(self.x[counted] * width / WIDTH_PX - 0.5, width, sigma)  # (n, width)
        rows = _gaussians(self.y[counted] * height / HEIGHT_PX - 0.5, height, sigma)  # (n, height)
        density: Floats = rows.T @ columns + 1e-12
        return np.asarray(density / density.mean(), np.float32)


def _gaussians(centres: Reals, size: int, sigma: float) -> Floats:
    """One Gaussian per row: (len(centres), size)."""
    return np.exp(np.asarray(-0.5 * ((np.arange(size) - centres[:, None]) / sigma) ** 2))


def read_osie(root: str | Path) -> list[Photograph]:
    """All photographs of a copy of OSIE, in the order of its index.

    Raises:
        DataError: the index is missing or malformed, a photograph is missing, or a fixation lies outside the picture.
    """
    root = Path(root)
    index = root / "fixations.npz"
    if not index.is_file():
        raise DataError(f"there is no {index}", "give the root folder of the data set, with its index of fixations")
    try:
        # opened here, because numpy leaves a broken file open
        with open(index, "rb") as file, np.load(file, allow_pickle=False) as archive:
            table = {name: archive[name] for name in _COLUMNS}
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        columns = "the columns " + ", ".join(_COLUMNS)
        raise DataError(f"{index} cannot be read ({error})", _REMEDY, expected=columns) from None
    _check(table, index)
    photographs = []
    for i, name in enumerate(table["names"]):
        path = root / "stimuli" / str(name)
        if not path.is_file():
            raise DataError(f"there is no {path}, which {index.name} names", _REMEDY)
        mine = table["image"] == i
        photographs.append(Photograph(str(name), path, table["x"][mine], table["y"][mine], table["subject"][mine]))
    return photographs


def _check(table: Mapping[str, NDArray[Any]], index: Path) -> None:
    lengths = {len(table[name]) for name in _COLUMNS if name != "names"}
    if len(lengths) != 1:
        raise DataError(f"{index} has columns of {sorted(lengths)} rows", _REMEDY, expected="columns of one length")
    inside = (table["x"] >= 0) & (table["x"] <= WIDTH_PX) & (table["y"] >= 0) & (table["y"] <= HEIGHT_PX)
    if not inside.all():  # NaN is never inside
        row = int(np.flatnonzero(~inside)[0])
        where = f"({table['x'][row]:g}, {table['y'][row]:g})"
        raise DataError(f"row {row} of {index} is a fixation at {where}", _REMEDY, expected="one inside 800 x 600")
    if len(table["image"]) and not 0 <= table["image"].min() <= table["image"].max() < len(table["names"]):
        raise DataError(f"{index} has fixations on images without a name", _REMEDY)


class OsieRecords(GazeRecords):
    """Photographs at azimuth and elevation 0, each on a panorama; names are those of the photographs.

    Args:
        photographs: at least one.
        backgrounds: panoramas (H, W, 3) uint8 RGB on which they lie in turn.
        fov_deg: horizontal field of view of a photograph, degrees.
        map_height: rows of the densities.
    """

    def __init__(
        self, photographs: Sequence[Photograph], backgrounds: Sequence[Pixels], fov_deg: float, map_height: int = 256
    ) -> None:
        self._photographs, self._backgrounds, self._map_height = photographs, backgrounds, map_height
        self._viewport = viewport_at(0.0, 0.0, 0.0, math.radians(fov_deg), HEIGHT_PX, WIDTH_PX)
        self.names = tuple(each.name for each in photographs)
        self.sigma_deg = math.degrees(SIGMA_PX / self._viewport.focal_px)

    def read(self, index: int) -> GazeRecord:
        photograph = self._photographs[index]
        gaze, valid = gaze_on_sphere(photograph.density(), self._viewport, self._map_height, 2 * self._map_height)
        background = self._backgrounds[index % len(self._backgrounds)]
        return GazeRecord(
            name=photograph.name,
            panorama=partial(_draw, photograph, background, self._viewport),
            # a photograph's x counts from its left edge, a viewport's from the middle of its first pixel
            fixations=self._viewport.unproject(
                (photograph.x - 0.5).astype(np.float64), (photograph.y - 0.5).astype(np.float64)
            ),
            observer=photograph.subject.astype(np.int64),
            time_s=np.full(len(photograph.x), np.nan),
            density=normalised(gaze.astype(np.float64), valid),
            valid=valid,
        )


def _draw(photograph: Photograph, background: Pixels, viewport: Viewport) -> Pixels:
    panorama = background.copy()
    draw_picture(panorama, photograph.read(), viewport)
    return panorama


def inventory(root: str | Path) -> Inventory:
    """What a copy holds: every photograph that the index names, and all fixations."""
    folder = require_folder(root)
    found = Inventory()
    stimuli = sorted((folder / "stimuli").glob("*.jpg"))
    found.count("photographs", len(stimuli), PHOTOGRAPHS)
    for path in stimuli:
        found.try_file(partial(check_picture, path))
    try:
        photographs = read_osie(folder)
    except DataError as error:
        found.problems.append(error.found)
        return found
    found.count("fixations", sum(len(each.x) for each in photographs), FIXATIONS)
    found.count("people", len({int(person) for each in photographs for person in each.subject}), PEOPLE)
    return found
