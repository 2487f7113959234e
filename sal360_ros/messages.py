"""Image messages to arrays and arrays to image messages."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from sal360.errors import FrameError
from sal360.images import compressed_size, decode_compressed, decode_image
from sal360.sphere import Array

_DTYPES = {"mono8": np.uint8, "8SC1": np.int8, "32FC1": np.float32, "rgb8": np.uint8, "bgr8": np.uint8}


def decode_frame(message: Image | CompressedImage, min_height: int = 0) -> tuple[Array, str]:
    """The picture in a message, (H, W, 3) uint8, and its channel order, "rgb" or "bgr".

    rgb8, bgr8 and mono8 are views of the message's data, which live as long as the array does.

    Args:
        min_height: rows that the reader needs; a larger JPEG is decoded at a fraction of its size.

    Raises:
        FrameError: the message is malformed; its reason is one of the REASONS of `encodings` or `compressed`.
    """
    if isinstance(message, CompressedImage):
        return decode_compressed(message.data, min_height=min_height)
    return decode_image(
        message.encoding, message.height, message.width, message.step, message.data, bool(message.is_bigendian)
    )


def frame_size(message: Image | CompressedImage) -> tuple[int, int]:
    """Rows and columns of the picture in a message that `decode_message` accepts, as it was sent."""
    if isinstance(message, CompressedImage):
        return compressed_size(bytes(memoryview(message.data)))
    return message.height, message.width


def image_message(pixels: Array, encoding: str, header: Header) -> Image:
    """An Image of an array (H, W) or (H, W, 3) in one of mono8, 8SC1, 32FC1, rgb8 and bgr8.

    Raises:
        ValueError: the array's type is not the encoding's.
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


def picture_message(picture_bgr: Array, header: Header) -> Image:
    """A bgr8 Image of a picture (H, W, 3) uint8, made by cv_bridge where it is installed: for what people look at.

    Raises:
        FrameError: cv_bridge is installed and fails; a build for another numpy is the usual cause.
    """
    if importlib.util.find_spec("cv_bridge") is None:  # Python 3.14 has no numpy that the wheel works with
        return image_message(picture_bgr, "bgr8", header)
    try:
        message = _bridge().cv2_to_imgmsg(picture_bgr, "bgr8")
    except Exception as error:  # an extension built for another numpy raises whatever it likes
        raise FrameError(
            f"cv_bridge failed ({type(error).__name__}: {error})",
            "install the ROS package cv_bridge, or numpy below 2.3 for the one from PyPI",
            expected="a cv_bridge that fits the installed numpy",
            reason="cv_bridge",
        ) from None
    message.header = header
    return message


def _bridge() -> Any:
    from cv_bridge import CvBridge  # not at the top: the maps must flow also where it is broken

    return CvBridge()


def stamp_nanoseconds(header: Header) -> int:
    """The header's stamp in nanoseconds; any field values are taken, also those that are no time."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)
