from __future__ import annotations

import pytest

from sal360.outputs.stream_time import StreamTime

MS = 1_000_000


def times(*frames):
    """Times in milliseconds of (stamp, arrival), both in milliseconds."""
    stream = StreamTime()
    return [stream.update(stamp * MS, arrival * MS) for stamp, arrival in frames]


def test_stamps_that_advance_are_the_times_whenever_the_frames_arrive():
    found = times((5000, 100), (5033, 180), (5066, 181))
    assert [each.time_ns for each in found] == [5000 * MS, 5033 * MS, 5066 * MS]
    assert not any(each.stands_still for each in found)


@pytest.mark.parametrize("stamp", [0, 5000])
def test_time_advances_by_arrival_while_stamps_stand_still(stamp):
    found = times((stamp, 100), (stamp, 150), (stamp, 210))
    assert [each.time_ns - found[0].time_ns for each in found] == [0, 50 * MS, 110 * MS]
    assert [each.stands_still for each in found] == [stamp == 0, True, True]


@pytest.mark.parametrize("step_ns", [1, 33, 33_333])
def test_stamps_that_hardly_advance_stand_still(step_ns):
    """Frame numbers, milliseconds and microseconds in the field of nanoseconds."""
    stream = StreamTime()
    found = [stream.update(5000 * MS + step_ns * index, 33 * MS * index) for index in range(30)]
    assert [each.time_ns - found[0].time_ns for each in found] == [33 * MS * index for index in range(30)]
    assert sum(each.stands_still for each in found) >= 20


def test_a_stamp_given_twice_makes_time_neither_stop_nor_run_ahead():
    """60 Hz frames with stamps of 30 Hz."""
    found = times((1000, 0), (1000, 16), (1033, 33), (1033, 49), (1066, 66))
    assert [each.time_ns // MS for each in found] == [1000, 1016, 1033, 1049, 1066]


def test_time_never_stands_when_arrivals_have_run_ahead_of_the_stamps():
    found = times((1000, 0), (1000, 500), (1001, 600), (1002, 700))
    assert [each.time_ns // MS for each in found] == [1000, 1500, 1600, 1601]


def test_frames_without_a_stamp_between_stamped_ones_take_the_time_between():
    found = times((1000, 0), (0, 30), (1060, 60))
    assert [each.time_ns // MS for each in found] == [1000, 1030, 1060]
    assert [each.stands_still for each in found] == [False, True, False]


def test_stamps_that_go_back_or_jump_are_passed_on():
    found = times((1000, 0), (400, 30), (430, 60), (90_000, 90))
    assert [each.time_ns // MS for each in found] == [1000, 400, 430, 90_000]
    assert not any(each.stands_still for each in found)


def test_frames_that_arrive_at_one_moment_keep_their_order():
    first, second = times((0, 100), (0, 100))
    assert second.time_ns > first.time_ns
