"""Pictures in every supported format, and damaged variants of them."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image

SMOOTH = cv2.resize(np.random.default_rng(5).integers(30, 220, (4, 8, 3), np.uint8), (256, 128))
"""(128, 256, 3) uint8 BGR, and nowhere the grey of an empty JPEG block."""

NOISE = np.random.default_rng(6).integers(0, 256, (128, 256, 3), np.uint8)
"""As large, and detailed enough to take many bytes in every format."""

ENCODERS = {
    "JPEG": ("JPEG", {"quality": 90}),
    "progressive JPEG": ("JPEG", {"quality": 90, "progressive": True}),
    "JPEG with restart marks": ("JPEG", {"quality": 90, "restart_marker_rows": 1}),
    "PNG": ("PNG", {}),
    "lossy WebP": ("WEBP", {"quality": 90}),
    "lossless WebP": ("WEBP", {"lossless": True}),
    "AVIF": ("AVIF", {"quality": 90}),
    "JPEG 2000": ("JPEG2000", {}),
    "GIF": ("GIF", {}),
    "BMP": ("BMP", {}),
    "TIFF": ("TIFF", {"compression": "tiff_lzw"}),
    "PNM": ("PPM", {}),
}
FORMATS = (*ENCODERS, "Radiance HDR")


def encoded(kind: str, picture_bgr: np.ndarray = SMOOTH, **options: object) -> bytes:
    """A picture (H, W, 3) in one of `FORMATS`."""
    if kind == "Radiance HDR":
        light = (picture_bgr / np.float32(255)) ** np.float32(2.2)
        return cv2.imencode(".hdr", light)[1].tobytes()
    name, usual = ENCODERS[kind]
    file = io.BytesIO()
    Image.fromarray(picture_bgr[..., ::-1]).save(file, name, **(usual | options))
    return file.getvalue()


def exif(orientation: int) -> bytes:
    """EXIF data that give an orientation, 1 to 8."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def one_bit_png(height: int, width: int) -> bytes:
    """A black PNG of one bit a pixel: 33 KB for 16384 x 16384."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(rows.compress(row) for _ in range(height)) + rows.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
