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
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.node import Node

from sal360_ros.errors import Sal360Error

CONFIGURE = Transition.TRANSITION_CONFIGURE
ACTIVATE = Transition.TRANSITION_ACTIVATE


class ProcessError(Sal360Error):
    """A node process did not start, or ended by itself."""


class NodeProcess:
    """One of our executables, running in a process of its own; stops with the `with` block.

    Args:
        module: the executable's module, e.g. "sal360_ros.ros.saliency_node".
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
                f"{self.module} ended with status {status}{self._last_line()}", "a running node", "see its output"
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
    """Ask the lifecycle node `name` for a transition (CONFIGURE, ACTIVATE, …) and wait until it is done.

    Args:
        node: any node of the caller's, which is spun here; nothing else may spin it meanwhile.

    Raises:
        ProcessError: the node does not answer in time, refuses, or its process ended.
    """
    client = node.create_client(ChangeState, f"{name}/change_state")
    try:
        deadline = time.monotonic() + timeout_s
        request = ChangeState.Request(transition=Transition(id=transition))
        future = None
        while time.monotonic() < deadline:
            if process is not None:
                process.check_alive()
            if future is None and client.wait_for_service(timeout_sec=0.1):
                future = client.call_async(request)
            if future is not None:
                rclpy.spin_until_future_complete(node, future, timeout_sec=0.1)
                if future.done():
                    if future.result().success:
                        return
                    raise ProcessError(
                        f"{name} refused transition {transition}",
                        "a node that can take it",
                        "see what the node printed",
                    )
        raise ProcessError(f"{name} did not answer for {timeout_s:g} s", "a lifecycle node of that name", "start it")
    finally:
        node.destroy_client(client)


def bring_up(node: Node, name: str, process: NodeProcess | None = None, timeout_s: float = 60.0) -> None:
    """Configure and activate the lifecycle node `name`; see `change_state`."""
    change_state(node, name, CONFIGURE, process, timeout_s)
    change_state(node, name, ACTIVATE, process, timeout_s)
