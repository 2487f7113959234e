"""The overlays of a run as an H.264 video with the times of the recording, which browsers play."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import cv2
import numpy as np

from sal360_ros.errors import Sal360Error
from sal360_ros.sphere import Array

if TYPE_CHECKING:
    import av

_TIME_BASE = Fraction(1, 90_000)


class OverlayVideo:
    """A video that is being written; the `with` block finishes it.

    Args:
        path: of the MP4 file.

    Raises:
        Sal360Error: this PyAV has no H.264 encoder.
    """

    def __init__(self, path: Path) -> None:
        import av  # here, so that a missing PyAV is one line, and none where no video is wanted

        self._container = av.open(str(path), "w", format="mp4")
        self._stream: av.VideoStream | None = None
        self._first_ns = 0
        self._last_pts = -1

    def write(self, picture_bgr: Array, stamp_ns: int) -> None:
        """Append a picture (H, W, 3) uint8 BGR at the first one's size; a time that goes back is put after the last."""
        from av import VideoFrame

        if self._stream is None:
            self._stream = self._start(picture_bgr.shape[0], picture_bgr.shape[1])
            self._first_ns = stamp_ns
        size = self._stream.width, self._stream.height
        if picture_bgr.shape[1::-1] != size:
            picture_bgr = cv2.resize(picture_bgr, size, interpolation=cv2.INTER_AREA)
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture_bgr), format="bgr24")
        pts = round((stamp_ns - self._first_ns) / 1e9 / _TIME_BASE)
        frame.pts = self._last_pts = max(pts, self._last_pts + 1)
        frame.time_base = _TIME_BASE
        self._container.mux(self._stream.encode(frame))

    def _start(self, height: int, width: int) -> av.VideoStream:
        from av import FFmpegError

        try:
            stream = self._container.add_stream("libx264", rate=30, options={"crf": "23", "preset": "veryfast"})
        except (ValueError, FFmpegError):
            raise Sal360Error(
                "PyAV has no H.264 encoder", "a build with libx264", "pip install av, or say --no-video"
            ) from None
        stream.width, stream.height = (2 * max(1, size // 2) for size in (width, height))  # 4:2:0 wants even sizes
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = _TIME_BASE
        return stream

    def __enter__(self) -> OverlayVideo:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._stream is not None and kind is None:
            self._container.mux(self._stream.encode(None))
        self._container.close()
