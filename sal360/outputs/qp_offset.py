"""Foveated encoding: a quantiser offset for each block of the frame, and weights for tiled streaming.

At high rate a block's distortion is D ∝ 2^(QP / 3), and a step of QP costs every block the same bits per pixel. The
weighted distortion Σ w·D at a given rate is then least where w·D is the same everywhere: QP = −3·log2(w) + constant.
The weight w of a block is its density of gaze times its solid angle per pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sal360.outputs.tiles import ErpTiles
from sal360.settings import Rule, Settings, setting
from sal360.sphere import Array

_OPTIMAL_QP_PER_OCTAVE = -3.0


@dataclass(frozen=True)
class QpOffsetSettings(Settings):
    """How strongly the map changes the quantiser."""

    block_px: int = setting(
        16, "side of a block: 16 for H.264, 32 for HEVC in NVENC, 64 for AV1", choices=(16, 32, 64), unit="px"
    )
    strength: float = setting(
        0.5, "share of the theoretically optimal offset; 0: only the projection's part", minimum=0, maximum=2
    )
    max_offset: int = setting(8, "maximum offset in either direction", minimum=1, maximum=25, unit="QP")
    weigh_projection: bool = setting(True, "spend fewer bits towards the poles, where the projection stretches")


class QpOffset:
    """Quantiser offsets for frames of one size.

    Args:
        height, width: of the encoded panorama in pixels.
        settings: how they are chosen.
    """

    def __init__(self, height: int, width: int, settings: QpOffsetSettings | None = None) -> None:
        self.settings = settings or QpOffsetSettings()
        self.grid = ErpTiles(height, width, self.settings.block_px)
        self._share = self.grid.solid_angle_sr / self.grid.solid_angle_sr.sum()
        per_pixel = self.grid.solid_angle_sr / self.grid.pixels
        self._projection = (
            _OPTIMAL_QP_PER_OCTAVE * np.log2(per_pixel / per_pixel.max()) if self.settings.weigh_projection else 0.0
        )

    def update(self, density: Array) -> Array:
        """The offsets for one map (h, w): (rows, columns) int8, negative = better.

        They lie within ± `max_offset`, and their mean by solid angle is as near to zero as whole steps allow.
        """
        average = np.maximum(self.grid.average(density), 1e-6)
        wanted = self.settings.strength * _OPTIMAL_QP_PER_OCTAVE * np.log2(average) + self._projection
        return _centred(wanted, self._share, self.settings.max_offset)


def _centred(wanted: Array, share: Array, bound: int) -> Array:
    """Whole numbers within ± bound that follow `wanted` up to one constant, with a mean by `share` nearest to zero."""

    def rounded(constant: float) -> Array:
        offsets: Array = np.clip(np.rint(wanted + constant), -bound, bound)
        return offsets

    # the mean does not fall with the constant, so halving finds its zero
    low, high = -bound - 1 - float(wanted.max()), bound + 1 - float(wanted.min())
    for _ in range(14):
        middle = (low + high) / 2
        if float((rounded(middle) * share).sum()) < 0:
            low = middle
        else:
            high = middle
    return min(rounded(low), rounded(high), key=lambda offsets: abs(float((offsets * share).sum()))).astype(np.int8)


def tile_weights(density: Array, rows: int, columns: int) -> Array:
    """The share of gaze of each tile of a tiled stream: (rows, columns) float64 that sum to 1.

    Args:
        density: the map (h, w).
        rows, columns: of equal tiles over the panorama, at least 1 and at most the map's own.

    Raises:
        ParameterError: rows or columns are out of that range.
    """
    for name, count, maximum in (("rows", rows, density.shape[0]), ("columns", columns, density.shape[1])):
        Rule(minimum=1, maximum=maximum).check(name, count)
    grid = _equal_tiles(rows, columns)
    gaze = grid.average(density) * grid.solid_angle_sr / (4 * math.pi)
    weights: Array = gaze / gaze.sum()
    return weights


@lru_cache(maxsize=4)
def _equal_tiles(rows: int, columns: int) -> ErpTiles:
    """The tiles as a panorama of one pixel each, with their tables kept from frame to frame."""
    return ErpTiles(rows, columns, 1)
