"""The frame type that every source returns, and functions on streams of frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from sal360.arrays import Pixels
from sal360.errors import FrameError

BadFrame = Callable[[FrameError, str], None]
"""Called with the error and the frame's name for each frame that cannot be decoded; the source then continues."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a stream."""

    image: Pixels
    """(H, W, 3) uint8; may be a read-only or strided view."""
    channels: str
    """Order of the last axis, "rgb" or "bgr"."""
    stamp_s: float
    """Seconds since the Unix epoch in bags and live streams, since the first frame elsewhere."""
    name: str
    """File-name stem, unique within the source."""


def scaled_to(frame: Frame, height_px: int) -> Frame:
    """The frame resized to `height_px` rows with the same aspect ratio; 0: unchanged."""
    height, width = frame.image.shape[:2]
    if height_px in (0, height):
        return frame
    size = max(1, round(width * height_px / height)), height_px
    interpolation = cv2.INTER_AREA if height_px < height else cv2.INTER_LINEAR
    resized = np.asarray(cv2.resize(frame.image, size, interpolation=interpolation), np.uint8)
    return replace(frame, image=resized)


def repeated(once: Callable[[], Iterator[Frame]]) -> Iterator[Frame]:
    """The stream in an endless loop with increasing stamps; each pass starts one frame interval after the last."""
    offset_s = 0.0
    while True:
        first_s = last_s = None
        interval_s = 1 / 30  # for a stream of one frame
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
