"""Threads that always take the newest item, so that no result is late: a newer item replaces one that still waits."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

Item = TypeVar("Item")
Offered = TypeVar("Offered")
Taken = TypeVar("Taken")
_Offered = TypeVar("_Offered", contravariant=True)
_Taken = TypeVar("_Taken", covariant=True)

ALIVE_S = 1.0
"""A source that has sent nothing for longer is not waited for."""


class Slot(Protocol[_Offered, _Taken]):
    """Where items wait for a thread."""

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""

    def put(self, item: _Offered, /) -> bool:
        """Store an item; returns whether it replaced one that was never taken."""

    def take(self) -> _Taken | None:
        """Wait until something can be taken and remove it; None once the slot is closed."""

    def close(self) -> _Taken | None:
        """Wake the waiting thread; from now on `take` returns None. Returns what was waiting, if anything was."""


class NewestSlot(Generic[Item]):
    """Holds at most one item; a newer one replaces it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: Item | None = None
        self._is_closed = False

    def put(self, item: Item) -> bool:
        """Store an item; returns whether it replaced one that was never taken."""
        with self._changed:
            dropped, self._item = self._item is not None, item
            self._changed.notify()
        return dropped

    def take(self) -> Item | None:
        """Wait for an item and remove it; None once the slot is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._item is not None)
            item, self._item = self._item, None
            return None if self._is_closed else item

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    def close(self) -> Item | None:
        """Wake the waiting thread; from now on `take` returns None. Returns the item that was waiting."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            item, self._item = self._item, None
        return item


class NewestOfEach(Generic[Item]):
    """Holds at most one item of each source; a newer one of the same source replaces it.

    Args:
        wait_s: returns how long `take` waits for the other sources after the first item has arrived, seconds. Sources
            that have sent nothing for `ALIVE_S` are not waited for.
    """

    def __init__(self, wait_s: Callable[[], float] = lambda: 0.0) -> None:
        self._changed = threading.Condition()
        self._wait_s = wait_s
        self._items: dict[int, Item] = {}
        self._put_s: dict[int, float] = {}  # when each source sent its last item
        self._is_closed = False

    def put(self, source_and_item: tuple[int, Item]) -> bool:
        """Store an item with the number of its source; returns whether it replaced one that was never taken."""
        source, item = source_and_item
        with self._changed:
            dropped = source in self._items
            self._items[source] = item
            self._put_s[source] = time.monotonic()
            self._changed.notify()
        return dropped

    def take(self) -> Mapping[int, Item] | None:
        """Wait for an item and remove the newest one of every source that has sent one; None once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or bool(self._items))
            if (wait_s := self._wait_s()) > 0:
                self._changed.wait_for(self._is_complete, wait_s)
            items, self._items = self._items, {}
            return None if self._is_closed else items

    def _is_complete(self) -> bool:
        alive = [source for source, put_s in self._put_s.items() if time.monotonic() - put_s <= ALIVE_S]
        return self._is_closed or all(source in self._items for source in alive)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    def close(self) -> Mapping[int, Item] | None:
        """Wake the waiting thread; from now on `take` returns None. Returns the items that were waiting."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            items, self._items = self._items, {}
        return items


class Worker(Generic[Offered, Taken]):
    """A thread that passes what it takes from its slot to `handle`, and survives any exception.

    Args:
        name: name of the thread, for tools that list threads.
        slot: where offered items wait.
        handle: processes what `slot.take` returns.
        on_error: called with every exception that `handle` raises, including SystemExit.
    """

    def __init__(
        self,
        name: str,
        slot: Slot[Offered, Taken],
        handle: Callable[[Taken], None],
        on_error: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        self._slot = slot
        self._name = name
        self._handle = handle
        self._on_error = on_error
        self._begun_s: float | None = None
        self._thread = self._start()

    def offer(self, item: Offered) -> bool:
        """Put an item into the thread's slot; returns whether it replaced one that was never processed."""
        return self._slot.put(item)

    @property
    def busy_s(self) -> float:
        """Seconds since the thread began the current item; 0 while it waits for one."""
        begun_s = self._begun_s
        return 0.0 if begun_s is None else time.monotonic() - begun_s

    def revive(self) -> bool:
        """Start the thread again if it has died; returns whether it had."""
        if self._thread.is_alive() or self._slot.is_closed:
            return False
        self._thread = self._start()
        return True

    def close(self) -> Taken | None:
        """Drop what is waiting and let the thread end after the current item; returns what was waiting."""
        return self._slot.close()

    def stop(self, timeout_s: float | None = None) -> bool:
        """Finish the current item, drop the waiting one and end the thread; returns whether it ended in time."""
        self._slot.close()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        while not self._slot.is_closed:
            try:
                self._handle_next()
            except BaseException as error:  # this thread must survive
                with contextlib.suppress(BaseException):
                    self._on_error(error)

    def _handle_next(self) -> None:
        taken = self._slot.take()  # a frame is up to 22 MB: freed when this call returns, before the next wait
        if taken is None:
            return
        self._begun_s = time.monotonic()
        try:
            self._handle(taken)
        finally:
            self._begun_s = None
