"""Quality of service: what the node asks for and offers, and what to do when it meets somebody who wants other."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.qos import HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions

_OVERRIDABLE = (
    QoSPolicyKind.HISTORY,
    QoSPolicyKind.DEPTH,
    QoSPolicyKind.RELIABILITY,
    QoSPolicyKind.DURABILITY,
)


def input_qos(depth: int = 1) -> QoSProfile:
    """Best effort, which matches every publisher, and for frames depth 1: only the newest one is of interest.

    Reliable, a subscriber of messages above 64 KB can hang in Fast DDS (2.14, and 3 so far): a message that arrived in
    part is freed when its publisher says that the rest will not come, yet stays listed, and `take` goes round it for
    ever.
    """
    return QoSProfile(reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST, depth=depth)


def output_qos() -> QoSProfile:
    """Reliable, which every subscriber can ask for, and depth 1."""
    return QoSProfile(reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST, depth=1)


def overridable() -> QoSOverridingOptions:
    """Lets `qos_overrides.<topic>.<publisher or subscription>.<policy>` parameters change a profile."""
    return QoSOverridingOptions(_OVERRIDABLE)


def mismatch_logger(topic: str, entity: str, warn: Callable[[str], None]) -> Callable[[object], None]:
    """A callback for incompatible-QoS events that says what does not fit and how to mend it.

    Args:
        topic: full name.
        entity: what the node has there, "publisher" or "subscription".
    """
    other = "subscriber" if entity == "publisher" else "publisher"

    def on_mismatch(event: object) -> None:
        policy = str(qos_policy_name_from_kind(event.last_policy_kind)).lower()  # type: ignore[attr-defined]
        warn(
            f"a {other} of {topic} and this node differ in {policy}, so nothing passes between them; "
            f"expected compatible policies; change the {other}, or set qos_overrides.{topic}.{entity}.{policy}"
        )

    return on_mismatch
