"""What a person looks at: the overlay of one frame, with its target and, where known, where people did look."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from sal360_ros.outputs.overlay import draw_overlay
from sal360_ros.replay.answers import Answer
from sal360_ros.replay.rows import FrameRow
from sal360_ros.sphere import Array, vector_to_pixel

MAX_WIDTH = 1280
_TARGET_BGR, _FIXATION_BGR = (255, 255, 255), (80, 255, 80)


def overlay_of(answer: Answer, row: FrameRow, fixations: Array | None) -> Array:
    """The map over the frame, (h, w, 3) uint8 BGR at most `MAX_WIDTH` wide, also of a frame without a map.

    A white ring is the gaze target, green crosses are the fixations (n, 3) of the ground truth.
    """
    assert answer.picture is not None
    image, channels = answer.picture
    width = min(MAX_WIDTH, image.shape[1])
    height = round(image.shape[0] * width / image.shape[1])
    picture = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    if channels == "rgb":
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    if answer.density is not None:
        picture = draw_overlay(picture, answer.density)
    size = max(4, width // 100)
    if fixations is not None:
        for at in _pixels(*vector_to_pixel(fixations, height, width)):
            cv2.drawMarker(picture, at, _FIXATION_BGR, cv2.MARKER_TILTED_CROSS, size, max(1, size // 5), cv2.LINE_AA)
    if row.target is not None:
        for at in _pixels(*vector_to_pixel(row.target, height, width)):
            cv2.circle(picture, at, 2 * size, _TARGET_BGR, max(1, size // 4), cv2.LINE_AA)
    return picture


def _pixels(u: Array, v: Array) -> Iterable[tuple[int, int]]:
    return ((round(float(x)), round(float(y))) for x, y in zip(np.ravel(u), np.ravel(v), strict=True))
