"""Warnings that a stream of bad frames cannot turn into a flood."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable


class ThrottledWarnings:
    """Says each kind of warning at once, and then at most once a period, with the number held back.

    Args:
        say: takes one line.
        period_s: least time between two lines of a kind, seconds.
        clock: seconds that only rise.
    """

    def __init__(
        self, say: Callable[[str], None], period_s: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say = say
        self._period_s = period_s
        self._clock = clock
        self._lock = threading.Lock()
        self._last_s: dict[str, float] = {}
        self._held_back: dict[str, int] = {}

    def warn(self, kind: str, line: str) -> None:
        """Say the line, unless one of its kind was said a moment ago."""
        with self._lock:
            now_s = self._clock()
            if now_s - self._last_s.get(kind, -math.inf) < self._period_s:
                self._held_back[kind] = self._held_back.get(kind, 0) + 1
                return
            self._last_s[kind] = now_s
            more = self._held_back.pop(kind, 0)
        self._say(f"{line} (and {more} more since the last such line)" if more else line)
