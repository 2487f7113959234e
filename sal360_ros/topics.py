"""The topics that are derived from the maps: targets, shading rates, quantiser offsets."""

from __future__ import annotations

import abc
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from geometry_msgs.msg import Point, PointStamped
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from sal360.outputs.overlay import draw_overlay, saliency_to_mono8
from sal360.outputs.qp_offset import QpOffset
from sal360.outputs.shading_rate import ShadingRate
from sal360.outputs.targets import Peaks, PeakSettings, TargetSelector, find_peaks
from sal360.sphere import Array, body_to_frame, rotation_yaw_pitch_roll
from sal360_ros.messages import image_message, picture_message, stamp_nanoseconds
from sal360_ros.parameters import SaliencyParameters
from sal360_ros.qos import mismatch_logger, output_qos, overridable


@dataclass(frozen=True, eq=False)
class Prediction:
    """A frame and its map."""

    header: Header
    """Of the frame: stamp and frame_id are kept."""
    image: Array
    """(H, W, 3) uint8; may be a view of the message, and a compressed frame may be reduced."""
    channels: str
    """Order of the image's last axis, "rgb" or "bgr"."""
    frame_height: int
    """Rows of the frame as it was sent."""
    frame_width: int
    """Columns of the frame as it was sent."""
    density: Array
    """(h, w) float32, relative to uniform."""
    orientation: Array | None
    """(3, 3), the camera's axes in a fixed frame, when it is known."""

    @property
    def stamp_s(self) -> float:
        """The frame's stamp in seconds."""
        return stamp_nanoseconds(self.header) * 1e-9


class OutputPublisher(abc.ABC):
    """One topic of the node; nothing is computed for it while nobody subscribes."""

    topic: ClassVar[str]
    message_type: ClassVar[type[Any]] = Image
    shows_frame: ClassVar[bool] = False
    """Whether the frame's own pixels are part of the message."""

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._subscribers = 0
        self._publisher = node.create_lifecycle_publisher(
            self.message_type,
            self.topic,
            output_qos(),
            event_callbacks=PublisherEventCallbacks(
                matched=self._on_matched,
                incompatible_qos=mismatch_logger(
                    node.resolve_topic_name(self.topic), "publisher", node.get_logger().warning
                ),
            ),
            qos_overriding_options=overridable(),
        )

    def _on_matched(self, event: Any) -> None:
        self._subscribers = event.current_count

    @property
    def is_wanted(self) -> bool:
        """Whether anybody subscribes."""
        return self._subscribers > 0

    def publish(self, answer: Prediction, parameters: SaliencyParameters) -> None:
        """Compute the message of an answer and send it, if there is something to say."""
        message = self._message(answer, parameters)
        if message is not None:
            self._publisher.publish(message)

    def destroy(self) -> None:
        """Take the topic off the graph."""
        self._node.destroy_lifecycle_publisher(self._publisher)

    @abc.abstractmethod
    def _message(self, answer: Prediction, parameters: SaliencyParameters) -> Any: ...


class SaliencyPublisher(OutputPublisher):
    """`saliency`: the map, as 32FC1 (density relative to uniform) or mono8 (the same over full_scale, clipped)."""

    topic = "saliency"

    def _message(self, answer: Prediction, parameters: SaliencyParameters) -> Image:
        if parameters.encoding == "mono8":
            return image_message(saliency_to_mono8(answer.density, parameters.full_scale), "mono8", answer.header)
        return image_message(answer.density, "32FC1", answer.header)


class OverlayPublisher(OutputPublisher):
    """`saliency/overlay`: the heat map over the frame, for people."""

    topic = "saliency/overlay"
    shows_frame = True

    def _message(self, answer: Prediction, parameters: SaliencyParameters) -> Image:
        picture, (height, width) = answer.image, answer.image.shape[:2]
        if 0 < parameters.overlay_height_px < height:
            size = round(width * parameters.overlay_height_px / height), parameters.overlay_height_px
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        if answer.channels == "rgb":
            picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        overlay = draw_overlay(
            picture, answer.density, full_scale=parameters.full_scale, opacity=parameters.overlay_opacity
        )
        return picture_message(overlay, answer.header)


_MARKER_DIAMETER_M = 0.1


def make_outputs(node: LifecycleNode) -> list[OutputPublisher]:
    """All topics beside `saliency`, offered by the node."""
    peaks = _PeaksOfPrediction()
    return [
        OverlayPublisher(node),
        TargetPublisher(node, peaks),
        TargetsPublisher(node, peaks),
        MarkersPublisher(node, peaks),
        ShadingRatePublisher(node),
        QpOffsetPublisher(node),
    ]


class _PeaksOfPrediction:
    """Finds the peaks of an answer once, for whoever asks."""

    def __init__(self) -> None:
        self._of: tuple[Prediction, PeakSettings] | None = None
        self._peaks = Peaks(np.empty((0, 3)), np.empty(0))

    def __call__(self, answer: Prediction, settings: PeakSettings) -> Peaks:
        if self._of is None or self._of[0] is not answer or self._of[1] != settings:
            self._of, self._peaks = (answer, settings), find_peaks(answer.density, settings)
        return self._peaks


def in_frame(directions: Array, parameters: SaliencyParameters) -> Array:
    """Directions (…, 3) of the image's own body axes in the axes of frame_id."""
    turned = directions @ rotation_yaw_pitch_roll(yaw_rad=parameters.yaw_offset_rad).T
    return body_to_frame(turned, parameters.frame_convention)


class TargetPublisher(OutputPublisher):
    """`saliency/target`: the one direction to look at, a point at distance 1."""

    topic = "saliency/target"
    message_type = PointStamped

    def __init__(self, node: LifecycleNode, peaks: _PeaksOfPrediction) -> None:
        super().__init__(node)
        self._peaks = peaks
        self._selector = TargetSelector()

    def _message(self, answer: Prediction, parameters: SaliencyParameters) -> PointStamped | None:
        self._selector.settings = parameters.target
        peaks = self._peaks(answer, parameters.targets)
        target = self._selector.update(peaks, answer.stamp_s, answer.orientation)
        if target is None:
            return None
        x, y, z = in_frame(target.direction, parameters).tolist()
        return PointStamped(header=answer.header, point=Point(x=x, y=y, z=z))


class TargetsPublisher(OutputPublisher):
    """`saliency/targets`: the strongest directions, best first, as points x, y, z at distance 1 with intensity."""

    topic = "saliency/targets"
    message_type = PointCloud2

    def __init__(self, node: LifecycleNode, peaks: _PeaksOfPrediction) -> None:
        super().__init__(node)
        self._peaks = peaks

    def _message(self, answer: Prediction, parameters: SaliencyParameters) -> PointCloud2:
        peaks = self._peaks(answer, parameters.targets)
        directions = in_frame(peaks.directions, parameters)
        points = np.concatenate([directions, peaks.scores[:, None]], axis=1).astype(np.float32)  # (k, 4)
        message = PointCloud2(header=answer.header, height=1, width=len(points), is_dense=True)
        message.is_bigendian = sys.byteorder == "big"
        message.fields = [
            PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
            for index, name in enumerate(("x", "y", "z", "intensity"))
        ]
        message.point_step, message.row_step = 16, 16 * len(points)
        message.data.frombytes(points.tobytes())
        return message


class MarkersPublisher(OutputPublisher):
    """`saliency/markers`: the targets as spheres for RViz, brighter and larger the denser they are."""

    topic = "saliency/markers"
    message_type = MarkerArray

    def __init__(self, node: LifecycleNode, peaks: _PeaksOfPrediction) -> None:
        super().__init__(node)
        self._peaks = peaks

    def _message(self, answer: Prediction, parameters: SaliencyParameters) -> MarkerArray:
        peaks = self._peaks(answer, parameters.targets)
        markers = [Marker(header=answer.header, ns="targets", action=Marker.DELETEALL)]
        for index, direction in enumerate(in_frame(peaks.directions, parameters)):
            share = min(1.0, float(peaks.scores[index]) / parameters.full_scale)
            marker = Marker(header=answer.header, ns="targets", id=index, type=Marker.SPHERE, action=Marker.ADD)
            position = marker.pose.position
            position.x, position.y, position.z = direction.tolist()
            marker.scale.x = marker.scale.y = marker.scale.z = _MARKER_DIAMETER_M * (0.5 + share)
            marker.color = _colour(share)
            markers.append(marker)
        return MarkerArray(markers=markers)


def _colour(share: float) -> ColorRGBA:
    pixel = np.full((1, 1), round(255 * share), np.uint8)
    blue, green, red = (cv2.applyColorMap(pixel, cv2.COLORMAP_INFERNO)[0, 0] / 255).tolist()
    return ColorRGBA(r=red, g=green, b=blue, a=1.0)


def _picture_size(answer: Prediction, height_px: int) -> tuple[int, int]:
    """Rows and columns of the picture that a consumer works on; 0 rows: those of the frame."""
    return (height_px, 2 * height_px) if height_px else (answer.frame_height, answer.frame_width)


class ShadingRatePublisher(OutputPublisher):
    """`saliency/shading_rate`: one byte a tile, as Vulkan and Direct3D 12 take it."""

    topic = "saliency/shading_rate"

    def __init__(self, node: LifecycleNode) -> None:
        super().__init__(node)
        self._made_for: object = None

    def _message(self, answer: Prediction, parameters: SaliencyParameters) -> Image:
        size = _picture_size(answer, parameters.shading_rate.height_px)
        if self._made_for != (size, parameters.shading_rate):
            self._rate = ShadingRate(*size, parameters.shading_rate)
            self._made_for = size, parameters.shading_rate
        return image_message(self._rate.update(answer.density), "mono8", answer.header)


class QpOffsetPublisher(OutputPublisher):
    """`saliency/qp_offset`: one signed byte a block, negative = better."""

    topic = "saliency/qp_offset"

    def __init__(self, node: LifecycleNode) -> None:
        super().__init__(node)
        self._made_for: object = None

    def _message(self, answer: Prediction, parameters: SaliencyParameters) -> Image:
        size = _picture_size(answer, parameters.qp_offset.height_px)
        if self._made_for != (size, parameters.qp_offset):
            self._offset = QpOffset(*size, parameters.qp_offset)
            self._made_for = size, parameters.qp_offset
        return image_message(self._offset.update(answer.density), "8SC1", answer.header)
