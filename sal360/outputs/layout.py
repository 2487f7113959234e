"""How a picture spreads the sphere over its pixels, so that outputs fit what an encoder is given.

The outputs are computed for an equirectangular picture, or for the picture that a camera sends (dual fisheye, cube map,
…). A pixel of a camera stands for the solid angle that it covers, times its weight in the blend: a direction that two
lenses or two eyes show is shared between them, so that all pixels together stand once for what the camera sees.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from sal360.arrays import Density, Floats, Integers, Mask, Reals
from sal360.cameras.camera import Camera
from sal360.cameras.stereo import StereoCamera
from sal360.outputs.tiles import ErpTiles, TileGrid, tile_edges
from sal360.sphere import erp_directions, vector_to_pixel

_STEP_PX = 1e-3
"""Distance over which the derivative of directions by pixels is taken."""
_SAME_PX = 0.05
"""A camera's pixel and its projection are the same within this."""
_LEAST_WEIGHT = 1e-6
"""Weight of pixels that show something but have no part in the blend: they have a density, and no gaze."""
_SPACING_RAD = math.radians(1)
"""Largest distance of the points at which directions are taken; less if the map is finer."""
_PARTS, _BORDER_PARTS = 2, 16
"""Fewest points along a tile's side, and those of tiles at the border of the picture."""
_INSIDE_PX = 1e-6
"""How far inside the frame a point on its edge is taken."""
_SURVEY = 64
"""Points along each side of the picture at which the largest angle per pixel is looked for."""
_FINER = 2
"""Directions along each side of an equirectangular pixel that is looked up in a camera's map."""
_POINTS_AT_ONCE = 1 << 17
"""Bounds the memory while the tables are made."""


class Layout(ABC):
    """How a picture is laid out, for pictures of any size."""

    @abstractmethod
    def tiles(self, height: int, width: int, tile_px: int) -> TileGrid:
        """Square tiles of a picture of this size, counted from its upper left corner."""

    @abstractmethod
    def equal_tiles(self, rows: int, columns: int) -> TileGrid:
        """The picture cut into equal tiles; the last few are cached, because they hold lookup tables."""

    @abstractmethod
    def map(self, density: Density) -> Density:
        """The map (h, w) in this layout: (rows, columns) float32, relative to uniform; 0 where there is no picture."""

    @abstractmethod
    def width_of(self, height: int) -> int:
        """Columns of a picture with this number of rows."""


class Equirectangular(Layout):
    """The whole sphere, as in `sal360.sphere`."""

    def tiles(self, height: int, width: int, tile_px: int) -> ErpTiles:
        """Square tiles of a panorama of this size."""
        return ErpTiles(height, width, tile_px)

    def equal_tiles(self, rows: int, columns: int) -> ErpTiles:
        """The panorama cut into equal tiles."""
        return _equal_erp_tiles(rows, columns)

    def map(self, density: Density) -> Density:
        """The map itself."""
        return density

    def width_of(self, height: int) -> int:
        """Twice the rows."""
        return 2 * height


@lru_cache(maxsize=4)
def _equal_erp_tiles(rows: int, columns: int) -> ErpTiles:
    return ErpTiles(rows, columns, 1)  # one pixel per tile


EQUIRECTANGULAR = Equirectangular()
"""The layout that outputs have unless they are given another."""


class SourceLayout(Layout):
    """The layout of the pictures that a camera sends.

    Args:
        camera: maps given to the outputs are in its body axes, and 0 where it sees nothing.
    """

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self._equal_tiles = lru_cache(4)(self._make_equal_tiles)
        self._places = lru_cache(2)(self._make_places)

    def tiles(self, height: int, width: int, tile_px: int) -> CameraTiles:
        """Square tiles of the camera's picture, scaled to this size."""
        return CameraTiles(self.camera, height, width, tile_px)

    def equal_tiles(self, rows: int, columns: int) -> CameraTiles:
        """The camera's picture cut into equal tiles."""
        return self._equal_tiles(rows, columns)

    def _make_equal_tiles(self, rows: int, columns: int) -> CameraTiles:
        return CameraTiles(self.camera, rows, columns, 1)  # one pixel per tile

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of `map` for a map (height, width): about as many pixels, in the shape of the picture.

        Each face or eye gets whole rows and columns. The map is never larger than the picture.
        """
        camera = self.camera
        scale = min(1.0, math.sqrt(height * width / (camera.height * camera.width)))
        rows, columns = camera.tiles
        return (
            rows * max(1, round(scale * camera.height / rows)),
            columns * max(1, round(scale * camera.width / columns)),
        )

    def map(self, density: Density) -> Density:
        """The map (h, w) in the camera's layout: (rows, columns) float32 of `map_size`, 0 where there is no picture.

        A pixel is the density of the directions that its part of the picture shows, relative to uniform on the sphere.
        """
        return self.equal_tiles(*self.map_size(*density.shape)).average(density)

    def equirectangular(self, values: Reals) -> Reals:
        """A map (rows, columns) in the camera's layout as an equirectangular one (h, 2 h) with about as many pixels.

        Returns:
            float32, relative to the same as `values`; 0 where the camera sees nothing.
        """
        rows, columns, weights = self._places(*values.shape)
        finer = (weights * values[rows, columns]).sum(axis=0)
        size = finer.shape[1] // _FINER, finer.shape[0] // _FINER
        return np.asarray(cv2.resize(finer, size, interpolation=cv2.INTER_AREA), np.float32)

    def _make_places(self, rows: int, columns: int) -> tuple[Integers, Integers, Reals]:
        """Pixels (V, h, w) of a map in the camera's layout, and their weights, for a finer equirectangular grid."""
        camera = self.camera
        height = _FINER * max(1, round(math.sqrt(rows * columns / 2)))
        x, y, weights = camera.project(erp_directions(height, 2 * height))
        across = np.floor((x + 0.5) * (columns / camera.width)).astype(np.int64)
        down = np.floor((y + 0.5) * (rows / camera.height)).astype(np.int64)
        return np.clip(down, 0, rows - 1), np.clip(across, 0, columns - 1), weights.astype(np.float32)

    def width_of(self, height: int) -> int:
        """Columns of a picture in the shape of the camera's."""
        return max(1, round(height * self.camera.width / self.camera.height))


class _Points(NamedTuple):
    """Points spread evenly over some tiles."""

    tiles: Integers
    """(n,) indices of the tiles, row by row."""
    directions: Floats
    """(n, points, 3) unit vectors; without meaning where there is no picture."""
    weights: Floats
    """(n, points) solid angle for which each point stands, steradians; 0 where there is no picture."""


class _Table(NamedTuple):
    """The pixels of a map that make up the mean of each tile that has a picture."""

    shape: tuple[int, ...]
    """Shape of the map."""
    tiles: Integers
    """(t,) indices of the tiles, row by row."""
    starts: Integers
    """(t,) where each tile's pixels begin."""
    pixels: Integers
    """(n,) indices of the map's pixels, row by row, tile after tile."""
    shares: Floats
    """(n,) share of each pixel in its tile's mean; they sum to 1 in each tile."""


class CameraTiles(TileGrid):
    """Tiles of a camera's picture.

    Args:
        camera: of the picture.
        height, width: size of the picture in pixels; it may be one of the camera's that was scaled.
        tile_px: side of a tile.
    """

    def __init__(self, camera: Camera, height: int, width: int, tile_px: int) -> None:
        self._camera = camera
        rows, columns = tile_edges(height, tile_px), tile_edges(width, tile_px)
        self.pixels = np.outer(np.diff(rows), np.diff(columns))
        # from here on in pixels of the camera
        self._rows, self._columns = rows * (camera.height / height), columns * (camera.width / width)
        self.solid_angle_sr = np.zeros(self.shape)
        self._picture_share = np.zeros(self.shape)
        self._kept: list[_Points] | None = list(self._points(_SPACING_RAD))  # until the first table is made
        for points in self._kept:
            self.solid_angle_sr.ravel()[points.tiles] = points.weights.sum(axis=1)
            self._picture_share.ravel()[points.tiles] = (points.weights > 0).mean(axis=1)
        self._ready: _Table | None = None

    @property
    def picture_pixels(self) -> Floats:
        """Number of pixels of each tile that show something, (rows, columns) float64."""
        return self.pixels * self._picture_share

    def average(self, density: Density) -> Density:
        """The map's mean over the picture in each tile; 0 in tiles without a picture. See `TileGrid.average`."""
        if self._ready is None or self._ready.shape != density.shape:
            self._ready = self._table(*density.shape)
        table = self._ready
        average = np.zeros(self.shape, np.float32)
        average.ravel()[table.tiles] = np.add.reduceat(density.ravel().take(table.pixels) * table.shares, table.starts)
        return average

    def _table(self, height: int, width: int) -> _Table:
        """Each tile's pixels of a map of this size, found by bilinear lookup at points that miss none of them."""
        spacing_rad = min(_SPACING_RAD, math.pi / height)
        kept = [] if self._kept is None or spacing_rad < _SPACING_RAD else self._kept
        self._kept = None
        size = height * width
        keys, weights = [], []
        for points in kept or self._points(spacing_rad):
            pixels, parts = _bilinear(points.directions, height, width)  # (4, n, points)
            unique, inverse = np.unique(pixels + size * points.tiles[:, None], return_inverse=True)
            keys.append(unique)
            weights.append(np.bincount(inverse.ravel(), (parts * points.weights).ravel(), len(unique)))
        order = np.argsort(np.concatenate(keys))
        key, weight = np.concatenate(keys)[order], np.concatenate(weights)[order]
        key, weight = key[weight > 0], weight[weight > 0]
        tiles, starts = np.unique(key // size, return_index=True)
        lengths = np.diff(starts, append=len(key))
        shares = weight / np.repeat(np.add.reduceat(weight, starts), lengths)
        return _Table((height, width), tiles, starts, key % size, shares)

    def _points(self, spacing_rad: float) -> Iterator[_Points]:
        """Points in all tiles, no further apart than `spacing_rad`, some tiles at a time."""
        parts = max(_PARTS, math.ceil(self._tile_rad() / spacing_rad))
        is_cut = self._has_mixed_corners().ravel()
        at_once = max(1, _POINTS_AT_ONCE // parts**2)
        for first in range(0, self.pixels.size, at_once):
            points = self._points_in(np.arange(first, min(first + at_once, self.pixels.size)), parts)
            has_picture = points.weights > 0
            is_border = is_cut[points.tiles] | has_picture.any(axis=1) & ~has_picture.all(axis=1)
            if parts >= _BORDER_PARTS or not is_border.any():
                yield points
                continue
            inner = ~is_border
            yield _Points(points.tiles[inner], points.directions[inner], points.weights[inner])
            yield self._points_in(points.tiles[is_border], _BORDER_PARTS)

    def _has_mixed_corners(self) -> Mask:
        """The tiles that have a picture at some corners only: (rows, columns)."""
        x = np.clip(self._columns, _INSIDE_PX, self._columns[-1] - _INSIDE_PX) - 0.5
        y = np.clip(self._rows, _INSIDE_PX, self._rows[-1] - _INSIDE_PX) - 0.5
        _, has_picture = self._camera.unproject(*np.meshgrid(x, y))
        corners = np.stack([has_picture[:-1, :-1], has_picture[:-1, 1:], has_picture[1:, :-1], has_picture[1:, 1:]])
        counts: Integers = corners.sum(axis=0)
        mixed: Mask = (counts > 0) & (counts < len(corners))
        return mixed

    def _tile_rad(self) -> float:
        """The largest angle that a tile's side spans."""
        x, y = np.meshgrid(_centres(self._camera.width, _SURVEY), _centres(self._camera.height, _SURVEY))
        _, along_x, along_y = _slopes(self._camera, x.ravel(), y.ravel())
        across = np.linalg.norm(along_x, axis=-1).max() * np.diff(self._columns).max()
        down = np.linalg.norm(along_y, axis=-1).max() * np.diff(self._rows).max()
        return float(max(across, down))

    def _points_in(self, tiles: Integers, parts: int) -> _Points:
        """The centres of `parts` x `parts` equal parts of each tile."""
        row, column = np.divmod(tiles, self.shape[1])
        part = (np.arange(parts) + 0.5) / parts
        height, width = np.diff(self._rows)[row, None], np.diff(self._columns)[column, None]  # (n, 1)
        y = self._rows[row, None] + part * height - 0.5  # (n, parts)
        x = self._columns[column, None] + part * width - 0.5
        y, x = (each.reshape(-1) for each in np.broadcast_arrays(y[:, :, None], x[:, None, :]))
        directions, weights = _covered(self._camera, x, y)
        area = height * width / parts**2  # (n, 1), pixels²
        return _Points(tiles, directions.reshape(len(tiles), -1, 3), weights.reshape(len(tiles), -1) * area)


def _centres(length: int, count: int) -> Floats:
    """Pixel coordinates of the centres of `count` equal parts of a picture's side."""
    parts: Floats = np.arange(count, dtype=np.float64) + 0.5
    return parts * (length / count) - 0.5


# --- what a camera's pixels cover ---


def _covered(camera: Camera, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Directions (n, 3) of pixel coordinates (n,), and the solid angle per pixel for which they stand, steradians.

    The solid angle is 0 where there is no picture.
    """
    eyes = 1
    if isinstance(camera, StereoCamera):  # its `project` knows one eye only, and both show the same
        x, y = (x + 0.5) % camera.eye.width - 0.5, (y + 0.5) % camera.eye.height - 0.5
        camera, eyes = camera.eye, 2
    directions, along_x, along_y = _slopes(camera, x, y)
    projection = camera.project(directions)
    is_here = (np.abs(projection.x - x) < _SAME_PX) & (np.abs(projection.y - y) < _SAME_PX)  # (V, n)
    blend = (projection.weights * is_here).sum(axis=0)
    per_pixel = np.linalg.norm(np.cross(along_x, along_y), axis=-1)
    return directions, per_pixel * np.maximum(blend, _LEAST_WEIGHT) / eyes


def _slopes(camera: Camera, x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """Directions (n, 3) of pixel coordinates (n,), and their derivatives by x and y, 0 where there is no picture."""
    directions, has_picture = camera.unproject(x, y)
    along_x = _slope(camera, directions, x, y, _STEP_PX, 0.0)
    along_y = _slope(camera, directions, x, y, 0.0, _STEP_PX)
    return directions, along_x * has_picture[:, None], along_y * has_picture[:, None]


def _slope(camera: Camera, directions: Floats, x: Floats, y: Floats, step_x: float, step_y: float) -> Floats:
    """The derivative (n, 3) of directions along a step; on its other side where the picture ends or jumps beyond it."""
    slope = _difference(camera, directions, x, y, step_x, step_y)
    jumps = ~(np.linalg.norm(slope, axis=-1) < math.pi)
    if jumps.any():
        slope[jumps] = -_difference(camera, directions[jumps], x[jumps], y[jumps], -step_x, -step_y)
        slope[~(np.linalg.norm(slope, axis=-1) < math.pi)] = 0  # a strip that is narrower than two steps
    return slope


def _difference(camera: Camera, directions: Floats, x: Floats, y: Floats, step_x: float, step_y: float) -> Floats:
    """How directions (n, 3) change per pixel along a step; NaN if it leads out of the picture."""
    beside, has_picture = camera.unproject(x + step_x, y + step_y)
    difference: Floats = (beside - directions) / _STEP_PX
    difference[~has_picture] = math.nan
    return difference


def _bilinear(directions: Floats, height: int, width: int) -> tuple[Integers, Floats]:
    """Indices of the four pixels of a map around directions (..., 3), and their shares, both (4, ...)."""
    u, v = vector_to_pixel(directions, height, width)
    left, top = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    beyond_left, beyond_top = u - left, v - top
    pixels, shares = [], []
    for down, row_share in ((0, 1 - beyond_top), (1, beyond_top)):
        for right, column_share in ((0, 1 - beyond_left), (1, beyond_left)):
            row = top + down
            over_pole = (row < 0) | (row >= height)  # the same row, half a turn away
            column = (left + right + np.where(over_pole, width // 2, 0)) % width
            pixels.append(np.clip(row, 0, height - 1) * width + column)
            shares.append(row_share * column_share)
    return np.stack(pixels), np.stack(shares)
