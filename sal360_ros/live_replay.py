"""Play a recording over DDS into the real node, which runs as a child process, and collect what a subscriber receives.

Each frame gets the time of its publication as its stamp, as a camera would stamp it. So the ages that the node reports
are real, and a stamp identifies a map. Topics and node are in their own namespace, so that a robot on the same network
is not disturbed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image

from sal360.arrays import Density
from sal360.density import as_density
from sal360.errors import DataError, FrameError, ParameterError, clean_end
from sal360.images import read_map
from sal360.replay.recording import LiveRun, PlaybackClock, Recording, ReplayedFrame
from sal360.replay.resources import ResourceSampler
from sal360.settings import flatten, with_values
from sal360.sources.bag import COMPRESSED
from sal360_ros.diagnostics import PERIOD_S
from sal360_ros.environment import check_environment, ros_start_errors
from sal360_ros.parameter_table import DECLARED_BY_RCLPY
from sal360_ros.parameters import SaliencyParameters
from sal360_ros.processes import NodeProcess, ProcessError, bring_up, unique_name
from sal360_ros.qos import input_qos
from sal360_ros.shared_memory import keep_freed_memory, remember_segments, use_shared_memory_profile

_MATCH_TIMEOUT_S = 20.0
_QUIET_S = 2.0  # no further maps are expected after this time without one
_FRAME_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)  # as drivers of 360° cameras publish


@contextlib.contextmanager
def play_live(recording: Recording, parameters: Mapping[str, Any], rate: float = 1.0) -> Iterator[LiveRun]:
    """Start a node, play the recording into it, stop it, and yield what was received.

    Args:
        parameters: ROS parameters of the node.
        rate: playback speed relative to the recording.

    Raises:
        ParameterError: the rate is not above 0, or the node has no such parameter.
        ProcessError: the node does not start, refuses its parameters, or ends.
        DataError: no frame can be played, or there is no space for the maps.
    """
    if not rate > 0:
        raise ParameterError(f"the rate is {rate:g}", "1 is the recorded speed", expected="a number above 0")
    transport = "compressed" if recording.type == COMPRESSED else "raw"
    settings = {"encoding": "32FC1", **_checked(parameters), "image_transport": transport}
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")  # keep the replay off the network
    keep_freed_memory()
    use_shared_memory_profile(_max_message_bytes(recording))
    check_environment()
    namespace = unique_name("/sal360_replay")  # replays at the same time do not hear each other
    remappings = {"__ns": namespace, "/diagnostics": f"{namespace}/diagnostics"}
    with TemporaryDirectory(prefix="sal360-replay-") as name, MapSpool(folder := Path(name)) as spool, clean_end():
        with ros_start_errors():
            rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        try:
            with (
                _Client(namespace, recording.type, spool) as client,
                NodeProcess("sal360_ros.saliency_node", settings, remappings, log=folder / "node.log") as process,
            ):
                bring_up(client.node, f"{namespace}/saliency_node", process)
                with ResourceSampler(process.pid) as sampler:
                    client.play(recording, rate, process.check_alive)
        finally:
            rclpy.shutdown()
        measured = {**sampler.figures(), **client.map_hz(), "max_publish_delay_ms": client.max_delay_s * 1000}
        frames = _replayed_frames(recording, spool, client.sent_ns, client.received)
        yield LiveRun(frames, client.node_values, measured, sampler.curves())


def _checked(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The node's parameters, with whole numbers converted to floating point where the node expects that.

    Raises:
        ParameterError: the node has no such parameter, or it or the report does not accept this value.
    """
    defaults = {name: default for name, default, _ in flatten(SaliencyParameters())}
    checked = {}
    for name, value in parameters.items():
        if name not in defaults and name.split(".")[0] not in DECLARED_BY_RCLPY:
            similar = get_close_matches(name, defaults, n=1)
            remedy = f"did you mean {similar[0]}?" if similar else "docs/parameters.md lists the parameters"
            raise ParameterError(f"the node has no parameter {name}", remedy)
        is_decimal = isinstance(defaults.get(name), float) and type(value) is int
        checked[name] = float(value) if is_decimal else value
    with contextlib.suppress(TypeError, ValueError):  # a wrong type: the node reports it
        with_values(SaliencyParameters(), {name: checked[name] for name in checked.keys() & defaults.keys()})
    if checked.get("saliency.layout") == "source":
        raise ParameterError(
            "saliency.layout is 'source', and a report compares equirectangular maps", "remove saliency.layout"
        )
    return checked


def _max_message_bytes(recording: Recording) -> int:
    """Estimate of the largest frame's size from the first ones: compressed frames differ in size."""
    sizes = [len(message.data) for message in itertools.islice(recording.messages(recording.topic), 20)]
    return round(max(sizes, default=0) * (1.5 if recording.type == COMPRESSED else 1))


def _replayed_frames(
    recording: Recording, spool: MapSpool, sent_ns: Mapping[int, int], received: Mapping[int, ReceivedMap]
) -> Iterator[ReplayedFrame]:
    """The outcome of each frame of the recording, in order.

    Args:
        sent_ns: frame index → time of publication, which is also the frame's stamp.
        received: stamp → map.
    """
    for frame in recording.frames():
        try:
            picture = frame.picture()
        except FrameError as error:
            yield ReplayedFrame(frame, None, reason=error.reason)
            continue
        stamp_ns = sent_ns.get(frame.index, -1)
        answer = received.get(stamp_ns)
        if answer is None:
            yield ReplayedFrame(frame, picture)
            continue
        yield ReplayedFrame(
            frame,
            picture,
            spool.density(answer),
            latency_ms=(answer.arrived_ns - stamp_ns) / 1e6,
            age_at_publish_ms=(answer.published_ns - stamp_ns) / 1e6,
        )


class _Client:
    """The camera and the subscriber of a live replay, in one ROS node."""

    def __init__(self, namespace: str, message_type: str, spool: MapSpool) -> None:
        with ros_start_errors():
            self.node = Node("sal360_replay", namespace=namespace)
        remember_segments()
        kind, topic = (CompressedImage, "image/compressed") if message_type == COMPRESSED else (Image, "image")
        self._publisher = self.node.create_publisher(kind, topic, _FRAME_QOS)
        # rclpy's annotations lack callbacks with the message info
        self.node.create_subscription(Image, "saliency", self._on_map, input_qos(depth=10))  # type: ignore[arg-type]
        self.node.create_subscription(DiagnosticArray, "diagnostics", self._on_diagnostics, 10)
        self._spool = spool
        self.sent_ns: dict[int, int] = {}
        self.received: dict[int, ReceivedMap] = {}
        self.node_values: dict[str, str] = {}
        self.max_delay_s = 0.0
        self._last_arrival_s = 0.0
        self._error: Exception | None = None

    def _on_map(self, message: Image, info: Mapping[str, int]) -> None:
        arrived_ns = time.time_ns()
        self._last_arrival_s = time.monotonic()
        stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        self.received[stamp_ns] = self._spool.append(message, arrived_ns, info["source_timestamp"])

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.node_values = {value.key: value.value for value in status.values}

    def play(self, recording: Recording, rate: float, check_node: Callable[[], None]) -> None:
        """Publish the frames at their recorded times, and receive until no more maps arrive.

        Args:
            check_node: raises if the node has ended.

        Raises:
            DataError: no frame can be played, or there is no space for the maps.
        """

        def check() -> None:
            check_node()
            if self._error is not None:
                raise self._error

        with self._spinning():
            self._await_subscriber(check)
            start_s, clock = None, PlaybackClock()
            for frame in recording.frames():
                if frame.fields is None:
                    continue  # DDS would not deliver the message
                data = frame.message.ros2_bytes()
                start_s = start_s or time.monotonic()
                due_s = start_s + clock.time_s(frame.message.recorded_ns) / rate
                _sleep_until(due_s, check)
                self.max_delay_s = max(self.max_delay_s, time.monotonic() - due_s)
                self.sent_ns[frame.index] = stamp_ns = time.time_ns()
                self._publisher.publish(_with_stamp(data, stamp_ns))
            if start_s is None:
                raise DataError(f"no message on {recording.topic} can be played", "record the bag again")
            self._await_quiet(check)
            self._await_diagnostics(check)

    @contextlib.contextmanager
    def _spinning(self) -> Iterator[None]:
        """Receive messages in a separate thread; an error there is kept in `_error`."""
        stopped = threading.Event()
        executor = SingleThreadedExecutor()
        executor.add_node(self.node)

        def spin() -> None:
            try:
                while not stopped.is_set():
                    executor.spin_once(timeout_sec=0.1)
            except Exception as error:
                self._error = error

        thread = threading.Thread(target=spin, name="receiver", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()
            executor.remove_node(self.node)
            executor.shutdown()

    def _await_subscriber(self, check: Callable[[], None]) -> None:
        deadline_s = time.monotonic() + _MATCH_TIMEOUT_S
        while not self._publisher.get_subscription_count():
            check()
            if time.monotonic() > deadline_s:
                raise ProcessError(
                    f"the node did not subscribe to {self._publisher.topic_name} within {_MATCH_TIMEOUT_S:g} s",
                    "check its parameters",
                )
            time.sleep(0.05)
        time.sleep(0.3)  # the node learns of the match a little later, and misses messages sent before

    def _await_quiet(self, check: Callable[[], None]) -> None:
        ended_s = time.monotonic()
        last_stamp_ns = max(self.sent_ns.values())
        while time.monotonic() - max(ended_s, self._last_arrival_s) < _QUIET_S and last_stamp_ns not in self.received:
            check()
            time.sleep(0.02)

    def _await_diagnostics(self, check: Callable[[], None]) -> None:
        """Wait for node diagnostics published after its last frame."""
        self.node_values = {}
        deadline_s = time.monotonic() + 2 * PERIOD_S
        while not self.node_values and time.monotonic() < deadline_s:
            check()
            time.sleep(0.02)

    def map_hz(self) -> dict[str, float]:
        """The rate of the received maps; empty for fewer than two."""
        arrivals_ns = [each.arrived_ns for each in self.received.values()]
        if len(arrivals_ns) < 2:
            return {}
        return {"map_hz": (len(arrivals_ns) - 1) * 1e9 / (max(arrivals_ns) - min(arrivals_ns))}

    def __enter__(self) -> _Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.node.destroy_node()


def _sleep_until(due_s: float, check: Callable[[], None]) -> None:
    """Wait until a time of `time.monotonic`; `check` is called at least once, and every second."""
    while (left_s := due_s - time.monotonic()) > 0:
        time.sleep(min(1.0, left_s))
        check()
    check()


def _with_stamp(data: bytes, stamp_ns: int) -> bytes:
    """A serialised message that begins with a header, with its stamp replaced; one copy, because frames are large.

    CDR has a header of four bytes, whose second is 1 for little-endian; the first field of the message follows.
    """
    order = "<" if data[1] == 1 else ">"
    return b"".join((data[:4], struct.pack(f"{order}iI", *divmod(stamp_ns, 10**9)), memoryview(data)[12:]))


class MapSpool:
    """An unnamed file in `folder` for the data of the received maps."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # without a buffer, it is the write without free space that fails, not a later one
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed by `close`
        self._end = 0

    def append(self, message: Any, arrived_ns: int, published_ns: int) -> ReceivedMap:
        """Store a sensor_msgs/Image; the times are nanoseconds since the Unix epoch.

        Raises:
            DataError: the map cannot be written.
        """
        data = memoryview(message.data).cast("B")
        length = data.nbytes
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise DataError(
                f"the received maps cannot be written to {self._folder} ({error.strerror})",
                "free some space, or set TMPDIR to a folder with more",
            ) from error
        received = ReceivedMap(
            message.height,
            message.width,
            message.step,
            message.encoding,
            bool(message.is_bigendian),
            self._end,
            length,
            arrived_ns,
            published_ns,
        )
        self._end += length
        return received

    def density(self, received: ReceivedMap) -> Density:
        """The map (h, w) float32, as a density relative to uniform.

        Raises:
            DataError: the message is not a map.
        """
        self._file.seek(received.offset)
        data = self._file.read(received.length)
        fields = {name: getattr(received, name) for name in ("height", "width", "step", "encoding", "is_bigendian")}
        return as_density(read_map(_ImageFields(**fields, data=data)), "that the node published")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> MapSpool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


@dataclass(frozen=True)
class ReceivedMap:
    """The position of a map's data in the spool, and its times in nanoseconds since the Unix epoch."""

    height: int
    width: int
    step: int
    encoding: str
    is_bigendian: bool
    offset: int
    length: int
    arrived_ns: int
    """Time of the callback in this process."""
    published_ns: int
    """Source timestamp, set by the publisher's middleware."""


@dataclass(frozen=True)
class _ImageFields:
    """The fields of sensor_msgs/Image that `read_map` needs."""

    height: int
    width: int
    step: int
    encoding: str
    is_bigendian: bool
    data: bytes
