"""Memory, threads and CPU time of a process, sampled while it runs."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import numpy as np

from sal360.arrays import Floats

_PERIOD_S = 0.25


class ResourceSampler:
    """Samples a process from the start of the `with` block to its end.

    Args:
        pid: the process; it may end at any time.
    """

    def __init__(self, pid: int) -> None:
        from psutil import Process  # imported here, so that only a replay needs psutil

        self._process = Process(pid)
        self._samples: list[tuple[float, float, float, int]] = []  # time s, CPU time s, bytes, threads
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_done, name="resources", daemon=True)

    def _sample_until_done(self) -> None:
        from psutil import Error

        while True:
            last = self._done.is_set()
            try:
                with self._process.oneshot():
                    cpu = self._process.cpu_times()
                    memory, threads = self._process.memory_info().rss, self._process.num_threads()
            except Error:  # the process has ended
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
        """Peak memory (MB), maximum number of threads, and the mean CPU load (100 is one core)."""
        if not self._samples:
            return {}
        time_s, cpu_s, memory, threads = (np.array(values) for values in zip(*self._samples, strict=True))
        figures = {"peak_rss_mb": memory.max() / 1e6, "threads": float(threads.max())}
        if time_s[-1] > time_s[0]:
            figures["cpu_percent"] = 100 * (cpu_s[-1] - cpu_s[0]) / (time_s[-1] - time_s[0])
        return figures

    def curves(self) -> dict[str, Floats]:
        """CPU load and memory over "time_s"."""
        if len(self._samples) < 2:
            return {}
        time_s, cpu_s, memory, _ = (np.array(values) for values in zip(*self._samples, strict=True))
        load = 100 * np.diff(cpu_s) / np.diff(time_s)
        return {
            "time_s": time_s[1:] - time_s[0],
            "CPU, percent of one core": load,
            "Resident memory, MB": memory[1:] / 1e6,
        }
