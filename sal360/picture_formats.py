"""Picture formats by their bytes: which format it is, how large the picture is, and whether it is complete.

Only headers and structure are read, so that a picture can be judged before memory is taken to decode it.
`PICTURE_FORMATS` lists the formats that the project reads; to add one, add a row.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

Size = tuple[int, int]
"""Rows and columns as stored, before any rotation; (0, 0) if the header is cut or malformed."""


@dataclass(frozen=True)
class PictureFormat:
    """One file format."""

    name: str
    """Its usual name."""
    suffixes: tuple[str, ...]
    """Usual endings of file names, in lower case."""
    start: re.Pattern[bytes]
    """Matches the first bytes."""
    size: Callable[[bytes], Size]
    """Reads the header."""
    is_whole: Callable[[bytes], bool] = lambda _: True
    """Whether the structure ends where it should. Decoders detect most cuts themselves; this detects the others."""


def picture_format(content: bytes) -> PictureFormat | None:
    """The format whose first bytes these are."""
    return next((each for each in PICTURE_FORMATS if each.start.match(content)), None)


def picture_size(content: bytes) -> Size:
    """Rows and columns that the header gives; (0, 0) if it gives none or the format is unknown."""
    known = picture_format(content)
    return (0, 0) if known is None else stored_size(known, content)


def stored_size(known: PictureFormat, content: bytes) -> Size:
    """Rows and columns that the header of a picture of this format gives; (0, 0) if it is cut or malformed."""
    try:
        return known.size(content)
    except (struct.error, IndexError, ValueError):
        return 0, 0


# --- JPEG (ITU-T T.81) ---

_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # neither a stuffed byte, nor a restart marker, nor fill
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_PROGRESSIVE, _HUFFMAN = (0xC2, 0xCA), (0xC0, 0xC1, 0xC2)
_MAX_SCANS = 100
"""Encoders write about ten; thousands of scans would each take as long as a whole picture."""


@dataclass
class JpegStructure:
    """The scans of a JPEG up to its end marker."""

    size: Size = (0, 0)
    is_progressive: bool = False
    is_huffman: bool = False
    """Whether the data are Huffman codes (nearly always) and not arithmetic codes."""
    scan_ends: list[int] = field(default_factory=list)
    """Position of the marker that ends each scan."""
    scan_bytes: int = 0
    """Length of all scans with their headers."""
    missing: dict[int, set[int]] = field(default_factory=dict)
    """Coefficients of each component that no scan has completed yet."""
    is_ended: bool = False
    """Whether an end marker follows the last scan."""

    @property
    def is_whole(self) -> bool:
        """Whether an end marker closes the last scan, every coefficient is in a scan, and there are enough data."""
        height, width = self.size
        # a Huffman code has at least one bit, and each block of 8 x 8 pixels has one or more codes
        is_enough = not self.is_huffman or 8 * self.scan_bytes >= (height // 8) * (width // 8)
        return self.is_ended and is_enough and 0 < len(self.scan_ends) <= _MAX_SCANS and not any(self.missing.values())


def jpeg_structure(content: bytes) -> JpegStructure:
    """Walk through the scans; for a cut or malformed JPEG, the result is what was found up to that point."""
    found = JpegStructure()
    start = 0
    for marker, segment, end in _jpeg_segments(content):
        if _is_frame_header(marker, segment):
            found.size = _frame_size(segment)
            found.is_progressive, found.is_huffman = marker in _PROGRESSIVE, marker in _HUFFMAN
            found.missing = {each: set(range(64)) for each in segment[6 : 6 + 3 * segment[5] : 3]}
        elif marker == _SOS:
            _strike_out(segment, found)
            found.scan_ends.append(end)
            found.scan_bytes += end - start
        found.is_ended = marker == _EOI
        start = end
    return found


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Marker, parameters and position of the end of each segment (B.1.1), a scan's data included, up to the end."""
    position = 2  # after the start-of-image marker
    while position + 2 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:  # a marker may be preceded by any number of fill bytes (B.1.1.2)
            position += 1
            continue
        if marker in (_SOI, _EOI):
            yield marker, b"", position
            return
        length = int.from_bytes(content[position + 2 : position + 4], "big")
        segment = content[position + 4 : position + 2 + length]
        position += 2 + length
        if marker == _SOS:
            end = _END_OF_SCAN.search(content, position)
            if end is None:
                return
            position = end.start()
        yield marker, segment, position


def _is_frame_header(marker: int, segment: bytes) -> bool:
    return 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(segment) >= 6


def _strike_out(segment: bytes, found: JpegStructure) -> None:
    """Record what a scan completes (B.2.3): its band of coefficients, once they are sent to the last bit."""
    count = segment[0] if segment else 0
    if len(segment) < 4 + 2 * count:
        return
    first, last, bits = segment[1 + 2 * count : 4 + 2 * count]
    for component in segment[1 : 1 + 2 * count : 2]:
        missing = found.missing.setdefault(component, set())
        if not found.is_progressive:
            missing.clear()
        elif bits & 0x0F == 0:
            missing.difference_update(range(first, last + 1))


def unread_jpeg(content: bytes) -> str:
    """What makes a JPEG one of those that OpenCV does not read (B.2.2); "" for the usual ones."""
    for marker, segment, _ in _jpeg_segments(content):
        if _is_frame_header(marker, segment):
            if marker in (0xC3, 0xC7, 0xCB, 0xCF):
                return "lossless compression"
            if marker in (0xC5, 0xC6, 0xCD, 0xCE):
                return "hierarchical compression"
            return "" if segment[0] == 8 else f"{segment[0]} bits a sample"
    return ""


def _jpeg_size(content: bytes) -> Size:
    """From the frame header (B.2.2)."""
    for marker, segment, _ in _jpeg_segments(content):
        if _is_frame_header(marker, segment):
            return _frame_size(segment)
    return 0, 0


def _frame_size(segment: bytes) -> Size:
    height, width = struct.unpack_from(">HH", segment, 1)
    return height, width


# --- formats of chunks: PNG, WebP, AVIF, JPEG 2000 ---


def _png_size(content: bytes) -> Size:
    """From the IHDR chunk, which always comes first."""
    if content[12:16] != b"IHDR":
        return 0, 0
    width, height = struct.unpack_from(">II", content, 16)
    return height, width


def _png_is_whole(content: bytes) -> bool:
    """Whether the chain of chunks reaches IEND, with the right checksums if the picture is animated.

    libpng checks them otherwise. OpenCV decodes an animated picture chunk by chunk, and leaves this out.
    """
    position, is_animated, is_right = 8, False, True
    view = memoryview(content)
    while position + 12 <= len(content):
        kind = content[position + 4 : position + 8]
        end = position + 8 + int.from_bytes(content[position : position + 4], "big")
        is_animated |= kind == b"acTL"
        if is_animated and kind in (b"IDAT", b"PLTE"):
            is_right &= zlib.crc32(view[position + 4 : end]).to_bytes(4, "big") == content[end : end + 4]
        if kind == b"IEND":
            return is_right
        position = end + 4
    return False


def _webp_size(content: bytes) -> Size:
    """From the first chunk (RFC 9649, 2.5 to 2.7)."""
    kind = content[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(content[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", content, 26))
    return height, width


def _webp_is_whole(content: bytes) -> bool:
    """Whether the file is as long as it states and does not end in zeros, which often replace a lost end."""
    (length,) = struct.unpack_from("<I", content, 4)
    return len(content) >= length + 8 and any(content[max(0, length - 24) : length + 8])


def _jpeg2000_size(content: bytes) -> Size:
    """From the SIZ marker segment, which decoders use (ISO/IEC 15444-1, A.5.1)."""
    start, _ = _jpeg2000_codestream(content)
    if content[start : start + 4] != b"\xff\x4f\xff\x51":
        return 0, 0
    right, bottom, left, top = struct.unpack_from(">IIII", content, start + 8)
    return bottom - top, right - left


def _jpeg2000_is_whole(content: bytes) -> bool:
    """Whether the codestream ends with the end marker (A.4.4)."""
    _, end = _jpeg2000_codestream(content)
    return content[:end].endswith(b"\xff\xd9") if end else content.rstrip(b"\0").endswith(b"\xff\xd9")


def _jpeg2000_codestream(content: bytes) -> tuple[int, int]:
    """Where the codestream starts and ends; an end of 0: with the file.

    Its box is looked for from box to box (I.4), because others, such as XML, may contain the bytes of a codestream.
    """
    position = 0
    while content[position : position + 2] != b"\xff\x4f":  # without boxes, the file is the codestream
        length, kind = struct.unpack_from(">I4s", content, position)
        start = position + 8
        if length == 1:  # a 64-bit length follows
            (length,) = struct.unpack_from(">Q", content, start)
            start += 8
        if kind == b"jp2c":
            return start, position + length if length else 0
        if length < start - position:
            raise ValueError("a box without an end before the codestream")
        position += length
    return position, 0


def _avif_size(content: bytes) -> Size:
    """The largest of the image extents (ISO/IEC 23008-12, 6.5.3): tiles and alpha planes have their own."""
    extents = [struct.unpack_from(">II", content, each.end() + 4) for each in re.finditer(b"ispe", content[: 1 << 16])]
    width, height = max(extents, key=lambda each: each[0] * each[1])
    return height, width


class Turn(NamedTuple):
    """A rotation and mirroring that is stored beside the pixels."""

    quarters: int = 0
    """Quarter turns anticlockwise."""
    flip: int | None = None
    """Axis to mirror along after the turn: 0 swaps top and bottom, 1 left and right."""


def avif_turn(content: bytes) -> Turn:
    """The rotation and mirroring of an AVIF (ISO/IEC 23008-12, 6.5.10 and 6.5.12), which OpenCV ignores."""
    turn = re.search(rb"\x00\x00\x00\x09irot([\x00-\x03])", content[: 1 << 16])
    mirror = re.search(rb"\x00\x00\x00\x09imir([\x00\x01])", content[: 1 << 16])
    return Turn(turn[1][0] if turn else 0, mirror[1][0] if mirror else None)


# --- the others ---


def _gif_size(content: bytes) -> Size:
    width, height = struct.unpack_from("<HH", content, 6)
    return height, width


def _bmp_size(content: bytes) -> Size:
    (header,) = struct.unpack_from("<I", content, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", content, 18)
    return abs(height), abs(width)  # a negative height counts rows from the top


def _tiff_size(content: bytes) -> Size:
    """From the first image file directory of a TIFF or BigTIFF."""
    order = "<" if content[:2] == b"II" else ">"
    is_big = struct.unpack_from(order + "H", content, 2) == (43,)
    (directory,) = struct.unpack_from(order + ("Q" if is_big else "I"), content, 8 if is_big else 4)
    (count,) = struct.unpack_from(order + ("Q" if is_big else "H"), content, directory)
    first, entry_bytes, value_at = (directory + 8, 20, 12) if is_big else (directory + 2, 12, 8)
    kinds = {1: "B", 3: "H", 4: "I"} | ({16: "Q"} if is_big else {})  # others do not fit into the entry
    sides: dict[int, int] = {}
    for position in range(first, first + entry_bytes * min(count, 4096), entry_bytes):
        tag, kind = struct.unpack_from(order + "HH", content, position)
        if tag in (256, 257) and kind in kinds:
            (side,) = struct.unpack_from(order + kinds[kind], content, position + value_at)
            sides.setdefault(tag, side)  # of repeated entries, decoders use the first
        elif tag in (256, 257):
            return 0, 0
    return sides.get(257, 0), sides.get(256, 0)


def _hdr_size(content: bytes) -> Size:
    """From the resolution line below the empty line that ends the header."""
    start = content.index(b"\n\n") + 2
    found = re.match(rb"[-+]Y (\d+) [-+]X (\d+)\n", content[start : start + 64])
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _pnm_size(content: bytes) -> Size:
    """The first two numbers after the type; comments stand between them, up to the end of a line of any kind."""
    found = _PNM_HEADER.match(content, 2, 1 << 16)
    return (int(found[2]), int(found[1])) if found else (0, 0)


_PNM_NUMBER = rb"(?:\s|#[^\r\n]*[\r\n])*(\d{1,9})"
_PNM_HEADER = re.compile(rb"\s%b\D%b\D(?:%b\s)?" % (3 * (_PNM_NUMBER,)))


def pnm_white(content: bytes) -> int:
    """The sample value of white in a binary PNM, 1 to 65535; 255 for others, which OpenCV scales itself."""
    found = _PNM_HEADER.match(content, 2, 1 << 16)
    is_binary = content[1:2] in (b"5", b"6")
    return max(1, min(int(found[3]), 65535)) if found is not None and is_binary and found[3] else 255


def _starts(*choices: bytes) -> re.Pattern[bytes]:
    return re.compile(b"|".join(choices), re.DOTALL)


PICTURE_FORMATS = (
    PictureFormat(
        "JPEG",
        (".jpg", ".jpeg", ".jpe", ".jfif"),
        _starts(rb"\xff\xd8\xff"),
        _jpeg_size,
        lambda content: jpeg_structure(content).is_whole,
    ),
    PictureFormat("PNG", (".png",), _starts(rb"\x89PNG\r\n\x1a\n"), _png_size, _png_is_whole),
    PictureFormat("WebP", (".webp",), _starts(rb"RIFF....WEBP"), _webp_size, _webp_is_whole),
    PictureFormat("AVIF", (".avif",), _starts(rb"....ftypavi[fs]", rb"....ftypm[is]f1.{4,64}?avif"), _avif_size),
    PictureFormat(
        "JPEG 2000",
        (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
        _starts(rb"\x00\x00\x00\x0cjP  \r\n\x87\n", rb"\xff\x4f\xff\x51"),
        _jpeg2000_size,
        _jpeg2000_is_whole,
    ),
    PictureFormat("GIF", (".gif",), _starts(rb"GIF8[79]a"), _gif_size),
    PictureFormat("BMP", (".bmp", ".dib"), _starts(rb"BM"), _bmp_size),
    PictureFormat("TIFF", (".tif", ".tiff"), _starts(rb"II[\x2a\x2b]\x00", rb"MM\x00[\x2a\x2b]"), _tiff_size),
    PictureFormat("Radiance HDR", (".hdr",), _starts(rb"#\?RADIANCE", rb"#\?RGBE"), _hdr_size),
    PictureFormat("PNM", (".ppm", ".pgm", ".pbm", ".pnm"), _starts(rb"P[1-6]\s"), _pnm_size),
)
"""The formats that picture files may have."""

PICTURE_SUFFIXES = tuple(suffix for each in PICTURE_FORMATS for suffix in each.suffixes)
"""Suffixes by which pictures in a folder are found."""

_NOT_READ = {
    "HEIC": _starts(rb"....ftyp(heic|heix|hevc|hevx|mif1|msf1)"),
    "JPEG XL": _starts(rb"\xff\x0a", rb"\x00\x00\x00\x0cJXL "),
    "OpenEXR": _starts(rb"\x76\x2f\x31\x01"),
    "Photoshop": _starts(rb"8BPS"),
    "SVG": _starts(rb"\s*<svg", rb"<\?xml"),
    "MP4 or MOV": _starts(rb"....ftyp", rb"....moov"),
    "Git LFS pointer": _starts(rb"version https://git-lfs"),
}


def unread_format(content: bytes) -> str:
    """The name of a common format that is not supported; "" for unknown bytes."""
    return next((name for name, start in _NOT_READ.items() if start.match(content)), "")
