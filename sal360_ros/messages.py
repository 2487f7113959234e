"""Conversion between image messages and arrays."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from sal360.arrays import Pixels
from sal360.errors import FrameError
from sal360.images import MAX_PIXELS, decode_message, message_size

_DTYPES = {"mono8": np.uint8, "8SC1": np.int8, "32FC1": np.float32, "rgb8": np.uint8, "bgr8": np.uint8}


def decode_frame(
    message: Image | CompressedImage, min_height: int = 0, max_pixels: int = MAX_PIXELS
) -> tuple[Pixels, str]:
    """The picture in a message, (H, W, 3) uint8, and its channel order, "rgb" or "bgr".

    For rgb8, bgr8 and mono8 the array is a view of the message's data, which stays alive as long as the array.

    Args:
        min_height: minimum number of rows that the caller needs; a much larger JPEG is decoded at a fraction of its
        size. max_pixels: larger pictures are refused before they are decoded.

    Raises:
        FrameError: the message is malformed, or its picture too large.
    """
    return decode_message(message, min_height=min_height, max_pixels=max_pixels)


def frame_size(message: Image | CompressedImage) -> tuple[int, int]:
    """Rows and columns of the picture in a message that `decode_frame` accepts, before any reduction."""
    return message_size(message)


def image_message(pixels: NDArray[Any], encoding: str, header: Header) -> Image:
    """An Image message of an array (H, W) or (H, W, 3).

    Args:
        encoding: mono8, 8SC1, 32FC1, rgb8 or bgr8.

    Raises:
        ValueError: the array's dtype does not match the encoding.
    """
    if pixels.dtype != _DTYPES[encoding]:
        raise ValueError(f"{pixels.dtype} is not {encoding}")
    height, width = pixels.shape[:2]
    message = Image(header=header, height=height, width=width, encoding=encoding)
    message.is_bigendian = sys.byteorder == "big"
    message.step = width * pixels.itemsize * (pixels.shape[2] if pixels.ndim == 3 else 1)
    # assigning an array to `data` would iterate over its elements in Python
    message.data.frombytes(np.ascontiguousarray(pixels).reshape(-1).view(np.uint8).data)
    return message


def picture_message(picture_bgr: Pixels, header: Header) -> Image:
    """A bgr8 Image message of a picture (H, W, 3) uint8, converted by cv_bridge if it is installed.

    Raises:
        FrameError: cv_bridge is installed but fails; often it was built for another numpy version.
    """
    if importlib.util.find_spec("cv_bridge") is None:  # as on Python 3.14: no numpy there works with the wheel
        return image_message(picture_bgr, "bgr8", header)
    try:
        message = _bridge().cv2_to_imgmsg(picture_bgr, "bgr8")
    except Exception as error:  # an extension built for another numpy may raise anything
        raise FrameError(
            f"cv_bridge failed ({type(error).__name__}: {error})",
            "install the cv_bridge of your ROS distribution, or numpy below 2.3 for cv-bridge from PyPI",
            expected="a cv_bridge that matches the installed numpy",
            reason="cv_bridge",
        ) from None
    message.header = header
    return message


def _bridge() -> Any:
    from cv_bridge import CvBridge  # not at the top: a broken cv_bridge must not stop the maps

    return CvBridge()


def stamp_nanoseconds(header: Header) -> int:
    """The header's stamp in nanoseconds, even if its fields are out of range."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)
