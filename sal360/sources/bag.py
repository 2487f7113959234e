"""Recorded bags (rosbag2 with MCAP or sqlite3, ROS 1): their messages, and the frames among them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from sal360.arrays import Pixels
from sal360.errors import DataError, FrameError, check_is_file
from sal360.images import decode_message
from sal360.sources.bag_files import (
    METADATA,
    Damage,
    Storage,
    bag_name,
    first_line,
    open_files,
    unreadable,
    zstd_decompressed,
)
from sal360.sources.frame import BadFrame, Frame

RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


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
    """Message type as ROS 2 writes it, even for ROS 1 bags: sensor_msgs/msg/Image."""
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
                f"a message of {len(self.data)} bytes on {self.topic} cannot be decoded ({first_line(error)})",
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

    Args:
        path: a rosbag2 folder or its metadata.yaml; a .mcap, .db3 or ROS 1 .bag file, optionally with zstandard.

    Raises:
        DataError: the path does not exist, or the bag cannot be read at all.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        if not path.exists():
            raise DataError(f"{path} does not exist", "check the path of the bag")
        check_is_file(path)
        self.path = path.parent if path.name == METADATA else path
        self.name = bag_name(self.path)
        """Name of the folder or file, without a bag's suffix."""
        self._stack = contextlib.ExitStack()
        try:
            self._files = open_files(self.path, self._stack)
        except BaseException:
            self._stack.close()
            raise
        counts: Counter[str] = Counter()
        types: dict[str, str] = {}
        for storage in self._files.storages:
            for connection in storage.reader.connections:
                counts[connection.topic] += connection.msgcount
                types[connection.topic] = connection.msgtype
        self.topics = {name: Topic(types[name], counts[name]) for name in sorted(types)}
        self.lost_topics = {name: count for name, count in self._files.counted.items() if count and name not in types}
        """Topics that the metadata list and no file holds, with the number of their messages."""
        if not self._files.damage:
            self._files.notes += [
                f"{METADATA} counts {count} messages on {name}, and no file of the bag holds that topic"
                for name, count in self.lost_topics.items()
            ]

    @property
    def notes(self) -> list[str]:
        """Remarks about the bag for the user that do not mean data loss."""
        return self._files.notes

    @property
    def damage(self) -> list[Damage]:
        """Damage that is known before anything is read; empty for a complete bag."""
        return self._files.damage

    def messages(self, topics: Collection[str]) -> Iterator[BagMessage]:
        """The messages of these topics in recording order.

        Raises:
            DataError: at the end of the readable part of a damaged bag.
        """
        damage = list(self.damage)
        count = 0
        for storage in self._files.storages:
            # by topic alone: the QoS in the metadata and in the files may differ
            connections = [each for each in storage.reader.connections if each.topic in topics]
            try:
                for connection, recorded_ns, data in storage.messages(connections) if connections else ():
                    yield _message(connection, recorded_ns, data, storage)
                    count += 1
            except Exception as error:  # damaged bytes raise arbitrary exceptions
                broken = unreadable(storage.path, first_line(error), f"after {count} messages")
                damage.append(Damage(broken.found, broken.remedy))
        expected = sum(max(self._files.counted.get(name, 0), self._count(name)) for name in topics)
        if damage or count < expected:
            raise self._incomplete(damage, count, expected)

    def second_reader(self) -> Bag:
        """The same bag opened again, and closed with this one; iterations over one reader must not overlap."""
        return self._stack.enter_context(Bag(self.path))

    def _count(self, topic: str) -> int:
        return self.topics[topic].count if topic in self.topics else 0

    def _incomplete(self, damage: list[Damage], count: int, expected: int) -> DataError:
        found = [each.found for each in damage] or [f"{self.path} holds fewer messages than its index counts"]
        remedies = dict.fromkeys(each.remedy for each in damage) or ["copy the recording again"]
        read = f"{count} of {expected} messages were read" if count < expected else f"{count} messages were read"
        return DataError("; ".join([*found, read]), ", and ".join(remedies))

    def close(self) -> None:
        """Close the files and remove the temporary copies of damaged or compressed ones."""
        self._stack.close()

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _message(connection: Any, recorded_ns: int, data: bytes, storage: Storage) -> BagMessage:
    with contextlib.suppress(ValueError):  # damaged data are passed on as they are, and fail when decoded
        data = zstd_decompressed(data)  # one by one, if the recorder compressed messages
    return BagMessage(connection.topic, connection.msgtype, min(recorded_ns, 2**63 - 1), data, storage.ros1)


def choose_image_topic(bag: Bag, topic: str = "", besides: Collection[str] = ()) -> str:
    """The topic to take frames from: `topic`, or the bag's only image topic if `topic` is "".

    Args:
        besides: image topics that do not carry frames (ground truth).

    Raises:
        DataError: the bag is empty, the topic is missing or does not carry images, or several topics do.
    """
    try:
        return _chosen_topic(bag, topic, besides)
    except DataError as error:
        if not bag.damage:
            raise
        found = "; ".join(each.found for each in bag.damage)
        remedy = ", and ".join(dict.fromkeys(each.remedy for each in bag.damage))
        raise DataError(f"{found}; in what can be read, {error.found}", remedy) from None


def _chosen_topic(bag: Bag, topic: str, besides: Collection[str]) -> str:
    listed = ", ".join(f"{name} ({each.type})" for name, each in bag.topics.items()) or "none"
    if not any(each.count for each in bag.topics.values()):
        raise DataError(f"{bag.path} has no messages", "record it again")
    if topic in bag.lost_topics:
        count = bag.lost_topics[topic]
        raise DataError(
            f"the {count} messages of {bag.path} on {topic} are in none of its files", "copy the recording again"
        )
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
    """The stamp of the message's header, nanoseconds; the recording time if the sender left the stamp empty."""
    return fields.header.stamp.sec * 10**9 + fields.header.stamp.nanosec or message.recorded_ns


def image_message(image_bgr: Pixels, stamp_ns: int) -> Any:
    """A deserialised sensor_msgs/Image of a picture (H, W, 3) uint8 BGR."""
    height, width = image_bgr.shape[:2]
    data = np.ascontiguousarray(image_bgr).reshape(-1)  # (H, W, 3) → (3HW,)
    return message_types().types[RAW](
        header=header_message(stamp_ns),
        height=height,
        width=width,
        encoding="bgr8",
        is_bigendian=0,
        step=3 * width,
        data=data,
    )


def jpeg_message_bytes(image_bgr: Pixels, stamp_ns: int) -> bytes:
    """A serialised sensor_msgs/CompressedImage of a picture (H, W, 3) uint8 BGR."""
    jpeg = cv2.imencode(".jpg", image_bgr, (cv2.IMWRITE_JPEG_QUALITY, 95))[1].reshape(-1)  # (n, 1) → (n,)
    store = message_types()
    message = store.types[COMPRESSED](header=header_message(stamp_ns), format="jpeg", data=jpeg)
    return bytes(store.serialize_cdr(message, COMPRESSED))


def header_message(stamp_ns: int, frame_id: str = "") -> Any:
    """A deserialised std_msgs/Header; a stamp after 2038, which it cannot hold, becomes 0."""
    types = message_types().types
    seconds, nanoseconds = divmod(stamp_ns, 10**9)
    if not 0 <= seconds < 2**31:
        seconds = nanoseconds = 0
    stamp = types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)


def bag_frames(path: Path, topic: str, *, height_px: int, max_pixels: int, on_bad_frame: BadFrame) -> Iterator[Frame]:
    """The frames of one topic, as chosen by `choose_image_topic`.

    Raises:
        DataError: at the end of the readable part of a damaged bag.
    """
    with Bag(path) as bag:
        for index, message in enumerate(bag.messages([topic])):
            name = f"{bag.name}_{index:06d}"
            try:
                fields = message.decode()
                image, channels = decode_message(fields, min_height=height_px, max_pixels=max_pixels)
            except FrameError as error:
                on_bad_frame(error, name)
                continue
            yield Frame(image, channels, stamp_ns(message, fields) / 1e9, name)


@lru_cache(maxsize=2)
def message_types(*, ros1: bool = False) -> Any:
    """The rosbags typestore of the standard messages."""
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.LATEST)


def _deserialised(data: bytes, message_type: str, *, ros1: bool) -> Any:
    """The message's fields as attributes; passes on any exception of rosbags."""
    store = message_types(ros1=ros1)
    return store.deserialize_ros1(data, message_type) if ros1 else store.deserialize_cdr(data, message_type)


def _ros1_to_cdr(message: Any, message_type: str) -> bytes:
    """A decoded ROS 1 message with a header as ROS 2 CDR, whose header has no `seq`."""
    types = message_types().types
    header = header_message(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec, message.header.frame_id)
    fields = {name: value for name, value in vars(message).items() if name not in ("header", "__msgtype__")}
    return bytes(message_types().serialize_cdr(types[message_type](header=header, **fields), message_type))
