"""Random messages and parameter values for `fuzz_node.py`: valid, strange, contradictory and garbled ones."""

from __future__ import annotations

import array
import math
import random
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Quaternion
from nav_msgs.msg import Odometry
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image, Imu
from std_msgs.msg import Header

from sal360.images import RAW_ENCODINGS
from sal360.settings import Rule, Value
from sal360_ros.messages import image_message

HEIGHT = 32
MAX_SIDE_PX = 2048
"""Of the outputs; the memory for larger ones hides what grows."""
_UNKNOWN_ENCODINGS = (
    "",
    "xyz",
    "RGB8",
    "rgb8 ",
    "jpeg",
    "32FC1",
    "64FC4",
    "8UC5",
    "16UC1",
    "bayer",
    "é" * 300,
    "rgb\t8",
)
_SIDES = (0, 1, 2, 3, 7, 16, 31, 32, 33, 63, 64, 65, 128, 641, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
_FORMATS = ("jpeg", "png", "rgb8; jpeg compressed bgr8", "", "tiff", "h264", "16UC1; compressedDepth png", "x" * 500)
_NUMBERS = (0.0, -0.0, 1.0, -1.0, 1e-300, 1e300, math.inf, -math.inf, math.nan, 0.5)


class RandomMessages:
    """Makes messages; every call of a method draws another one.

    Args:
        now_s: the time that good stamps are near to, seconds.
    """

    def __init__(self, rng: random.Random, now_s: Callable[[], float]) -> None:
        self._rng, self._now_s = rng, now_s
        self._last = Time()
        picture = cv2.resize(np.random.default_rng(1).integers(0, 256, (4, 8, 3), np.uint8), (2 * HEIGHT, HEIGHT))
        self._picture = np.asarray(picture, np.uint8)
        self._files = {each: cv2.imencode(f".{each}", picture)[1].tobytes() for each in ("jpg", "png", "webp", "bmp")}
        self._frames = {
            size: np.random.default_rng(size).integers(0, 256, (size, 2 * size, 3), np.uint8) for size in (64, 480, 960)
        }

    # --- what must be answered ---

    def good_frame(self, transport: str, stamp: Time) -> Image | CompressedImage:
        """A frame that an active node answers."""
        header = Header(frame_id="fuzz", stamp=stamp)
        if transport == "raw":
            return image_message(self._picture, "bgr8", header)
        return CompressedImage(header=header, format="jpeg", data=array.array("B", self._files["jpg"]))

    # --- the others ---

    def image(self) -> Image | bytes:
        """An Image, or bytes that should be one."""
        kinds = (self._strange_image, self._plausible_image, self._large_image, self._garbled_image)
        return self._rng.choices(kinds, (50, 43, 1, 6))[0]()

    def compressed(self) -> CompressedImage | bytes:
        """A CompressedImage, or bytes that should be one."""
        content = self._rng.choice(list(self._files.values()))
        kind = self._rng.randrange(8)
        if kind < 4:
            content = self._spoilt(content)
        elif kind == 4:
            content = self._huge_header()
        elif kind == 5:
            content = self._rng.randbytes(self._rng.choice((0, 1, 3, 100, 5000)))
        message = CompressedImage(header=self._header(), format=self._rng.choice(_FORMATS))
        message.data = array.array("B", content)
        return self._garbled(message) if self._rng.random() < 0.06 else message

    def imu(self) -> Imu | bytes:
        """An Imu, or bytes that should be one."""
        message = Imu(header=self._header(), orientation=self._quaternion())
        if self._rng.random() < 0.1:
            message.orientation_covariance[0] = self._rng.choice((-1.0, math.nan, 1e300))
        return self._garbled(message) if self._rng.random() < 0.05 else message

    def odometry(self) -> Odometry | bytes:
        """An Odometry, or bytes that should be one."""
        message = Odometry(header=self._header(), child_frame_id=self._rng.choice(("", "base_link", "é")))
        message.pose.pose.orientation = self._quaternion()
        return self._garbled(message) if self._rng.random() < 0.05 else message

    def _header(self) -> Header:
        return Header(frame_id=self._rng.choice(("fuzz", "", "/", "a b", "ü" * 200)), stamp=self.stamp())

    def stamp(self) -> Time:
        """A time: now, the last one again, zero, long ago, in the far future, or out of its range."""
        kind = self._rng.randrange(10)
        if kind == 0:
            return self._last
        seconds = self._now_s()
        if kind < 5:
            seconds += self._rng.choice((0.0, -0.01, -3600.0, 3600.0))
            self._last = Time(sec=int(seconds), nanosec=int(seconds % 1 * 1e9))
        else:
            sides = (0, 1, -1, 2**31 - 1, -(2**31), self._rng.randrange(2**31))
            self._last = Time(sec=self._rng.choice(sides), nanosec=self._rng.choice((0, 1, 999_999_999, 2**32 - 1)))
        return self._last

    def _quaternion(self) -> Quaternion:
        kind = self._rng.randrange(4)
        if kind == 0:
            return Quaternion(**{axis: self._rng.choice(_NUMBERS) for axis in "xyzw"})
        scale = 1.0 if kind == 1 else self._rng.choice((0.0, 1e-200, 0.5, 2.0, 1e200))
        x, y, z, w = (self._rng.gauss(0, 1) for _ in range(4))
        length = math.hypot(x, y, z, w)
        return Quaternion(x=scale * x / length, y=scale * y / length, z=scale * z / length, w=scale * w / length)

    def _strange_image(self) -> Image:
        """Fields that contradict each other."""
        rng = self._rng
        message = Image(header=self._header(), encoding=rng.choice((*RAW_ENCODINGS, *_UNKNOWN_ENCODINGS)))
        message.height, message.width = rng.choice(_SIDES), rng.choice(_SIDES)
        message.step = rng.choice((0, 1, message.width % 2**20, 3 * message.width % 2**20, 2**32 - 1))
        message.is_bigendian = rng.choice((0, 1, 255))
        message.data = array.array("B", rng.randbytes(rng.choice((0, 1, 100, 6143, 6144, 20000))))
        return message

    def _plausible_image(self) -> Image:
        """Fields that fit, of any encoding, but perhaps one of them."""
        rng = self._rng
        height = rng.choice((2, 16, 32, 33, 48))
        width = 2 * height + rng.choice((0, 0, 0, 1, 2, -1))
        pixel_bytes = rng.choice((1, 2, 3, 4, 6, 8))
        message = Image(header=self._header(), height=height, width=width, encoding=rng.choice(RAW_ENCODINGS))
        message.step = width * pixel_bytes + rng.choice((0, 0, 1, 64))
        message.is_bigendian = rng.randrange(2)
        rows = height * 3 // 2 if message.encoding.startswith("nv") else height
        length = max(0, message.step * rows + rng.choice((0, 0, 0, -1, 1, 100)))
        message.data = array.array("B", rng.randbytes(length))
        return message

    def _large_image(self) -> Image:
        frame = self._frames[self._rng.choice(list(self._frames))]
        return image_message(frame, self._rng.choice(("rgb8", "bgr8")), self._header())

    def large_frames(self) -> list[Image]:
        """The frames of all sizes that are ever sent."""
        return [
            image_message(frame, "bgr8", Header(frame_id="fuzz", stamp=self._last)) for frame in self._frames.values()
        ]

    def _garbled_image(self) -> bytes:
        return self._garbled(self._plausible_image())

    def _garbled(self, message: Any) -> bytes:
        """A serialised message with its fields, above all their lengths, damaged."""
        data = bytearray(serialize_message(message))
        for _ in range(self._rng.choice((1, 1, 4))):
            data[self._rng.randrange(min(len(data), 80))] = self._rng.choice((0, 0x7F, 0x80, 0xFF))
        kept = self._rng.choice((len(data), len(data), self._rng.randrange(len(data)), 4))
        return bytes(data[: max(4, kept)])

    def _spoilt(self, content: bytes) -> bytes:
        data = bytearray(content)
        kind = self._rng.randrange(4)
        if kind == 0:
            return bytes(data[: self._rng.randrange(len(data))])
        if kind == 1:
            return bytes(data) + bytes(self._rng.choice((1, 1000)))
        for _ in range(self._rng.choice((1, 8, 64))):
            data[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)
        return bytes(data)

    def _huge_header(self) -> bytes:
        """A small file whose header gives an enormous size."""
        data = bytearray(self._files[self._rng.choice(("jpg", "png"))])
        if data[1:4] == b"PNG":
            data[16:24] = self._rng.choice((b"\x7f\xff\xff\xff", b"\x00\x00\xff\xff", b"\xff\xff\xff\xff")) * 2
        else:
            at = data.find(b"\xff\xc0") + 5
            data[at : at + 4] = b"\xff\xff\xff\xff"
        return bytes(data)


# --- parameters ---

_OTHERS: tuple[Any, ...] = (
    True,
    0,
    -1,
    2**62,
    math.nan,
    math.inf,
    -1e9,
    "",
    "none",
    "/no/such.onnx",
    [1, 2],
    ["a"],
    None,
)


def random_value(name: str, default: Value, rule: Rule, rng: random.Random) -> tuple[Any, bool | None]:
    """A value for a parameter, and whether the node must take it, must refuse it, or may do either (None)."""
    kind = rng.randrange(4)
    if kind == 0:
        value = rng.choice(_OTHERS)
        return value, None if type(value) is type(default) else False
    if isinstance(default, tuple):  # a list of names
        return rng.choice((default, (name,))), None
    if kind == 1 and rule.minimum is not None and rule.maximum is not None and not isinstance(default, str):
        return type(default)(rng.choice((rule.minimum - 1, rule.maximum + 1))), False
    if rule.choices:
        return rng.choice(rule.choices), None
    if isinstance(default, bool):
        return rng.random() < 0.5, None
    if rule.minimum is None or rule.maximum is None:
        return rng.choice((default, name)), None
    share = rng.choice((0.0, 1.0, rng.random(), rng.random() ** 8))
    maximum = min(rule.maximum, MAX_SIDE_PX) if name.endswith("height_px") else rule.maximum
    return type(default)(rule.minimum + share * (maximum - rule.minimum)), None


def parameter(name: str, value: Any) -> Parameter:
    """The message that sets a parameter; None makes one without a type."""
    fields: dict[str, Any] = {"type": ParameterType.PARAMETER_NOT_SET}
    kinds = {
        bool: ("bool_value", ParameterType.PARAMETER_BOOL),
        int: ("integer_value", ParameterType.PARAMETER_INTEGER),
        float: ("double_value", ParameterType.PARAMETER_DOUBLE),
        str: ("string_value", ParameterType.PARAMETER_STRING),
    }
    if isinstance(value, (list, tuple)):
        is_text = isinstance(value[0], str)
        field, number = ("string_array_value", 9) if is_text else ("integer_array_value", 7)
        fields = {"type": number, field: list(value)}
    elif value is not None:
        field, number = kinds[type(value)]
        fields = {"type": number, field: value}
    return Parameter(name=name, value=ParameterValue(**fields))
