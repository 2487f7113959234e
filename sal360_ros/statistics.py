"""Counters and timings of the node: its threads write them, the diagnostics read them."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, defaultdict, deque
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
class OutputCounts:
    """Outcomes of the predictions of one output, since the node was configured."""

    published: int
    failed: int
    dropped: int
    """Replaced by a newer prediction before this output was computed."""
    last_error: str
    """Message of the newest failure; empty if there was none."""
    is_failing: bool
    """Whether the newest attempt failed and there is still a subscriber."""
    message_bytes: int = 0
    """Size of the newest message's data; 0 if it has none."""


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
    recently_lost: int
    went_back: int
    """Frames with a stamp older than the previous frame's."""
    recently_went_back: int
    stood_still: int
    """Frames with a stamp that is zero, or hardly newer than the previous frame's."""
    recently_stood_still: int
    unoriented: int
    """Frames for which the camera's orientation was requested but not known."""
    unoriented_share: float
    """The same over the last `WINDOW_S` seconds, as a share of all frames whose orientation was requested, 0 to 1."""
    is_silent: bool
    """Whether no frame has arrived for `SILENCE_S` seconds."""
    is_stuck: bool
    """Whether frames arrive, but none has been answered or rejected for `WINDOW_S` seconds."""
    is_settled: bool
    """Whether frames have been arriving for `WINDOW_S` seconds without a pause, so that shares of the window count."""
    recently_received: int
    recently_answered: int
    received_hz: float
    answered_hz: float
    processing: Percentiles
    """From the start of processing to the publication of the map."""
    age: Percentiles
    """From the frame's stamp to the publication of its map; NaN if the stamps are not from the node's clock."""


class _Count:
    """A total, and the number over the last `WINDOW_S` seconds."""

    def __init__(self) -> None:
        self.total = 0
        self._recent = 0
        self._additions: deque[tuple[float, int]] = deque()  # time in seconds, number

    def add(self, now_s: float, number: int = 1) -> None:
        self.total += number
        self._recent += number
        self._additions.append((now_s, number))
        self.recent(now_s)

    def recent(self, now_s: float) -> int:
        while self._additions and self._additions[0][0] < now_s - WINDOW_S:
            self._recent -= self._additions.popleft()[1]
        return self._recent


class FrameStatistics:
    """Counters and a sliding window over the frames; thread-safe.

    Args:
        clock: monotonic time, seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._start_s = clock()
        self._counts: dict[tuple[str, str], _Count] = defaultdict(_Count)  # by "frames" or "rejected"; event or reason
        self._last_arrival_s = clock()
        self._stream_start_s = math.inf  # arrival of the first frame after a pause
        self._waiting_since_s = math.inf  # arrival of the first frame after the last answered or rejected one
        self._answers: deque[tuple[float, float, float]] = deque()  # time, processing time, age; all in seconds

    def count_received(self) -> None:
        """Count a frame that has arrived."""
        with self._lock:
            now_s = self._clock()
            if math.isinf(self._stream_start_s) or now_s - self._last_arrival_s > SILENCE_S:
                self._stream_start_s = now_s
            self._last_arrival_s = now_s
            self._counts["frames", "received"].add(self._last_arrival_s)
            self._waiting_since_s = min(self._waiting_since_s, self._last_arrival_s)

    def count_superseded(self) -> None:
        """Count a frame that was dropped for a newer one."""
        self._count("superseded")

    def count_rejected(self, reason: str) -> None:
        """Count a rejected frame."""
        with self._lock:
            self._counts["rejected", reason].add(self._clock())
            self._waiting_since_s = math.inf

    def count_went_back(self) -> None:
        """Count a frame whose stamp is older than the previous frame's."""
        self._count("went back")

    def count_stood_still(self) -> None:
        """Count a frame whose stamp is zero, or hardly newer than the previous frame's."""
        self._count("stood still")

    def count_orientation(self, is_known: bool) -> None:
        """Count a frame whose orientation was looked up."""
        self._count("looked up")
        if not is_known:
            self._count("unoriented")

    def set_lost(self, total: int) -> None:
        """Set the total of lost messages to the middleware's."""
        with self._lock:
            lost = self._counts["frames", "lost"]
            if total > lost.total:
                lost.add(self._clock(), total - lost.total)

    def count_answered(self, processing_s: float, age_s: float) -> None:
        """Count a published map."""
        with self._lock:
            now_s = self._clock()
            self._counts["frames", "answered"].add(now_s)
            self._answers.append((now_s, processing_s, age_s))
            self._waiting_since_s = math.inf
            while self._answers[0][0] < now_s - WINDOW_S:
                self._answers.popleft()

    def _count(self, event: str) -> None:
        with self._lock:
            self._counts["frames", event].add(self._clock())

    def snapshot(self) -> Snapshot:
        """The current counts, rates and times."""
        with self._lock:
            now_s = self._clock()
            window_s = max(min(WINDOW_S, now_s - self._start_s), 1e-9)
            totals = Counter({key: count.total for key, count in self._counts.items()})
            recent = Counter({key: count.recent(now_s) for key, count in self._counts.items()})
            answers = [each for each in self._answers if each[0] >= now_s - WINDOW_S]
            return Snapshot(
                received=totals["frames", "received"],
                answered=totals["frames", "answered"],
                superseded=totals["frames", "superseded"],
                rejected=_rejected(totals),
                recently_rejected=_rejected(recent),
                lost=totals["frames", "lost"],
                recently_lost=recent["frames", "lost"],
                went_back=totals["frames", "went back"],
                recently_went_back=recent["frames", "went back"],
                stood_still=totals["frames", "stood still"],
                recently_stood_still=recent["frames", "stood still"],
                unoriented=totals["frames", "unoriented"],
                unoriented_share=recent["frames", "unoriented"] / max(1, recent["frames", "looked up"]),
                is_silent=now_s - self._last_arrival_s > SILENCE_S,
                is_stuck=now_s - min(self._waiting_since_s, now_s) > WINDOW_S,
                is_settled=now_s - self._stream_start_s >= WINDOW_S,
                recently_received=recent["frames", "received"],
                recently_answered=recent["frames", "answered"],
                received_hz=recent["frames", "received"] / window_s,
                answered_hz=recent["frames", "answered"] / window_s,
                processing=_percentiles([processing_s for _, processing_s, _ in answers]),
                age=_percentiles([age_s for _, _, age_s in answers if abs(age_s) < _MAX_PLAUSIBLE_AGE_S]),
            )


def _rejected(counts: Counter[tuple[str, str]]) -> dict[str, int]:
    return {reason: count for (group, reason), count in counts.items() if group == "rejected" and count}


def _percentiles(values_s: list[float]) -> Percentiles:
    if not values_s:
        return Percentiles(float("nan"), float("nan"))
    p50_s, p95_s = np.percentile(values_s, (50, 95))
    return Percentiles(float(p50_s), float(p95_s))
