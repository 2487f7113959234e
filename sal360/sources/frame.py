"""Frame: what every source gives, and what can be done to a stream of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import cv2

from sal360.errors import FrameError
from sal360.sphere import Array

BadFrame = Callable[[FrameError, str], None]
"""Told of each frame that cannot be decoded, with its name; the source then goes on."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a stream.

    Args:
        image: (H, W, 3) uint8; it may be a read-only or strided view.
        channels: order of the last axis, "rgb" or "bgr".
        stamp_s: seconds; of a bag since the Unix epoch, else since the first frame.
        name: file-name stem that is its own within the source.
    """

    image: Array
    channels: str
    stamp_s: float
    name: str


def scaled_to(frame: Frame, height_px: int) -> Frame:
    """The frame at that many rows, its aspect kept; 0 leaves it as it is."""
    height, width = frame.image.shape[:2]
    if height_px in (0, height):
        return frame
    size = max(1, round(width * height_px / height)), height_px
    interpolation = cv2.INTER_AREA if height_px < height else cv2.INTER_LINEAR
    return replace(frame, image=cv2.resize(frame.image, size, interpolation=interpolation))


def repeated(once: Callable[[], Iterator[Frame]]) -> Iterator[Frame]:
    """The stream over and over; stamps go on rising, a repetition following the last frame by the last interval."""
    offset_s = 0.0
    while True:
        first_s = last_s = None
        interval_s = 1 / 30  # of a stream that is a single frame
        for frame in once():
            if last_s is None:
                first_s = frame.stamp_s
            elif frame.stamp_s > last_s:
                interval_s = frame.stamp_s - last_s
            last_s = frame.stamp_s
            yield replace(frame, stamp_s=frame.stamp_s + offset_s)
        if first_s is None or last_s is None:
            return
        offset_s += last_s - first_s + interval_s
