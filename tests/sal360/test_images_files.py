"""Picture files: every format is read completely or refused by name, upright, at 8 bits, under any file name."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sal360.errors import FRAME_REJECTIONS, FrameError
from sal360.images import MAX_PIXELS, decode_compressed, decode_picture, read_map_picture, read_picture, write_picture
from sal360.picture_formats import PICTURE_FORMATS, PICTURE_SUFFIXES, picture_size
from tests.pictures import FORMATS, NOISE, SMOOTH, encoded, exif, one_bit_png

BACK = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_90", "TRANSVERSE", "ROTATE_270")
"""What undoes the orientations 2 to 8."""


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read_and_its_size_known_before(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.with.any.name"
    path.write_bytes(encoded(kind))
    image = read_picture(path)
    assert image.shape == SMOOTH.shape
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - SMOOTH).mean() < 5
    assert picture_size(path.read_bytes()) == SMOOTH.shape[:2]


def test_every_format_of_the_table_is_tested() -> None:
    covered = {name for name in (each.name for each in PICTURE_FORMATS) if any(name in kind for kind in FORMATS)}
    assert covered == {each.name for each in PICTURE_FORMATS}
    assert {".jpg", ".jfif", ".png", ".avif", ".jp2", ".hdr", ".gif"} <= set(PICTURE_SUFFIXES)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.001, 0.3, 0.5, 0.8, 0.97])
def test_a_cut_picture_is_refused_with_its_name(kind: str, share: float, tmp_path: Path) -> None:
    content = encoded(kind)
    path = tmp_path / "cut.jpg"
    path.write_bytes(content[: max(1, round(share * len(content)))])
    with pytest.raises(FrameError, match=r"cut\.jpg") as caught:
        read_picture(path)
    assert caught.value.reason == "unreadable_picture"


@pytest.mark.parametrize("kind", ["JPEG", "progressive JPEG", "JPEG with restart marks"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9, 0.97])
@pytest.mark.parametrize("behind", [b"\xff\xd9", b"\xff\xd9" + bytes(5000)], ids=["end mark", "end mark and zeros"])
def test_a_cut_jpeg_is_refused_even_with_an_appended_end_marker(kind: str, share: float, behind: bytes) -> None:
    content = encoded(kind)
    cut = content[: round(share * len(content))] + behind
    with pytest.raises(FrameError, match=r"half\.jpg is damaged or cut"):
        decode_picture(cut, "half.jpg")
    with pytest.raises(FrameError, match="damaged or cut") as caught:
        decode_compressed(cut, min_height=16)
    assert caught.value.reason == "corrupt_jpeg"


def test_the_end_mark_of_a_thumbnail_does_not_close_a_cut_jpeg() -> None:
    content = encoded("JPEG")
    cut = content[:2] + b"\xff\xe1\x00\x08Exif\xff\xd9" + content[2 : len(content) // 2]
    with pytest.raises(FrameError, match="damaged or cut"):
        decode_compressed(cut)


@pytest.mark.parametrize("kind", ["JPEG", "progressive JPEG", "JPEG with restart marks"])
def test_a_plain_grey_jpeg_is_whole(kind: str) -> None:
    """Its blocks look like those that a cut JPEG lacks."""
    grey = np.full((64, 128, 3), 128, np.uint8)
    content = encoded(kind, grey)
    np.testing.assert_array_equal(decode_picture(content, "grey.jpg"), grey)
    with pytest.raises(FrameError, match="damaged or cut"):
        decode_picture(content[: -len(content) // 5] + b"\xff\xd9", "grey.jpg")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("behind", [bytes(5), bytes(5000), bytes(300_000)], ids=len)
def test_zeros_behind_a_picture_do_not_matter(kind: str, behind: bytes) -> None:
    content = encoded(kind)
    np.testing.assert_array_equal(decode_picture(content + behind, "padded"), decode_picture(content, "whole"))
    if kind == "JPEG":
        assert decode_compressed(content + behind)[0].shape == SMOOTH.shape


@pytest.mark.parametrize("kind", ["lossy WebP", "lossless WebP", "JPEG 2000", "JPEG", "PNG"])
def test_a_lost_end_that_was_filled_with_zeros_is_noticed(kind: str) -> None:
    content = encoded(kind)
    kept = len(content) * 2 // 3
    with pytest.raises(FrameError, match="damaged or cut"):
        decode_picture(content[:kept] + bytes(len(content) - kept), "zeros")


@pytest.mark.parametrize("kind", ["JPEG", "JPEG with restart marks", "PNG", "AVIF", "GIF", "TIFF"])
def test_data_damaged_in_the_middle_are_refused(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    content = bytearray(encoded(kind, NOISE))
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(value ^ 0x55 for value in content[middle : middle + 64])
    with pytest.raises(FrameError, match="damaged or cut"):
        decode_picture(bytes(content), "damaged")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", FORMATS)
def test_decoders_print_nothing_beside_the_error(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    content = encoded(kind)
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(FrameError):
            decode_picture(content[: round(share * len(content))] + b"\xff\xd9", "cut")
    assert capfd.readouterr().err == ""


def test_a_few_extra_bytes_as_sent_by_cameras_are_not_damage(capfd: pytest.CaptureFixture[str]) -> None:
    content = encoded("JPEG")
    longer = content[:-2] + b"\x12\x34\x56" + content[-2:]
    np.testing.assert_array_equal(decode_compressed(longer)[0], decode_compressed(content)[0])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "lossy WebP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_are_turned_upright_and_messages_are_not(kind: str, orientation: int) -> None:
    transposes = [
        None,
        "FLIP_LEFT_RIGHT",
        "ROTATE_180",
        "FLIP_TOP_BOTTOM",
        "TRANSPOSE",
        "ROTATE_90",
        "TRANSVERSE",
        "ROTATE_270",
    ]
    stored = SMOOTH
    if orientation > 1:
        stored = np.asarray(Image.fromarray(SMOOTH).transpose(Image.Transpose[transposes[orientation - 1]]))
    content = encoded(kind, stored, exif=exif(orientation))
    upright = decode_picture(content, "camera upside down")
    assert upright.shape == SMOOTH.shape
    assert np.abs(upright.astype(int) - SMOOTH).mean() < 5
    if kind in ("JPEG", "PNG"):
        sent, _ = decode_compressed(content)
        assert np.abs(sent.astype(int) - stored).mean() < 5


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".jp2", ".pgm"])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_16_bit_files_are_scaled_by_the_bits_that_they_use(suffix: str, bits: int) -> None:
    values = np.linspace(0, 2**bits - 1, 32 * 64).astype(np.uint16).reshape(32, 64)
    image = decode_picture(cv2.imencode(suffix, values)[1].tobytes(), "deep")
    np.testing.assert_array_equal(image[..., 0], (values >> (bits - 8)).astype(np.uint8))


def test_linear_light_gets_the_curve_of_a_screen() -> None:
    light = np.float32([[0, 0.0031308, 0.2140, 1.0, 40.0]]).repeat(8, axis=0)
    image = decode_picture(cv2.imencode(".tiff", np.stack([light] * 3, axis=-1))[1].tobytes(), "linear")
    assert image[0, :, 0].tolist() == [0, 10, 127, 255, 255]


def test_the_names_of_files_may_be_any_bytes(tmp_path: Path) -> None:
    """OpenCV 5 ends the process where a name is not UTF-8."""
    name = os.fsencode(tmp_path) + b"/b_caf\xe9.png"
    path = Path(os.fsdecode(name))
    write_picture(path, SMOOTH)
    np.testing.assert_array_equal(read_picture(path), SMOOTH)
    np.testing.assert_allclose(read_map_picture(path), cv2.cvtColor(SMOOTH, cv2.COLOR_BGR2GRAY), atol=1)
    path.write_bytes(b"nothing")
    with pytest.raises(FrameError) as caught:
        read_picture(path)
    assert r"b_caf\udce9.png" in str(caught.value)
    str(caught.value).encode("utf-8")


def test_a_large_jpeg_file_is_decoded_no_larger_than_needed_and_upright() -> None:
    content = encoded("JPEG", np.rot90(SMOOTH), exif=exif(6))
    assert decode_picture(content, "large", min_height=20).shape == (32, 64, 3)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"no picture at all", "starts with bytes 6e 6f 20 70"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "is in the format HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "is in the format MP4 or MOV; .*; rename it to end in .mp4"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ],
)
def test_a_file_that_is_not_a_picture_is_reported(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(FrameError, match=said) as caught:
        read_picture(tmp_path / "a.jpg")
    assert str(tmp_path / "a.jpg") in str(caught.value)
    assert caught.value.reason == "unreadable_picture"


@pytest.mark.parametrize(
    ("marker", "bits", "said"),
    [(0xC1, 12, "12 bits a sample"), (0xC3, 8, "lossless compression"), (0xC5, 8, "hierarchical compression")],
)
def test_a_jpeg_that_opencv_does_not_read_is_not_called_damaged(marker: int, bits: int, said: str) -> None:
    content = encoded("JPEG")
    start = content.index(b"\xff\xc0")
    content = (
        content[: start + 1] + bytes([marker]) + content[start + 2 : start + 4] + bytes([bits]) + content[start + 5 :]
    )
    with pytest.raises(FrameError, match=f"a.jpg is a JPEG with {said}, which OpenCV does not read; convert it"):
        decode_picture(content, "a.jpg")


def test_a_format_that_opencv_was_built_without_is_not_called_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: None)
    monkeypatch.setattr(cv2, "haveImageWriter", lambda name: not name.endswith(".avif"))
    with pytest.raises(FrameError, match=r"AVIF, which OpenCV .* was built without; convert"):
        decode_picture(encoded("AVIF"), "a.avif")


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FrameError, match=r"nowhere\.jpg does not exist") as caught:
        read_picture(tmp_path / "nowhere.jpg")
    assert caught.value.reason == "missing"
    with pytest.raises(FrameError, match="is a folder"):
        read_picture(tmp_path)
    (tmp_path / "a.jpg").write_bytes(encoded("JPEG"))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(FrameError, match=r"no permission to read .*a\.jpg; change its permissions"):
        read_picture(tmp_path / "a.jpg")


def test_an_empty_device_or_pipe_is_not_to_be_removed() -> None:
    with pytest.raises(FrameError, match="/dev/null is empty; name a file or a pipe with a picture"):
        read_picture("/dev/null")


def test_a_picture_may_come_through_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(encoded("PNG"),))
    writer.start()
    np.testing.assert_array_equal(read_picture(tmp_path / "pipe"), SMOOTH)
    writer.join()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_picture_of_more_pixels_than_allowed_is_refused_before_it_is_decoded(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "large").write_bytes(encoded(kind))
    read_picture(tmp_path / "large", max_pixels=128 * 256)
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(FrameError, match=r"large is 256 x 128 pixels; expected at most 32767") as caught:
        read_picture(tmp_path / "large", max_pixels=128 * 256 - 1)
    assert caught.value.reason == "too_large"


def tiff_with_sides(*sides: tuple[int, int, int]) -> bytes:
    """An uncompressed TIFF of 32 x 16 black pixels; `sides` are the entries (tag, type, value) for width and height."""
    others = [(258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 0), (277, 3, 1), (278, 4, 16), (279, 4, 512)]
    entries = [*sides, *others]
    start = 8 + 2 + 12 * len(entries) + 4
    entries = [(tag, kind, start if tag == 273 else value) for tag, kind, value in entries]
    packed = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    directory = struct.pack("<H", len(entries)) + packed + bytes(4)
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(512)


def disguised(kind: str) -> bytes:
    """A picture of 256 x 128 or 32 x 16 pixels that also contains a smaller size, where no decoder looks for it."""
    if kind == "a codestream in an XML box":
        content = encoded("JPEG 2000")
        start = content.index(b"jp2c") - 4
        smaller = b"\xff\x4f\xff\x51" + struct.pack(">HHIIII", 47, 0, 8, 4, 0, 0)
        return content[:start] + struct.pack(">I", 8 + len(smaller)) + b"xml " + smaller + content[start:]
    if kind == "a size in the header of an HDR":
        return encoded("Radiance HDR").replace(b"\n", b"\n-Y 4 +X 8\n", 1)
    if kind == "a repeated entry of a TIFF":
        return tiff_with_sides((256, 4, 32), (256, 4, 8), (257, 4, 16), (257, 4, 4))
    if kind == "an offset of a TIFF":
        return tiff_with_sides((256, 16, 8), (257, 16, 8))  # 64-bit values, which are stored elsewhere
    return b"P6\n#\r256 128 255\n#\n8 4 255\n" + bytes(3 * 256 * 128)


@pytest.mark.parametrize(
    "kind",
    [
        "a codestream in an XML box",
        "a size in the header of an HDR",
        "a repeated entry of a TIFF",
        "an offset of a TIFF",
        "a comment of a PNM that ends with another line break",
    ],
)
def test_the_size_that_is_judged_is_the_one_that_is_decoded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = disguised(kind)
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(FrameError, match=r"is (256 x 128|32 x 16) pixels; expected at most 511|is damaged"):
        decode_picture(content, "disguised", max_pixels=511)


def test_a_damaged_frame_of_an_animated_png_is_refused() -> None:
    content = bytearray(encoded("PNG", NOISE, save_all=True, append_images=[Image.new("RGB", (256, 128))]))
    assert b"acTL" in content
    np.testing.assert_array_equal(decode_picture(bytes(content), "animated"), NOISE)
    # one byte inside a stored block, or a literal: the compressed data stay readable
    start = content.index(b"IDAT") + 1000
    for position in range(start, start + 40):
        spoilt = content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        with pytest.raises(FrameError, match="damaged or cut"):
            decode_picture(bytes(spoilt), "animated")


@pytest.mark.parametrize("white", [1, 15, 100, 255])
@pytest.mark.parametrize("kind", [b"P5", b"P2"])
def test_the_white_of_a_pnm_is_what_its_header_states(kind: bytes, white: int) -> None:
    values = np.linspace(0, white, 64).astype(np.uint8).repeat(8).reshape(64, 8).T
    samples = values.tobytes() if kind == b"P5" else b" ".join(b"%d" % each for each in values.ravel())
    image = decode_picture(kind + b"\n# a comment\n64 8\n%d\n" % white + samples + b"\n", "grey")
    np.testing.assert_allclose(image[..., 1], values * (255 / white), atol=1)


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "AVIF"])
def test_maps_are_turned_upright_like_pictures(kind: str, orientation: int, tmp_path: Path) -> None:
    (tmp_path / "map").write_bytes(encoded(kind, SMOOTH, exif=exif(orientation)))
    grey = cv2.cvtColor(read_picture(tmp_path / "map"), cv2.COLOR_BGR2GRAY)
    assert np.abs(read_map_picture(tmp_path / "map") - grey).mean() < 3


def test_samples_of_an_unusual_type_are_refused_with_the_name(tmp_path: Path) -> None:
    (tmp_path / "signed.tiff").write_bytes(cv2.imencode(".tiff", np.zeros((8, 16, 3), np.int16))[1].tobytes())
    with pytest.raises(FrameError, match=r"signed\.tiff") as caught:
        read_picture(tmp_path / "signed.tiff")
    assert caught.value.reason == "unreadable_picture"


def test_a_file_of_more_bytes_than_any_picture_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "disk.jpg", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FrameError, match="holds 1099511627776 bytes") as caught:
        read_picture(tmp_path / "disk.jpg")
    assert caught.value.reason == "too_large"


def test_a_small_png_of_a_giant_picture_takes_no_memory(repository: Path) -> None:
    content = one_bit_png(16384, 16384)
    assert len(content) < 40_000
    assert MAX_PIXELS < 16384**2
    script = (
        "import resource, sys\n"
        "from sal360.errors import FrameError\n"
        "from sal360.images import decode_compressed, decode_picture\n"
        "content = sys.stdin.buffer.read()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for decode in (decode_compressed, lambda data: decode_picture(data, 'bomb')):\n"
        "    try: decode(content)\n"
        "    except FrameError as error: print(error.reason)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run([sys.executable, "-c", script], input=content, capture_output=True, env=environment)
    first, second, megabytes = done.stdout.decode().split()
    assert (first, second) == ("too_large", "too_large")
    assert int(megabytes) < 16


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg"])
def test_a_written_picture_is_read_again(suffix: str, tmp_path: Path) -> None:
    write_picture(tmp_path / "new" / f"a{suffix}", SMOOTH)
    assert np.abs(read_picture(tmp_path / "new" / f"a{suffix}").astype(int) - SMOOTH).mean() < 2


def test_a_picture_in_a_format_that_is_not_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'\.txt'"):
        write_picture(tmp_path / "a.txt", SMOOTH)


@settings(max_examples=300)
@given(
    kind=st.sampled_from(FORMATS),
    cut=st.floats(0, 1.2),
    edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
)
def test_no_damaged_file_raises_anything_but_a_frame_error(kind: str, cut: float, edits: list[tuple[int, int]]) -> None:
    content = bytearray(encoded(kind, SMOOTH[:32, :64])[: round(cut * 4000)])
    for position, value in edits:
        if position < len(content):
            content[position] = value
    try:
        image = decode_picture(bytes(content), "damaged", max_pixels=2**20)
    except FrameError as refusal:
        outcome = refusal.reason in FRAME_REJECTIONS
    else:
        outcome = image.dtype == np.uint8 and image.shape[2] == 3
    assert outcome
