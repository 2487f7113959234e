"""The service `change_state`, replacing rclpy's: replies that must wait for a model are sent when it is open.

rclpy makes a transition within the service's callback, which would block the executor for as long as a model takes to
open. An `async` callback would not help: an executor that is shut down waits for it forever.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from lifecycle_msgs.srv import ChangeState
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

_LATER = object()
_LABELS = ("configure", "activate", "deactivate", "cleanup", "shutdown")


class TransitionService:
    """Answers the service `change_state` of a node.

    Args:
        node: has the callbacks `on_configure` and so on.
        state_machine: the node's state machine.
        open_first: called with the label of a transition and a function to call, in the executor's thread, when the
            model is open or cannot be opened; returns False, and calls nothing, if the transition needs no model.
        refused: called with one line about a transition that does not exist in the current state.
    """

    def __init__(
        self,
        node: LifecycleNode,
        state_machine: Any,
        open_first: Callable[[str, Callable[[], None]], bool],
        refused: Callable[[str], None],
    ) -> None:
        self._node = node
        self._machine = state_machine
        self._open_first = open_first
        self._refused = refused
        self._header: Any = None  # of the request whose reply is still due; at most one
        service = next(each for each in node.services if each.srv_type is ChangeState)
        self._send = service.send_response
        service.callback = self._change_state
        service.send_response = self._respond  # type: ignore[method-assign]

    def _respond(self, response: Any, header: Any) -> None:
        if response is _LATER:
            self._header = header
        else:
            self._send(response, header)

    def _change_state(self, request: ChangeState.Request, response: ChangeState.Response) -> Any:
        wanted = request.transition.label or request.transition.id
        available = [each[:2] for each in self._machine.available_transitions if each[1] in _LABELS]
        number, label = next((each for each in available if wanted in each), (0, ""))
        if not label:
            state = self._machine.current_state[1]
            self._refused(
                f"there is no transition {wanted} in the state {state}; `ros2 lifecycle list` shows which exist"
            )
            response.success = False
            return response
        state_id, state = self._machine.current_state
        before = LifecycleState(state_id=state_id, label=state)
        if self._open_first(label, lambda: self._finish(label, before, response)):
            self._machine.trigger_transition_by_id(number, True)
            return _LATER
        response.success = getattr(self._node, f"trigger_{label}")() == TransitionCallbackReturn.SUCCESS
        return response

    def _finish(self, label: str, before: LifecycleState, response: ChangeState.Response) -> None:
        """The second half of a transition, as in rclpy."""
        result = getattr(self._node, f"on_{label}")(before)
        self._machine.trigger_transition_by_label(result.to_label(), True)
        response.success = result == TransitionCallbackReturn.SUCCESS
        with contextlib.suppress(Exception):  # the client may have gone
            self._send(response, self._header)
