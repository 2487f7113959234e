"""The node's reports on itself: throttled warnings, checks of the graph, and the status in `/diagnostics`."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.node import Node

from sal360.errors import Sal360Error
from sal360_ros.parameters import HealthSettings
from sal360_ros.shared_memory import segment_bytes
from sal360_ros.statistics import WINDOW_S, OutputCounts, Snapshot

PERIOD_S = 1.0
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
_IMAGE, _COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


# --- log ---


def describe(error: BaseException) -> str:
    """An error in one line: its message if it is one of ours, otherwise with its type."""
    line = " ".join(str(error).split())
    return line if isinstance(error, Sal360Error) else f"{type(error).__name__}: {line}"


class ThrottledWarnings:
    """Logs each kind of warning at most once per period, with the number of suppressed warnings.

    Args:
        say: logs one line.
        period_s: minimum time between two lines of one kind, seconds.
        clock: monotonic time, seconds.
    """

    def __init__(
        self, say: Callable[[str], None], period_s: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say = say
        self._period_s = period_s
        self._clock = clock
        self._lock = threading.Lock()
        self._last_s: dict[str, float] = {}
        self._suppressed: dict[str, int] = {}

    def warn(self, kind: str, line: str) -> None:
        """Log the line, unless one of the same kind was logged less than `period_s` ago."""
        with self._lock:
            now_s = self._clock()
            if now_s - self._last_s.get(kind, -math.inf) < self._period_s:
                self._suppressed[kind] = self._suppressed.get(kind, 0) + 1
                return
            self._last_s[kind] = now_s
            suppressed = self._suppressed.pop(kind, 0)
        self._say(f"{line} ({suppressed} similar warnings suppressed)" if suppressed else line)


class LibraryLog(logging.Handler):
    """Passes the library's log messages ("building the engine …") on to the node's log, until it is closed."""

    def __init__(self, logger: RcutilsLogger) -> None:
        super().__init__()
        self._logger = logger
        self._library = logging.getLogger("sal360")
        if self._library.level == logging.NOTSET:
            self._library.setLevel(logging.INFO)
        self._library.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Log one line at its level; rclpy requires a separate call for each level."""
        line = record.getMessage()
        if record.levelno >= logging.ERROR:
            self._logger.error(line)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(line)
        elif record.levelno >= logging.INFO:
            self._logger.info(line)
        else:
            self._logger.debug(line)

    def close(self) -> None:
        """Detach from the library's logger."""
        self._library.removeHandler(self)
        super().close()


# --- checks of the graph ---


def same_name_trouble(node: Node) -> str:
    """A warning if several nodes have this node's full name, else ""."""
    own = node.get_name(), node.get_namespace()
    count = node.get_node_names_and_namespaces().count(own)
    if count < 2:
        return ""
    return (
        f"{count} nodes are named {node.get_fully_qualified_name()}, so parameters and transitions may reach any of "
        "them; stop the others, or start this one with -r __node:=another_name"
    )


def clock_trouble(node: Node) -> str:
    """A warning if the node uses simulated time and there is none, else ""."""
    if not node.get_parameter("use_sim_time").value:
        return ""
    if not node.count_publishers("/clock"):
        found = "/clock has no publisher"
    elif not node.get_clock().now().nanoseconds:
        found = "nothing arrives on /clock"
    else:
        return ""
    return f"use_sim_time is true and {found}; start the simulation, play the bag with --clock, or set it to false"


class FrameTopic(NamedTuple):
    """The topic of a camera's frames."""

    node: Node
    name: str
    """Relative name before remapping: "image", or "front/image"."""
    parameter: str
    """Name of the parameter that chooses the transport: "image_transport", or "front.image_transport"."""
    transport: str
    """Its value, "raw" or "compressed"."""

    @property
    def image(self) -> str:
        """Full name that `name` resolves to."""
        return self.node.resolve_topic_name(self.name)

    @property
    def topic(self) -> str:
        """Full name of the topic to subscribe to; for compressed frames `<image>/compressed`, as in image_transport."""
        return self.image if self.transport == "raw" else self.node.resolve_topic_name(f"{self.image}/compressed")


def silence_trouble(frames: FrameTopic) -> str:
    """Why no frames arrive, as far as the graph reveals it."""
    node, topic, image, transport = frames.node, frames.topic, frames.image, frames.transport
    wanted = _IMAGE if transport == "raw" else _COMPRESSED
    if wanted in publisher_types(node, topic):
        return (
            f"no frames arrive on {topic}, although it has a publisher: either it sends nothing, or its large messages "
            "are lost; then start the camera with config/fastdds_shm.xml as its Fast DDS profile (docs/diagnostics.md)"
        )
    for other in (topic, image, f"{image}/compressed"):
        for kind in (_IMAGE, _COMPRESSED):
            if kind in publisher_types(node, other):
                remedy = _transport_remedy(other, kind, frames)
                return f"no publisher of {_short(wanted)} on {topic}, but one of {_short(kind)} on {other}; {remedy}"
    candidates = _candidates(node, wanted)
    remedy = f"start the camera, or remap {frames.name} to its topic{candidates}"
    return f"no publisher of {_short(wanted)} on {topic}; {remedy}"


def _transport_remedy(topic: str, kind: str, frames: FrameTopic) -> str:
    """The changes with which the node would receive the messages on a topic."""
    needed = "raw" if kind == _IMAGE else "compressed"
    steps = [] if needed == frames.transport else [f"set {frames.parameter} to {needed} while the node is unconfigured"]
    if kind == _COMPRESSED and not topic.endswith("/compressed"):
        steps.append(f"remap {frames.name}/compressed to {topic}")
    elif (base := topic if kind == _IMAGE else topic.removesuffix("/compressed")) != frames.image:
        steps.append(f"remap {frames.name} to {base}")
    return " and ".join(steps)


def _candidates(node: Node, kind: str) -> str:
    """Topics of other nodes that could be the camera's, as the end of a sentence."""
    own = {publisher.topic_name for publisher in node.publishers}
    others = sorted(name for name, kinds in node.get_topic_names_and_types() if kind in kinds and name not in own)
    published = [name for name in others if kind in publisher_types(node, name)]
    return f" ({_short(kind)} is published on {', '.join(published[:3])})" if published else ""


def publisher_types(node: Node, topic: str) -> set[str]:
    """The message types that others publish on a topic, such as "sensor_msgs/msg/Image"."""
    return {each.topic_type for each in node.get_publishers_info_by_topic(topic)}


def _short(kind: str) -> str:
    return kind.rsplit("/", 1)[-1]


# --- the status ---


class Finding(NamedTuple):
    """A problem."""

    level: bytes
    """`DiagnosticStatus.WARN` or `ERROR`."""
    kind: str
    """Kind of problem, logged at most once per period; "" if it has already been logged."""
    text: str


def frame_findings(snapshot: Snapshot, limits: HealthSettings) -> Iterator[Finding]:
    """Problems that the counters of an active node show."""
    if snapshot.recently_rejected:
        worst = max(snapshot.recently_rejected, key=lambda reason: snapshot.recently_rejected[reason])
        level = WARN if snapshot.recently_answered else ERROR
        yield Finding(level, "", f"rejecting frames, most often for {worst}")
    if snapshot.is_stuck:
        yield Finding(ERROR, "stuck", f"frames arrive, but no map was published for {WINDOW_S:g} s")
    elif _is_slow(snapshot, limits):
        line = (
            f"{snapshot.answered_hz:.1f} maps per second for {snapshot.received_hz:.1f} frames per second: the machine "
            "is too slow for the stream; lower its rate or size, or choose a faster device or precision"
        )
        yield Finding(WARN, "slow", line)
    lost_share = snapshot.recently_lost / max(1, snapshot.recently_received + snapshot.recently_lost)
    if lost_share > limits.max_lost_share:
        yield Finding(WARN, "lost", f"{lost_share:.0%} of the frames are lost in transport; see docs/diagnostics.md")
    if snapshot.recently_stood_still:
        line = (
            f"{snapshot.recently_stood_still} frames in {WINDOW_S:g} s with a timestamp of zero or that stands still; "
            "using arrival times; make the camera driver set header.stamp"
        )
        yield Finding(WARN, "stamps", line)
    if snapshot.recently_went_back > 1:  # a recording that repeats does that once
        line = (
            f"{snapshot.recently_went_back} frames in {WINDOW_S:g} s with a timestamp before the previous one; "
            "smoothing and target selection start over at each; check that only one camera publishes on the topic"
        )
        yield Finding(WARN, "stamps back", line)


def _is_slow(snapshot: Snapshot, limits: HealthSettings) -> bool:
    usable = snapshot.recently_received - sum(snapshot.recently_rejected.values())
    enough = snapshot.is_settled and usable > WINDOW_S  # for a meaningful share
    return enough and 0 < snapshot.recently_answered < limits.min_answered_share * usable


class OutputWatch:
    """Finds problems of the outputs over the last `WINDOW_S` seconds."""

    def __init__(self) -> None:
        self._history: deque[tuple[float, Mapping[str, OutputCounts]]] = deque()

    def findings(self, outputs: Mapping[str, OutputCounts], limits: HealthSettings, now_s: float) -> Iterator[Finding]:
        """Problems of the outputs, by topic.

        Args:
            outputs: their totals.
            now_s: monotonic time, seconds.
        """
        while len(self._history) > 1 and self._history[1][0] <= now_s - WINDOW_S:
            self._history.popleft()
        before = self._history[0][1] if self._history else {}
        self._history.append((now_s, outputs))
        for topic, counts in outputs.items():
            yield from _output_findings(topic, counts, before.get(topic, counts), limits)


def _output_findings(topic: str, now: OutputCounts, before: OutputCounts, limits: HealthSettings) -> Iterator[Finding]:
    published, failed, dropped = (
        max(0, getattr(now, name) - getattr(before, name)) for name in ("published", "failed", "dropped")
    )
    if failed or now.is_failing:
        yield Finding(WARN if published else ERROR, "", f"{topic} fails: {now.last_error}")
    dropped_share = dropped / max(1, published + failed + dropped)
    if dropped_share > limits.max_dropped_share:
        line = f"{topic} skips {dropped_share:.0%} of the maps, because the outputs are slower than the stream"
        yield Finding(WARN, topic, line)
    if published and now.message_bytes > segment_bytes():
        line = (
            f"{topic} has messages of {now.message_bytes / 2**20:.0f} MB, and this process took "
            f"{segment_bytes() / 2**20:.0f} MB of shared memory when it started, so best-effort subscribers lose them; "
            "restart it with this overlay_height_px, or with config/fastdds_shm.xml as its Fast DDS profile "
            "(docs/diagnostics.md)"
        )
        yield Finding(WARN, f"{topic} too large", line)


def saliency_status(
    name: str,
    hardware_id: str,
    snapshot: Snapshot | None,
    outputs: Mapping[str, OutputCounts],
    about: Mapping[str, str],
    fine: str,
    findings: Iterable[Finding],
) -> DiagnosticStatus:
    """The status of a saliency node or of one of its cameras: the worst problem first, then the others.

    Args:
        name: full name of the node, a colon, and what the status is about.
        hardware_id: the host name.
        snapshot: statistics since the last activation; None for a node of several cameras, which has none.
        outputs: totals of the outputs, by topic.
        about: more values (state, model, backend).
        fine: the message if there are no problems.
        findings: all problems.
    """
    ordered = sorted(findings, key=lambda each: each.level, reverse=True)
    status = DiagnosticStatus(name=name, hardware_id=hardware_id)
    status.level = ordered[0].level if ordered else OK
    status.message = " | ".join(each.text for each in ordered) or fine
    values = {**about, **(_values(snapshot) if snapshot is not None else {})}
    for topic, counts in outputs.items():
        values |= {f"{topic}.{name}": str(getattr(counts, name)) for name in ("published", "failed", "dropped")}
    status.values = [KeyValue(key=key, value=value) for key, value in values.items()]
    return status


def _values(snapshot: Snapshot) -> dict[str, str]:
    values = {
        "received_hz": f"{snapshot.received_hz:.2f}",
        "answered_hz": f"{snapshot.answered_hz:.2f}",
        "processing_p50_ms": _milliseconds(snapshot.processing.p50_s),
        "processing_p95_ms": _milliseconds(snapshot.processing.p95_s),
        "stamp_to_publish_p50_ms": _milliseconds(snapshot.age.p50_s),
        "stamp_to_publish_p95_ms": _milliseconds(snapshot.age.p95_s),
        "received": str(snapshot.received),
        "answered": str(snapshot.answered),
        "dropped_stale": str(snapshot.superseded),
        "lost_in_transport": str(snapshot.lost),
        "stamps_backwards": str(snapshot.went_back),
        "stamps_standing_still": str(snapshot.stood_still),
        "without_orientation": str(snapshot.unoriented),
        "without_orientation_share": f"{snapshot.unoriented_share:.2f}",
        "rejected": str(sum(snapshot.rejected.values())),
    }
    values.update((f"rejected.{reason}", str(count)) for reason, count in sorted(snapshot.rejected.items()))
    return values


def _milliseconds(value_s: float) -> str:
    return "unknown" if math.isnan(value_s) else f"{1e3 * value_s:.2f}"
