"""Detects whether a video file is whole. If it was cut off, its container states lengths that go beyond the end of the
file. If it is damaged, parts of the container are missing or broken, and FFmpeg skips them without a message.

Frame counts and durations in headers are not used, because many are estimates.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

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


def is_damaged(path: Path) -> bool:
    """Whether a part of the container is lost between others; False for containers that do not show it.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            head = content[:400]
            if head.startswith(_EBML):
                return _matroska_is_damaged(content)
            if head.startswith(b"RIFF"):
                return _riff_is_damaged(content)
            if head.startswith(b"FLV"):
                return _flv_is_damaged(content)
            if head.startswith(_ASF_HEADER):
                return _asf_is_damaged(content)
            if head.startswith(b"OggS"):
                return _ogg_is_damaged(content)
            if head.startswith(_PACK):
                return _program_stream_is_damaged(content)
            first, length = _transport_stream(head)
            return bool(length) and _transport_stream_is_damaged(content, first, length)


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
    _, length = _transport_stream(head)
    return (lambda _, size: size % length != 0) if length else None


_SYNC = ord("G")


def _transport_stream(head: bytes) -> tuple[int, int]:
    """First byte and length of the packets of an MPEG transport stream; (0, 0) for others."""
    for first, length in ((0, 188), (4, 192)):  # of broadcasts and of camcorders
        if head[first : first + 1] == head[first + length : first + length + 1] == b"G":
            return first, length
    return 0, 0


_CHUNK_PACKETS = 1 << 16


def _transport_stream_is_damaged(content: mmap.mmap, first: int, length: int) -> bool:
    """ISO/IEC 13818-1, 2.4.3: each packet begins with the sync byte, and where a frame begins there is a start code."""
    has_start_codes: dict[int, bool] = {}  # by packet ID; tables begin otherwise
    for position in range(0, len(content) - length + 1, length * _CHUNK_PACKETS):
        data = content[position : position + length * _CHUNK_PACKETS]
        packets = np.frombuffer(data, np.uint8, len(data) // length * length).reshape(-1, length)[:, first:]
        if (packets[:, 0] != _SYNC).any():
            return True
        # a unit starts in them, they are not scrambled, and they have a payload, perhaps behind an adaptation field
        starts = packets[(packets[:, 1] & 0x40 != 0) & (packets[:, 3] & 0xD0 == 0x10)]
        at = 4 + np.where(starts[:, 3] & 0x20, 1 + starts[:, 4].astype(int), 0)
        starts, at = starts[at < 185], at[at < 185]
        rows = np.arange(len(starts))
        has_code = (starts[rows, at] == 0) & (starts[rows, at + 1] == 0) & (starts[rows, at + 2] == 1)
        packet_id = (starts[:, 1] & 0x1F).astype(int) * 256 + starts[:, 2]
        for number in np.unique(packet_id):
            of_stream = has_code[packet_id == number]
            if has_start_codes.setdefault(int(number), bool(of_stream[0])) and not of_stream.all():
                return True
    return False


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


_IN_MOVIE = re.compile(rb"(\d\d)[A-Za-z_]{2}|ix\d\d|LIST|JUNK|idx1")


def _riff_is_damaged(content: mmap.mmap) -> bool:
    """AVI: the list of frames has chunks that are named after their stream; FFmpeg skips what has any other name."""
    position, movie_end, streams, padding = 12, 0, 0, 0
    while position + 8 <= len(content):
        if position < movie_end and not _is_of_stream(content[position : position + 4], streams):
            if not padding or not _is_of_stream(content[position - 1 : position + 3], streams):
                return True
            position -= 1  # some recorders leave the padding out
        name, length = content[position : position + 4], int.from_bytes(content[position + 4 : position + 8], "little")
        streams += name == b"strh"
        padding = length % 2
        if name in (b"LIST", b"RIFF"):
            if content[position + 8 : position + 12] == b"movi" and position + 8 + length <= len(content):
                movie_end = position + 8 + length
            position, padding = position + 12, 0
        else:
            position += 8 + length + padding
    return False


def _is_of_stream(name: bytes, streams: int) -> bool:
    known = _IN_MOVIE.fullmatch(name)
    return known is not None and (not known[1] or int(known[1]) < streams)


_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_MATROSKA_ELEMENTS = {
    *(0x1A45DFA3, _SEGMENT, 0xEC, 0xBF, 0x1B538667),  # heads, padding, checksums, signatures
    *(0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1043A770, _CLUSTER, 0x1C53BB6B, 0x1941A469, 0x1254C367),  # of segments
    *(0xE7, 0x5854, 0xA7, 0xAB, 0xA3, 0xA0, 0xAF),  # of clusters
}

_CHECKED = (0x114D9B74, 0x1549A966, 0x1654AE6B, _CLUSTER, 0x1C53BB6B)
"""Elements that have a checksum if the recorder writes one; other children of segments are of no matter."""


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


def _matroska_is_damaged(content: mmap.mmap) -> bool:
    """RFC 9559: only certain elements stand in files, segments and clusters; some have checksums."""
    position, end, is_bounded = 0, len(content), False
    while position < end:
        head = content[position : position + 12]
        identifier, used = _ebml_number(head, keep_marker=True)
        length, more = _ebml_number(head[used:], keep_marker=False)
        if identifier not in _MATROSKA_ELEMENTS:
            # behind a segment whose end is not known, it may be appended; but not if a cluster follows
            return is_bounded or content.find(_CLUSTER.to_bytes(4, "big"), position) >= 0
        position += used + more
        is_known = length != 2 ** (7 * more) - 1
        if is_known and identifier in _CHECKED and _has_wrong_checksum(content[position : position + length]):
            return True
        if identifier == _SEGMENT and is_known:
            end, is_bounded = min(end, position + length), True
        if identifier not in (_SEGMENT, _CLUSTER):
            position += length
    return False


def _has_wrong_checksum(data: bytes) -> bool:
    """RFC 8794, 11.3.1: the first child may be the CRC-32 of the others."""
    return data.startswith(b"\xbf\x84") and zlib.crc32(data[6:]).to_bytes(4, "little") != data[2:6]


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


_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_INDEX = bytes.fromhex("90080033b1e5cf1189f400a0c90349cb")


def _asf_is_damaged(content: mmap.mmap) -> bool:
    """ASF specification, 2.2: the data follow the header, and an index follows the data."""
    position = int.from_bytes(content[16:24], "little")
    if content[position : position + 16] != _ASF_DATA:
        return True
    end = min(len(content), position + int.from_bytes(content[position + 16 : position + 24], "little"))
    properties = content.find(_ASF_PROPERTIES, 0, position)
    if not 0 <= properties <= len(content) - 100:
        return True
    (stated,) = struct.unpack_from("<Q", content, properties + 40)
    size, largest = struct.unpack_from("<II", content, properties + 92)
    starts = range(position + 50, end, size) if size >= 64 and size == largest else ()
    if len({content[at] for at in starts}) > 1:  # packets of one size, each of which begins with the same flags
        return True
    # the objects end where the file does, or at least one of them is the index; what is appended does not count
    last = stated if end <= stated <= len(content) else content.find(_ASF_INDEX, position)
    while position < last:
        position += max(24, int.from_bytes(content[position + 16 : position + 24], "little"))
    return 0 <= last != position


def _program_stream_is_damaged(content: mmap.mmap) -> bool:
    """Whether something stands between two packs that is not a packet."""
    position = 0
    while position < len(content):
        head = content[position : position + 14]
        if not head.startswith(_PACK[:3]):
            return content.find(_PACK, position) >= 0  # else something appended
        position += _program_stream_packet_bytes(head)
    return False


def _program_stream_packet_bytes(head: bytes) -> int:
    """Length of the pack header, packet or end code that starts with these bytes."""
    if len(head) < 6:
        return 6
    if head[3:4] == b"\xb9":
        return 4
    if head[3:4] != _PACK[3:]:
        return 6 + int.from_bytes(head[4:6], "big")
    if head[4] >> 6 == 1:
        return 14 + (head[-1] & 7)  # MPEG-2, with stuffing
    return 12  # MPEG-1


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
        position += _program_stream_packet_bytes(head)
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


def _flv_is_damaged(content: mmap.mmap) -> bool:
    """FLV specification, annex E: tags of a few types, each followed by its length, which some recorders leave out."""
    start = position = 9 + 4
    while position + 15 <= len(content):
        end = position + 11 + int.from_bytes(content[position + 1 : position + 4], "big")
        is_right = int.from_bytes(content[end : end + 4], "big") == end - position
        if not is_right or content[position] & 0x1F not in (8, 9, 15, 18):
            return position > start
        position = end + 4
    return False


def _ogg_is_damaged(content: mmap.mmap) -> bool:
    """RFC 3533, section 6: each page has a checksum, and the pages of a stream are numbered."""
    position, next_numbers, unfinished = 0, dict[bytes, int](), set[bytes]()
    while position < len(content):
        head = content[position : position + 27 + 255]
        if not head.startswith(b"OggS") or len(head) < 27:
            return bool(unfinished) or content.find(b"OggS", position) >= 0  # else something appended
        length = 27 + head[26] + sum(head[27 : 27 + head[26]])
        page, stream, number = content[position : position + length], head[14:18], int.from_bytes(head[18:22], "little")
        is_first = bool(head[5] & 2)
        if number != (number if is_first else next_numbers.get(stream, number)) or _ogg_checksum(page) != head[22:26]:
            return True
        next_numbers[stream] = number + 1
        if head[5] & 4:  # the last page of a stream
            unfinished.discard(stream)
        else:
            unfinished.add(stream)
        position += length
    return False


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_checksum(page: bytes) -> bytes:
    """CRC-32 of a page, most significant bit first, from 0; zlib's takes the bits the other way, from 0xFFFFFFFF."""
    bits = zlib.crc32((page[:22] + bytes(4) + page[26:]).translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return bits.to_bytes(4, "big").translate(_REVERSED)
