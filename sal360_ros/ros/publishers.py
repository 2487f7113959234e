"""The node's topics: each knows whether anybody listens, and turns an answer into a message."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from sal360_ros.outputs.overlay import draw_overlay, saliency_to_mono8
from sal360_ros.ros.messages import image_message, picture_message, stamp_nanoseconds
from sal360_ros.ros.parameters import SaliencyParameters
from sal360_ros.ros.qos import mismatch_logger, output_qos, overridable
from sal360_ros.sphere import Array


@dataclass(frozen=True, eq=False)
class Answer:
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

    def publish(self, answer: Answer, parameters: SaliencyParameters) -> None:
        """Compute the message of an answer and send it, if there is something to say."""
        message = self._message(answer, parameters)
        if message is not None:
            self._publisher.publish(message)

    def destroy(self) -> None:
        """Take the topic off the graph."""
        self._node.destroy_lifecycle_publisher(self._publisher)

    @abc.abstractmethod
    def _message(self, answer: Answer, parameters: SaliencyParameters) -> Any: ...


class SaliencyPublisher(OutputPublisher):
    """`saliency`: the map, as 32FC1 (density relative to uniform) or mono8 (the same over full_scale, clipped)."""

    topic = "saliency"

    def _message(self, answer: Answer, parameters: SaliencyParameters) -> Image:
        if parameters.encoding == "mono8":
            return image_message(saliency_to_mono8(answer.density, parameters.full_scale), "mono8", answer.header)
        return image_message(answer.density, "32FC1", answer.header)


class OverlayPublisher(OutputPublisher):
    """`saliency/overlay`: the heat map over the frame, for people."""

    topic = "saliency/overlay"
    shows_frame = True

    def _message(self, answer: Answer, parameters: SaliencyParameters) -> Image:
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
