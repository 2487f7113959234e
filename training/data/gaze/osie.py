"""OSIE's photographs as records on the sphere: each one a viewport in front, on a real panorama; valid inside it."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from sal360.density import normalised
from sal360.errors import DataError
from sal360.ground_truth import GazeRecord
from sal360.projection import Viewport
from sal360.sphere import Array
from training.data.gaze.placed_photographs import draw_picture, gaze_on_sphere, viewport_at
from training.data.gaze.records import GazeRecords

HEIGHT_PX, WIDTH_PX = 600, 800
SIGMA_PX = 24.0
"""Blur of a fixation in the ground truth: one degree of visual angle in the recording."""
_COLUMNS = ("image", "subject", "x", "y", "duration_ms", "names")


@dataclass(frozen=True, eq=False)
class Photograph:
    """One photograph and the fixations on it."""

    name: str
    path: Path
    x: Array
    """(n,) float32, pixels, 0 at the left edge of the photograph."""
    y: Array
    """(n,) float32, pixels, 0 at its upper edge."""
    subject: Array
    """(n,) int: who looked."""

    def read(self, width: int = WIDTH_PX) -> Array:
        """The picture, RGB uint8, reduced by area to `width` columns: (width · 3/4, width, 3).

        Raises:
            DataError: the file is missing, broken or not 800 x 600.
        """
        picture = cv2.imread(str(self.path), cv2.IMREAD_COLOR)
        if picture is None or picture.shape != (HEIGHT_PX, WIDTH_PX, 3):
            found = "cannot be read" if picture is None else f"is {picture.shape[1]} x {picture.shape[0]}"
            raise DataError(f"{self.path} {found}", "copy the data set again", expected="a photograph of 800 x 600")
        if width != WIDTH_PX:
            picture = cv2.resize(picture, (width, width * HEIGHT_PX // WIDTH_PX), interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(picture[:, :, ::-1])

    def density(self, width: int = WIDTH_PX, sigma_px: float = SIGMA_PX, subjects: Array | None = None) -> Array:
        """The fixations blurred by a Gaussian, (width · 3/4, width) float32, mean 1.

        Args:
            width: columns of the map.
            sigma_px: deviation of the Gaussian in pixels of the 800 x 600 photograph.
            subjects: whose fixations count; everybody's when None.
        """
        height = width * HEIGHT_PX // WIDTH_PX
        sigma = sigma_px * width / WIDTH_PX
        chosen = slice(None) if subjects is None else np.isin(self.subject, subjects)
        # exact and separable: the sum over fixations of g(row − y) · g(column − x) is one matrix product
        columns = _bumps(self.x[chosen] * width / WIDTH_PX - 0.5, width, sigma)  # (n, width)
        rows = _bumps(self.y[chosen] * height / HEIGHT_PX - 0.5, height, sigma)  # (n, height)
        density = rows.T @ columns + 1e-12
        return (density / density.mean()).astype(np.float32)


def _bumps(centres: Array, size: int, sigma: float) -> Array:
    """One Gaussian a row: (len(centres), size)."""
    bumps: Array = np.exp(-0.5 * ((np.arange(size) - np.asarray(centres)[:, None]) / sigma) ** 2)
    return bumps


def read_osie(root: str | Path) -> list[Photograph]:
    """All photographs of a copy of OSIE, in the order of its index.

    Raises:
        DataError: the index is missing or malformed, a photograph is missing, or a fixation lies outside the picture.
    """
    root = Path(root)
    index = root / "fixations.npz"
    remedy = "copy the data set again"
    if not index.is_file():
        raise DataError(f"there is no {index}", "check the data set's folder", expected="OSIE's index of fixations")
    try:
        # opened here, because numpy leaves a broken file open
        with open(index, "rb") as file, np.load(file, allow_pickle=False) as archive:
            table = {name: archive[name] for name in _COLUMNS}
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{index} cannot be read ({error})", remedy, expected="the columns " + ", ".join(_COLUMNS)
        ) from None
    _check(table, index)
    photographs = []
    for i, name in enumerate(table["names"]):
        path = root / "stimuli" / str(name)
        if not path.is_file():
            raise DataError(f"there is no {path}", remedy, expected=f"every photograph that {index.name} names")
        mine = table["image"] == i
        photographs.append(Photograph(str(name), path, table["x"][mine], table["y"][mine], table["subject"][mine]))
    return photographs


def _check(table: dict[str, Array], index: Path) -> None:
    remedy = "copy the data set again"
    lengths = {len(table[name]) for name in _COLUMNS if name != "names"}
    if len(lengths) != 1:
        raise DataError(f"{index} has columns of {sorted(lengths)} rows", remedy, expected="columns of one length")
    inside = (table["x"] >= 0) & (table["x"] <= WIDTH_PX) & (table["y"] >= 0) & (table["y"] <= HEIGHT_PX)
    if not inside.all():  # NaN is never inside
        row = int(np.flatnonzero(~inside)[0])
        where = f"({table['x'][row]:g}, {table['y'][row]:g})"
        raise DataError(f"row {row} of {index} is a fixation at {where}", remedy, expected="one inside 800 x 600")
    if len(table["image"]) and not 0 <= table["image"].min() <= table["image"].max() < len(table["names"]):
        raise DataError(f"{index} has fixations on images without a name", remedy, expected="image < len(names)")


class OsieRecords(GazeRecords):
    """Photographs at azimuth and elevation 0; names are those of the photographs.

    Args:
        photographs: at least one.
        backgrounds: panoramas (H, W, 3) uint8 RGB on which they lie in turn.
        fov_deg: horizontal field of view of a photograph, degrees.
        map_height: rows of the densities.
    """

    def __init__(
        self, photographs: Sequence[Photograph], backgrounds: Sequence[Array], fov_deg: float, map_height: int = 256
    ) -> None:
        self._photographs, self._backgrounds, self._map_height = photographs, backgrounds, map_height
        self._viewport = viewport_at(0.0, 0.0, 0.0, math.radians(fov_deg), HEIGHT_PX, WIDTH_PX)
        self.names = tuple(each.name for each in photographs)
        self.sigma_deg = math.degrees(SIGMA_PX / self._viewport.focal_px)

    def read(self, index: int) -> GazeRecord:
        photograph = self._photographs[index]
        height, width = self._map_height, 2 * self._map_height
        gaze, valid = gaze_on_sphere(photograph.density(), self._viewport, height, width)
        background = self._backgrounds[index % len(self._backgrounds)]
        return GazeRecord(
            name=photograph.name,
            panorama=partial(_draw, photograph, background, self._viewport),
            # a photograph's x counts from its left edge, a viewport's from the middle of its first pixel
            fixations=self._viewport.unproject(photograph.x - 0.5, photograph.y - 0.5),
            observer=photograph.subject.astype(np.int64),
            time_s=np.full(len(photograph.x), np.nan),
            density=normalised(gaze.astype(np.float64), valid),
            valid=valid,
        )


def _draw(photograph: Photograph, background: Array, viewport: Viewport) -> Array:
    panorama = background.copy()
    draw_picture(panorama, photograph.read(), viewport)
    return panorama
