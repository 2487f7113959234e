"""Photographs on the sphere: each becomes a viewport of a panorama, and its gaze supervises that viewport.

The density of gaze follows exactly: gaze per area of the photograph's plane times f² / cos³ θ, the plane's area per
solid angle at the angle θ from the viewport's middle, is gaze per solid angle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from sal360_ros.projection import Viewport
from sal360_ros.sphere import Array, erp_directions, rotation_yaw_pitch_roll


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
