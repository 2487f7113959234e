"""Frames out of the image messages of a bag."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from sal360_ros.compressed import decode_compressed
from sal360_ros.encodings import decode_image
from sal360_ros.errors import DataError, FrameError
from sal360_ros.sources.bag import Bag, BagMessage
from sal360_ros.sources.frame import BadFrame, Frame
from sal360_ros.sphere import Array

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
        raise DataError(f"{bag.path} holds no message", "a recording of a 360° camera", "record it again")
    if topic and topic not in bag.topics:
        raise DataError(f"{bag.path} has no topic {topic}", f"one of its topics: {listed}", "choose with --topic")
    if topic and bag.topics[topic].type not in (RAW, COMPRESSED):
        raise DataError(
            f"{topic} carries {bag.topics[topic].type}", f"{RAW} or {COMPRESSED}", f"choose another of: {listed}"
        )
    if topic and not bag.topics[topic].count:
        raise DataError(f"{bag.path} holds no message on {topic}", "recorded frames", "check the recorder's QoS")
    if topic:
        return topic
    candidates = [
        name
        for name, each in bag.topics.items()
        if each.type in (RAW, COMPRESSED) and each.count and name not in besides
    ]
    if not candidates:
        raise DataError(f"{bag.path} has no pictures (topics: {listed})", f"{RAW} or {COMPRESSED}", "record the camera")
    if len(candidates) > 1:
        raise DataError(
            f"{bag.path} has {len(candidates)} image topics",
            "one to be chosen",
            f"say --topic {' or '.join(candidates)}",
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
