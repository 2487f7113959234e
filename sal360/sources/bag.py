"""Recorded bags (rosbag2 with MCAP or sqlite3, ROS 1): their messages, and the frames among them."""

from __future__ import annotations

import contextlib
import shutil
import struct
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from sal360.errors import DataError, FrameError
from sal360.images import decode_message
from sal360.sources.frame import BadFrame, Frame

RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
STORAGE_SUFFIXES = (".mcap", ".db3")
BAG_SUFFIXES = (*STORAGE_SUFFIXES, ".bag")
_REMEDIES = {
    ".mcap": "try `mcap recover`, or copy the recording again",
    ".db3": "try `sqlite3 BAG .recover`, or copy the recording again",
    ".bag": "run `rosbag reindex` on it, or copy the recording again",
    "": "run `ros2 bag reindex` on it, or copy the recording again",
}


@dataclass(frozen=True)
class Topic:
    """One topic of a bag."""

    type: str
    """Message type as ROS 2 writes it: sensor_msgs/msg/Image."""
    count: int
    """Number of recorded messages."""


@dataclass(frozen=True, eq=False)
class BagMessage:
    """One recorded message, not yet decoded."""

    topic: str
    type: str
    """Message type as ROS 2 writes it, also for ROS 1 bags: sensor_msgs/msg/Image."""
    recorded_ns: int
    """When the recorder received it: nanoseconds since the Unix epoch."""
    data: bytes
    """CDR, or the ROS 1 serialisation."""
    ros1: bool

    def decode(self) -> Any:
        """The message's fields as attributes.

        Raises:
            FrameError: the bytes are not a message of this type (reason "bad_message").
        """
        try:
            return _deserialised(self.data, self.type, ros1=self.ros1)
        except Exception as error:  # arbitrary bytes raise arbitrary exceptions
            raise FrameError(
                f"a message of {len(self.data)} bytes on {self.topic} cannot be decoded ({_first_line(error)})",
                "record the topic again",
                expected=f"a {self.type}",
                reason="bad_message",
            ) from None

    def ros2_bytes(self) -> bytes:
        """The message as ROS 2 sends it: CDR in the recorded byte order.

        Raises:
            FrameError: see `decode`.
        """
        return _ros1_to_cdr(self.decode(), self.type) if self.ros1 else self.data


class Bag:
    """An open bag; a `with` block closes it.

    Raises:
        DataError: the path does not exist, or the bag cannot be read at all.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.damage = ""
        """What is wrong with a bag that can be read only in part; "" for a whole one."""
        self._stack = contextlib.ExitStack()
        if not self.path.exists():
            raise DataError(f"{self.path} does not exist", "check the path of the bag")
        try:
            self._readers = self._open()
        except ModuleNotFoundError as error:
            raise DataError(
                f"the Python module {error.name}, which reads bags, is missing", "pip install rosbags"
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
        """The messages of these topics in recording order.

        Raises:
            DataError: at the end of what can be read of a damaged bag.
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
            except Exception as error:  # damaged bytes raise arbitrary exceptions
                raise self._unreadable(error, f"after {count} messages") from None
        if self.damage:
            raise DataError(f"{self.path} {self.damage}, after {count} messages", _REMEDIES[".mcap"])

    def _open(self) -> list[Any]:
        if not self.path.is_dir():
            return [self._open_file(self.path)]
        if (self.path / "metadata.yaml").exists():
            try:
                return [self._open_rosbag2(self.path)]
            except DataError:
                if not _storage_files(self.path):
                    raise
        # a recorder that crashed leaves no metadata; the storage files hold the same information
        files = _storage_files(self.path)
        if not files:
            raise DataError(
                f"the folder {self.path} does not hold a bag",
                "choose the folder that ros2 bag record made",
                expected="metadata.yaml, *.mcap or *.db3",
            )
        # by time: sorted as text, part 10 of a split recording would come before part 2
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
            self.damage = "is cut off (the recorder did not close it, or it was not copied completely)"
            return reader

    def _open_rosbag2(self, path: Path) -> Any:
        from rosbags.rosbag2 import Reader

        return self._entered(Reader(path), path)

    def _entered(self, reader: Any, path: Path) -> Any:
        try:
            return self._stack.enter_context(reader)
        except Exception as error:  # damaged bytes raise arbitrary exceptions
            raise self._unreadable(error, path=path) from None

    def _unreadable(self, error: Exception, where: str = "", path: Path | None = None) -> DataError:
        path = path or self.path
        said = f"{path} cannot be read {where}".rstrip()
        return DataError(f"{said} ({_first_line(error)})", _REMEDIES.get(path.suffix.lower(), _REMEDIES[""]))

    def close(self) -> None:
        """Close the files and remove the temporary copies of damaged ones."""
        self._stack.close()

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_bag(path: Path) -> bool:
    """Whether a path looks like a bag: a file by its suffix, a folder by the files in it."""
    if path.is_dir():
        return (path / "metadata.yaml").exists() or bool(_storage_files(path))
    return path.suffix.lower() in BAG_SUFFIXES


def choose_image_topic(bag: Bag, topic: str = "", besides: Collection[str] = ()) -> str:
    """The topic to take frames from: `topic`, or the bag's only image topic when `topic` is "".

    Args:
        besides: image topics that are not frames (ground truth).

    Raises:
        DataError: the bag is empty, the topic is missing or does not carry images, or several topics do.
    """
    listed = ", ".join(f"{name} ({each.type})" for name, each in bag.topics.items()) or "none"
    if not any(each.count for each in bag.topics.values()):
        raise DataError(f"{bag.path} has no messages", "record it again")
    if topic and topic not in bag.topics:
        raise DataError(
            f"{bag.path} has no topic {topic}", "choose another topic", expected=f"one of its topics: {listed}"
        )
    if topic and bag.topics[topic].type not in (RAW, COMPRESSED):
        raise DataError(
            f"{topic} carries {bag.topics[topic].type}",
            f"choose another of: {listed}",
            expected=f"{RAW} or {COMPRESSED}",
        )
    if topic and not bag.topics[topic].count:
        raise DataError(f"{bag.path} has no messages on {topic}", "check that the recorder's QoS matched the camera's")
    if topic:
        return topic
    candidates = [
        name
        for name, each in bag.topics.items()
        if each.type in (RAW, COMPRESSED) and each.count and name not in besides
    ]
    if not candidates:
        raise DataError(
            f"{bag.path} has no images (topics: {listed})",
            "record the camera's topic",
            expected=f"{RAW} or {COMPRESSED}",
        )
    if len(candidates) > 1:
        raise DataError(f"{bag.path} has {len(candidates)} image topics", f"choose the topic {' or '.join(candidates)}")
    return candidates[0]


def stamp_ns(message: BagMessage, fields: Any) -> int:
    """The stamp of the message's header, nanoseconds; the recording time where the sender left the stamp empty."""
    return fields.header.stamp.sec * 10**9 + fields.header.stamp.nanosec or message.recorded_ns


def bag_frames(path: Path, topic: str, *, height_px: int, on_bad_frame: BadFrame) -> Iterator[Frame]:
    """The frames of one topic, which `choose_image_topic` has chosen.

    Raises:
        DataError: at the end of what can be read of a damaged bag.
    """
    with Bag(path) as bag:
        for index, message in enumerate(bag.messages([topic])):
            name = f"{path.stem}_{index:06d}"
            try:
                fields = message.decode()
                image, channels = decode_message(fields, min_height=height_px)
            except FrameError as error:
                on_bad_frame(error, name)
                continue
            yield Frame(image, channels, stamp_ns(message, fields) / 1e9, name)


def _storage_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in STORAGE_SUFFIXES)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@lru_cache(maxsize=2)
def message_types(*, ros1: bool = False) -> Any:
    """The rosbags typestore of the standard messages."""
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.LATEST)


def _deserialised(data: bytes, message_type: str, *, ros1: bool) -> Any:
    """The message's fields as attributes; raises whatever rosbags raises."""
    store = message_types(ros1=ros1)
    return store.deserialize_ros1(data, message_type) if ros1 else store.deserialize_cdr(data, message_type)


def _ros1_to_cdr(message: Any, message_type: str) -> bytes:
    """A decoded ROS 1 message with a header as ROS 2 CDR, whose header has no `seq`."""
    types = message_types().types
    stamp = types["builtin_interfaces/msg/Time"](sec=message.header.stamp.sec, nanosec=message.header.stamp.nanosec)
    header = types["std_msgs/msg/Header"](stamp=stamp, frame_id=message.header.frame_id)
    fields = {name: value for name, value in vars(message).items() if name not in ("header", "__msgtype__")}
    return bytes(message_types().serialize_cdr(types[message_type](header=header, **fields), message_type))


_MAGIC = b"\x89MCAP0\r\n"
_HEADER, _FOOTER, _DATA_END = 0x01, 0x02, 0x0F
_RECORD = struct.Struct("<BQ")
# the end of an MCAP file without summary and checksums, which makes readers scan the data
_ENDING = (
    _RECORD.pack(_DATA_END, 4)
    + struct.pack("<I", 0)
    + _RECORD.pack(_FOOTER, 20)
    + struct.pack("<QQI", 0, 0, 0)
    + _MAGIC
)


def salvage_mcap(path: Path, target: Path) -> Path | None:
    """Copy the complete records of a cut MCAP file to `target` and append a footer.

    Returns:
        `target`; None if `path` is not an MCAP file or lacks even the header record.
    """
    size = path.stat().st_size
    with path.open("rb") as source:
        if source.read(len(_MAGIC)) != _MAGIC:
            return None
        end, records = source.tell(), 0
        while len(head := source.read(_RECORD.size)) == _RECORD.size:
            opcode, length = _RECORD.unpack(head)
            after = end + _RECORD.size + length
            if opcode == _DATA_END or after > size or (records == 0 and opcode != _HEADER):
                break
            end, records = source.seek(after), records + 1
        if records == 0:
            return None
        source.seek(0)
        with target.open("wb") as copy:
            shutil.copyfileobj(source, copy)
            copy.truncate(end)
            copy.seek(end)
            copy.write(_ENDING)
    return target
