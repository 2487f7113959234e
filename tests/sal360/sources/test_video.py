from __future__ import annotations

import itertools
import sys
import wave
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sal360.errors import DataError, FrameError
from sal360.sources import Frame, open_source, video
from sal360.sources.video_completeness import is_cut, is_damaged

av = pytest.importorskip("av")

RATE = 25
WHOLE = {
    "mp4, index at the end": ("clip.mp4", "libx264", {}),
    "mp4, index first": ("clip.mp4", "libx264", {"movflags": "faststart"}),
    "fragmented mp4": ("clip.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
    "matroska": ("clip.mkv", "libx264", {}),
    "webm": ("clip.webm", "libvpx-vp9", {}),
    "live matroska": ("clip.mkv", "libx264", {"live": "1"}),
    "avi": ("clip.avi", "mpeg4", {}),
    "avi with reordered frames": ("clip.avi", "libx264", {}),
    "motion jpeg": ("clip.avi", "mjpeg", {}),
    "transport stream": ("clip.ts", "libx264", {}),
    "camcorder": ("clip.m2ts", "libx264", {"mpegts_m2ts_mode": "1"}),
    "program stream": ("clip.mpg", "mpeg2video", {}),
    "windows media": ("clip.wmv", "wmv2", {}),
    "flash": ("clip.flv", "libx264", {}),
    "ogg": ("clip.ogv", "libvpx", {}),
    "hevc": ("clip.mp4", "libx265", {}),
}


def write_video(
    path: Path,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    times: Sequence[int] = range(40),
    display: tuple[Any, ...] = (),
) -> Path:
    """A video whose frame i is shown at times[i] / RATE s: grey, its top left quarter white, and i in bits below."""
    with av.open(str(path), "w", container_options=options or {}) as container:
        stream = container.add_stream(codec, rate=RATE, options={"bf": "2"} if codec == "libx264" else {})
        stream.width, stream.height = 128, 64
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, RATE)
        if display:
            stream.set_display_rotation(*display)
        for index, time in enumerate(times):
            picture = np.full((64, 128, 3), 100, np.uint8)
            picture[:32, :64] = 255
            for bit in range(8):
                picture[32:, 16 * bit : 16 * (bit + 1)] = 200 if index >> bit & 1 else 30
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            frame.pts, frame.time_base = time, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def index_of(image: np.ndarray) -> int:
    """Which frame of `write_video` it is."""
    return sum(1 << bit for bit in range(8) if image[40:60, 16 * bit + 4 : 16 * bit + 12].mean() > 115)


@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_video_gives_every_frame_in_order_with_increasing_stamps_from_0(tmp_path: Path, kind: str) -> None:
    name, codec, options = WHOLE[kind]
    frames = list(open_source(write_video(tmp_path / name, codec, options)))
    assert [index_of(frame.image) for frame in frames] == list(range(40))
    np.testing.assert_allclose([frame.stamp_s for frame in frames], np.arange(40) / RATE, atol=2e-3)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
@pytest.mark.parametrize(
    "times", [range(150, 190), [0, 1, 2, 50, 51, 200, 201], range(0, 600, 25)], ids=["late", "uneven", "slow"]
)
def test_stamps_are_those_of_the_container_and_no_whole_video_is_called_cut(
    tmp_path: Path, name: str, times: Sequence[int]
) -> None:
    frames = list(open_source(write_video(tmp_path / name, times=times)))
    np.testing.assert_allclose([frame.stamp_s for frame in frames], (np.array(times) - times[0]) / RATE, atol=2e-3)


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.93])
@pytest.mark.parametrize("kind", WHOLE)
def test_a_cut_video_gives_what_it_has_and_is_then_reported_as_cut(tmp_path: Path, kind: str, keep: float) -> None:
    name, codec, options = WHOLE[kind]
    path = write_video(tmp_path / name, codec, options)
    path.write_bytes(path.read_bytes()[: round(keep * path.stat().st_size) // 188 * 188 + 40])
    shown: list[int] = []
    with pytest.raises(DataError, match=r"clip\.\w+ is cut off (after \d+ frames|before its index)"):
        shown.extend(index_of(frame.image) for frame in open_source(path, on_bad_frame=lambda *_: None))
    assert shown == sorted(set(shown))


def test_boxes_of_a_device_and_data_that_it_appends_do_not_count_as_a_cut(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", times=range(5))
    content = path.read_bytes()
    at = int.from_bytes(content[:4], "big")  # behind the first box
    unknown = (40).to_bytes(4, "big") + b"inst" + bytes(32)
    path.write_bytes(content[:at] + unknown + content[at:] + b"SEFT" + bytes(100))
    assert len(list(open_source(write_video(tmp_path / "other.mp4", times=range(5))))) == 5
    assert not is_cut(path)


@pytest.mark.parametrize("name", ["clip.mkv", "clip.avi", "clip.mpg", "clip.mp4"])
def test_appended_bytes_do_not_count_as_a_cut(tmp_path: Path, name: str) -> None:
    codec = {"clip.avi": "mjpeg", "clip.mpg": "mpeg2video"}.get(name, "libx264")
    path = write_video(tmp_path / name, codec, times=range(5))
    end = b"\0\0\1\xb9" if name == "clip.mpg" else b""
    path.write_bytes(path.read_bytes() + end + bytes(64))
    assert len(list(open_source(path))) == 5


def test_a_damaged_frame_is_raised_or_reported_and_skipped(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", "mjpeg")
    content = path.read_bytes()
    at = content.index(b"\xff\xd8\xff", len(content) // 3)
    path.write_bytes(content[:at] + bytes(680) + content[at + 680 :])
    told: list[str] = []
    frames = list(open_source(path, on_bad_frame=lambda error, _: told.append(str(error))))
    assert len(frames) == 39
    assert len(told) == 1
    assert "clip.avi before its frame" in told[0]
    with pytest.raises(FrameError):
        list(open_source(path))


def zeroed(content: bytes, at: int, length: int) -> bytes:
    return content[:at] + bytes(length) + content[at + length :]


def replaced(content: bytes, at: int, by: bytes) -> bytes:
    return content[:at] + by + content[at + len(by) :]


def nth(content: bytes, sought: bytes, number: int) -> int:
    """Where the text occurs for this time, counted from 0."""
    position = -1
    for _ in range(number + 1):
        position = content.index(sought, position + 1)
    return position


def flv_tag(content: bytes, number: int) -> int:
    """Where the tag of this number begins."""
    position = 9 + 4
    for _ in range(number):
        position += 11 + int.from_bytes(content[position + 1 : position + 4], "big") + 4
    return position


DAMAGED = {
    "a last page without a start": (
        "clip.ogv",
        "libvpx",
        {},
        lambda content: zeroed(content, content.rindex(b"OggS"), 4),
    ),
    "a page with a wrong checksum": ("clip.ogv", "libvpx", {}, lambda content: zeroed(content, len(content) // 2, 1)),
    "a cluster without a start": (
        "clip.mkv",
        "mjpeg",
        {"cluster_size_limit": "8000"},
        lambda content: zeroed(content, content.rindex(b"\x1f\x43\xb6\x75"), 4),
    ),
    "packets without a sync byte": ("clip.ts", "mpeg2video", {}, lambda content: zeroed(content, 188 * 20, 188 * 4)),
    "a frame without a start code": (
        "clip.ts",
        "mpeg2video",
        {},
        lambda content: zeroed(content, content.rindex(b"\0\0\1\xe0"), 4),
    ),
    "something between two packs": (
        "clip.mpg",
        "mpeg2video",
        {},
        lambda content: zeroed(content, content.index(b"\0\0\1\xba", len(content) // 2), 64),
    ),
    "a cluster with a wrong checksum": ("clip.mkv", "mpeg4", {}, lambda content: zeroed(content, len(content) // 2, 1)),
    "a chunk without a name": ("clip.avi", "mpeg4", {}, lambda content: zeroed(content, nth(content, b"00dc", 100), 4)),
    "a chunk of another stream": (
        "clip.avi",
        "mpeg4",
        {},
        lambda content: replaced(content, nth(content, b"00dc", 100), b"10dc"),
    ),
    "a tag of another type": (
        "clip.flv",
        "flv",
        {},
        lambda content: replaced(content, flv_tag(content, 100), b"\x03"),
    ),
    "packets that have moved": ("clip.wmv", "wmv2", {}, lambda content: content[:5000] + content[5003:]),
    "an index of zeros": ("clip.wmv", "wmv2", {}, lambda content: zeroed(content, len(content) - 3300, 3300)),
    "packets of zeros": ("clip.wmv", "wmv2", {}, lambda content: zeroed(content, 479 + 50 + 3200, 3200)),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_frames_that_a_damaged_container_hides_are_not_left_out_silently(tmp_path: Path, kind: str) -> None:
    name, codec, options, spoil = DAMAGED[kind]
    path = write_video(tmp_path / name, codec, options, times=range(200))
    assert not is_damaged(path)
    path.write_bytes(spoil(path.read_bytes()))
    frames = open_source(path, on_bad_frame=lambda *_: None)
    read: list[Any] = []
    with pytest.raises(
        DataError, match=rf"{name} is damaged: \d+ frames could be read, and others are lost or have errors"
    ):
        read.extend(frames)
    assert 0 < len(read) < 200


def test_chunks_without_padding_and_recorders_without_lengths_are_not_damage(tmp_path: Path) -> None:
    avi = write_video(tmp_path / "clip.avi", "mpeg4", times=range(5))
    content = bytearray(avi.read_bytes())
    start = content.index(b"00dc")
    odd = next(at for at in range(start, len(content)) if content[at : at + 4] == b"00dc" and content[at + 4] % 2)
    length = int.from_bytes(content[odd + 4 : odd + 8], "little")
    del content[odd + 8 + length]  # its padding
    for at in (4, content.index(b"movi") - 4):
        content[at : at + 4] = (int.from_bytes(content[at : at + 4], "little") - 1).to_bytes(4, "little")
    avi.write_bytes(content)
    assert not is_damaged(avi)
    flv = write_video(tmp_path / "clip.flv", "flv", times=range(5))
    content, position = bytearray(flv.read_bytes()), 9 + 4
    while position < len(content):
        position += 11 + int.from_bytes(content[position + 1 : position + 4], "big") + 4
        content[position - 4 : position] = bytes(4)
    flv.write_bytes(content)
    assert not is_damaged(flv)


def test_a_frame_of_motion_jpeg_that_ends_early_is_damaged(tmp_path: Path) -> None:
    """The decoder itself would show its upper part, and below it the previous frame."""
    path = write_video(tmp_path / "clip.avi", "mjpeg")
    content = path.read_bytes()
    start = content.index(b"\xff\xda", len(content) // 2)
    path.write_bytes(zeroed(content, start + 14 + 40, 60))
    told: list[str] = []
    frames = list(open_source(path, on_bad_frame=lambda error, _: told.append(str(error))))
    assert (len(frames), len(told)) == (39, 1)


def test_frames_that_grow_are_refused_when_they_are_too_large(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.ts", times=range(5))
    with av.open(str(tmp_path / "large.ts"), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 512, 256, "yuv420p"
        for index in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((256, 512, 3), index, np.uint8), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes() + (tmp_path / "large.ts").read_bytes())
    shapes = [frame.image.shape for frame in open_source(path, on_bad_frame=lambda *_: None)]
    assert shapes.count((256, 512, 3)) > 2
    shown: list[Frame] = []
    with pytest.raises(DataError, match=r"frames of .*clip\.ts are 512 x 256; expected at most 8192 pixels"):
        shown.extend(open_source(path, max_pixels=8192, on_bad_frame=lambda *_: None))
    assert {frame.image.shape for frame in shown} == {(64, 128, 3)}


def test_a_frame_that_the_decoder_swallows_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "clip.mp4")
    decoded, calls = video._decoded, itertools.count()
    monkeypatch.setattr(video, "_decoded", lambda packet: decoded(packet) if next(calls) != 20 else [])
    told: list[str] = []
    frames = list(open_source(path, on_bad_frame=lambda error, _: told.append(str(error))))
    assert len(frames) == 39
    assert len(told) == 1


def test_text_that_is_not_utf8_in_a_video_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "PARKING DECK"
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 64, 3), np.uint8))))
        container.mux(stream.encode(None))
    content = path.read_bytes()
    assert b"PARKING" in content
    path.write_bytes(content.replace(b"PARKING", b"\xffARKING"))
    assert len(list(open_source(path))) == 1


def test_a_place_that_no_file_has_is_an_error_of_the_video(tmp_path: Path, capfd: Any) -> None:
    path = write_video(tmp_path / "clip.wmv", "wmv2")
    content = bytearray(path.read_bytes())
    content[16:24] = (2**63 + 5).to_bytes(8, "little")  # length of the header
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"clip\.wmv"):
        list(open_source(path))
    assert "Traceback" not in capfd.readouterr().err
    with video._VideoFile(path) as file:
        assert file.seek(-5) < 0
        assert file.seek(2**64) < 0
        assert file.seek(3) == 3


def test_a_frame_with_data_that_pyav_does_not_know_is_upright(tmp_path: Path) -> None:
    with av.open(str(write_video(tmp_path / "clip.mp4", times=range(3)))) as container:
        pixels = next(container.decode(video=0)).to_ndarray(format="bgr24")

    class Image:
        rotation = 90

        def to_ndarray(self, format: str) -> np.ndarray:
            assert format == "bgr24"
            return pixels

        @property
        def side_data(self) -> Any:
            raise ValueError("31 is not a valid Type")  # EXIF, in FFmpeg 8

    np.testing.assert_array_equal(video.upright(Image()), np.rot90(pixels))


@pytest.mark.parametrize(
    ("display", "upright"),
    [
        ((90,), lambda image: np.rot90(image)),
        ((180,), lambda image: np.rot90(image, 2)),
        ((270,), lambda image: np.rot90(image, 3)),
        ((0, True), lambda image: image[:, ::-1]),
        ((0, False, True), lambda image: image[::-1]),
        ((90, True), lambda image: np.rot90(image)[:, ::-1]),
    ],
)
def test_frames_are_upright_as_players_show_them(tmp_path: Path, display: tuple[Any, ...], upright: Any) -> None:
    if not hasattr(av.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV writes no display matrix")
    plain = next(open_source(write_video(tmp_path / "plain.mp4", times=range(3)))).image
    turned = next(open_source(write_video(tmp_path / "turned.mp4", times=range(3), display=display))).image
    expected = upright(plain)
    assert turned.shape == expected.shape
    assert np.abs(turned.astype(int) - expected).max() <= 2


def test_a_looped_video_continues_even_if_its_first_stamp_is_late(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mkv", times=range(100, 105))
    frames = list(itertools.islice(open_source(path, loop=True), 12))
    assert [index_of(frame.image) for frame in frames] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    np.testing.assert_allclose(np.diff([frame.stamp_s for frame in frames]), 1 / RATE, atol=2e-3)


def test_a_file_that_is_not_a_video_gives_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_bytes(b"no video")
    with wave.open(str(tmp_path / "sound.mp4"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(4000))
    for name in ("notes.mp4", "sound.mp4"):
        with pytest.raises(DataError, match=f"{name} cannot be opened as a video") as caught:
            open_source(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
@pytest.mark.parametrize("size", [0, 1, 10])
def test_a_video_of_hardly_any_bytes_gives_one_clear_error(tmp_path: Path, suffix: str, size: int) -> None:
    """PyAV seeks before the start of an empty MP4, which is an operating-system error and not one of PyAV."""
    path = write_video(tmp_path / f"clip{suffix}", times=range(3))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match=rf"clip{suffix} (is empty; |cannot be opened as a video|is cut off)"):
        open_source(path)


def test_a_name_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", times=range(3))
    renamed = path.rename(tmp_path / "clip\udce9.mp4")
    assert len(list(open_source(renamed))) == 3


def test_frames_too_large_to_decode_are_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", times=range(3))
    with pytest.raises(DataError, match=r"frames of .* are 128 x 64; expected at most 8191 pixels"):
        open_source(path, max_pixels=8191)
    assert len(list(open_source(path, max_pixels=8192))) == 3


def test_without_pyav_the_remedy_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "clip.mp4", times=range(3))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match="pip install av"):
        open_source(path)


@pytest.mark.parametrize(("name", "codec"), [("clip.mp4", "mp4v"), ("clip.avi", "MJPG")])
def test_pixels_and_stamps_are_those_of_another_reader(tmp_path: Path, name: str, codec: str) -> None:
    writer = cv2.VideoWriter(str(tmp_path / name), cv2.VideoWriter_fourcc(*codec), 10, (64, 32))
    assert writer.isOpened()
    for index in range(40):
        writer.write(np.full((32, 64, 3), 5 * index, np.uint8))
    writer.release()
    frames = list(open_source(tmp_path / name))
    capture = cv2.VideoCapture(str(tmp_path / name))
    for frame in frames:
        _, expected = capture.read()
        assert np.abs(frame.image.astype(int) - expected).max() <= 4
    assert not capture.read()[0]
    np.testing.assert_allclose([frame.stamp_s for frame in frames], np.arange(40) / 10, atol=1e-3)
