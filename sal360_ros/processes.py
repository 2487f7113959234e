"""Start the executables as child processes and take lifecycle nodes through their transitions, as `ros2 launch` does.

The demo, the live replay, the benchmarks and the tests need a real node on a real graph, even on machines without the
launch system.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
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
from rclpy.task import Future

from sal360.errors import Sal360Error
from sal360_ros.executable import PARENT_VARIABLE

CONFIGURE = Transition.TRANSITION_CONFIGURE
ACTIVATE = Transition.TRANSITION_ACTIVATE
DEACTIVATE = Transition.TRANSITION_DEACTIVATE
CLEANUP = Transition.TRANSITION_CLEANUP
STATE_AFTER = {  # transition → resulting state
    CONFIGURE: State.PRIMARY_STATE_INACTIVE,
    ACTIVATE: State.PRIMARY_STATE_ACTIVE,
    DEACTIVATE: State.PRIMARY_STATE_INACTIVE,
    CLEANUP: State.PRIMARY_STATE_UNCONFIGURED,
}
NAMES = {CONFIGURE: "configure", ACTIVATE: "activate", DEACTIVATE: "deactivate", CLEANUP: "clean up"}
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
REPORT_PERIOD_S = 10.0
"""Time between two lines on stderr while a node takes long to configure."""
_LOG_PREFIX = re.compile(r"^\[\w+\] \[[\d.]+\] \[[^]]*\]: |^error: ")


class ProcessError(Sal360Error):
    """A node process did not start, does not respond, or ended unexpectedly."""


def unique_name(prefix: str) -> str:
    """A name for a namespace that no other process uses, here or on the network."""
    return f"{prefix}_{secrets.token_hex(4)}"


class NodeProcess:
    """An executable of this package, running as a child process; leaving the `with` block stops it.

    The child also ends when this process ends in any other way, by SIGKILL for example.

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
        variables = {"PYTHONUNBUFFERED": "1", PARENT_VARIABLE: str(os.getpid()), **(environment or {})}
        self.module = module
        self.log = log
        if log is not None:
            log.unlink(missing_ok=True)  # another process may still write to an old one
        self._output = open(log, "w+b", buffering=0) if log is not None else None  # noqa: SIM115 - closed by `stop`
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT if self._output else None,
            start_new_session=True,  # Ctrl-C goes to this process only, which then stops the child
        )

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
        if status is None:
            return
        if status < 0:
            raise ProcessError(
                f"{self.module} was ended by {signal.Signals(-status).name}",
                "check whether memory ran out (dmesg)" if status == -signal.SIGKILL else self._where_to_look(),
            )
        line = self.last_line()
        raise ProcessError(
            f"{self.module} ended with status {status}" + (f": {line}" if line else ""),
            "" if line else self._where_to_look(),
        )

    def last_error(self) -> str:
        """The last error that the process printed, else its last line, without the log's prefix; "" if unknown."""
        lines = self._lines()
        errors = [line for line in lines if line.startswith(("[ERROR]", "[FATAL]", "error: "))]
        return _LOG_PREFIX.sub("", (errors or lines)[-1]) if lines else ""

    def last_line(self) -> str:
        """The last line that the process printed, without the log's prefix; "" if unknown."""
        lines = self._lines()
        return _LOG_PREFIX.sub("", lines[-1]) if lines else ""

    def _lines(self) -> list[str]:
        if self._output is None or self._output.closed:
            return []
        size = os.fstat(self._output.fileno()).st_size
        printed = os.pread(self._output.fileno(), size, 0).decode(errors="replace")
        return [line.strip() for line in printed.split("\n") if line.strip()]

    def _where_to_look(self) -> str:
        return f"see {self.log}" if self.log is not None else "see its output above"

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
        if self._output is not None:
            self._output.close()


def change_state(
    node: Node, name: str, transition: int, process: NodeProcess | None = None, timeout_s: float = 60.0
) -> None:
    """Request a transition of the lifecycle node `name` and wait until it is complete.

    A service request or its reply can be lost while DDS discovery is still running. So if there is no reply, the node
    is asked for its state, and the request is repeated only if it had no effect. Configuring may take minutes if an
    engine is built: while the node reports that it is configuring, or its process is alive and has not replied yet, the
    wait continues, and a line on stderr reports it.

    Args:
        node: any node of the caller; it is spun here, and nothing else may spin it meanwhile.
        transition: CONFIGURE, ACTIVATE, DEACTIVATE or CLEANUP.
        process: the process of the lifecycle node; if it ends, this fails at once.
        timeout_s: how long to wait without any response from the node.

    Raises:
        ProcessError: the node does not respond in time, refuses the transition, or its process ended.
    """
    with contextlib.closing(_Transition(node, name, transition, process, timeout_s)) as change:
        change.run()


class _Transition:
    """One request of `change_state`."""

    def __init__(self, node: Node, name: str, transition: int, process: NodeProcess | None, timeout_s: float) -> None:
        self._node = node
        self._name = name
        self._transition = transition
        self._process = process
        self._timeout_s = timeout_s
        self._start_s = time.monotonic()
        self._deadline_s = self._start_s + timeout_s
        self._next_report_s = self._start_s + REPORT_PERIOD_S
        self._was_sent = False
        self._changes = node.create_client(ChangeState, f"{name}/change_state")
        self._states = node.create_client(GetState, f"{name}/get_state")

    def run(self) -> None:
        """Request the transition until it is complete; see `change_state`."""
        request = ChangeState.Request(transition=Transition(id=self._transition))
        requested_before = False
        while time.monotonic() < self._deadline_s:
            future = self._call(self._changes, request)
            reply = _result(future)
            if reply is not None and reply.success:
                return
            if (reply is None or requested_before) and self._state_at_rest() == STATE_AFTER[self._transition]:
                return  # it has taken effect; its reply is late or lost
            if future is not None:  # a refusal may arrive after the state
                rclpy.spin_until_future_complete(self._node, future, timeout_sec=min(1.0, REPLY_TIMEOUT_S))
            late = _result(future)
            if late is not None and late.success:  # the node was asked for its state before it had the request
                return
            if late is not None:
                raise self._refusal()
            requested_before = True
        raise ProcessError(
            f"{self._name} did not respond within {self._timeout_s:g} s",
            "check that a lifecycle node of that name is running",
        )

    def _refusal(self) -> ProcessError:
        line = self._process.last_error() if self._process is not None else ""
        if line:
            return ProcessError(f"{self._name}: {line}", "")
        return ProcessError(f"{self._name} refused to {NAMES[self._transition]}", "see its log for the cause")

    def _call(self, client: Client, request: Any) -> Future | None:
        """Send a request and wait `REPLY_TIMEOUT_S` for the reply; None if no service appeared before the deadline."""
        future: Future | None = None
        until_s = self._deadline_s
        while time.monotonic() < until_s:
            if self._process is not None:
                self._process.check_alive()
            if future is None and client.wait_for_service(timeout_sec=0.1):
                future = client.call_async(request)
                until_s = min(self._deadline_s, time.monotonic() + REPLY_TIMEOUT_S)
            if future is not None:
                rclpy.spin_until_future_complete(self._node, future, timeout_sec=0.1)
                if future.done():
                    break
        self._was_sent = self._was_sent or future is not None
        return future

    def _state_at_rest(self) -> int | None:
        """The ID of the primary state after any transition has ended; None if it is not known before the deadline."""
        while time.monotonic() < self._deadline_s:
            reply = _result(self._call(self._states, GetState.Request()))
            if reply is not None and reply.current_state.id not in TRANSITION_STATES:
                return int(reply.current_state.id)
            if reply is not None or self._may_be_busy():
                self._deadline_s = time.monotonic() + self._timeout_s
                self._report()
            time.sleep(0.1)
        return None

    def _may_be_busy(self) -> bool:
        """Whether the process is alive and may be opening its model, so that it cannot reply."""
        return self._transition == CONFIGURE and self._process is not None and self._was_sent

    def _report(self) -> None:
        now_s = time.monotonic()
        if now_s < self._next_report_s or sys.stderr is None:
            return
        self._next_report_s = now_s + REPORT_PERIOD_S
        last = self._process.last_line() if self._process is not None else ""
        with contextlib.suppress(OSError):  # the reader of stderr has gone
            waited = f"waiting for {self._name} to {NAMES[self._transition]}, {now_s - self._start_s:.0f} s so far"
            print(waited + (f": {last}" if last else ""), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Destroy the clients."""
        self._node.destroy_client(self._changes)
        self._node.destroy_client(self._states)


def _result(future: Future | None) -> Any | None:
    """The reply of a service, if it has arrived."""
    return future.result() if future is not None and future.done() else None


def bring_up(node: Node, name: str, process: NodeProcess | None = None, timeout_s: float = 60.0) -> None:
    """Configure and activate the lifecycle node `name`; see `change_state`."""
    change_state(node, name, CONFIGURE, process, timeout_s)
    change_state(node, name, ACTIVATE, process, timeout_s)
