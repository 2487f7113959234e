"""Pictures as 8-bit pixels, the single reader used everywhere: raw and compressed messages of a camera, and files.

Deeper samples are reduced to 8-bit colour in one way: `to_8_bit`. Files are turned upright by their EXIF orientation.
Compressed messages are not, as in image_transport: the driver of a camera that is mounted upside down turns them.
`max_pixels` is compared with the size in the header, before memory is allocated for decoding. Maps in messages and grey
files (ground truth, and the node's own maps) keep their values: `read_map`.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from sal360.arrays import Density, Pixels, Reals
from sal360.errors import DataError, FrameError
from sal360.files import write_bytes
from sal360.picture_formats import (
    PICTURE_FORMATS,
    JpegStructure,
    PictureFormat,
    avif_turn,
    jpeg_structure,
    picture_format,
    picture_size,
    pnm_white,
    stored_size,
    unread_format,
    unread_jpeg,
)
from sal360.standard_streams import call_with_stderr

MAX_PIXELS = 2**26
"""Default of `max_pixels`: 11585 x 5792. The header of a tiny file may claim 65535 x 65535."""
LARGEST_MAX_PIXELS = 10**9
"""Near OpenCV's own limit of 2^30."""
_LOWER = "lower the camera's resolution, or raise max_pixels"
_REDUCE = "reduce it, or raise max_pixels"

Wide: TypeAlias = NDArray[np.uint16]


# --- raw messages ---


@dataclass(frozen=True)
class _Layout:
    """Memory layout of one raw encoding."""

    channels: int
    """Samples of one pixel."""
    sample_bytes: int = 1
    """Bytes of one sample."""
    order: str = "rgb"
    """Channel order of the decoded image."""
    conversion: int | None = None
    """The cv2.cvtColor code that gives three channels, if a view cannot."""
    rows: tuple[int, int] = (1, 1)
    """Rows of bytes for each row of pixels, as a fraction: 3/2 where half-height chroma follows."""
    even: bool = False
    """Whether chroma is shared by two columns (and, with `rows`, two rows)."""


_LAYOUTS: dict[str, _Layout] = {
    "rgb8": _Layout(3),
    "bgr8": _Layout(3, order="bgr"),
    "8UC3": _Layout(3, order="bgr"),  # has no channel order: assume OpenCV's, which wrote most of them
    "mono8": _Layout(1),
    "8UC1": _Layout(1),
    "rgba8": _Layout(4, conversion=cv2.COLOR_RGBA2RGB),
    "bgra8": _Layout(4, conversion=cv2.COLOR_BGRA2RGB),
    "8UC4": _Layout(4, conversion=cv2.COLOR_BGRA2RGB),
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
    encoding: str,
    height: int,
    width: int,
    step: int,
    data: Any,
    is_bigendian: bool = False,
    *,
    max_pixels: int = MAX_PIXELS,
) -> tuple[Pixels, str]:
    """The picture of a sensor_msgs/Image.

    rgb8, bgr8 and mono8 are views of `data` (mono8 with its one channel repeated three times, stride 0), which must
    therefore live as long as the image. 16-bit samples are scaled as in `to_8_bit`.

    Args:
        encoding, height, width, step, is_bigendian: as in the message; `step` is bytes of one row with its padding.
        data: any buffer of bytes.
        max_pixels: larger pictures are refused.

    Returns:
        The image, (height, width, 3) uint8, not always writeable or contiguous, and its channel order, "rgb" or "bgr".

    Raises:
        FrameError: the fields contradict each other or the encoding is not supported.
    """
    layout = _LAYOUTS.get(encoding)
    if layout is None:
        raise FrameError(
            f"the encoding is {encoding[:40]!r}",
            "set the camera driver to rgb8 or bgr8",
            expected="one of " + ", ".join(RAW_ENCODINGS),
            reason="unknown_encoding",
        )
    rows = height * layout.rows[0] // layout.rows[1]
    _check_raw(layout, encoding, height, width, step, rows, memoryview(data).nbytes)
    _check_size(height, width, max_pixels, "the image is", _LOWER)
    samples = _samples(layout, rows, width, step, data, is_bigendian)
    if layout.conversion is not None:
        return _convert(samples, layout.conversion, encoding), layout.order
    if layout.channels == 1:
        samples = np.broadcast_to(samples, (height, width, 3))
    return samples, layout.order


def _check_raw(layout: _Layout, encoding: str, height: int, width: int, step: int, rows: int, stored: int) -> None:
    if height < 1 or width < 1:
        raise FrameError(
            f"the image is {width} x {height} pixels", "check the camera driver's resolution", reason="zero_size"
        )
    if stored == 0:
        raise FrameError(f"the {width} x {height} image has no data", "check the camera driver", reason="empty_data")
    row_bytes = width * layout.channels * layout.sample_bytes
    if step < row_bytes:
        raise FrameError(
            f"step is {step} bytes for {width} pixels of {encoding}",
            "set step to the bytes of one row, padding included",
            expected=f"at least {row_bytes}",
            reason="bad_step",
        )
    if layout.even and (width % 2 or height % layout.rows[1]):
        raise FrameError(
            f"the image is {width} x {height} in {encoding}",
            "crop it, or set the camera driver to rgb8",
            expected="even sizes, because neighbouring pixels share their colour",
            reason="bad_size",
        )
    if stored < step * rows:
        raise FrameError(
            f"the image has {stored} bytes",
            "check the camera driver, or record again if the recording was cut",
            expected=f"{step * rows} ({rows} rows of {step})",
            reason="short_data",
        )


def _samples(layout: _Layout, rows: int, width: int, step: int, data: Any, is_bigendian: bool) -> Pixels:
    """The message's samples at 8 bits, (rows, width, channels); a view, except for 16-bit data that use fewer bits."""
    shape, pixel_bytes = (rows, width, layout.channels), layout.channels * layout.sample_bytes
    content, strides, offset = np.frombuffer(data, np.uint8), (step, pixel_bytes, layout.sample_bytes), 0
    if layout.sample_bytes == 2:
        wide: Wide = np.ndarray(shape, ">u2" if is_bigendian else "<u2", content, strides=strides)
        bits = _bits_used(wide[..., :3])
        if bits < 16:
            return (wide >> (bits - 8)).astype(np.uint8)
        offset = 0 if is_bigendian else 1  # the upper byte
    return np.ndarray(shape, np.uint8, content, offset=offset, strides=strides)


def _convert(samples: Pixels, code: int, encoding: str) -> Pixels:
    try:
        # cv2 recognises a single channel by the number of axes
        converted = cv2.cvtColor(samples[..., 0] if samples.shape[2] == 1 else samples, code)
    except cv2.error:
        height, width = samples.shape[:2]
        raise FrameError(
            f"{width} x {height} of {encoding} cannot be converted",
            "set the camera driver to rgb8",
            expected="an image large enough for its colour pattern",
            reason="bad_size",
        ) from None
    return converted.astype(np.uint8, copy=False)


# --- compressed messages ---

_IN_MESSAGES = {"JPEG": "corrupt_jpeg", "PNG": "corrupt_png"}


def decode_compressed(data: Any, *, min_height: int = 0, max_pixels: int = MAX_PIXELS) -> tuple[Pixels, str]:
    """The picture of a sensor_msgs/CompressedImage: JPEG or PNG, recognised by its bytes, not by `format`.

    Args:
        data: any buffer of bytes; zeros after the picture, which drivers with fixed buffers leave, are ignored.
        min_height: rows that the caller needs. A JPEG that has at least twice, four or eight times as many is decoded
            at ½, ¼ or ⅛ of its size, which takes a third of the time. 0 decodes it in full size.
        max_pixels: larger pictures are refused before they are decoded.

    Returns:
        The image, (H, W, 3) uint8, contiguous, and its channel order, "bgr".

    Raises:
        FrameError: it is empty, too large, cut, damaged or neither JPEG nor PNG.
    """
    content = bytes(memoryview(data))
    if not content:
        raise FrameError("the compressed image has no data", "check the camera driver", reason="empty_data")
    known = picture_format(content)
    if known is None or known.name not in _IN_MESSAGES:
        raise FrameError(
            f"the compressed image starts with bytes {content[:4].hex(' ')}",
            "set the camera driver's compressed format to jpeg",
            expected="JPEG or PNG",
            reason="unknown_compression",
        )
    _check_size(*stored_size(known, content), max_pixels, f"the {known.name} is", _LOWER)
    image = _decode(known, content, min_height, upright=False)
    if image is None:
        raise FrameError(
            f"the {known.name} of {len(content)} bytes is damaged or cut",
            "check the camera driver and the network",
            reason=_IN_MESSAGES[known.name],
        )
    return image, "bgr"


def decode_message(message: Any, *, min_height: int = 0, max_pixels: int = MAX_PIXELS) -> tuple[Pixels, str]:
    """The picture of a sensor_msgs Image or CompressedImage, of rclpy or of a bag: see the two functions above.

    Returns:
        The image, (H, W, 3) uint8, and its channel order, "rgb" or "bgr".

    Raises:
        FrameError: the message is malformed.
    """
    if not hasattr(message, "encoding"):
        return decode_compressed(message.data, min_height=min_height, max_pixels=max_pixels)
    fields = message.encoding, message.height, message.width, message.step, message.data, bool(message.is_bigendian)
    return decode_image(*fields, max_pixels=max_pixels)


def message_size(message: Any) -> tuple[int, int]:
    """Rows and columns of the picture in an Image or CompressedImage that `decode_message` accepts, as it was sent."""
    if not hasattr(message, "encoding"):
        return picture_size(bytes(memoryview(message.data)))
    return message.height, message.width


# --- files ---


def read_picture(path: str | os.PathLike[str], *, min_height: int = 0, max_pixels: int = MAX_PIXELS) -> Pixels:
    """The picture of a file, (H, W, 3) uint8 BGR, turned upright as its EXIF orientation says.

    The format is recognised by the bytes, not by the name. If a file contains several pictures, the first is read.

    Args:
        path: any file name, UTF-8 or not.
        min_height: as in `decode_compressed`.
        max_pixels: larger pictures are refused before they are decoded.

    Raises:
        FrameError: naming the file: it is missing ("missing"), too large ("too_large"), or not a whole picture in one
            of `PICTURE_FORMATS` ("unreadable_picture").
    """
    return decode_picture(_read_bytes(path, max_pixels), str(path), min_height=min_height, max_pixels=max_pixels)


def decode_picture(content: bytes, name: str, *, min_height: int = 0, max_pixels: int = MAX_PIXELS) -> Pixels:
    """The picture in the bytes of a file, as `read_picture` returns it; errors call it `name`."""
    known = _known_format(content, name)
    _check_size(*stored_size(known, content), max_pixels, f"{name} is", _REDUCE)
    try:
        image = _decode(known, content, min_height, upright=True)
    except FrameError as error:
        raise error.about(name) from None
    if image is None:
        raise _undecodable(known, content, name)
    return image


def read_map_picture(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Density:
    """The grey values of a picture file as stored (8 or 16 bits), (h, w) float32.

    Raises:
        FrameError: as `read_picture`.
    """
    content, name = _read_bytes(path, max_pixels), str(path)
    known = _known_format(content, name)
    _check_size(*stored_size(known, content), max_pixels, f"{name} is", _REDUCE)
    values = _imdecode(content, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH) if _is_whole(known, content) else None
    if values is None:
        raise _undecodable(known, content, name)
    grey: Density = _turned(known, content, values).astype(np.float32)
    return grey


def require_picture(picture: object, name: str) -> None:
    """Refuse what is no array, such as the None that `cv2.imread` returns.

    Args:
        picture: what should be one.
        name: what the error calls it: "the frame".

    Raises:
        FrameError: it is None or of another type.
    """
    if picture is None:
        raise FrameError(
            f"{name} is None",
            "check the path: cv2.imread returns None for a file that it cannot read",
            reason="unreadable_picture",
        )
    if not isinstance(picture, np.ndarray):
        raise FrameError(
            f"{name} is of the type {type(picture).__name__}", "pass the pixels as a numpy array", reason="not_colour"
        )


def write_picture(path: str | os.PathLike[str], picture_bgr: Pixels, quality: int = 95) -> None:
    """Replace the file at `path` with a picture (H, W[, 3]), completely or not at all; the suffix sets the format.

    Args:
        quality: of JPEG, 0 to 100.

    Raises:
        FrameError: the picture is None or no array.
        OSError: the folder cannot be made or written.
        ValueError: OpenCV does not write this format.
    """
    require_picture(picture_bgr, "the picture")
    suffix = os.path.splitext(os.fspath(path))[1]
    if not cv2.haveImageWriter(f"picture{suffix}"):
        raise ValueError(f"OpenCV does not write {suffix!r}")
    options = (cv2.IMWRITE_JPEG_QUALITY, quality) if suffix.lower() in (".jpg", ".jpeg") else ()
    write_bytes(path, cv2.imencode(suffix, picture_bgr, options)[1].tobytes())


def _read_bytes(path: str | os.PathLike[str], max_pixels: int) -> bytes:
    """The bytes of a file. OpenCV never gets a file name: version 5 ends the process if one is not UTF-8."""
    limit = max(1 << 24, 16 * max_pixels)  # no format needs more than 8 bytes a pixel
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            size = status.st_size
            content = file.read(limit + 1) if size <= limit else b""
    except OSError as error:
        raise _unreadable(path, error) from None
    size = max(size, len(content))  # a pipe has no size
    if size > limit:
        raise FrameError(
            f"{path} holds {size} bytes or more",
            "check that it is a picture, or raise max_pixels",
            expected=f"at most {limit} for {max_pixels} pixels",
            reason="too_large",
        )
    if not content:
        remedy = "replace or remove it" if stat.S_ISREG(status.st_mode) else "name a file or a pipe with a picture"
        raise FrameError(f"{path} is empty", remedy, reason="unreadable_picture")
    return content


def _unreadable(path: str | os.PathLike[str], error: OSError) -> FrameError:
    if isinstance(error, FileNotFoundError):
        return FrameError(f"{path} does not exist", "check the path", reason="missing")
    if isinstance(error, IsADirectoryError):
        return FrameError(f"{path} is a folder", "name a picture in it", reason="unreadable_picture")
    if isinstance(error, PermissionError):
        return FrameError(
            f"no permission to read {path}", "change its permissions or its owner", reason="unreadable_picture"
        )
    return FrameError(
        f"{path} cannot be read ({error.strerror or error})", "check the path", reason="unreadable_picture"
    )


def _known_format(content: bytes, name: str) -> PictureFormat:
    known = picture_format(content)
    if known is None:
        other = unread_format(content)
        is_video = other == "MP4 or MOV"
        raise FrameError(
            f"{name} is in the format {other}" if other else f"{name} starts with bytes {content[:4].hex(' ')}",
            "rename it to end in .mp4, where videos are read" if is_video else "convert it to JPEG or PNG",
            expected="a picture in one of " + ", ".join(each.name for each in PICTURE_FORMATS),
            reason="unreadable_picture",
        )
    return known


def _undecodable(known: PictureFormat, content: bytes, name: str) -> FrameError:
    if not cv2.haveImageWriter(
        f"picture{known.suffixes[0]}"
    ):  # OpenCV is built with both reader and writer, or with neither
        return FrameError(
            f"{name} is in the format {known.name}, which OpenCV {cv2.__version__} was built without",
            "convert it to JPEG or PNG",
            reason="unreadable_picture",
        )
    if known.name == "JPEG" and (variant := unread_jpeg(content)):
        return FrameError(
            f"{name} is a JPEG with {variant}, which OpenCV does not read",
            "convert it to the usual JPEG with 8 bits, or to PNG",
            reason="unreadable_picture",
        )
    damaged = f"{name} is damaged or cut short"
    if known.name in _IN_MESSAGES:
        return FrameError(f"{damaged} ({known.name})", "replace or remove it", reason="unreadable_picture")
    return FrameError(
        f"{damaged}, or in a variant of {known.name} that OpenCV does not read",
        "replace it, or convert it to JPEG or PNG",
        reason="unreadable_picture",
    )


# --- what messages and files share ---


def _check_size(height: int, width: int, max_pixels: int, subject: str, remedy: str) -> None:
    if height * width > max_pixels:
        raise FrameError(
            f"{subject} {width} x {height} pixels", remedy, expected=f"at most {max_pixels}", reason="too_large"
        )


def _decode(known: PictureFormat, content: bytes, min_height: int, *, upright: bool) -> Pixels | None:
    """The picture, (H, W, 3) uint8 BGR; None if it is damaged or incomplete.

    Args:
        upright: turn it upright by its EXIF orientation.
    """
    orientation = 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
    if known.name == "JPEG":
        return _decode_jpeg(content, min_height, orientation)
    values = _imdecode(content, _ANY_DEPTH | orientation) if _is_whole(known, content) else None
    if values is None:
        return None
    if known.name == "PNM" and (white := pnm_white(content)) < 255:
        values = cv2.convertScaleAbs(values, alpha=255 / white)
    image = to_8_bit(values)
    return _turned(known, content, image) if upright else image


def _turned(known: PictureFormat, content: bytes, values: NDArray[Any]) -> Any:
    """The samples (H, W[, C]) upright, where OpenCV does not turn them itself."""
    if known.name != "AVIF":
        return values
    quarters, flip = avif_turn(content)
    turned = np.ascontiguousarray(np.rot90(values, quarters))
    return turned if flip is None else np.ascontiguousarray(np.flip(turned, flip))


_ANY_DEPTH = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH


def _is_whole(known: PictureFormat, content: bytes) -> bool:
    try:
        return min(stored_size(known, content)) > 0 and known.is_whole(content)
    except (struct.error, IndexError, ValueError):
        return False


def _imdecode(content: bytes, flags: int) -> Any:
    """The samples as OpenCV decodes them; None where they are damaged, as far as the decoder notices."""
    try:
        image, said = call_with_stderr(lambda: cv2.imdecode(np.frombuffer(content, np.uint8), flags))
    except cv2.error:
        return None
    return None if _tells_damage(said) else image


_DAMAGE = re.compile(
    r"premature end|bad Huffman code|instead of RST|Corrupt JPEG data: (?P<bytes>\d+) extraneous bytes"
    r"|^libpng error|^\[ERROR:",
    re.IGNORECASE | re.MULTILINE,
)
"""Messages that libjpeg, libpng and OpenCV (for TIFF) print when they fill the gaps of a damaged picture."""
_HARMLESS_BYTES = 16
"""Cameras put a few bytes too many before a marker; where damaged data went out of step, there are more."""


def _tells_damage(said: str) -> bool:
    return any(int(each["bytes"] or _HARMLESS_BYTES + 1) > _HARMLESS_BYTES for each in _DAMAGE.finditer(said))


def _reduction(height: int, min_height: int) -> int:
    reduced = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
    fits = (flag for factor, flag in reduced.items() if min_height > 0 and height >= factor * min_height)
    return next(fits, cv2.IMREAD_COLOR)


_MORE_DATA = bytes(range(1, 250)) * 8
_EMPTY_BLOCK = (128, 65)
"""The colours with which a JPEG decoder fills blocks without data: the middle of the range, and that of CMYK."""


def _decode_jpeg(content: bytes, min_height: int, orientation: int) -> Pixels | None:
    """The picture of a JPEG; None if it is damaged, or if an end marker cuts its data off.

    Decoders accept such a cut silently. In a baseline JPEG the remaining blocks are then empty, including the last one,
    in a corner; a progressive one only loses detail. The test for both is to put more data before the end marker: a
    complete picture stays the same. A baseline JPEG that lacks only its last block (16 x 16 pixels) passes.
    """
    structure = jpeg_structure(content)
    if not structure.is_whole or min(structure.size) < 1:
        return None
    image: Pixels | None = _imdecode(content, _reduction(min(structure.size), min_height) | orientation)
    if image is None:
        return None
    corners = image[[0, 0, -1, -1], [0, -1, 0, -1]]  # (4, 3): EXIF may have turned the picture
    is_suspect = any((corners == empty).all(axis=1).any() for empty in _EMPTY_BLOCK)
    return None if (is_suspect or structure.is_progressive) and _lacks_data(content, structure) else image


def _lacks_data(content: bytes, structure: JpegStructure) -> bool:
    starts = [0, *structure.scan_ends]
    ends = [*structure.scan_ends, len(content)]
    longer = _MORE_DATA.join(content[start:end] for start, end in zip(starts, ends, strict=True))
    try:
        return _jpeg_samples(content, structure) != _jpeg_samples(longer, structure)
    except Exception:  # arbitrary headers raise arbitrary exceptions; OpenCV could decode the picture
        return False


def _jpeg_samples(content: bytes, structure: JpegStructure) -> bytes:
    """Decoded by Pillow, because OpenCV's libjpeg would print a warning about the added data on stderr."""
    with JpegImageFile(io.BytesIO(content)) as picture:
        if not structure.is_progressive:
            picture.draft(picture.mode, (picture.width // 8, picture.height // 8))  # eight times less work
        return bytes(picture.tobytes())


def to_8_bit(values: NDArray[Any]) -> Pixels:
    """Samples of a picture, (..., channels), as uint8.

    16-bit samples are scaled by the number of bits they use: cameras store 10, 12 or 14 bits in 16 unchanged. The
    largest sample determines it, so a true 16-bit picture without any sample above a quarter of the range is
    brightened. Floating-point samples are linear light in which 1 is white: they get the sRGB curve (IEC 61966-2-1).

    Raises:
        FrameError: samples of another type.
    """
    if values.dtype == np.uint8:
        pixels: Pixels = values
        return pixels
    if values.dtype == np.uint16:
        return (values.astype(np.uint16, copy=False) >> (_bits_used(values) - 8)).astype(np.uint8)
    if values.dtype.kind == "f":
        return np.stack([_srgb(row) for row in values])  # row by row: floats take four times the memory
    raise FrameError(
        f"the picture has samples of type {values.dtype}",
        "convert it to 8 bits",
        expected="unsigned 8 or 16 bits, or floating point",
        reason="unreadable_picture",
    )


def _bits_used(values: Wide) -> int:
    """10, 12, 14 or 16: the fewest of them that hold every sample (rows, columns, ...)."""
    if values[::8, ::8].max() >= 1 << 14:  # most pictures show it at once
        return 16
    peak = int(values.max())
    return next(bits for bits in (10, 12, 14, 16) if peak < 1 << bits)


def _srgb(linear: Reals) -> Pixels:
    light = np.clip(np.nan_to_num(linear), 0, 1)
    encoded: Reals = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded).astype(np.uint8)


# --- maps ---

_DTYPES: dict[str, np.dtype[Any]] = {
    "32FC1": np.dtype(np.float32),
    "64FC1": np.dtype(np.float64),
    "mono8": np.dtype(np.uint8),
    "8UC1": np.dtype(np.uint8),
    "mono16": np.dtype(np.uint16),
    "16UC1": np.dtype(np.uint16),
}


def read_map(message: Any) -> Density:
    """The map (h, w) float32 of a one-channel Image, with the values as stored.

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
    values: NDArray[Any] = np.ndarray(
        (height, width), dtype, np.frombuffer(message.data, np.uint8), strides=(step, dtype.itemsize)
    )
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are refused where the map is used
        return values.astype(np.float32)
