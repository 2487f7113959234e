"""How each of our executables starts and stops: cleanly, whenever SIGINT or SIGTERM come.

Only light modules are imported here: the signals must be in hand before the heavy imports begin.
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
GRACE_S = 4.0  # `ros2 launch` loses its patience after 5 s


def run(module: str, node_class: str) -> int:
    """Run one node until SIGINT or SIGTERM.

    Args:
        module: where the node's class is; imported only now.
        node_class: name of a `rclpy.node.Node` that is made without arguments.

    Returns:
        Exit status: 0 after a signal, 2 after an error that was said in one line on stderr.
    """
    # Blocked in this and every later thread, a signal waits until somebody asks for it: nothing is ever interrupted.
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
        rclpy.try_shutdown()
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
    """What rclpy says of arguments, files and names that it cannot take, in one line; other errors as they are."""
    from rclpy.exceptions import NameValidationException
    from rclpy.impl.implementation_singleton import rclpy_implementation

    of_arguments = (
        NameValidationException,
        rclpy_implementation.RCLError,
        rclpy_implementation.RCLInvalidROSArgsError,
        rclpy_implementation.UnknownROSArgsError,
    )
    if not isinstance(error, of_arguments):
        return error
    return ParameterError(
        " ".join(str(error).split()),
        "correct what follows --ros-args",
        expected="arguments, files and names that ROS takes",
    )


def _await_signal(stop: Any, finished: threading.Event) -> None:
    signal.sigwait(STOP_SIGNALS)
    stop.trigger()
    if not finished.wait(GRACE_S):
        # a runtime that compiles a model cannot be interrupted
        print(f"not done after {GRACE_S:g} s: ended while something was still running", file=sys.stderr, flush=True)
        os._exit(1)
