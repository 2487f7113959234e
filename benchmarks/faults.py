"""Faults for `soak.py`, as a saliency node meets them in the field, and a camera that can misbehave.

After each fault, the stream is as before: the camera has its usual size and rate, the node is active.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import math
import mmap
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from faulty_node import FAIL, HANG, NONE
from geometry_msgs.msg import PointStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, PointCloud2
from sensor_msgs.msg import Imu as ImuMessage
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from sal360_ros.messages import image_message
from sal360_ros.processes import ACTIVATE, CLEANUP, CONFIGURE, DEACTIVATE, NodeProcess, ProcessError, change_state

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


class SoakCamera(NamedTuple):
    """One of several cameras of the node under test."""

    size: tuple[int, int]
    """Rows and columns of its frames."""
    rate_hz: float
    camera: dict[str, Any]
    """Settings of the group `camera` of its parameters."""


CAMERAS = {
    "front": SoakCamera(SIZES[0], 30.0, {}),
    "rear": SoakCamera((480, 960), 10.0, {"model": "dual_fisheye", "fov_deg": 200.0}),
    "cube": SoakCamera((320, 480), 10.0, {"model": "cubemap"}),
}
"""Cameras of different formats: the first one has the faults, the last one comes and goes."""


def camera_parameters() -> dict[str, Any]:
    """The node's parameters for `CAMERAS`; only the first one has an IMU."""
    parameters: dict[str, Any] = {"cameras": list(CAMERAS), f"{next(iter(CAMERAS))}.orientation": "imu"}
    for name, each in CAMERAS.items():
        parameters |= {f"{name}.camera.{setting}": value for setting, value in each.camera.items()}
    return parameters


CROWD_S, CROWD_LIMIT_S = 2.0, 20.0
MAX_FAILURES, HANG_S = 10, 10.0
"""The node's parameters health.max_failures and health.hang_s, as by default: on a machine that is busy with other
work, a batch of three frames can take two seconds, which is no hang."""
LIMIT_S = 120.0
"""Time for the node to answer, or to open its model again."""
MAX_FILLED_BYTES = 2**30
"""A larger /dev/shm is not filled: it is the machine's memory."""
_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


class Repeated:
    """Calls a function at a rate, in its own thread, until it is stopped."""

    def __init__(self, name: str, rate_hz: float, function: Callable[[], None]) -> None:
        self._rate_hz = rate_hz
        self._function = function
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        next_s = time.monotonic()
        while not self._stopping.is_set():
            self._function()
            next_s = max(next_s + 1 / self._rate_hz, time.monotonic() - 1)
            time.sleep(max(0.0, next_s - time.monotonic()))


class Simulation:
    """A simulated clock on `/clock`: the system's time, shifted by `offset_s`, or standing still."""

    def __init__(self, node: Node) -> None:
        self._publisher = node.create_publisher(Clock, "/clock", 1)
        self.offset_s = 0.0
        self.stopped_at_s: float | None = None
        self._thread = Repeated("clock", 50.0, lambda: self._publisher.publish(Clock(clock=self.now())))
        self.stop = self._thread.stop

    def now(self) -> Time:
        """The simulated time."""
        now_s = time.time() if self.stopped_at_s is None else self.stopped_at_s
        seconds, nanoseconds = divmod(round((now_s + self.offset_s) * 1e9), 10**9)
        return Time(sec=seconds, nanosec=nanoseconds)


class Imu:
    """Publishes the orientation of a robot that turns."""

    def __init__(self, node: Node, simulation: Simulation, topic: str) -> None:
        self._simulation = simulation
        self._publisher = node.create_publisher(ImuMessage, topic, _QOS)
        self.is_paused = False
        self._thread = Repeated("imu", 100.0, self._publish)
        self.stop = self._thread.stop

    def _publish(self) -> None:
        if self.is_paused:
            return
        message = ImuMessage(header=Header(frame_id="soak", stamp=self._simulation.now()))
        half_yaw_rad = 0.1 * time.monotonic() % math.pi
        message.orientation.z, message.orientation.w = math.sin(half_yaw_rad), math.cos(half_yaw_rad)
        self._publisher.publish(message)


class Camera:
    """Publishes noise from its own thread until it is stopped."""

    def __init__(
        self, node: Node, rate_hz: float, simulation: Simulation, topic: str, size: tuple[int, int] = SIZES[0]
    ) -> None:
        self._node = node
        self._simulation = simulation
        self._topic = topic
        self.lock = threading.Lock()
        self.publisher = node.create_publisher(Image, topic, _QOS)
        self.is_paused = False
        self.stamp_offset_s = 0
        self.set_size(*size)
        self._thread = Repeated("camera", rate_hz, lambda: None if self.is_paused else self.publish_one())
        self.stop = self._thread.stop

    def set_size(self, height: int, width: int, encoding: str = "rgb8") -> None:
        """Set size and encoding of the next frames."""
        pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        self._message = image_message(pixels, encoding, Header(frame_id="soak"))

    def publish_one(self) -> None:
        """Publish one frame now."""
        with self.lock:
            message = self._message
            message.header.stamp = self._simulation.now()
            message.header.stamp.sec += self.stamp_offset_s
            self.publisher.publish(message)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Leave the graph, and return at the end of the block."""
        with self.lock:
            self._node.destroy_publisher(self.publisher)
            yield
            self.publisher = self._node.create_publisher(Image, self._topic, _QOS)


def be_a_crowd(prefix: str) -> None:
    """Five subscribers per output for `CROWD_S`; runs in a child process."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("crowd")
    made = [
        node.create_subscription(kind, prefix + topic, lambda _: None, 1)
        for topic, kind in OUTPUTS.items()
        for _ in range(5)
    ]
    end_s = time.monotonic() + CROWD_S
    while time.monotonic() < end_s:
        rclpy.spin_once(node, timeout_sec=0.05)
    for subscription in made:
        node.destroy_subscription(subscription)
    node.destroy_node()
    rclpy.shutdown()


class World:
    """The inputs of the node under test: a clock, an IMU and a camera, or `CAMERAS`."""

    def __init__(self, node: Node, rate_hz: float, *, has_several: bool) -> None:
        self.simulation = Simulation(node)
        self.prefix = f"{next(iter(CAMERAS))}/" if has_several else ""
        """Begins the topics of the camera that has the faults."""
        self.imu = Imu(node, self.simulation, f"{self.prefix}imu")
        self.camera = Camera(node, rate_hz, self.simulation, f"{self.prefix}image")
        others = list(CAMERAS.items())[1:] if has_several else []
        self.others = {
            name: Camera(node, each.rate_hz, self.simulation, f"{name}/image", each.size) for name, each in others
        }

    def stop(self) -> None:
        """End all threads."""
        for each in (self.camera, *self.others.values(), self.imu, self.simulation):
            each.stop()


class Faults:
    """All faults; each call blocks until the fault is over.

    Args:
        node: the driver's node; only `spin` and the transitions spin it.
        process: the node under test, a `faulty_node`.
        parameters: those of the node, for a second one.
        command: byte that controls the node's inference: NONE, FAIL or HANG.
        folder: for the logs of further processes.
        spin: runs the driver's callbacks for a number of seconds, and raises `ProcessError` if the node has ended.
        silent_since: returns the cameras, besides one, that have no map of a frame after a time.
    """

    def __init__(
        self,
        node: Node,
        process: NodeProcess,
        world: World,
        parameters: Mapping[str, Any],
        command: mmap.mmap,
        folder: Path,
        spin: Callable[[float], None],
        silent_since: Callable[[float, str], list[str]],
        seed: int,
    ) -> None:
        self._node, self._process, self._spin, self._silent_since = node, process, spin, silent_since
        self._simulation, self._imu, self._camera = world.simulation, world.imu, world.camera
        self._prefix, self._others = world.prefix, world.others
        self._parameters_of_node = parameters
        self._command = command
        self._folder = folder
        self.troubles: list[str] = []
        self._random = random.Random(seed)
        self.crowds: Counter[str] = Counter()
        self.calm_s = 0.0
        """How long the next map of every camera takes without a fault."""
        self._sizes = itertools.cycle(reversed(SIZES))  # largest first: in the warm-up
        self._parameters = node.create_client(SetParameters, f"{NODE}/set_parameters")
        self.all: dict[str, Callable[[], None]] = {
            name.removeprefix("fault_"): getattr(self, name) for name in sorted(dir(self)) if name.startswith("fault_")
        }
        if shutil.disk_usage("/dev/shm").total > MAX_FILLED_BYTES:
            del self.all["shared_memory_full"]
        if not self._others:
            del self.all["camera_away"]

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
        with self._camera.away():
            time.sleep(self._random.uniform(0.1, 2.0))

    def fault_camera_away(self) -> None:
        """The last of several cameras leaves the graph for some seconds; the others must have maps meanwhile."""
        name, camera = list(self._others.items())[-1]
        with camera.away():
            left_s = time.time()
            self._spin(self._random.uniform(2.0, 6.0) + self.calm_s)
        self.troubles += [f"{each} had no map while {name} was away" for each in self._silent_since(left_s, name)]

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
        crowd = multiprocessing.get_context("spawn").Process(target=be_a_crowd, args=(self._prefix,), daemon=True)
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
            ("front_strength", self._random.choice((0.0, 1.0, 99.0, float("nan")))),
            ("encoding", self._random.choice(("mono8", "32FC1", "jpeg"))),
            ("smoothing.time_constant_s", self._random.choice((0.0, 0.2, -1.0))),
            ("shading_rate.tile_px", self._random.choice((8, 16, 12))),
            ("model", "/no/such.onnx"),
        ]
        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg() for name, value in values]
        )
        future = self._parameters.call_async(request)
        self._wait_until(future.done, self._process, "the node did not answer a request for its parameters")

    def fault_imu_dropout(self) -> None:
        """The IMU is silent for two seconds."""
        self._imu.is_paused = True
        self._spin(2.0)
        self._imu.is_paused = False

    def fault_clock_jump(self) -> None:
        """The simulated clock, and with it all stamps, jumps by an hour, and back after a second."""
        self._simulation.offset_s = self._random.choice((-3600.0, 3600.0))
        self._spin(1.0)
        self._simulation.offset_s = 0.0

    def fault_clock_stop(self) -> None:
        """The simulated clock, and with it all stamps, stands still for three seconds."""
        self._simulation.stopped_at_s = time.time()
        self._spin(3.0)
        self._simulation.stopped_at_s = None

    def fault_few_failures(self) -> None:
        """Inference fails, but fewer consecutive times than the limit."""
        self._command[0] = HANG + MAX_FAILURES // 2
        self._wait_until(lambda: self._command[0] == NONE, self._process, "the node did not fail on command")

    def fault_many_failures(self) -> None:
        """Inference fails until the node opens the model again."""
        self._break_inference(FAIL)

    def fault_hang(self) -> None:
        """Inference hangs until the node opens the model again."""
        self._break_inference(HANG)

    def _break_inference(self, command: int) -> None:
        self.fault_reactivation()  # after each activation, the node opens the model again once
        before = self._count("the model is open again")
        self._command[0] = command
        self._wait_until(
            lambda: self._count("the model is open again") > before,
            self._process,
            "the node did not open its model again",
        )

    def _count(self, text: str) -> int:
        """How often the node has logged a text."""
        assert self._process.log is not None
        return self._process.log.read_text().count(text)

    def _wait_until(self, condition: Callable[[], object], process: NodeProcess, trouble: str) -> None:
        """Wait until a condition holds while a process lives; if it takes longer than `LIMIT_S`, that is a trouble."""
        limit_s = time.monotonic() + LIMIT_S
        while not condition():
            process.check_alive()
            self._spin(0.02)
            if time.monotonic() > limit_s:
                self.troubles.append(f"{trouble} within {LIMIT_S:g} s ({process.last_error()})")
                return

    def restore(self) -> None:
        """Take the node to the state active from the one in which a fault that went wrong has left it."""
        self._command[0] = NONE
        for transition in (CONFIGURE, ACTIVATE):
            with contextlib.suppress(ProcessError):  # it is in that state, or beyond it
                change_state(self._node, NODE, transition, self._process)

    def fault_second_node(self) -> None:
        """A second node opens its model at the same time as the first, both with an empty cache of engines."""
        shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)
        names = {"__ns": "/soak_second"}
        with NodeProcess(
            "sal360_ros.saliency_node", self._parameters_of_node, names, log=self._folder / "second.log"
        ) as node:
            client = self._node.create_client(ChangeState, "/soak_second/saliency_node/change_state")
            self._wait_until(client.service_is_ready, node, "the second node did not start")
            for transition in (DEACTIVATE, CLEANUP):
                change_state(self._node, NODE, transition, self._process)
            client.call_async(ChangeState.Request(transition=Transition(id=CONFIGURE)))  # its reply may get lost
            for transition in (CONFIGURE, ACTIVATE):
                change_state(self._node, NODE, transition, self._process)
            log = self._folder / "second.log"
            self._wait_until(
                lambda: any(text in log.read_text() for text in ("]: model: ", "cannot configure")),
                node,
                "the second node did not open its model",
            )
            self._node.destroy_client(client)
            if "cannot configure" in log.read_text():
                self.troubles.append(f"the second node: {node.last_error()}")

    def fault_shared_memory_full(self) -> None:
        """/dev/shm is full for two seconds, and a process that starts meanwhile says so."""
        filler = Path("/dev/shm/sal360-soak-filler")
        try:
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(2**16))
            self._spin(2.0)
            log = self._folder / "refused.log"
            with NodeProcess("sal360_ros.panorama_camera", remappings={"__ns": "/soak_third"}, log=log) as camera:
                with contextlib.suppress(ProcessError):
                    while True:
                        camera.check_alive()
                        self._spin(0.05)
                if "--shm-size" not in camera.last_error():
                    self.troubles.append(f"a camera in a full /dev/shm: {camera.last_error()}")
        finally:
            filler.unlink()
