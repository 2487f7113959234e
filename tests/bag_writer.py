"""Real bags for tests, written by the library that robots' tools use; a folder's conftest.py takes the fixtures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
BAG_KINDS = ("sqlite3", "mcap", "ros1")


class BagWriter:
    """Writes bags of one kind (sqlite3, mcap or ros1) and the messages for them."""

    def __init__(self, kind: str) -> None:
        from rosbags.typesys import Stores, get_typestore

        self.kind = kind
        self.store = get_typestore(Stores.ROS1_NOETIC if kind == "ros1" else Stores.ROS2_JAZZY)

    def new(self, message_type: str, **fields: Any) -> Any:
        """A message of any standard type."""
        return self.store.types[message_type](**fields)

    def header(self, stamp_ns: int, frame_id: str = "camera") -> Any:
        """A std_msgs/Header."""
        stamp = self.new("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        sequence = {"seq": 0} if self.kind == "ros1" else {}
        return self.new("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id, **sequence)

    def image(self, stamp_ns: int, pixels: np.ndarray, encoding: str, **changes: Any) -> Any:
        """A sensor_msgs/Image of an array (H, W[, C]); `changes` replace single fields."""
        rows = np.ascontiguousarray(pixels).reshape(pixels.shape[0], -1).view(np.uint8)
        fields = {
            "header": self.header(stamp_ns),
            "height": pixels.shape[0],
            "width": pixels.shape[1],
            "encoding": encoding,
            "is_bigendian": 0,
            "step": rows.shape[1],
            "data": rows.reshape(-1),
        }
        return self.new(IMAGE, **{**fields, **changes})

    def compressed(self, stamp_ns: int, bgr: np.ndarray, suffix: str = ".jpg") -> Any:
        """A sensor_msgs/CompressedImage of a BGR array."""
        data = cv2.imencode(suffix, bgr)[1].reshape(-1)
        return self.new(COMPRESSED, header=self.header(stamp_ns), format=suffix.removeprefix("."), data=data)

    def write(self, path: Path, topics: Mapping[str, Sequence[tuple[int, Any]]]) -> Path:
        """Write a bag of (recording time in ns, message) by topic; a topic's type is that of its first message.

        Returns:
            The bag: the file of ROS 1, the folder of the others.
        """
        return self.write_typed(path, {topic: (each[0][1].__msgtype__, each) for topic, each in topics.items()})

    def write_typed(self, path: Path, topics: Mapping[str, tuple[str, Sequence[tuple[int, Any]]]]) -> Path:
        """`write` with types, so that a topic may be empty; bytes instead of a message are written unchanged."""
        with self._open(path) as bag:
            connections = {
                topic: bag.add_connection(topic, message_type, typestore=self.store)
                for topic, (message_type, _) in topics.items()
            }
            entries = [(when, topic, message) for topic, (_, each) in topics.items() for when, message in each]
            for when, topic, message in sorted(entries, key=lambda entry: entry[:2]):
                bag.write(connections[topic], when, self._serialised(message))
        return path

    def _open(self, path: Path) -> Any:
        if self.kind == "ros1":
            from rosbags.rosbag1 import Writer

            return Writer(path)
        from rosbags.rosbag2 import StoragePlugin
        from rosbags.rosbag2 import Writer as Writer2

        plugin = StoragePlugin.MCAP if self.kind == "mcap" else StoragePlugin.SQLITE3
        return Writer2(path, version=9, storage_plugin=plugin)

    def _serialised(self, message: Any) -> bytes:
        if isinstance(message, bytes):
            return message
        serialise = self.store.serialize_ros1 if self.kind == "ros1" else self.store.serialize_cdr
        return bytes(serialise(message, message.__msgtype__))


@pytest.fixture(params=BAG_KINDS)
def any_bag(request: pytest.FixtureRequest) -> BagWriter:
    """A writer of each kind of bag in turn."""
    return BagWriter(request.param)


@pytest.fixture
def mcap_bag() -> BagWriter:
    """A writer of MCAP bags."""
    return BagWriter("mcap")


@pytest.fixture
def sqlite_bag() -> BagWriter:
    """A writer of sqlite3 bags."""
    return BagWriter("sqlite3")


@pytest.fixture
def ros1_bag() -> BagWriter:
    """A writer of ROS 1 bags."""
    return BagWriter("ros1")
