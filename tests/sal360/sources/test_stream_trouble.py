"""When a stream's trouble is logged, and how soon it is tried again."""

from __future__ import annotations

import itertools

import pytest

from sal360.sources.stream_address import StreamAddress
from sal360.sources.stream_trouble import Announcer, Backoff, Trouble
from tests.live_streams import Log

REFUSED = Trouble("rtsp://host/ refuses connections", "start it")


class Clock:
    """Stands still between two calls of the test."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def announcer(clock: Clock, log: Log) -> Announcer:
    return Announcer(StreamAddress("rtsp://host/", "rtsp://host/", "rtsp", "host", 554), log, clock)


def test_a_loss_gives_one_line_and_the_return_another(announcer: Announcer, clock: Clock, log: Log) -> None:
    announcer.back("128 x 64")
    clock.now_s += 60
    for _ in range(1000):
        announcer.lost(REFUSED)
        clock.now_s += 0.5
    announcer.back("256 x 128")
    for _ in range(10):
        clock.now_s += 60
    assert log.warnings == ["rtsp://host/ refuses connections; start it; waiting until it is back"]
    assert log.infos == ["rtsp://host/ sends 128 x 64", "rtsp://host/ is back after 500.0 s and sends 256 x 128"]


def test_a_few_losses_in_quick_succession_have_their_lines(announcer: Announcer, clock: Clock, log: Log) -> None:
    announcer.back("128 x 64")
    for _ in range(3):
        clock.now_s += 0.2
        announcer.lost(REFUSED)
        clock.now_s += 0.5
        announcer.back("128 x 64")
    assert len(log.warnings) == 3
    assert len(log.infos) == 4


def test_a_stream_that_flaps_does_not_flood_the_log(announcer: Announcer, clock: Clock, log: Log) -> None:
    for _ in range(600):  # two minutes
        announcer.back("128 x 64")
        clock.now_s += 0.1
        announcer.lost(REFUSED)
        clock.now_s += 0.1
    assert 3 <= len(log.warnings) <= 16
    assert 3 <= len(log.infos) <= 17


def test_a_flapping_stream_that_stays_away_is_reported_in_the_end(announcer: Announcer, clock: Clock, log: Log) -> None:
    for _ in range(20):
        announcer.back("128 x 64")
        clock.now_s += 0.1
        announcer.lost(REFUSED)
    count = len(log.warnings)
    for _ in range(40):
        clock.now_s += 0.5
        announcer.lost(REFUSED)
    assert len(log.warnings) == count + 1
    announcer.back("128 x 64")
    assert "is back after 20.0 s" in log.infos[-1]


def test_another_cause_is_news(announcer: Announcer, clock: Clock, log: Log) -> None:
    announcer.lost(REFUSED)
    clock.now_s += 20
    announcer.lost(Trouble("rtsp://host/ asks for a user name and password", "write them"))
    assert len(log.warnings) == 2
    assert "asks for" in log.warnings[1]


def test_the_pauses_between_attempts_leave_time_to_be_back_within_two_seconds() -> None:
    backoff = Backoff()
    pauses = [backoff.next_s(0.0, 0.0) for _ in range(1000)]
    assert max(pauses) <= 0.5
    assert all(first <= second for first, second in itertools.pairwise(pauses))
    assert backoff.next_s(0.0, 60.0) == Backoff.FIRST_S  # a stream that lasted
    assert backoff.next_s(30.0, 0.0) == 30.0  # a refused login
