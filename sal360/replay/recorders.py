"""Recordings of a run for viewing: the overlay video, and a bag with frames and maps for RViz and Foxglove."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from sal360.arrays import Floats, Pixels
from sal360.encoding.codecs import CODECS
from sal360.encoding.video_encoder import COLOURS, converted
from sal360.errors import DataError, FrameError, Sal360Error
from sal360.replay.recording import PlaybackClock, ReplayedFrame
from sal360.sources.bag import COMPRESSED, RAW, header_message, message_types

if TYPE_CHECKING:
    import av

_TIME_BASE = Fraction(1, 90_000)
_CODEC = CODECS["libx264"]
_OPTIONS = {**COLOURS, "crf": "23", "preset": "veryfast"}


class OverlayVideo:
    """An H.264 video in an MP4 file; the `with` block finishes it.

    Raises:
        Sal360Error: this build of PyAV has no H.264 encoder.
    """

    def __init__(self, path: Path) -> None:
        import av  # imported here, so that only a video needs PyAV

        self._container = av.open(str(path), "w", format="mp4")
        self._stream: av.VideoStream | None = None
        self._clock = PlaybackClock()
        self._last_pts = -1

    def write(self, picture_bgr: Pixels, stamp_ns: int) -> None:
        """Append a picture (H, W, 3) uint8 BGR, resized to the first one's size.

        Pauses and jumps of the clock are shortened, see `PlaybackClock`.
        """
        if self._stream is None:
            self._stream = self._start(picture_bgr.shape[0], picture_bgr.shape[1])
        size = self._stream.width, self._stream.height
        if picture_bgr.shape[1::-1] != size:
            picture_bgr = np.asarray(cv2.resize(picture_bgr, size, interpolation=cv2.INTER_AREA), np.uint8)
        frame = converted(picture_bgr, "bgr", _CODEC)
        pts = round(self._clock.time_s(stamp_ns) / _TIME_BASE)
        frame.pts = self._last_pts = max(pts, self._last_pts + 1)
        frame.time_base = _TIME_BASE
        self._container.mux(self._stream.encode(frame))

    def _start(self, height: int, width: int) -> av.VideoStream:
        from av import FFmpegError

        try:
            stream = self._container.add_stream("libx264", rate=30, options=_OPTIONS)
        except (ValueError, FFmpegError):
            raise Sal360Error("PyAV has no H.264 encoder", "install av from PyPI, whose wheels have libx264") from None
        stream.width, stream.height = (2 * max(1, size // 2) for size in (width, height))  # 4:2:0 needs even sizes
        stream.pix_fmt = _CODEC.pixel_format
        stream.time_base = stream.codec_context.time_base = _TIME_BASE
        return stream

    def __enter__(self) -> OverlayVideo:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._stream is not None and kind is None:
            self._container.mux(self._stream.encode(None))
        self._container.close()


_POINT = "geometry_msgs/msg/PointStamped"
MAP_TOPIC, OVERLAY_TOPIC, TARGET_TOPIC = "/saliency", "/saliency/overlay/compressed", "/saliency/target"


class SaliencyBag:
    """A rosbag2 MCAP bag with the frames, maps, overlays and targets; the `with` block finishes it.

    Args:
        path: its folder, which must not exist.
        topic, message_type: topic and type of the frames, which are copied as they were recorded.

    Raises:
        DataError: the frames' topic has the same name as a topic that is written here.
    """

    def __init__(self, path: Path, topic: str, message_type: str) -> None:
        from rosbags.rosbag2 import StoragePlugin, Writer

        if topic in (MAP_TOPIC, OVERLAY_TOPIC, TARGET_TOPIC):
            raise DataError(
                f"the frames are on {topic}, which the bag with the maps uses for its own messages",
                "choose the camera's topic with --topic, or add --no-bag",
            )
        self._store = message_types()
        self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._types = {topic: message_type, MAP_TOPIC: RAW, OVERLAY_TOPIC: COMPRESSED, TARGET_TOPIC: _POINT}
        self._topic = topic
        self._connections = {
            name: self._writer.add_connection(name, kind, typestore=self._store) for name, kind in self._types.items()
        }

    def write(self, replayed: ReplayedFrame, overlay_bgr: Pixels | None, target: Floats | None) -> None:
        """Write a frame, its map as 32FC1, its overlay as JPEG, and the target, with the frame's header and time.

        Args:
            target: unit vector (3,) in the camera's body axes.
        """
        frame, density = replayed.frame, replayed.density
        try:
            data = frame.message.ros2_bytes()
        except FrameError:  # malformed bytes of a ROS 1 bag cannot be converted to ROS 2
            return
        if not data:  # a damaged frame of a video
            return
        when_ns = max(0, frame.message.recorded_ns)  # MCAP has no times before 1970; a sqlite3 bag may
        self._writer.write(self._connections[self._topic], when_ns, data)
        if density is None or overlay_bgr is None:
            return
        header = header_message(frame.stamp_ns, frame.fields.header.frame_id)
        height, width = density.shape
        self._write(
            MAP_TOPIC,
            when_ns,
            header=header,
            height=height,
            width=width,
            encoding="32FC1",
            is_bigendian=0,
            step=4 * width,
            data=np.ascontiguousarray(density, "<f4").view(np.uint8).reshape(-1),  # (h, w) → (4hw,) bytes
        )
        jpeg = cv2.imencode(".jpg", overlay_bgr, (cv2.IMWRITE_JPEG_QUALITY, 85))[1].reshape(-1)
        self._write(OVERLAY_TOPIC, when_ns, header=header, format="jpeg", data=jpeg)
        if target is not None:
            point = self._store.types["geometry_msgs/msg/Point"](*(float(each) for each in target))
            self._write(TARGET_TOPIC, when_ns, header=header, point=point)

    def _write(self, topic: str, when_ns: int, **fields: Any) -> None:
        kind = self._types[topic]
        data = self._store.serialize_cdr(self._store.types[kind](**fields), kind)
        self._writer.write(self._connections[topic], when_ns, data)

    def __enter__(self) -> SaliencyBag:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._writer.close()
