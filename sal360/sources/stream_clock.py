"""The times of a live stream by the receiver's clock: the stream's own clock, mapped once for each connection."""

from __future__ import annotations

_LONGEST_LAG_NS = 10 * 10**9
"""A frame that seems older than this shows that the stream's clock jumped."""
_WINDOW_NS = 30 * 10**9
_MIN_STEP_NS = 1000
"""Stamps in seconds (float64, since 1970) keep this difference."""
_MAX_DRIFT = 2e-4
"""How much slower the sender's clock may run; quartz clocks differ by a tenth of this."""


class StreamClock:
    """Turns presentation times into stamps by the receiver's clock.

    The first frame of a connection is stamped with its arrival, and the others with their distance from it, so that the
    network's jitter does not reach the stamps. No frame is stamped later than it arrived: a faster frame moves the
    mapping. A sender whose clock runs slower moves it, too, as far as clocks can differ.
    """

    def __init__(self) -> None:
        self.lag_ns = 0
        """How much later the last frame arrived than its stamp: delays of the network, or of a slow decoder."""
        self._offset_ns: int | None = None
        self._last_ns: int | None = None  # the last stamp
        self._last_pts_ns = 0
        self._now_ns = 0
        self._window_start_ns = 0
        self._least_lag_ns = 0

    def restart(self) -> None:
        """The next frame belongs to a new connection: forget the mapping."""
        self._offset_ns = None

    def stamp_ns(self, pts_s: float | None, now_ns: int) -> int:
        """The stamp of the next frame, nanoseconds by the receiver's clock; later than the last one.

        Only if the receiver's clock was set back, stamps go back with it.

        Args:
            pts_s: its presentation time by the stream's clock, seconds; None if it has none.
            now_ns: when it arrived, by the receiver's clock.
        """
        if now_ns < self._now_ns:
            self._offset_ns = self._last_ns = None
        self._now_ns = now_ns
        stamp_ns = now_ns if pts_s is None else self._mapped(round(pts_s * 1e9), now_ns)
        self.lag_ns = now_ns - stamp_ns
        if self._last_ns is not None:
            stamp_ns = max(stamp_ns, self._last_ns + _MIN_STEP_NS)
        self._last_ns = stamp_ns
        return stamp_ns

    def _mapped(self, pts_ns: int, now_ns: int) -> int:
        offset_ns = self._offset_ns
        is_early = offset_ns is not None and pts_ns + offset_ns > now_ns
        has_jumped = offset_ns is not None and (
            pts_ns < self._last_pts_ns or now_ns - pts_ns - offset_ns > _LONGEST_LAG_NS
        )
        if offset_ns is None or is_early or has_jumped:
            offset_ns = now_ns - pts_ns
            self._start_window(now_ns)
        self._last_pts_ns = pts_ns
        self._least_lag_ns = min(self._least_lag_ns, now_ns - pts_ns - offset_ns)
        self._offset_ns = offset_ns
        if now_ns - self._window_start_ns >= _WINDOW_NS:
            self._offset_ns += min(self._least_lag_ns, round(_MAX_DRIFT * _WINDOW_NS))
            self._start_window(now_ns)
        return pts_ns + offset_ns

    def _start_window(self, now_ns: int) -> None:
        self._window_start_ns, self._least_lag_ns = now_ns, _LONGEST_LAG_NS
