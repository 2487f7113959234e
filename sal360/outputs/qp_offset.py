"""Foveated encoding: quantiser offsets for the blocks of a frame, and weights for tiled streaming.

At high rates a block's distortion D is proportional to 2^(QP / 3), and one QP step changes the bits per pixel of every
block by the same amount. At a given rate, the weighted distortion Σ w·D is then minimal where w·D is the same
everywhere: QP = −3·log2(w) + constant. The weight w of a block is its gaze density times its solid angle per pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sal360.arrays import Density, Floats
from sal360.outputs.layout import EQUIRECTANGULAR, Layout
from sal360.settings import Rule, Settings, setting

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
        height, width: size of the encoded picture in pixels.
        settings: how the offsets are chosen.
        layout: of the encoded picture.
    """

    def __init__(
        self,
        height: int,
        width: int,
        settings: QpOffsetSettings | None = None,
        layout: Layout = EQUIRECTANGULAR,
    ) -> None:
        self.settings = settings or QpOffsetSettings()
        self.grid = layout.tiles(height, width, self.settings.block_px)
        self._is_empty = self.grid.picture_pixels == 0
        self._share = self.grid.solid_angle_sr / self.grid.solid_angle_sr.sum()
        per_pixel = np.zeros(self.grid.shape)
        np.divide(self.grid.solid_angle_sr, self.grid.picture_pixels, out=per_pixel, where=~self._is_empty)
        per_pixel[self._is_empty] = per_pixel.max()
        self._projection = (
            _OPTIMAL_QP_PER_OCTAVE * np.log2(per_pixel / per_pixel.max()) if self.settings.weigh_projection else 0.0
        )

    def update(self, density: Density) -> NDArray[np.int8]:
        """The offsets for one map (h, w): (rows, columns) int8; negative means better quality.

        They lie within ± `max_offset`, and their mean by solid angle is as near to zero as integers allow. Blocks that
        show nothing get `max_offset`.
        """
        average = np.maximum(self.grid.average(density), 1e-6)
        wanted = self.settings.strength * _OPTIMAL_QP_PER_OCTAVE * np.log2(average) + self._projection
        offsets = _centred(wanted, self._share, self.settings.max_offset)
        offsets[self._is_empty] = self.settings.max_offset
        return offsets


def _centred(wanted: Floats, share: Floats, bound: int) -> NDArray[np.int8]:
    """Integers within ± bound that equal `wanted` plus a constant, with the mean, weighted by `share`, nearest to 0."""

    def rounded(constant: float) -> Floats:
        offsets: Floats = np.clip(np.rint(wanted + constant), -bound, bound)
        return offsets

    # the mean never decreases with the constant, so bisection finds its zero
    low, high = -bound - 1 - float(wanted.max()), bound + 1 - float(wanted.min())
    for _ in range(14):
        middle = (low + high) / 2
        if float((rounded(middle) * share).sum()) < 0:
            low = middle
        else:
            high = middle
    return min(rounded(low), rounded(high), key=lambda offsets: abs(float((offsets * share).sum()))).astype(np.int8)


def tile_weights(density: Density, rows: int, columns: int, layout: Layout = EQUIRECTANGULAR) -> Floats:
    """The share of gaze in each tile of a tiled stream: (rows, columns) float64 with the sum 1.

    Args:
        density: the map (h, w).
        rows, columns: number of equal tiles, from 1 to the map's own rows and columns.
        layout: of the streamed picture.

    Raises:
        ParameterError: rows or columns are out of that range.
    """
    for name, count, maximum in (("rows", rows, density.shape[0]), ("columns", columns, density.shape[1])):
        Rule(minimum=1, maximum=maximum).check(name, count)
    grid = layout.equal_tiles(rows, columns)
    gaze = grid.average(density) * grid.solid_angle_sr / (4 * math.pi)
    weights: Floats = gaze / gaze.sum()
    return weights
