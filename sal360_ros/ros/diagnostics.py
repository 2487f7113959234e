"""`/diagnostics`: how the node is, once a second, in every lifecycle state."""

from __future__ import annotations

import math
from collections.abc import Mapping

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from sal360_ros.ros.statistics import WINDOW_S, Snapshot

PERIOD_S = 1.0


def saliency_status(
    name: str, state: str, snapshot: Snapshot, about: Mapping[str, str], trouble: str = ""
) -> DiagnosticStatus:
    """The state of a saliency node.

    Args:
        name: full name of the node.
        state: lifecycle state.
        snapshot: statistics since the last activation.
        about: further values (model, backend, …).
        trouble: what else is wrong, for people; "" if nothing is.
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
        return level, f"rejecting frames, most of them for {worst}"
    if snapshot.is_stuck:
        return DiagnosticStatus.ERROR, f"frames arrive and none was answered for {WINDOW_S:g} s"
    return DiagnosticStatus.OK, f"{snapshot.answered_hz:.1f} maps a second"


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
