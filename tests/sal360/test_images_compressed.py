from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sal360.errors import FRAME_REJECTIONS, FrameError
from sal360.images import MAX_PIXELS, decode_compressed


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_compressed_picture_decodes_whole(suffix: str) -> None:
    row, column = np.mgrid[0:16, 0:32]
    picture = np.stack([60 + 4 * column, 60 + 8 * row, 200 - 3 * column], axis=-1).astype(np.uint8)  # smooth RGB
    content = cv2.imencode(suffix, picture[..., ::-1])[1]
    image, channels = decode_compressed(content)
    assert channels == "bgr"
    assert np.abs(image[..., ::-1].astype(int) - picture).mean() < 4


@pytest.mark.parametrize(
    ("min_height", "decoded_height"),
    [(0, 64), (65, 64), (64, 64), (33, 64), (32, 32), (17, 32), (16, 16), (8, 8), (1, 8)],
)
def test_a_large_jpeg_is_decoded_no_larger_than_needed(min_height: int, decoded_height: int) -> None:
    content = cv2.imencode(".jpg", np.full((64, 128, 3), 120, np.uint8))[1].tobytes()
    image, _ = decode_compressed(content, min_height=min_height)
    assert image.shape == (decoded_height, 2 * decoded_height, 3)


def noisy(suffix: str) -> bytes:
    noise = np.random.default_rng(3).integers(0, 256, (48, 96, 3), np.uint8)
    return cv2.imencode(suffix, noise)[1].tobytes()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty_data"),
        (b"GIF89a" + bytes(50), "unknown_compression"),
        (noisy(".jpg")[:1500], "corrupt_jpeg"),
        (noisy(".jpg")[:6], "corrupt_jpeg"),
        (noisy(".png")[:1500], "corrupt_png"),
        (noisy(".png")[:20], "corrupt_png"),
        (b"\xff\xd8\xff" + bytes(4000), "corrupt_jpeg"),
    ],
)
def test_a_broken_compressed_picture_is_refused_with_its_reason(content: bytes, reason: str) -> None:
    with pytest.raises(FrameError) as caught:
        decode_compressed(content)
    assert caught.value.reason == reason


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_header_that_claims_a_giant_picture_is_refused_before_memory_is_taken(suffix: str) -> None:
    content = bytearray(noisy(suffix))
    if suffix == ".jpg":
        header = content.index(b"\xff\xc0")
        content[header + 5 : header + 9] = b"\xff\xff\xff\xff"
    else:
        content[16:24] = (50_000).to_bytes(4, "big") * 2
    assert MAX_PIXELS < 50_000**2
    with pytest.raises(FrameError, match=f"at most {MAX_PIXELS}") as caught:
        decode_compressed(bytes(content))
    assert caught.value.reason == "too_large"


@pytest.mark.parametrize("options", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]], ids=["baseline", "progressive"])
def test_a_jpeg_without_a_bit_for_each_block_is_refused_before_memory_is_taken(
    monkeypatch: pytest.MonkeyPatch, options: list[int]
) -> None:
    content = bytearray(cv2.imencode(".jpg", np.zeros((8, 16, 3), np.uint8), options)[1])
    header = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
    assert decode_compressed(bytes(content))[0].shape == (8, 16, 3)
    content[header + 5 : header + 9] = (5000).to_bytes(2, "big") + (10_000).to_bytes(2, "big")
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(FrameError, match="damaged or cut") as caught:
        decode_compressed(bytes(content))
    assert caught.value.reason == "corrupt_jpeg"


@pytest.mark.parametrize("options", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]], ids=["baseline", "progressive"])
def test_the_emptiest_jpeg_is_whole(options: list[int]) -> None:
    options = [*options, cv2.IMWRITE_JPEG_QUALITY, 1, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    content = cv2.imencode(".jpg", np.zeros((512, 1024, 3), np.uint8), options)[1]
    assert decode_compressed(content)[0].max() <= 1


@settings(max_examples=400, deadline=None)
@given(
    suffix=st.sampled_from([".jpg", ".png"]),
    cut=st.integers(0, 12_000),
    edits=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8),
    min_height=st.integers(0, 100),
)
def test_no_damaged_compressed_picture_raises_anything_but_a_frame_error(
    suffix: str, cut: int, edits: list[tuple[int, int]], min_height: int
) -> None:
    content = bytearray(noisy(suffix)[:cut])
    for position, value in edits:
        if position < len(content):
            content[position] = value
    try:
        image, _ = decode_compressed(bytes(content), min_height=min_height)
    except FrameError as refusal:
        outcome = refusal.reason in FRAME_REJECTIONS
    else:
        outcome = image.shape[2] == 3
    assert outcome
