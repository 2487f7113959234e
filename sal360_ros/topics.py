"""The node's topics: the contents of each message, when it is published, and how many were sent.

`OUTPUTS`, at the end, is the table of published topics. To add a topic, write its publisher and its row.
"""

from __future__ import annotations

import abc
import sys
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Point, PointStamped, QuaternionStamped
from nav_msgs.msg import Odometry
from numpy.typing import NDArray
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CompressedImage, Image, Imu, PointCloud2, PointField
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from sal360.arrays import Density, Floats, Pixels
from sal360.cameras import Camera
from sal360.cameras.lookup import lookup_for
from sal360.outputs.layout import EQUIRECTANGULAR, Layout
from sal360.outputs.overlay import draw_overlay, saliency_to_mono8
from sal360.outputs.qp_offset import QpOffset, QpOffsetSettings
from sal360.outputs.shading_rate import ShadingRate, ShadingRateSettings
from sal360.outputs.targets import Peaks, PeakSettings, TargetSelector, find_peaks
from sal360.sphere import body_to_frame, rotation_yaw_pitch_roll
from sal360_ros.messages import image_message, picture_message
from sal360_ros.parameters import SaliencyParameters
from sal360_ros.qos import heartbeat_qos, mismatch_logger, of_camera, output_qos, overridable
from sal360_ros.statistics import OutputCounts

_KEPT_SIZES = 4  # picture sizes whose tables are cached, so that frames of alternating sizes do not rebuild them
_MARKER_DIAMETER_M = 0.1


@dataclass(frozen=True, eq=False)
class Prediction:
    """A frame and its map."""

    header: Header
    """The frame's header; every message made from it keeps its stamp and frame_id."""
    image: Pixels
    """(H, W, 3) uint8; may be a view of the message, and a compressed frame may be reduced."""
    channels: str
    """Order of the image's last axis, "rgb" or "bgr"."""
    frame_height: int
    """Rows of the frame as it was sent."""
    frame_width: int
    """Columns of the frame as it was sent."""
    density: Density
    """(h, w) float32, relative to uniform."""
    orientation: Floats | None
    """(3, 3), the camera's axes in a fixed frame, if it is known."""
    time_s: float
    """Time of the frame, seconds: its stamp, unless stamps stand still; see `sal360.outputs.stream_time`."""
    camera: Camera | None = None
    """The model of the camera; None: the image is equirectangular and whole."""
    layout: Layout = EQUIRECTANGULAR
    """Of the outputs for renderers and encoders."""
    up: Floats | None = None
    """(3,) unit vector, up in the image's body axes; None if it is not known, and for a fused map."""
    _peaks: dict[PeakSettings, Peaks] = field(default_factory=dict, init=False, repr=False)

    def peaks(self, settings: PeakSettings) -> Peaks:
        """The map's peaks, found once for all outputs that use them."""
        if settings not in self._peaks:
            self._peaks[settings] = find_peaks(self.density, settings)
        return self._peaks[settings]


@dataclass(frozen=True)
class Topic:
    """A topic of the node, with everything that the code and the documentation need."""

    name: str
    """Relative to the node's namespace, unless it begins with a slash."""
    message_type: type[Any]
    form: str
    """Encoding or fields of the message, if its type leaves them open; else empty."""
    meaning: str
    """One phrase."""
    page: str
    """The page in `docs` that explains it."""

    @property
    def type_name(self) -> str:
        """The message type as ROS writes it, for instance "sensor_msgs/Image"."""
        return f"{self.message_type.__module__.split('.')[0]}/{self.message_type.__name__}"


@dataclass(frozen=True)
class Output(Topic):
    """A topic that is made from predictions."""

    publisher: type[OutputPublisher]
    shows_frame: bool = False
    """Whether the frame's own pixels are part of the message."""
    has_heartbeat: bool = False
    """Whether subscribers can request a deadline and liveliness."""


class OutputPublisher(abc.ABC):
    """Publishes one output; the pipeline skips outputs without subscribers.

    Args:
        node: publishes while it is active.
        output: its row of `OUTPUTS`.
        camera: name of the camera, which its topics begin with; "" for the only camera.
    """

    def __init__(self, node: LifecycleNode, output: Output, camera: str = "") -> None:
        self.name = output.name
        self.topic = of_camera(camera, output.name)
        self.shows_frame = output.shows_frame
        self._node = node
        self._subscribers = 0
        self._published = self._failed = self._dropped = self._message_bytes = 0
        self._last_error = ""
        self._last_failed = False
        self._publisher = node.create_lifecycle_publisher(
            output.message_type,
            self.topic,
            heartbeat_qos() if output.has_heartbeat else output_qos(),
            event_callbacks=PublisherEventCallbacks(
                matched=self._on_matched,
                incompatible_qos=mismatch_logger(
                    node.resolve_topic_name(self.topic),
                    "publisher",
                    node.get_logger().warning,
                    output.has_heartbeat,
                ),
            ),
            qos_overriding_options=overridable(output.has_heartbeat),
        )

    def _on_matched(self, event: Any) -> None:
        self._subscribers = event.current_count

    @property
    def is_wanted(self) -> bool:
        """Whether there is a subscriber."""
        return self._subscribers > 0

    @property
    def counts(self) -> OutputCounts:
        """Number of predictions published, dropped and failed so far."""
        is_failing = self._last_failed and self.is_wanted
        return OutputCounts(
            self._published, self._failed, self._dropped, self._last_error, is_failing, self._message_bytes
        )

    def publish(self, prediction: Prediction, parameters: SaliencyParameters) -> None:
        """Make the message of a prediction and send it, if there is one.

        Raises:
            Exception: making or sending the message failed; the failure is counted first.
        """
        try:
            message = self._message(prediction, parameters)
            if message is not None:
                self._publisher.publish(message)
                self._published += 1
                self._message_bytes = len(getattr(message, "data", ()))
        except BaseException as error:
            self._failed += 1
            self._last_error = " ".join(str(error).split()) or type(error).__name__
            self._last_failed = True
            raise
        self._last_failed = False

    def count_dropped(self) -> None:
        """Count a prediction that was replaced by a newer one before this output was computed."""
        self._dropped += 1

    def destroy(self) -> None:
        """Remove the topic from the graph."""
        self._node.destroy_lifecycle_publisher(self._publisher)

    def assert_alive(self) -> None:
        """Tell subscribers that request liveliness that the node is alive, even when no frames arrive."""
        self._publisher.assert_liveliness()

    @abc.abstractmethod
    def _message(self, prediction: Prediction, parameters: SaliencyParameters) -> Any:
        """The message, or None if there is nothing to send."""


# --- the map ---


class SaliencyPublisher(OutputPublisher):
    """The map."""

    def _message(self, prediction: Prediction, parameters: SaliencyParameters) -> Image:
        density = prediction.layout.map(prediction.density)
        if parameters.encoding == "mono8":
            return image_message(saliency_to_mono8(density, parameters.full_scale), "mono8", prediction.header)
        return image_message(density, "32FC1", prediction.header)


class OverlayPublisher(OutputPublisher):
    """The heat map over the frame."""

    def _message(self, prediction: Prediction, parameters: SaliencyParameters) -> Image:
        picture: NDArray[Any] = prediction.image
        height, width = picture.shape[:2]
        if prediction.camera is not None:  # the equirectangular view of it
            height = min(parameters.overlay_height_px or height, height)
            picture = lookup_for(prediction.camera, height, 2 * height)(picture)
        elif 0 < parameters.overlay_height_px < height:
            size = round(width * parameters.overlay_height_px / height), parameters.overlay_height_px
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        if prediction.channels == "rgb":
            picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        overlay = draw_overlay(
            picture, prediction.density, full_scale=parameters.full_scale, opacity=parameters.overlay_opacity
        )
        return picture_message(overlay, prediction.header)


# --- targets ---


def in_frame(directions: Floats, parameters: SaliencyParameters) -> Floats:
    """Directions (..., 3) from the image's body axes to the axes of frame_id."""
    turned = directions @ rotation_yaw_pitch_roll(yaw_rad=parameters.yaw_offset_rad).T
    return body_to_frame(turned, parameters.frame_convention)


class TargetPublisher(OutputPublisher):
    """The one direction to look at, a point at distance 1; nothing while there is none."""

    def __init__(self, node: LifecycleNode, output: Output, camera: str = "") -> None:
        super().__init__(node, output, camera)
        self._selector = TargetSelector()

    def _message(self, prediction: Prediction, parameters: SaliencyParameters) -> PointStamped | None:
        self._selector.settings = parameters.target
        peaks = prediction.peaks(parameters.targets)
        target = self._selector.update(peaks, prediction.time_s, prediction.orientation)
        if target is None:
            return None
        x, y, z = in_frame(target.direction, parameters).tolist()
        return PointStamped(header=prediction.header, point=Point(x=x, y=y, z=z))


class TargetsPublisher(OutputPublisher):
    """The strongest directions, best first, as points at distance 1 with the density as intensity."""

    def _message(self, prediction: Prediction, parameters: SaliencyParameters) -> PointCloud2:
        peaks = prediction.peaks(parameters.targets)
        directions = in_frame(peaks.directions, parameters)
        points = np.concatenate([directions, peaks.scores[:, None]], axis=1).astype(np.float32)  # (k, 4)
        message = PointCloud2(header=prediction.header, height=1, width=len(points), is_dense=True)
        message.is_bigendian = sys.byteorder == "big"
        message.fields = [
            PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
            for index, name in enumerate(("x", "y", "z", "intensity"))
        ]
        message.point_step, message.row_step = 16, 16 * len(points)
        message.data.frombytes(points.tobytes())
        return message


class MarkersPublisher(OutputPublisher):
    """The same directions as spheres; a denser one is larger and brighter."""

    def _message(self, prediction: Prediction, parameters: SaliencyParameters) -> MarkerArray:
        peaks = prediction.peaks(parameters.targets)
        markers = [Marker(header=prediction.header, ns="targets", action=Marker.DELETEALL)]
        for index, direction in enumerate(in_frame(peaks.directions, parameters)):
            share = min(1.0, float(peaks.scores[index]) / parameters.full_scale)
            marker = Marker(header=prediction.header, ns="targets", id=index, type=Marker.SPHERE, action=Marker.ADD)
            position = marker.pose.position
            position.x, position.y, position.z = direction.tolist()
            marker.scale.x = marker.scale.y = marker.scale.z = _MARKER_DIAMETER_M * (0.5 + share)
            marker.color = _heat_colour(share)
            markers.append(marker)
        return MarkerArray(markers=markers)


def _heat_colour(share: float) -> ColorRGBA:
    """The overlay's colour for a density that is this share, 0 to 1, of full_scale."""
    pixel = np.full((1, 1), round(255 * share), np.uint8)
    blue, green, red = (cv2.applyColorMap(pixel, cv2.COLORMAP_INFERNO)[0, 0] / 255).tolist()
    return ColorRGBA(r=red, g=green, b=blue, a=1.0)


# --- for renderers and encoders ---


def _picture_size(prediction: Prediction, height_px: int) -> tuple[int, int]:
    """Rows and columns of the picture that is rendered or encoded; 0 rows: those of the frame."""
    is_frame = prediction.camera is None or prediction.layout is not EQUIRECTANGULAR
    if not height_px and is_frame:
        return prediction.frame_height, prediction.frame_width
    height_px = height_px or prediction.frame_height
    return height_px, prediction.layout.width_of(height_px)


def _make_shading_rate(height: int, width: int, settings: ShadingRateSettings, layout: Layout) -> ShadingRate:
    return ShadingRate(height, width, settings, layout)


def _make_qp_offset(height: int, width: int, settings: QpOffsetSettings, layout: Layout) -> QpOffset:
    return QpOffset(height, width, settings, layout)


class ShadingRatePublisher(OutputPublisher):
    """One byte per tile, in the encoding of Vulkan and Direct3D 12."""

    def __init__(self, node: LifecycleNode, output: Output, camera: str = "") -> None:
        super().__init__(node, output, camera)
        self._rates = lru_cache(_KEPT_SIZES)(_make_shading_rate)  # per node: rates depend on the last ones

    def _message(self, prediction: Prediction, parameters: SaliencyParameters) -> Image:
        settings = parameters.shading_rate
        rates = self._rates(*_picture_size(prediction, settings.height_px), settings, prediction.layout)
        return image_message(rates.update(prediction.density), "mono8", prediction.header)


class QpOffsetPublisher(OutputPublisher):
    """One signed byte per block; negative means better quality."""

    def __init__(self, node: LifecycleNode, output: Output, camera: str = "") -> None:
        super().__init__(node, output, camera)
        self._offsets = lru_cache(_KEPT_SIZES)(_make_qp_offset)

    def _message(self, prediction: Prediction, parameters: SaliencyParameters) -> Image:
        settings = parameters.qp_offset
        offsets = self._offsets(*_picture_size(prediction, settings.height_px), settings, prediction.layout)
        return image_message(offsets.update(prediction.density), "8SC1", prediction.header)


# --- the tables ---

# fmt: off
OUTPUTS = (
    Output("saliency", Image, "mono8 or 32FC1", "the map, a density of gaze", "topics.md", SaliencyPublisher,
           has_heartbeat=True),
    Output("saliency/overlay", Image, "bgr8", "heat map over the frame, for viewing", "topics.md", OverlayPublisher,
           shows_frame=True),
    Output("saliency/target", PointStamped, "", "the one direction to look at now", "targets.md", TargetPublisher),
    Output("saliency/targets", PointCloud2, "x, y, z, intensity", "the strongest directions, best first", "targets.md",
           TargetsPublisher),
    Output("saliency/markers", MarkerArray, "", "the same directions, for RViz and Foxglove", "targets.md",
           MarkersPublisher),
    Output("saliency/shading_rate", Image, "mono8", "shading rates for Vulkan and Direct3D 12, one byte per tile",
           "shading_rate.md", ShadingRatePublisher),
    Output("saliency/qp_offset", Image, "8SC1", "quantiser offsets for video encoders, one signed byte per block",
           "qp_offset.md", QpOffsetPublisher),
)
"""The topics that the node publishes for each frame: the map, then the outputs derived from it if subscribed to."""

DIAGNOSTICS = Topic("/diagnostics", DiagnosticArray, "", "health, rates, latencies, drops and rejections by reason",
                    "diagnostics.md")

INPUTS = (
    Topic("image", Image, "", "360° frames, if image_transport is raw", "coordinates.md"),
    Topic("image/compressed", CompressedImage, "jpeg or png", "360° frames, if image_transport is compressed",
          "coordinates.md"),
    Topic("imu", Imu, "", "orientation of the camera, if orientation is imu", "smoothing.md"),
    Topic("odom", Odometry, "", "orientation of the camera, if orientation is odometry", "smoothing.md"),
)
"""The topics to which the node subscribes."""

VIEWER_OUTPUTS = (
    Topic("viewer/view", QuaternionStamped, "", "where somebody looks: a headset, or a page of `saliency_viewer`",
          "viewer.md"),
)
"""The topics that `saliency_viewer` publishes."""
# fmt: on


def make_outputs(node: LifecycleNode, camera: str = "") -> list[OutputPublisher]:
    """A publisher for every row of `OUTPUTS`, advertised by the node for a camera; the map's is the first.

    Raises:
        Exception: a topic cannot be advertised; no topic is then advertised.
    """
    made: list[OutputPublisher] = []
    try:
        for output in OUTPUTS:
            made.append(output.publisher(node, output, camera))
    except BaseException:
        for publisher in made:
            publisher.destroy()
        raise
    return made
