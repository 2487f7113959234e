"""Video files as frames, with the timestamps of the container."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from sal360.errors import DataError
from sal360.sources.frame import Frame

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts")


def check_video(path: Path) -> None:
    """Open the video and close it again.

    Raises:
        DataError: it cannot be opened.
    """
    _open(path).release()


def video_frames(path: Path) -> Iterator[Frame]:
    """Every frame of the video.

    Raises:
        DataError: the video cannot be opened; or, after its last frame, it is a second shorter than its header says.
    """
    capture = _open(path)
    try:
        said = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        rate_hz = capture.get(cv2.CAP_PROP_FPS) or 30.0
        index = 0
        while True:
            read, image = capture.read()
            if not read:
                break
            yield Frame(
                np.asarray(image, np.uint8),
                "bgr",
                capture.get(cv2.CAP_PROP_POS_MSEC) / 1000,
                f"{path.stem}_{index:06d}",
            )
            index += 1
    finally:
        capture.release()
    # some containers only estimate their frame count: a difference below a second means nothing
    if said - index > rate_hz:
        raise DataError(f"{path} ends after {index} of {said:.0f} frames", "copy or record it again")


def _open(path: Path) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise DataError(f"{path} cannot be opened as a video", "convert it to MP4 (H.264)")
    return capture
