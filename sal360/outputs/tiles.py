"""A picture cut into tiles, for renderers and encoders: the size of each tile, and the map's mean over it.

The picture is a panorama (`ErpTiles`), a set of perspective windows (`WindowTiles`: a headset's view, or the six faces
of a cube) or what a camera sends (`layout.CameraTiles`). Tiles at the right and lower edges end with the picture, as in
Vulkan, Direct3D and video codecs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import cv2
import numpy as np

from sal360.arrays import Density, Floats
from sal360.projection import Maps, Viewport, remap_sphere, sampling_maps
from sal360.sphere import pixel_to_vector


class TileGrid(ABC):
    """Square tiles, counted from the picture's upper left corner.

    Attributes:
        pixels: number of pixels of each tile, (rows, columns) float64.
        solid_angle_sr: solid angle of each tile in steradians, (rows, columns) float64. Where the picture shows a
            direction more than once, its pixels share the solid angle by their weights in the blend.
    """

    pixels: Floats
    solid_angle_sr: Floats

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns of tiles."""
        rows, columns = self.pixels.shape
        return rows, columns

    @property
    def picture_pixels(self) -> Floats:
        """Number of pixels of each tile that show a direction, (rows, columns) float64: all of them, unless noted."""
        return self.pixels

    @abstractmethod
    def average(self, density: Density) -> Density:
        """The map's mean over each tile, weighted by solid angle: (rows, columns) float32, relative to uniform.

        Args:
            density: (h, w) float32. The lookup tables are kept while the size stays the same.
        """


class _SampledTiles(TileGrid):
    """Tiles that are all picture; the map is looked up at the centres of equal parts of each."""

    def __init__(self) -> None:
        self._ready: tuple[tuple[int, ...], int, Maps, Density, Density] | None = None

    def average(self, density: Density) -> Density:
        if self._ready is None or self._ready[0] != density.shape:
            self._ready = (density.shape, *self._tables(*density.shape))
        _, samples, maps, weights, total = self._ready
        weighted: Density = remap_sphere(density, maps) * weights  # (rows · samples, columns · samples)
        if samples > 1:  # INTER_AREA with an integer factor is the mean of each block
            weighted = cv2.resize(weighted, self.shape[::-1], interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        return weighted / total

    def _tables(self, height: int, width: int) -> tuple[int, Maps, Density, Density]:
        """Samples along a tile's side, enough to hit every pixel of the map; maps; weights; their mean in each tile."""
        samples = max(1, math.ceil(self._tile_rad() / (math.pi / height)))
        directions, weights = self._samples(samples)
        rows, columns = self.shape
        blocks = weights.reshape(rows, samples, columns, samples)  # (rows, samples, columns, samples)
        return samples, sampling_maps(directions, height, width), weights, blocks.mean(axis=(1, 3))

    @abstractmethod
    def _tile_rad(self) -> float:
        """The largest angle that a tile's side spans."""

    @abstractmethod
    def _samples(self, samples: int) -> tuple[Floats, Density]:
        """Directions (rows · samples, columns · samples, 3) of the samples, and their weights by solid angle."""


def tile_edges(length_px: int, tile_px: int) -> Floats:
    """Borders of the tiles along one side: 0, tile, 2 · tile, …, length."""
    return np.append(np.arange(0, length_px, tile_px, dtype=np.float64), length_px)


def _between(edges: Floats, samples: int) -> Floats:
    """The centres of `samples` equal parts of every interval, (intervals · samples,)."""
    parts = (np.arange(samples) + 0.5) / samples
    centres: Floats = edges[:-1, None] + parts * np.diff(edges)[:, None]  # (intervals, samples)
    return centres.ravel()


class ErpTiles(_SampledTiles):
    """Tiles of an equirectangular panorama.

    Args:
        height, width: size of the panorama in pixels.
        tile_px: side of a tile.
    """

    def __init__(self, height: int, width: int, tile_px: int) -> None:
        super().__init__()
        self._size = height, width
        self._rows = tile_edges(height, tile_px)
        self._columns = tile_edges(width, tile_px)
        self.pixels = np.outer(np.diff(self._rows), np.diff(self._columns))
        bands = -np.diff(np.sin(math.pi / 2 - math.pi * self._rows / height))
        self.solid_angle_sr = np.outer(bands, 2 * math.pi / width * np.diff(self._columns))

    def _tile_rad(self) -> float:
        height, width = self._size
        across, down = np.diff(self._columns).max() * 2 * math.pi / width, np.diff(self._rows).max() * math.pi / height
        return float(max(across, down))

    def _samples(self, samples: int) -> tuple[Floats, Density]:
        rows, columns = _between(self._rows, samples), _between(self._columns, samples)
        directions = pixel_to_vector(columns[None, :] - 0.5, rows[:, None] - 0.5, *self._size)
        colatitude = math.pi * rows / self._size[0]
        return directions, np.repeat(np.sin(colatitude)[:, None], len(columns), axis=1).astype(np.float32)


class WindowTiles(_SampledTiles):
    """Tiles of perspective windows; the tiles of each window are below those of the previous one.

    Args:
        windows: all of the same size and field of view.
        tile_px: side of a tile.
    """

    def __init__(self, windows: Sequence[Viewport], tile_px: int) -> None:
        super().__init__()
        self._windows = windows
        self._rows, self._columns = tile_edges(windows[0].height, tile_px), tile_edges(windows[0].width, tile_px)
        pixels = np.outer(np.diff(self._rows), np.diff(self._columns))
        corners = self._corner_sr(self._columns[None, :], self._rows[:, None])
        solid_angle_sr = np.diff(np.diff(corners, axis=0), axis=1)
        self.pixels = np.tile(pixels, (len(windows), 1))
        self.solid_angle_sr = np.tile(solid_angle_sr, (len(windows), 1))

    def _on_plane(self, columns: Floats, rows: Floats) -> tuple[Floats, Floats]:
        """Coordinates on the image plane at distance 1, of pixels counted from the upper left corner."""
        window = self._windows[0]
        return (columns - window.width / 2) / window.focal_px, (rows - window.height / 2) / window.focal_px

    def _corner_sr(self, columns: Floats, rows: Floats) -> Floats:
        """Signed solid angle of the rectangle between the plane's centre and each corner; a tile's is a difference."""
        x, y = self._on_plane(columns, rows)
        corner: Floats = np.arctan2(x * y, np.sqrt(x * x + y * y + 1))
        return corner

    def _tile_rad(self) -> float:
        return float(max(np.diff(self._rows).max(), np.diff(self._columns).max())) / self._windows[0].focal_px

    def _samples(self, samples: int) -> tuple[Floats, Density]:
        rows, columns = _between(self._rows, samples)[:, None], _between(self._columns, samples)[None, :]
        directions = [window.unproject(columns - 0.5, rows - 0.5) for window in self._windows]
        x, y = self._on_plane(columns, rows)
        weights = ((x * x + y * y + 1) ** -1.5).astype(np.float32)
        return np.concatenate(directions), np.tile(weights, (len(self._windows), 1))


def cube_faces(face_px: int) -> list[Viewport]:
    """The six faces of a cube map in the order and orientation of Vulkan and Direct3D: +X, −X, +Y, −Y, +Z, −Z.

    The axes of a cube map are left-handed: x right, y up, z forward; the frame's centre lies on face +Z. Seen from
    inside, the side faces are upright, and the top and bottom faces join the front one (Vulkan specification, "Cube
    Map Face Selection").
    """
    right, left = np.array([0.0, -1.0, 0.0]), np.array([0.0, 1.0, 0.0])
    top, bottom = np.array([0.0, 0.0, 1.0]), np.array([0.0, 0.0, -1.0])
    front, back = np.array([1.0, 0.0, 0.0]), np.array([-1.0, 0.0, 0.0])
    looking_and_up = [(right, top), (left, top), (top, back), (bottom, front), (front, top), (back, top)]
    return [
        Viewport(np.stack([forward, np.cross(up, forward), up], axis=1), math.pi / 2, face_px, face_px)
        for forward, up in looking_and_up
    ]
