"""A live ROS graph of each test's own: an executor in a thread, a camera, a listener, nodes under test."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import Log
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from sal360.predictor import Predictor
from sal360_ros.messages import image_message
from sal360_ros.node import SaliencyNode
from tests.replayed_scene import mcap_bag, run_evaluate, turning_scene

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the first message type imports lark, and that the deprecated sre_parse
    import rosidl_generator_py  # noqa: F401

__all__ = ["mcap_bag", "run_evaluate", "turning_scene"]

TIMEOUT_S = 30.0


class Graph:
    """Nodes in this process, spun by a thread; their logs and diagnostics are kept."""

    def __init__(self) -> None:
        self.context = Context()
        rclpy.init(args=[], context=self.context, signal_handler_options=SignalHandlerOptions.NO)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._nodes: list[Node] = []
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self.log: list[str] = []
        self.diagnostics: dict[str, DiagnosticStatus] = {}
        self.node = self.add(Node("test_listener", context=self.context))
        every_line = QoSProfile(
            depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE
        )
        self.node.create_subscription(Log, "/rosout", lambda line: self.log.append(line.msg), every_line)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        self.diagnostics.update({status.name: status for status in array.status})

    def _spin(self) -> None:
        try:
            while not self._stopping.is_set():
                self._executor.spin_once(timeout_sec=0.05)
        except BaseException as error:
            self._error = error

    def add(self, node: Node) -> Node:
        """Have a node spun."""
        self._nodes.append(node)
        self._executor.add_node(node)
        return node

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function in the executor's thread, as a service call would be, and return its result."""
        task = self._executor.create_task(function, *arguments)
        self.wait_for(task.done, f"{function}")
        return task.result()

    def wait_for(self, condition: Callable[[], object], what: str = "") -> None:
        """Wait until the condition holds; fail with `what` after a generous time."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            if self._error is not None:
                raise self._error
            assert time.monotonic() < deadline, f"timed out after {TIMEOUT_S:g} s waiting for: {what or condition}"
            time.sleep(0.005)

    def wait_for_line(self, part: str) -> str:
        """Wait until a line with this part was logged, and return it."""
        self.wait_for(lambda: any(part in line for line in self.log), f"a log line with {part!r} among {self.log}")
        return next(line for line in self.log if part in line)

    def values(self, name: str = "/saliency_node") -> dict[str, str]:
        """The newest diagnostic values of a node."""
        status = self.diagnostics.get(f"{name}: saliency")
        return {pair.key: pair.value for pair in status.values} if status else {}

    def received(self, kind: type[Any], topic: str, qos: QoSProfile | int = 10) -> list[Any]:
        """Subscribe; the list grows with every message."""
        messages: list[Any] = []
        self.call(self.node.create_subscription, kind, topic, messages.append, qos)
        return messages

    def close(self) -> None:
        """Destroy the nodes and leave the graph; a node that blocks the executor is a failure, and stays."""
        self._stopping.set()
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive(), "the executor is blocked"
        for node in reversed(self._nodes):
            node.destroy_node()
        self._executor.shutdown()
        rclpy.shutdown(context=self.context)
        self.context.destroy()


@pytest.fixture
def graph() -> Iterator[Graph]:
    """A graph that ends with the test."""
    gc.collect()  # rclpy's lifecycle nodes haunt the graph until their memory is freed: those of the last test
    made = Graph()
    yield made
    made.close()


@pytest.fixture
def driver() -> Iterator[Node]:
    """A node in this process that the code under test spins, as a program would that brings other processes to life."""
    gc.collect()  # as above: a dead node of the same name would take the questions and never answer
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = Node("driver")
    yield node
    node.destroy_node()
    rclpy.shutdown()


class Camera:
    """Publishes images on a topic, each with a unique stamp."""

    def __init__(self, graph: Graph, kind: type[Any] = Image, topic: str = "image") -> None:
        self._graph = graph
        self._publisher = graph.call(graph.node.create_publisher, kind, topic, 10)
        self._stamps = itertools.count(1)

    def header(self, frame_id: str = "camera") -> Header:
        """A header whose stamp is newer than every one before."""
        header = Header(frame_id=frame_id)
        header.stamp.sec, header.stamp.nanosec = next(self._stamps), 5
        return header

    def frame(self, height: int = 32, width: int = 64) -> Image:
        """An rgb8 frame of noise."""
        pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return image_message(pixels, "rgb8", self.header())

    def publish(self, message: Any) -> Any:
        """Send a message once there is a subscriber."""
        self._graph.wait_for(self._publisher.get_subscription_count, "a subscriber of the camera")
        self._publisher.publish(message)
        return message

    def stream_until(self, condition: Callable[[], object], what: str = "", **size: int) -> None:
        """Send frames of noise until the condition holds."""

        def done() -> bool:
            self.publish(self.frame(**size))
            time.sleep(0.02)
            return bool(condition())

        self._graph.wait_for(done, what or str(condition))


@pytest.fixture
def camera(graph: Graph) -> Camera:
    """A camera on `image`."""
    return Camera(graph)


@pytest.fixture
def make_camera(graph: Graph) -> Callable[[str], Camera]:
    """Makes a camera on any topic."""
    return lambda topic: Camera(graph, topic=topic)


@pytest.fixture
def compressed_camera(graph: Graph) -> Camera:
    """A camera on `image/compressed`."""
    return Camera(graph, CompressedImage, "image/compressed")


@pytest.fixture
def make_node(graph: Graph, tiny_model: Path) -> Callable[..., SaliencyNode]:
    """Makes a saliency node with the tiny model and these parameters; dots in names as double underscores."""

    def make(name: str = "saliency_node", remap: Mapping[str, str] | None = None, **parameters: Any) -> SaliencyNode:
        values = {"model": str(tiny_model), "backend": "onnxruntime", "device": "cpu", "threads": 1, **parameters}
        overrides = [Parameter(key.replace("__", "."), value=value) for key, value in values.items()]
        remapped = [part for old, new in (remap or {}).items() for part in ("-r", f"{old}:={new}")]
        arguments = ["--ros-args", *remapped] if remapped else None
        node = SaliencyNode(name, context=graph.context, parameter_overrides=overrides, cli_args=arguments)
        graph.add(node)
        return node

    return make


@pytest.fixture
def activate(graph: Graph) -> Callable[[SaliencyNode], SaliencyNode]:
    """Configures and activates a node."""

    def bring_up(node: SaliencyNode) -> SaliencyNode:
        for transition in (node.trigger_configure, node.trigger_activate):
            assert graph.call(transition).name == "SUCCESS", graph.log
        return node

    return bring_up


@pytest.fixture
def active_node(
    make_node: Callable[..., SaliencyNode], activate: Callable[[SaliencyNode], SaliencyNode]
) -> SaliencyNode:
    """A saliency node in the state active."""
    return activate(make_node())


def rows_of(message: Image, dtype: Any = np.uint8) -> np.ndarray:
    """The rows of an image message without their padding, (H, W) or (H, W, channels)."""
    shape = (message.height, message.width, -1)
    array = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step).view(dtype).reshape(shape)
    return array[..., 0] if array.shape[2] == 1 else array


@pytest.fixture
def array_of() -> Callable[..., np.ndarray]:
    """The rows of an image message; see `rows_of`."""
    return rows_of


@pytest.fixture
def density_of(tiny_model: Path) -> Iterator[Callable[[Image], np.ndarray]]:
    """What the node must answer to an rgb8 frame."""
    with Predictor(tiny_model, backend="onnxruntime", device="cpu", threads=1) as predictor:
        yield lambda frame: predictor.predict(rows_of(frame), "rgb")
