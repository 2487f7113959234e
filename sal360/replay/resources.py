"""Memory, threads and processor time of a process, sampled while it works."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import numpy as np

from sal360.sphere import Array

_PERIOD_S = 0.25


class ResourceSampler:
    """Samples a process from the start of the `with` block to its end.

    Args:
        pid: the process; it may end at any time.
    """

    def __init__(self, pid: int) -> None:
        from psutil import Process  # here, so that a missing psutil is one line

        self._process = Process(pid)
        self._samples: list[tuple[float, float, float, int]] = []  # when, processor seconds, bytes, threads
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample_on, name="resources", daemon=True)

    def _sample_on(self) -> None:
        from psutil import Error

        while True:
            last = self._done.is_set()
            try:
                with self._process.oneshot():
                    cpu = self._process.cpu_times()
                    memory, threads = self._process.memory_info().rss, self._process.num_threads()
            except Error:  # it has ended
                return
            self._samples.append((time.monotonic(), cpu.user + cpu.system, memory, threads))
            if last:
                return
            self._done.wait(_PERIOD_S)

    def __enter__(self) -> ResourceSampler:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    def figures(self) -> dict[str, float]:
        """Peak memory and threads, and the mean processor load in percent of one core."""
        if not self._samples:
            return {}
        when, cpu, memory, threads = (np.array(values) for values in zip(*self._samples, strict=True))
        figures = {"peak_rss_mb": memory.max() / 1e6, "threads": float(threads.max())}
        if when[-1] > when[0]:
            figures["cpu_percent"] = 100 * (cpu[-1] - cpu[0]) / (when[-1] - when[0])
        return figures

    def curves(self) -> dict[str, Array]:
        """Processor load and memory over "time_s"."""
        if len(self._samples) < 2:
            return {}
        when, cpu, memory, _ = (np.array(values) for values in zip(*self._samples, strict=True))
        load = 100 * np.diff(cpu) / np.diff(when)
        return {"time_s": when[1:] - when[0], "CPU, percent of one core": load, "Resident memory, MB": memory[1:] / 1e6}
