"""Photographs on the sphere: each becomes a viewport of a panorama, and its gaze supervises that viewport.

Several photographs lie on one real panorama without overlap, so every forward pass counts and the model never sees an
empty sphere. The density of gaze follows exactly: gaze per area of the photograph's plane times f² / cos³ θ, the
plane's area per solid angle at the angle θ from the viewport's middle, is gaze per solid angle.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from torch.utils.data import Dataset

from sal360_ros.projection import Viewport
from sal360_ros.sphere import Array, erp_directions, rotation_yaw_pitch_roll
from training.config.placement import PlacementConfig
from training.data.loader import Key


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
    hold zeros. Every photograph occurs about once an epoch.

    Args:
        pictures: (h, w, 3) uint8 RGB each.
        densities: (h', w') float32 each, gaze per area of the picture.
        backgrounds: panoramas (H, W, 3) uint8 of the frame's size.
        config: how they are placed.
        map_size: (h, w) of the model's map.
        seed: of all draws.
    """

    def __init__(
        self,
        pictures: Sequence[Array],
        densities: Sequence[Array],
        backgrounds: Sequence[Array],
        config: PlacementConfig,
        map_size: tuple[int, int],
        seed: int,
    ) -> None:
        self.pictures, self.densities, self.backgrounds = pictures, densities, backgrounds
        self.config, self.map_size, self.seed = config, map_size, seed

    def __len__(self) -> int:
        return math.ceil(len(self.pictures) / self.config.mean_photographs)

    def __getitem__(self, key: Key) -> tuple[Array, Array, Array]:
        epoch, index = key
        generator = np.random.default_rng((self.seed, epoch, index))
        background = self.backgrounds[int(generator.integers(len(self.backgrounds)))]
        frame = np.roll(background, generator.integers(background.shape[1]), axis=1)
        if generator.random() < 0.5:
            frame = np.ascontiguousarray(frame[:, ::-1])
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.pictures))
        queue = np.roll(order, -round(index * self.config.mean_photographs))
        on_sphere = np.zeros((self.config.slots, *self.map_size), np.float32)
        masks = np.zeros((self.config.slots, *self.map_size), bool)
        for slot, viewport in enumerate(self._viewports(generator)):
            photograph = queue[slot % len(queue)]
            picture, density = self.pictures[photograph], self.densities[photograph]
            if generator.random() < 0.5:
                picture, density = np.ascontiguousarray(picture[:, ::-1]), np.ascontiguousarray(density[:, ::-1])
            draw_picture(frame, vary_exposure(picture, self.config.exposure, generator), viewport)
            on_sphere[slot], masks[slot] = gaze_on_sphere(density, viewport, *self.map_size)
        return frame, on_sphere, masks

    def _viewports(self, generator: np.random.Generator) -> Iterator[Viewport]:
        """Viewports that do not overlap, most of them near the equator, where people look."""
        free = np.ones(_GRID, bool)
        directions = erp_directions(*_GRID)
        found = 0
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
            found += 1
            if found == self.config.slots:
                return


def vary_exposure(picture: Array, strength: float, generator: np.random.Generator) -> Array:
    """Random gain of each colour and offset of all, as white balance and exposure vary: (h, w, 3) uint8."""
    if strength == 0:
        return picture
    gain = 1 + strength * generator.uniform(-1, 1) + 0.3 * strength * generator.uniform(-1, 1, 3)
    offset = 128 * (1 - gain.mean()) + 64 * strength * generator.uniform(-1, 1)
    table = np.clip(np.arange(256)[:, None] * gain + offset, 0, 255).astype(np.uint8)  # (256, 3)
    varied: Array = cv2.LUT(picture, table[None])
    return varied
