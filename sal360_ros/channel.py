"""One camera of the node: its topics, its parameters, its statistics and what is wrong with it.

A channel lives as long as the node. `advertise` and `retire` follow the transitions configure and cleanup, `start`,
`subscribe` and `stop` the transitions activate and deactivate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from sal360.spec import ModelSpec
from sal360_ros.diagnostics import (
    ERROR,
    WARN,
    Finding,
    FrameTopic,
    OutputWatch,
    frame_findings,
    silence_trouble,
)
from sal360_ros.orientation import OrientationInput
from sal360_ros.parameters import SaliencyParameters
from sal360_ros.qos import input_qos, mismatch_logger, of_camera, overridable
from sal360_ros.statistics import FrameStatistics, OutputCounts, Snapshot
from sal360_ros.stream import CameraStream
from sal360_ros.topics import OutputPublisher, make_outputs

Steps = list[tuple[str, Callable[[], object]]]
"""What is done, for the log, and the function that does it."""


class CameraChannel:
    """One camera of a node.

    Args:
        node: has its topics.
        name: what its topics and parameters begin with; "" for the only camera.
        parameters: returns the camera's current parameter values.
    """

    def __init__(self, node: LifecycleNode, name: str, parameters: Callable[[], SaliencyParameters]) -> None:
        self.name = name
        self.statistics = FrameStatistics()
        """Since the last activation."""
        self.saliency: OutputPublisher | None = None
        """Publishes the map; None while the node is not configured."""
        self.outputs: list[OutputPublisher] = []
        """Publish what is derived from it."""
        self._node = node
        self._parameters = parameters
        self._orientation: OrientationInput | None = None
        self._subscription: Subscription | None = None
        self._output_watch = OutputWatch()

    @property
    def frames(self) -> FrameTopic:
        """Where its frames come from."""
        return FrameTopic(
            self._node,
            of_camera(self.name, "image"),
            f"{self.name}.image_transport".lstrip("."),
            self._parameters().image_transport,
        )

    def advertise(self) -> None:
        """Advertise the topics."""
        self.saliency, *self.outputs = make_outputs(self._node, self.name)

    def start(self, spec: ModelSpec) -> CameraStream:
        """Reset the statistics, subscribe to the orientation and return the stream that processes the frames."""
        self.statistics = FrameStatistics()
        source = self._parameters().orientation
        self._orientation = OrientationInput(self._node, source, self.name) if source != "none" else None
        return self.stream(spec)

    def stream(self, spec: ModelSpec) -> CameraStream:
        """A new stream, whose smoothing and targets start over."""
        assert self.saliency is not None
        return CameraStream(
            self.name,
            spec,
            self.saliency,
            self.outputs,
            self._parameters,
            self._orientation.at if self._orientation is not None else None,
            self.statistics,
            lambda: self._node.get_clock().now().nanoseconds,
            self._node.get_logger(),
        )

    def subscribe(self, receive: Callable[[Image | CompressedImage], None]) -> None:
        """Subscribe to the frames."""
        assert self.saliency is not None
        frames = self.frames
        logger = self._node.get_logger()
        self._subscription = self._node.create_subscription(
            Image if frames.transport == "raw" else CompressedImage,
            frames.topic,
            receive,
            input_qos(),
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=mismatch_logger(frames.topic, "subscription", logger.warning),
                message_lost=self._count_lost,
            ),
            qos_overriding_options=overridable(),
        )
        maps = self._node.resolve_topic_name(self.saliency.topic)
        logger.info(f"subscribed to {frames.topic}, publishing {maps}")

    def unsubscribe(self) -> Steps:
        """The steps that end the subscription to the frames."""
        subscription, self._subscription = self._subscription, None
        if subscription is None:
            return []
        return [("unsubscribe from the frames", partial(self._node.destroy_subscription, subscription))]

    def stop(self) -> Steps:
        """The steps that end what `start` began, after inference has stopped."""
        orientation, self._orientation = self._orientation, None
        return [("unsubscribe from the orientation", orientation.destroy)] if orientation is not None else []

    def retire(self) -> Steps:
        """The steps that remove the topics."""
        outputs = [self.saliency, *self.outputs]
        self.saliency, self.outputs = None, []
        return [(f"remove {output.topic}", output.destroy) for output in outputs if output is not None]

    def _count_lost(self, event: Any) -> None:
        self.statistics.set_lost(event.total_count)

    # --- diagnostics ---

    def output_counts(self) -> Mapping[str, OutputCounts]:
        """Totals of the outputs, by topic without the camera's name."""
        return {each.name: each.counts for each in (self.saliency, *self.outputs) if each is not None}

    def findings(self, snapshot: Snapshot, stuck_s: float) -> Iterator[Finding]:
        """Problems of the camera while the node is active.

        Args:
            snapshot: its statistics.
            stuck_s: seconds since its outputs began the current map; 0 while they wait for one.
        """
        limits = self._parameters().health
        yield from frame_findings(snapshot, limits)
        if stuck_s > limits.hang_s:
            yield Finding(ERROR, "stuck output", f"the outputs have not returned for {stuck_s:.0f} s")
        if self._orientation is not None and snapshot.unoriented_share > limits.max_unoriented_share:
            share = f"{snapshot.unoriented_share:.0%} of the frames without orientation"
            yield Finding(WARN, "orientation", f"{share}: {self._orientation.cause()}")
        if snapshot.is_silent:
            yield Finding(WARN, "silence", silence_trouble(self.frames))

    def output_findings(self) -> Iterator[Finding]:
        """Problems of the outputs, whether or not the node is active."""
        yield from self._output_watch.findings(self.output_counts(), self._parameters().health, time.monotonic())
