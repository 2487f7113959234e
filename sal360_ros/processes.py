"""Start the executables as child processes and take lifecycle nodes through their transitions, as `ros2 launch` does.

The demo, the live replay, the benchmarks and the tests need a real node on a real graph, also on machines without the
launch system.
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
STATE_AFTER = {  # transition → the state it leads to
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
REPLY_TIMEOUT_S = 5.0
"""Time to wait for a service reply before the node is asked again."""


class ProcessError(Sal360Error):
    """A node process did not start, does not respond, or ended unexpectedly."""


class NodeProcess:
    """An executable of this package, running as a child process; leaving the `with` block stops it.

    Args:
        module: the executable's module, e.g. "sal360_ros.saliency_node".
        parameters: ROS parameters by name.
        remappings: ROS remappings, e.g. {"image": "/camera/image", "__node": "eyes"}.
        environment: additional environment variables.
        log: file for the output of the process; None: it prints to this process's stdout and stderr.
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
            # rcl parses the value as YAML: a string that looks like a number or a boolean needs quotes
            text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
            command += ["-p", f"{name}:={text}"]
        for old, new in (remappings or {}).items():
            command += ["-r", f"{old}:={new}"]
        full_environment = dict(os.environ, PYTHONUNBUFFERED="1")
        full_environment.update(environment or {})
        self.module = module
        self.log = log
        output = open(log, "wb") if log is not None else None  # noqa: SIM115 - closed below
        try:
            self._process = subprocess.Popen(
                command,
                env=full_environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                start_new_session=True,  # Ctrl-C goes to this process only, which then stops the child
            )
        finally:
            if output is not None:
                output.close()

    @property
    def pid(self) -> int:
        """Process ID."""
        return self._process.pid

    def check_alive(self) -> None:
        """Raise if the process has ended.

        Raises:
            ProcessError: the process has ended; the message contains the last line that it printed.
        """
        status = self._process.poll()
        if status is not None:
            raise ProcessError(f"{self.module} ended with status {status}{self._last_line()}", "see its output")

    def _last_line(self) -> str:
        lines = self.log.read_text(errors="replace").split("\n") if self.log is not None else []
        said = [line for line in lines if line.strip()]
        return f": {said[-1].strip()}" if said else ""

    def stop(self, timeout_s: float = 10.0) -> int:
        """Send SIGINT, after the timeout SIGKILL, and return the exit status."""
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
    """Request a transition of the lifecycle node `name` and wait until it is complete.

    A service request or its reply can get lost while DDS discovery is still under way. So when no reply comes, the node
    is asked for its state, and the request is repeated only if it had no effect.

    Args:
        node: any node of the caller; it is spun here, and nothing else may spin it meanwhile.
        transition: CONFIGURE, ACTIVATE, DEACTIVATE or CLEANUP.
        process: the process of the lifecycle node; if it ends, this fails at once.

    Raises:
        ProcessError: the node does not respond in time, refuses the transition, or its process ended.
    """
    goal = STATE_AFTER[transition]
    deadline = time.monotonic() + timeout_s
    changes = node.create_client(ChangeState, f"{name}/change_state")
    states = node.create_client(GetState, f"{name}/get_state")
    request = ChangeState.Request(transition=Transition(id=transition))
    requested_before = False
    try:
        while time.monotonic() < deadline:
            reply = _call(node, changes, request, process, deadline)
            if reply is not None and reply.success:
                return
            if reply is None or requested_before:  # it may have taken effect nevertheless
                state_id = _state_at_rest(node, states, process, deadline)
                if state_id == goal:
                    return
            if reply is not None:
                raise ProcessError(
                    f"{name} refused transition {transition}",
                    "see the output of the node",
                )
            requested_before = True
    finally:
        node.destroy_client(changes)
        node.destroy_client(states)
    raise ProcessError(
        f"{name} did not respond within {timeout_s:g} s", "check that a lifecycle node of that name runs"
    )


def _call(node: Node, client: Client, request: Any, process: NodeProcess | None, deadline: float) -> Any | None:
    """The reply of a service; None if none arrived within `REPLY_TIMEOUT_S` of the request or before the deadline."""
    future = None
    until = deadline
    while time.monotonic() < until:
        if process is not None:
            process.check_alive()
        if future is None and client.wait_for_service(timeout_sec=0.1):
            future = client.call_async(request)
            until = min(deadline, time.monotonic() + REPLY_TIMEOUT_S)
        if future is not None:
            rclpy.spin_until_future_complete(node, future, timeout_sec=0.1)
            if future.done():
                return future.result()
    if future is not None:
        client.remove_pending_request(future)
    return None


def _state_at_rest(node: Node, client: Client, process: NodeProcess | None, deadline: float) -> int | None:
    """The ID of the primary state after any transition has ended; None if it is not known before the deadline."""
    while time.monotonic() < deadline:
        reply = _call(node, client, GetState.Request(), process, deadline)
        if reply is not None and reply.current_state.id not in TRANSITION_STATES:
            return int(reply.current_state.id)
        time.sleep(0.1)
    return None


def bring_up(node: Node, name: str, process: NodeProcess | None = None, timeout_s: float = 60.0) -> None:
    """Configure and activate the lifecycle node `name`; see `change_state`."""
    change_state(node, name, CONFIGURE, process, timeout_s)
    change_state(node, name, ACTIVATE, process, timeout_s)
