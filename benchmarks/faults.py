"""Faults for `soak.py`: what a saliency node meets in the field, and a camera that can misbehave.

After each fault, the stream is as before: the camera at its usual size and rate, the node active.
"""

from __future__ import annotations

import array
import itertools
import multiprocessing
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PointStamped
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from sal360_ros.messages import image_message
from sal360_ros.processes import ACTIVATE, CLEANUP, CONFIGURE, DEACTIVATE, NodeProcess, change_state

NODE = "/saliency_node"
SIZES = ((320, 640), (322, 640), (480, 960), (960, 1920), (1920, 3840))
OUTPUTS = {
    "saliency/overlay": Image,
    "saliency/target": PointStamped,
    "saliency/targets": PointCloud2,
    "saliency/markers": MarkerArray,
    "saliency/shading_rate": Image,
    "saliency/qp_offset": Image,
}
CROWD_S, CROWD_LIMIT_S = 2.0, 20.0
_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


class Camera:
    """Publishes noise on `image` from its own thread until it is stopped."""

    def __init__(self, node: Node, rate_hz: float) -> None:
        self._node = node
        self._rate_hz = rate_hz
        self._stopping = threading.Event()
        self.lock = threading.Lock()
        self.publisher = node.create_publisher(Image, "image", _QOS)
        self.is_paused = False
        self.stamp_offset_s = 0
        self.set_size(*SIZES[0])
        self._thread = threading.Thread(target=self._run, name="camera")
        self._thread.start()

    def set_size(self, height: int, width: int, encoding: str = "rgb8") -> None:
        """Set size and encoding of the next frames."""
        pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        self._message = image_message(pixels, encoding, Header(frame_id="soak"))

    def publish_one(self) -> None:
        """Publish one frame now."""
        with self.lock:
            message = self._message
            message.header.stamp = self._node.get_clock().now().to_msg()
            message.header.stamp.sec += self.stamp_offset_s
            self.publisher.publish(message)

    def restart(self, absence_s: float) -> None:
        """Leave the graph, and return after `absence_s`."""
        with self.lock:
            self._node.destroy_publisher(self.publisher)
            time.sleep(absence_s)
            self.publisher = self._node.create_publisher(Image, "image", _QOS)

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        next_s = time.monotonic()
        while not self._stopping.is_set():
            if not self.is_paused:
                self.publish_one()
            next_s = max(next_s + 1 / self._rate_hz, time.monotonic() - 1)
            time.sleep(max(0.0, next_s - time.monotonic()))


def be_a_crowd() -> None:
    """Five subscribers per output for `CROWD_S`; runs in a child process."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("crowd")
    made = [
        node.create_subscription(kind, topic, lambda _: None, 1) for topic, kind in OUTPUTS.items() for _ in range(5)
    ]
    end_s = time.monotonic() + CROWD_S
    while time.monotonic() < end_s:
        rclpy.spin_once(node, timeout_sec=0.05)
    for subscription in made:
        node.destroy_subscription(subscription)
    node.destroy_node()
    rclpy.shutdown()


class Faults:
    """All faults; each call blocks until the fault is over.

    Args:
        node: the driver's node; only `spin` and the transitions spin it.
        process: the node under test.
        spin: runs the driver's callbacks for a number of seconds.
    """

    def __init__(
        self, node: Node, process: NodeProcess, camera: Camera, spin: Callable[[float], None], seed: int
    ) -> None:
        self._node, self._process, self._camera, self._spin = node, process, camera, spin
        self._random = random.Random(seed)
        self.crowds: Counter[str] = Counter()
        self._sizes = itertools.cycle(reversed(SIZES))  # largest first: in the warm-up
        self._parameters = node.create_client(SetParameters, f"{NODE}/set_parameters")
        self.all: dict[str, Callable[[], None]] = {
            name.removeprefix("fault_"): getattr(self, name) for name in sorted(dir(self)) if name.startswith("fault_")
        }

    def fault_bad_frames(self) -> None:
        """Forty malformed messages among the good ones."""
        for _ in range(40):
            message = Image(height=320, width=640, step=1920, encoding="rgb8")
            message.data = array.array("B", self._random.randbytes(self._random.choice((0, 100, 320 * 1920))))
            name, values = self._random.choice(
                [("height", (0, 2**32 - 1)), ("width", (0, 2**31, 641)), ("step", (0, 7)), ("encoding", ("", "xyz"))]
            )
            setattr(message, name, self._random.choice(values))
            with self._camera.lock:
                self._camera.publisher.publish(message)
            self._spin(0.01)

    def fault_burst(self) -> None:
        """A hundred frames without a pause."""
        for _ in range(100):
            self._camera.publish_one()

    def fault_pause(self) -> None:
        """No frames for three seconds."""
        self._camera.is_paused = True
        self._spin(3.0)
        self._camera.is_paused = False

    def fault_size(self) -> None:
        """Another size and encoding for two seconds."""
        self._camera.set_size(*next(self._sizes), self._random.choice(("rgb8", "bgr8")))
        self._spin(2.0)
        self._camera.set_size(*SIZES[0])

    def fault_camera_restart(self) -> None:
        """The camera leaves the graph and returns."""
        self._camera.restart(self._random.uniform(0.1, 2.0))

    def fault_stamps(self) -> None:
        """Stamps jump back by an hour, and forward again."""
        self._camera.stamp_offset_s = -3600
        self._spin(1.0)
        self._camera.stamp_offset_s = 0

    def fault_subscribers(self) -> None:
        """Five subscribers per output come and go, in a child process.

        They are reliable, like many tools. If the crowd hangs in Fast DDS because of that (see `qos.input_qos`), it is
        killed and counted, which is one more fault for the node.
        """
        crowd = multiprocessing.get_context("spawn").Process(target=be_a_crowd, daemon=True)
        crowd.start()
        limit_s = time.monotonic() + CROWD_LIMIT_S
        while crowd.is_alive() and time.monotonic() < limit_s:
            self._spin(0.05)
        if crowd.is_alive():
            crowd.kill()
        crowd.join()
        ended = crowd.exitcode
        self.crowds["left" if ended == 0 else "hung" if ended == -signal.SIGKILL else "failed"] += 1

    def fault_reactivation(self) -> None:
        """Deactivate and activate."""
        for transition in (DEACTIVATE, ACTIVATE):
            change_state(self._node, NODE, transition, self._process)

    def fault_reconfiguration(self) -> None:
        """Unload the model and load it again."""
        for transition in (DEACTIVATE, CLEANUP, CONFIGURE, ACTIVATE):
            change_state(self._node, NODE, transition, self._process)

    def fault_parameters(self) -> None:
        """Valid and invalid parameter values."""
        values: list[tuple[str, Any]] = [
            ("prior_strength", self._random.choice((0.5, 1.0, 99.0, float("nan")))),
            ("encoding", self._random.choice(("mono8", "32FC1", "jpeg"))),
            ("smoothing.time_constant_s", self._random.choice((0.0, 0.2, -1.0))),
            ("shading_rate.tile_px", self._random.choice((8, 16, 12))),
            ("model", "/no/such.onnx"),
        ]
        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg() for name, value in values]
        )
        future = self._parameters.call_async(request)
        while not future.done():
            self._process.check_alive()
            self._spin(0.02)
