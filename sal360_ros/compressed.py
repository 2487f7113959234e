"""Compressed images as they travel in messages and bags, JPEG and PNG, decoded into arrays: no ROS.

Whatever the bytes are, nothing but `FrameError` leaves this module, and its `reason` is one of `REASONS`.
"""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np

from sal360_ros.errors import FrameError
from sal360_ros.sphere import Array

REASONS = ("empty_data", "unknown_compression", "corrupt_jpeg", "corrupt_png")
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
            "the compressed image has no data", "JPEG or PNG", "check the camera driver", reason="empty_data"
        )
    kind = "jpeg" if content.startswith(_JPEG) else "png" if content.startswith(_PNG) else ""
    if not kind:
        raise FrameError(
            f"the compressed image starts with bytes {content[:4].hex(' ')}",
            "JPEG or PNG",
            "set the camera driver's compressed format to jpeg",
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
            f"a whole picture of at most {MAX_PIXELS} pixels",
            "check the camera driver, or a message cut in transport",
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
