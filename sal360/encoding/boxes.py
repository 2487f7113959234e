"""Boxes of MP4 files (ISO/IEC 14496-12): reading, editing, and what says that a video is spherical.

Spherical Video V2 (`st3d` for stereo, `sv3d` for the projection) is in the description of the video's samples; V1 is a
`uuid` box with XML in the track. FFmpeg keeps neither when a video is encoded.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

V1_UUID = bytes.fromhex("ffcc8263f8554a938814587a02521fdd")
_PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"moof", b"traf", b"mvex", b"edts", b"sv3d", b"proj")
_LARGEST_MOOV = 1 << 28
_SAMPLE_ENTRY_BYTES = 78
"""Of a video's sample entry before its boxes, without its own header."""


@dataclass
class Box:
    """A box: bytes before its boxes (or all of its content), and the boxes in it."""

    kind: bytes
    content: bytes = b""
    boxes: list[Box] = field(default_factory=list)

    def packed(self) -> bytes:
        """The box as it is in a file."""
        inner = self.content + b"".join(each.packed() for each in self.boxes)
        return struct.pack(">I", 8 + len(inner)) + self.kind + inner

    def find(self, *kinds: bytes) -> Iterator[Box]:
        """The boxes at the end of a path of kinds."""
        for each in self.boxes:
            if each.kind == kinds[0]:
                if len(kinds) == 1:
                    yield each
                else:
                    yield from each.find(*kinds[1:])


def parse(data: bytes, parent: bytes = b"") -> list[Box]:
    """The boxes in `data`, those of `_PARENTS` with theirs.

    Raises:
        ValueError: a box is longer than the data.
    """
    boxes, place = [], 0
    while place + 8 <= len(data):
        size, kind, header = *struct.unpack_from(">I4s", data, place), 8
        if size == 1:
            size, header = struct.unpack_from(">Q", data, place + 8)[0], 16
        size = size or len(data) - place
        if size < header or place + size > len(data):
            raise ValueError(f"the box {kind!r} at byte {place} has the length {size}")
        boxes.append(_parsed(kind, data[place + header : place + size], parent))
        place += size
    return boxes


def _parsed(kind: bytes, content: bytes, parent: bytes) -> Box:
    prefix = _prefix(kind, parent)
    if prefix is None or len(content) < prefix:
        return Box(kind, content)
    return Box(kind, content[:prefix], parse(content[prefix:], kind))


def _prefix(kind: bytes, parent: bytes) -> int | None:
    """Bytes before the boxes in a box of this kind; None: it has none."""
    if parent == b"stsd":
        return _SAMPLE_ENTRY_BYTES if kind in _VIDEO_ENTRIES else None
    if kind in _PARENTS:
        return 8 if kind == b"stsd" else 0
    return None


_VIDEO_ENTRIES = (b"avc1", b"avc3", b"hvc1", b"hev1", b"vp08", b"vp09", b"av01", b"mp4v", b"apch", b"apcn", b"encv")


@dataclass(frozen=True)
class Spherical:
    """What an MP4 file says about its sphere, as boxes that can be written to another one."""

    in_entry: tuple[bytes, ...] = ()
    """`st3d` and `sv3d`."""
    in_track: tuple[bytes, ...] = ()
    """The `uuid` box of version 1."""

    def __bool__(self) -> bool:
        return bool(self.in_entry or self.in_track)


def equirectangular() -> Spherical:
    """A whole sphere as an equirectangular picture, in version 2 (Spherical Video V2 RFC, "Equirectangular")."""
    svhd = Box(b"svhd", bytes(4) + b"sal360\0")
    prhd = Box(b"prhd", bytes(4) + struct.pack(">iii", 0, 0, 0))  # yaw, pitch, roll
    equi = Box(b"equi", bytes(4) + struct.pack(">IIII", 0, 0, 0, 0))  # nothing is cropped
    return Spherical((Box(b"sv3d", boxes=[svhd, Box(b"proj", boxes=[prhd, equi])]).packed(),))


def read_spherical(path: Path) -> Spherical:
    """What a file says about its sphere; nothing if it is not MP4, or damaged."""
    try:
        with path.open("rb") as file:
            found = _moov(file)
        return Spherical() if found is None else spherical_in(found[1])
    except (OSError, ValueError, struct.error):
        return Spherical()


def spherical_in(moov: Box) -> Spherical:
    """What an index says about its sphere."""
    for track in moov.find(b"trak"):
        for entry in _entries(track):
            in_entry = tuple(each.packed() for each in entry.boxes if each.kind in (b"st3d", b"sv3d"))
            in_track = tuple(
                each.packed() for each in track.boxes if each.kind == b"uuid" and each.content.startswith(V1_UUID)
            )
            if in_entry or in_track:
                return Spherical(in_entry, in_track)
    return Spherical()


def write_spherical(path: Path, spherical: Spherical) -> None:
    """Add the boxes to the first video track of an MP4 file whose index is at its end, as FFmpeg writes it.

    Raises:
        ValueError: the file is not such a file.
    """
    if not spherical:
        return
    with path.open("r+b") as file:
        found = _moov(file)
        if found is None:
            raise ValueError(f"{path} has no index")
        place, moov = found
        length = len(moov.packed())
        file.seek(0, 2)
        if file.tell() != place + length:
            raise ValueError(f"the index of {path} is not at its end")
        file.seek(place)
        file.write(with_spherical(moov, spherical).packed())


def with_spherical(moov: Box, spherical: Spherical) -> Box:
    """The index (moov), changed in place, with the boxes in its first video track instead of those there."""
    for track in moov.find(b"trak"):
        for entry in _entries(track):
            entry.boxes = [each for each in entry.boxes if each.kind not in (b"st3d", b"sv3d")]
            entry.boxes += [each for data in spherical.in_entry for each in parse(data)]
            track.boxes += [each for data in spherical.in_track for each in parse(data)]
            return moov
    raise ValueError("there is no video track")


def _entries(track: Box) -> Iterator[Box]:
    for table in track.find(b"mdia", b"minf", b"stbl", b"stsd"):
        yield from (each for each in table.boxes if each.kind in _VIDEO_ENTRIES)


def _moov(file: BinaryIO) -> tuple[int, Box] | None:
    """Place and content of the index."""
    end = file.seek(0, 2)
    place = 0
    while place + 8 <= end:
        file.seek(place)
        size, kind, header = *struct.unpack(">I4s", file.read(8)), 8
        if size == 1:
            size, header = struct.unpack(">Q", file.read(8))[0], 16
        size = size or end - place
        if size < header or place + size > end:
            return None
        if kind == b"moov" and size <= _LARGEST_MOOV:
            return place, Box(kind, boxes=parse(file.read(size - header)))
        place += size
    return None


def edit_fragments(data: bytes, edit: Callable[[Box], None]) -> bytes:
    """Fragments (moof, mdat …) with each moof changed by `edit`; its length must stay the same."""
    boxes = parse(data)
    for each in boxes:
        if each.kind == b"moof":
            before = len(each.packed())
            edit(each)
            assert len(each.packed()) == before, "places in the fragment count from its start"
    return b"".join(each.packed() for each in boxes)
