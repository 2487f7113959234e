from __future__ import annotations

import threading
import time

import pytest

from sal360_ros.supervision import Watchdog
from sal360_ros.worker import NewestOfEach, NewestSlot, Worker


def wait_until(condition):
    deadline_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline_s, "waited 10 s"
        time.sleep(0.001)


def test_a_newer_item_replaces_the_waiting_one():
    slot = NewestSlot()
    assert not slot.put("old")
    assert slot.put("new")
    assert slot.take() == "new"
    assert not slot.put("next")


def test_a_closed_slot_returns_nothing_and_wakes_the_waiting_thread():
    slot = NewestSlot()
    taken = []
    waiter = threading.Thread(target=lambda: taken.append(slot.take()), daemon=True)
    waiter.start()
    slot.close()
    waiter.join(10)
    assert taken == [None]
    slot.put("late")
    assert slot.take() is None


def test_the_newest_item_of_every_source_is_taken_at_once():
    slot = NewestOfEach()
    assert [slot.put(each) for each in ((0, "old"), (1, "other"), (0, "new"))] == [False, False, True]
    assert slot.take() == {0: "new", 1: "other"}
    slot.put((1, "next"))
    assert slot.take() == {1: "next"}
    slot.put((0, "late"))
    assert slot.close() == {0: "late"}
    assert slot.take() is None


def test_a_source_that_is_late_is_waited_for_only_as_long_as_asked():
    slot = NewestOfEach(wait_s=lambda: 60.0)
    slot.put((0, "alone"))
    assert slot.take() == {0: "alone"}  # nobody knows of a second source
    slot.put((1, "second"))
    taken = []
    waiter = threading.Thread(target=lambda: taken.append(slot.take()), daemon=True)
    waiter.start()
    slot.put((0, "first"))
    waiter.join(10)
    assert taken == [{0: "first", 1: "second"}]


def test_a_source_that_has_gone_is_not_waited_for(monkeypatch):
    slot = NewestOfEach(wait_s=lambda: 60.0)
    slot.put((0, "gone"))
    slot.take()
    monkeypatch.setattr("sal360_ros.worker.ALIVE_S", -1.0)
    slot.put((1, "here"))
    begin_s = time.monotonic()
    assert slot.take() == {1: "here"}
    assert time.monotonic() - begin_s < 30


def test_a_slow_worker_skips_to_the_newest():
    handled, begun, go_on = [], threading.Event(), threading.Event()

    def handle(item):
        handled.append(item)
        begun.set()
        assert go_on.wait(10)

    worker = Worker("slow", NewestSlot(), handle)
    worker.offer(1)
    assert begun.wait(10)
    assert [worker.offer(item) for item in (2, 3, 4)] == [False, True, True]
    begun.clear()
    go_on.set()
    assert begun.wait(10)
    assert worker.stop(10)
    assert handled == [1, 4]


def test_stop_finishes_the_item_in_hand_and_drops_the_waiting_one():
    handled, begun, go_on = [], threading.Event(), threading.Event()

    def handle(item):
        begun.set()
        assert go_on.wait(10)
        handled.append(item)

    worker = Worker("stopping", NewestSlot(), handle)
    worker.offer("in hand")
    assert begun.wait(10)
    worker.offer("waiting")
    stopper = threading.Thread(target=worker.stop, daemon=True)
    stopper.start()
    wait_until(lambda: worker._slot.is_closed)
    go_on.set()
    stopper.join(10)
    assert handled == ["in hand"]
    assert "stopping" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("error", [ValueError, MemoryError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_any_exception_of_an_item_is_reported_and_the_next_one_is_handled(error):
    told, handled = [], threading.Event()

    def handle(item):
        if item == "bad":
            raise error("injected")
        handled.set()

    worker = Worker("surviving", NewestSlot(), handle, told.append)
    worker.offer("bad")
    wait_until(lambda: told)
    worker.offer("good")
    assert handled.wait(10)
    assert [type(each) for each in told] == [error]
    assert worker.stop(10)


def test_an_error_that_cannot_be_reported_ends_nothing():
    handled = threading.Event()
    failures = [OSError("injected")]

    def handle(_):
        if failures:
            raise failures.pop()
        handled.set()

    def fail(_):
        raise MemoryError

    worker = Worker("surviving", NewestSlot(), handle, fail)
    worker.offer(1)
    wait_until(lambda: not failures)
    worker.offer(2)
    assert handled.wait(10)
    assert worker.stop(10)


def test_a_thread_that_hangs_is_left_behind_when_its_time_is_over():
    begun, go_on = threading.Event(), threading.Event()
    worker = Worker("hanging", NewestSlot(), lambda _: begun.set() or go_on.wait(60))
    assert worker.busy_s == 0
    worker.offer("item")
    assert begun.wait(10)
    wait_until(lambda: worker.busy_s)
    assert not worker.stop(0.05)
    go_on.set()
    assert worker.stop(10)


def test_only_a_thread_that_died_is_started_again():
    handled = threading.Event()
    worker = Worker("mortal", NewestSlot(), lambda _: handled.set())
    assert not worker.revive()
    worker._thread = threading.Thread()  # as if it had ended
    assert worker.revive()
    worker.offer("item")
    assert handled.wait(10)
    worker.stop(10)
    assert not worker.revive()


class Watched:
    """Something with a check that raises each kind of exception once; so does the report of the first one."""

    def __init__(self):
        self.raised = [SystemExit(), MemoryError(), KeyboardInterrupt(), ValueError()]
        self.told = []
        self.checks = 0

    def check(self):
        self.checks += 1
        if self.raised:
            raise self.raised.pop()

    def tell(self, error):
        self.told.append(error)
        if len(self.told) == 1:
            raise RuntimeError


def test_the_watchdog_survives_any_exception_of_its_check():
    watched = Watched()
    watchdog = Watchdog(watched.check, 0.001, watched.tell)
    wait_until(lambda: watched.checks > 5)
    assert len(watched.told) == 4
    watchdog.stop(10)
    assert not watchdog._thread.is_alive()


def test_the_watchdog_of_an_object_that_is_gone_ends():
    def watch():
        watched = Watched()
        watched.raised.clear()  # tracebacks would keep it
        watchdog = Watchdog(watched.check, 0.001, watched.tell)
        wait_until(lambda: watched.checks > 5)
        return watchdog

    watchdog = watch()
    wait_until(lambda: not watchdog._thread.is_alive())
