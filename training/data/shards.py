"""Panoramas in tar shards, for data sets too large for a disk or file system; the same views as from a folder.

    python -m training.data.shards --data.root PANORAMAS --out SHARDS

writes SHARDS/000000.tar … and, last, SHARDS/shards.json (`write_shards`). `--data.root SHARDS` (a folder, or an address
that webdataset opens, such as https://host/path) then trains on them (`open_shards`, `ShardedViews`). A loader process
holds one shard in memory at a time.
"""

from __future__ import annotations

import itertools
import json
import sys
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm

from sal360.arrays import Pixels
from sal360.errors import DataError, one_line_errors
from sal360.files import write_text, written_beside
from training.config import read_config, require_at_least, require_path
from training.data.loader import (
    Failure,
    collate_or_fail,
    loader_options,
    raise_failures,
    require_shared_memory,
    require_whole_parts,
    steps_per_epoch,
)
from training.data.panoramas import PanoramaConfig, open_panoramas, read_panorama
from training.data.views import ViewPair
from training.loop import LoopConfig

INDEX = "shards.json"
_MOST_IN_A_SHARD = 1_000_000
"""Panoramas in one shard, which is in memory as a whole; a broken index may state any number."""
_UNREADABLE = (OSError, ValueError, tarfile.TarError, EOFError, zlib.error)
"""What a broken shard raises: it may look like a compressed one."""


@dataclass(frozen=True)
class Shards:
    """The tar files under a root, and the number of panoramas in each."""

    root: str
    names: tuple[str, ...]
    counts: tuple[int, ...]

    def __len__(self) -> int:
        """Number of panoramas in all shards."""
        return sum(self.counts)

    def read(self, shard: int) -> list[tuple[int, str, bytes]]:
        """Index among all panoramas, name and encoded bytes of every panorama in one shard.

        Raises:
            DataError: it is missing or damaged, or the number of its panoramas differs from the index.
        """
        from webdataset.tariterators import group_by_keys, tar_file_expander  # starts slowly

        url = f"{self.root}/{self.names[shard]}"
        try:
            with _opened(url) as stream:
                files = tar_file_expander([{"url": url, "stream": stream}])
                samples = [_picture(sample, url) for sample in group_by_keys(files)]
        except _UNREADABLE as error:
            reason = getattr(error, "strerror", None) or (error.args or (type(error).__name__,))[0]
            raise DataError(f"{url} cannot be read ({reason})", "copy it again", expected="a complete shard") from None
        if len(samples) != self.counts[shard]:
            expected = f"{self.counts[shard]}, as {INDEX} states"
            raise DataError(f"{url} holds {len(samples)} panoramas", "copy it again", expected=expected)
        first = sum(self.counts[:shard])
        if [index for index, *_ in samples] != list(range(first, first + len(samples))):
            expected = f"numbers {first} to {first + len(samples) - 1}, by the counts in {INDEX}"
            raise DataError(f"{url} is another shard, or of another data set", "copy it again", expected=expected)
        return samples

    def first(self, count: int, height: int) -> list[Pixels]:
        """The first `count` panoramas, (height, 2 * height, 3) uint8 RGB each."""
        samples = itertools.chain.from_iterable(map(self.read, range(len(self.names))))  # no more shards than needed
        return [read_panorama(name, height, data) for _, name, data in itertools.islice(samples, count)]


def open_shards(root: str) -> Shards | None:
    """The shards under a root, or None if it has none.

    Raises:
        DataError: the index cannot be read.
    """
    if not _is_remote(root) and not (Path(root) / INDEX).is_file():
        return None
    try:
        with _opened(f"{root}/{INDEX}") as file:
            entries = json.loads(file.read())["shards"]
        if not entries:
            raise ValueError("it has no shards")
        shards = Shards(
            root, tuple(str(each["name"]) for each in entries), tuple(int(each["count"]) for each in entries)
        )
        if not all(1 <= count <= _MOST_IN_A_SHARD for count in shards.counts):
            raise ValueError(f"it states counts from {min(shards.counts)} to {max(shards.counts)}")
    except (*_UNREADABLE, LookupError, TypeError, ArithmeticError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{root}/{INDEX} cannot be read ({reason})", "write or copy the shards again") from None
    return shards


def _is_remote(address: str) -> bool:
    return "://" in address


def _opened(address: str) -> Any:
    """A file, or what webdataset opens at an address; it would take the beginning of "part:1/x.tar" for a protocol."""
    if not _is_remote(address):
        return open(address, "rb")
    from webdataset import gopen  # starts slowly

    return gopen(address)


class ShardedViews(IterableDataset[Any]):
    """Batches of view pairs and indices for the steps start … stop − 1, the same after every restart.

    The order of an epoch depends on (seed, epoch) alone: all shards in random order, each with its panoramas in random
    order, as far as they make whole batches. Every reader (a loader process of a training process) makes a continuous
    part of it, and reads only the shards in which that lies. So an epoch has the same panoramas, each once, and the
    same number of steps for every number of processes and workers, and the remainder differs from epoch to epoch.

    Args:
        shards: the panoramas.
        views: makes the view pairs.
        height: rows at which panoramas are read, pixels.
        loop: batch size, parts, workers and seed.
        rank, world: index of this process and number of processes.
        start, stop: steps.

    Raises:
        SettingError: the batch is larger than the data or cannot be split evenly.
    """

    def __init__(
        self,
        shards: Shards,
        views: ViewPair,
        height: int,
        loop: LoopConfig,
        *,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        stop: int = 0,
    ) -> None:
        self.shards, self.views, self.height, self.seed, self.rank = shards, views, height, loop.seed, rank
        self.workers = loop.workers
        self.lanes = max(1, loop.workers)  # readers of this process
        self.steps_per_epoch = steps_per_epoch(len(shards), loop.batch_size)
        require_whole_parts(loop.batch_size, loop.accumulate, world)
        self.size = loop.batch_size // (world * loop.accumulate)
        self.batches_per_epoch = self.steps_per_epoch * loop.accumulate
        self.start, self.stop = start * loop.accumulate, stop * loop.accumulate  # counted in batches

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        position = self.start + (info.id if info else 0)  # a loader takes the batches of its workers in turn
        while position < self.stop:
            epoch, place = divmod(position, self.batches_per_epoch)
            lane = place % self.lanes
            samples = self._samples(epoch, *self._part(lane, place // self.lanes))
            end = min(self.stop, (epoch + 1) * self.batches_per_epoch)
            while position < end:
                yield collate_or_fail([next(samples) for _ in range(self.size)])
                position += self.lanes

    def _part(self, lane: int, done: int) -> tuple[int, int]:
        """Where in the order of an epoch the batches lane, lane + lanes, … of this process lie, after the first `done`.

        They lie one after the other, so that few shards are read twice.
        """
        each, longer = divmod(self.batches_per_epoch, self.lanes)  # the first `longer` lanes make one batch more
        first = self.rank * self.batches_per_epoch + lane * each + min(lane, longer)
        return (first + done) * self.size, (first + each + (lane < longer)) * self.size

    def _samples(self, epoch: int, start: int, stop: int) -> Iterator[Any]:
        """Views and index of the panoramas start … stop − 1 in the order of `epoch`; a `Failure` ends the run."""
        before = 0
        for shard in np.random.default_rng((self.seed, epoch)).permutation(len(self.shards.names)):
            count = self.shards.counts[shard]
            low, high = max(start - before, 0), min(stop - before, count)
            before += count
            if low >= high:
                continue
            within = np.random.default_rng((self.seed, epoch, int(shard))).permutation(count)
            try:
                samples = self.shards.read(int(shard))
                for i in within[low:high]:
                    index, name, data = samples[i]
                    view, turned = self.views(read_panorama(name, self.height, data), epoch, index)[:2]
                    yield view, turned, index
            except DataError as error:
                while True:
                    yield Failure.of(error)

    def batches(self) -> Iterator[Any]:
        """The batches, loaded ahead by the loop's workers.

        Raises:
            DataError: a shard is missing or damaged.
            SettingError: shared memory is too small for the loader processes.
            TrainingError: a loader process died.
        """
        rows, columns = self.views.config.height, 2 * self.views.config.height
        require_shared_memory(self.size * 2 * 3 * rows * columns, self.workers)
        return raise_failures(DataLoader(self, batch_size=None, **loader_options(self.workers)))


@dataclass(frozen=True)
class WriteShardsConfig:
    """Settings of `python -m training.data.shards`."""

    data: PanoramaConfig
    """The panoramas to pack."""
    out: str
    """Folder for the shards."""
    per_shard: int = 64
    """Approximate number of panoramas per shard; a loader process holds one shard in memory."""

    def __post_init__(self) -> None:
        require_path("out", self.out, "a folder")
        require_at_least("per_shard", self.per_shard, 1)


def write_shards(config: WriteShardsConfig) -> Shards:
    """Pack the usable panoramas of a folder, unchanged and in random order, into shards of nearly the same size.

    Raises:
        DataError: the folder is unusable (see `open_panoramas`), or `out` already has shards.
        OSError: a shard cannot be written.
    """
    from webdataset import TarWriter  # starts slowly

    out = Path(config.out)
    if (out / INDEX).exists():
        raise DataError(f"{out / INDEX} exists", "choose a folder without shards")
    panoramas = open_panoramas(config.data)
    order = np.random.default_rng(0).permutation(len(panoramas))
    parts = np.array_split(order, -(-len(panoramas) // config.per_shard))
    names = tuple(f"{number:06d}.tar" for number in range(len(parts)))
    index = 0
    for name, part in zip(tqdm(names, unit="shard", disable=None), parts, strict=True):
        with written_beside(out / name) as temporary, open(temporary, "wb") as file, TarWriter(file, mtime=0) as tar:
            for i in part:
                path = Path(panoramas.paths[i])
                tar.write({"__key__": f"{index:09d}", path.suffix[1:].lower(): path.read_bytes()})
                index += 1
    shards = Shards(str(out), names, tuple(len(part) for part in parts))
    entries = [{"name": name, "count": count} for name, count in zip(names, shards.counts, strict=True)]
    write_text(out / INDEX, json.dumps({"shards": entries}, indent=1))
    return shards


def _picture(sample: dict[str, Any], url: str) -> tuple[int, str, bytes]:
    suffix = next(name for name in sample if not name.startswith("_"))
    return int(sample["__key__"]), f"{url}:{sample['__key__']}.{suffix}", sample[suffix]


def main() -> None:
    """Pack a folder of panoramas into tar shards."""
    shards = write_shards(read_config(WriteShardsConfig, "Pack a folder of panoramas into tar shards."))
    print(f"{len(shards)} panoramas in {len(shards.names)} shards in {shards.root}")


if __name__ == "__main__":
    sys.exit(one_line_errors(main))
