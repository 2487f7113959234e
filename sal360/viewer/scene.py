"""A picture with its map, and how the page receives both: a JPEG, an 8-bit map with its scale, targets and grids."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import cv2
import numpy as np

from sal360.arrays import Density, Pixels
from sal360.outputs.overlay import saliency_to_mono8
from sal360.outputs.qp_offset import QpOffset, QpOffsetSettings
from sal360.outputs.shading_rate import ShadingRate, ShadingRateSettings
from sal360.outputs.targets import Target, find_peaks

Kept = TypeVar("Kept")

GRIDS = ("shading_rate", "qp_offset")
"""Grids that the page can draw, by the name of their output."""
MAX_WIDTH = 4096
"""Pixels. The page reduces pictures further where the GPU takes only smaller ones."""
JPEG_QUALITY = 85


@dataclass(frozen=True)
class GridSettings:
    """How the grids are computed, and for which pictures; of a live node, as its topics are."""

    shading_rate: ShadingRateSettings = field(default_factory=lambda: ShadingRateSettings(limit="4x4"))
    """Drawn on the sphere, so always for an equirectangular picture."""
    qp_offset: QpOffsetSettings = field(default_factory=QpOffsetSettings)
    """Video that is sent to pages is encoded with them, but for the size of the blocks."""
    shading_rate_rows: int = 0
    qp_offset_rows: int = 0
    """Rows of the picture that is rendered or encoded; 0: those of the shown picture."""


@dataclass(frozen=True, eq=False)
class Scene:
    """One frame with its map. What is derived from them is computed once, when it is first asked for, in any thread."""

    name: str
    """File-name stem of the picture."""
    stamp_s: float
    """The frame's timestamp, seconds."""
    picture: Pixels
    """(H, W, 3) uint8 BGR, equirectangular."""
    density: Density
    """(h, w) float32, relative to uniform."""
    target: Target | None = None
    """The one to look at now."""
    captured_ns: int = field(default_factory=time.monotonic_ns)
    """When the frame was there, by the monotonic clock."""
    sequence: int = 0
    """Number of the frame in its stream, from 1."""
    grids: GridSettings = field(default_factory=GridSettings)
    _known: dict[str, Any] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def jpeg(self, quality: int = JPEG_QUALITY) -> bytes:
        """The picture as a JPEG file of at most `MAX_WIDTH` columns."""
        return self._once("jpeg", lambda: bytes(cv2.imencode(".jpg", self.shown(), _full_colour(quality))[1]))

    def shown(self) -> Pixels:
        """The picture, reduced to `MAX_WIDTH` columns if it has more."""
        return self._once("shown", lambda: reduced(self.picture))

    def about(self) -> dict[str, Any]:
        """Name, stamp and targets, for JSON."""
        return self._once("about", self._about)

    def map_bytes(self) -> tuple[dict[str, Any], bytes]:
        """Height, width and scale of the map, and its rows of bytes: 255 means `scale` times uniform.

        The scale is the map's maximum, so that no peak is cut off; the page multiplies it back.
        """
        return self._once("map", self._map_bytes)

    def grid_bytes(self, name: str) -> tuple[dict[str, Any], bytes]:
        """Size and bytes of one of `GRIDS`: shading rates, or QP offsets plus 128."""
        height, width = self.shown().shape[:2]
        return self._once(name, lambda: _GRIDS[name](self.density, height, width, self.grids))

    def _once(self, key: str, make: Callable[[], Kept]) -> Kept:
        if key not in self._known:
            value = make()  # outside the lock: it may ask for another one; two threads make it twice at most
            with self._lock:
                self._known.setdefault(key, value)
        kept: Kept = self._known[key]
        return kept

    def _about(self) -> dict[str, Any]:
        peaks = find_peaks(self.density)
        targets = [
            [*map(_short, direction), _short(score)]
            for direction, score in zip(peaks.directions, peaks.scores, strict=True)
        ]
        chosen = None
        if self.target is not None:
            dwell_s = max(0.0, self.stamp_s - self.target.since_s)
            chosen = {"direction": [*map(_short, self.target.direction)], "dwell_s": round(dwell_s, 3)}
        return {"name": self.name, "stamp_s": self.stamp_s, "targets": targets, "target": chosen}

    def _map_bytes(self) -> tuple[dict[str, Any], bytes]:
        height, width = self.density.shape
        scale = max(float(self.density.max()), 1e-6)
        size = {"height": height, "width": width, "scale": scale}
        return size, saliency_to_mono8(self.density, scale).tobytes()


class Spread(Generic[Kept]):
    """Keeps a few of many things, evenly spread, when their number is not known in advance.

    Args:
        count: at most so many.
    """

    def __init__(self, count: int) -> None:
        self.kept: list[Kept] = []
        self._count = count
        self._stride = 1
        self._seen = 0

    def wants_next(self) -> bool:
        """Whether the next one will be kept, so that it is worth the effort; call it once for each."""
        self._seen += 1
        return (self._seen - 1) % self._stride == 0

    def add(self, one: Kept) -> None:
        """Keep one that is wanted."""
        self.kept.append(one)
        if len(self.kept) > self._count:
            del self.kept[1::2]
            self._stride *= 2


def reduced(picture: Pixels) -> Pixels:
    """A picture (H, W, 3), reduced to `MAX_WIDTH` columns if it has more."""
    height, width = picture.shape[:2]
    if width <= MAX_WIDTH:
        return picture
    size = MAX_WIDTH, max(1, round(height * MAX_WIDTH / width))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _full_colour(quality: int) -> list[int]:
    """JPEG options: colours as fine as brightness at high quality only, because they cost a third of the bytes."""
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444 if quality > 90 else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
    return [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]


def _short(value: float) -> float:
    return round(float(value), 6) if math.isfinite(value) else 0.0


def _shading_rate(density: Density, height: int, width: int, grids: GridSettings) -> tuple[dict[str, Any], bytes]:
    settings = replace(grids.shading_rate, projection="erp")
    height, width = _size(height, width, grids.shading_rate_rows)
    rates = ShadingRate(height, width, settings).update(density)
    return _grid(rates, settings.tile_px, height, width), rates.tobytes()


def _qp_offset(density: Density, height: int, width: int, grids: GridSettings) -> tuple[dict[str, Any], bytes]:
    height, width = _size(height, width, grids.qp_offset_rows)
    offsets = QpOffset(height, width, grids.qp_offset).update(density)
    about = _grid(offsets, grids.qp_offset.block_px, height, width)
    return about, (offsets.astype(np.int16) + 128).astype(np.uint8).tobytes()


def _size(height: int, width: int, rows: int) -> tuple[int, int]:
    """Height and width of a picture of this shape with so many rows."""
    return (rows, round(width * rows / height)) if rows else (height, width)


def _grid(values: Any, tile_px: int, height: int, width: int) -> dict[str, Any]:
    rows, columns = values.shape
    return {"rows": rows, "columns": columns, "tile_px": tile_px, "height": height, "width": width}


_GRIDS = {"shading_rate": _shading_rate, "qp_offset": _qp_offset}
