"""Boxes of MP4 files, with a parser of what the test needs that is not the one under test."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from sal360.encoding.boxes import V1_UUID, Box, Spherical, equirectangular, parse, read_spherical, write_spherical

av = pytest.importorskip("av")


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "video.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64), 40 * number, np.uint8), format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def inside(data: bytes, *path: bytes) -> bytes:
    """The content of a box, by a search of its own."""
    for kind in path:
        place = 0
        while data[place + 4 : place + 8] != kind:
            place += struct.unpack_from(">I", data, place)[0]
            assert place < len(data), kind
        data = data[place + 8 : place + struct.unpack_from(">I", data, place)[0]]
        data = data[{b"stsd": 8, b"avc1": 78}.get(kind, 0) :]
    return data


def test_packing_what_was_parsed_gives_the_same_bytes(video: Path) -> None:
    data = video.read_bytes()
    assert b"".join(each.packed() for each in parse(data)) == data


def test_the_written_boxes_are_in_the_sample_entry_and_the_video_still_plays(video: Path) -> None:
    write_spherical(video, equirectangular())
    entry = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1", b"sv3d")
    data = video.read_bytes()
    assert inside(data, *entry, b"svhd") == bytes(4) + b"sal360\0"
    assert inside(data, *entry, b"proj", b"prhd") == bytes(16)
    assert inside(data, *entry, b"proj", b"equi") == bytes(20)
    with av.open(str(video)) as container:
        assert len(list(container.decode(video=0))) == 3


def test_what_was_read_can_be_written_to_another_file_and_replaces_what_is_there(video: Path) -> None:
    stereo = Box(b"st3d", bytes(4) + b"\1").packed()
    version_1 = Box(b"uuid", V1_UUID + b"<rdf:SphericalVideo/>").packed()
    spherical = Spherical((stereo, *equirectangular().in_entry), (version_1,))
    write_spherical(video, equirectangular())
    write_spherical(video, spherical)
    assert read_spherical(video) == spherical


def test_other_files_say_nothing(tmp_path: Path, video: Path) -> None:
    assert not read_spherical(video)
    for content in (b"", b"no boxes at all", struct.pack(">I4s", 4, b"moov"), video.read_bytes()[:-9]):
        (tmp_path / "other.mp4").write_bytes(content)
        assert not read_spherical(tmp_path / "other.mp4")


def test_a_box_that_is_longer_than_the_data_is_an_error() -> None:
    with pytest.raises(ValueError, match="has the length 99"):
        parse(struct.pack(">I4s", 99, b"free"))
