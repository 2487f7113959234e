"""A lifecycle node that configures and activates itself, if nothing else manages its lifecycle.

It calls its own services, so that a transition is the same as one that a lifecycle manager requests. A launch file
cannot do this for a node that it has restarted: the services of the dead process stay visible for up to 20 s, and
requests that are sent to them are lost.
"""

from __future__ import annotations

from collections.abc import Callable

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.lifecycle import LifecycleNode

_PERIOD_S = 0.05
_TRANSITIONS = (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)


def autostart(node: LifecycleNode, on_failure: Callable[[], object]) -> None:
    """Take the node through configure and activate as soon as it spins.

    Args:
        on_failure: called when a transition is refused; the node itself logs the cause.
    """
    client = node.create_client(ChangeState, f"{node.get_fully_qualified_name()}/change_state")
    left = list(_TRANSITIONS)

    def begin() -> None:
        if client.service_is_ready():
            timer.cancel()
            proceed()

    def proceed() -> None:
        request = ChangeState.Request(transition=Transition(id=left.pop(0)))
        client.call_async(request).add_done_callback(lambda future: finish(future.result()))

    def finish(reply: ChangeState.Response) -> None:
        if not reply.success:
            on_failure()
        elif left:
            proceed()

    # not the node's own clock: in simulation it stands still until /clock runs
    timer = node.create_timer(_PERIOD_S, begin, clock=Clock(clock_type=ClockType.STEADY_TIME))
