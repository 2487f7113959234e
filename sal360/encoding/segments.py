"""Segmented video: fragments of MP4 in a folder, with playlists for HLS and DASH, that can be continued.

Every segment is encoded by itself. So it can be decoded by itself, and a run that was interrupted can continue after
the last whole segment. The folder holds, for each track, `TRACK/init.mp4` and `TRACK/00000.m4s`, …; and
`segments.json`, which says what is complete.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sal360.encoding.boxes import Box, Spherical, edit_fragments, parse, with_spherical
from sal360.encoding.video_encoder import add_copy
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
    bytes: list[int] = field(default_factory=list)
    """Of each segment."""


@dataclass
class Progress:
    """What `segments.json` holds."""

    settings: Mapping[str, Any]
    """What must be the same for a run to go on."""
    durations_s: list[float] = field(default_factory=list)
    tracks: dict[str, Track] = field(default_factory=dict)
    next_frame: int = 0
    """Number of the first frame after the segments."""
    delay: dict[str, int] = field(default_factory=dict)
    """For each track, by how many ticks its stamps are later than those of the source, so that none is negative."""
    is_complete: bool = False


class SegmentFolder:
    """The folder of a segmented video.

    Args:
        path: the folder.
        settings: everything that shapes the result, as JSON can hold it.
        resume: go on with the segments there.

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
            raise DataError(f"{path} holds segments", "add --resume to go on with them, or remove the folder")
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
        """Refuse a folder that lacks a part of a segment that counts as complete."""
        for track in self.progress.tracks.values():
            for number, size in enumerate(track.bytes[: len(self.progress.durations_s)]):
                path = self.path / track.name / f"{number:05d}.m4s"
                if not path.is_file() or path.stat().st_size != size:
                    raise DataError(f"the segment {path} is missing or damaged", _AGAIN)
            del track.bytes[len(self.progress.durations_s) :]

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
            contents: for each track, the track, a stream that describes its packets, and the packets.
            duration_s: of the segment.
            next_frame: number of the first frame after it.
            spherical: for the init segments of video.
        """
        number = len(self.progress.durations_s)
        for name, (track, stream, packets) in contents.items():
            known = self.progress.tracks.setdefault(name, track)
            init, media = self._fragment(known, stream, packets, number)
            folder = self.path / name
            if number == 0 or not (folder / "init.mp4").exists():
                if known.kind == "video" and spherical:
                    ftyp, moov, *rest = parse(init)
                    init = b"".join(each.packed() for each in (ftyp, with_spherical(moov, spherical), *rest))
                write_bytes(folder / "init.mp4", init)
            write_bytes(folder / f"{number:05d}.m4s", media)
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

    def _fragment(self, track: Track, stream: Any, packets: Sequence[Any], number: int) -> tuple[bytes, bytes]:
        first = min((round(packet.dts * packet.time_base * 10**9) for packet in packets), default=0)
        init, media = fragment(stream, packets)
        moov = next(each for each in parse(init) if each.kind == b"moov")
        track.timescale = _timescale(moov)
        track.codecs = track.codecs or codecs_of(moov)
        ticks = round(first * track.timescale / 10**9)
        if track.name not in self.progress.delay:
            self.progress.delay[track.name] = max(0, -ticks)
        shifted = ticks + self.progress.delay[track.name]

        def renumber(moof: Box) -> None:
            for header in moof.find(b"mfhd"):
                header.content = header.content[:4] + struct.pack(">I", number + 1)
            for time in moof.find(b"traf", b"tfdt"):
                form = ">Q" if time.content[0] == 1 else ">I"
                time.content = time.content[:4] + struct.pack(form, max(0, shifted))

        return init, edit_fragments(media, renumber)


def _read(path: Path) -> Progress:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        tracks = {}
        for name, values in found["tracks"].items():
            place = Place(**values["place"]) if values["place"] else None
            tracks[name] = Track(**{**values, "place": place, "size": tuple(values["size"])})
        found["durations_s"] = [float(each) for each in found["durations_s"]]
        found["next_frame"] = int(found["next_frame"])
        return Progress(**{**found, "tracks": tracks})
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path} is damaged", _AGAIN) from None


def fragment(stream: Any, packets: Sequence[Any]) -> tuple[bytes, bytes]:
    """The init segment (ftyp, moov) and the media segment (moof, mdat) of packets of one stream."""
    import av

    file = io.BytesIO()
    flags = "empty_moov+default_base_moof+frag_custom+skip_trailer"
    with av.open(file, "w", format="mp4", options={"movflags": flags}) as container:
        target = add_copy(container, stream)
        container.start_encoding()
        for packet in packets:
            packet.stream = target
            container.mux(packet)
    boxes = parse(file.getvalue())
    init = [each for each in boxes if each.kind in (b"ftyp", b"moov")]
    media = [each for each in boxes if each.kind in (b"moof", b"mdat")]
    return b"".join(each.packed() for each in init), b"".join(each.packed() for each in media)


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
    return {"mp4a": "mp4a.40.2", "Opus": "opus", "fLaC": "flac"}.get(kind, kind)


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
