"""A picture of a batch of views, so that a person sees what is being learnt (supplementary, Figure 7)."""

from __future__ import annotations

import os
from collections.abc import Sequence

import cv2
import numpy as np

from sal360_ros.files import written_beside
from sal360_ros.projection import remap_sphere
from sal360_ros.sphere import Array

_GAP_PX = 4
_TITLE_PX = 18


def draw_views(pairs: Sequence[tuple[Array, ...]]) -> Array:
    """One row a panorama: x, x_t and, with correspondences, x looked up at the places of the pixels of x_t.

    The third column shows x_t before its colours changed, so an error of the correspondence would be seen at once.

    Args:
        pairs: what `ViewPair` returns, (3, h, w) uint8 twice and perhaps (2, h, w) float32, for each panorama.

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


def write_views(path: str | os.PathLike[str], pairs: Sequence[tuple[Array, ...]]) -> None:
    """Write `draw_views` to a picture file.

    Raises:
        OSError: the file cannot be written.
    """
    with written_beside(path) as temporary:
        cv2.imwrite(str(temporary), cv2.cvtColor(draw_views(pairs), cv2.COLOR_RGB2BGR))


def _framed(cell: Array) -> Array:
    framed: Array = cv2.copyMakeBorder(
        cell, _GAP_PX, _GAP_PX, _GAP_PX, _GAP_PX, cv2.BORDER_CONSTANT, value=(255, 255, 255)
    )
    return framed
