"""Child processes end with their parent; a lifecycle node is configured even if a reply is lost or takes long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.client import Client
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.task import Future

from sal360.errors import clean_end
from sal360_ros import processes
from sal360_ros.executable import PARENT_VARIABLE
from sal360_ros.processes import (
    ACTIVATE,
    CLEANUP,
    CONFIGURE,
    DEACTIVATE,
    NodeProcess,
    ProcessError,
    change_state,
)

pytestmark = pytest.mark.ros
NAME = "/counting_node"
TIMEOUT_S = 60.0


class CountingNode(LifecycleNode):
    """Counts its transitions; `willing` says whether it can be configured."""

    willing = True
    configured = 0
    configuring_s = 0.0

    def on_configure(self, _: LifecycleState) -> TransitionCallbackReturn:
        self.configured += 1
        time.sleep(self.configuring_s)  # the executor is blocked, so no service replies
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
def test_lost_requests_are_repeated_and_take_effect_once(driver, node, lose, what):
    lose(what)
    change_state(driver, NAME, CONFIGURE)
    assert node.configured == 1
    change_state(driver, NAME, ACTIVATE)


@pytest.mark.parametrize("what", ["nothing", "question", "answer"])
def test_a_refusal_is_reported_even_after_lost_replies(driver, node, lose, what):
    node.willing = False
    if what != "nothing":
        lose(what)
    with pytest.raises(ProcessError, match="/counting_node refused to configure; see its log for the cause"):
        change_state(driver, NAME, CONFIGURE)


def test_a_node_that_never_answers_is_abandoned(driver):
    with pytest.raises(ProcessError, match=r"/nobody did not respond within 0\.3 s"):
        change_state(driver, "/nobody", CONFIGURE, timeout_s=0.3)


def busy_process(alive: bool = True, error: str = "") -> Any:
    """In place of a `NodeProcess`."""

    def check_alive() -> None:
        if not alive:
            raise ProcessError("it ended", "")

    return SimpleNamespace(check_alive=check_alive, last_line=lambda: "building the engine", last_error=lambda: error)


def test_a_model_that_takes_long_to_open_is_waited_for_while_the_process_lives(driver, node, monkeypatch, capsys):
    monkeypatch.setattr(processes, "REPLY_TIMEOUT_S", 0.2)
    monkeypatch.setattr(processes, "REPORT_PERIOD_S", 0.3)
    node.configuring_s = 6.0
    change_state(driver, NAME, CONFIGURE, busy_process(), timeout_s=4.0)  # enough for discovery on a busy machine
    assert node.configured == 1
    assert f"waiting for {NAME} to configure, " in capsys.readouterr().err


def test_a_late_refusal_is_not_followed_by_a_second_attempt(driver, node, monkeypatch):
    monkeypatch.setattr(processes, "REPLY_TIMEOUT_S", 0.2)
    node.configuring_s, node.willing = 2.0, False
    with pytest.raises(ProcessError, match="cannot configure: no such model; check the path"):
        change_state(driver, NAME, CONFIGURE, busy_process(error="cannot configure: no such model; check the path"))
    assert node.configured == 1


def test_a_request_that_takes_effect_late_is_no_refusal(driver, node, monkeypatch):
    """The node says that it is unconfigured still, and then its reply to the request arrives."""
    call_async, late = Client.call_async, Future()
    held: list[Any] = []

    def call(client: Client, request: Any) -> Future:
        if isinstance(request, ChangeState.Request) and not held:
            held.append((client, request))
            return late
        future = call_async(client, request)
        if isinstance(request, GetState.Request):
            future.add_done_callback(
                lambda _: call_async(*held[0]).add_done_callback(lambda done: late.set_result(done.result()))
            )
        return future

    monkeypatch.setattr(Client, "call_async", call)
    monkeypatch.setattr(processes, "REPLY_TIMEOUT_S", 0.5)
    change_state(driver, NAME, CONFIGURE)
    assert node.configured == 1


def test_a_process_that_has_ended_is_not_waited_for(driver):
    with pytest.raises(ProcessError, match="it ended"):
        change_state(driver, "/nobody", CONFIGURE, busy_process(alive=False))


PARENT = """
import sys, time
from pathlib import Path
from sal360.errors import clean_end
from sal360_ros.processes import NodeProcess
with clean_end(), NodeProcess("sal360_ros.panorama_camera", {"height_px": 64}, log=Path(sys.argv[1])) as camera:
    print(camera.pid, flush=True)
    while True:
        time.sleep(0.05)  # a signal between Python's last look and the call does not interrupt one long sleep
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("after_s", [0.0, 4.0])
def test_a_child_ends_with_its_parent_however_that_ends(tmp_path: Path, how: signal.Signals, after_s: float) -> None:
    command = [sys.executable, "-c", PARENT, os.fspath(tmp_path / "log")]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    time.sleep(after_s)
    parent.send_signal(how)
    status = parent.wait(TIMEOUT_S)
    parent.stdout.close()
    assert status == (-how if how == signal.SIGKILL else 128 + how)
    child.wait(TIMEOUT_S)  # raises if it is still there
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_child_whose_parent_is_dead_already_ends_at_once() -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    command = [sys.executable, "-m", "sal360_ros.panorama_camera", "--ros-args", "-p", "height_px:=64"]
    ended = subprocess.run(command, env={**os.environ, PARENT_VARIABLE: str(dead.pid)}, timeout=TIMEOUT_S)
    assert ended.returncode == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_unwinds_the_block_and_gives_the_status_of_shells(number, status):
    unwound = []

    def interrupted_twice():
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(number)  # does not interrupt the end
            unwound.append(True)

    with pytest.raises(SystemExit) as ended, clean_end():
        interrupted_twice()
    assert ended.value.code == status
    assert unwound


def test_a_hangup_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with clean_end():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_killed_process_is_distinguished_from_one_that_failed(tmp_path):
    with NodeProcess("sal360_ros.panorama_camera", {"height_px": 64}, log=tmp_path / "log") as process:
        os.kill(process.pid, signal.SIGKILL)
        process._process.wait(TIMEOUT_S)
        with pytest.raises(ProcessError, match=r"was ended by SIGKILL; check whether memory ran out"):
            process.check_alive()


def test_the_last_error_is_found_among_other_lines_and_without_its_prefix(tmp_path):
    with NodeProcess("sal360_ros.panorama_camera", {"source": "/no/such"}, log=tmp_path / "log") as process:
        process._process.wait(TIMEOUT_S)
        assert process.last_error().startswith("/no/such does not exist")
        with process.log.open("ab") as log:
            log.write(b"[ERROR] [1.5] [a.b]: cannot configure: no model\n[INFO] [1.6] [a.b]: something else\n")
        assert process.last_error() == "cannot configure: no model"
        assert process.last_line() == "something else"
