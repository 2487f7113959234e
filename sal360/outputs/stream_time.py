"""The time of each frame of a stream, even if the camera driver leaves its stamps at zero or repeats them."""

from __future__ import annotations

from typing import NamedTuple

MIN_STEP_NS = 100_000
"""Stamps that advance by less stand still: no camera has 10 kHz, but drivers that count frames or write microseconds
into the field of nanoseconds exist."""


class FrameTime(NamedTuple):
    """When a frame was taken, for everything that depends on time: smoothing, dwell times."""

    time_ns: int
    """The stamp, in nanoseconds, as long as stamps advance."""
    stands_still: bool
    """Whether the stamp is 0 or advances by less than `MIN_STEP_NS`, so that arrival times are used instead."""


class StreamTime:
    """Turns the stamps of one stream into times that advance.

    A stamp of 0, or one that hardly differs from the last, carries no information about the time that passed; the
    difference of the arrival times is used instead. Stamps that go back or jump are passed on: the consumer handles a
    stream that starts over.
    """

    def __init__(self) -> None:
        self._newest: tuple[int, int] | None = None  # the last usable stamp, and the time of its first frame
        self._last: tuple[int, int] | None = None  # arrival and time of the last frame

    def update(self, stamp_ns: int, arrival_ns: int) -> FrameTime:
        """The time of the next frame.

        Args:
            stamp_ns: stamp in its header.
            arrival_ns: when it arrived or was recorded, by any clock that does not jump.
        """
        stands_still = stamp_ns == 0 or (self._newest is not None and 0 <= stamp_ns - self._newest[0] < MIN_STEP_NS)
        by_arrival_ns = arrival_ns
        if self._last is not None:
            by_arrival_ns = self._last[1] + max(1, arrival_ns - self._last[0])
        time_ns = by_arrival_ns if stands_still else self._by_stamp(stamp_ns, by_arrival_ns)
        if not stands_still:
            self._newest = stamp_ns, time_ns
        self._last = arrival_ns, time_ns
        return FrameTime(time_ns, stands_still)

    def _by_stamp(self, stamp_ns: int, by_arrival_ns: int) -> int:
        if self._newest is None or self._last is None:
            return stamp_ns
        newest_ns, its_time_ns = self._newest
        time_ns = its_time_ns + stamp_ns - newest_ns
        # while a stamp was repeated, arrival times may have run ahead of it
        return by_arrival_ns if stamp_ns > newest_ns and time_ns <= self._last[1] else time_ns
