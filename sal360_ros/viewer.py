"""SaliencyViewer serves frames and their maps to browsers, and publishes where somebody looks."""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from geometry_msgs.msg import Quaternion, QuaternionStamped
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from sal360.cameras.lookup import equirectangular_view
from sal360.cameras.settings import kept_camera
from sal360.density import as_density
from sal360.errors import DataError, FrameError
from sal360.images import read_map
from sal360.outputs.targets import TargetSelector, find_peaks
from sal360.viewer.scene import MAX_WIDTH, Scene
from sal360.viewer.server import Address, SeenView, ViewerServer
from sal360_ros.grid_settings import GridParameters
from sal360_ros.messages import decode_frame, stamp_nanoseconds
from sal360_ros.parameter_table import ParameterTable
from sal360_ros.parameters import ViewerParameters
from sal360_ros.qos import input_qos, mismatch_logger, output_qos, overridable

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
        self._values = ParameterTable(self, ViewerParameters()).read()
        self._frames: OrderedDict[int, Image | CompressedImage] = OrderedDict()
        self._numbers = itertools.count(1)
        self._selector = TargetSelector()
        self._grids = GridParameters(self, self.resolve_topic_name("saliency"))
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

    def _follow_viewers(self) -> None:
        """Subscribe while somebody watches."""
        if self._server.wants_pictures():
            self._grids.ask()
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
        camera = kept_camera(self._values.camera, *pixels.shape[:2])
        picture = equirectangular_view(camera, pixels, MAX_WIDTH)
        if channels == "rgb":
            picture = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), np.uint8)
        density = as_density(read_map(message), self.resolve_topic_name("saliency"))
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

    def _publish_view(self, view: SeenView) -> None:
        x, y, z, w = view.quaternion
        header = Header(frame_id=self._frame_id, stamp=self.get_clock().now().to_msg())
        self._views.publish(QuaternionStamped(header=header, quaternion=Quaternion(x=x, y=y, z=z, w=w)))
