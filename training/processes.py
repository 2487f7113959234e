"""What the processes of one training do together: measure in shares, wait, report errors, and stop at the same step.

A process that waits for another in one of torch's collectives is killed after 30 minutes. Nothing here waits for more
than a part of a piece of work, however long the whole takes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from tqdm import tqdm

from sal360.errors import Sal360Error
from training.config import is_started_by_torchrun, process_number

Result = TypeVar("Result")

_PER_ROUND = 4
"""Number of items that each process measures between two exchanges of results."""
_ASK_EVERY_S = 10.0
"""Time after which the first process tells those who wait that it is still at work."""


def in_shares(count: int, measure: Callable[[int], Result], description: str) -> list[Result]:
    """`measure(0)` to `measure(count − 1)` in order, computed by all training processes and returned to each of them.

    The first process shows the progress. Call it in all processes, or in one that trains alone.

    Args:
        count: number of items.
        measure: from the index of an item to a result that can be pickled.
        description: what happens, for the progress bar.
    """
    rank, world = _place()
    each = _PER_ROUND if world > 1 else 1
    results: list[Result] = []
    hidden = None if rank == 0 else True
    with tqdm(total=count, desc=description, leave=False, disable=hidden) as bar:
        for first in range(0, count, each * world):
            stop = min(count, first + each * world)
            parts = gathered([measure(index) for index in range(first + rank, stop, world)])
            results += [parts[index % world][index // world] for index in range(stop - first)]
            bar.update(stop - first)
    return results


def gathered(part: list[Result]) -> list[list[Result]]:
    """The lists of all processes, by their rank."""
    world = _place()[1]
    if world == 1:
        return [part]
    parts: list[list[Result]] = [[] for _ in range(world)]
    dist.all_gather_object(parts, part)
    return parts


def _place() -> tuple[int, int]:
    """Index of this process, and number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def in_threads(count: int, work: Callable[[int], Result], threads: int = 0) -> Iterator[Result]:
    """`work(0)` to `work(count − 1)` in order, several at once in threads of this process.

    This pays where numpy and OpenCV do most of the work, because they release the interpreter lock.

    Args:
        count: number of items.
        work: from the index of an item to a result.
        threads: number of threads; 0: one for each core that the process may use.
    """
    pool = ThreadPoolExecutor(threads or len(os.sched_getaffinity(0)), "measure")
    try:
        yield from pool.map(work, range(count))
    finally:
        pool.shutdown(cancel_futures=True)  # after an error, the items that have not begun are left out


def first_process_does(fabric: Fabric, work: Callable[[], Result]) -> Result:
    """The result of `work`, which the first process does while the others wait, however long it takes.

    Raises:
        SystemExit: in the other processes, if it fails; the first one raises the error itself.
    """
    if fabric.world_size == 1:
        return work()
    if fabric.global_rank > 0:
        while not fabric.broadcast(True):
            pass
        succeeded, result = fabric.broadcast((True, None))
        if not succeeded:
            raise SystemExit(2)
        return result  # type: ignore[return-value]  # from the first process
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(work)
        while not fabric.broadcast(bool(wait([future], _ASK_EVERY_S).done)):
            pass
    failed = future.exception() is not None
    fabric.broadcast((not failed, None if failed else future.result()))
    return future.result()


def errors_once(main: Callable[[], int | None]) -> Callable[[], int | None]:
    """A command's `main` for several processes: an error that all of them find is reported by one.

    The others wait before they report it. Meanwhile torchrun, which has seen the first one end, ends them; if only one
    process failed, its error is reported a little later.
    """

    def run() -> int | None:
        try:
            return main()
        except (Sal360Error, OSError, ImportError, MemoryError):
            if (rank := process_number()) and is_started_by_torchrun():
                time.sleep(min(_WAIT_S + _WAIT_LONGER_S * rank, _WAIT_AT_MOST_S))
            raise

    return run


_WAIT_S, _WAIT_LONGER_S, _WAIT_AT_MOST_S = 15.0, 0.5, 40.0
"""Long enough for the first process to end, which takes seconds on a busy machine; each process waits longer than the
one before."""


def end_with_parent() -> None:
    """Call in a child process: when its parent ends, even by SIGKILL, it gets SIGTERM, which leaves a checkpoint.

    A second start would otherwise train in the same folder at the same time.
    """
    with contextlib.suppress(AttributeError):  # only Linux has the call
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


_PR_SET_PDEATHSIG = 1


class StopRequest:
    """SIGTERM or Ctrl-C as a request to stop after a step, the same one in all processes.

    A second signal ends the process at once, as without this class. A signal that is ignored (nohup) stays ignored.
    Enter it before loader processes start: these ignore the signals (`training.data.loader`).
    """

    def __init__(self, fabric: Fabric) -> None:
        self._signal = 0
        self._first = fabric.global_rank == 0
        self._before: dict[int, Any] = {}
        # on the CPU, so that the GPU need not be waited for
        self._group: Any = dist.new_group(backend="gloo") if fabric.world_size > 1 else None
        self._asked: tuple[torch.Tensor, Any] | None = None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # only this one may set handlers
            for number in (signal.SIGTERM, signal.SIGINT):
                handler = signal.getsignal(number)
                if handler is not signal.SIG_IGN:
                    self._before[number] = handler
                    signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _remember(self, number: int, _: FrameType | None) -> None:
        self._signal = number
        self._restore()
        if self._first:
            print("stopping after this step, with a checkpoint; once more stops at once", file=sys.stderr)

    def after_step(self) -> int:
        """The signal on which to stop after this step, 0: none. Call it in all processes after every step.

        With several processes the answer is the one of the step before, so that none waits for the others.
        """
        if self._group is None:
            return self._signal
        before, request = self._asked, torch.tensor([self._signal])
        self._asked = (request, dist.all_reduce(request, dist.ReduceOp.MAX, group=self._group, async_op=True))
        if before is None:
            return 0
        before[1].wait()
        return int(before[0])
