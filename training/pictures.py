"""Pictures that a run writes: the views that it learns from, and predictions beside ground truth.

`write_views` is for pretraining, `write_predictions` for decoders.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sal360.arrays import Pixels, Reals
from sal360.images import write_picture
from sal360.projection import remap_sphere

_GAP_PX = 4
_TITLE_PX = 18
_HEIGHT_PX = 200
_FULL_SCALE = 6.0
"""Density, relative to the mean of a map, that is drawn in the brightest colour."""


def draw_views(pairs: Sequence[tuple[NDArray[Any], ...]]) -> Pixels:
    """One row per panorama: x, x_t and, with correspondences, x looked up at the positions of the pixels of x_t.

    The third column shows x_t before its colours changed, so an error in the correspondence is easy to see.

    Args:
        pairs: the results of `ViewPair` for each panorama: (3, h, w) uint8 twice, and (2, h, w) float32 if requested.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    rows = []
    for view, turned, *rest in pairs:
        cells = [view.transpose(1, 2, 0), turned.transpose(1, 2, 0)]  # (h, w, 3) each
        if rest:
            column, row = rest[0] + 1  # + 1: the border of the lookup
            cells.append(remap_sphere(np.ascontiguousarray(cells[0]), (column, row)))
        rows.append(np.hstack([_framed(cell) for cell in cells]))
    grid = np.vstack(rows)
    titles = np.full((_TITLE_PX, grid.shape[1], 3), 255, np.uint8)
    for i, text in enumerate(("view x", "turned view x_t", "x at the places of x_t")[: len(cells)]):
        left = i * grid.shape[1] // len(cells) + _GAP_PX
        cv2.putText(titles, text, (left, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([titles, grid])


def write_views(path: str | os.PathLike[str], pairs: Sequence[tuple[NDArray[Any], ...]]) -> None:
    """Write `draw_views` to a picture file.

    Raises:
        OSError: the file cannot be written.
    """
    write_picture(path, np.asarray(cv2.cvtColor(draw_views(pairs), cv2.COLOR_RGB2BGR), np.uint8))


def _framed(cell: Pixels) -> Pixels:
    gaps = (_GAP_PX, _GAP_PX, _GAP_PX, _GAP_PX)
    return np.asarray(cv2.copyMakeBorder(cell, *gaps, cv2.BORDER_CONSTANT, value=(255, 255, 255)), np.uint8)


def write_predictions(path: str | Path, rows: Sequence[tuple[Pixels, Reals, Reals]]) -> None:
    """Write a PNG with one row per panorama: the frame, the gaze over it and the prediction over it.

    Args:
        path: the PNG file.
        rows: (frame (H, W, 3) uint8 RGB, gaze (h, w), prediction (h, w)); maps of any scale.
    """
    pictures = [np.hstack([_frame(frame), _heat(frame, gaze), _heat(frame, map_)]) for frame, gaze, map_ in rows]
    write_picture(path, np.vstack(pictures))


def _frame(frame: Pixels) -> Pixels:
    """The frame at (200, 400, 3), BGR."""
    small = cv2.resize(frame, (2 * _HEIGHT_PX, _HEIGHT_PX), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2BGR), np.uint8)


def _heat(frame: Pixels, map_: Reals) -> Pixels:
    """The map as a heat map over the frame, (200, 400, 3) BGR."""
    level = np.clip(map_ / (map_.mean() * _FULL_SCALE + 1e-12), 0, 1).astype(np.float32)
    level = cv2.resize(level, (2 * _HEIGHT_PX, _HEIGHT_PX), interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap((255 * level).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return np.asarray(cv2.addWeighted(_frame(frame), 0.4, colours, 0.8, 0), np.uint8)
