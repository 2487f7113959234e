"""A recording that is evaluated: its frames, also unusable ones, and what became of each of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from sal360.arrays import Density, Floats, Pixels
from sal360.errors import DataError, FrameError
from sal360.images import decode_message
from sal360.outputs.smoothing import TemporalSmoothing
from sal360.predictor import Predictor, check_frame
from sal360.sources.bag import Bag, BagMessage, stamp_ns


@dataclass(frozen=True, eq=False)
class RecordedFrame:
    """One image message of the recording."""

    index: int
    stamp_ns: int
    """Stamp of the header; the recording time if the header's stamp is empty or unreadable."""
    message: BagMessage
    fields: Any
    """The deserialised message; None if its bytes are not a message."""

    def picture(self) -> tuple[Pixels, str]:
        """The frame, (H, W, 3) uint8, and its channel order, "rgb" or "bgr".

        Raises:
            FrameError: it cannot be decoded, or is not equirectangular; the node rejects it for the same reason.
        """
        fields = self.message.decode() if self.fields is None else self.fields
        image, channels = decode_message(fields)
        check_frame(*image.shape[:2])
        return image, channels


class Recording:
    """The frames on one image topic of an open bag.

    Args:
        bag: must stay open as long as the recording is used.
        topic: as `sources.bag.choose_image_topic` gives it.
    """

    def __init__(self, bag: Bag, topic: str) -> None:
        self.bag = bag
        self.topic = topic
        self.damage: DataError | None = None
        """Why the bag could not be read to its end; set when an iteration has ended."""

    @property
    def type(self) -> str:
        """Type of the topic's messages."""
        return self.bag.topics[self.topic].type

    @property
    def frame_count(self) -> int:
        """Number of recorded frames, also unusable ones."""
        return self.bag.topics[self.topic].count

    @property
    def name(self) -> str:
        """The bag's name without suffix."""
        return self.bag.name

    def messages(self, topic: str) -> Iterator[BagMessage]:
        """The messages of any topic of the bag; ends where a damaged bag cannot be read further."""
        try:
            yield from self.bag.messages([topic])
        except DataError as error:
            self.damage = error

    def frames(self) -> Iterator[RecordedFrame]:
        """The frames in recording order; ends where a damaged bag cannot be read further."""
        for index, message in enumerate(self.messages(self.topic)):
            try:
                fields = message.decode()
            except FrameError:
                yield RecordedFrame(index, message.recorded_ns, message, None)
            else:
                yield RecordedFrame(index, stamp_ns(message, fields), message, fields)


@dataclass(frozen=True, eq=False)
class ReplayedFrame:
    """What became of one frame. Times are in milliseconds, None if the run does not measure them."""

    frame: RecordedFrame
    picture: tuple[Pixels, str] | None
    """The frame, (H, W, 3) uint8, and its channel order; None for a rejected frame."""
    density: Density | None = None
    """The map, (h, w) float32, relative to uniform; None if the frame was dropped or rejected."""
    reason: str = ""
    """Why the frame was rejected, a key of `errors.FRAME_REJECTIONS`; "" if it was not."""
    latency_ms: float | None = None
    """From the frame's publication to the map's arrival at a subscriber."""
    age_at_publish_ms: float | None = None
    """From the frame's publication to the map's publication."""
    cost_ms: float | None = None
    """Wall time of decoding, predicting and smoothing."""
    cpu_ms: float | None = None
    """CPU time of the same, summed over threads."""

    @property
    def status(self) -> str:
        """answered, rejected or dropped."""
        if self.density is not None:
            return "answered"
        return "rejected" if self.reason else "dropped"


def predicted_frames(
    recording: Recording, predictor: Predictor, smoothing: TemporalSmoothing | None = None
) -> Iterator[ReplayedFrame]:
    """Predict every frame in this process, one after the other: deterministic, without transport or queue.

    Args:
        smoothing: smooths the maps over the recorded stamps, as the node does; None leaves each map as predicted.
    """
    for frame in recording.frames():
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        try:
            picture = frame.picture()
            density = predictor.predict(*picture)
            if smoothing is not None:
                density = smoothing.update(density, frame.stamp_ns / 1e9)
        except FrameError as error:
            yield ReplayedFrame(frame, None, reason=error.reason)
            continue
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        yield ReplayedFrame(frame, picture, density, cost_ms=wall_s * 1000, cpu_ms=cpu_s * 1000)


@dataclass(frozen=True)
class LiveRun:
    """A recording that was played into the real node, and what a subscriber received."""

    frames: Iterator[ReplayedFrame]
    """What became of each frame, in order; readable while the context that gave the run is open."""
    node: Mapping[str, str]
    """The node's last diagnostics."""
    measured: Mapping[str, float]
    """Figures that only the run itself can measure (CPU load, memory, map rate)."""
    resources: Mapping[str, Floats]
    """Curves of memory and CPU load, over "time_s"."""


LivePlayer = Callable[[Recording, Mapping[str, Any], float], AbstractContextManager[LiveRun]]
"""Plays a recording into a node that has these parameters, at this multiple of the recorded speed."""
