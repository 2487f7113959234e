from __future__ import annotations

import sys

import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from sal360.errors import FrameError
from sal360_ros.messages import decode_frame, frame_size, image_message, picture_message, stamp_nanoseconds

pytestmark = pytest.mark.ros
random = np.random.default_rng(0)
HEADER = Header(frame_id="theta")


@pytest.mark.parametrize(
    ("pixels", "encoding"),
    [
        (random.integers(0, 256, (4, 6), np.uint8), "mono8"),
        (random.integers(-9, 9, (4, 6), np.int8), "8SC1"),
        (random.random((4, 6), np.float32), "32FC1"),
        (random.integers(0, 256, (4, 6, 3), np.uint8), "bgr8"),
        (random.integers(0, 256, (8, 12, 3), np.uint8)[::2, ::2], "bgr8"),  # strided
    ],
)
def test_rows_lie_packed_as_the_encoding_says(pixels, encoding):
    message = image_message(pixels, encoding, HEADER)
    assert (message.height, message.width, message.encoding) == (*pixels.shape[:2], encoding)
    assert message.step == pixels[0].size * pixels.itemsize
    np.testing.assert_array_equal(np.frombuffer(message.data, pixels.dtype), pixels.ravel())
    assert message.header == HEADER


def test_an_array_of_another_type_than_the_encodings_is_refused():
    with pytest.raises(ValueError, match="float64 is not 32FC1"):
        image_message(np.zeros((2, 4)), "32FC1", HEADER)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
def test_hot_encodings_are_read_without_a_copy(encoding):
    message = image_message(random.integers(0, 256, (4, 8, 3), np.uint8), encoding, HEADER)
    image, channels = decode_frame(message)
    message.data[0] ^= 255
    assert image[0, 0, 0] == message.data[0]
    assert channels == encoding[:3]


@pytest.mark.filterwarnings("ignore:.*tostring.*:DeprecationWarning")
def test_pictures_for_viewing_are_bgr8_under_the_given_header():
    picture = random.integers(0, 256, (4, 8, 3), np.uint8)
    message = picture_message(picture, HEADER)
    assert (message.encoding, message.step, message.header) == ("bgr8", 24, HEADER)
    np.testing.assert_array_equal(decode_frame(message)[0], picture)


def test_a_broken_cv_bridge_is_named(monkeypatch, tmp_path):
    (tmp_path / "cv_bridge.py").write_text("raise ImportError('built for another numpy')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv_bridge", raising=False)
    with pytest.raises(FrameError, match=r"cv_bridge failed .* expected a cv_bridge that matches the installed numpy"):
        picture_message(np.zeros((2, 4, 3), np.uint8), HEADER)


def test_a_compressed_frame_has_the_size_that_its_header_gives():
    import cv2

    message = CompressedImage()
    message.data.frombytes(cv2.imencode(".jpg", np.zeros((64, 128, 3), np.uint8))[1].data)
    assert frame_size(message) == (64, 128)
    assert decode_frame(message, min_height=16)[0].shape == (16, 32, 3)


def test_stamps_that_are_not_valid_times_are_converted_anyway():
    header = Header()
    header.stamp.sec, header.stamp.nanosec = -5, 4_000_000_000
    assert stamp_nanoseconds(header) == -1_000_000_000


@pytest.mark.filterwarnings("ignore:.*tostring.*:DeprecationWarning")
def test_pictures_for_viewing_need_no_cv_bridge(monkeypatch):
    picture = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    with_it = picture_message(picture, Header(frame_id="camera"))
    monkeypatch.setitem(sys.modules, "cv_bridge", None)  # as where it is not installed
    assert picture_message(picture, Header(frame_id="camera")) == with_it
