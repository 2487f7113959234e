"""Panoramas with recorded gaze: read in the format `stimuli/*` and `gaze.npz`, and as training samples.

docs/gaze_data.md describes the file and how to create it from published data. `GazePanoramas` augments panoramas and
their gaze together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from sal360.arrays import Density, Mask, Pixels, Reals
from sal360.density import HEADSET_SIGMA_DEG, normalised, spherical_density
from sal360.errors import DataError
from sal360.ground_truth import GazeRecord
from sal360.projection import Sample
from sal360.sphere import angles_to_vector
from training.config import require_at_least, require_between
from training.data.gaze.dataset_files import Inventory, require_folder
from training.data.gaze.frame_cache import FrameCache
from training.data.gaze.photographs import COPY_AGAIN, LARGEST_MAP_VALUE, read_table, stimulus
from training.data.gaze.records import GazeRecords, mean_over_cells
from training.data.gaze.scenes import read_scenes
from training.data.loader import Key
from training.data.panoramas import read_panorama
from training.data.views import resize

INDEX = "gaze.npz"
_GAZE = ("image", "observer", "lon_rad", "lat_rad")
_OPTIONAL = ("maps", *_GAZE, "t_s", "scene")


class RecordedPanoramas(GazeRecords):
    """Panoramas or video frames with gaze recorded in a headset; names are those of the files.

    The density is the recorded map where the file has maps, else the gaze directions blurred by `sigma_deg`. The scene
    of a panorama is that of a table or of the index, else the folder in its name ("VIDEO/FRAME.jpg"), else not known.

    Args:
        root: folder with `stimuli` and `gaze.npz`.
        sigma_deg: blur of a gaze direction, degrees.
        map_height: rows of the densities that are made of directions.
        panorama_height: rows at which panoramas are read, pixels.
        scenes: CSV file with the columns name and scene; empty: as the index says.

    Raises:
        DataError: the index or the table of scenes is missing or malformed, or a panorama is missing.
    """

    def __init__(
        self,
        root: str | Path,
        sigma_deg: float = HEADSET_SIGMA_DEG,
        map_height: int = 256,
        panorama_height: int = 512,
        scenes: str = "",
    ) -> None:
        folder = require_folder(root)
        index = folder / INDEX
        self._table = read_table(index, ("names",), _OPTIONAL)
        _check(self._table, index)
        self.sigma_deg, self._map_height, self._panorama_height = sigma_deg, map_height, panorama_height
        names = self._table["names"].tolist()
        self._numbers = range(len(names)) if "maps" in self._table else np.unique(self._table["image"]).tolist()
        """Numbers of the panoramas that somebody looked at, in the index."""
        if len(self._numbers) < len(names):
            self.left_out = f"panoramas without gaze: {len(names) - len(self._numbers)}"
        if not self._numbers:
            raise DataError(f"{index} has no gaze", COPY_AGAIN)
        self.names = tuple(names[int(each)] for each in self._numbers)
        self.paths = tuple(stimulus(folder, name, index) for name in self.names)
        self._scenes = tuple(read_scenes(scenes, self.names) if scenes else self._known_scenes())

    @property
    def scenes(self) -> tuple[str, ...]:
        return self._scenes

    def _known_scenes(self) -> list[str]:
        if "scene" in self._table:
            return [str(self._table["scene"][int(each)]) for each in self._numbers]
        return [name.rpartition("/")[0] for name in self.names]

    def read(self, index: int) -> GazeRecord:
        number = int(self._numbers[index])
        directions, observer, time_s = _gaze_of(self._table, number)
        if "maps" in self._table:
            density = normalised(self._table["maps"][number].astype(np.float64))
        else:
            density = spherical_density(directions, self._map_height, 2 * self._map_height, self.sigma_deg)
        return GazeRecord(
            name=self.names[index],
            panorama=partial(read_panorama, self.paths[index], self._panorama_height),
            fixations=directions,
            observer=observer,
            time_s=time_s,
            density=density,
        )


def _gaze_of(table: Mapping[str, NDArray[Any]], index: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Directions (n, 3), observers (n,) and times (n,) of the gaze in one panorama; n is 0 without directions."""
    if "image" not in table:
        return np.zeros((0, 3)), np.zeros(0, np.int64), np.zeros(0)
    mine = table["image"] == index
    # longitude counts to the right, azimuth to the left
    directions = angles_to_vector(-table["lon_rad"][mine].astype(np.float64), table["lat_rad"][mine].astype(np.float64))
    time_s = table["t_s"][mine].astype(np.float64) if "t_s" in table else np.full(mine.sum(), np.nan)
    people = table["observer"]  # (n,), or several numbers for each viewing (n, k)
    observer = np.unique(people, axis=0, return_inverse=True)[1].reshape(-1)
    return directions, observer[mine].astype(np.int64), time_s


def _check(table: Mapping[str, NDArray[Any]], index: Path) -> None:
    names = table["names"]
    if "maps" not in table and not set(_GAZE) <= set(table):
        raise DataError(f"{index} has neither maps nor gaze", COPY_AGAIN, expected="maps, or " + ", ".join(_GAZE))
    if "maps" in table:
        maps = table["maps"]
        panoramic = len(maps) == len(names) and maps.shape[2] == 2 * maps.shape[1] and maps.size > 0
        if not panoramic:
            raise DataError(f"{index} has maps of shape {maps.shape}", COPY_AGAIN, expected=f"({len(names)}, h, 2h)")
        in_range = 0 <= float(maps.min()) <= float(maps.max()) < LARGEST_MAP_VALUE  # NaN is not
        if not (in_range and maps.any(axis=(1, 2)).all()):
            raise DataError(f"{index} has invalid maps", COPY_AGAIN, expected="values from 0, not all 0")
    given = [table[name] for name in (*_GAZE, "t_s") if name in table]
    if len({len(each) for each in given}) > 1 or 0 < len([name for name in _GAZE if name in table]) < len(_GAZE):
        raise DataError(f"{index} has incomplete gaze", COPY_AGAIN, expected=", ".join(_GAZE) + " of one length")
    if "scene" in table and len(table["scene"]) != len(names):
        expected = f"one for each of the {len(names)} panoramas"
        raise DataError(f"{index} has {len(table['scene'])} scenes", COPY_AGAIN, expected=expected)
    if "image" in table:
        _check_directions(table, index)


def _check_directions(table: Mapping[str, NDArray[Any]], index: Path) -> None:
    image, lon, lat = (table[name] for name in ("image", "lon_rad", "lat_rad"))
    if len(image) and not 0 <= image.min() <= image.max() < len(table["names"]):
        raise DataError(f"{index} has gaze in panoramas without a name", COPY_AGAIN)
    inside = (np.abs(lon) <= 2 * np.pi + 1e-3) & (np.abs(lat) <= np.pi / 2 + 1e-3)
    if not inside.all():  # NaN is never inside
        row = int(np.flatnonzero(~inside)[0])
        raise DataError(
            f"row {row} of {index} is gaze at longitude {lon[row]:g}, latitude {lat[row]:g}",
            COPY_AGAIN,
            expected="radians, latitude from −π/2 to π/2",
        )
    if "t_s" in table and np.isinf(table["t_s"]).any():
        row = int(np.flatnonzero(np.isinf(table["t_s"]))[0])
        raise DataError(f"row {row} of {index} has an infinite time", COPY_AGAIN, expected="seconds, or NaN")


def inventory(root: str | Path) -> Inventory:
    """The contents of a copy: every panorama that the index lists."""
    found = Inventory()
    try:
        records = RecordedPanoramas(root)
    except DataError as error:
        found.problems.append(error.found)
        return found
    if records.left_out:
        what, _, count = records.left_out.partition(": ")
        found.irregular.note(what, int(count), root)
    for path in records.paths:
        found.try_file(partial(read_panorama, path, 1))
    found.count("panoramas", len(records), 0)
    return found


@dataclass(frozen=True)
class AugmentConfig:
    """How a panorama and its gaze are augmented together, as in the decoder training of the paper's published code."""

    flip: bool = True
    """Mirror panoramas left to right with probability 1/2."""
    yaw: Literal["none", "quarters", "free"] = "free"
    """Rotation about the vertical axis: none, quarter turns as in the paper, or any whole column."""
    stretch: float = 0.0
    """Probability of stretching the upper or lower half away from the equator, as if the camera stood elsewhere."""
    copies: int = 1
    """Number of times each panorama occurs in an epoch, augmented differently; for data sets smaller than a batch."""

    def __post_init__(self) -> None:
        require_at_least("copies", self.copies, 1)
        require_between("stretch", self.stretch, 0, 1)


_FINE_ROWS = 256
"""Rows of the density of fixations before it is averaged."""
_STRETCH = (1.0, 1.5)
"""Minimum and maximum factor by which rows are stretched."""


class GazePanoramas:
    """Records as samples; the item of key (epoch, index) depends only on (seed, epoch, index).

    Each item is (frame (H, 2H, 3) uint8 RGB, densities (1, h, w) float32, masks (1, h, w) bool).

    Args:
        records: panoramas with gaze.
        height: rows of the frame, pixels.
        map_size: (h, w) of the model's map; H and W are multiples of h and w.
        augment: how panoramas and gaze are augmented, and in how many copies; None leaves them as they are.
        seed: seed of the augmentation.
        cache: keeps the decoded frames; None: they are decoded each time.
    """

    def __init__(
        self,
        records: Sequence[GazeRecord],
        height: int,
        map_size: tuple[int, int],
        augment: AugmentConfig | None,
        seed: int,
        cache: FrameCache | None = None,
    ) -> None:
        self._cache = cache
        self.records, self.height, self.map_size = records, height, map_size
        self.augment, self.seed = augment, seed

    def __len__(self) -> int:
        return len(self.records) * (self.augment.copies if self.augment else 1)

    def __getitem__(self, key: Key, /) -> tuple[Pixels, Density, Mask]:
        epoch, index = key
        number = index % len(self.records)
        record = self.records[number]

        def read() -> Pixels:
            return resize(record.panorama(), self.height)

        frame = self._cache.get(number, read) if self._cache else read()
        density = gaze_density(record, *self.map_size)
        valid: Reals = np.ones(self.map_size, np.float32)
        if record.valid is not None:
            valid = mean_over_cells(record.valid.astype(np.float32), *self.map_size)
        if self.augment is not None:
            generator = np.random.default_rng((self.seed, epoch, index))
            frame, density, valid = vary(frame, density, valid, self.augment, generator)
        return frame, density[None], valid[None] > 0.5


def gaze_density(record: GazeRecord, height: int, width: int) -> Reals:
    """The record's density, or that of its fixations, on a grid (height, width): the mean over each cell."""
    density = record.density
    if density is None:
        rows = max(height, _FINE_ROWS)
        density = spherical_density(record.fixations, rows, 2 * rows, HEADSET_SIGMA_DEG)
    return mean_over_cells(density, height, width)


def vary(
    frame: Pixels, density: Reals, valid: Reals, augment: AugmentConfig, generator: np.random.Generator
) -> tuple[Pixels, Reals, Reals]:
    """The same random flip, turn and stretch of a frame (H, W, 3) and of its maps (h, w).

    The number of draws does not depend on their outcomes.
    """
    flips = augment.flip and generator.random() < 0.5
    column = int(generator.integers({"none": 1, "quarters": 4, "free": density.shape[1]}[augment.yaw]))
    column *= density.shape[1] // 4 if augment.yaw == "quarters" else 1
    stretches, up, factor = generator.random() < augment.stretch, generator.random() < 0.5, generator.uniform(*_STRETCH)

    def apply(picture: NDArray[Sample]) -> NDArray[Sample]:
        if flips:
            picture = picture[:, ::-1]
        # a whole number of the map's columns is a whole number of the frame's, so both rotate by the same angle
        picture = np.roll(picture, column * picture.shape[1] // density.shape[1], axis=1)
        if stretches:
            picture = stretch_band(picture, factor, up=up)
        return np.ascontiguousarray(picture)

    return apply(frame), apply(density), apply(valid)


def stretch_band(picture: NDArray[Sample], factor: float, *, up: bool) -> NDArray[Sample]:
    """A picture with one half stretched away from the equator by `factor`; rows that pass the pole are lost.

    Args:
        picture: (h, w) or (h, w, 3).
        factor: at least 1.
        up: whether the upper half is stretched, or the lower one.
    """
    height, width = picture.shape[:2]
    row = np.arange(height) + 0.5 - height / 2  # from the equator
    half = row < 0 if up else row > 0
    source = np.where(half, row / factor, row) + height / 2 - 0.5
    map_y = np.repeat(source.astype(np.float32)[:, None], width, axis=1)
    map_x = np.repeat(np.arange(width, dtype=np.float32)[None], height, axis=0)
    stretched = cv2.remap(picture, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(stretched, picture.dtype)
