"""Training samples: photographs and their gaze on real panoramas.

Several photographs lie on one panorama without overlap, so every forward pass counts and the model never sees an empty
sphere.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from torch.utils.data import Dataset

from sal360.projection import Viewport
from sal360.sphere import Array, erp_directions, rotation_yaw_pitch_roll
from training.config import require, require_at_least, require_between
from training.data.loader import Key
from training.data.views import scale_colours


@dataclass(frozen=True)
class PlacementConfig:
    """Viewports of photographs on real panoramas."""

    fov_deg: tuple[float, float] = (50.0, 110.0)
    """Smallest and largest horizontal field of view of a photograph, degrees."""
    elevation_deg: float = 25.0
    """Largest elevation, up or down, of a photograph's middle near the equator, degrees."""
    equator_share: float = 0.7
    """Share of the attempts near the equator; the others are uniform on the sphere."""
    roll_deg: float = 8.0
    """Largest tilt of a photograph, degrees."""
    inset_share: float = 0.0
    """Share of the panoramas on which photographs are laid flat, larger than a viewport shows them."""
    insets: int = 1
    """Most such photographs on one panorama, side by side; how many is drawn anew each time."""
    inset_width: tuple[float, float] = (0.4, 0.65)
    """Smallest and largest width of such a photograph, in panorama widths; 0.66 fills the height."""
    slots: int = 8
    """Most photographs on one panorama."""
    mean_photographs: float = 5.0
    """Photographs that a panorama holds on average: sets the length of an epoch."""
    attempts: int = 120
    """Places tried for a panorama's photographs."""
    exposure: float = 0.2
    """Strength of random gain and offset of a photograph's colours, 0 to 1."""
    saturation: float = 0.0
    """Strength of the random change of a photograph's saturation, 0 to 1; 1 goes from grey to twice its own."""
    crop: float = 1.0
    """Smallest share of a photograph's width that is shown; 1 shows it whole."""

    def __post_init__(self) -> None:
        low, high = self.fov_deg
        require("fov_deg", self.fov_deg, 10 <= low <= high <= 150, "10 <= smallest <= largest <= 150")
        require_between("elevation_deg", self.elevation_deg, 0, 90)
        require_between("inset_share", self.inset_share, 0, 1)
        narrow, wide = self.inset_width
        require("inset_width", self.inset_width, 0.1 <= narrow <= wide <= 0.66, "0.1 to 0.66, in order")
        require_between("equator_share", self.equator_share, 0, 1)
        require_between("roll_deg", self.roll_deg, 0, 180)
        require_between("exposure", self.exposure, 0, 1)
        require_between("saturation", self.saturation, 0, 1)
        require_between("crop", self.crop, 0.2, 1)
        for name in ("insets", "slots", "attempts", "mean_photographs"):
            require_at_least(name, getattr(self, name), 1)


@dataclass(frozen=True)
class Window:
    """The part of a panorama that a viewport can touch: rows, and columns counted from `first_column` around."""

    first_row: int
    rows: int
    first_column: int
    columns: int

    def column_indices(self, width: int) -> Array:
        """(columns,) indices into a panorama's columns, wrapped at the seam."""
        return (self.first_column + np.arange(self.columns)) % width


def viewport_at(
    azimuth_rad: float, elevation_rad: float, roll_rad: float, horizontal_fov_rad: float, height: int, width: int
) -> Viewport:
    """A viewport of height x width pixels that looks towards (azimuth, elevation)."""
    rotation = rotation_yaw_pitch_roll(azimuth_rad, -elevation_rad, roll_rad)
    return Viewport(rotation, horizontal_fov_rad, height, width)


def bounding_window(viewport: Viewport, height: int, width: int) -> Window:
    """The smallest window of a height x width panorama around the spherical cap that holds the viewport."""
    radius = math.atan(math.hypot(viewport.width, viewport.height) / 2 / viewport.focal_px)
    x, y, z = viewport.rotation[:, 0]  # where its middle looks
    elevation, azimuth = math.asin(max(-1.0, min(1.0, z))), math.atan2(y, x)
    top = math.floor((math.pi / 2 - elevation - radius) * height / math.pi)
    bottom = math.ceil((math.pi / 2 - elevation + radius) * height / math.pi)
    first_row, last_row = max(0, top), min(height, bottom)
    if abs(elevation) + radius >= math.pi / 2:  # the cap holds a pole: it touches every meridian
        return Window(first_row, last_row - first_row, 0, width)
    half = math.asin(math.sin(radius) / math.cos(elevation))
    left = math.floor((math.pi - azimuth - half) * width / (2 * math.pi))
    columns = min(width, math.ceil(2 * half * width / (2 * math.pi)) + 1)
    return Window(first_row, last_row - first_row, left % width, columns)


def window_directions(window: Window, height: int, width: int) -> Array:
    """Unit vectors of the window's pixel centres, (rows, columns, 3)."""
    rows = erp_directions(height, width)[window.first_row : window.first_row + window.rows]
    return rows[:, window.column_indices(width)]


def draw_picture(panorama: Array, picture: Array, viewport: Viewport) -> None:
    """Draw a planar picture (h, w, 3) uint8 into a panorama (H, W, 3) in place, as seen through the viewport."""
    height, width = panorama.shape[:2]
    window_px = 2 * math.tan(viewport.horizontal_fov_rad / 2) * width / (2 * math.pi)
    if window_px < picture.shape[1]:  # reduce first, so that nothing aliases
        size = round(window_px), round(window_px * picture.shape[0] / picture.shape[1])
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    window = bounding_window(viewport, height, width)
    x, y, inside = viewport.project(window_directions(window, height, width))
    drawn = _lookup(picture, x, y, viewport)
    rows = slice(window.first_row, window.first_row + window.rows)
    columns = window.column_indices(width)
    panorama[rows, columns] = np.where(inside[..., None], drawn, panorama[rows, columns])


def gaze_on_sphere(density: Array, viewport: Viewport, height: int, width: int) -> tuple[Array, Array]:
    """Gaze of a photograph as density on the sphere, and the mask of the photograph.

    Args:
        density: (h, w) float32, gaze per area of the photograph, any scale.
        viewport: where the photograph lies.
        height, width: size of the panorama's map.

    Returns:
        Gaze per solid angle (height, width) float32, same scale per steradian at the viewport's middle and zero outside
        the photograph, and the mask (height, width) bool.
    """
    window = bounding_window(viewport, height, width)
    directions = window_directions(window, height, width)
    x, y, inside = viewport.project(directions)
    rows = slice(window.first_row, window.first_row + window.rows)
    columns = window.column_indices(width)
    on_sphere = np.zeros((height, width), np.float32)
    mask = np.zeros((height, width), bool)
    on_sphere[rows, columns] = _lookup(density, x, y, viewport) * plane_per_solid_angle(directions, viewport) * inside
    mask[rows, columns] = inside
    return on_sphere, mask


def plane_per_solid_angle(directions: Array, viewport: Viewport) -> Array:
    """Area of the viewport's plane that a unit of solid angle covers, relative to its middle: 1 / cos³ θ."""
    cosine: Array = directions @ viewport.rotation[:, 0]
    return np.maximum(cosine, 1e-3) ** -3


@dataclass(frozen=True)
class Inset:
    """A photograph laid flat on the panorama's pixels: far larger than a viewport could show it undistorted.

    Its gaze counts as density as it is: what is learnt there is what attracts gaze, not the geometry.
    """

    first_row: int
    rows: int
    first_column: int
    columns: int

    def draw(self, panorama: Array, picture: Array) -> None:
        """Draw a picture (h, w, 3) into a panorama (H, W, 3) in place."""
        self._write(panorama, cv2.resize(picture, (self.columns, self.rows), interpolation=cv2.INTER_AREA))

    def gaze(self, density: Array, height: int, width: int, *, of_height: int) -> tuple[Array, Array]:
        """The photograph's gaze on a (height, width) map of the panorama of `of_height` rows, and the mask."""
        scale = of_height // height
        small = Inset(*(edge // scale for edge in (self.first_row, self.rows, self.first_column, self.columns)))
        on_map = np.zeros((height, width), np.float32)
        small._write(on_map, cv2.resize(density, (small.columns, small.rows), interpolation=cv2.INTER_AREA))
        return on_map, self.mask(height, width, of_height=of_height)

    def mask(self, height: int, width: int, *, of_height: int) -> Array:
        """Which pixels of a (height, width) map of the panorama have their centre on the photograph."""
        row = (np.arange(height)[:, None] + 0.5) * (of_height / height) - self.first_row
        column = ((np.arange(width) + 0.5) * (of_height / height) - self.first_column) % (2 * of_height)
        inside: Array = (row > 0) & (row < self.rows) & (column < self.columns)
        return inside

    def cut(self, density: Array, of_height: int) -> Array:
        """The part of a map (h, w) of the panorama of `of_height` rows that lies on the photograph."""
        scale = of_height // density.shape[0]
        columns = (self.first_column // scale + np.arange(self.columns // scale)) % density.shape[1]
        return density[self.first_row // scale : (self.first_row + self.rows) // scale, columns]

    def _write(self, target: Array, values: Array) -> None:
        columns = (self.first_column + np.arange(self.columns)) % target.shape[1]
        target[self.first_row : self.first_row + self.rows, columns] = values


def inset_at(centre_column: int, width_px: float, height: int, *, multiple: int) -> Inset:
    """A 4:3 inset in the middle rows of a panorama of `height` rows, its edges at multiples of `multiple` pixels."""
    columns = round(width_px / multiple) * multiple
    rows = min(height, round(0.75 * width_px / multiple) * multiple)
    first_row = (height - rows) // 2 // multiple * multiple
    return Inset(first_row, rows, (centre_column - columns // 2) // multiple * multiple % (2 * height), columns)


def _lookup(picture: Array, x: Array, y: Array, viewport: Viewport) -> Array:
    """A picture at pixel coordinates of the viewport that it fills, whatever its own size."""
    map_x = (x + 0.5) * (picture.shape[1] / viewport.width) - 0.5
    map_y = (y + 0.5) * (picture.shape[0] / viewport.height) - 0.5
    maps = map_x.astype(np.float32), map_y.astype(np.float32)
    found: Array = cv2.remap(picture, *maps, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return found


_GRID = (40, 80)
"""Coarse panorama on which viewports are kept apart."""


class PlacedPhotographs(Dataset[tuple[Array, Array, Array]]):
    """Panoramas with photographs on them; the item of key (epoch, index) is a function of (seed, epoch, index) alone.

    Each item is (frame (H, W, 3) uint8 RGB, densities (K, h, w) float32, masks (K, h, w) bool); unused slots of the K
    hold zeros. With taught maps, the last slot is the panorama where no photograph lies. Every photograph occurs about
    once an epoch.

    Args:
        pictures: (h, w, 3) uint8 RGB each.
        densities: (h', w') float32 each, gaze per area of the picture.
        backgrounds: panoramas (H, W, 3) uint8 of the frame's size.
        config: how they are placed.
        map_size: (h, w) of the model's map.
        seed: of all draws.
        taught: what to learn of each background, densities of `map_size`; None: nothing.
    """

    def __init__(
        self,
        pictures: Sequence[Array],
        densities: Sequence[Array],
        backgrounds: Sequence[Array],
        config: PlacementConfig,
        map_size: tuple[int, int],
        seed: int,
        taught: Sequence[Array] | None = None,
    ) -> None:
        self.taught = taught
        self.pictures, self.densities, self.backgrounds = pictures, densities, backgrounds
        self.config, self.map_size, self.seed = config, map_size, seed

    def __len__(self) -> int:
        return math.ceil(len(self.pictures) / self.config.mean_photographs)

    def __getitem__(self, key: Key) -> tuple[Array, Array, Array]:
        epoch, index = key
        generator = np.random.default_rng((self.seed, epoch, index))
        chosen = int(generator.integers(len(self.backgrounds)))
        background = self.backgrounds[chosen]
        columns = int(generator.integers(background.shape[1]))
        mirrored = generator.random() < 0.5
        frame = _turned(background, columns, mirrored)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.pictures))
        queue = np.roll(order, -round(index * self.config.mean_photographs))
        on_sphere: Array = np.zeros((self.config.slots, *self.map_size), np.float32)
        masks: Array = np.zeros((self.config.slots, *self.map_size), bool)
        for slot, place in enumerate(itertools.islice(self._places(generator, *frame.shape[:2]), self.config.slots)):
            photograph = queue[slot % len(queue)]
            picture, density = self.pictures[photograph], self.densities[photograph]
            if generator.random() < 0.5:
                picture, density = np.ascontiguousarray(picture[:, ::-1]), np.ascontiguousarray(density[:, ::-1])
            picture, density = crop(picture, density, self.config.crop, generator)
            picture = vary_exposure(picture, self.config.exposure, generator)
            saturation = 1 + self.config.saturation * generator.uniform(-1, 1)
            picture = scale_colours(picture, 1.0, 1.0, saturation)
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
        """Now and then insets, and viewports that do not overlap, most near the equator, where people look."""
        free = np.ones(_GRID, bool)
        directions = erp_directions(*_GRID)
        if generator.random() < self.config.inset_share:
            first, count = int(generator.integers(width)), int(generator.integers(self.config.insets)) + 1
            for i in range(count):
                share = min(generator.uniform(*self.config.inset_width), 1 / count)
                centre = first + i * width // count
                inset = inset_at(centre, share * width, height, multiple=height // self.map_size[0])
                free &= ~inset.mask(*_GRID, of_height=height)
                yield inset
        for attempt in range(self.config.attempts):
            # the wide ones first: the narrow ones then fill what is left
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


def _turned(panorama: Array, columns: float, mirrored: bool) -> Array:
    """A panorama (h, w, …) rolled to the right by that many columns, linear between whole ones, then mirrored."""
    whole = math.floor(columns)
    turned = np.roll(panorama, whole, axis=1)
    if part := columns - whole:
        turned = (1 - part) * turned + part * np.roll(turned, 1, axis=1)
    return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)


def crop(picture: Array, density: Array, smallest: float, generator: np.random.Generator) -> tuple[Array, Array]:
    """A random part of a photograph (h, w, 3) and of its gaze (h', w'), at least `smallest` of the width, same aspect.

    The photograph stays whole where the part would hold less than half of its gaze: what is left at the edge of an
    attractive thing is no ground truth.
    """
    share = generator.uniform(smallest, 1)
    top, left = generator.uniform(0, 1 - share, 2)

    def part(whole: Array) -> Array:
        height, width = whole.shape[:2]
        rows = slice(round(top * height), round((top + share) * height))
        return whole[rows, round(left * width) : round((left + share) * width)]

    gaze = part(density)
    if gaze.sum() < 0.5 * density.sum():
        return picture, density
    return np.ascontiguousarray(part(picture)), np.ascontiguousarray(gaze)


def vary_exposure(picture: Array, strength: float, generator: np.random.Generator) -> Array:
    """Random gain of each colour and offset of all, as white balance and exposure vary: (h, w, 3) uint8."""
    if strength == 0:
        return picture
    gain = 1 + strength * generator.uniform(-1, 1) + 0.3 * strength * generator.uniform(-1, 1, 3)
    offset = 128 * (1 - gain.mean()) + 64 * strength * generator.uniform(-1, 1)
    table = np.clip(np.arange(256)[:, None] * gain + offset, 0, 255).astype(np.uint8)  # (256, 3)
    varied: Array = cv2.LUT(picture, table[None])
    return varied
