"""One camera of the node: its topics, its parameters, its statistics and its problems.

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
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from sal360.errors import ParameterError
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
from sal360_ros.fusion import Fusion
from sal360_ros.level import LevelInput, check_tf2
from sal360_ros.mount import parse_mount
from sal360_ros.orientation import OrientationInput
from sal360_ros.parameters import SaliencyParameters, check_layout, of_fused_map
from sal360_ros.qos import input_qos, mismatch_logger, of_camera, overridable
from sal360_ros.shared_maps import SharedMaps
from sal360_ros.statistics import FrameStatistics, OutputCounts, Snapshot
from sal360_ros.stream import CameraStream, Inputs
from sal360_ros.topics import OutputPublisher, make_outputs
from sal360_ros.view import CameraView, check_model

Steps = list[tuple[str, Callable[[], object]]]
"""What is done, for the log, and the function that does it."""


class _Maps:
    """A map and what is derived from it: their topics, and problems of those.

    Args:
        node: has its topics.
        name: what its topics and parameters begin with; "" for the only camera, and for the fused map.
        parameters: returns the current parameter values.
    """

    def __init__(self, node: LifecycleNode, name: str, parameters: Callable[[], SaliencyParameters]) -> None:
        self.name = name
        self.saliency: OutputPublisher | None = None
        """Publishes the map; None while the node is not configured."""
        self.outputs: list[OutputPublisher] = []
        """Publish what is derived from it."""
        self.shared: SharedMaps | None = None
        """Writes the map to shared memory; None if nothing shall."""
        self._node = node
        self._parameters = parameters
        self._output_watch = OutputWatch()

    def advertise(self, spec: ModelSpec) -> None:
        """Advertise the topics, and make the shared memory if it is wanted.

        Raises:
            Sal360Error: the shared memory cannot be made.
        """
        self.saliency, *self.outputs = make_outputs(self._node, self.name)
        parameters = self._parameters()
        if parameters.shm:
            self.shared = SharedMaps(self._node, self.saliency.topic, spec, parameters.shm_readers)

    def retire(self) -> Steps:
        """The steps that remove the topics and the shared memory."""
        outputs, shared = [self.saliency, *self.outputs], self.shared
        self.saliency, self.outputs, self.shared = None, [], None
        steps: Steps = [(f"remove {output.topic}", output.destroy) for output in outputs if output is not None]
        return [*steps, ("remove the shared memory", shared.destroy)] if shared is not None else steps

    def output_counts(self) -> Mapping[str, OutputCounts]:
        """Totals of the outputs, by topic without the camera's name, and of the shared memory, by "shm"."""
        counts = {each.name: each.counts for each in (self.saliency, *self.outputs) if each is not None}
        shared = self.shared
        return counts | {"shm": shared.counts} if shared is not None else counts

    def output_findings(self) -> Iterator[Finding]:
        """Problems of the outputs, whether or not the node is active."""
        yield from self._output_watch.findings(self.output_counts(), self._parameters().health, time.monotonic())


class FusedOutputs(_Maps):
    """The topics of the map that is fused from those of all cameras.

    Args:
        node: has its topics.
        parameters: returns the current common values.
    """

    def __init__(self, node: LifecycleNode, parameters: Callable[[], SaliencyParameters]) -> None:
        super().__init__(node, "", lambda: of_fused_map(parameters()))

    def fusion(self) -> Fusion | None:
        """Fuses the maps and publishes the result; None if the topics are not advertised."""
        if self.saliency is None:
            return None
        return Fusion(self.saliency, self.outputs, self._parameters, self._node.get_logger(), self.shared)


class CameraChannel(_Maps):
    """One camera of a node; the arguments are those of its topics."""

    def __init__(self, node: LifecycleNode, name: str, parameters: Callable[[], SaliencyParameters]) -> None:
        super().__init__(node, name, parameters)
        self.statistics = FrameStatistics()
        """Since the last activation."""
        self._inputs: Inputs | None = None
        self._view: tuple[tuple[int, int], CameraView] | None = None  # the network's input size, and what fills it
        self._info: CameraInfo | None = None
        self._info_subscription: Subscription | None = None
        self._subscription: Subscription | None = None

    @property
    def frames(self) -> FrameTopic:
        """Where its frames come from."""
        return FrameTopic(
            self._node,
            of_camera(self.name, "image"),
            f"{self.name}.image_transport".lstrip("."),
            self._parameters().image_transport,
        )

    def start(self, spec: ModelSpec) -> CameraStream:
        """Reset the statistics, subscribe to orientation and lens, and return the stream that processes the frames."""
        self.statistics = FrameStatistics()
        parameters, label = self._parameters(), f"{self.name}: " if self.name else ""
        source, mount = parameters.orientation, parse_mount(parameters.mount)
        orientation = OrientationInput(self._node, source, self.name) if source != "none" else None
        measured = orientation.rotation_at if orientation is not None else None
        self._inputs = Inputs(orientation, LevelInput(self._node, label, mount, measured), parameters.fuse)
        if parameters.camera.info:
            self._info_subscription = self._node.create_subscription(
                CameraInfo, parameters.camera.info, self._on_info, input_qos(), qos_overriding_options=overridable()
            )
        return self.stream(spec)

    def stream(self, spec: ModelSpec) -> CameraStream:
        """A new stream, whose smoothing and targets start over."""
        assert self.saliency is not None
        assert self._inputs is not None
        size = spec.input_height, spec.input_width
        if self._view is None or self._view[0] != size:
            self._view = size, CameraView(*size, lambda: self._info)
        return CameraStream(
            self.name,
            spec,
            self.saliency,
            self.outputs,
            self._parameters,
            self._inputs,
            self._view[1],
            self.statistics,
            lambda: self._node.get_clock().now().nanoseconds,
            self._node.get_logger(),
            self.shared,
        )

    def retire(self) -> Steps:
        """The same steps; the tables of the camera are made again then, since its calibration file may have changed."""
        self._view = None
        return super().retire()

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
        inputs, self._inputs = self._inputs, None
        info, self._info_subscription, self._info = self._info_subscription, None, None
        steps: Steps = []
        if info is not None:
            steps.append(("unsubscribe from the CameraInfo", partial(self._node.destroy_subscription, info)))
        if inputs is not None:
            steps.append(("stop levelling", inputs.level.destroy))
            if inputs.orientation is not None:
                steps.append(("unsubscribe from the orientation", inputs.orientation.destroy))
        return steps

    def _on_info(self, info: CameraInfo) -> None:
        self._info = info

    def _count_lost(self, event: Any) -> None:
        self.statistics.set_lost(event.total_count)

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
        orientation = self._inputs.orientation if self._inputs is not None else None
        if orientation is not None and snapshot.unoriented_share > limits.max_unoriented_share:
            share = f"{snapshot.unoriented_share:.0%} of the frames without orientation"
            yield Finding(WARN, "orientation", f"{share}: {orientation.cause()}")
        if snapshot.is_silent:
            yield Finding(WARN, "silence", silence_trouble(self.frames))


def check_cameras(cameras: Mapping[str, SaliencyParameters]) -> None:
    """Refuse parameters that contradict each other.

    Args:
        cameras: each camera's values by its name.

    Raises:
        ParameterError: naming the camera, if there are several.
    """
    for name, values in cameras.items():
        try:
            _check_camera(values)
        except ParameterError as error:
            raise ParameterError(f"{name}: {error.found}" if name else error.found, error.remedy) from None
    if len(cameras) < 2 and any(values.fuse for values in cameras.values()):
        raise ParameterError("fuse is true, and there are not several cameras", "set cameras, or set fuse to false")


def _check_camera(values: SaliencyParameters) -> None:
    check_model(values.camera)
    check_layout(values)
    mount = parse_mount(values.mount)
    if mount.frame:
        check_tf2(mount.frame)
    if values.fuse and (mount.is_none or mount.is_estimated):
        raise ParameterError(
            f"fuse is true, and mount is {values.mount!r}", "set mount to a quaternion or a tf2 frame, or fuse to false"
        )
