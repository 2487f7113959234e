"""A lifecycle node is brought to a state also where an answer is lost on the way."""

from __future__ import annotations

from typing import Any

import pytest
from lifecycle_msgs.srv import ChangeState
from rclpy.client import Client
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.task import Future

from sal360_ros import processes
from sal360_ros.processes import ACTIVATE, CLEANUP, CONFIGURE, DEACTIVATE, ProcessError, change_state

pytestmark = pytest.mark.ros
NAME = "/counting_node"


class CountingNode(LifecycleNode):
    """Counts its transitions; `willing` says whether it can be configured."""

    willing = True
    configured = 0

    def on_configure(self, _: LifecycleState) -> TransitionCallbackReturn:
        self.configured += 1
        return TransitionCallbackReturn.SUCCESS if self.willing else TransitionCallbackReturn.FAILURE


@pytest.fixture
def node(graph):
    return graph.add(CountingNode("counting_node", context=graph.context))


@pytest.fixture
def lose(monkeypatch):
    """Have the next question of a transition, or its answer, never arrive."""

    def lose(what: str) -> None:
        call_async = Client.call_async
        lost: list[Any] = []

        def call_or_lose(client: Client, request: Any) -> Future:
            if lost or not isinstance(request, ChangeState.Request):
                return call_async(client, request)
            lost.append(request)
            if what == "answer":
                call_async(client, request)
            return Future()

        monkeypatch.setattr(Client, "call_async", call_or_lose)
        monkeypatch.setattr(processes, "REPLY_TIMEOUT_S", 0.5)

    return lose


def test_a_node_goes_through_its_transitions(driver, node):
    for transition in (CONFIGURE, ACTIVATE, DEACTIVATE, CLEANUP):
        change_state(driver, NAME, transition)
    assert node.configured == 1


@pytest.mark.parametrize("what", ["question", "answer"])
def test_what_is_lost_on_the_way_is_asked_anew_and_done_once(driver, node, lose, what):
    lose(what)
    change_state(driver, NAME, CONFIGURE)
    assert node.configured == 1
    change_state(driver, NAME, ACTIVATE)


@pytest.mark.parametrize("what", ["nothing", "question", "answer"])
def test_a_refusal_is_told_whatever_was_lost_before(driver, node, lose, what):
    node.willing = False
    if what != "nothing":
        lose(what)
    with pytest.raises(ProcessError, match="/counting_node refused to configure; see its log for the cause"):
        change_state(driver, NAME, CONFIGURE)


def test_a_node_that_never_answers_is_given_up(driver):
    with pytest.raises(ProcessError, match=r"/nobody did not respond within 0\.3 s"):
        change_state(driver, "/nobody", CONFIGURE, timeout_s=0.3)
