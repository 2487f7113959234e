"""Frames out of the image messages of a bag."""

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
from sal360.images import decode_compressed, decode_image
from sal360.sources.frame import BadFrame, Frame
from sal360.sphere import Array

_MAGIC = b"\x89MCAP0\r\n"
_HEADER, _FOOTER, _DATA_END = 0x01, 0x02, 0x0F
_RECORD = struct.Struct("<BQ")
# no summary and no checksums: readers then scan the data
_ENDING = (
    _RECORD.pack(_DATA_END, 4)
    + struct.pack("<I", 0)
    + _RECORD.pack(_FOOTER, 20)
    + struct.pack("<QQI", 0, 0, 0)
    + _MAGIC
)


def salvage_mcap(path: Path, target: Path) -> Path | None:
    """Copy the whole records of `path` to `target` and end them with a footer.

    Returns:
        `target`, or None where `path` is no MCAP file or holds not even its header.
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


@lru_cache(maxsize=2)
def message_types(*, ros1: bool = False) -> Any:
    """The rosbags typestore of the standard messages."""
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.LATEST)


def deserialise(data: bytes, message_type: str, *, ros1: bool) -> Any:
    """The message's fields as attributes; raises what the library raises."""
    store = message_types(ros1=ros1)
    return store.deserialize_ros1(data, message_type) if ros1 else store.deserialize_cdr(data, message_type)


def serialise(message: Any, message_type: str) -> bytes:
    """A decoded ROS 1 message with a header, serialised for ROS 2: its header has lost the field `seq`."""
    types = message_types().types
    stamp = types["builtin_interfaces/msg/Time"](sec=message.header.stamp.sec, nanosec=message.header.stamp.nanosec)
    header = types["std_msgs/msg/Header"](stamp=stamp, frame_id=message.header.frame_id)
    fields = {name: value for name, value in vars(message).items() if name not in ("header", "__msgtype__")}
    return bytes(message_types().serialize_cdr(types[message_type](header=header, **fields), message_type))


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
            return deserialise(self.data, self.type, ros1=self.ros1)
        except Exception as error:  # any, because the bytes may be anything
            raise FrameError(
                f"{len(self.data)} bytes on {self.topic} do not decode ({_first_line(error)})",
                "record the topic again",
                expected=f"a {self.type}",
                reason="bad_message",
            ) from None

    def ros2_bytes(self) -> bytes:
        """The message serialised as ROS 2 sends it (little-endian or big-endian CDR, as recorded).

        Raises:
            FrameError: see `decode`.
        """
        return serialise(self.decode(), self.type) if self.ros1 else self.data


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
            raise DataError(f"there is no bag {self.path}", "check the path", expected="a recorded bag")
        try:
            self._readers = self._open()
        except ModuleNotFoundError as error:
            raise DataError(
                f"the Python module {error.name} is missing",
                "pip install rosbags",
                expected="the library that reads bags",
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
            raise DataError(
                f"{self.path} {self.damage}, after {count} messages", _REMEDIES[".mcap"], expected="a whole bag"
            )

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
                f"the folder {self.path} holds no bag",
                "choose the bag's own folder",
                expected="metadata.yaml, *.mcap or *.db3",
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
            f"{said} ({_first_line(error)})", _REMEDIES.get(path.suffix.lower(), _REMEDIES[""]), expected="a whole bag"
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


RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


def choose_image_topic(bag: Bag, topic: str = "", besides: Collection[str] = ()) -> str:
    """The topic to take frames from: `topic`, or the only one with pictures when that is "".

    Args:
        besides: topics with pictures that are no frames (ground truth).

    Raises:
        DataError: the bag is empty, or has no such topic, or it holds no pictures, or there is a choice to be made.
    """
    listed = ", ".join(f"{name} ({each.type})" for name, each in bag.topics.items()) or "none"
    if not any(each.count for each in bag.topics.values()):
        raise DataError(f"{bag.path} holds no message", "record it again", expected="a recording of a 360° camera")
    if topic and topic not in bag.topics:
        raise DataError(
            f"{bag.path} has no topic {topic}", "choose with --topic", expected=f"one of its topics: {listed}"
        )
    if topic and bag.topics[topic].type not in (RAW, COMPRESSED):
        raise DataError(
            f"{topic} carries {bag.topics[topic].type}",
            f"choose another of: {listed}",
            expected=f"{RAW} or {COMPRESSED}",
        )
    if topic and not bag.topics[topic].count:
        raise DataError(
            f"{bag.path} holds no message on {topic}", "check the recorder's QoS", expected="recorded frames"
        )
    if topic:
        return topic
    candidates = [
        name
        for name, each in bag.topics.items()
        if each.type in (RAW, COMPRESSED) and each.count and name not in besides
    ]
    if not candidates:
        raise DataError(
            f"{bag.path} has no pictures (topics: {listed})", "record the camera", expected=f"{RAW} or {COMPRESSED}"
        )
    if len(candidates) > 1:
        raise DataError(
            f"{bag.path} has {len(candidates)} image topics",
            f"say --topic {' or '.join(candidates)}",
            expected="one to be chosen",
        )
    return candidates[0]


def decode_picture(fields: Any, message_type: str, *, min_height: int = 0) -> tuple[Array, str]:
    """The picture of a decoded image message, (H, W, 3) uint8, and its channel order; see `encodings`.

    Raises:
        FrameError: with the reason.
    """
    if message_type == COMPRESSED:
        return decode_compressed(fields.data, min_height=min_height)
    return decode_image(
        fields.encoding, fields.height, fields.width, fields.step, fields.data, bool(fields.is_bigendian)
    )


def stamp_ns(message: BagMessage, fields: Any) -> int:
    """The stamp of the message's header; where the sender left it empty, when it was recorded."""
    return fields.header.stamp.sec * 10**9 + fields.header.stamp.nanosec or message.recorded_ns


def bag_frames(path: Path, topic: str, *, height_px: int, on_bad_frame: BadFrame) -> Iterator[Frame]:
    """The frames of one topic; the topic must have been chosen by `choose_image_topic`.

    Raises:
        DataError: at the point where a damaged bag cannot be read on.
    """
    with Bag(path) as bag:
        for index, message in enumerate(bag.messages([topic])):
            name = f"{path.stem}_{index:06d}"
            try:
                fields = message.decode()
                image, channels = decode_picture(fields, message.type, min_height=height_px)
            except FrameError as error:
                on_bad_frame(error, name)
                continue
            yield Frame(image, channels, stamp_ns(message, fields) / 1e9, name)
