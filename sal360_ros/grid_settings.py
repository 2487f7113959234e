"""How the saliency node makes its maps, shading rates and QP offsets, asked from the node itself."""

from __future__ import annotations

import math
import time
from typing import Any

from rcl_interfaces.srv import GetParameters
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python

from sal360.errors import Sal360Error
from sal360.settings import flatten, with_values
from sal360.viewer.scene import GridSettings
from sal360_ros.parameters import CameraModel, SaliencyParameters

_GROUPS = ("shading_rate", "qp_offset", "camera", "saliency")
_COMMON = ("fuse",)  # which a camera of several does not have for itself
_DEFAULTS = "the grids have default settings, and camera and layout are those of the viewer's own parameters"
_ASK_S = 2.0
"""Time between two questions, because the parameters may change while the node runs."""


class GridParameters:
    """The parameters of the node that publishes the maps; until it answers, none are known.

    Args:
        node: asks.
        topic: of the maps, resolved.
    """

    def __init__(self, node: Node, topic: str) -> None:
        self._node = node
        self._topic = topic
        self._names = [name for name, _, _ in flatten(SaliencyParameters()) if name.partition(".")[0] in _GROUPS]
        member = topic.split("/")[-2]  # one of several cameras has its map on `<camera>/saliency`, and its parameters
        self._prefixes = [f"{member}.", ""] if member else [""]
        self._values: SaliencyParameters | None = None
        self._service = ""
        self._client: Any = None
        self._asked: Any = None
        self._asked_s = -math.inf

    def settings(self, frame_rows: int) -> GridSettings:
        """The newest settings for frames with so many rows; until the node answers, the viewer's defaults."""
        if self._values is None:
            return GridSettings()
        rates, offsets = self._values.shading_rate, self._values.qp_offset
        return GridSettings(rates, offsets, rates.height_px or frame_rows, offsets.height_px or frame_rows)

    @property
    def layout(self) -> str:
        """The node's `saliency.layout` for these maps; "" until it answers."""
        if self._values is None:
            return ""
        return "equirectangular" if self._is_fused else self._values.saliency.layout

    def camera(self, image: str) -> CameraModel | None:
        """The node's parameters of the camera of these frames.

        Args:
            image: topic of the frames, resolved, without /compressed.

        Returns:
            None until the node answers, for a fused map, and if the node takes its frames from another topic.
        """
        if self._values is None or self._is_fused or not self._takes(image):
            return None
        return self._values.camera

    @property
    def _is_fused(self) -> bool:
        """Whether the map is that of several cameras."""
        return self._values is not None and self._values.fuse and not self._prefixes[0]

    def _takes(self, image: str) -> bool:
        """Whether the node subscribes to these frames."""
        found = [
            f"{each.node_namespace.rstrip('/')}/{each.node_name}/get_parameters"
            for topic in (image, f"{image}/compressed")
            for each in self._node.get_subscriptions_info_by_topic(topic)
        ]
        return self._service in found

    def ask(self) -> None:
        """Ask the node if it is time to; returns at once."""
        now_s = time.monotonic()
        if now_s - self._asked_s < _ASK_S:
            return
        if self._asked is not None and not self._asked.done():  # the node is gone, or busy
            self._client.remove_pending_request(self._asked)
        self._follow(self._wanted_service())
        if self._client is not None and self._client.service_is_ready():
            self._asked_s = now_s
            self._send()

    def _wanted_service(self) -> str:
        """The service of the node that publishes the maps; "" if there is none."""
        for each in self._node.get_publishers_info_by_topic(self._topic):
            if each.node_namespace.startswith("/"):  # else it is not known yet
                return f"{each.node_namespace.rstrip('/')}/{each.node_name}/get_parameters"
        return ""

    def _follow(self, service: str) -> None:
        """Ask this service from now on; "": the last one."""
        if service in ("", self._service):
            return
        self._service = service
        if self._client is not None:
            self._node.destroy_client(self._client)
            self._client = None
        try:
            self._client = self._node.create_client(GetParameters, service)
        except RuntimeError as error:  # access control that does not allow it
            self._node.get_logger().warning(f"{_DEFAULTS}: {service} cannot be asked ({error})")

    def _send(self) -> None:
        names = [*(self._prefixes[0] + name for name in self._names), *_COMMON]
        self._asked = self._client.call_async(GetParameters.Request(names=names))
        self._asked.add_done_callback(self._take)

    def _take(self, future: Any) -> None:
        if future.cancelled() or future.exception() is not None:
            return
        values = [parameter_value_to_python(each) for each in future.result().values]
        names = [*self._names, *_COMMON]
        if len(values) < len(names):  # rclpy answers nothing if one of the names is unknown
            tried, *others = self._prefixes
            self._prefixes = [*others, tried]
            if tried:  # ask at once without the camera's name
                self._asked_s = -math.inf
            return
        try:
            self._values = with_values(SaliencyParameters(), dict(zip(names, values, strict=True)))
        except Sal360Error as error:  # another program with parameters of these names
            self._node.get_logger().warning(f"{_DEFAULTS}: {error}", once=True)
