"""A recording as the replay needs it: its frames, the bad ones too, and what became of each of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from sal360.errors import DataError, FrameError
from sal360.outputs.smoothing import TemporalSmoothing
from sal360.predictor import Predictor, check_frame
from sal360.sources.bag import Bag, BagMessage, decode_picture, stamp_ns
from sal360.sphere import Array


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


@dataclass(frozen=True, eq=False)
class ReplayedFrame:
    """What became of one frame; times are milliseconds, None where the run does not know them."""

    frame: RecordedFrame
    picture: tuple[Array, str] | None
    """The frame, (H, W, 3) uint8, and its channel order; None of a rejected frame."""
    density: Array | None = None
    """The map, (h, w) float32, relative to uniform; None where there was no answer."""
    reason: str = ""
    """Why the frame was rejected ("corrupt_jpeg"), "" where it was not."""
    latency_ms: float | None = None
    """From the frame's publication to the map's arrival at a subscriber."""
    age_at_publish_ms: float | None = None
    """From the frame's publication to the map's."""
    cost_ms: float | None = None
    """Wall time of decoding, predicting and smoothing."""
    cpu_ms: float | None = None
    """Processor time of the same, all threads together."""

    @property
    def status(self) -> str:
        """answered, rejected or dropped."""
        if self.density is not None:
            return "answered"
        return "rejected" if self.reason else "dropped"


def predicted_frames(
    recording: Recording, predictor: Predictor, smoothing: TemporalSmoothing | None = None
) -> Iterator[ReplayedFrame]:
    """An answer to every frame, computed here, one after the other: deterministic, no transport, no queue.

    Args:
        smoothing: of the maps over the recorded stamps, as the node does it; None leaves each as predicted.
    """
    for frame in recording.frames():
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            picture = frame.picture()
            density = predictor.predict(*picture)
            if smoothing is not None:
                density = smoothing.update(density, frame.stamp_ns / 1e9)
        except FrameError as error:
            yield ReplayedFrame(frame, None, reason=error.reason)
            continue
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        yield ReplayedFrame(frame, picture, density, cost_ms=wall * 1000, cpu_ms=cpu * 1000)


@dataclass(frozen=True)
class LiveRun:
    """A recording that was played into the real node, and what a subscriber received."""

    frames: Iterator[ReplayedFrame]
    """What became of each frame, in order; it can be read while the context that gave the run is open."""
    node: Mapping[str, str]
    """What the node says of itself, from its last diagnostics."""
    measured: Mapping[str, float]
    """Figures that only the run itself knows."""
    resources: Mapping[str, Array]
    """Curves of memory and processor time over "time_s"."""


LivePlayer = Callable[[Recording, Mapping[str, Any], float], AbstractContextManager[LiveRun]]
"""Plays a recording into a node that has these parameters, at so many times the recorded speed."""
