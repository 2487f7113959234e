"""Counters and timings of the node: its threads write them, the diagnostics read them."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

WINDOW_S = 5.0
SILENCE_S = 3.0
_MAX_PLAUSIBLE_AGE_S = 60.0  # a larger difference means another clock: a recording, or a driver's time since start


@dataclass(frozen=True)
class Percentiles:
    """Median and 95th percentile over the window, seconds; NaN if there are no values."""

    p50_s: float
    p95_s: float


@dataclass(frozen=True)
class Snapshot:
    """Totals since the node was activated; rates and times over the last `WINDOW_S` seconds."""

    received: int
    answered: int
    superseded: int
    """Frames dropped because a newer one arrived before they were processed."""
    rejected: Mapping[str, int]
    """Rejected frames by reason, a key of `sal360.errors.FRAME_REJECTIONS`."""
    recently_rejected: Mapping[str, int]
    """The same over the last `WINDOW_S` seconds."""
    lost: int
    """Messages that the middleware reported as lost."""
    went_back: int
    """Frames with a stamp older than the previous frame's."""
    is_silent: bool
    """Whether no frame has arrived for `SILENCE_S` seconds."""
    is_stuck: bool
    """Whether frames arrive, but none has been answered or rejected for `WINDOW_S` seconds."""
    received_hz: float
    answered_hz: float
    processing: Percentiles
    """From the start of processing to the publication of the map."""
    age: Percentiles
    """From the frame's stamp to the publication of its map; NaN if the stamps are not from the node's clock."""


class FrameStatistics:
    """Counters and a sliding window over the frames; thread-safe.

    Args:
        clock: monotonic time, seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._start_s = clock()
        self._received = self._answered = self._superseded = self._lost = self._went_back = 0
        self._rejected: Counter[str] = Counter()
        self._last_arrival_s = clock()
        self._waiting_since_s = math.inf  # arrival of the first frame after the last answered or rejected one
        self._arrivals_s: deque[float] = deque()
        self._rejections: deque[tuple[float, str]] = deque()  # time in seconds, reason
        self._answers: deque[tuple[float, float, float]] = deque()  # time, processing time, age; all in seconds

    def count_received(self) -> None:
        """Count a frame that has arrived."""
        with self._lock:
            self._received += 1
            self._last_arrival_s = self._clock()
            self._arrivals_s.append(self._last_arrival_s)
            self._waiting_since_s = min(self._waiting_since_s, self._last_arrival_s)
            self._forget()

    def count_superseded(self) -> None:
        """Count a frame that was dropped for a newer one."""
        with self._lock:
            self._superseded += 1

    def count_rejected(self, reason: str) -> None:
        """Count a rejected frame."""
        with self._lock:
            self._rejected[reason] += 1
            self._rejections.append((self._clock(), reason))
            self._waiting_since_s = math.inf
            self._forget()

    def count_went_back(self) -> None:
        """Count a frame whose stamp is older than the previous frame's."""
        with self._lock:
            self._went_back += 1

    def set_lost(self, total: int) -> None:
        """Take over the middleware's total of lost messages."""
        with self._lock:
            self._lost = total

    def count_answered(self, processing_s: float, age_s: float) -> None:
        """Count a published map."""
        with self._lock:
            self._answered += 1
            self._answers.append((self._clock(), processing_s, age_s))
            self._waiting_since_s = math.inf
            self._forget()

    def _forget(self) -> None:
        oldest_s = self._clock() - WINDOW_S
        while self._arrivals_s and self._arrivals_s[0] < oldest_s:
            self._arrivals_s.popleft()
        while self._rejections and self._rejections[0][0] < oldest_s:
            self._rejections.popleft()
        while self._answers and self._answers[0][0] < oldest_s:
            self._answers.popleft()

    def snapshot(self) -> Snapshot:
        """The present counts, rates and times."""
        with self._lock:
            self._forget()
            now_s = self._clock()
            window_s = max(min(WINDOW_S, now_s - self._start_s), 1e-9)
            return Snapshot(
                received=self._received,
                answered=self._answered,
                superseded=self._superseded,
                rejected=dict(self._rejected),
                recently_rejected=Counter(reason for _, reason in self._rejections),
                lost=self._lost,
                went_back=self._went_back,
                is_silent=now_s - self._last_arrival_s > SILENCE_S,
                is_stuck=now_s - min(self._waiting_since_s, now_s) > WINDOW_S,
                received_hz=len(self._arrivals_s) / window_s,
                answered_hz=len(self._answers) / window_s,
                processing=_percentiles([processing_s for _, processing_s, _ in self._answers]),
                age=_percentiles([age_s for _, _, age_s in self._answers if abs(age_s) < _MAX_PLAUSIBLE_AGE_S]),
            )


def _percentiles(values_s: list[float]) -> Percentiles:
    if not values_s:
        return Percentiles(float("nan"), float("nan"))
    p50_s, p95_s = np.percentile(values_s, (50, 95))
    return Percentiles(float(p50_s), float(p95_s))
