"""The frames of a bag as the replay needs them: all of them, the bad ones too, up to where the bag can be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sal360_ros.errors import DataError, FrameError
from sal360_ros.predictor import check_frame
from sal360_ros.sources.bag import Bag, BagMessage
from sal360_ros.sources.bag_images import decode_picture, stamp_ns
from sal360_ros.sphere import Array


@dataclass(frozen=True, eq=False)
class RecordedFrame:
    """One image message of the recording."""

    index: int
    stamp_ns: int
    """Of its header; where that is empty or unreadable, when it was recorded."""
    message: BagMessage
    fields: Any
    """The decoded message; None where its bytes are none."""

    def picture(self) -> tuple[Array, str]:
        """The frame, (H, W, 3) uint8, and its channel order.

        Raises:
            FrameError: it cannot be decoded, or is not equirectangular; the node refuses it for the same reason.
        """
        fields = self.message.decode() if self.fields is None else self.fields
        image, channels = decode_picture(fields, self.message.type)
        check_frame(*image.shape[:2])
        return image, channels


class Recording:
    """One image topic of an open bag.

    Args:
        bag: stays open as long as this is used.
        topic: of image messages, see `sources.bag_images.choose_image_topic`.
    """

    def __init__(self, bag: Bag, topic: str) -> None:
        self.bag = bag
        self.topic = topic
        self.damage: DataError | None = None
        """Why the bag could not be read to its end; known when an iteration has ended."""

    @property
    def type(self) -> str:
        """Type of the topic's messages."""
        return self.bag.topics[self.topic].type

    @property
    def name(self) -> str:
        """The bag's name without suffix."""
        return self.bag.path.stem

    def messages(self, topic: str) -> Iterator[BagMessage]:
        """The messages of one topic; ends where a damaged bag cannot be read on."""
        try:
            yield from self.bag.messages([topic])
        except DataError as error:
            self.damage = error

    def frames(self) -> Iterator[RecordedFrame]:
        """The frames in the order of their recording; ends where a damaged bag cannot be read on."""
        for index, message in enumerate(self.messages(self.topic)):
            try:
                fields = message.decode()
            except FrameError:
                yield RecordedFrame(index, message.recorded_ns, message, None)
            else:
                yield RecordedFrame(index, stamp_ns(message, fields), message, fields)
