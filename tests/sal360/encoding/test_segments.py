"""Segments and playlists of tracks that have nothing in some segments, and the names of codecs."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from xml.etree import ElementTree

import pytest

from sal360.encoding.boxes import Box
from sal360.encoding.playlists import hls_files, mpd
from sal360.encoding.segments import Progress, SegmentFolder, Track, codecs_of
from sal360.errors import DataError

pytest.importorskip("av")

DASH = {"": "urn:mpeg:dash:schema:mpd:2011"}


def progress(*numbers: int) -> Progress:
    """Four segments of 2 s, of which the audio has those of these numbers."""
    video = Track("video", codecs="avc1", size=(64, 128), numbers=[0, 1, 2, 3], bytes=[100, 100, 100, 100])
    audio = Track("audio", "audio", codecs="mp4a.40.2", timescale=8000, numbers=[*numbers], bytes=[50] * len(numbers))
    tracks = {each.name: each for each in (video, audio)}
    return Progress({}, [2.0] * 4, tracks, 8, is_complete=True)


@pytest.mark.parametrize(
    ("numbers", "hls", "dash"),
    [
        ((0, 1), ["2.0", "2.0"], [(0, 2), (2, 2)]),  # ends early
        ((2, 3), ["6.0", "2.0"], [(4, 2), (6, 2)]),  # begins late
        ((0, 3), ["6.0", "2.0"], [(0, 2), (6, 2)]),  # has a hole
    ],
)
def test_playlists_name_only_the_files_that_a_track_has(
    numbers: tuple[int, ...], hls: list[str], dash: list[tuple[int, int]]
) -> None:
    files = hls_files(progress(*numbers))
    assert [each[:3] for each in re.findall(r"#EXTINF:([\d.]+),", files["audio.m3u8"])] == hls
    assert re.findall(r"audio/\d+\.m4s", files["audio.m3u8"]) == ["audio/00000.m4s", "audio/00001.m4s"]
    assert files["video.m3u8"].count("#EXTINF:2.000000") == 4
    assert f"BANDWIDTH=600,AVERAGE-BANDWIDTH={(4 * 800 + 2 * 400) // 8}," in files["main.m3u8"]
    longest = max(float(each) for each in hls)
    assert f"#EXT-X-TARGETDURATION:{longest:.0f}\n" in files["video.m3u8"]
    template = ElementTree.fromstring(mpd(progress(*numbers))).find(
        ".//Representation[@id='audio']/SegmentTemplate", DASH
    )
    assert template is not None
    spans = [(int(each.get("t", "")), int(each.get("d", ""))) for each in template.iterfind(".//S", DASH)]
    assert template.get("presentationTimeOffset") == "8000"
    assert spans == [(8000 * (1 + start), 8000 * length) for start, length in dash]


@pytest.mark.parametrize("numbers", [[0], [0, 9], ["a", 1], None])
def test_a_state_that_does_not_fit_its_files_is_damaged(tmp_path: Path, numbers: object) -> None:
    track = {"name": "video", "place": None, "size": [64, 128], "numbers": numbers, "bytes": [5, 5]}
    state = {"settings": {}, "durations_s": [1, 1], "tracks": {"video": track}, "next_frame": 2}
    (tmp_path / "segments.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match=r"segments.json is damaged; remove the folder, and encode again"):
        SegmentFolder(tmp_path, {}, resume=True)


def sound(kind: int, specific: bytes) -> Box:
    """An index with one track of audio (ISO/IEC 14496-1, 7.2.6), lengths in four bytes as FFmpeg writes them."""

    def descriptor(tag: int, content: bytes) -> bytes:
        return bytes([tag, 0x80, 0x80, 0x80, len(content)]) + content

    config = descriptor(4, bytes([kind]) + bytes(12) + (descriptor(5, specific) if specific else b""))
    esds = bytes(4) + descriptor(3, bytes(3) + config)
    box = Box(b"mp4a", bytes(28) + struct.pack(">I", 8 + len(esds)) + b"esds" + esds)
    for name, content in ((b"stsd", bytes(8)), (b"stbl", b""), (b"minf", b""), (b"mdia", b""), (b"trak", b"")):
        box = Box(name, content, [box])
    return Box(b"moov", boxes=[box])


@pytest.mark.parametrize(
    ("kind", "specific", "name"),
    [
        (0x40, b"\x12\x08", "mp4a.40.2"),  # AAC-LC
        (0x40, b"\x2b\x92\x08\x00", "mp4a.40.5"),  # HE-AAC
        (0x6B, b"", "mp4a.6B"),  # MP3
        (0xDD, b"\x02", "mp4a.DD"),  # Vorbis
    ],
)
def test_kinds_of_audio_in_mp4_are_told_apart(kind: int, specific: bytes, name: str) -> None:
    assert codecs_of(sound(kind, specific)) == name
