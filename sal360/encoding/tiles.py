"""A ladder of tiles: the picture cut into tiles that are encoded apart, with more bits where people look."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sal360.arrays import Floats
from sal360.encoding.codecs import EncoderSettings
from sal360.encoding.segments import Place
from sal360.errors import ParameterError

_LEAST_SIDE_PX = 32
"""Encoders need some pixels; a tile has at least so many along each side."""
_FLOOR = 0.25
"""No tile gets less than this share of the bits that equal bits for all pixels would give it."""
_QP_PER_HALF = 6.0
"""Constant quality is about a quantiser's step in QP: this many more take about half of the bits."""


def parse_tiles(text: str) -> tuple[int, int]:
    """Rows and columns of a text like "4x8".

    Raises:
        ParameterError: it is not like that, or a number is not from 1 to 32.
    """
    rows, _, columns = text.lower().partition("x")
    if not (rows.isascii() and rows.isdigit() and columns.isascii() and columns.isdigit()):
        raise ParameterError(f"{text!r} is not ROWSxCOLUMNS", "write it like 4x8")
    if not (1 <= int(rows) <= 32 and 1 <= int(columns) <= 32):
        raise ParameterError(f"{text} is out of range", "use at most 32 rows and 32 columns, and at least 1")
    return int(rows), int(columns)


def places(height: int, width: int, rows: int, columns: int) -> list[Place]:
    """The tiles row by row; their edges are even.

    Raises:
        ParameterError: they would be too small.
    """
    y = [2 * round(each * height / rows / 2) for each in range(rows + 1)]
    x = [2 * round(each * width / columns / 2) for each in range(columns + 1)]
    found = [
        Place(x[column], y[row], x[column + 1] - x[column], y[row + 1] - y[row])
        for row in range(rows)
        for column in range(columns)
    ]
    least = min(min(each.width, each.height) for each in found)
    if least < _LEAST_SIDE_PX:
        raise ParameterError(
            f"{rows} x {columns} tiles of a picture of {width} x {height} have sides of {least} pixels",
            f"use fewer tiles, so that sides have at least {_LEAST_SIDE_PX}",
        )
    return found


def bit_shares(gaze: Floats, tiles: list[Place]) -> Floats:
    """The share of bits of each tile, which sum to 1.

    Args:
        gaze: share of gaze of each tile, (rows, columns), as `qp_offset.tile_weights` returns it.
        tiles: the same tiles row by row.
    """
    area = np.array([each.width * each.height for each in tiles], np.float64)
    shares: Floats = np.maximum(gaze.ravel(), _FLOOR * area / area.sum())
    return np.asarray(shares / shares.sum())


def tile_settings(settings: EncoderSettings, share: float, area_share: float, rung: int) -> EncoderSettings:
    """The settings of one tile and rung of the ladder.

    Args:
        settings: of the whole picture. Tiles share its rate; or a tile whose share of bits is larger than its area gets
            a better quality.
        share: of the bits.
        area_share: of the picture.
        rung: 0 is the best; each further one takes half of the bits.
    """
    if settings.bitrate:
        return replace(settings, bitrate=max(1000, round(settings.bitrate * share / 2**rung)))
    best, _, worst = settings.codec.quality
    change = _QP_PER_HALF * (rung - np.log2(share / area_share) / 2)
    return replace(settings, quality=float(np.clip(settings.chosen_quality + change, best, worst)))
