"""A picture cut into tiles, as renderers and encoders need it: what each tile sees of the map, and how big it is.

The picture may be a panorama (`ErpTiles`) or perspective windows (`WindowTiles`: a headset's view, or the six faces
of a cube). Tiles at the right and lower edge are cut off where the picture ends, as in all three APIs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import cv2
import numpy as np

from sal360.projection import Maps, Viewport, remap_sphere, sampling_maps
from sal360.sphere import Array, pixel_to_vector


class TileGrid(ABC):
    """Tiles of `tile_px` pixels from the picture's upper left corner; the arrays are (rows, columns).

    Attributes:
        pixels: number of pixels of each tile.
        solid_angle_sr: solid angle of each tile.
    """

    pixels: Array
    solid_angle_sr: Array

    def __init__(self) -> None:
        self._ready: tuple[tuple[int, ...], int, Maps, Array, Array] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        rows, columns = self.pixels.shape
        return rows, columns

    def average(self, density: Array) -> Array:
        """The map's mean over each tile by solid angle, relative to uniform: (rows, columns) float32.

        Args:
            density: (h, w) float32. The lookup tables are kept until another size comes.
        """
        if self._ready is None or self._ready[0] != density.shape:
            self._ready = (density.shape, *self._tables(*density.shape))
        _, samples, maps, weights, total = self._ready
        weighted = remap_sphere(density, maps) * weights
        if samples > 1:  # INTER_AREA by a whole factor is the plain mean of each block
            weighted = cv2.resize(weighted, self.shape[::-1], interpolation=cv2.INTER_AREA)
        mean: Array = weighted / total
        return mean

    def _tables(self, height: int, width: int) -> tuple[int, Maps, Array, Array]:
        """Samples along a tile's side, so that none of the map's pixels is passed over; maps, weights, their means."""
        samples = max(1, math.ceil(self._tile_rad() / (math.pi / height)))
        directions, weights = self._samples(samples)
        rows, columns = self.shape
        blocks = weights.reshape(rows, samples, columns, samples)  # (rows, samples, columns, samples)
        return samples, sampling_maps(directions, height, width), weights, blocks.mean(axis=(1, 3))

    @abstractmethod
    def _tile_rad(self) -> float:
        """The largest angle that a tile's side spans."""

    @abstractmethod
    def _samples(self, samples: int) -> tuple[Array, Array]:
        """Directions (rows · samples, columns · samples, 3) of each tile's samples, and their float32 weights."""


def _edges(length_px: int, tile_px: int) -> Array:
    """Tile borders along one side: 0, tile, 2 · tile … length."""
    return np.append(np.arange(0, length_px, tile_px, dtype=np.float64), length_px)


def _between(edges: Array, samples: int) -> Array:
    """The middles of `samples` equal parts of every interval."""
    parts = (np.arange(samples) + 0.5) / samples
    return (edges[:-1, None] + parts * np.diff(edges)[:, None]).ravel()


class ErpTiles(TileGrid):
    """Tiles of a panorama of height x width pixels."""

    def __init__(self, height: int, width: int, tile_px: int) -> None:
        super().__init__()
        self._size = height, width
        self._rows = _edges(height, tile_px)
        self._columns = _edges(width, tile_px)
        self.pixels = np.outer(np.diff(self._rows), np.diff(self._columns))
        bands = -np.diff(np.sin(math.pi / 2 - math.pi * self._rows / height))
        self.solid_angle_sr = np.outer(bands, 2 * math.pi / width * np.diff(self._columns))

    def _tile_rad(self) -> float:
        height, width = self._size
        across, down = np.diff(self._columns).max() * 2 * math.pi / width, np.diff(self._rows).max() * math.pi / height
        return float(max(across, down))

    def _samples(self, samples: int) -> tuple[Array, Array]:
        rows, columns = _between(self._rows, samples), _between(self._columns, samples)
        directions = pixel_to_vector(columns[None, :] - 0.5, rows[:, None] - 0.5, *self._size)
        colatitude = math.pi * rows / self._size[0]
        return directions, np.repeat(np.sin(colatitude)[:, None], len(columns), axis=1).astype(np.float32)


class WindowTiles(TileGrid):
    """Tiles of perspective windows of one size; the windows' tiles follow each other from top to bottom."""

    def __init__(self, windows: Sequence[Viewport], tile_px: int) -> None:
        super().__init__()
        self._windows = windows
        self._rows, self._columns = _edges(windows[0].height, tile_px), _edges(windows[0].width, tile_px)
        pixels = np.outer(np.diff(self._rows), np.diff(self._columns))
        corners = self._corner_sr(self._columns[None, :], self._rows[:, None])
        solid_angle_sr = np.diff(np.diff(corners, axis=0), axis=1)
        self.pixels = np.tile(pixels, (len(windows), 1))
        self.solid_angle_sr = np.tile(solid_angle_sr, (len(windows), 1))

    def _on_plane(self, columns: Array, rows: Array) -> tuple[Array, Array]:
        """Places of the picture plane at distance 1, from places in pixels from the upper left corner."""
        window = self._windows[0]
        return (columns - window.width / 2) / window.focal_px, (rows - window.height / 2) / window.focal_px

    def _corner_sr(self, columns: Array, rows: Array) -> Array:
        """The plane's solid angle between its middle and each corner, signed: differences give each tile's own."""
        x, y = self._on_plane(columns, rows)
        corner: Array = np.arctan2(x * y, np.sqrt(x * x + y * y + 1))
        return corner

    def _tile_rad(self) -> float:
        return float(max(np.diff(self._rows).max(), np.diff(self._columns).max())) / self._windows[0].focal_px

    def _samples(self, samples: int) -> tuple[Array, Array]:
        rows, columns = _between(self._rows, samples)[:, None], _between(self._columns, samples)[None, :]
        directions = [window.unproject(columns - 0.5, rows - 0.5) for window in self._windows]
        x, y = self._on_plane(columns, rows)
        weights = ((x * x + y * y + 1) ** -1.5).astype(np.float32)
        return np.concatenate(directions), np.tile(weights, (len(self._windows), 1))


def cube_faces(face_px: int) -> list[Viewport]:
    """The six faces of a cube map in the layer order and orientation of Vulkan and Direct3D: +X, −X, +Y, −Y, +Z, −Z.

    The cube's axes are x right, y up, z forward (a cube map is left-handed); the frame's centre lies on face +Z. Seen
    from inside, every face stands upright, and the top and bottom faces join the front one: "Cube Map Face Selection"
    in the Vulkan specification.
    """
    right, left = np.array([0.0, -1.0, 0.0]), np.array([0.0, 1.0, 0.0])
    top, bottom = np.array([0.0, 0.0, 1.0]), np.array([0.0, 0.0, -1.0])
    front, back = np.array([1.0, 0.0, 0.0]), np.array([-1.0, 0.0, 0.0])
    looking_and_up = [(right, top), (left, top), (top, back), (bottom, front), (front, top), (back, top)]
    return [
        Viewport(np.stack([forward, np.cross(up, forward), up], axis=1), math.pi / 2, face_px, face_px)
        for forward, up in looking_and_up
    ]
