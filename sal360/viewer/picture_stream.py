"""How a viewer gets its pictures: as JPEG files, or as a video stream that its browser decodes."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import cv2
import numpy as np

from sal360.arrays import Pixels
from sal360.encoding.codecs import CODECS, Codec, EncoderSettings, is_available
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
            if codec[:4] in ENCODERS and _has_encoder(ENCODERS[codec[:4]].codec):
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
        self._encoder: _Encoder | None = None
        self._is_closed = False
        self._encoding = threading.Lock()

    def encode(self, scene: Scene) -> tuple[dict[str, Any], bytes]:
        """As in `PictureStream`; the bytes are one access unit, or a JPEG file after `close`."""
        with self._encoding:
            if not self._is_closed:
                result = self._encoded(scene)
        if self._is_closed:
            self.close()  # again, because it could not free what was in use
            return JPEG.encode(scene)
        return result

    def close(self) -> None:
        """Free the encoder, at once or when the picture is done that another thread encodes."""
        self._is_closed = True
        if self._encoding.acquire(blocking=False):
            if self._encoder is not None:
                self._encoder = None
                _return_freed_memory()
            self._encoding.release()

    def _encoded(self, scene: Scene) -> tuple[dict[str, Any], bytes]:
        picture = _even(scene.shown())
        height, width = picture.shape[:2]
        if self._encoder is None or self._encoder.size != (height, width):
            self._encoder = _Encoder(ENCODERS[self._codec[:4]], height, width)
        packets = self._encoder.encode(picture, scene)
        about = {
            "type": self._codec,
            "key": any(packet.is_keyframe for packet in packets),
            "width": width,
            "height": height,
        }
        return about, b"".join(bytes(packet) for packet in packets)


class _Encoder:
    """An encoder for pictures of one size."""

    def __init__(self, settings: EncoderSettings, height: int, width: int) -> None:
        import av

        self.size = height, width
        self._offsets: QpOffset | None = None
        self._regions = RegionFrames(height, width, settings.codec, _BLOCK_PX)
        context: Any = av.CodecContext.create(settings.codec.name, "w")
        context.width, context.height, context.pix_fmt = width, height, settings.codec.pixel_format
        context.time_base, context.framerate = Fraction(1, 30), Fraction(30)
        context.gop_size = _KEY_EVERY
        context.thread_count = 1
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = 1, 1, 1, 1  # BT.709
        context.options = settings.options()
        self._context = context
        self._count = 0

    def encode(self, picture: Pixels, scene: Scene) -> list[Any]:
        """The packets of the scene's picture."""
        settings = replace(scene.grids.qp_offset, block_px=_BLOCK_PX)
        if self._offsets is None or self._offsets.settings != settings:
            self._offsets = QpOffset(*self.size, settings)
        frame = self._regions.marked(self._frame(picture), self._offsets.update(scene.density))
        packets: list[Any] = self._context.encode(frame)
        assert packets, "the encoder delays frames"
        return packets

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


def _return_freed_memory() -> None:
    """Give what an encoder has freed, 65 MB for VP9, back to the system; glibc would keep it for the next one."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _has_encoder(codec: Codec) -> bool:
    try:
        return is_available(codec)
    except ImportError:  # of PyAV
        return False
