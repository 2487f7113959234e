"""Training samples of photographs of several data sets, mixed by weights, in their own planes.

Half of the panoramas (`plain_share`) are filled with photographs laid flat, as plain pictures are; on the others they
are seen through viewports at the sizes that things have in panoramas. Where a photograph lies is given as a grid: the
place on the model's map of each cell of the photograph's plane. Truth and loss live in that plane, so a photograph's
gaze is never squeezed into the map's cells. `PhotographSets` opens the data; `MixedPhotographs` draws from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sal360.arrays import Density, Floats, Integers, Mask, Pixels
from sal360.projection import Sample as SampleValue
from sal360.projection import Viewport, remap_sphere, rotation_maps
from sal360.sphere import erp_directions, rotation_yaw_pitch_roll, vector_to_pixel
from training.config import option_names, require, require_at_least, require_between, require_path, require_seed
from training.data.gaze.datasets import DATASETS, read_photographs
from training.data.gaze.photographs import Photograph, resize_plane
from training.data.gaze.placed_photographs import (
    COARSE_GRID,
    AnyPlacementConfig,
    draw_picture,
    vary_exposure,
    viewport_at,
)
from training.data.gaze.records import split_folds, summary_of
from training.data.loader import Key
from training.data.panoramas import PanoramaConfig, open_panoramas
from training.data.taught_maps import names_below, read_taught, summary_of_maps
from training.data.views import scale_colours
from training.models.set_heads import CELLS

_FINE = 192
"""Pixels of the longer side of a density before it is cropped and averaged over cells."""
_NOT_KEPT = -1


@dataclass(frozen=True)
class MixingConfig(AnyPlacementConfig):
    """How photographs are augmented and placed on panoramas."""

    mean_photographs: float = 4.0
    attempts: int = 40
    exposure: float = 0.3
    saturation: float = 0.3
    crop: float = 0.7
    plain_share: float = 0.5
    """Fraction of the panoramas that are filled with photographs placed flat, 0 to 1."""
    plain_width: tuple[float, float] = (0.15, 0.6)
    """Minimum and maximum of the longer side of a flat photograph, as a fraction of the panorama's width."""
    grey_share: float = 0.5
    """Fraction of those panoramas that are grey instead of a picture around the photographs, 0 to 1."""
    fov_deg: tuple[float, float] = (12.0, 120.0)
    """Minimum and maximum field of view of the longer side of other photographs, degrees, uniform in the logarithm."""
    flip: bool = True
    """Mirror photographs left to right with probability 1/2."""
    tilt_deg: float = 0.0
    """Maximum angle by which panoramas are turned about a random horizontal axis, with their taught maps, degrees. The
    angle is uniform. Maps of tilted cameras then agree better with those of level ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_between("tilt_deg", self.tilt_deg, 0, 90)
        for name in ("plain_share", "grey_share"):
            require_between(name, getattr(self, name), 0, 1)
        low, high = self.fov_deg
        require("fov_deg", self.fov_deg, 3 <= low <= high <= 150, "3 <= min <= max <= 150")
        narrow, wide = self.plain_width
        require("plain_width", self.plain_width, 0.02 <= narrow <= wide <= 1, "0.02 <= min <= max <= 1")


@dataclass(frozen=True)
class PhotographSetsConfig:
    """Data sets of photographs, how they are mixed, and the part that is kept for measuring."""

    root: str
    """Folder with a subfolder or link for each data set, named like it."""
    panoramas: str = ""
    """Folder of the panoramas on which photographs are placed; only training needs it."""
    sets: dict[str, float] = field(default_factory=lambda: {"osie": 1.0, "eyecrowd": 1.0, "nus_scene": 1.0})
    """Names of the data sets, each with the relative frequency at which it is drawn."""
    leave_out: str = ""
    """Data set that is not used for training, and measured as a whole; empty: none."""
    folds: int = 5
    """Number of folds of each data set."""
    fold: int = 0
    """The fold of each data set that is kept for measuring, from 0; −1: none, everything is trained on."""
    split_seed: int = 0
    """Seed of the random folds."""
    picture_px: int = 512
    """Longer side to which photographs are reduced when they are read, pixels."""
    cache: bool = True
    """Keep photographs in memory once they are read; about 0.5 MB each."""
    taught: str = ""
    """File of `training.teach` with maps of the panoramas, learnt where no photograph lies; or empty."""
    measured: int = 40
    """Maximum number of photographs of each data set, evenly spread, that are measured while a model trains."""
    mixing: MixingConfig = field(default_factory=MixingConfig)
    """How photographs are augmented and placed on panoramas."""

    def __post_init__(self) -> None:
        require_path("root", self.root, "the folder of the data sets")
        known = [name for name, row in DATASETS.items() if row.photographs is not None]
        names = f"one or more of {', '.join(known)}"
        require("sets", self.sets, len(self.sets) > 0 and set(self.sets) <= set(known), names)
        require("sets", self.sets, all(weight > 0 for weight in self.sets.values()), "weights above 0")
        require("leave_out", self.leave_out, self.leave_out in ("", *self.sets), "one of the sets, or empty")
        others = len(self.sets) > 1 or not self.leave_out
        require("leave_out", self.leave_out, others, "empty with a single set: nothing is left to train on")
        require_at_least("folds", self.folds, 2)
        require_seed("split_seed", self.split_seed)
        require_between("fold", self.fold, _NOT_KEPT, self.folds - 1)
        require_at_least("picture_px", self.picture_px, 32)
        require_at_least("measured", self.measured, 1)


class Parts(NamedTuple):
    """The photographs of one data set."""

    training: list[Photograph]
    measured: list[Photograph]


def open_parts(config: PhotographSetsConfig) -> dict[str, Parts]:
    """The photographs of each data set to train on and to measure, by the name of the set.

    Raises:
        DataError: a data set is missing or malformed.
    """
    parts = {}
    for name in config.sets:
        everything = read_photographs(name, Path(config.root) / name)
        if name == config.leave_out:
            parts[name] = Parts([], everything)
        elif config.fold == _NOT_KEPT:
            parts[name] = Parts(everything, [])
        else:
            folds = split_folds([each.name for each in everything], config.folds, config.split_seed)
            kept = set(folds[config.fold].tolist())
            parts[name] = Parts(
                [each for i, each in enumerate(everything) if i not in kept],
                [everything[i] for i in folds[config.fold]],
            )
    return parts


class Sample(NamedTuple):
    """A panorama with up to K photographs; unused slots have set −1 and hold zeros."""

    frame: Pixels
    """(H, W, 3) uint8 RGB."""
    grids: NDArray[np.float32]
    """(K, CELLS, CELLS, 2): column and row on the model's map of each cell's middle."""
    log_areas: NDArray[np.float32]
    """(K, CELLS, CELLS): logarithm of the solid angle of each cell, up to a constant."""
    truths: Density
    """(K, CELLS, CELLS): gaze per area of the photograph, the mean over each cell."""
    masks: Mask
    """(K, CELLS, CELLS): the cells on the photograph."""
    windows: NDArray[np.float32]
    """(K, 4): left, top, width and height of the part that is shown, from −1 to 1 across the whole photograph."""
    sets: Integers
    """(K,): the data set of each photograph, or −1."""
    taught: Density
    """(h, w): density to learn where no photograph lies; zeros without taught maps."""
    rest: Mask
    """(h, w): where no photograph lies."""


class _Place(NamedTuple):
    """Where a photograph lies: a viewport, or a flat rectangle in pixels of the panorama."""

    viewport: Viewport | None
    left: int = 0
    top: int = 0
    width: int = 0
    height: int = 0


class MixedPhotographs:
    """Panoramas with photographs of several sets; the item of key (epoch, index) depends only on (seed, epoch, index).

    Args:
        photographs: those to draw from, by data set; none may be empty.
        weights: how often each set is drawn, in the order of `photographs`.
        backgrounds: panoramas (H, 2H, 3) uint8 RGB.
        config: how photographs are varied and placed.
        map_size: (h, w) of the model's map.
        seed: of all draws.
        picture_px: longer side of the photographs, pixels.
        cache: keep photographs in memory.
        taught: densities of `map_size` to learn on each background; None for none.
    """

    def __init__(
        self,
        photographs: Mapping[str, Sequence[Photograph]],
        weights: Sequence[float],
        backgrounds: Sequence[Pixels],
        config: MixingConfig,
        map_size: tuple[int, int],
        seed: int,
        *,
        picture_px: int = 512,
        cache: bool = True,
        taught: Sequence[Density] | None = None,
    ) -> None:
        self.photographs = list(photographs.values())
        self.shares = np.asarray(weights, np.float64) / sum(weights)
        self.backgrounds, self.config, self.map_size, self.seed = backgrounds, config, map_size, seed
        self.picture_px, self.taught = picture_px, taught
        self._cache: dict[tuple[int, int], tuple[Pixels, Density]] | None = {} if cache else None

    def __len__(self) -> int:
        return math.ceil(sum(map(len, self.photographs)) / self.config.mean_photographs)

    def __getitem__(self, key: Key, /) -> Sample:
        epoch, index = key
        generator = np.random.default_rng((self.seed, epoch, index))
        chosen = int(generator.integers(len(self.backgrounds)))
        columns = int(generator.integers(self.map_size[1]))  # whole columns of the map, for the taught maps
        frame = np.roll(self.backgrounds[chosen], columns * self._stride, axis=1)
        sample = self._empty(frame, chosen, columns)
        if self.config.tilt_deg > 0:
            self._tilt(sample, generator)
        plain = generator.random() < self.config.plain_share
        if plain and generator.random() < self.config.grey_share:
            frame[:] = generator.integers(0, 256)
            sample.taught[:] = 0
        places = self._flat_places(generator) if plain else self._viewports(generator)
        for slot, place in zip(range(self.config.slots), places, strict=False):
            self._put(sample, slot, place, generator)
        return sample

    @property
    def _stride(self) -> int:
        return self.backgrounds[0].shape[0] // self.map_size[0]

    def _empty(self, frame: Pixels, chosen: int, columns: int) -> Sample:
        slots, square = self.config.slots, (self.config.slots, CELLS, CELLS)
        taught: Density = np.zeros(self.map_size, np.float32)
        if self.taught is not None:
            taught = np.roll(self.taught[chosen], columns, axis=1)
        return Sample(
            frame,
            np.zeros((*square, 2), np.float32),
            np.zeros(square, np.float32),
            np.zeros(square, np.float32),
            np.zeros(square, bool),
            np.tile(np.array([-1, -1, 2, 2], np.float32), (slots, 1)),
            np.full(slots, -1, np.int64),
            taught,
            np.ones(self.map_size, bool),
        )

    def _tilt(self, sample: Sample, generator: np.random.Generator) -> None:
        """Turn the panorama and its taught map about a random horizontal axis."""
        towards = generator.uniform(-math.pi, math.pi)
        tilt = math.radians(generator.uniform(0, self.config.tilt_deg))
        heading = rotation_yaw_pitch_roll(yaw_rad=towards)
        rotation = heading @ rotation_yaw_pitch_roll(pitch_rad=tilt) @ heading.T
        for erp in (sample.frame, sample.taught):
            erp[:] = remap_sphere(erp, rotation_maps(rotation, *erp.shape[:2]))
        np.maximum(sample.taught, 0, out=sample.taught)  # interpolation may undershoot

    def _put(self, sample: Sample, slot: int, place: _Place, generator: np.random.Generator) -> None:
        """Draw a photograph from the sets, vary it, lay it on the frame, and fill its slot."""
        of = int(generator.choice(len(self.shares), p=self.shares))
        picture, density = self._read(of, int(generator.integers(len(self.photographs[of]))))
        picture, density, window = self._varied(picture, density, generator)
        place = _fitted(place, *picture.shape[:2])
        scale = CELLS / max(picture.shape[:2])
        rows, columns = (max(1, round(side * scale)) for side in picture.shape[:2])
        grid, log_area = self._draw(sample, picture, place, rows, columns)
        sample.grids[slot, :rows, :columns] = grid
        sample.log_areas[slot, :rows, :columns] = log_area
        sample.truths[slot, :rows, :columns] = resize_plane(density, rows, columns)
        sample.masks[slot, :rows, :columns] = True
        sample.windows[slot] = window
        sample.sets[slot] = of

    def _draw(
        self, sample: Sample, picture: Pixels, place: _Place, rows: int, columns: int
    ) -> tuple[Floats, Floats | float]:
        """Draw the picture; the places of its cells on the map, (rows, columns, 2), and their log solid angles."""
        height, width = self.map_size
        if place.viewport is not None:
            draw_picture(sample.frame, picture, place.viewport)
            sample.rest[place.viewport.project(erp_directions(height, width))[2]] = False
            cells = Viewport(place.viewport.rotation, place.viewport.horizontal_fov_rad, rows, columns)
            grid = np.stack(vector_to_pixel(cells.directions, height, width), axis=-1)
            return grid, np.log(cells.solid_angles_sr)
        how = cv2.INTER_AREA if place.width < picture.shape[1] else cv2.INTER_LINEAR
        drawn = cv2.resize(picture, (place.width, place.height), interpolation=how)
        sample.frame[place.top : place.top + place.height, place.left : place.left + place.width] = drawn
        first, last = (edge // self._stride for edge in (place.top, place.top + place.height - 1))
        left, right = (edge // self._stride for edge in (place.left, place.left + place.width - 1))
        sample.rest[first : last + 1, left : right + 1] = False
        x = (place.left + (np.arange(columns) + 0.5) * place.width / columns) / self._stride - 0.5
        y = (place.top + (np.arange(rows) + 0.5) * place.height / rows) / self._stride - 0.5
        return np.stack(np.meshgrid(x, y), axis=-1), 0.0

    def _varied(
        self, picture: Pixels, density: Density, generator: np.random.Generator
    ) -> tuple[Pixels, Density, tuple[float, float, float, float]]:
        """A photograph and its gaze, mirrored, cropped and coloured, and the window that is shown."""
        if self.config.flip and generator.random() < 0.5:
            picture, density = picture[:, ::-1], density[:, ::-1]
        share = generator.uniform(self.config.crop, 1)
        top, left = generator.uniform(0, 1 - share, 2)
        gaze = _part(density, top, left, share)
        if gaze.sum() < 0.5 * density.sum():  # beside the attractive thing people would have looked elsewhere
            share, top, left, gaze = 1.0, 0.0, 0.0, density
        picture = np.ascontiguousarray(_part(picture, top, left, share))
        picture = vary_exposure(picture, self.config.exposure, generator)
        picture = scale_colours(picture, 1.0, 1.0, 1 + self.config.saturation * generator.uniform(-1, 1))
        return picture, gaze, (2 * float(left) - 1, 2 * float(top) - 1, 2 * share, 2 * share)

    def _flat_places(self, generator: np.random.Generator) -> Iterator[_Place]:
        """Rectangles that fill the panorama like a contact sheet, in random order."""
        height, width = self.backgrounds[0].shape[:2]
        side = width * _log_uniform(*self.config.plain_width, generator)
        across, down = max(1, int(width / side)), max(1, int(height / (0.75 * side)))
        cell_width, cell_height = width // across, height // down
        for cell in generator.permutation(across * down):
            row, column = divmod(int(cell), across)
            yield _Place(None, column * cell_width, row * cell_height, cell_width, cell_height)

    def _viewports(self, generator: np.random.Generator) -> Iterator[_Place]:
        """Viewports that do not overlap, wide ones first, most near the equator, where people look."""
        free = np.ones(COARSE_GRID, bool)
        directions = erp_directions(*COARSE_GRID)
        low, high = self.config.fov_deg
        widest = _log_uniform(math.sqrt(low * high), high, generator)  # else most of the panorama stays empty
        sizes = sorted((_log_uniform(low, widest, generator) for _ in range(self.config.attempts - 1)), reverse=True)
        for fov_deg in (widest, *sizes):
            near = generator.random() < self.config.equator_share
            spread = self.config.elevation_deg if near else 90.0
            elevation = math.asin(generator.uniform(-1, 1) * math.sin(math.radians(spread)))
            roll = math.radians(self.config.roll_deg) * generator.uniform(-1, 1)
            azimuth = generator.uniform(-math.pi, math.pi)
            viewport = viewport_at(azimuth, elevation, roll, math.radians(fov_deg), 1, 1)
            inside = viewport.project(directions)[2]
            if free[inside].all():
                free &= ~inside
                yield _Place(viewport)

    def _read(self, of: int, index: int) -> tuple[Pixels, Density]:
        """A photograph of the data set number `of`, and its gaze."""
        if self._cache is not None and (of, index) in self._cache:
            return self._cache[of, index]
        photograph = self.photographs[of][index]
        read = photograph.read(self.picture_px), photograph.density(_FINE)
        if self._cache is not None:
            self._cache[of, index] = read
        return read


def _fitted(place: _Place, height: int, width: int) -> _Place:
    """The largest place of the shape of a picture (height, width) inside a place, with the same middle."""
    if place.viewport is not None:
        half = math.tan(place.viewport.horizontal_fov_rad / 2) * min(1, width / height)
        return _Place(Viewport(place.viewport.rotation, 2 * math.atan(half), height, width))
    scale = min(place.width / width, place.height / height)
    columns, rows = max(1, int(width * scale)), max(1, int(height * scale))
    return _Place(
        None, place.left + (place.width - columns) // 2, place.top + (place.height - rows) // 2, columns, rows
    )


def _part(whole: NDArray[SampleValue], top: float, left: float, share: float) -> NDArray[SampleValue]:
    height, width = whole.shape[:2]
    rows = slice(round(top * height), max(round(top * height) + 1, round((top + share) * height)))
    return whole[rows, round(left * width) : max(round(left * width) + 1, round((left + share) * width))]


def _log_uniform(low: float, high: float, generator: np.random.Generator) -> float:
    return math.exp(generator.uniform(math.log(low), math.log(high)))


class PhotographSets:
    """Data sets of photographs by their settings: samples to train on, and photographs to measure.

    Args:
        config: the settings.
        height: rows of the model's input.
        map_size: rows and columns of the model's map.
        seed: of all draws.

    Raises:
        DataError: data are missing or broken.
    """

    def __init__(self, config: PhotographSetsConfig, height: int, map_size: tuple[int, int], seed: int) -> None:
        self.parts = open_parts(config)
        with option_names(root="panoramas"):
            panoramas = open_panoramas(PanoramaConfig(config.panoramas, height))
        names = names_below(config.panoramas, panoramas.paths)
        self.contents = {"panoramas": summary_of(names)}
        """What the samples are made of, to be compared on resuming."""
        for name, part in self.parts.items():
            self.contents[name] = summary_of([each.name for each in part.training])
        taught = read_taught(config.taught, names, map_size) if config.taught else None
        if taught:
            self.contents["taught maps"] = summary_of_maps(taught)
        used = {name: part.training for name, part in self.parts.items() if part.training}
        self.names = tuple(used)
        self.training = MixedPhotographs(
            used,
            [config.sets[name] for name in used],
            [panoramas[i] for i in range(len(panoramas))],
            config.mixing,
            map_size,
            seed,
            picture_px=config.picture_px,
            cache=config.cache,
            taught=taught,
        )
