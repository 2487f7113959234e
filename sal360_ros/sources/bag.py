"""Recorded bags behind one reader: rosbag2 (sqlite3, MCAP), folders with and without metadata, ROS 1. No ROS.

A recording that a crash cut short is read up to the cut, and then said to be cut.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from sal360_ros.errors import DataError, FrameError
from sal360_ros.sources.bag_types import decode_message, ros2_bytes
from sal360_ros.sources.mcap_salvage import salvage_mcap

STORAGE_SUFFIXES = (".mcap", ".db3")
BAG_SUFFIXES = (*STORAGE_SUFFIXES, ".bag")
_REMEDIES = {
    ".mcap": "try `mcap recover`, or copy the recording again",
    ".db3": "try `sqlite3 BAG .recover`, or copy the recording again",
    ".bag": "run `rosbag reindex` on it, or copy the recording again",
    "": "run `ros2 bag reindex` on it, or copy the recording again",
}


def is_bag(path: Path) -> bool:
    """Whether a path is a bag by its name, or a folder that holds one."""
    if path.is_dir():
        return (path / "metadata.yaml").exists() or bool(_storage_files(path))
    return path.suffix.lower() in BAG_SUFFIXES


@dataclass(frozen=True, eq=False)
class BagMessage:
    """One recorded message, not yet decoded."""

    topic: str
    type: str
    """As ROS 2 writes it, also out of a ROS 1 bag: sensor_msgs/msg/Image."""
    recorded_ns: int
    """When the recorder received it, Unix epoch."""
    data: bytes
    ros1: bool

    def decode(self) -> Any:
        """The message's fields as attributes.

        Raises:
            FrameError: its bytes are no message of its type (reason "bad_message").
        """
        try:
            return decode_message(self.data, self.type, ros1=self.ros1)
        except Exception as error:  # any, because the bytes may be anything
            raise FrameError(
                f"{len(self.data)} bytes on {self.topic} do not decode ({_first_line(error)})",
                f"a {self.type}",
                "record the topic again",
                reason="bad_message",
            ) from None

    def ros2_bytes(self) -> bytes:
        """The message serialised as ROS 2 sends it (little-endian or big-endian CDR, as recorded).

        Raises:
            FrameError: see `decode`.
        """
        return ros2_bytes(self.decode(), self.type) if self.ros1 else self.data


@dataclass(frozen=True)
class Topic:
    """What a bag holds of one topic."""

    type: str
    count: int


class Bag:
    """An open bag; a `with` block closes it.

    Raises:
        DataError: there is nothing at the path, or nothing of it can be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.damage = ""
        """What is wrong with a bag that can be read only in part; "" of a whole one."""
        self._stack = contextlib.ExitStack()
        if not self.path.exists():
            raise DataError(f"there is no bag {self.path}", "a recorded bag", "check the path")
        try:
            self._readers = self._open()
        except ModuleNotFoundError as error:
            raise DataError(
                f"the Python module {error.name} is missing", "the library that reads bags", "pip install rosbags"
            ) from None
        except BaseException:
            self._stack.close()
            raise
        counts: Counter[str] = Counter()
        types: dict[str, str] = {}
        for reader in self._readers:
            for connection in reader.connections:
                counts[connection.topic] += connection.msgcount
                types[connection.topic] = connection.msgtype
        self.topics = {name: Topic(types[name], counts[name]) for name in sorted(types)}

    def messages(self, topics: Collection[str]) -> Iterator[BagMessage]:
        """The messages of these topics in the order of their recording.

        Raises:
            DataError: at the point where a damaged bag cannot be read on.
        """
        count = 0
        for reader in self._readers:
            connections = [connection for connection in reader.connections if connection.topic in topics]
            if not connections:
                continue
            ros1 = self.path.is_file() and self.path.suffix.lower() == ".bag"
            try:
                for connection, recorded_ns, data in reader.messages(connections):
                    yield BagMessage(connection.topic, connection.msgtype, recorded_ns, data, ros1)
                    count += 1
            except Exception as error:  # damaged bytes surface as nearly any exception
                raise self._unreadable(error, f"after {count} messages") from None
        if self.damage:
            raise DataError(f"{self.path} {self.damage}, after {count} messages", "a whole bag", _REMEDIES[".mcap"])

    def _open(self) -> list[Any]:
        if not self.path.is_dir():
            return [self._open_file(self.path)]
        if (self.path / "metadata.yaml").exists():
            try:
                return [self._open_rosbag2(self.path)]
            except DataError:
                if not _storage_files(self.path):
                    raise
        # the metadata only repeat what the storage files say; a recorder that crashed has not written them
        files = _storage_files(self.path)
        if not files:
            raise DataError(
                f"the folder {self.path} holds no bag", "metadata.yaml, *.mcap or *.db3", "choose the bag's own folder"
            )
        # by time: as texts, the names of split recordings put part 10 before part 2
        return sorted(map(self._open_file, files), key=lambda reader: reader.start_time)

    def _open_file(self, path: Path) -> Any:
        if path.suffix.lower() == ".bag":
            from rosbags.rosbag1 import Reader

            return self._entered(Reader(path), path)
        try:
            return self._open_rosbag2(path)
        except DataError:
            if path.suffix.lower() != ".mcap":
                raise
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="sal360-salvage-")))
            whole = salvage_mcap(path, folder / path.name)
            if whole is None:
                raise
            reader = self._open_rosbag2(whole)
            self.damage = "is cut off (a recording that was not closed, or a copy that was not finished)"
            return reader

    def _open_rosbag2(self, path: Path) -> Any:
        from rosbags.rosbag2 import Reader

        return self._entered(Reader(path), path)

    def _entered(self, reader: Any, path: Path) -> Any:
        try:
            return self._stack.enter_context(reader)
        except Exception as error:  # damaged bytes surface as nearly any exception
            raise self._unreadable(error, path=path) from None

    def _unreadable(self, error: Exception, where: str = "", path: Path | None = None) -> DataError:
        path = path or self.path
        said = f"{path} cannot be read {where}".rstrip()
        return DataError(
            f"{said} ({_first_line(error)})", "a whole bag", _REMEDIES.get(path.suffix.lower(), _REMEDIES[""])
        )

    def close(self) -> None:
        """Close the files and remove what salvaging wrote."""
        self._stack.close()

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _storage_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in STORAGE_SUFFIXES)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
