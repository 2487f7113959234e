"""Raw images as they travel in messages and bags, decoded into arrays: no ROS.

Encodings have the names of sensor_msgs/image_encodings.hpp (ROS 2 Jazzy). Whatever the bytes are, nothing but
`FrameError` leaves this module, and its `reason` is one of `REASONS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from sal360_ros.errors import FrameError
from sal360_ros.sphere import Array

REASONS = ("unknown_encoding", "zero_size", "empty_data", "bad_step", "short_data", "bad_size")


@dataclass(frozen=True)
class _Layout:
    """How the bytes of one raw encoding lie."""

    channels: int
    """Samples of one pixel."""
    sample_bytes: int = 1
    """Bytes of one sample."""
    order: str = "rgb"
    """Channel order of the decoded image."""
    conversion: int | None = None
    """The cv2.cvtColor code that gives three channels, where a view cannot."""
    rows: tuple[int, int] = (1, 1)
    """Rows of bytes for each row of pixels, as a fraction: 3/2 where half-height chroma follows."""
    even: bool = False
    """Whether chroma is shared by two columns (and, with `rows`, two rows)."""


_LAYOUTS: dict[str, _Layout] = {
    "rgb8": _Layout(3),
    "bgr8": _Layout(3, order="bgr"),
    "8UC3": _Layout(3, order="bgr"),  # names no colours: those of OpenCV, which wrote most of them
    "mono8": _Layout(1),
    "8UC1": _Layout(1),
    "rgba8": _Layout(4, conversion=cv2.COLOR_RGBA2RGB),
    "bgra8": _Layout(4, conversion=cv2.COLOR_BGRA2RGB),
    "rgb16": _Layout(3, sample_bytes=2),
    "bgr16": _Layout(3, sample_bytes=2, order="bgr"),
    "mono16": _Layout(1, sample_bytes=2),
    "rgba16": _Layout(4, sample_bytes=2, conversion=cv2.COLOR_RGBA2RGB),
    "bgra16": _Layout(4, sample_bytes=2, conversion=cv2.COLOR_BGRA2RGB),
    "uyvy": _Layout(2, conversion=cv2.COLOR_YUV2RGB_UYVY, even=True),
    "yuv422": _Layout(2, conversion=cv2.COLOR_YUV2RGB_UYVY, even=True),  # deprecated name of uyvy
    "yuyv": _Layout(2, conversion=cv2.COLOR_YUV2RGB_YUY2, even=True),
    "yuv422_yuy2": _Layout(2, conversion=cv2.COLOR_YUV2RGB_YUY2, even=True),  # deprecated name of yuyv
    "nv12": _Layout(1, conversion=cv2.COLOR_YUV2RGB_NV12, rows=(3, 2), even=True),
    "nv21": _Layout(1, conversion=cv2.COLOR_YUV2RGB_NV21, rows=(3, 2), even=True),
}
for _pattern in ("rggb", "bggr", "gbrg", "grbg"):
    _code = getattr(cv2, f"COLOR_Bayer{_pattern.upper()}2RGB")
    _LAYOUTS[f"bayer_{_pattern}8"] = _Layout(1, conversion=_code)
    _LAYOUTS[f"bayer_{_pattern}16"] = _Layout(1, sample_bytes=2, conversion=_code)

RAW_ENCODINGS = tuple(sorted(_LAYOUTS))


def decode_image(
    encoding: str, height: int, width: int, step: int, data: Any, is_bigendian: bool = False
) -> tuple[Array, str]:
    """The picture of a sensor_msgs/Image.

    rgb8, bgr8 and mono8 are views of `data` (mono8 with its one channel shown three times, stride 0), which must
    therefore live as long as the image. Of 16-bit samples the upper byte is taken.

    Args:
        encoding, height, width, step, is_bigendian: as in the message; `step` is bytes of one row with its padding.
        data: any buffer of bytes.

    Returns:
        The image, (height, width, 3) uint8, not always writeable or contiguous, and its channel order, "rgb" or "bgr".

    Raises:
        FrameError: with a reason of `REASONS`.
    """
    layout = _LAYOUTS.get(encoding)
    if layout is None:
        raise FrameError(
            f"the encoding is {encoding[:40]!r}",
            "one of " + ", ".join(RAW_ENCODINGS),
            "set the camera driver to rgb8 or bgr8",
            reason="unknown_encoding",
        )
    if height < 1 or width < 1:
        raise FrameError(
            f"the image is {width} x {height}", "at least one pixel", "check the camera driver", reason="zero_size"
        )
    stored = memoryview(data).nbytes
    if stored == 0:
        raise FrameError("the image has no data", f"{height} rows", "check the camera driver", reason="empty_data")
    pixel_bytes = layout.channels * layout.sample_bytes
    if step < width * pixel_bytes:
        raise FrameError(
            f"step is {step} bytes for {width} pixels of {encoding}",
            f"at least {width * pixel_bytes}",
            "set step to the bytes of one row, padding included",
            reason="bad_step",
        )
    more, of = layout.rows
    if layout.even and (width % 2 or height % of):
        raise FrameError(
            f"the image is {width} x {height} in {encoding}",
            "even sizes, because chroma is shared by neighbours",
            "crop it, or set the camera driver to rgb8",
            reason="bad_size",
        )
    rows = height * more // of
    if stored < step * rows:
        raise FrameError(
            f"the image has {stored} bytes",
            f"{rows} rows of {step}: {step * rows}",
            "check the camera driver or a truncated recording",
            reason="short_data",
        )
    upper_byte = layout.sample_bytes - 1 if not is_bigendian else 0
    samples: Array = np.ndarray(
        (rows, width, layout.channels),
        np.uint8,
        np.frombuffer(data, np.uint8),
        offset=upper_byte,
        strides=(step, pixel_bytes, layout.sample_bytes),
    )
    if layout.conversion is not None:
        return _convert(samples, layout.conversion, encoding), layout.order
    if layout.channels == 1:
        samples = np.broadcast_to(samples, (height, width, 3))
    return samples, layout.order


def _convert(samples: Array, code: int, encoding: str) -> Array:
    try:
        # cv2 tells one channel from several by the number of axes
        converted: Array = cv2.cvtColor(samples[..., 0] if samples.shape[2] == 1 else samples, code)
    except cv2.error:
        height, width = samples.shape[:2]
        raise FrameError(
            f"{width} x {height} of {encoding} cannot be converted",
            "an image large enough for its colour pattern",
            "set the camera driver to rgb8",
            reason="bad_size",
        ) from None
    return converted
