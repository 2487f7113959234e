"""PanoramaCamera publishes pictures, a video or a bag as if they came from a 360° camera."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from sal360.errors import FrameError, Sal360Error, printable
from sal360.picture_formats import PICTURE_SUFFIXES, picture_size
from sal360.samples import bundled_panoramas
from sal360.settings import flatten, with_values
from sal360.sources import Frame, open_source
from sal360.sources.pictures import pictures_in
from sal360_ros.diagnostics import clock_trouble
from sal360_ros.messages import image_message
from sal360_ros.parameter_table import ParameterTable
from sal360_ros.parameters import CameraParameters
from sal360_ros.qos import mismatch_logger, output_qos, overridable

CLOCK_WAIT_S = 3.0
"""Time between two looks at a missing `/clock`, seconds."""
_HEADER_BYTES = 2**20
"""Enough for the metadata that can precede a picture's size."""


class PanoramaCamera(Node):
    """Publishes the frames of a source at a fixed rate, stamped with the time of publication; see `CameraParameters`.

    Raises:
        DataError: the source cannot be read.
        ParameterError: a parameter is out of its range.
    """

    def __init__(self, name: str = "panorama_camera", **node_options: Any) -> None:
        super().__init__(name, automatically_declare_parameters_from_overrides=True, **node_options)
        table = ParameterTable(self, CameraParameters())
        table.warn_of_unknown(self.get_logger().warning)
        self._values = table.read()
        self._frames = open_source(
            self._values.source or bundled_panoramas(),
            topic=self._values.source_topic,
            loop=self._values.loop,
            rate_hz=self._values.rate_hz,
            hold_s=self._values.hold_s,
            yaw_rate_rad_s=math.radians(self._values.yaw_rate_deg_s),
            height_px=self._values.height_px,
            max_pixels=self._values.max_pixels,
            on_bad_frame=self._skip,
        )
        is_raw = self._values.image_transport == "raw"
        topic = self.resolve_topic_name("image")
        topic = topic if is_raw else self.resolve_topic_name(f"{topic}/compressed")
        self._publisher = self.create_publisher(
            Image if is_raw else CompressedImage,
            topic,
            output_qos(),
            event_callbacks=PublisherEventCallbacks(
                incompatible_qos=mismatch_logger(topic, "publisher", self.get_logger().warning)
            ),
            qos_overriding_options=overridable(),
        )
        self._timer = self.create_timer(1 / self._values.rate_hz, self._publish_next)
        # by a clock that never stands still: without /clock, the other timer's never starts
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._clock_check = self.create_timer(CLOCK_WAIT_S, self._check_clock, clock=steady)

    def _skip(self, error: FrameError, name: str) -> None:
        self.get_logger().warning(f"{printable(name)} skipped: {error}")

    def _check_clock(self) -> None:
        if trouble := clock_trouble(self):
            self.get_logger().warning(f"no frames are published: {trouble}", throttle_duration_sec=10.0)

    def _publish_next(self) -> None:
        frame = next(self._frames, None)
        if frame is None:
            self._timer.cancel()
            self.get_logger().info("the source has ended")
            return
        header = Header(frame_id=self._values.frame_id, stamp=self.get_clock().now().to_msg())
        self._publisher.publish(self._message(frame, header))

    def _message(self, frame: Frame, header: Header) -> Image | CompressedImage:
        if self._values.image_transport == "raw":
            return image_message(frame.image, f"{frame.channels}8", header)
        bgr = frame.image if frame.channels == "bgr" else frame.image[..., ::-1].copy()
        _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, self._values.jpeg_quality])
        message = CompressedImage(header=header, format="jpeg")
        message.data.frombytes(jpeg.data)
        return message


def max_message_bytes(parameters: Mapping[str, Any]) -> int:
    """Size of the largest message of a camera with these start parameters; 0 if it is not known.

    Errors in the parameters or the source are reported when the camera itself reads them.
    """
    names = {name for name, _, _ in flatten(CameraParameters())}
    try:
        values = with_values(CameraParameters(), {name: parameters[name] for name in names & parameters.keys()})
        pixels = 2 * values.height_px**2 if values.height_px else _max_pixels(values)
    except (Sal360Error, OSError, TypeError, ValueError):
        return 0
    raw_bytes = 3 * pixels
    return raw_bytes if values.image_transport == "raw" else raw_bytes // 2  # more than a JPEG of noise


def _max_pixels(values: CameraParameters) -> int:
    """Number of pixels of the source's largest usable frame; for a video or bag, of its first one."""
    source = Path(values.source or bundled_panoramas())
    is_picture = source.suffix.lower() in PICTURE_SUFFIXES and source.is_file()
    if is_picture or any(each.suffix.lower() in PICTURE_SUFFIXES for each in source.glob("*")):
        sizes = map(_stored_pixels, [source] if is_picture else pictures_in(source))
        return max((pixels for pixels in sizes if pixels <= values.max_pixels), default=0)
    frames = open_source(source, topic=values.source_topic, max_pixels=values.max_pixels, on_bad_frame=lambda *_: None)
    frame = next(frames, None)
    return 0 if frame is None else math.prod(frame.image.shape[:2])


def _stored_pixels(path: Path) -> int:
    """The size of a picture by its header; 0 if it cannot be read."""
    try:
        with path.open("rb") as file:
            return math.prod(picture_size(file.read(_HEADER_BYTES)))
    except (FrameError, OSError):
        return 0
