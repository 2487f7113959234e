"""Stamps of live streams by the receiver's clock."""

from __future__ import annotations

import numpy as np
import pytest

from sal360.sources.stream_clock import StreamClock

S = 10**9


def test_stamps_keep_the_streams_intervals_whatever_the_network_does() -> None:
    clock = StreamClock()
    sent_s = 1000 + np.arange(100) / 25
    arrived_s = np.maximum.accumulate(sent_s + np.random.default_rng(0).uniform(0, 0.2, 100))
    arrived_s[0] = sent_s[0]
    stamps = [clock.stamp_ns(7 + i / 25, round(arrived_s[i] * S)) for i in range(100)]
    np.testing.assert_allclose(np.diff(stamps), S / 25, atol=2)
    assert stamps[0] == 1000 * S
    assert clock.lag_ns == pytest.approx((arrived_s[-1] - sent_s[-1]) * S, abs=2)


def test_no_frame_is_stamped_later_than_it_arrived() -> None:
    clock = StreamClock()
    stamps = [clock.stamp_ns(i / 10, 1000 * S + i * S // 100) for i in range(50)]  # a burst of five seconds
    assert all(stamp <= 1000 * S + i * S // 100 for i, stamp in enumerate(stamps))
    assert stamps == sorted(set(stamps))


def test_another_connection_is_mapped_for_itself_and_stamps_go_on() -> None:
    clock = StreamClock()
    first = [clock.stamp_ns(i / 10, 1000 * S + i * S // 10) for i in range(10)]
    clock.restart()
    second = [clock.stamp_ns(500 + i / 10, 1030 * S + i * S // 10) for i in range(10)]
    assert second[0] == 1030 * S
    assert first + second == sorted({*first, *second})


@pytest.mark.parametrize("jump_s", [-3.0, -0.5, 3600.0, 60.0, -1e6])
def test_a_jump_of_the_streams_clock_does_not_reach_the_stamps(jump_s: float) -> None:
    clock = StreamClock()
    stamps = [clock.stamp_ns(2e6 + i / 10 + (jump_s if i >= 20 else 0), 1000 * S + i * S // 10) for i in range(40)]
    np.testing.assert_allclose(np.diff(stamps), S / 10, atol=2)


def test_a_senders_slower_clock_is_followed() -> None:
    clock = StreamClock()
    for i in range(36000):  # an hour, at 100 parts per million
        now_ns = 1000 * S + i * S // 10
        stamp_ns = clock.stamp_ns(i / 10 * (1 - 1e-4), now_ns)
    assert 0 <= now_ns - stamp_ns < S // 50


def test_a_decoder_that_is_too_slow_is_not_taken_for_a_slow_clock() -> None:
    clock = StreamClock()
    for i in range(3000):  # 5 % too slow
        clock.stamp_ns(i / 10, 1000 * S + round(i * S / 10 * 1.05))
        if clock.lag_ns > 1.5 * S:
            return
    pytest.fail("the lag is not seen")


def test_frames_without_a_time_get_that_of_their_arrival_and_equal_ones_stay_apart() -> None:
    clock = StreamClock()
    assert clock.stamp_ns(None, 1000 * S) == 1000 * S
    again = clock.stamp_ns(None, 1000 * S)
    assert again > 1000 * S
    assert again / 1e9 > 1000.0


def test_stamps_go_back_with_the_receivers_clock() -> None:
    clock = StreamClock()
    clock.stamp_ns(1.0, 1000 * S)
    assert clock.stamp_ns(1.1, 10 * S) == 10 * S
    assert clock.stamp_ns(1.2, 10 * S + S // 10) == 10 * S + S // 10
