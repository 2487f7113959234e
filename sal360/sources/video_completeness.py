"""Detects whether a video file was cut off: its container states lengths that go beyond the end of the file.

Frame counts and durations in headers are not used, because many are estimates.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_PACK = b"\0\0\1\xba"
_EBML = b"\x1a\x45\xdf\xa3"
_MP4_FIRST_BOXES = (b"ftyp", b"styp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"pnot")
_MP4_BOXES = (*_MP4_FIRST_BOXES, b"udta", b"uuid", b"meta", b"sidx", b"mfra", b"emsg")


def is_cut(path: Path) -> bool:
    """Whether the file ends before the end stated in its container; False for containers that do not state it.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(400)
        check = _check_for(head)
        file.seek(0)
        return check is not None and check(file, size)


def _check_for(head: bytes) -> Callable[[BinaryIO, int], bool] | None:
    if head[4:8] in _MP4_FIRST_BOXES:
        return _mp4_is_cut
    if head.startswith(b"RIFF"):
        return _riff_is_cut
    if head.startswith(_EBML):
        return _matroska_is_cut
    if head.startswith(_ASF_HEADER):
        return _asf_is_cut
    if head.startswith(b"OggS"):
        return _ogg_is_cut
    if head.startswith(b"FLV"):
        return _flv_is_cut
    if head.startswith(_PACK):
        return _program_stream_is_cut
    for first, length in ((0, 188), (4, 192)):  # MPEG transport streams, of broadcasts and of camcorders
        if head[first : first + 1] == head[first + length : first + length + 1] == b"G":
            return lambda _, size: size % length != 0
    return None


def _mp4_is_cut(file: BinaryIO, size: int) -> bool:
    """ISO/IEC 14496-12, 4.2: boxes of a 32-bit length and a type; 1 means a 64-bit length, 0 the rest of the file."""
    position, has_index = 0, False
    while position < size:
        file.seek(position)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        is_known = kind in _MP4_BOXES
        has_index |= kind in (b"moov", b"moof")
        if length == 0 and is_known:
            break
        if length < 8 or position + length > size:
            return is_known  # otherwise something that some devices append
        position += length
    return not has_index


def _riff_is_cut(file: BinaryIO, size: int) -> bool:
    """AVI: one or more RIFF chunks of a 32-bit length each, which is unknown for a stream."""
    position = 0
    while position + 12 <= size:
        file.seek(position)
        head = file.read(8)
        length = int.from_bytes(head[4:8], "little")
        if head[:4] != b"RIFF" or length in (0, 0xFFFFFFFF):
            return False
        position += 8 + length
        if position > size:
            return True
        position += length % 2
    return False


_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675


def _matroska_is_cut(file: BinaryIO, size: int) -> bool:
    """RFC 8794, section 4 to 6: elements of an ID and a length, which is unknown for a live stream's segment."""
    position = 0
    while position < size:
        file.seek(position)
        head = file.read(12)
        identifier, used = _ebml_number(head, keep_marker=True)
        length, more = _ebml_number(head[used:], keep_marker=False)
        if not used or not more:
            return len(head) < 12  # a partial element header; otherwise something appended
        data = position + used + more
        if length == 2 ** (7 * more) - 1:  # unknown length: its children follow
            if identifier not in (_SEGMENT, _CLUSTER):
                return False
            position = data
            continue
        position = data + length
        if identifier == _SEGMENT:
            return position > size
    return position > size


def _ebml_number(data: bytes, *, keep_marker: bool) -> tuple[int, int]:
    """A number of 1 to 8 bytes, whose leading zeros give its length, and that length; (0, 0) if there is none."""
    if not data or not data[0]:
        return 0, 0
    length = 9 - data[0].bit_length()
    if len(data) < length:
        return 0, 0
    value = int.from_bytes(data[:length], "big")
    return value if keep_marker else value & (2 ** (7 * length) - 1), length


def _asf_is_cut(file: BinaryIO, size: int) -> bool:
    """ASF specification, 2.1: objects of a 16-byte GUID and a 64-bit length, which is 0 for the data of a broadcast."""
    position = 0
    while position + 24 <= size:
        file.seek(position + 16)
        length = int.from_bytes(file.read(8), "little")
        if length < 24:
            return False
        position += length
    return position > size


def _program_stream_is_cut(file: BinaryIO, size: int) -> bool:
    """MPEG program streams (ISO/IEC 13818-1, 2.5.3): pack headers, packets of a 16-bit length, and an end code."""
    position = 0
    while position < size:
        file.seek(position)
        head = file.read(14)
        if not head.startswith(_PACK[:3]):
            return len(head) < 3  # a partial packet header; otherwise something appended
        if head[3:4] == b"\xb9":
            return False
        if head[3:4] != _PACK[3:]:
            position += 6 + int.from_bytes(head[4:6], "big")
        elif head[4] >> 6 == 1:
            position += 14 + (head[-1] & 7)  # MPEG-2, with stuffing
        else:
            position += 12  # MPEG-1
    return position != size


def _ogg_is_cut(file: BinaryIO, size: int) -> bool:
    """RFC 3533, section 6: pages with the lengths of their segments; the last one of each stream is marked."""
    position, has_end = 0, False
    while position < size:
        file.seek(position)
        head = file.read(27 + 255)
        if not head.startswith(b"OggS") or len(head) < 27:
            return len(head) < 27
        segments = head[26]
        has_end |= bool(head[5] & 4)
        position += 27 + segments + sum(head[27 : 27 + segments])
    return position != size or not has_end


def _flv_is_cut(file: BinaryIO, size: int) -> bool:
    """FLV specification, annex E: after a header, tags of a 24-bit length, each followed by its length again."""
    position = 9 + 4
    while position < size:
        file.seek(position)
        head = file.read(11)
        position += 11 + int.from_bytes(head[1:4], "big") + 4
    return position != size
