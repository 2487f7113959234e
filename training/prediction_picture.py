"""A picture of predictions beside ground truth, to see what a number hides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from sal360_ros.files import written_beside
from sal360_ros.sphere import Array

_HEIGHT_PX = 200
_FULL_SCALE = 6.0
"""Density, relative to the mean of a map, that is drawn white."""


def write_predictions(path: str | Path, rows: Sequence[tuple[Array, Array, Array]]) -> None:
    """Write a PNG: one row a panorama, with the frame, the gaze over it and the prediction over it.

    Args:
        path: the PNG file.
        rows: (frame (H, W, 3) uint8 RGB, gaze (h, w), prediction (h, w)); maps of any scale.
    """
    pictures = [np.hstack([_frame(frame), _heat(frame, gaze), _heat(frame, map_)]) for frame, gaze, map_ in rows]
    with written_beside(path) as temporary:
        cv2.imwrite(str(temporary), np.vstack(pictures))


def _frame(frame: Array) -> Array:
    """(200, 400, 3) uint8 BGR."""
    small = cv2.resize(frame, (2 * _HEIGHT_PX, _HEIGHT_PX), interpolation=cv2.INTER_AREA)
    bgr: Array = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    return bgr


def _heat(frame: Array, map_: Array) -> Array:
    level = np.clip(map_ / (map_.mean() * _FULL_SCALE + 1e-12), 0, 1).astype(np.float32)
    level = cv2.resize(level, (2 * _HEIGHT_PX, _HEIGHT_PX), interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap((255 * level).astype(np.uint8), cv2.COLORMAP_INFERNO)
    heat: Array = cv2.addWeighted(_frame(frame), 0.4, colours, 0.8, 0)
    return heat
