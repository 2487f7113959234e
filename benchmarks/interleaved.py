"""Comparable timings: all candidates take turns, so that a busy moment of the machine affects them equally."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

from tqdm import tqdm


def interleaved_seconds(
    functions: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each of `rounds` calls. An untimed call before each timed one warms caches and threads.

    Args:
        clock: time.thread_time leaves out what other processes take, for functions that use one thread.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in tqdm(range(rounds), unit="round", disable=None):
        for name, function in functions.items():
            function()
            started = clock()
            function()
            seconds[name].append(clock() - started)
    return seconds


def summary_ms(seconds: list[float]) -> dict[str, float]:
    """Median and minimum in milliseconds."""
    return {"median_ms": statistics.median(seconds) * 1e3, "min_ms": min(seconds) * 1e3}
