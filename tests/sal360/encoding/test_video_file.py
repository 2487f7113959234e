"""Files of encoded video: what they say about the sphere, and what they can hold."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sal360.encoding import video_encoder
from sal360.encoding.boxes import Box, Spherical, equirectangular
from sal360.encoding.codecs import EncoderSettings, find_codec
from sal360.encoding.video_encoder import AudioCopy, VideoEncoder, VideoFile, check_audio, find_spherical
from sal360.errors import ParameterError

av = pytest.importorskip("av")

TOP_AND_BOTTOM = Box(b"st3d", bytes(4) + b"\1").packed()
SPHERE = Spherical((TOP_AND_BOTTOM, *equirectangular().in_entry))
PROJECTION_TYPE_EQUIRECTANGULAR = b"\x76\x71\x81\x01"
STEREO_MODE_TOP_LEFT = b"\x53\xb8\x81\x03"


def write(path: Path, codec: str, spherical: Spherical) -> VideoFile:
    encoder = VideoEncoder(EncoderSettings(find_codec(codec)), 64, 128, 10)
    with VideoFile(path, encoder, None, spherical) as file:
        for number in range(3):
            picture = np.full((64, 128, 3), 80 * number, np.uint8)
            file.write(encoder.encode(picture, "bgr", number / 10, None))
        file.write(encoder.flush())
    return file


def decoded(path: Path) -> list[Any]:
    with av.open(str(path)) as container:
        return [(each.time, round(float(each.to_ndarray(format="gray").mean()))) for each in container.decode(video=0)]


@pytest.mark.parametrize(("codec", "suffix"), [("x264", ".mkv"), ("x265", ".mkv"), ("vp9", ".webm")])
def test_matroska_says_that_the_video_is_a_sphere(tmp_path: Path, codec: str, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    assert write(path, codec, SPHERE).is_spherical
    head = path.read_bytes()[:4000]
    assert PROJECTION_TYPE_EQUIRECTANGULAR in head
    assert STEREO_MODE_TOP_LEFT in head
    write(tmp_path / f"plain{suffix}", codec, Spherical())
    assert PROJECTION_TYPE_EQUIRECTANGULAR not in (tmp_path / f"plain{suffix}").read_bytes()
    assert decoded(path) == decoded(tmp_path / f"plain{suffix}")
    assert len(decoded(path)) == 3
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == 10
    found = find_spherical(path)
    assert [each[4:8] for each in found.in_entry] == [b"st3d", b"sv3d"]
    assert b"equi" in found.in_entry[1]
    assert not find_spherical(tmp_path / f"plain{suffix}")


def test_a_file_of_vp8_does_not_claim_to_be_spherical(tmp_path: Path) -> None:
    assert not write(tmp_path / "out.webm", "vp8", SPHERE).is_spherical
    assert len(decoded(tmp_path / "out.webm")) == 3
    assert write(tmp_path / "out.mp4", "vp9", SPHERE).is_spherical
    assert find_spherical(tmp_path / "out.mp4") == SPHERE


def test_hevc_fits_into_m4v(tmp_path: Path) -> None:
    write(tmp_path / "out.m4v", "x265", SPHERE)
    assert len(decoded(tmp_path / "out.m4v")) == 3
    assert find_spherical(tmp_path / "out.m4v") == SPHERE


def test_what_is_no_video_says_nothing_about_a_sphere(tmp_path: Path) -> None:
    (tmp_path / "text.mkv").write_text("no video")
    assert not find_spherical(tmp_path / "text.mkv")


def silent(path: Path, codec: str) -> Path:
    """A file with silence in stereo."""
    with av.open(str(path), "w") as container:
        audio = container.add_stream(codec, rate=48_000, layout="stereo")
        silence = av.AudioFrame.from_ndarray(np.zeros((2, 3072), np.float32), format="fltp", layout="stereo")
        silence.sample_rate, silence.pts, silence.time_base = 48_000, 0, Fraction(1, 48_000)
        container.mux(audio.encode(silence))
        container.mux(audio.encode(None))
    return path


@pytest.fixture
def ac3(tmp_path: Path) -> Path:
    """Silence in a codec whose description in MP4 needs its first packet."""
    return silent(tmp_path / "ride.mkv", "ac3")


def test_audio_that_ffmpeg_refuses_only_at_the_end_is_refused_at_once(tmp_path: Path) -> None:
    with AudioCopy(silent(tmp_path / "ride.avi", "pcm_s16le")) as audio:  # which does not say where its channels are
        check_audio(audio, ".mkv")
        with pytest.raises(ParameterError, match=r"^.mp4 files cannot hold .* \(pcm_s16le\); choose .mkv, or add --no"):
            check_audio(audio, ".mp4")
        with pytest.raises(
            ParameterError, match=r"^segments cannot .*; add --no-audio, or name a file \(.mkv\) as the"
        ):
            check_audio(audio, "")


def test_the_check_of_audio_leaves_its_packets(ac3: Path) -> None:
    with AudioCopy(ac3) as audio:
        check_audio(audio, ".mp4")
        check_audio(audio, "")
        assert len(list(audio.until(math.inf))) == 2


def test_audio_that_matroska_cannot_hold_is_not_sent_there(ac3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError

    monkeypatch.setattr(video_encoder, "add_copy", refuse)
    with AudioCopy(ac3) as audio, pytest.raises(ParameterError, match=r"^.mkv files cannot .*; add --no-audio$"):
        check_audio(audio, ".mkv")
