"""Start and stop of the executables: whenever SIGINT or SIGTERM arrives, they exit cleanly.

This module imports only light modules, because signals must be blocked before the slow imports begin.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from typing import Any

from sal360.errors import ParameterError, one_line_errors
from sal360_ros.shared_memory import keep_freed_memory, use_shared_memory_profile

STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM})
GRACE_S = 4.0  # `ros2 launch` sends the next signal after 5 s


def run(module: str, node_class: str) -> int:
    """Run one node until SIGINT or SIGTERM.

    Args:
        module: module of the node's class; imported here, after the signals are blocked.
        node_class: name of a `rclpy.node.Node` subclass whose constructor needs no arguments.

    Returns:
        Exit status: 0 after a signal, 2 after an error, which is printed on stderr in one line.
    """
    # Blocked in this thread and all later ones, a signal stays pending until a thread waits for it: no code is ever
    # interrupted by it.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    keep_freed_memory()
    use_shared_memory_profile()
    finished = threading.Event()
    try:
        return one_line_errors(lambda: _run(module, node_class, finished))
    finally:
        finished.set()


def _run(module: str, node_class: str, finished: threading.Event) -> int:
    make_node = getattr(importlib.import_module(module), node_class)
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    try:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        executor = SingleThreadedExecutor()
        node = make_node()
    except Exception as error:
        rclpy.utilities.try_shutdown()
        raise _start_error(error) from error
    stopping = threading.Event()
    stop = node.create_guard_condition(stopping.set)
    threading.Thread(target=_await_signal, args=(stop, finished), name="signals", daemon=True).start()
    try:
        executor.add_node(node)
        while not stopping.is_set():
            executor.spin_once()
    finally:
        executor.remove_node(node)
        node.destroy_node()
        executor.shutdown()
        rclpy.shutdown()
    return 0


def _start_error(error: Exception) -> Exception:
    """An error of rclpy about ROS arguments, parameter files or names as a `ParameterError`; any other as it is."""
    from rclpy.exceptions import NameValidationException
    from rclpy.impl.implementation_singleton import rclpy_implementation

    argument_errors = (
        NameValidationException,
        rclpy_implementation.RCLError,
        rclpy_implementation.RCLInvalidROSArgsError,
        rclpy_implementation.UnknownROSArgsError,
    )
    if not isinstance(error, argument_errors):
        return error
    return ParameterError(" ".join(str(error).split()), "correct what follows --ros-args")


def _await_signal(stop: Any, finished: threading.Event) -> None:
    signal.sigwait(STOP_SIGNALS)
    stop.trigger()
    if not finished.wait(GRACE_S):
        # for example a runtime that compiles a model, which cannot be interrupted
        print(f"shutdown timed out after {GRACE_S:g} s; exiting", file=sys.stderr, flush=True)
        os._exit(1)
