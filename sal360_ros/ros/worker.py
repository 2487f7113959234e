"""A thread that always works on the newest item: what it cannot keep up with is dropped, never queued.

A queue of depth n in front of a slow consumer makes every answer n items old; a slot does not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class NewestSlot(Generic[Item]):
    """Room for one item; a newer one takes its place."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: Item | None = None
        self._is_closed = False

    def put(self, item: Item) -> bool:
        """Store an item; returns whether an older one, that nobody took, was dropped for it."""
        with self._changed:
            dropped, self._item = self._item is not None, item
            self._changed.notify()
        return dropped

    def take(self) -> Item | None:
        """Wait for an item and remove it; None once the slot is closed, whatever is in it."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._item is not None)
            item, self._item = self._item, None
            return None if self._is_closed else item

    def close(self) -> None:
        """Wake whoever waits; nothing can be taken any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


class Worker(Generic[Item]):
    """A thread that hands the newest offered item to `handle`, which must not raise.

    Args:
        name: of the thread, for tools that list threads.
    """

    def __init__(self, name: str, handle: Callable[[Item], None]) -> None:
        self._slot: NewestSlot[Item] = NewestSlot()
        self._handle = handle
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def offer(self, item: Item) -> bool:
        """Let the thread have an item; returns whether it replaced one that had not been begun."""
        return self._slot.put(item)

    def stop(self) -> None:
        """Finish the item in hand, drop the waiting one and end the thread."""
        self._slot.close()
        self._thread.join()

    def _run(self) -> None:
        while (item := self._slot.take()) is not None:
            self._handle(item)
            del item  # a frame is up to 22 MB: not to be kept while waiting for the next
