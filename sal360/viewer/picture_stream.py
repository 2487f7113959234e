"""How a viewer gets its pictures: as JPEG files, or as a video stream that its browser decodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import cv2
import numpy as np

from sal360.arrays import Pixels
from sal360.encoding.codecs import CODECS, EncoderSettings
from sal360.encoding.regions import RegionFrames
from sal360.outputs.qp_offset import QpOffset
from sal360.viewer.scene import Scene

_KEY_EVERY = 120
"""Frames between two that can be decoded alone."""
_BLOCK_PX = 64
"""Side of the blocks that get an offset: encoders look through all regions for each of their blocks."""
ENCODERS = {
    "avc1": EncoderSettings(
        CODECS["libx264"], preset="ultrafast", quality=23, extra={"tune": "zerolatency", "profile": "baseline"}
    ),
    "vp09": EncoderSettings(CODECS["libvpx-vp9"], preset="8", quality=33, extra={"row-mt": "1"}),
}
"""Beginning of the codec string of WebCodecs → the encoder, fast enough for a live stream and without delay."""


class PictureStream:
    """Pictures as JPEG files, each on its own: the form that every browser decodes."""

    @staticmethod
    def for_codecs(codecs: Sequence[str]) -> PictureStream:
        """The stream for a browser that decodes these codec strings of WebCodecs, best first; JPEG if none can be."""
        for codec in codecs:
            if codec[:4] in ENCODERS and _has_encoder(ENCODERS[codec[:4]].codec.name):
                return VideoStream(codec)
        return JPEG

    def encode(self, scene: Scene) -> tuple[dict[str, Any], bytes]:
        """What the page must know of the picture, and its bytes. Called in one thread at a time."""
        return {"type": "image/jpeg"}, scene.jpeg()

    def close(self) -> None:
        """Free the encoder."""


JPEG = PictureStream()


class VideoStream(PictureStream):
    """Pictures as one video stream of a viewer's own, so that the frames that it skips are not part of it.

    The map gives the encoder regions of interest, so that bits are spent where people look.

    Args:
        codec: codec string of WebCodecs.
    """

    def __init__(self, codec: str) -> None:
        self._codec = codec
        self._size = (0, 0)
        self._context: Any = None
        self._offsets: QpOffset | None = None
        self._regions: RegionFrames
        self._count = 0

    def encode(self, scene: Scene) -> tuple[dict[str, Any], bytes]:
        """As in `PictureStream`; the bytes are one access unit."""
        picture = _even(scene.shown())
        height, width = picture.shape[:2]
        context = self._opened(height, width)
        settings = replace(scene.grids.qp_offset, block_px=_BLOCK_PX)
        if self._offsets is None or self._offsets.settings != settings:
            self._offsets = QpOffset(height, width, settings)
        offsets = self._offsets.update(scene.density)
        packets = context.encode(self._regions.marked(self._frame(picture), offsets))
        assert packets, "the encoder delays frames"
        about = {
            "type": self._codec,
            "key": any(packet.is_keyframe for packet in packets),
            "width": width,
            "height": height,
        }
        return about, b"".join(bytes(packet) for packet in packets)

    def close(self) -> None:
        """Free the encoder; the next picture would open it again."""
        self._context, self._size = None, (0, 0)

    def _opened(self, height: int, width: int) -> Any:
        import av

        if self._context is not None and self._size == (height, width):
            return self._context
        settings = ENCODERS[self._codec[:4]]
        self._offsets = None
        self._regions = RegionFrames(height, width, settings.codec, _BLOCK_PX)
        context: Any = av.CodecContext.create(settings.codec.name, "w")
        context.width, context.height, context.pix_fmt = width, height, settings.codec.pixel_format
        context.time_base, context.framerate = Fraction(1, 30), Fraction(30)
        context.gop_size = _KEY_EVERY
        context.thread_count = 1
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = 1, 1, 1, 1  # BT.709
        context.options = settings.options()
        self._context, self._size, self._count = context, (height, width), 0
        return context

    def _frame(self, picture: Pixels) -> Any:
        import av

        frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        frame.pts = self._count
        self._count += 1
        return frame


def _even(picture: Pixels) -> Pixels:
    """The picture, by at most one row and column smaller, so that its size is even: 4:2:0 needs that."""
    height, width = (each // 2 * 2 for each in picture.shape[:2])
    if (height, width) == picture.shape[:2]:
        return np.ascontiguousarray(picture)
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _has_encoder(name: str) -> bool:
    try:
        import av
    except ImportError:
        return False
    try:
        av.CodecContext.create(name, "w")
    except (ValueError, av.FFmpegError):  # PyAV: an unknown codec is a ValueError
        return False
    return True
