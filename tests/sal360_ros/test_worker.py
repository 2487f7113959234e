from __future__ import annotations

import threading

from sal360_ros.pipeline import NewestSlot, Worker


def test_a_newer_item_takes_the_place_of_the_one_that_waits():
    slot = NewestSlot()
    assert not slot.put("old")
    assert slot.put("new")
    assert slot.take() == "new"
    assert not slot.put("next")


def test_a_closed_slot_gives_nothing_and_wakes_who_waits():
    slot = NewestSlot()
    taken = []
    waiter = threading.Thread(target=lambda: taken.append(slot.take()))
    waiter.start()
    slot.close()
    waiter.join(10)
    assert taken == [None]
    slot.put("late")
    assert slot.take() is None


def test_a_slow_worker_skips_to_the_newest():
    handled, begun, go_on = [], threading.Event(), threading.Event()

    def handle(item):
        handled.append(item)
        begun.set()
        assert go_on.wait(10)

    worker = Worker("slow", handle)
    worker.offer(1)
    assert begun.wait(10)
    assert [worker.offer(item) for item in (2, 3, 4)] == [False, True, True]
    begun.clear()
    go_on.set()
    assert begun.wait(10)
    worker.stop()
    assert handled == [1, 4]


def test_stop_finishes_the_item_in_hand_and_drops_the_waiting_one():
    handled, begun, go_on = [], threading.Event(), threading.Event()

    def handle(item):
        begun.set()
        assert go_on.wait(10)
        handled.append(item)

    worker = Worker("stopping", handle)
    worker.offer("in hand")
    assert begun.wait(10)
    worker.offer("waiting")
    stopper = threading.Thread(target=worker.stop)
    stopper.start()
    while not worker._slot._is_closed:
        pass
    go_on.set()
    stopper.join(10)
    assert handled == ["in hand"]
    assert "stopping" not in [thread.name for thread in threading.enumerate()]
