"""What the node says about itself: throttled warnings, checks of the graph, and the status in `/diagnostics`."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from rclpy.node import Node

from sal360_ros.statistics import WINDOW_S, Snapshot


def same_name_trouble(node: Node) -> str:
    """A warning when several nodes have this node's full name, else ""."""
    own = node.get_name(), node.get_namespace()
    count = node.get_node_names_and_namespaces().count(own)
    if count < 2:
        return ""
    return (
        f"{count} nodes are named {node.get_fully_qualified_name()}, so parameters and transitions may reach any of "
        "them; stop the others, or start this one with -r __node:=another_name"
    )


def silence_trouble(node: Node, topic: str) -> str:
    """Why no frames arrive on `topic`, as far as the graph shows; the topic ends in /compressed if it is compressed."""
    if node.count_publishers(topic):
        return f"no frames arrive on {topic}, although it has a publisher; check whether large messages get lost"
    base = topic.removesuffix("/compressed")
    other, transport = (base, "raw") if topic != base else (f"{base}/compressed", "compressed")
    if node.count_publishers(other):
        return f"no publisher on {topic}, but there is one on {other}; set image_transport to {transport}"
    return f"no publisher on {topic}; start the camera, or remap image to its topic"


class ThrottledWarnings:
    """Logs each kind of warning at most once per period, with the number of suppressed warnings.

    Args:
        say: logs one line.
        period_s: min time between two lines of one kind, seconds.
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


PERIOD_S = 1.0


def saliency_status(
    name: str, state: str, snapshot: Snapshot, about: Mapping[str, str], trouble: str = ""
) -> DiagnosticStatus:
    """The status of a saliency node.

    Args:
        name: full name of the node.
        state: label of its lifecycle state.
        snapshot: statistics since the last activation.
        about: more values (model, backend, …).
        trouble: a warning from outside the statistics, or "".
    """
    status = DiagnosticStatus(name=f"{name}: saliency")
    status.level, status.message = _judge(state, snapshot, trouble)
    values = {"state": state, **about, **_values(snapshot)}
    status.values = [KeyValue(key=key, value=value) for key, value in values.items()]
    return status


def _judge(state: str, snapshot: Snapshot, trouble: str) -> tuple[bytes, str]:
    if trouble:
        return DiagnosticStatus.WARN, trouble
    if state != "active":
        return DiagnosticStatus.OK, state
    if snapshot.recently_rejected:
        worst = max(snapshot.recently_rejected, key=lambda reason: snapshot.recently_rejected[reason])
        level = DiagnosticStatus.WARN if snapshot.answered_hz else DiagnosticStatus.ERROR
        return level, f"rejecting frames, most often for {worst}"
    if snapshot.is_stuck:
        return DiagnosticStatus.ERROR, f"frames arrive, but no map was published for {WINDOW_S:g} s"
    return DiagnosticStatus.OK, f"{snapshot.answered_hz:.1f} maps per second"


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
        "rejected": str(sum(snapshot.rejected.values())),
    }
    values.update((f"rejected.{reason}", str(count)) for reason, count in sorted(snapshot.rejected.items()))
    return values


def _milliseconds(value_s: float) -> str:
    return "unknown" if math.isnan(value_s) else f"{1e3 * value_s:.2f}"
