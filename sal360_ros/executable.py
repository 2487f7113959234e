"""Start and stop of the executables: they exit cleanly on a signal, and with the process that started them.

This module imports only light modules, because signals must be blocked before the slow imports begin.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import sys
import threading
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NoReturn

from sal360.errors import one_line_errors
from sal360.standard_streams import open_standard_streams
from sal360_ros.environment import check_environment, ros_start_errors
from sal360_ros.shared_memory import (
    keep_freed_memory,
    release_segments,
    remember_segments,
    use_shared_memory_profile,
)

STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
GRACE_S = 4.0  # `ros2 launch` sends the next signal after 5 s
PARENT_VARIABLE = "SAL360_PARENT_PID"
"""Environment variable: an executable ends when the process of this ID ends."""


def run(
    module: str,
    node_class: str,
    node_name: str,
    *,
    max_message_bytes: Callable[[Mapping[str, Any]], int],
    started: Callable[[Any, Stop], object] = lambda *_: None,
) -> int:
    """Run one node until SIGINT, SIGTERM, SIGHUP (unless nohup ignores it) or the end of the parent process.

    Args:
        module: module of the node's class; imported here, after the signals are blocked.
        node_class: name of a `rclpy.node.Node` subclass whose constructor needs no arguments.
        node_name: the node's name, unless the ROS arguments give another.
        max_message_bytes: returns the size of the largest message that the node sends, from its start parameters.
        started: called with the node before it spins; it may keep the `Stop` and end the process with it.

    Returns:
        Exit status: 0 after a signal, 2 after an error, which is printed on stderr in one line.
    """
    # Blocked in this thread and all later ones, a signal stays pending until a thread waits for it, so it never
    # interrupts any code.
    signals = STOP_SIGNALS - ({signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set())
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    open_standard_streams()
    keep_freed_memory()
    stop = Stop()
    for number in signals:  # an import may have started threads before, in which signals are not blocked
        signal.signal(number, lambda *_: threading.Thread(target=stop.end, daemon=True).start())
    threading.Thread(target=stop.await_signal, args=(signals,), name="signals", daemon=True).start()
    _end_with_parent()
    others = set(threading.enumerate())
    try:
        status = one_line_errors(lambda: _run(module, node_class, node_name, max_message_bytes, started, stop))
    finally:
        stop.finished.set()
    if set(threading.enumerate()) - others:
        _exit(status)  # a thread hangs in a runtime, which could crash while the interpreter ends
    return status


def _exit(status: int) -> NoReturn:
    """End the process at once, after flushing its output and removing its shared memory."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # its reader has gone, or it is closed
            stream.flush()
    release_segments()
    os._exit(status)


def _run(
    module: str,
    node_class: str,
    node_name: str,
    max_message_bytes: Callable[[Mapping[str, Any]], int],
    started: Callable[[Any, Stop], object],
    stop: Stop,
) -> int:
    make_node = getattr(importlib.import_module(module), node_class)
    use_shared_memory_profile(max_message_bytes(start_parameters(sys.argv, node_name)))
    check_environment(arguments=sys.argv)
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    stop.begin()
    try:
        with ros_start_errors(sys.argv):
            rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
            executor = SingleThreadedExecutor()
            node = make_node()
    except BaseException:
        rclpy.utilities.try_shutdown()
        raise
    remember_segments()
    stop.wake = node.create_guard_condition(lambda: None).trigger
    try:
        executor.add_node(node)
        started(node, stop)
        while not stop.is_requested.is_set():
            executor.spin_once()
    finally:
        executor.remove_node(node)
        node.destroy_node()
        executor.shutdown()
        rclpy.shutdown()
    return stop.status


class Stop:
    """The end of the process, requested by a signal or by the node itself."""

    def __init__(self) -> None:
        self.is_requested = threading.Event()
        self.finished = threading.Event()
        self.status = 0
        self.wake: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._has_begun = False

    def begin(self) -> None:
        """Record that from now on a shutdown is needed."""
        with self._lock:
            self._has_begun = True

    def request(self, status: int = 0) -> None:
        """Stop spinning and end with this exit status."""
        self.status = status
        self.is_requested.set()
        self.wake()

    def await_signal(self, signals: Collection[signal.Signals]) -> None:
        """Wait for one of these signals, and end the process."""
        signal.sigwait(signals)
        self.end()

    def end(self) -> None:
        """End the process within `GRACE_S`, or at once if `begin` has not been called."""
        with self._lock:
            if not self._has_begun:
                _exit(0)
        self.request(self.status)
        if not self.finished.wait(GRACE_S):
            # for example a runtime that compiles a model, which cannot be interrupted
            with contextlib.suppress(OSError):  # the reader of stderr has gone
                print(f"shutdown timed out after {GRACE_S:g} s; exiting", file=sys.stderr, flush=True)
            _exit(1)


# --- the parent process ---


def _end_with_parent() -> None:
    """Send this process SIGTERM when the process named by `PARENT_VARIABLE` ends, for whatever reason."""
    parent = os.environ.pop(PARENT_VARIABLE, "")
    if parent.isdigit():
        threading.Thread(target=_terminate_after, args=(int(parent),), name="parent", daemon=True).start()


def _terminate_after(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        _await_end(pid)
    os.kill(os.getpid(), signal.SIGTERM)


def _await_end(pid: int) -> None:
    """Wait until a process ends.

    Raises:
        ProcessLookupError: it has ended.
    """
    try:
        handle = os.pidfd_open(pid)
    except (AttributeError, OSError):  # it has ended, the kernel is old, or the container forbids it
        while True:
            with contextlib.suppress(PermissionError):
                os.kill(pid, 0)
            time.sleep(0.5)
    select.select([handle], [], [])  # readable once the process has ended


# --- the command line ---


def start_parameters(arguments: Sequence[str], node_name: str) -> dict[str, Any]:
    """The parameters of a node in ROS arguments and in the parameter files that they name.

    Only for values that are needed before the node exists. Unreadable parts are left out: rcl reports them later.

    Args:
        node_name: as the executable names the node, without namespace.
    """
    import yaml

    for text in arguments:
        if text.startswith("__node:="):
            node_name = text.removeprefix("__node:=")
    values: dict[str, Any] = {}
    for flag, text in pairwise(arguments):
        with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
            if flag == "--params-file":
                with open(text, encoding="utf-8") as file:
                    values.update(_parameters_in(yaml.safe_load(file), (node_name, "*", "**")))
            elif flag in ("-p", "--param"):
                name, value = text.split(":=", 1)
                values[name.rpartition(":")[2]] = yaml.safe_load(value)
    return values


def _parameters_in(content: Any, nodes: Collection[str]) -> dict[str, Any]:
    """The parameters of these nodes in a parameter file; a node may be listed under its namespace."""
    found: dict[str, Any] = {}
    for name, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, dict) and "ros__parameters" in value:
            found.update(_flat(value["ros__parameters"]) if str(name).rpartition("/")[2] in nodes else {})
        else:
            found.update(_parameters_in(value, nodes))
    return found


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested parameters by their full names ("targets.count")."""
    if not isinstance(values, dict):
        return {prefix: values}
    found: dict[str, Any] = {}
    for name, value in values.items():
        found.update(_flat(value, f"{prefix}.{name}" if prefix else str(name)))
    return found


def parse_arguments(name: str, description: str, flags: Mapping[str, str] = MappingProxyType({})) -> Namespace:
    """The options of an executable's command line that are not for ROS.

    Args:
        flags: flag → help text.
    """
    parser = _OneLineParser(prog=name, description=description, epilog="ROS arguments follow --ros-args.")
    for flag, text in flags.items():
        parser.add_argument(flag, action="store_true", help=text)
    return parser.parse_args(_own_arguments(sys.argv[1:]))


class _OneLineParser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help; ROS arguments follow --ros-args\n")


def _own_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments without those for ROS, which are between --ros-args and -- or the end."""
    own, is_for_ros = [], False
    for each in arguments:
        if each == "--ros-args":
            is_for_ros = True
        elif not is_for_ros:
            own.append(each)
        elif each == "--":
            is_for_ros = False
    return own
