"""Segmented video: fragments of MP4 in a folder, with playlists for HLS and DASH, that can be continued.

Every segment is encoded by itself. So it can be decoded by itself, and a run that was interrupted can continue after
the last whole segment. The folder holds, for each track, `TRACK/init.mp4` and `TRACK/00000.m4s`, …; and
`segments.json`, which says what is complete.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Any

from sal360.encoding.boxes import Box, Spherical, edit_fragments, parse, with_spherical
from sal360.encoding.video_encoder import fragment
from sal360.errors import DataError
from sal360.files import write_bytes, write_text

STATE = "segments.json"
_AGAIN = "remove the folder, and encode again"


@dataclass(frozen=True)
class Place:
    """Where a tile lies in the whole picture, pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass
class Track:
    """Segments of one stream."""

    name: str
    """Of its folder."""
    kind: str = "video"
    place: Place | None = None
    """Of a tile; None: the whole picture."""
    codecs: str = ""
    """As in RFC 6381; from the first segment."""
    timescale: int = 90_000
    size: tuple[int, int] = (0, 0)
    """Rows and columns of a video."""
    numbers: list[int] = field(default_factory=list)
    """Of the segments in which the stream has something; audio may begin late, have holes or end early."""
    bytes: list[int] = field(default_factory=list)
    """Of its file for each of `numbers`; files are counted without holes, as DASH counts them."""


@dataclass
class Progress:
    """What `segments.json` holds."""

    settings: Mapping[str, Any]
    """What must be the same for a run to continue."""
    durations_s: list[float] = field(default_factory=list)
    tracks: dict[str, Track] = field(default_factory=dict)
    next_frame: int = 0
    """Number of the first frame after the segments."""
    delay_s: int = 1
    """By how much all stamps are later than those of the source, so that none is negative; HLS needs one for all."""
    is_complete: bool = False

    def spans_s(self, track: Track) -> list[tuple[float, float]]:
        """Beginning and end of each file of a track, seconds."""
        edges = [0.0, *accumulate(self.durations_s)]
        return [(edges[number], edges[number + 1]) for number in track.numbers]


class SegmentFolder:
    """The folder of a segmented video.

    Args:
        path: the folder.
        settings: everything that shapes the result, as JSON can hold it.
        resume: continue the segments there.

    Raises:
        DataError: there are segments already and `resume` is not set, or they were made with other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        self.path = path
        settings = json.loads(json.dumps(settings, default=str))  # as they are read back
        self.progress = Progress(settings)
        state = path / STATE
        if not state.exists():
            return
        if not resume:
            raise DataError(f"{path} holds segments", "add --resume to continue them, or remove the folder")
        self.progress = _read(state)
        changed = sorted(
            name
            for name in {**settings, **self.progress.settings}
            if settings.get(name) != self.progress.settings.get(name)
        )
        if changed:
            raise DataError(
                f"{path} was begun with another {', '.join(changed)}",
                "repeat the command as it was, or remove the folder",
            )

        self._check_files()

    def _check_files(self) -> None:
        """Refuse a folder that lacks a part of a segment that counts as complete, or what a player needs before it."""
        for track in self.progress.tracks.values():
            folder = self.path / track.name
            if not (folder / "init.mp4").is_file():
                raise DataError(f"{folder / 'init.mp4'} is missing", _AGAIN)
            for number, size in enumerate(track.bytes):
                path = folder / f"{number:05d}.m4s"
                if not path.is_file() or path.stat().st_size != size:
                    raise DataError(f"the segment {path} is missing or damaged", _AGAIN)

    @property
    def start_s(self) -> float:
        """Where the next segment begins, seconds."""
        return sum(self.progress.durations_s)

    def add(
        self,
        contents: Mapping[str, tuple[Track, Any, Sequence[Any]]],
        duration_s: float,
        next_frame: int,
        spherical: Spherical,
    ) -> None:
        """Write the next segment of all tracks; it counts when it is whole.

        Args:
            contents: for each track, the track, a stream that describes its packets, and the packets; where there are
                none, the track has no file for this segment.
            duration_s: of the segment.
            next_frame: number of the first frame after it.
            spherical: for the init segments of video.
        """
        contents = {name: each for name, each in contents.items() if each[2]}
        if not self.progress.durations_s:
            earliest_s = min((float(_begin(packets)) for _, _, packets in contents.values()), default=0.0)
            self.progress.delay_s = max(1, math.ceil(-earliest_s))
        for name, (track, stream, packets) in contents.items():
            known = self.progress.tracks.setdefault(name, track)
            init, media = self._fragment(known, stream, packets)
            folder = self.path / name
            if not known.bytes:
                if known.kind == "video" and spherical:
                    ftyp, moov, *rest = parse(init)
                    init = b"".join(each.packed() for each in (ftyp, with_spherical(moov, spherical), *rest))
                write_bytes(folder / "init.mp4", init)
            write_bytes(folder / f"{len(known.bytes):05d}.m4s", media)
            known.numbers.append(len(self.progress.durations_s))
            known.bytes.append(len(media))
        self.progress.durations_s.append(duration_s)
        self.progress.next_frame = next_frame
        self._save()

    def complete(self) -> None:
        """Note that nothing follows."""
        self.progress.is_complete = True
        self._save()

    def _save(self) -> None:
        write_text(self.path / STATE, json.dumps(asdict(self.progress), indent=1))

    def _fragment(self, track: Track, stream: Any, packets: Sequence[Any]) -> tuple[bytes, bytes]:
        init, media = fragment(stream, packets)
        moov = next(each for each in parse(init) if each.kind == b"moov")
        track.timescale = _timescale(moov)
        track.codecs = track.codecs or codecs_of(moov)
        shifted = round((_begin(packets) + self.progress.delay_s) * track.timescale)

        def renumber(moof: Box) -> None:
            for header in moof.find(b"mfhd"):
                header.content = header.content[:4] + struct.pack(">I", len(track.bytes) + 1)
            for time in moof.find(b"traf", b"tfdt"):
                form = ">Q" if time.content[0] == 1 else ">I"
                time.content = time.content[:4] + struct.pack(form, max(0, shifted))

        return init, edit_fragments(media, renumber)


def _begin(packets: Sequence[Any]) -> Fraction:
    """Time stamp of the first packet, seconds: of a frame that others are shown before, it may be negative."""
    begin: Fraction = min(packet.dts * packet.time_base for packet in packets)
    return begin


def _read(path: Path) -> Progress:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        tracks = {}
        for name, values in found["tracks"].items():
            place = Place(**values["place"]) if values["place"] else None
            tracks[name] = Track(**{**values, "place": place, "size": tuple(values["size"])})
        found["durations_s"] = [float(each) for each in found["durations_s"]]
        found["next_frame"] = int(found["next_frame"])
        progress = Progress(**{**found, "tracks": tracks})
        for track in tracks.values():
            if len(progress.spans_s(track)) != len(track.bytes):
                raise ValueError
        return progress
    except (ValueError, LookupError, TypeError):
        raise DataError(f"{path} is damaged", _AGAIN) from None


def _timescale(moov: Box) -> int:
    header = next(moov.find(b"trak", b"mdia", b"mdhd")).content
    place = 20 if header[0] == 1 else 12
    return int(struct.unpack_from(">I", header, place)[0])


def codecs_of(moov: Box) -> str:
    """The codec of an index's first track as playlists name it (RFC 6381; ISO/IEC 14496-15, annex E)."""
    entry = next(each for table in moov.find(b"trak", b"mdia", b"minf", b"stbl", b"stsd") for each in table.boxes)
    kind = entry.kind.decode("latin1")
    for box in entry.boxes:
        if box.kind == b"avcC":
            return f"{kind}.{box.content[1:4].hex().upper()}"
        if box.kind == b"hvcC":
            return f"{kind}.{_hevc(box.content)}"
        if box.kind == b"vpcC":
            profile, level, depth = *box.content[4:6], box.content[6] >> 4
            return f"{kind}.{profile:02d}.{level:02d}.{depth:02d}"
        if box.kind == b"av1C":
            profile, level, tier = box.content[1] >> 5, box.content[1] & 31, box.content[2] >> 7
            depth = 10 if box.content[2] >> 6 & 1 else 8
            return f"{kind}.{profile}.{level:02d}{'H' if tier else 'M'}.{depth:02d}"
    if kind == "mp4a":
        return f"mp4a.{_mpeg4_audio(entry.content)}"
    return {"Opus": "opus", "fLaC": "flac"}.get(kind, kind)


def _mpeg4_audio(entry: bytes) -> str:
    """Kind of audio in a sample entry `mp4a`, from its box `esds` (ISO/IEC 14496-1, 7.2.6)."""
    place = entry.find(b"esds")
    config = _descriptor(_descriptor(entry[place + 8 :])[3:])  # that of the decoder in that of the stream
    if place < 0 or not config:
        return "40.2"
    if config[0] != 0x40:
        return f"{config[0]:02X}"
    specific = _descriptor(config[13:])
    return f"40.{specific[0] >> 3 if specific else 2}"


def _descriptor(data: bytes) -> bytes:
    """The content of the first descriptor."""
    length, place = 0, 1
    while place < len(data):
        length = length << 7 | data[place] & 127
        place += 1
        if data[place - 1] < 128:
            break
    return data[place : place + length]


def _hevc(record: bytes) -> str:
    """Profile, compatibility, tier with level, and constraints of an HEVC decoder configuration record."""
    space = ("", "A", "B", "C")[record[1] >> 6]
    tier = "H" if record[1] >> 5 & 1 else "L"
    compatible = int(f"{int.from_bytes(record[2:6], 'big'):032b}"[::-1], 2)
    constraints = record[6:12].rstrip(b"\0")
    parts = [
        f"{space}{record[1] & 31}",
        f"{compatible:X}",
        f"{tier}{record[12]}",
        *(f"{each:X}" for each in constraints),
    ]
    return ".".join(parts)
