"""Maps that travel as sensor_msgs/Image: ground truth in bags, and the node's answers."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sal360.errors import DataError, FrameError
from sal360.sphere import Array

RAW_REASONS = ("unknown_encoding", "zero_size", "empty_data", "bad_step", "short_data", "bad_size")


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
            "set the camera driver to rgb8 or bgr8",
            expected="one of " + ", ".join(RAW_ENCODINGS),
            reason="unknown_encoding",
        )
    if height < 1 or width < 1:
        raise FrameError(
            f"the image is {width} x {height}",
            "check the camera driver",
            expected="at least one pixel",
            reason="zero_size",
        )
    stored = memoryview(data).nbytes
    if stored == 0:
        raise FrameError(
            "the image has no data", "check the camera driver", expected=f"{height} rows", reason="empty_data"
        )
    pixel_bytes = layout.channels * layout.sample_bytes
    if step < width * pixel_bytes:
        raise FrameError(
            f"step is {step} bytes for {width} pixels of {encoding}",
            "set step to the bytes of one row, padding included",
            expected=f"at least {width * pixel_bytes}",
            reason="bad_step",
        )
    more, of = layout.rows
    if layout.even and (width % 2 or height % of):
        raise FrameError(
            f"the image is {width} x {height} in {encoding}",
            "crop it, or set the camera driver to rgb8",
            expected="even sizes, because chroma is shared by neighbours",
            reason="bad_size",
        )
    rows = height * more // of
    if stored < step * rows:
        raise FrameError(
            f"the image has {stored} bytes",
            "check the camera driver or a truncated recording",
            expected=f"{rows} rows of {step}: {step * rows}",
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
            "set the camera driver to rgb8",
            expected="an image large enough for its colour pattern",
            reason="bad_size",
        ) from None
    return converted


COMPRESSED_REASONS = ("empty_data", "unknown_compression", "corrupt_jpeg", "corrupt_png")
MAX_PIXELS = 2**28
"""Of a picture: 23170 x 11585, while a few bytes may claim 65535 x 65535."""
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_LAST_MARK = {"jpeg": b"\xff\xd9", "png": b"IEND"}


def decode_compressed(data: Any, *, min_height: int = 0) -> tuple[Array, str]:
    """The picture of a sensor_msgs/CompressedImage: JPEG or PNG, told by the bytes and not by `format`.

    Args:
        data: any buffer of bytes.
        min_height: rows that the reader needs. A JPEG that has at least twice, four or eight times as many is decoded
            at ½, ¼ or ⅛ of its size, which takes a third of the time. 0 decodes all of it.

    Returns:
        The image, (H, W, 3) uint8, contiguous, and its channel order, "bgr".

    Raises:
        FrameError: with a reason of `REASONS`.
    """
    content = bytes(memoryview(data))
    if not content:
        raise FrameError(
            "the compressed image has no data", "check the camera driver", expected="JPEG or PNG", reason="empty_data"
        )
    kind = "jpeg" if content.startswith(_JPEG) else "png" if content.startswith(_PNG) else ""
    if not kind:
        raise FrameError(
            f"the compressed image starts with bytes {content[:4].hex(' ')}",
            "set the camera driver's compressed format to jpeg",
            expected="JPEG or PNG",
            reason="unknown_compression",
        )
    height, width = compressed_size(content)
    # older OpenCV fills what a cut picture lacks with grey and says nothing; the last mark tells
    whole = 0 < height * width <= MAX_PIXELS and _LAST_MARK[kind] in content[-4096:]
    image = (
        _imdecode(content, _reduction(height, min_height) if kind == "jpeg" else cv2.IMREAD_COLOR) if whole else None
    )
    if image is None:
        raise FrameError(
            f"a {kind.upper()} of {len(content)} bytes cannot be decoded",
            "check the camera driver, or a message cut in transport",
            expected=f"a whole picture of at most {MAX_PIXELS} pixels",
            reason=f"corrupt_{kind}",
        )
    return image, "bgr"


def compressed_size(content: bytes) -> tuple[int, int]:
    """Height and width that the header of a JPEG or PNG gives; (0, 0) where it gives none."""
    if content.startswith(_JPEG):
        return _jpeg_size(content)
    return _png_size(content) if content.startswith(_PNG) else (0, 0)


def _imdecode(content: bytes, flags: int) -> Array | None:
    try:
        image: Array | None = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        return None
    return image


def _reduction(height: int, min_height: int) -> int:
    reduced = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
    fits = (flag for factor, flag in reduced.items() if min_height > 0 and height >= factor * min_height)
    return next(fits, cv2.IMREAD_COLOR)


def _jpeg_size(content: bytes) -> tuple[int, int]:
    """Height and width that the frame header gives (ITU-T T.81, B.2.2); (0, 0) where there is none."""
    position = 2  # behind the start-of-image marker
    while position + 9 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", content, position + 5)
            return height, width
        # a marker may be preceded by any number of fill bytes (B.1.1.2)
        position += 1 if marker == 0xFF else 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return 0, 0


def _png_size(content: bytes) -> tuple[int, int]:
    """Height and width of the IHDR chunk, which always comes first; (0, 0) where it is cut off."""
    if len(content) < 24 or content[12:16] != b"IHDR":
        return 0, 0
    width, height = struct.unpack_from(">II", content, 16)
    return height, width


def read_picture(path: Path) -> Array:
    """The picture of a file, (H, W, 3) uint8 BGR.

    Raises:
        FrameError: it cannot be decoded (reason "unreadable_picture").
    """
    try:
        image: Array | None = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise FrameError(
            f"{path} cannot be decoded", "remove or replace it", expected="a whole picture", reason="unreadable_picture"
        )
    return image


_DTYPES: dict[str, np.dtype[Any]] = {
    "32FC1": np.dtype(np.float32),
    "64FC1": np.dtype(np.float64),
    "mono8": np.dtype(np.uint8),
    "8UC1": np.dtype(np.uint8),
    "mono16": np.dtype(np.uint16),
    "16UC1": np.dtype(np.uint16),
}


def read_map(message: Any) -> Array:
    """The map (h, w) float32 of a one-channel Image, in the numbers that it holds.

    Args:
        message: a sensor_msgs/Image of rclpy or of a bag.

    Raises:
        DataError: another encoding, or the sizes do not fit the data.
    """
    dtype = _DTYPES.get(message.encoding)
    if dtype is None:
        raise DataError(
            f"a map of encoding {message.encoding!r}",
            "record it as 32FC1 or mono8",
            expected="one of " + ", ".join(_DTYPES),
        )
    dtype = dtype.newbyteorder(">" if message.is_bigendian else "<")
    height, width, step = message.height, message.width, message.step
    stored = memoryview(message.data).nbytes
    if height < 1 or width < 1 or step < width * dtype.itemsize or stored < step * height:
        raise DataError(
            f"a map of {width} x {height} {message.encoding} with {stored} bytes in rows of {step}",
            "record it again",
            expected=f"rows of at least {width * dtype.itemsize} bytes",
        )
    values: Array = np.ndarray(
        (height, width), dtype, np.frombuffer(message.data, np.uint8), strides=(step, dtype.itemsize)
    )
    return values.astype(np.float32)
