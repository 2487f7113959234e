from __future__ import annotations

import array

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sal360.errors import FRAME_REJECTIONS, FrameError
from sal360.images import RAW_ENCODINGS, decode_image


@pytest.fixture
def picture() -> np.ndarray:
    """A smooth RGB gradient, (16, 32, 3) uint8, that chroma subsampling and demosaicing hardly change."""
    row, column = np.mgrid[0:16, 0:32]
    return np.stack([60 + 4 * column, 60 + 8 * row, 200 - 3 * column], axis=-1).astype(np.uint8)


def padded(rows: np.ndarray, padding: int) -> tuple[bytes, int]:
    """The bytes of each row followed by `padding` bytes of rubbish, and the step."""
    flat = rows.reshape(rows.shape[0], -1)
    flat = np.concatenate([flat, np.full((flat.shape[0], padding), 77, np.uint8)], axis=1)
    return flat.tobytes(), flat.shape[1]


def wide(samples: np.ndarray, byte_order: str) -> np.ndarray:
    """8-bit samples as 16-bit ones with noise in the lower byte, as rows of bytes."""
    noise = np.random.default_rng(0).integers(0, 256, samples.shape)
    return (samples.astype(np.int64) * 256 + noise).astype(f"{byte_order}u2").view(np.uint8)


def mosaic(picture: np.ndarray, pattern: str) -> np.ndarray:
    """What a sensor with that colour filter sees, (H, W)."""
    raw = np.empty(picture.shape[:2], np.uint8)
    for index, colour in enumerate(pattern):
        row, column = divmod(index, 2)
        raw[row::2, column::2] = picture[row::2, column::2, "rgb".index(colour)]
    return raw


def in_rgb(decoded: tuple[np.ndarray, str]) -> np.ndarray:
    image, channels = decoded
    return image[..., ::-1] if channels == "bgr" else image


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("encoding", RAW_ENCODINGS)
def test_every_encoding_gives_the_picture_it_was_made_of(
    picture: np.ndarray, encoding: str, byte_order: str, padding: int
) -> None:
    height, width = picture.shape[:2]
    alpha = np.full((height, width, 1), 9, np.uint8)
    yuv = cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420)  # (3/2 H, W): planes Y, U, V
    luma, chroma_u, chroma_v = np.split(yuv.reshape(-1), [height * width, height * width * 5 // 4])
    luma = luma.reshape(height, width)
    u, v = (plane.reshape(height // 2, width // 2) for plane in (chroma_u, chroma_v))
    tall_u, tall_v = np.repeat(u, 2, axis=0), np.repeat(v, 2, axis=0)
    uyvy = np.stack([tall_u, luma[:, ::2], tall_v, luma[:, 1::2]], axis=-1).reshape(height, -1)
    yuyv = np.stack([luma[:, ::2], tall_u, luma[:, 1::2], tall_v], axis=-1).reshape(height, -1)
    eight_bit = {
        "rgb8": picture,
        "bgr8": picture[..., ::-1],
        "8UC3": picture[..., ::-1],
        "mono8": picture[..., 0],
        "8UC1": picture[..., 0],
        "rgba8": np.concatenate([picture, alpha], axis=-1),
        "bgra8": np.concatenate([picture[..., ::-1], alpha], axis=-1),
        "8UC4": np.concatenate([picture[..., ::-1], alpha], axis=-1),
        "uyvy": uyvy,
        "yuv422": uyvy,
        "yuyv": yuyv,
        "yuv422_yuy2": yuyv,
        "nv12": np.concatenate([luma, np.stack([u, v], axis=-1).reshape(height // 2, width)]),
        "nv21": np.concatenate([luma, np.stack([v, u], axis=-1).reshape(height // 2, width)]),
    }
    if encoding.startswith("bayer_"):
        rows = mosaic(picture, encoding.removeprefix("bayer_").rstrip("0123456789"))
    else:
        rows = eight_bit[encoding.replace("16", "8")]
    if encoding.endswith("16"):
        rows = wide(np.ascontiguousarray(rows), byte_order)
    data, step = padded(np.ascontiguousarray(rows), padding)

    decoded = in_rgb(decode_image(encoding, height, width, step, data, is_bigendian=byte_order == ">"))

    assert decoded.shape == (height, width, 3)
    assert decoded.dtype == np.uint8
    expected = picture[..., :1].repeat(3, axis=-1) if "mono" in encoding or encoding == "8UC1" else picture
    exact = (
        encoding in ("rgb8", "bgr8", "8UC3", "8UC1", "rgba8", "bgra8", "8UC4") or "16" in encoding or "mono" in encoding
    )
    if exact and "bayer" not in encoding:
        np.testing.assert_array_equal(decoded, expected)
    else:  # borders of a mosaic have no neighbours to interpolate from
        inside = np.s_[2:-2, 2:-2]
        assert np.abs(decoded[inside].astype(int) - expected[inside]).max() <= 10


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "mono8"])
def test_hot_encodings_are_views_of_the_message(encoding: str) -> None:
    data = array.array("B", bytes(4 * 8 * 3))
    image, _ = decode_image(encoding, 4, 8, 24, data)
    data[0] = 99
    assert image[0, 0, 0] == 99


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"encoding": "32FC1"}, "unknown_encoding"),
        ({"encoding": ""}, "unknown_encoding"),
        ({"height": 0}, "zero_size"),
        ({"width": 0}, "zero_size"),
        ({"data": b""}, "empty_data"),
        ({"step": 23}, "bad_step"),
        ({"step": 0}, "bad_step"),
        ({"data": bytes(4 * 24 - 1)}, "short_data"),
        ({"step": 25}, "short_data"),
        ({"height": 2**32 - 1, "step": 2**32 - 1}, "short_data"),
        ({"encoding": "uyvy", "width": 7}, "bad_size"),
        ({"encoding": "nv12", "height": 3}, "bad_size"),
        ({"encoding": "nv12", "height": 4, "data": bytes(4 * 24)}, "short_data"),
        ({"max_pixels": 31}, "too_large"),
    ],
)
def test_a_malformed_image_is_refused_with_its_reason(change: dict[str, object], reason: str) -> None:
    message = {"encoding": "rgb8", "height": 4, "width": 8, "step": 24, "data": bytes(4 * 24)} | change
    with pytest.raises(FrameError) as caught:
        decode_image(**message)  # type: ignore[arg-type]
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("encoding", ["mono16", "rgb16", "bayer_rggb16"])
def test_16_bit_samples_are_scaled_by_the_bits_that_they_use(encoding: str, byte_order: str, bits: int) -> None:
    channels = 3 if encoding == "rgb16" else 1
    values = np.linspace(0, 2**bits - 1, 16 * 32 * channels).astype(int).reshape(16, 32, channels)
    data = values.astype(f"{byte_order}u2").tobytes()
    image, _ = decode_image(encoding, 16, 32, 32 * channels * 2, data, byte_order == ">")
    expected = (values >> (bits - 8)).astype(np.uint8)
    if encoding == "bayer_rggb16":
        expected = cv2.cvtColor(expected[..., 0], cv2.COLOR_BayerRGGB2RGB)
    np.testing.assert_array_equal(image, np.broadcast_to(expected, image.shape))


def test_the_opacity_does_not_decide_how_bright_a_16_bit_picture_is() -> None:
    values = np.full((16, 32, 4), 2000, "<u2")
    values[..., 3] = 65535
    image, _ = decode_image("bgra16", 16, 32, 256, values.tobytes())
    assert (image == 2000 >> 4).all()


SIZES = st.one_of(st.integers(0, 40), st.integers(0, 2**32 - 1))


@settings(max_examples=1000, deadline=None)
@given(
    encoding=st.one_of(st.sampled_from(RAW_ENCODINGS), st.text(max_size=12)),
    height=SIZES,
    width=SIZES,
    step=st.one_of(SIZES, st.integers(0, 200)),
    data=st.integers(0, 6000).map(bytes),
    is_bigendian=st.booleans(),
)
def test_no_random_image_raises_anything_but_a_frame_error(
    encoding: str, height: int, width: int, step: int, data: bytes, is_bigendian: bool
) -> None:
    try:
        image, _ = decode_image(encoding, height, width, step, data, is_bigendian)
    except FrameError as refusal:
        outcome = refusal.reason in FRAME_REJECTIONS
    else:
        outcome = image.shape == (height, width, 3)
    assert outcome
