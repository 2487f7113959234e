"""SaliencyViewer serves frames and their maps to browsers, and publishes where somebody looks."""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from geometry_msgs.msg import Quaternion, QuaternionStamped
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from sal360.arrays import Density
from sal360.cameras import Camera
from sal360.cameras.equirectangular import ASPECT_TOLERANCE, is_plain
from sal360.cameras.lookup import equirectangular_view
from sal360.density import as_density
from sal360.errors import DataError, FrameError
from sal360.images import read_map
from sal360.outputs.targets import TargetSelector, find_peaks
from sal360.viewer.scene import MAX_WIDTH, Scene
from sal360.viewer.server import Address, SeenView, ViewerServer
from sal360_ros.grid_settings import GridParameters
from sal360_ros.messages import decode_frame, stamp_nanoseconds
from sal360_ros.parameter_table import ParameterTable
from sal360_ros.parameters import VIEWER_WIDE, CameraModel, SaliencyParameters, ViewerParameters
from sal360_ros.qos import input_qos, mismatch_logger, output_qos, overridable
from sal360_ros.view import DescribedCamera, check_model

_LOOK_S = 0.25
"""Time between two looks at whether anybody watches."""
_SILENCE_S = 3.0
"""Time without anything to show after which the pages say what is missing."""
_WAITING_FRAMES = 12
"""Frames that wait for their maps; a map arrives a few frames after its frame at most."""


class SaliencyViewer(Node):
    """Shows `image` and `saliency` of equal stamps; see `ViewerParameters`.

    It subscribes only while a page is open, so that nobody pays for a viewer that is not used.

    Raises:
        ParameterError: a parameter is out of its range, or the port is in use.
    """

    def __init__(self, name: str = "saliency_viewer", **node_options: Any) -> None:
        super().__init__(name, automatically_declare_parameters_from_overrides=True, **node_options)
        # the parameters file is that of the saliency node, so that names unknown here are no mistakes
        member = self._camera_name()
        table = ParameterTable(self, ViewerParameters(), members=lambda _: [member], common=VIEWER_WIDE)
        table.read()
        self._values = table.of(member)
        check_model(self._values.camera)
        self._frames: OrderedDict[int, Image | CompressedImage] = OrderedDict()
        self._numbers = itertools.count(1)
        self._selector = TargetSelector()
        self._grids = GridParameters(self, self.resolve_topic_name("saliency"))
        self._info: CameraInfo | None = None
        self._info_topic = ""
        self._info_subscription: Any = None
        self._camera = DescribedCamera(lambda: self._info)
        self._frame_id = ""
        self._trouble = ""
        self._last_s, self._has_frames, self._has_maps = 0.0, False, False
        self._subscribed: list[Any] = []
        topic = self.resolve_topic_name("viewer/view")
        self._views = self.create_publisher(
            QuaternionStamped,
            topic,
            output_qos(),
            event_callbacks=PublisherEventCallbacks(
                incompatible_qos=mismatch_logger(topic, "publisher", self.get_logger().warning)
            ),
            qos_overriding_options=overridable(),
        )
        certificate, key = (
            Path(each) if each else None for each in (self._values.tls_certificate, self._values.tls_key)
        )
        self._server = ViewerServer(
            self.resolve_topic_name("saliency"),
            Address(self._values.host, self._values.port, self._values.token, certificate, key),
            pictures=self._values.pictures,  # type: ignore[arg-type]  # one of the choices
            on_view=self._publish_view,
            log=self.get_logger(),
        )
        self._server.start()
        self.get_logger().info(f"open {self._server.url} in a browser")
        self.create_timer(_LOOK_S, self._follow_viewers, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def destroy_node(self) -> None:
        """Disconnect the pages, and leave the graph."""
        self._server.close()  # before the publisher that its thread uses
        super().destroy_node()  # type: ignore[no-untyped-call]

    def _camera_name(self) -> str:
        """The name of the camera whose maps are shown, if it is one of several and has parameters under its name."""
        name = self.resolve_topic_name("saliency").split("/")[-2]
        is_camera = name not in {each.name for each in fields(SaliencyParameters)}
        return name if name and is_camera and self.get_parameters_by_prefix(name) else ""

    def _follow_viewers(self) -> None:
        """Subscribe while somebody watches."""
        if self._server.wants_pictures():
            self._grids.ask()
        self._follow_info(self._model().info if self._server.wants_pictures() else "")
        if self._server.wants_pictures() == bool(self._subscribed):
            if self._subscribed and time.monotonic() - self._last_s > _SILENCE_S:
                self._say(self._what_is_missing())
            return
        self._last_s, self._has_frames, self._has_maps = time.monotonic(), False, False
        if self._subscribed:
            for each in self._subscribed:
                self.destroy_subscription(each)
            self._subscribed = []
            self._frames.clear()
            return
        is_raw = self._values.image_transport == "raw"
        topic = self.resolve_topic_name("image")
        topic = topic if is_raw else self.resolve_topic_name(f"{topic}/compressed")
        self._subscribed = [
            self._subscription(Image if is_raw else CompressedImage, topic, self._keep),
            self._subscription(Image, self.resolve_topic_name("saliency"), self._show),
        ]

    def _follow_info(self, topic: str) -> None:
        """Subscribe to the CameraInfo on this topic; "": to none."""
        if topic == self._info_topic:
            return
        if self._info_subscription is not None:
            self.destroy_subscription(self._info_subscription)
        self._info, self._info_topic, self._info_subscription = None, topic, None
        if not topic:
            return
        try:
            self._info_subscription = self.create_subscription(CameraInfo, topic, self._on_info, input_qos())
        except RuntimeError as error:  # access control that does not allow it
            self.get_logger().warning(f"there is no CameraInfo, because {topic} cannot be subscribed to ({error})")

    def _on_info(self, info: CameraInfo) -> None:
        self._info = info

    def _model(self) -> CameraModel:
        """The camera as this node's parameters describe it or, if they do not, as the saliency node's do."""
        own = self._values.camera
        return own if own != CameraModel() else self._grids.camera(self.resolve_topic_name("image")) or own

    def _what_is_missing(self) -> str:
        image, saliency = (self.resolve_topic_name(each) for each in ("image", "saliency"))
        if not self._has_frames:
            transport = self._values.image_transport
            return f"No {transport} frames arrive on {image}: start the camera, or correct image and image_transport."
        if not self._has_maps:
            return f"No maps arrive on {saliency}: start and activate the saliency node."
        return f"The maps on {saliency} do not belong to the frames on {image}: their stamps differ."

    def _subscription(self, message_type: type[Any], topic: str, callback: Any) -> Any:
        return self.create_subscription(
            message_type,
            topic,
            callback,
            input_qos(),
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=mismatch_logger(topic, "subscription", self.get_logger().warning)
            ),
        )

    def _keep(self, message: Image | CompressedImage) -> None:
        """Keep a frame until its map arrives."""
        self._has_frames = True
        self._frames[stamp_nanoseconds(message.header)] = message
        while len(self._frames) > _WAITING_FRAMES:
            self._frames.popitem(last=False)

    def _show(self, message: Image) -> None:
        """Show a map with its frame; older frames got none."""
        self._has_maps = True
        captured_ns = time.monotonic_ns()
        stamp_ns = stamp_nanoseconds(message.header)
        frame = self._frames.pop(stamp_ns, None)
        if frame is None:  # it was lost, or is older than those that wait
            return
        while self._frames and next(iter(self._frames)) < stamp_ns:
            self._frames.popitem(last=False)
        try:
            scene = self._scene(message, frame, stamp_ns / 1e9, captured_ns)
        except (FrameError, DataError) as error:
            self.get_logger().warning(f"a frame cannot be shown: {error}", throttle_duration_sec=10.0)
            self._say(str(error))
            return
        self._say("")
        self._last_s = time.monotonic()
        self._frame_id = message.header.frame_id
        self._server.publish(scene)

    def _say(self, trouble: str) -> None:
        """Show a line on the pages, or remove it."""
        if trouble != self._trouble:
            self._trouble = trouble
            self._server.say(trouble)

    def _scene(self, message: Image, frame: Image | CompressedImage, stamp_s: float, captured_ns: int) -> Scene:
        pixels, channels = decode_frame(frame, max_pixels=self._values.max_pixels)
        camera = self._camera.of(self._model(), *pixels.shape[:2])
        picture = equirectangular_view(camera, pixels, MAX_WIDTH)
        if channels == "rgb":
            picture = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), np.uint8)
        density = self._density(message, camera)
        target = self._selector.update(find_peaks(density), stamp_s)
        # the time that passed since the stamp counts, if both clocks are the same
        age_ns = max(0, self.get_clock().now().nanoseconds - round(stamp_s * 1e9))
        captured_ns -= age_ns if age_ns < 10_000_000_000 else 0
        return Scene(
            str(round(stamp_s * 1e3)),
            stamp_s,
            picture,
            density,
            target,
            captured_ns,
            next(self._numbers),
            self._grids.settings(pixels.shape[0]),
        )

    def _density(self, message: Image, camera: Camera) -> Density:
        """The map (h, w), equirectangular.

        Raises:
            DataError: it is no map, or has another layout than the parameters say.
        """
        topic = self.resolve_topic_name("saliency")
        density = as_density(read_map(message), topic)
        if (self._grids.layout or self._values.saliency.layout) == "source" and not is_plain(camera):
            return as_density(self._camera.layout_of(camera).equirectangular(density), topic)
        height, width = density.shape
        if abs(width - 2 * height) > ASPECT_TOLERANCE * 2 * height:
            raise DataError(
                f"the map {topic} is {width} x {height}",
                "if it has the layout of the camera's frames, give the viewer the node's saliency.layout and camera.…",
                expected="a width of twice the height",
            )
        return density

    def _publish_view(self, view: SeenView) -> None:
        x, y, z, w = view.quaternion
        header = Header(frame_id=self._frame_id, stamp=self.get_clock().now().to_msg())
        self._views.publish(QuaternionStamped(header=header, quaternion=Quaternion(x=x, y=y, z=z, w=w)))
