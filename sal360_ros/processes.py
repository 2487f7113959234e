"""Start our executables as processes of their own and bring them to life, as `ros2 launch` would.

For the demo, live replay, benchmarks and tests, which all need a real node behind a real graph, also where the
launch system is not installed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rclpy
import yaml
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.client import Client
from rclpy.node import Node

from sal360.errors import Sal360Error

CONFIGURE = Transition.TRANSITION_CONFIGURE
ACTIVATE = Transition.TRANSITION_ACTIVATE
DEACTIVATE = Transition.TRANSITION_DEACTIVATE
CLEANUP = Transition.TRANSITION_CLEANUP
STATE_AFTER = {  # of the transitions that can be asked for here
    CONFIGURE: State.PRIMARY_STATE_INACTIVE,
    ACTIVATE: State.PRIMARY_STATE_ACTIVE,
    DEACTIVATE: State.PRIMARY_STATE_INACTIVE,
    CLEANUP: State.PRIMARY_STATE_UNCONFIGURED,
}
TRANSITION_STATES = {
    State.TRANSITION_STATE_CONFIGURING,
    State.TRANSITION_STATE_ACTIVATING,
    State.TRANSITION_STATE_DEACTIVATING,
    State.TRANSITION_STATE_CLEANINGUP,
    State.TRANSITION_STATE_SHUTTINGDOWN,
    State.TRANSITION_STATE_ERRORPROCESSING,
}
ANSWER_S = 5.0
"""How long an answer is awaited before the node is asked anew: a model is loaded in less on most machines."""


class ProcessError(Sal360Error):
    """A node process did not start, or ended by itself."""


class NodeProcess:
    """One of our executables, running in a process of its own; stops with the `with` block.

    Args:
        module: the executable's module, e.g. "sal360_ros.saliency_node".
        parameters: ROS parameters by name.
        remappings: ROS remappings, e.g. {"image": "/camera/image", "__node": "eyes"}.
        environment: further environment variables.
        log: file that takes what the process prints; without it, the process prints where this one does.
    """

    def __init__(
        self,
        module: str,
        parameters: Mapping[str, Any] | None = None,
        remappings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        command = [sys.executable, "-m", module, "--ros-args"]
        for name, value in (parameters or {}).items():
            # rcl reads the value as YAML: a text that looks like a number or a truth value needs its quotes
            text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
            command += ["-p", f"{name}:={text}"]
        for old, new in (remappings or {}).items():
            command += ["-r", f"{old}:={new}"]
        full_environment = dict(os.environ, PYTHONUNBUFFERED="1")
        full_environment.update(environment or {})
        self.module = module
        self.log = log
        output = open(log, "wb") if log is not None else None  # noqa: SIM115 - lives as long as the process
        try:
            self._process = subprocess.Popen(
                command,
                env=full_environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                start_new_session=True,  # Ctrl-C is for the caller, who stops the node: one that ends first is a fault
            )
        finally:
            if output is not None:
                output.close()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def check_alive(self) -> None:
        """Do nothing while the process runs.

        Raises:
            ProcessError: it has ended; the message carries the last line that it printed.
        """
        status = self._process.poll()
        if status is not None:
            raise ProcessError(
                f"{self.module} ended with status {status}{self._last_line()}",
                "see its output",
                expected="a running node",
            )

    def _last_line(self) -> str:
        lines = self.log.read_text(errors="replace").split("\n") if self.log is not None else []
        said = [line for line in lines if line.strip()]
        return f" («{said[-1].strip()}»)" if said else ""

    def stop(self, timeout_s: float = 10.0) -> int:
        """End the process as Ctrl-C would (by force after the time-out) and return its status."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def change_state(
    node: Node, name: str, transition: int, process: NodeProcess | None = None, timeout_s: float = 60.0
) -> None:
    """Ask the lifecycle node `name` for a transition and wait until it is done.

    The answer of a service can be lost while its ends are still finding each other, so a question that stays without
    one is followed by another: which state the node is in. Only where the first did not take effect is it repeated.

    Args:
        node: any node of the caller's, which is spun here; nothing else may spin it meanwhile.
        transition: CONFIGURE, ACTIVATE, DEACTIVATE or CLEANUP.

    Raises:
        ProcessError: the node does not answer in time, refuses, or its process ended.
    """
    goal = STATE_AFTER[transition]
    deadline = time.monotonic() + timeout_s
    changes = node.create_client(ChangeState, f"{name}/change_state")
    states = node.create_client(GetState, f"{name}/get_state")
    request = ChangeState.Request(transition=Transition(id=transition))
    asked_before = False
    try:
        while time.monotonic() < deadline:
            answer = _answer(node, changes, request, process, deadline)
            if answer is not None and answer.success:
                return
            if answer is None or asked_before:  # it may have taken effect all the same
                state_id = _state_at_rest(node, states, process, deadline)
                if state_id == goal:
                    return
            if answer is not None:
                raise ProcessError(
                    f"{name} refused transition {transition}",
                    "see what the node printed",
                    expected="a node that can take it",
                )
            asked_before = True
    finally:
        node.destroy_client(changes)
        node.destroy_client(states)
    raise ProcessError(
        f"{name} did not answer for {timeout_s:g} s", "start it", expected="a lifecycle node of that name"
    )


def _answer(node: Node, client: Client, request: Any, process: NodeProcess | None, deadline: float) -> Any | None:
    """The answer of a service, or None if none came within ANSWER_S of the question or until the deadline."""
    future = None
    until = deadline
    while time.monotonic() < until:
        if process is not None:
            process.check_alive()
        if future is None and client.wait_for_service(timeout_sec=0.1):
            future = client.call_async(request)
            until = min(deadline, time.monotonic() + ANSWER_S)
        if future is not None:
            rclpy.spin_until_future_complete(node, future, timeout_sec=0.1)
            if future.done():
                return future.result()
    if future is not None:
        client.remove_pending_request(future)
    return None


def _state_at_rest(node: Node, client: Client, process: NodeProcess | None, deadline: float) -> int | None:
    """The state's number once the node is in no transition, or None if it does not say until the deadline."""
    while time.monotonic() < deadline:
        answer = _answer(node, client, GetState.Request(), process, deadline)
        if answer is not None and answer.current_state.id not in TRANSITION_STATES:
            return int(answer.current_state.id)
        time.sleep(0.1)
    return None


def bring_up(node: Node, name: str, process: NodeProcess | None = None, timeout_s: float = 60.0) -> None:
    """Configure and activate the lifecycle node `name`; see `change_state`."""
    change_state(node, name, CONFIGURE, process, timeout_s)
    change_state(node, name, ACTIVATE, process, timeout_s)
