"""Threads besides the executor's: background work that takes long or may hang, and the watchdog."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node

Result = TypeVar("Result")


class Background(Generic[Result]):
    """A function that runs in a separate thread, because it may take minutes or never return.

    Args:
        name: name of the thread, for tools that list threads.
        function: returns the result.
        on_done: called in that thread once there is a result or an error.
    """

    def __init__(self, name: str, function: Callable[[], Result], on_done: Callable[[], None] = lambda: None) -> None:
        self._function = function
        self._on_done = on_done
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._begin_s = time.monotonic()
        self._results: list[Result] = []
        self._error: BaseException | None = None
        self._discard: Callable[[Result], object] | None = None
        threading.Thread(target=self._run, name=name, daemon=True).start()

    @property
    def is_done(self) -> bool:
        """Whether there is a result or an error."""
        return self._done.is_set()

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self._begin_s

    def result(self, timeout_s: float | None = None) -> Result:
        """Wait for the result.

        Raises:
            TimeoutError: there is none yet after `timeout_s`; None waits without a limit.
            RuntimeError: the function raised an exception that ends threads, such as SystemExit.
            Exception: any other exception that the function raised.
        """
        if not self._done.wait(timeout_s):
            raise TimeoutError(f"still busy after {timeout_s:g} s")
        if isinstance(self._error, Exception):
            raise self._error
        if self._error is not None:
            raise RuntimeError(f"{type(self._error).__name__}: {self._error}") from self._error
        return self._results[0]

    def abandon(self, discard: Callable[[Result], object]) -> None:
        """Let the thread pass the result to `discard` when it has one."""
        with self._lock:
            self._discard = discard
            results, self._results = self._results, []
        for result in results:
            discard(result)

    def _run(self) -> None:
        try:
            result = self._function()
        except BaseException as error:  # raised again by `result`
            self._error = error
        else:
            with self._lock:
                discard = self._discard
                if discard is None:
                    self._results.append(result)
            if discard is not None:
                with contextlib.suppress(Exception):
                    discard(result)
        self._done.set()
        self._on_done()


class ExecutorJobs:
    """Runs functions of other threads in the executor's thread, and detects when the executor is blocked."""

    def __init__(self, node: Node) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake = node.create_guard_condition(self._run)
        self._seen_s: float | None = None
        self.put(self._see)
        node.create_timer(1.0, self._see, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def put(self, job: Callable[[], None]) -> None:
        """Schedule a function; an exception in it ends the executor's spinning."""
        self._jobs.put(job)
        with contextlib.suppress(Exception):  # the node is being destroyed
            self._wake.trigger()

    @property
    def blocked_s(self) -> float:
        """Seconds since the executor last ran; 0 before it spins for the first time."""
        seen_s = self._seen_s
        return 0.0 if seen_s is None else time.monotonic() - seen_s

    def _see(self) -> None:
        self._seen_s = time.monotonic()

    def _run(self) -> None:
        while not self._jobs.empty():
            self._jobs.get_nowait()()


class Watchdog:
    """Calls a method periodically from a dedicated thread, by the monotonic clock, and survives any exception.

    Args:
        check: a bound method. The thread does not keep its object alive, and ends with it.
        period_s: time from one call to the next, seconds.
        on_error: called with every exception that `check` raises.
    """

    def __init__(self, check: Callable[[], None], period_s: float, on_error: Callable[[BaseException], None]) -> None:
        self._check = weakref.WeakMethod(check)
        self._on_error = weakref.WeakMethod(on_error)
        self._period_s = period_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End the thread; one that hangs in `check` is abandoned after `timeout_s`."""
        self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopped.wait(self._period_s):
            check, on_error = self._check(), self._on_error()
            if check is None or on_error is None:
                return
            try:
                check()
            except BaseException as error:  # the watchdog itself must survive
                with contextlib.suppress(BaseException):
                    on_error(error)
            del check, on_error  # otherwise they would keep the object alive while this thread waits
