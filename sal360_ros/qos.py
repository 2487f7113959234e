"""Names and quality of service of topics: the profiles of inputs and outputs, the warning about incompatible ones."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.duration import Duration
from rclpy.qos import (
    HistoryPolicy,
    LivelinessPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

_OVERRIDABLE = (
    QoSPolicyKind.HISTORY,
    QoSPolicyKind.DEPTH,
    QoSPolicyKind.RELIABILITY,
    QoSPolicyKind.DURABILITY,
)
_HEARTBEAT = (QoSPolicyKind.DEADLINE, QoSPolicyKind.LIVELINESS, QoSPolicyKind.LIVELINESS_LEASE_DURATION)
DEADLINE_S = 1.0
LEASE_S = 2.0


def of_camera(camera: str, topic: str) -> str:
    """The relative name of a camera's topic: "front/image"; without the prefix for the only camera, named ""."""
    return f"{camera}/{topic}" if camera else topic


def input_qos(depth: int = 1) -> QoSProfile:
    """Best effort, which is compatible with every publisher; depth 1 for frames, because only the newest matters.

    A reliable subscriber of messages above 64 KB can hang in Fast DDS 2.14 and 3: when the publisher announces that the
    rest of a partly received message will not be sent, the message is freed but stays in the list, and `take` loops
    over it forever.
    """
    return QoSProfile(reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST, depth=depth)


def output_qos() -> QoSProfile:
    """Reliable, so that every subscriber is compatible, and depth 1."""
    return QoSProfile(reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST, depth=1)


def heartbeat_qos() -> QoSProfile:
    """`output_qos` with a heartbeat for subscribers that request one; others are compatible as well.

    Deadline: a message each second. Liveliness: asserted by the node's watchdog while the node is active and healthy,
    so that it is lost within two seconds after a crash, a hang or a deactivation.
    """
    profile = output_qos()
    profile.deadline = Duration(seconds=DEADLINE_S)
    profile.liveliness = LivelinessPolicy.MANUAL_BY_TOPIC
    profile.liveliness_lease_duration = Duration(seconds=LEASE_S)
    return profile


def overridable(heartbeat: bool = False) -> QoSOverridingOptions:
    """Let the parameters `qos_overrides.<topic>.<publisher or subscription>.<policy>` override a profile.

    Args:
        heartbeat: whether deadline and liveliness are among the policies.
    """
    return QoSOverridingOptions(_OVERRIDABLE + _HEARTBEAT if heartbeat else _OVERRIDABLE)


def mismatch_logger(
    topic: str, entity: str, warn: Callable[[str], None], heartbeat: bool = False
) -> Callable[[object], None]:
    """A callback for incompatible-QoS events that logs the incompatible policy and the remedy.

    Args:
        topic: full name of the topic.
        entity: the node's side, "publisher" or "subscription".
        warn: logs one line.
        heartbeat: whether the node's side is `overridable` in deadline and liveliness.
    """
    kinds = _OVERRIDABLE + _HEARTBEAT if heartbeat else _OVERRIDABLE
    other = "subscriber" if entity == "publisher" else "publisher"

    def on_mismatch(event: object) -> None:
        policy = str(qos_policy_name_from_kind(event.last_policy_kind)).lower()  # type: ignore[attr-defined]
        # a liveliness is incompatible by its kind or its lease
        names = [each.name.lower() for each in kinds if each.name.lower().startswith(policy)]
        parameters = " or ".join(f"qos_overrides.{topic}.{entity}.{name}" for name in names)
        warn(
            f"a {other} on {topic} is incompatible with this node in {policy}, so no messages pass between them; "
            f"change the {other}" + (f", or start this node with the parameter {parameters}" if parameters else "")
        )

    return on_mismatch
