"""PanoramaCamera publishes a live stream, pictures, a video or a bag as the frames of a 360° camera."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from rclpy.time import Time
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from sal360.errors import FrameError, Sal360Error, printable
from sal360.picture_formats import PICTURE_SUFFIXES, picture_size
from sal360.samples import bundled_panoramas
from sal360.settings import flatten, with_values
from sal360.sources import Frame, open_source
from sal360.sources.frame import scaled_to
from sal360.sources.live_stream import LiveStream
from sal360.sources.pictures import pictures_in
from sal360.sources.stream_address import StreamAddress, stream_address
from sal360_ros.diagnostics import clock_trouble
from sal360_ros.messages import image_message
from sal360_ros.parameter_table import ParameterTable
from sal360_ros.parameters import CameraParameters, SaliencyParameters, ViewerParameters
from sal360_ros.qos import mismatch_logger, output_qos, overridable
from sal360_ros.shared_memory import segment_bytes

CLOCK_WAIT_S = 3.0
"""Time between two looks at a missing `/clock`, seconds."""
STREAM_WATCH_S = 0.2
"""Time between two looks at a stream without frames, seconds."""
STREAM_PIXELS = 1920 * 3840
"""Room for the frames of streams, whose size is not known at the start, unless `height_px` says it."""
_HEADER_BYTES = 2**20
"""Enough for the metadata that can precede a picture's size."""


class PanoramaCamera(Node):
    """Publishes the frames of a source; see `CameraParameters`.

    Those of files appear at a fixed rate, stamped with the time of publication. Those of a live stream appear as they
    arrive, stamped by the stream's clock (`StreamClock`); the node outlives the stream, and waits until it is back.

    Raises:
        DataError: the source cannot be read.
        ParameterError: a parameter is out of its range.
    """

    def __init__(self, name: str = "panorama_camera", **node_options: Any) -> None:
        super().__init__(name, automatically_declare_parameters_from_overrides=True, **node_options)
        table = ParameterTable(self, CameraParameters())
        others = {name for values in (SaliencyParameters(), ViewerParameters()) for name, _, _ in flatten(values)}
        table.warn_of_unknown(self.get_logger().warning, others)
        self._values = table.read()
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
        self._stream: LiveStream | None = None
        self._frames: Iterator[Frame] = iter(())
        if address := stream_address(self._values.source):
            self._stream = self._started(address)
        else:
            self._frames = self._opened()
            self._timer = self.create_timer(1 / self._values.rate_hz, self._publish_next)
        # by a clock that never stands still: without /clock, the other timer's never starts
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._clock_check = self.create_timer(CLOCK_WAIT_S, self._check_clock, clock=steady)

    def _opened(self) -> Iterator[Frame]:
        return open_source(
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

    def _started(self, address: StreamAddress) -> LiveStream:
        arrival = self.create_guard_condition(self._publish_newest)
        stream = LiveStream(
            address,
            self._values.stream,
            log=self.get_logger(),
            now_ns=lambda: self.get_clock().now().nanoseconds,
            max_pixels=self._values.max_pixels,
            loop=self._values.loop,
            on_frame=arrival.trigger,
        )
        # by a clock that never stands still: it also notices a stream that blocks
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = self.create_timer(STREAM_WATCH_S, self._publish_newest, clock=steady)
        stream.start()
        return stream

    def destroy_node(self) -> None:
        """Leave the graph, and the stream."""
        if self._stream is not None:
            self._stream.close()  # before the guard condition that it triggers
        super().destroy_node()  # type: ignore[no-untyped-call]

    def _publish_newest(self) -> None:
        """Publish the newest frame of the stream.

        Raises:
            DataError: it cannot be received at all; the process then ends with this line.
        """
        if self._stream is None:  # the first frame arrived while it was being started
            return
        frame = self._stream.take()
        if frame is not None:
            frame = scaled_to(frame, self._values.height_px)
            stamp = Time(nanoseconds=round(frame.stamp_s * 1e9)).to_msg()
            self._check_room(frame)
            self._publisher.publish(self._message(frame, Header(frame_id=self._values.frame_id, stamp=stamp)))
        elif self._stream.has_ended:
            self._timer.cancel()
            self.get_logger().info("the source has ended", once=True)

    def _check_room(self, frame: Frame) -> None:
        """Warn of frames that do not fit into the shared memory, whose size was chosen before the stream was seen."""
        height, width = frame.image.shape[:2]
        if self._values.image_transport == "raw" and 3 * height * width > segment_bytes():
            self.get_logger().warning(
                f"frames of {width} x {height} are larger than this process's shared memory, so best-effort "
                "subscribers lose them; set height_px (of the published frames), or image_transport to compressed",
                throttle_duration_sec=30.0,
            )

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
    """Number of pixels of the source's largest usable frame; for a video or bag, of its first one.

    Streams are not opened for that: some cameras accept only one connection.
    """
    if stream_address(values.source):
        return STREAM_PIXELS
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
