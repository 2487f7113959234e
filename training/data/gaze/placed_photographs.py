"""Training samples of photographs: several on one real panorama, each with its own gaze.

Read `PlacedPhotographs.__getitem__` first: it selects a panorama, gets places on it from `_places`, augments each
photograph (`crop`, `vary_exposure`) and draws it there. A place is a `Viewport`, through which a photograph is seen
undistorted (`draw_picture`, `gaze_on_sphere`), or an `Inset`, which places a larger one flat on the panorama's pixels.
Photographs do not overlap, and together they leave little of the sphere empty, so that every forward pass counts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sal360.arrays import Density, Floats, Integers, Mask, Pixels
from sal360.projection import Sample, Viewport
from sal360.sphere import erp_directions, rotation_yaw_pitch_roll
from training.config import require, require_at_least, require_between
from training.data.loader import Key
from training.data.views import scale_colours

COARSE_GRID = (40, 80)
"""Size of the coarse panorama that is used to keep viewports from overlapping."""
_SAME_ASPECT = 0.02
"""Difference from 4:3, relative, below which a picture fills a 4:3 place: cropping rounds to whole pixels."""
_MOST_PARTS = 6
"""Maximum number of places along each side of a map's cell at which gaze is looked up for the cell's mean."""


@dataclass(frozen=True)
class AnyPlacementConfig:
    """How photographs are varied and placed on panoramas, in every kind of samples."""

    elevation_deg: float = 25.0
    """Maximum elevation of a photograph's centre near the equator, up or down, degrees."""
    equator_share: float = 0.7
    """Fraction of the photographs near the equator, 0 to 1; the others are uniform on the sphere."""
    roll_deg: float = 8.0
    """Maximum roll of a photograph, degrees."""
    slots: int = 8
    """Maximum number of photographs on a panorama."""
    mean_photographs: float = 5.0
    """Average number of photographs on a panorama; sets the length of an epoch."""
    attempts: int = 120
    """Number of places tried on a panorama."""
    exposure: float = 0.2
    """Strength of random gain and offset of a photograph's colours, 0 to 1."""
    saturation: float = 0.0
    """Strength of random changes of a photograph's saturation, 0 to 1; 1 ranges from grey to twice the original."""
    crop: float = 1.0
    """Minimum fraction of a photograph's width that is shown, 0.2 to 1; 1 always shows all of it."""

    def __post_init__(self) -> None:
        require_between("elevation_deg", self.elevation_deg, 0, 90)
        require_between("roll_deg", self.roll_deg, 0, 180)
        for name in ("equator_share", "exposure", "saturation"):
            require_between(name, getattr(self, name), 0, 1)
        require_between("crop", self.crop, 0.2, 1)
        for name in ("slots", "attempts", "mean_photographs"):
            require_at_least(name, getattr(self, name), 1)


@dataclass(frozen=True)
class PlacementConfig(AnyPlacementConfig):
    """How photographs are placed on panoramas."""

    fov_deg: tuple[float, float] = (50.0, 110.0)
    """Minimum and maximum horizontal field of view of a photograph, degrees."""
    inset_share: float = 0.0
    """Fraction of the panoramas with insets, 0 to 1: photographs placed flat, larger than a viewport can show them."""
    insets: int = 1
    """Maximum number of insets on a panorama, side by side; the number is drawn at random for each panorama."""
    inset_width: tuple[float, float] = (0.4, 0.65)
    """Minimum and maximum width of an inset, as a fraction of the panorama's width; 0.66 fills the height."""

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.fov_deg
        require("fov_deg", self.fov_deg, 10 <= low <= high <= 150, "10 <= min <= max <= 150")
        require_between("inset_share", self.inset_share, 0, 1)
        require_at_least("insets", self.insets, 1)
        narrow, wide = self.inset_width
        require("inset_width", self.inset_width, 0.1 <= narrow <= wide <= 0.66, "0.1 <= min <= max <= 0.66")


class PlacedPhotographs:
    """Panoramas with photographs on them; the item of key (epoch, index) depends only on (seed, epoch, index).

    Each item is (frame (H, W, 3) uint8 RGB, densities (K, h, w) float32, masks (K, h, w) bool); unused slots of the K
    contain zeros. With taught maps, the last slot is the part of the panorama without photographs. Every photograph
    occurs about once per epoch.

    Args:
        pictures: the photographs, (h, w, 3) uint8 RGB each.
        densities: their gaze per area of the picture, (h', w') float32 each.
        backgrounds: panoramas (H, W, 3) uint8 RGB of the frame's size.
        config: how photographs are placed.
        map_size: (h, w) of the model's map.
        seed: seed of all random choices.
        taught: densities of `map_size` to learn on each background, or None.
    """

    def __init__(
        self,
        pictures: Sequence[Pixels],
        densities: Sequence[Density],
        backgrounds: Sequence[Pixels],
        config: PlacementConfig,
        map_size: tuple[int, int],
        seed: int,
        taught: Sequence[Density] | None = None,
    ) -> None:
        self.taught = taught
        self.pictures, self.densities, self.backgrounds = pictures, densities, backgrounds
        self.config, self.map_size, self.seed = config, map_size, seed

    def __len__(self) -> int:
        return math.ceil(len(self.pictures) / self.config.mean_photographs)

    def __getitem__(self, key: Key, /) -> tuple[Pixels, Density, Mask]:
        epoch, index = key
        generator = np.random.default_rng((self.seed, epoch, index))
        chosen = int(generator.integers(len(self.backgrounds)))
        background = self.backgrounds[chosen]
        columns = int(generator.integers(background.shape[1]))
        mirrored = generator.random() < 0.5
        frame = _turned(background, columns, mirrored)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.pictures))
        queue = np.roll(order, -round(index * self.config.mean_photographs))
        on_sphere: Density = np.zeros((self.config.slots, *self.map_size), np.float32)
        masks: Mask = np.zeros((self.config.slots, *self.map_size), bool)
        for slot, place in enumerate(itertools.islice(self._places(generator, *frame.shape[:2]), self.config.slots)):
            photograph = queue[slot % len(queue)]
            picture, density = self.pictures[photograph], self.densities[photograph]
            if generator.random() < 0.5:
                picture, density = np.ascontiguousarray(picture[:, ::-1]), np.ascontiguousarray(density[:, ::-1])
            picture, density = crop(picture, density, self.config.crop, generator)
            picture = vary_exposure(picture, self.config.exposure, generator)
            saturation = 1 + self.config.saturation * generator.uniform(-1, 1)
            picture = scale_colours(picture, 1.0, 1.0, saturation)
            place = fitted(place, *picture.shape[:2], multiple=frame.shape[0] // self.map_size[0])
            if isinstance(place, Inset):
                place.draw(frame, picture)
                on_sphere[slot], masks[slot] = place.gaze(density, *self.map_size, of_height=frame.shape[0])
            else:
                draw_picture(frame, picture, place)
                on_sphere[slot], masks[slot] = gaze_on_sphere(density, place, *self.map_size)
        if self.taught is not None:
            rest = np.asarray(~masks.any(axis=0))  # (h, w)
            per_column = background.shape[1] / self.map_size[1]
            taught = _turned(self.taught[chosen], columns / per_column, mirrored)
            on_sphere = np.concatenate([on_sphere, (taught * rest)[None]])  # (K + 1, h, w)
            masks = np.concatenate([masks, rest[None]])
        return frame, on_sphere, masks

    def _places(self, generator: np.random.Generator, height: int, width: int) -> Iterator[Inset | Viewport]:
        """Places that do not overlap: sometimes insets, then viewports, most near the equator, where people look."""
        free = np.ones(COARSE_GRID, bool)
        directions = erp_directions(*COARSE_GRID)
        if generator.random() < self.config.inset_share:
            first, count = int(generator.integers(width)), int(generator.integers(self.config.insets)) + 1
            for i in range(count):
                share = min(generator.uniform(*self.config.inset_width), 1 / count)
                centre = first + i * width // count
                inset = inset_at(centre, share * width, height, multiple=height // self.map_size[0])
                free &= ~inset.mask(*COARSE_GRID, of_height=height)
                yield inset
        for attempt in range(self.config.attempts):
            # the wide ones first: the narrow ones then fill the gaps
            share = attempt / self.config.attempts
            low, high = self.config.fov_deg
            fov = math.radians(high - (high - low) * min(1.0, share + generator.uniform(0, 0.5)))
            near = generator.random() < self.config.equator_share
            spread = self.config.elevation_deg if near else 90.0
            elevation = math.asin(generator.uniform(-1, 1) * math.sin(math.radians(spread)))
            roll = math.radians(self.config.roll_deg) * generator.uniform(-1, 1)
            viewport = viewport_at(generator.uniform(-math.pi, math.pi), elevation, roll, fov, 3, 4)
            inside = viewport.project(directions)[2]
            if not free[inside].all():
                continue
            free &= ~inside
            yield viewport


def _turned(panorama: NDArray[Sample], columns: float, mirrored: bool) -> NDArray[Sample]:
    """A panorama (h, w[, 3]) rolled right by columns, interpolated between whole ones, then mirrored if requested."""
    whole = math.floor(columns)
    turned = np.roll(panorama, whole, axis=1)
    if part := columns - whole:
        turned = (1 - part) * turned + part * np.roll(turned, 1, axis=1)
    return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)


def crop(picture: Pixels, density: Density, min_width: float, generator: np.random.Generator) -> tuple[Pixels, Density]:
    """A random part of a photograph (h, w, 3) and of its gaze (h', w'), at least a fraction `min_width` of its width.

    The aspect ratio is kept. The photograph is not cropped if the part would contain less than half of its gaze:
    without the object that attracted most of it, people would have looked elsewhere.
    """
    share = generator.uniform(min_width, 1)
    top, left = generator.uniform(0, 1 - share, 2)

    def part(whole: NDArray[Sample]) -> NDArray[Sample]:
        height, width = whole.shape[:2]
        rows = slice(round(top * height), round((top + share) * height))
        return whole[rows, round(left * width) : round((left + share) * width)]

    gaze = part(density)
    if gaze.sum() < 0.5 * density.sum():
        return picture, density
    return np.ascontiguousarray(part(picture)), np.ascontiguousarray(gaze)


def vary_exposure(picture: Pixels, strength: float, generator: np.random.Generator) -> Pixels:
    """A picture (h, w, 3) with a random gain for each colour and one offset, as white balance and exposure vary."""
    if strength == 0:
        return picture
    gain = 1 + strength * generator.uniform(-1, 1) + 0.3 * strength * generator.uniform(-1, 1, 3)
    offset = 128 * (1 - gain.mean()) + 64 * strength * generator.uniform(-1, 1)
    table = np.clip(np.arange(256)[:, None] * gain + offset, 0, 255).astype(np.uint8)  # (256, 3)
    return np.asarray(cv2.LUT(picture, table[None]), np.uint8)


@dataclass(frozen=True)
class Window:
    """The part of a panorama that a viewport can touch: some rows, and columns from `first_column` across the seam."""

    first_row: int
    rows: int
    first_column: int
    columns: int

    def column_indices(self, width: int) -> Integers:
        """(columns,) indices into a panorama's columns, wrapped at the seam."""
        return (self.first_column + np.arange(self.columns)) % width


def viewport_at(
    azimuth_rad: float, elevation_rad: float, roll_rad: float, horizontal_fov_rad: float, height: int, width: int
) -> Viewport:
    """A viewport of height x width pixels that looks towards (azimuth, elevation)."""
    rotation = rotation_yaw_pitch_roll(azimuth_rad, -elevation_rad, roll_rad)
    return Viewport(rotation, horizontal_fov_rad, height, width)


def bounding_window(viewport: Viewport, height: int, width: int) -> Window:
    """The smallest window of a height x width panorama that contains the spherical cap around the viewport."""
    radius = math.atan(math.hypot(viewport.width, viewport.height) / 2 / viewport.focal_px)
    x, y, z = viewport.rotation[:, 0]  # its optical axis
    elevation, azimuth = math.asin(max(-1.0, min(1.0, z))), math.atan2(y, x)
    top = math.floor((math.pi / 2 - elevation - radius) * height / math.pi)
    bottom = math.ceil((math.pi / 2 - elevation + radius) * height / math.pi)
    first_row, last_row = max(0, top), min(height, bottom)
    if abs(elevation) + radius >= math.pi / 2:  # the cap contains a pole, so it touches every meridian
        return Window(first_row, last_row - first_row, 0, width)
    half = math.asin(math.sin(radius) / math.cos(elevation))
    left = math.floor((math.pi - azimuth - half) * width / (2 * math.pi))
    columns = min(width, math.ceil(2 * half * width / (2 * math.pi)) + 1)
    return Window(first_row, last_row - first_row, left % width, columns)


def window_directions(window: Window, height: int, width: int) -> Floats:
    """Unit vectors of the window's pixel centres, (rows, columns, 3)."""
    rows = erp_directions(height, width)[window.first_row : window.first_row + window.rows]
    return rows[:, window.column_indices(width)]


def draw_picture(panorama: Pixels, picture: Pixels, viewport: Viewport) -> None:
    """Draw a planar picture (h, w, 3) uint8 into a panorama (H, W, 3) in place, as seen through the viewport."""
    height, width = panorama.shape[:2]
    window_px = 2 * math.tan(viewport.horizontal_fov_rad / 2) * width / (2 * math.pi)
    if window_px < picture.shape[1]:  # reduce first, to avoid aliasing
        size = round(window_px), round(window_px * picture.shape[0] / picture.shape[1])
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    window = bounding_window(viewport, height, width)
    x, y, inside = viewport.project(window_directions(window, height, width))
    drawn = _lookup(picture, x, y, viewport)
    rows = slice(window.first_row, window.first_row + window.rows)
    columns = window.column_indices(width)
    panorama[rows, columns] = np.where(inside[..., None], drawn, panorama[rows, columns])


def gaze_on_sphere(density: Density, viewport: Viewport, height: int, width: int) -> tuple[Density, Mask]:
    """The gaze of a photograph as a density on the sphere, and the mask of the photograph.

    Args:
        density: (h, w) float32, gaze per area of the photograph, any scale.
        viewport: where the photograph lies.
        height, width: size of the panorama's map.

    Returns:
        Gaze per solid angle (height, width) float32, which equals the density at the viewport's centre and is zero
        outside the photograph, averaged over each cell; and the mask of the photograph (height, width), the cells whose
        centre lies on it.
    """
    window = bounding_window(viewport, height, width)
    inside = viewport.project(window_directions(window, height, width))[2]
    rows = slice(window.first_row, window.first_row + window.rows)
    columns = window.column_indices(width)
    on_sphere = np.zeros((height, width), np.float32)
    mask = np.zeros((height, width), bool)
    on_sphere[rows, columns] = _cell_means(density, viewport, window, height, width) * inside
    mask[rows, columns] = inside
    return on_sphere, mask


def _cell_means(density: Density, viewport: Viewport, window: Window, height: int, width: int) -> Floats:
    """Gaze per solid angle, the mean over each cell's part on the photograph: (window.rows, window.columns)."""
    cell_px = 2 * math.pi / width * viewport.focal_px * density.shape[1] / viewport.width
    parts = min(_MOST_PARTS, max(1, math.ceil(cell_px / 2)))
    if cell_px > parts:  # average what lies between the places
        shares = (round(side * parts / cell_px) or 1 for side in density.shape[::-1])
        density = np.asarray(cv2.resize(density, tuple(shares), interpolation=cv2.INTER_AREA), np.float32)
    fine = Window(*(parts * edge for edge in (window.first_row, window.rows, window.first_column, window.columns)))
    directions = window_directions(fine, parts * height, parts * width)
    x, y, inside = viewport.project(directions)
    area = np.sqrt(1 - directions[..., 2] ** 2) * inside  # ∝ solid angle: the cosine of the elevation
    gaze = _lookup(density, x, y, viewport) * plane_per_solid_angle(directions, viewport) * area

    def total(values: Floats) -> Floats:
        blocks = values.reshape(window.rows, parts, window.columns, parts)
        return np.asarray(blocks.sum(axis=(1, 3)))

    means: Floats = total(gaze) / np.maximum(total(area), 1e-12)
    return means


def plane_per_solid_angle(directions: Floats, viewport: Viewport) -> Floats:
    """Area of the viewport's plane per solid angle in directions (..., 3), relative to its centre: 1 / cos³ θ."""
    cosine: Floats = directions @ viewport.rotation[:, 0]
    return np.maximum(cosine, 1e-3) ** -3


def _lookup(picture: NDArray[Sample], x: Floats, y: Floats, viewport: Viewport) -> NDArray[Sample]:
    """A picture of any size that fills the viewport, looked up at pixel coordinates of the viewport."""
    map_x = (x + 0.5) * (picture.shape[1] / viewport.width) - 0.5
    map_y = (y + 0.5) * (picture.shape[0] / viewport.height) - 0.5
    maps = map_x.astype(np.float32), map_y.astype(np.float32)
    found = cv2.remap(picture, *maps, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found, picture.dtype)


@dataclass(frozen=True)
class Inset:
    """A photograph placed flat on the panorama's pixels, far larger than a viewport could show it undistorted.

    Its gaze is used as a density without any correction for solid angle: it teaches what attracts gaze, not geometry.
    """

    first_row: int
    rows: int
    first_column: int
    columns: int

    def draw(self, panorama: Pixels, picture: Pixels) -> None:
        """Draw a picture (h, w, 3) into a panorama (H, W, 3) in place."""
        self._write(panorama, cv2.resize(picture, (self.columns, self.rows), interpolation=cv2.INTER_AREA))

    def gaze(self, density: Density, height: int, width: int, *, of_height: int) -> tuple[Density, Mask]:
        """The photograph's gaze on a (height, width) map of the panorama of `of_height` rows, and the mask."""
        scale = of_height // height
        small = Inset(*(edge // scale for edge in (self.first_row, self.rows, self.first_column, self.columns)))
        on_map = np.zeros((height, width), np.float32)
        small._write(on_map, cv2.resize(density, (small.columns, small.rows), interpolation=cv2.INTER_AREA))
        return on_map, self.mask(height, width, of_height=of_height)

    def mask(self, height: int, width: int, *, of_height: int) -> Mask:
        """Which pixels of a (height, width) map of the panorama have their centre on the photograph."""
        row = (np.arange(height)[:, None] + 0.5) * (of_height / height) - self.first_row
        column = ((np.arange(width) + 0.5) * (of_height / height) - self.first_column) % (2 * of_height)
        return np.asarray((row > 0) & (row < self.rows) & (column < self.columns))

    def cut(self, density: Density, of_height: int) -> Density:
        """The part of a map (h, w) of the panorama of `of_height` rows that lies on the photograph."""
        scale = of_height // density.shape[0]
        columns = (self.first_column // scale + np.arange(self.columns // scale)) % density.shape[1]
        return density[self.first_row // scale : (self.first_row + self.rows) // scale, columns]

    def _write(self, target: NDArray[Sample], values: Any) -> None:
        columns = (self.first_column + np.arange(self.columns)) % target.shape[1]
        target[self.first_row : self.first_row + self.rows, columns] = values


def fitted(place: Inset | Viewport, height: int, width: int, *, multiple: int) -> Inset | Viewport:
    """The largest place with the aspect ratio of a picture (height, width) inside a 4:3 place, with the same middle.

    The edges of an inset are at multiples of `multiple` pixels.
    """
    share = 0.75 * width / height  # 1 for 4:3
    if abs(share - 1) < _SAME_ASPECT:
        return place
    if isinstance(place, Viewport):
        tangent = math.tan(place.horizontal_fov_rad / 2) * min(1.0, share)
        return Viewport(place.rotation, 2 * math.atan(tangent), height, width)
    rows, columns = round(place.rows * min(1.0, 1 / share)), round(place.columns * min(1.0, share))
    rows, columns = (max(1, round(side / multiple)) * multiple for side in (rows, columns))
    down = (place.rows - rows) // 2 // multiple * multiple
    right = (place.columns - columns) // 2 // multiple * multiple
    return Inset(place.first_row + down, rows, place.first_column + right, columns)


def inset_at(centre_column: int, width_px: float, height: int, *, multiple: int) -> Inset:
    """A 4:3 inset in the middle rows of a panorama of `height` rows, its edges at multiples of `multiple` pixels."""
    columns = round(width_px / multiple) * multiple
    rows = min(height, round(0.75 * width_px / multiple) * multiple)
    first_row = (height - rows) // 2 // multiple * multiple
    return Inset(first_row, rows, (centre_column - columns // 2) // multiple * multiple % (2 * height), columns)
