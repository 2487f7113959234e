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
from sal360.settings import check_choice, check_range
from sal360.sphere import Array

BLOCK_SIZES_PX = (16, 32, 64)
_OPTIMAL_QP_PER_OCTAVE = -3.0


@dataclass(frozen=True)
class QpOffsetSettings:
    """How strongly the map moves the quantiser.

    Raises:
        ParameterError: a value is out of its range.
    """

    block_px: int = 16
    """Side of a block: 16 (H.264 macroblock), 32 or 64 (HEVC, AV1) pixels."""
    strength: float = 0.5
    """Share of the offset that is optimal for this map in theory, 0 to 2; 0: only the projection's own."""
    max_offset: int = 8
    """Bound of the offset either way, 1 to 25 QP."""
    weigh_projection: bool = True
    """Also spend fewer bits where the projection stretches the sphere, towards the poles."""

    def __post_init__(self) -> None:
        check_choice("block_px", self.block_px, BLOCK_SIZES_PX)
        check_range("strength", self.strength, 0, 2)
        check_range("max_offset", self.max_offset, 1, 25)


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
        rows, columns: of equal tiles over the panorama, each at least 1.
    """
    check_range("rows", rows, 1, density.shape[0])
    check_range("columns", columns, 1, density.shape[1])
    grid = _equal_tiles(rows, columns)
    gaze = grid.average(density) * grid.solid_angle_sr / (4 * math.pi)
    weights: Array = gaze / gaze.sum()
    return weights


@lru_cache(maxsize=4)
def _equal_tiles(rows: int, columns: int) -> ErpTiles:
    """The tiles as a panorama of one pixel each, with their tables kept from frame to frame."""
    return ErpTiles(rows, columns, 1)
