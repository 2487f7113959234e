"""From a camera's frame straight to the network's equirectangular grid.

The frame is first reduced by area, each face or eye for itself, so that one of its pixels is about as large as one of
the grid's; then every pixel of the grid is one bilinear lookup. Each reduced face gets a border of one pixel with its
neighbours on the sphere, and pixels that the edge of a lens's circle crosses are averaged over what is inside, so no
border mixes what is not side by side. A place in several lenses is looked up in each and mixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from sal360.arrays import Density, Floats, Integers, Mask, Pixels
from sal360.cameras.camera import Camera
from sal360.cameras.equirectangular import is_plain
from sal360.density import normalised
from sal360.errors import FrameError
from sal360.projection import Maps, remap_sphere, rotation_maps
from sal360.sphere import erp_directions, pixel_to_vector

_STEP = 8
"""Pixels of the grid between the nodes whose places in the frame are computed; between them they are interpolated."""
_BENDS = np.array([1.5, 1.5, np.inf, 0.1], np.float32)[:, None, None, None]
_RELATIVE_BENDS = np.array([0.2, 0.2, 0, 0], np.float32)[:, None, None, None]
"""Second differences between nodes above which pixels are computed one by one: of columns and rows, in reduced pixels
or relative to the first difference if that is more, of the number of a picture, and of the weight. The error of what
changes smoothly is an eighth of it at most: 0.2 pixels, of the reduced frame or of the grid."""
_JUMPS = np.array([4 * _STEP, 4 * _STEP, 0.5, 0.45], np.float32)[:, None, None, None]
"""First differences of the same, above which there is a jump: to another part of the frame, or from one lens to another
(a node on their border has both)."""
_USUAL_TURN = 2.5
"""Where the directions of neighbours differ by so many times more than their median, they are of different lenses."""
_RUN = 16
"""Pixels of the grid that are mixed together, so that they can be moved together."""
_LIST_WIDTH = 256
"""cv2.remap takes at most 32767 rows or columns, so lists of pixels are folded into rows of this length."""
_NOWHERE = -9.0
"""A column outside every picture, which cv2.remap makes black."""
_WEIGHTLESS = 1 / 512
"""A weight that rounds to 0 in 8 bits."""


class Lookup:
    """Tables for one camera, one grid and one levelling. `lookup_for` keeps the last few.

    Args:
        camera: of the frames.
        height, width: of the grid, pixels.
        rotation: (3, 3), from the camera's body axes to upright axes; None: they are the same.

    Raises:
        FrameError: no pixel of the grid lies in what the camera shows.
    """

    def __init__(self, camera: Camera, height: int, width: int, rotation: Floats | None = None) -> None:
        self.camera = camera
        self.height, self.width = height, width
        self.rotation = rotation
        self._back_maps: dict[tuple[int, int], Maps] = {}  # by the size of the density
        self._is_plain = is_plain(camera) and rotation is None
        if self._is_plain:
            self.seen: NDArray[np.float32] = np.ones((height, width), np.float32)
            """(height, width) 0 to 1, in upright axes: the part of each pixel that has a picture."""
            return
        self._reduced: _ReducedFrame = _reduced_frame(cast(Any, camera), width)
        self._set_tables(*_grid_places(self._reduced.find, self._reduced.pitch, height, width, rotation))

    def _set_tables(self, places: NDArray[np.float32], weights: NDArray[np.float32]) -> None:
        """Make the maps from `_grid_places`."""
        views = _by_weight(weights)
        share: NDArray[np.float32] = weights[0] if len(weights) == 1 else weights.sum(axis=0)
        self.seen = np.minimum(share, 1)
        points = places.view(np.complex64)[..., 0]  # columns + i rows: numpy moves them faster than pairs
        first = _chosen(points, views[0][0])
        is_seen = share >= 0.5
        if not is_seen.any():
            raise FrameError(
                f"the camera shows no pixel of the sphere at {self.width} x {self.height}",
                "correct its angles, its lens or its region of interest",
                reason="camera_mismatch",
            )
        self._filling: _Filling | None = None
        if not is_seen.all():
            np.copyto(first, np.complex64(_NOWHERE), where=~is_seen)
            self._filling = _Filling(is_seen)
        self._first = _fixed_maps(first)
        self._others: list[_Other] = []
        before = views[0][1]
        for view, weight in views[1:]:
            self._add_other(_chosen(points, view), before, weight)
            before = before + weight

    def _add_other(
        self, points: NDArray[np.complex64], before: NDArray[np.float32], weight: NDArray[np.float32]
    ) -> None:
        """Another view, at places (h, w), with its weights and those of all views before it."""
        run = math.gcd(_RUN, weight.size)
        highest = cv2.reduce(weight.reshape(-1, run), 1, cv2.REDUCE_MAX)  # (h, w) → (runs, run)
        mixed = np.flatnonzero(highest > _WEIGHTLESS)
        if not len(mixed):
            return
        runs = _folded(mixed, _LIST_WIDTH // run)
        first, second = (_of_runs(each, runs, run) for each in (before, weight))
        total = first + second
        safe = np.where(total > 0, total, 1)
        maps = tuple(_of_runs(each, runs, run) for each in _fixed_maps(points))
        self._others.append(_Other(runs, cast(Any, maps), np.where(total > 0, first / safe, 1), second / safe))

    def __call__(self, frame: Pixels, *, fill: bool = True) -> Pixels:
        """The equirectangular, upright picture of a frame, antialiased.

        Args:
            frame: (H, W, 3) uint8 of the camera's size, with any strides.
            fill: continue the colours smoothly where there is no picture, because black areas with sharp edges would
                change the map beside them; otherwise, they are black.

        Returns:
            (height, width, 3) uint8, in the frame's channel order.

        Raises:
            FrameError: the frame has another size than the camera's.
        """
        if frame.shape[:2] != (self.camera.height, self.camera.width):
            raise FrameError(
                f"the frame is {frame.shape[1]} x {frame.shape[0]}, and the camera's are {self.camera.width} x "
                f"{self.camera.height}",
                "describe the camera again when its resolution changes",
                reason="camera_mismatch",
            )
        if self._is_plain:
            return resize_frame(frame, self.height, self.width)
        is_grey = frame.strides[2] == 0  # one channel repeated three times
        picture = self._look_up(self._reduced.fill(frame[..., 0] if is_grey else frame))
        picture = cast(Pixels, cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB)) if is_grey else picture
        return self._filling(picture) if fill and self._filling is not None else picture

    def _look_up(self, reduced: Pixels) -> Pixels:
        picture = _remap(reduced, self._first)
        for other in self._others:
            items = _as_items(picture, math.gcd(_RUN, self.height * self.width))
            shape = len(other.runs), _LIST_WIDTH, *picture.shape[2:]
            here = items[other.runs].view(np.uint8).reshape(shape)
            mixed = cv2.blendLinear(here, _remap(reduced, other.maps), other.before, other.weight)
            items[other.runs] = mixed.astype(np.uint8, copy=False).reshape(len(mixed), -1).view(items.dtype)
        return picture

    def to_camera(self, density: Density) -> Density:
        """An upright density map (h, w) as a density in the camera's body axes: 0 where there is no picture, mean 1."""
        if self.seen.min() < 1:
            size = (density.shape[1], density.shape[0])
            seen = cv2.resize(self.seen, size, interpolation=cv2.INTER_AREA).astype(np.float32, copy=False)
            density = normalised(density * seen)
        if self.rotation is None:
            return density
        height, width = density.shape
        if (height, width) not in self._back_maps:
            self._back_maps[height, width] = rotation_maps(self.rotation.T, height, width)
        return normalised(remap_sphere(density, self._back_maps[height, width]))


class _Other(NamedTuple):
    """Lookups in the lens that counts next where several see a direction, in runs of neighbouring pixels."""

    runs: Integers
    """(m, n) numbers of the runs."""
    maps: tuple[Any, Any]
    """Of cv2.remap, (m, _LIST_WIDTH)."""
    before: NDArray[np.float32]
    """(m, _LIST_WIDTH) share of what was mixed before."""
    weight: NDArray[np.float32]
    """(m, _LIST_WIDTH) share of this lens; both sum to 1."""


class _Filling:
    """Continues a picture's colours into the part without a picture: each level of a pyramid fills the finer one.

    Args:
        is_seen: (h, w), where there is a picture.
    """

    _SMALLEST = 3

    def __init__(self, is_seen: Mask) -> None:
        self._mask = is_seen.astype(np.uint8)
        self._weights = [_resized(is_seen.astype(np.float32), is_seen.shape[0] // 8, is_seen.shape[1] // 8)]
        while min(self._weights[-1].shape) > self._SMALLEST:
            self._weights.append(_halved(self._weights[-1]))

    def __call__(self, picture: Pixels) -> Pixels:
        """A picture (h, w, 3) that is black where there is none, with its colours continued."""
        levels = [_resized(picture, picture.shape[0] // 8, picture.shape[1] // 8).astype(np.float32)]
        for _ in self._weights[1:]:
            levels.append(_halved(levels[-1]))
        filled = np.zeros_like(levels[-1])
        filled += levels[-1].sum(axis=(0, 1)) / max(float(self._weights[-1].sum()), 1e-6)
        for sums, weights in zip(reversed(levels), reversed(self._weights), strict=True):
            wider = cv2.resize(filled, weights.shape[::-1], interpolation=cv2.INTER_LINEAR)
            share = np.minimum(4 * weights, 1)[..., None]  # a quarter of a pixel is enough to know its colour
            filled = sums / np.maximum(weights, 1e-6)[..., None] * share + wider * (1 - share)
        result = cast(
            Pixels, cv2.resize(cv2.convertScaleAbs(filled), picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        )
        cv2.copyTo(picture, self._mask, result)
        return result


def _resized(values: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    size = max(1, width), max(1, height)
    return cast(NDArray[Any], cv2.resize(values, size, interpolation=cv2.INTER_AREA))


def _halved(values: NDArray[Any]) -> NDArray[Any]:
    return _resized(values, values.shape[0] // 2, values.shape[1] // 2)


def lookup_for(camera: Camera, height: int, width: int, rotation: Floats | None = None) -> Lookup:
    """A `Lookup`, from the cache of the last few if the same camera object and rotation were asked for."""
    key = b"" if rotation is None else np.ascontiguousarray(rotation, np.float64).tobytes()
    return _kept_lookup(cast(Any, camera), height, width, key)


@lru_cache(maxsize=8)
def _kept_lookup(camera: Any, height: int, width: int, key: bytes) -> Lookup:  # Any: lru_cache wants Hashable
    rotation: Floats | None = np.frombuffer(key).reshape(3, 3) if key else None  # (9,) → (3, 3)
    return Lookup(camera, height, width, rotation)


def _as_items(picture: NDArray[Any], run: int = 1) -> NDArray[Any]:
    """Contiguous values (h, w[, n]) as a list (h · w / run,) of runs: numpy moves them faster than single samples."""
    count = run * math.prod(picture.shape[2:])
    items: NDArray[Any] = picture.reshape(-1, count).view(f"V{count * picture.itemsize}")[:, 0]
    return items


MAX_VIEW_WIDTH, MAX_VIEW_SHARE = 6144, 4
"""The largest views that are computed, in columns and in pixels for each pixel of the frame. Making the tables takes 90
bytes a pixel, 1.6 GB at this width, and the whole sphere can have hundreds of times the pixels of a fine crop."""


def equirectangular_view(camera: Camera, frame: Pixels, max_width: int = 1 << 14) -> Pixels:
    """A frame as an equirectangular picture in the camera's body axes, about as fine as the frame.

    Args:
        frame: (H, W, 3) uint8.
        max_width: the picture has at most this many columns, and if the frame is not a whole equirectangular one, at
            most `MAX_VIEW_WIDTH`, and `MAX_VIEW_SHARE` times the frame's pixels.

    Returns:
        (h, w, 3) uint8; whole equirectangular frames that are not too wide are returned unchanged.

    Raises:
        FrameError: the frame has another size than the camera's.
    """
    if is_plain(camera):
        height, width = frame.shape[:2]
        if width <= max_width:
            return frame
        return _scaled(frame, max(1, round(height * max_width / width)), max_width, cv2.INTER_AREA)
    largest = min(MAX_VIEW_WIDTH, math.isqrt(2 * MAX_VIEW_SHARE * camera.height * camera.width))  # of 2:1
    width = min(max_width, 4 * max(1, min(round(math.pi / 2 * pixels_per_rad(camera)), largest // 4)))
    return _kept_view(cast(Any, camera), width // 2, width)(frame, fill=False)


@lru_cache(maxsize=2)  # they are large, and crops with metadata have a camera each
def _kept_view(camera: Any, height: int, width: int) -> Lookup:
    return Lookup(camera, height, width)


def _chosen(values: NDArray[Any], view: Integers | Mask) -> NDArray[Any]:
    """The values (...) of one view, chosen for each place, from those of all views (V, ...)."""
    if len(values) == 1:
        return np.array(values[0])
    if len(values) == 2:  # much faster than picking
        return np.where(view, values[1], values[0])
    picked: NDArray[Any] = np.take_along_axis(values, view[None].astype(np.int64, copy=False), axis=0)[0]
    return picked


def _by_weight(weights: NDArray[np.float32]) -> list[tuple[Integers | Mask, NDArray[np.float32]]]:
    """The views (...) and their weights (...), from the one that counts most at each place, of weights (V, ...)."""
    if len(weights) == 1:
        return [(np.zeros((), np.int64), weights[0])]
    if len(weights) == 2:  # much faster than sorting
        is_second = weights[1] > weights[0]
        return [(is_second, np.maximum(*weights)), (~is_second, np.minimum(*weights))]
    order = np.argsort(-weights, axis=0, kind="stable")
    return list(zip(order, np.take_along_axis(weights, order, axis=0), strict=True))


def _of_runs(values: NDArray[Any], runs: Integers, run: int) -> NDArray[Any]:
    """Runs (m, n) of `run` neighbours in values (h, w[, 2]), as (m, n · run[, 2])."""
    chosen: NDArray[Any] = _as_items(values, run)[runs].view(values.dtype)
    return chosen.reshape(len(runs), -1, *values.shape[2:])


def _folded(values: NDArray[Any], width: int = _LIST_WIDTH) -> NDArray[Any]:
    """A list (n,), n > 0, as rows (m, width), the last one filled up with its last value."""
    rows = -(-len(values) // width)
    padded: NDArray[Any] = np.pad(values, (0, rows * width - len(values)), mode="edge")
    return padded.reshape(rows, width)


def _fixed_maps(points: NDArray[np.complex64]) -> tuple[Any, Any]:
    """Maps of cv2.remap in fixed point, which are faster than floats, of places (h, w), columns + i rows."""
    return cv2.convertMaps(points.view(np.float32).reshape(*points.shape, 2), cast(Any, None), cv2.CV_16SC2)


def _remap(picture: Pixels, maps: tuple[Any, Any]) -> Pixels:
    return cast(Pixels, cv2.remap(picture, *maps, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT))


# --- the reduced frame ---


class _Beside(NamedTuple):
    """Reduced pixels that repeat a neighbour, or show what another lens sees there."""

    target: Integers
    """(m,) flat indices."""
    neighbours: Integers
    """(m,) flat indices of the pixels that are repeated."""
    further: Integers
    """(m,) flat indices of the pixels on the other side of those."""


class _Rim(NamedTuple):
    """Reduced pixels that the edge of the picture crosses: each is the mean of some pixels of the frame."""

    target: Integers
    """(n,) flat indices of reduced pixels."""
    pixels: NDArray[np.int16]
    """Columns and rows of four pixels of the frame for each, (4 m, _LIST_WIDTH, 2), m _LIST_WIDTH at least n."""
    beside: tuple[_Beside, ...]
    """Reduced pixels beside the picture, in rings from the inside."""


class _ReducedFrame:
    """The frame's tiles, reduced and with a border, one below the other in one picture.

    Args:
        camera: of the frame.
        width: columns of the grid.
    """

    def __init__(self, camera: Camera, width: int) -> None:
        self._camera = camera
        self._factors = _reductions(camera, width)
        self._grid = camera.tiles
        self._tile = camera.height // self._grid[0], camera.width // self._grid[1]
        self._size = tuple(-(-side // each) for side, each in zip(self._tile, self._factors, strict=True))
        self._centres = tuple(_centres(*each) for each in zip(self._tile, self._size, self._factors, strict=True))
        self.pitch = self._size[0] + 2
        """Rows from one tile to the next."""
        self._tiles = _used_tiles(camera)
        self._slots = np.zeros(self._grid[0] * self._grid[1], np.intp)
        self._slots[self._tiles] = np.arange(len(self._tiles))
        self._shape = len(self._tiles) * (self._size[0] + 2), self._size[1] + 2
        self._rim = self._find_rim()
        self._border, self._border_maps = self._find_border()

    def find(self, directions: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Columns and rows (V, ..., 2) of the reduced frame that see directions (..., 3), and weights (V, ...)."""
        x, y, weights = self._camera.project(cast(Floats, directions))
        places = np.stack(self.locate(x, y), axis=-1)
        return places.astype(np.float32, copy=False), weights.astype(np.float32, copy=False)

    def locate(self, x: Floats, y: Floats, *, in_border: bool = True) -> tuple[Floats, Floats]:
        """Columns and rows (...) of the reduced frame of pixel coordinates (...) of the frame.

        Args:
            in_border: allow places that need the border; otherwise they are moved to the nearest pixel centre.
        """
        column, across = self._place(x, axis=1, in_border=in_border)
        row, down = self._place(y, axis=0, in_border=in_border)
        if len(self._slots) == 1:
            return across + 1, down + 1
        slot = self._slots[(row * self._grid[1] + column).astype(np.intp)]
        return across + 1, down + (slot * (self._size[0] + 2) + 1).astype(down.dtype)

    def _place(self, values: Floats, axis: int, *, in_border: bool) -> tuple[Floats, Floats]:
        """The tile along one axis, and the place in its reduced picture."""
        kind = values.dtype.type
        tile, size, count, factor = self._tile[axis], self._size[axis], self._grid[axis], self._factors[axis]
        shifted = values + kind(0.5)
        index = np.clip(np.floor(shifted / kind(tile)), 0, count - 1) if count > 1 else np.zeros_like(shifted)
        place = (shifted - index * kind(tile)) * kind(1 / factor) - kind(0.5)
        if tile % factor and size > 1:  # the last pixel overlaps the one before, so their centres are nearer
            distance = (tile % factor) / factor
            place = np.where(place > size - 2, (place - kind(size - 2)) * kind(1 / distance) + kind(size - 2), place)
        margin = 0.5 if in_border else 0.0
        return index, np.clip(place, kind(-margin), kind(size - 1 + margin))

    def fill(self, frame: Pixels) -> Pixels:
        """The reduced frame of a frame (H, W[, 3])."""
        reduced = np.empty((*self._shape, *frame.shape[2:]), np.uint8)
        height, width = self._tile
        for slot, tile in enumerate(self._tiles):
            row, column = divmod(int(tile), self._grid[1])
            part = frame[row * height : (row + 1) * height, column * width : (column + 1) * width]
            top = slot * (self._size[0] + 2) + 1
            _reduce(part, self._factors, reduced[top : top + self._size[0], 1:-1])
        if self._rim is not None:
            self._mend(frame, reduced, self._rim)
        border = _remap(reduced, self._border_maps)
        _as_items(reduced)[self._border] = _as_items(border)[: len(self._border)]
        return reduced

    @staticmethod
    def _mend(frame: Pixels, reduced: Pixels, rim: _Rim) -> None:
        """Set the pixels at the edge of the picture in a reduced frame (h, w[, 3])."""
        items = _as_items(reduced)
        if len(rim.target):
            four = cast(Pixels, cv2.remap(frame, rim.pixels, cast(Any, None), cv2.INTER_NEAREST))
            sums = four.reshape(4, -1, *frame.shape[2:]).sum(axis=0, dtype=np.uint16)  # (4 m, …) → (4, n, …)
            means = ((sums + 2) >> 2).astype(np.uint8)
            items[rim.target] = _as_items(means[None])[: len(rim.target)]
        for ring in rim.beside:
            items[ring.target] = items[ring.neighbours]

    def _frame_place(
        self, rows: Integers, columns: Integers, down: Any = 0.0, across: Any = 0.0
    ) -> tuple[Floats, Floats]:
        """Pixel coordinates x, y in the frame of places in the reduced frame.

        Args:
            rows, columns: (...) of pixels inside the tiles.
            down, across: distance from their centres, in reduced pixels.
        """
        slot, row = np.divmod(rows, self._size[0] + 2)
        tile_row, tile_column = np.divmod(np.asarray(self._tiles)[slot], self._grid[1])
        y = tile_row * self._tile[0] + self._centres[0][row - 1] + down * self._factors[0]
        x = tile_column * self._tile[1] + self._centres[1][columns - 1] + across * self._factors[1]
        return x, y

    def _unproject(self, x: Floats, y: Floats) -> tuple[Floats, Mask]:
        """Directions of pixel coordinates, the frame's own edge included, and whether there is a picture."""
        camera = self._camera
        return camera.unproject(np.clip(x, -0.49, camera.width - 0.51), np.clip(y, -0.49, camera.height - 0.51))

    def _has_picture(self, x: Floats, y: Floats) -> Mask:
        return self._unproject(x, y)[1]

    def _find_rim(self) -> _Rim | None:
        height = self._size[0]
        is_inside, is_rim = np.zeros(self._shape, bool), np.zeros(self._shape, bool)
        for slot in range(len(self._tiles)):
            top = slot * (height + 2) + 1
            inside, is_near = self._edge_of_tile(top)
            rows, columns = np.nonzero(is_near)
            reach = 0.499
            corners = [
                self._frame_place(rows + top, columns + 1, dy, dx) for dy in (-reach, reach) for dx in (-reach, reach)
            ]
            four = np.stack([self._has_picture(*each) for each in corners])
            inside[rows, columns] = four.all(axis=0)
            is_inside[top : top + height, 1:-1] = inside
            is_rim[rows + top, columns + 1] = four.any(axis=0) & ~four.all(axis=0)
        is_read = self._read_beside(is_inside, is_rim)
        return self._rim_of(is_inside, is_rim & is_read, is_read) if is_read.any() else None

    def _edge_of_tile(self, top: int) -> tuple[Mask, Mask]:
        """Which pixels (h, w) of a tile lie in the picture, and near which ones its edge must be looked for.

        Only every eighth pixel in both directions is looked at. An edge runs between two of them, or between lenses.
        """
        rows, columns = (np.unique(np.append(np.arange(0, side, _STEP), side - 1)) for side in self._size)
        directions, nodes = self._unproject(*self._frame_place(top + rows[:, None], 1 + columns[None, :]))
        values = np.concatenate([directions, nodes[..., None]], axis=-1).astype(np.float32)
        around = np.ones((3, 3), np.uint8)
        spread = cv2.dilate(values, around) - cv2.erode(values, around)  # over a node and its neighbours
        turn = np.linalg.norm(spread[..., :3], axis=-1)
        is_mixed = ((spread[..., 3] > 0) | (turn > _USUAL_TURN * np.median(turn))).astype(np.uint8)
        row, column = (
            np.minimum(np.rint(np.arange(side) / _STEP).astype(int), len(each) - 1)
            for side, each in zip(self._size, (rows, columns), strict=True)
        )
        nearest = np.ix_(row, column)
        return nodes[nearest], cv2.dilate(is_mixed, around)[nearest].astype(bool)

    def _read_beside(self, is_inside: Mask, is_rim: Mask) -> Mask:
        """Reduced pixels around an edge that may be looked up: where another lens sees more, that one is taken."""
        near = cv2.dilate(is_rim.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool) & is_inside
        rows, columns = np.nonzero(near)
        x, y = self._frame_place(rows, columns)
        found_x, found_y, weights = self._camera.project(self._camera.unproject(x, y)[0])
        is_here = (weights > 0) & (np.abs(found_x - x) < 1) & (np.abs(found_y - y) < 1)
        read = np.zeros(self._shape, np.uint8)
        read[rows, columns] = is_here.any(axis=0)
        return cv2.dilate(read, np.ones((9, 9), np.uint8)).astype(bool)

    def _rim_of(self, is_inside: Mask, is_rim: Mask, is_read: Mask) -> _Rim:
        rows, columns = np.nonzero(is_rim)
        quarters = np.array([-1, 1]) / 4
        x, y = self._frame_place(rows[:, None], columns[:, None], np.repeat(quarters, 2), np.tile(quarters, 2))
        x, y = np.clip(np.rint(x), 0, self._camera.width - 1), np.clip(np.rint(y), 0, self._camera.height - 1)
        # pixels of the frame that are themselves crossed by the edge count as outside
        counts = np.all([self._has_picture(x + dx, y + dy) for dx in (-0.55, 0.55) for dy in (-0.55, 0.55)], axis=0)
        is_known = counts.any(axis=1)
        is_inside[rows[is_known], columns[is_known]] = True
        ring = _beside(is_inside, is_read)
        is_inside.ravel()[ring.target] = True
        rings = ring, _beside(is_inside, is_read)
        # known pixels first, and repeated where others are unknown
        order = np.argsort(~counts[is_known], axis=1, kind="stable")
        order = np.take_along_axis(order, np.arange(4) % counts[is_known].sum(axis=1, keepdims=True), axis=1)
        x, y = (np.take_along_axis(each[is_known], order, axis=1) for each in (x, y))  # (n, 4)
        pixels = np.concatenate([np.stack([_folded(x[:, index]), _folded(y[:, index])], axis=-1) for index in range(4)])
        target = np.ravel_multi_index((rows[is_known], columns[is_known]), self._shape)
        return _Rim(target, pixels.astype(np.int16), rings)

    def _find_border(self) -> tuple[Integers, tuple[Any, Any]]:
        """Flat indices of the border's pixels, and the maps that look them up in the tiles."""
        height, width = self._size
        ring = np.ones((height + 2, width + 2), bool)
        ring[1:-1, 1:-1] = False
        rows, columns = (np.tile(each, len(self._tiles)) for each in np.nonzero(ring))
        top = np.repeat(np.arange(len(self._tiles)) * (height + 2), np.count_nonzero(ring))
        first_row, first_column = np.clip(rows, 1, height), np.clip(columns, 1, width)
        second_row = np.clip(2 * first_row - rows, 1, height)
        second_column = np.clip(2 * first_column - columns, 1, width)
        stride = width + 2
        target = (rows + top) * stride + columns
        neighbours = (first_row + top) * stride + first_column
        further = (second_row + top) * stride + second_column
        if self._rim is not None:  # beyond the edge of one lens, another one may see
            beside = self._rim.beside[0]
            target = np.concatenate([target, beside.target])
            neighbours = np.concatenate([neighbours, beside.neighbours])
            further = np.concatenate([further, beside.further])
        return target, self._continued(neighbours, further)

    def _continued(self, neighbours: Integers, further: Integers) -> tuple[Any, Any]:
        """Maps of the pixels that continue the sphere beyond two pixels (n,), exact to a hundredth of a pixel."""
        rows, columns = np.divmod(neighbours, self._shape[1])
        last, _ = self._camera.unproject(*self._frame_place(rows, columns))
        before, _ = self._camera.unproject(*self._frame_place(*np.divmod(further, self._shape[1])))
        beyond = 2 * last - before
        beyond /= np.linalg.norm(beyond, axis=-1, keepdims=True)
        x, y, weights = self._camera.project(beyond)
        view = weights.argmax(axis=0)
        is_seen = weights.max(axis=0) > 0
        found_column, found_row = self.locate(_chosen(x, view), _chosen(y, view), in_border=False)
        maps = np.where(is_seen, found_column, columns), np.where(is_seen, found_row, rows)
        return _fixed_maps((_folded(maps[0]) + 1j * _folded(maps[1])).astype(np.complex64))


@lru_cache(maxsize=8)
def _reduced_frame(camera: Any, width: int) -> _ReducedFrame:
    return _ReducedFrame(camera, width)


def _beside(is_inside: Mask, is_chosen: Mask) -> _Beside:
    """The chosen pixels beside an area (rows, columns)."""
    width = is_inside.shape[1]
    padded = np.pad(is_inside, 2)
    rows, columns = np.nonzero(is_chosen & ~is_inside)
    here = rows * width + columns
    found, further = np.full(here.shape, -1), np.full(here.shape, -1)
    for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
        is_new = (found < 0) & padded[rows + 2 + dy, columns + 2 + dx]
        is_second = padded[rows + 2 + 2 * dy, columns + 2 + 2 * dx]
        step = dy * width + dx
        found = np.where(is_new, here + step, found)
        further = np.where(is_new, np.where(is_second, here + 2 * step, here + step), further)
    is_found = found >= 0
    return _Beside(here[is_found], found[is_found], further[is_found])


def _used_tiles(camera: Camera) -> Integers:
    """Numbers of the tiles, row by row, in which directions are seen."""
    x, y, weights = camera.project(erp_directions(64, 128))
    rows, columns = camera.tiles
    is_seen = weights > 0
    if not is_seen.any():  # what is seen may lie between those directions
        return np.arange(rows * columns)
    column = np.clip(np.floor((x[is_seen] + 0.5) / (camera.width / columns)), 0, columns - 1)
    row = np.clip(np.floor((y[is_seen] + 0.5) / (camera.height / rows)), 0, rows - 1)
    tiles: Integers = np.unique(row * columns + column).astype(np.int64)
    return tiles


_MOST_ROWS = 384
"""Of the directions in which a camera's resolution is looked for: half a degree apart."""


def pixels_per_rad(camera: Camera) -> float:
    """Resolution of a camera's frames: the square root of the pixels per steradian, median over the directions."""
    return _resolution(camera)[0]


def _resolution(camera: Camera, rows: int = 24) -> tuple[float, float]:
    """Pixels per radian, and how many times finer the columns are than the rows; medians over the directions.

    Args:
        rows: of the directions; more are tried where the camera shows none of them.
    """
    directions = erp_directions(rows, 2 * rows).reshape(-1, 3)  # (rows, 2 rows, 3) → (n, 3)
    helper = np.where(np.abs(directions[:, 2:]) < 0.7, [0.0, 0, 1], [1.0, 0, 0])
    across = np.cross(helper, directions)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    small = 1e-5
    places = [camera.project(each / np.linalg.norm(each, axis=1, keepdims=True)) for each in (
        directions, directions + small * across, directions + small * np.cross(directions, across)
    )]  # fmt: skip
    view = places[0].weights.argmax(axis=0)
    x, y, weights = (np.stack([_chosen(each[part], view) for each in places]) for part in range(3))
    area = np.abs((x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])) / small**2
    slopes = [np.hypot(each[1] - each[0], each[2] - each[0]) / small for each in (x, y)]
    # a step across a border of faces is a part of the frame long; a frame shows a thousandth of a radian at least
    is_step = np.maximum(*slopes) > 1e3 * (camera.width + camera.height)
    is_usual = (weights > 0).all(axis=0) & ~is_step & (area > 0)
    horizontal = np.linalg.norm(directions[:, :2], axis=1)  # share of the sphere of each direction
    order = np.argsort(area[is_usual])
    share = np.cumsum(horizontal[is_usual][order])
    if not len(share):
        return _resolution(camera, 4 * rows) if rows < _MOST_ROWS else (1.0, 1.0)
    fineness = math.sqrt(area[is_usual][order][np.searchsorted(share, share[-1] / 2)])
    level = is_usual & (horizontal > math.sqrt(0.5))  # equirectangular pixels are narrow near the poles
    chosen = level if level.any() else is_usual
    return fineness, float(np.median(slopes[0][chosen]) / np.median(slopes[1][chosen]))


# --- places of the grid's pixels ---


def _grid_places(
    find: Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.float32]]],
    pitch: int,
    height: int,
    width: int,
    rotation: Floats | None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where the pixels of a grid are looked up, interpolated between nodes where that is accurate.

    Args:
        find: columns and rows (V, ..., 2) and weights (V, ...) of directions (..., 3).
        pitch: rows from one picture to the next one below it, which is not its neighbour on the sphere.
        height, width: of the grid.
        rotation: (3, 3), from the axes of `find` to those of the grid; None: they are the same.

    Returns:
        Columns and rows (V, height, width, 2), and weights (V, height, width).
    """
    turn = np.eye(3, dtype=np.float32) if rotation is None else rotation.astype(np.float32).T  # from the grid's axes
    nodes, of_nodes = find(cv2.transform(_nodes(height, width), turn).astype(np.float32, copy=False))
    views, rows, columns = of_nodes.shape
    # cv2.resize has the nodes in the middle of cells, so half a cell is left over on each side
    shape, half = (rows * _STEP, columns * _STEP), _STEP // 2
    places, weights = np.empty((views, *shape, 2), np.float32), np.empty((views, *shape), np.float32)
    for view in range(views):
        cv2.resize(np.ascontiguousarray(nodes[view]), shape[::-1], dst=places[view], interpolation=cv2.INTER_LINEAR)
        cv2.resize(of_nodes[view], shape[::-1], dst=weights[view], interpolation=cv2.INTER_LINEAR)
    is_exact = np.zeros(shape, bool)
    if of_nodes.any():
        is_exact[half:-half, half:-half] = _uneven_cells(nodes, of_nodes, pitch).repeat(_STEP, 0).repeat(_STEP, 1)
    else:  # what is seen may lie between the nodes
        is_exact[:] = True
    exact = np.flatnonzero(is_exact)
    if len(exact):
        directions = _grid_directions(height, width).take(exact, axis=0)
        exact_places, exact_weights = find(cv2.transform(directions[None], turn)[0].astype(np.float32, copy=False))
        for view in range(views):  # numpy moves a place as one complex number faster than as two
            places[view].view(np.complex64).ravel()[exact] = exact_places[view].view(np.complex64)[:, 0]
            weights[view].ravel()[exact] = exact_weights[view]
    rows_inside, columns_inside = slice(half, half + height), slice(half, half + width)
    return places[:, rows_inside, columns_inside], weights[:, rows_inside, columns_inside]


@lru_cache(maxsize=4)
def _nodes(height: int, width: int) -> NDArray[np.float32]:
    """Directions (rows, columns, 3) of the nodes: the corners of cells of `_STEP` squared pixels."""
    rows, columns = _node_counts(height, width)
    v, u = (np.arange(count) * _STEP - 0.5 for count in (rows, columns))
    return pixel_to_vector(u[None, :], v[:, None], height, width).astype(np.float32)


@lru_cache(maxsize=4)
def _grid_directions(height: int, width: int) -> NDArray[np.float32]:
    """Directions (n, 3) of the pixels of a grid and half a cell around it, row by row."""
    v, u = (np.arange(count * _STEP) - _STEP // 2 for count in _node_counts(height, width))
    return pixel_to_vector(u[None, :], v[:, None], height, width).reshape(-1, 3).astype(np.float32)


def _node_counts(height: int, width: int) -> tuple[int, int]:
    rows, columns = (max(-(-side // _STEP), 2) + 1 for side in (height, width))  # 3 at least, for second differences
    return rows, columns


def _uneven_cells(places: NDArray[np.float32], weights: NDArray[np.float32], pitch: int) -> Mask:
    """Cells (rows − 1, columns − 1) between nodes in which places or weights do not change evenly."""
    picture = np.floor(places[..., 1] * np.float32(1 / pitch))
    values = np.stack([places[..., 0], places[..., 1], picture, weights])
    is_seen = weights > 0
    is_seen = is_seen[:, :-1] | is_seen[:, 1:]
    is_seen = is_seen[..., :-1] | is_seen[..., 1:]
    down = _uneven_along_rows(values, is_seen)
    across = _uneven_along_rows(values.swapaxes(2, 3), is_seen.swapaxes(1, 2)).T
    return down | across


def _uneven_along_rows(values: NDArray[np.float32], is_seen: Mask) -> Mask:
    """Cells (m − 1, n − 1) in which values (4, V, m, n) do not change evenly from row to row.

    A jump or a kink between two nodes shows in the second differences at both of them, and beyond them only at one end.

    Args:
        values: columns, rows, numbers of the pictures, weights.
        is_seen: (V, m − 1, n − 1) cells whose places matter.
    """
    steps = np.diff(values, axis=2)
    bends = np.abs(np.diff(steps, axis=2))
    bends = np.concatenate([bends[:, :, :1], bends, bends[:, :, -1:]], axis=2)
    steps = np.abs(steps)
    is_uneven = np.minimum(bends[:, :, :-1], bends[:, :, 1:]) > np.maximum(_BENDS, _RELATIVE_BENDS * steps)
    is_uneven |= steps > _JUMPS
    is_uneven = is_uneven[..., :-1] | is_uneven[..., 1:]
    return cast(Mask, ((is_uneven[:3].any(axis=0) & is_seen) | is_uneven[3]).any(axis=0))


# --- resizing ---


def _reductions(camera: Camera, width: int) -> tuple[int, int]:
    """The powers of two by which rows and columns of frames are reduced for a grid of `width` columns.

    Halving is by far the fastest reduction. What remains is a factor of about 2 at most, so interpolation skips hardly
    any pixel.
    """
    fineness, stretch = _resolution(camera)
    ratio = fineness * 2 * math.pi / width
    finer = math.sqrt(stretch) if not 3 / 4 < stretch < 4 / 3 else 1.0
    down, across = (1 << max(0, math.floor(math.log2(each))) for each in (ratio / finer, ratio * finer))
    return down, across


def _centres(side: int, reduced: int, factor: int) -> Floats:
    """Where the centres of the reduced pixels lie along one side of a tile, in its pixel coordinates."""
    centres: Floats = np.arange(reduced, dtype=np.float64) * factor + (factor - 1) / 2
    centres[-1] = side - 1 - (factor - 1) / 2
    return centres


def _reduce(part: Pixels, factors: tuple[int, int], into: Pixels) -> None:
    """Average a tile (h, w[, 3]) over blocks. What is left over at the end belongs to a last block that overlaps.

    Args:
        factors: rows and columns of a block; powers of two.
    """
    spans = [
        [(slice(0, side // factor * factor), slice(0, side // factor))]
        + ([(slice(max(0, side - factor), side), slice(side // factor, None))] if side % factor else [])
        for side, factor in zip(part.shape[:2], factors, strict=True)
    ]
    for rows, into_rows in spans[0]:
        for columns, into_columns in spans[1]:
            block, target = part[rows, columns], into[into_rows, into_columns]
            if target.size:
                target[:] = _averaged(block, factors, *target.shape[:2])


def _averaged(block: Pixels, factors: tuple[int, int], height: int, width: int) -> Pixels:
    down, across = factors
    if block.shape[:2] != (height * down, width * across):  # a tile that is smaller than a block
        return _scaled(block, height, width, cv2.INTER_AREA)
    while max(down, across) > 1:
        down, across = max(down // 2, 1), max(across // 2, 1)
        is_halved = block.shape[0] > height * down, block.shape[1] > width * across
        # halfway between two pixels, bilinear interpolation is their mean
        block = _scaled(block, height * down, width * across, cv2.INTER_AREA if all(is_halved) else cv2.INTER_LINEAR)
    return block


def resize_frame(frame: Pixels, height: int, width: int) -> Pixels:
    """A frame (H, W, 3) at the model's size, (height, width, 3); every source pixel counts, which avoids aliasing."""
    if frame.shape[:2] == (height, width):
        return frame
    if frame.strides[2] == 0:  # one grey channel repeated three times: cv2 would first copy it at full size
        grey = _resize(frame[..., 0], height, width)
        return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB).astype(np.uint8, copy=False)
    return _resize(frame, height, width)


def _resize(frame: Pixels, height: int, width: int) -> Pixels:
    if frame.shape[0] < height:
        return _scaled(frame, height, width, cv2.INTER_LINEAR)
    block = max(2, frame.shape[0] // height) if frame.shape[0] >= 1.5 * height else 1
    if block > 1 and frame.shape[:2] != (block * height, block * width):
        # averaging whole blocks is faster than averaging fractions of pixels; the scale factor to a multiple of the
        # target size is below 1.5, so bilinear interpolation skips no pixel
        frame = _scaled(frame, block * height, block * width, cv2.INTER_LINEAR)
    return _scaled(frame, height, width, cv2.INTER_AREA)


def _scaled(frame: Pixels, height: int, width: int, interpolation: int) -> Pixels:
    return cv2.resize(frame, (width, height), interpolation=interpolation).astype(np.uint8, copy=False)
