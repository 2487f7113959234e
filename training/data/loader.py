"""Batches by step: the batch of step s depends only on (seed, s), not on processes, workers or restarts.

`StepSampler` draws the keys of each batch, `load` loads the batches in loader processes.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from sal360.errors import DataError, Sal360Error, TrainingError, describe_os_error
from training.config import SettingError, process_count

_BATCHES_AHEAD = 4
"""Batches that each loader process keeps ready, in shared memory."""
_SHARED_MEMORY = "/dev/shm"
_END = signal.SIGUSR1
"""Ends a loader process without the error that torch raises for one that is killed."""
Key = tuple[int, int]
"""(epoch, index): a data set's `__getitem__` gets both, so that its random draws differ between epochs."""


class Samples(Protocol):
    """A data set of known size, whose items are tuples of arrays and numbers."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Key, /) -> Any: ...


class StepSampler(Sampler[list[Key]]):
    """The keys of this process's batches for the steps start … stop − 1.

    Each epoch is a permutation of all samples, split into whole batches; the remainder differs from epoch to epoch.
    A batch is split into one share for each process, in order, and a share into `parts` batches.

    Args:
        count: number of samples in the data set.
        batch_size: samples per step, over all processes.
        seed: seed of the permutations.
        start, stop: steps.
        rank, world: index of this process and number of processes.
        parts: batches per step and process (gradient accumulation).

    Raises:
        SettingError: the batch is larger than the data set or cannot be split evenly.
    """

    def __init__(
        self,
        count: int,
        *,
        batch_size: int,
        seed: int,
        start: int,
        stop: int,
        rank: int = 0,
        world: int = 1,
        parts: int = 1,
    ) -> None:
        self.count, self.batch_size, self.seed, self.start, self.stop = count, batch_size, seed, start, stop
        self.rank, self.world, self.parts = rank, world, parts
        self.steps_per_epoch = steps_per_epoch(count, batch_size)
        require_whole_parts(batch_size, parts, world)

    def __len__(self) -> int:
        return (self.stop - self.start) * self.parts

    def __iter__(self) -> Iterator[list[Key]]:
        share, shuffled = self.batch_size // self.world, -1
        for step in range(self.start, self.stop):
            epoch, place = divmod(step, self.steps_per_epoch)
            if epoch != shuffled:
                order = np.random.default_rng((self.seed, epoch)).permutation(self.count)
                shuffled = epoch
            first = place * self.batch_size + self.rank * share
            for part in order[first : first + share].reshape(self.parts, -1):  # (parts, share / parts)
                yield [(epoch, int(index)) for index in part]


def require_whole_parts(batch_size: int, parts: int, world: int) -> None:
    """Refuse a batch that cannot be split evenly over `world` processes and `parts` parts in each.

    Raises:
        SettingError: naming `batch_size` and `accumulate`, with the nearest batch sizes that can.
    """
    unit = world * parts
    below = batch_size // unit * unit
    if below != batch_size:
        nearest = f"{below} or {below + unit}" if below else f"{unit}"
        raise SettingError(
            {"batch_size": batch_size, "accumulate": parts},
            f"a batch_size of {nearest}, a multiple of {world} processes x {parts} parts",
        )


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Number of whole batches in one pass over `count` samples.

    Raises:
        SettingError: there is none.
    """
    if batch_size > count:
        raise SettingError({"batch_size": batch_size}, f"at most the {count} samples of the data")
    return count // batch_size


def load(samples: Samples, sampler: StepSampler, workers: int) -> Iterator[Any]:
    """The sampler's batches, collated, loaded ahead by `workers` processes (0: none).

    One loader serves the whole run, so that epochs need not wait for loader processes to start.

    Raises:
        DataError: as the data set raised it, even in a loader process.
        SettingError: shared memory is too small for the loader processes.
        TrainingError: a loader process died.
    """
    keys = next(iter(sampler), None)
    if workers and keys:
        sample = _Reporting(samples)[keys[0]]
        require_shared_memory(len(keys) * _bytes_of(sample), workers)
    return raise_failures(
        DataLoader(_Reporting(samples), batch_sampler=sampler, collate_fn=collate_or_fail, **loader_options(workers))
    )


def loader_options(workers: int) -> dict[str, Any]:
    """Options common to all DataLoaders."""
    return {
        "num_workers": workers,
        "pin_memory": torch.cuda.is_available(),
        "prefetch_factor": _BATCHES_AHEAD if workers else None,
        "worker_init_fn": _start_loader,
        "generator": torch.Generator(),  # otherwise a loader draws from the training's generator when it starts
    }


def require_shared_memory(batch_bytes: int, workers: int) -> None:
    """Refuse loader processes whose batches do not fit into shared memory: they would be killed, or hang.

    Args:
        batch_bytes: size of a batch of one process.
        workers: number of its loader processes.

    Raises:
        SettingError: naming `workers`.
    """
    if not workers or not os.path.isdir(_SHARED_MEMORY):  # macOS has no such folder
        return
    processes = process_count("LOCAL_WORLD_SIZE")
    needed = processes * (workers * _BATCHES_AHEAD + 2) * batch_bytes  # two are in use by the training
    free = shutil.disk_usage(_SHARED_MEMORY).free
    if needed > free:
        megabytes = -(-needed // 10**6)
        raise SettingError(
            {"workers": workers},
            f"0, or {megabytes} MB free in {_SHARED_MEMORY}, which has {free // 10**6} MB"
            f" (containers: --shm-size={2 * megabytes}m)",
        )


def _bytes_of(sample: Any) -> int:
    """Number of bytes that a sample takes in a batch."""
    return sum(part.nbytes if isinstance(part, np.ndarray) else 8 for part in sample)


class Failure(NamedTuple):
    """An expected error passed out of a loader process; torch would turn it into the text of a traceback."""

    found: str
    remedy: str
    expected: str

    @classmethod
    def of(cls, error: Sal360Error) -> Failure:
        """The texts of an error."""
        return cls(error.found, error.remedy, error.expected)


def raise_failures(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches, and raise the error of a `Failure` among them.

    Raises:
        DataError: raised in a loader process.
        TrainingError: a loader process died.
    """
    try:
        for batch in batches:
            if isinstance(batch, Failure):
                raise DataError(batch.found, batch.remedy, expected=batch.expected)
            yield batch
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if "DataLoader worker (pid" not in text:  # others pass on what was raised in a worker
            raise
        raise TrainingError(
            f"a loader process died ({text[:120]})",
            f"give it more memory, and in containers a larger {_SHARED_MEMORY} (--shm-size), or set workers to 0",
        ) from None


def collate_or_fail(items: list[Any]) -> Any:
    """A batch of the items, or the first `Failure` among them."""
    failures = [item for item in items if isinstance(item, Failure)]
    return failures[0] if failures else default_collate(items)


class _Reporting(Dataset[Any]):
    """A data set that returns its expected errors as items."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __getitem__(self, key: Key) -> Any:
        try:
            return self._samples[key]
        except Sal360Error as error:
            return Failure.of(error)
        except OSError as error:
            return Failure(describe_os_error(error), "", "")


def _start_loader(_worker: int) -> None:
    """Keep a loader process to one core, as the others are for training, and let the training process end it.

    Ctrl-C, and the SIGTERM of a scheduler, reach the loaders too; the training still needs them for its last step.
    """
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(_END, lambda *_: os._exit(0))


@atexit.register  # registered after multiprocessing's own function, so it runs first
def _end_loaders() -> None:
    """End the loader processes that are left: multiprocessing would send the SIGTERM that they ignore, and wait."""
    for child in multiprocessing.active_children():
        if child.daemon and child.pid is not None:
            os.kill(child.pid, _END)
