"""A recording to evaluate, a bag or a video: its frames, including unusable ones, and the outcome of each."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sal360.arrays import Density, Floats, Pixels
from sal360.cameras.camera import Camera
from sal360.cameras.lookup import equirectangular_view
from sal360.cameras.settings import AUTO, CameraSettings, kept_camera
from sal360.errors import DataError, FrameError, ParameterError
from sal360.images import MAX_PIXELS, decode_message
from sal360.outputs.smoothing import TemporalSmoothing
from sal360.outputs.stream_time import StreamTime
from sal360.picture_formats import PICTURE_SUFFIXES
from sal360.predictor import Predictor
from sal360.sources.bag import (
    COMPRESSED,
    Bag,
    BagMessage,
    Topic,
    choose_image_topic,
    image_message,
    jpeg_message_bytes,
    stamp_ns,
)
from sal360.sources.bag_files import is_bag
from sal360.sources.pictures import look_into
from sal360.sources.stream_address import stream_address
from sal360.sources.video import VIDEO_SUFFIXES, estimated_frame_count, video_frames


@dataclass(frozen=True, eq=False)
class RecordedFrame:
    """One frame of a recording, usable or not."""

    index: int
    stamp_ns: int
    """Stamp of the header; the recording time if the header's stamp is empty or unreadable."""
    message: BagMessage
    """The frame as a message: from a bag as it was recorded, from a video as a JPEG."""
    fields: Any
    """The deserialised message; None if there is none."""
    error: FrameError | None = None
    """Why there is none."""
    max_pixels: int = MAX_PIXELS
    """Larger frames are unusable."""
    camera: CameraSettings = AUTO
    """What the frame is."""

    def decoded(self) -> tuple[Pixels, str, Camera]:
        """The frame, (H, W, 3) uint8, its channel order, "rgb" or "bgr", and its camera.

        Raises:
            FrameError: it cannot be decoded, or does not fit the camera; the node rejects it for the same reason.
        """
        if self.error is not None:
            raise self.error
        image, channels = decode_message(self.fields, max_pixels=self.max_pixels)
        return image, channels, kept_camera(self.camera, *image.shape[:2])

    def picture(self) -> tuple[Pixels, str]:
        """The frame as an equirectangular picture, (H, W, 3) uint8, and its channel order, "rgb" or "bgr".

        Raises:
            FrameError: as `decoded`.
        """
        image, channels, camera = self.decoded()
        return equirectangular_view(camera, image), channels


class Recording(ABC):
    """Frames that are replayed, of a bag or a video."""

    path: Path
    name: str
    """Name of the file or folder without suffix."""
    kind: str
    """bag or video."""
    topic: str
    """Topic of the frames."""
    type: str
    """Type of its messages."""
    frame_count: int
    """Number of frames, including unusable ones; for a video an estimate, 0 if there is none."""
    topics: Mapping[str, Topic]
    """All topics that `messages` can read."""

    def __init__(self, camera: CameraSettings) -> None:
        self.camera = camera
        """What the frames are."""
        self.damage: dict[str, DataError] = {}
        """Why the recording could not be read completely, by text; complete when an iteration has finished."""
        self.notes: list[str] = []
        """Remarks about the recording for the user that do not mean data loss."""

    @abstractmethod
    def frames(self) -> Iterator[RecordedFrame]:
        """The frames in recording order; ends where a damaged recording cannot be read further."""

    @abstractmethod
    def messages(self, topic: str) -> Iterator[BagMessage]:
        """The messages of any topic; ends where a damaged recording cannot be read further."""

    @abstractmethod
    def messages_beside(self, topic: str) -> Iterator[BagMessage]:
        """Like `messages`, during an iteration over frames; damage is not recorded again."""

    def _note_damage(self, error: DataError) -> None:
        self.damage.setdefault(str(error), error)


class BagRecording(Recording):
    """The frames on one image topic of an open bag.

    Args:
        bag: must stay open as long as the recording is used.
        topic: as `sources.bag.choose_image_topic` returns it.
        max_pixels: larger frames are unusable.
        camera: what the frames are.
    """

    kind = "bag"

    def __init__(self, bag: Bag, topic: str, max_pixels: int = MAX_PIXELS, camera: CameraSettings = AUTO) -> None:
        super().__init__(camera)
        self._bag, self._max_pixels = bag, max_pixels
        self._beside: dict[str, Bag] = {}
        self.path, self.name, self.topics = bag.path, bag.name, bag.topics
        self.topic, self.type, self.frame_count = topic, bag.topics[topic].type, bag.topics[topic].count
        self.notes = list(bag.notes)

    def messages(self, topic: str) -> Iterator[BagMessage]:
        try:
            yield from self._bag.messages([topic])
        except DataError as error:
            self._note_damage(error)

    def messages_beside(self, topic: str) -> Iterator[BagMessage]:
        if topic not in self._beside:
            self._beside[topic] = self._bag.second_reader()
        with contextlib.suppress(DataError):
            yield from self._beside[topic].messages([topic])

    def frames(self) -> Iterator[RecordedFrame]:
        for index, message in enumerate(self.messages(self.topic)):
            try:
                fields = message.decode()
            except FrameError as error:
                yield RecordedFrame(index, message.recorded_ns, message, None, error)
            else:
                stamp, limit = stamp_ns(message, fields), self._max_pixels
                yield RecordedFrame(index, stamp, message, fields, max_pixels=limit, camera=self.camera)


class VideoRecording(Recording):
    """The frames of a video file, stamped from 0.

    Raises:
        DataError: it cannot be opened.
    """

    kind = "video"
    topic = "/video/image/compressed"
    type = COMPRESSED

    def __init__(self, path: Path, max_pixels: int = MAX_PIXELS, camera: CameraSettings = AUTO) -> None:
        super().__init__(camera)
        self.path, self.name, self._max_pixels = path, path.stem, max_pixels
        self.frame_count = estimated_frame_count(path, max_pixels)
        self.topics = {self.topic: Topic(self.type, self.frame_count)}

    def messages(self, topic: str) -> Iterator[BagMessage]:
        yield from (frame.message for frame in self.frames() if topic == self.topic and frame.error is None)

    def messages_beside(self, topic: str) -> Iterator[BagMessage]:
        return self.messages(topic)

    def frames(self) -> Iterator[RecordedFrame]:
        damaged: list[FrameError] = []
        index, at_ns = 0, 0
        try:
            for frame in video_frames(self.path, lambda error, _: damaged.append(error), self._max_pixels):
                while damaged:  # before this frame
                    yield self._damaged_frame(index, at_ns, damaged.pop(0))
                    index += 1
                at_ns = round(frame.stamp_s * 1e9)
                yield self._frame(index, at_ns, frame.image)
                index += 1
        except DataError as error:
            self._note_damage(error)
        for offset, each in enumerate(damaged):
            yield self._damaged_frame(index + offset, at_ns, each)

    def _frame(self, index: int, at_ns: int, image_bgr: Pixels) -> RecordedFrame:
        raw = image_message(image_bgr, at_ns)
        message = self._message(at_ns, jpeg_message_bytes(image_bgr, at_ns))
        return RecordedFrame(index, at_ns, message, raw, camera=self.camera)

    def _damaged_frame(self, index: int, at_ns: int, error: FrameError) -> RecordedFrame:
        return RecordedFrame(index, at_ns, self._message(at_ns, b""), None, error)

    def _message(self, at_ns: int, data: bytes) -> BagMessage:
        return BagMessage(self.topic, self.type, at_ns, data, ros1=False)


def open_recording(
    path: Path,
    topic: str = "",
    besides: Collection[str] = (),
    max_pixels: int = MAX_PIXELS,
    camera: CameraSettings = AUTO,
) -> AbstractContextManager[Recording]:
    """Open a bag or a video; a `with` block closes it.

    Args:
        topic: image topic of a bag; "" selects the only one.
        besides: image topics that do not carry frames.
        max_pixels: larger messages of a bag are unusable, and a video with larger frames is refused.
        camera: what the frames are.

    Raises:
        DataError: it cannot be read, or a topic must be chosen.
        ParameterError: a topic is given for a video.
    """
    if address := stream_address(path):
        raise DataError(
            f"{address.shown} is a live stream",
            "record it first (ffmpeg -i ADDRESS -c copy -t 60 recording.mkv), or run `sal360 predict` on it",
        )
    if not path.exists():
        raise DataError(f"{path} does not exist", "check the path of the recording")
    if path.suffix.lower() in PICTURE_SUFFIXES:
        raise DataError(f"{path} is a picture", "run `sal360 predict` on it, or name a bag or a video")
    if path.is_dir() and not is_bag(path) and look_into(path).pictures:
        raise DataError(f"{path} is a folder of pictures", "run `sal360 predict` on it, or name a bag or a video")
    if path.suffix.lower() not in VIDEO_SUFFIXES or path.is_dir():
        return _open_bag_recording(path, topic, besides, max_pixels, camera)
    if topic:
        raise ParameterError(f"--topic is {topic}, but a video has no topics", "leave it out")
    return contextlib.nullcontext(VideoRecording(path, max_pixels, camera))


@contextlib.contextmanager
def _open_bag_recording(
    path: Path, topic: str, besides: Collection[str], max_pixels: int, camera: CameraSettings
) -> Iterator[Recording]:
    with Bag(path) as bag:
        yield BagRecording(bag, choose_image_topic(bag, topic, besides=besides), max_pixels, camera)


class PlaybackClock:
    """Rising times from 0 for recorded stamps, for a video or a player.

    Pauses of more than `MAX_PAUSE_S`, and backward jumps caused by a clock change during recording, become one usual
    interval; a stamp that is slightly too early is moved to just after the previous one.
    """

    MAX_PAUSE_S = 60.0
    _MAX_LATE_S = 1.0

    def __init__(self) -> None:
        self._start_ns: int | None = None
        self._last_s = 0.0
        self._interval_s = 1 / 30

    def time_s(self, stamp_ns: int) -> float:
        """The time of the next frame, seconds."""
        if self._start_ns is None:
            self._start_ns = stamp_ns
            return 0.0
        time_s = (stamp_ns - self._start_ns) / 1e9
        step_s = time_s - self._last_s
        if 0 < step_s <= self.MAX_PAUSE_S:
            self._interval_s = step_s
        elif -self._MAX_LATE_S < step_s <= 0:
            time_s = self._last_s + self._interval_s / 10
        else:
            time_s = self._last_s + self._interval_s
            self._start_ns = stamp_ns - round(time_s * 1e9)
        self._last_s = time_s
        return time_s


@dataclass(frozen=True, eq=False)
class ReplayedFrame:
    """The outcome of one frame. Times are in milliseconds, None if the run does not measure them."""

    frame: RecordedFrame
    picture: tuple[Pixels, str] | None
    """The frame as an equirectangular picture, (H, W, 3) uint8, and its channel order; None for a rejected frame."""
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
    stream_time = StreamTime()
    for frame in recording.frames():
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        time_ns = stream_time.update(frame.stamp_ns, frame.message.recorded_ns).time_ns
        try:
            image, channels, camera = frame.decoded()
            density = predictor.predict(image, channels, camera=camera)
            if smoothing is not None:
                density = smoothing.update(density, time_ns / 1e9)
        except FrameError as error:
            yield ReplayedFrame(frame, None, reason=error.reason)
            continue
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        picture = equirectangular_view(camera, image), channels
        yield ReplayedFrame(frame, picture, density, cost_ms=wall_s * 1000, cpu_ms=cpu_s * 1000)


@dataclass(frozen=True)
class LiveRun:
    """A recording that was played into the real node, and what a subscriber received."""

    frames: Iterator[ReplayedFrame]
    """The outcome of each frame, in order; readable while the context that returned the run is open."""
    node: Mapping[str, str]
    """The node's last diagnostics."""
    measured: Mapping[str, float]
    """Figures that can only be measured during the run (CPU load, memory, map rate)."""
    resources: Mapping[str, Floats]
    """Curves of memory and CPU load, over "time_s"."""


LivePlayer = Callable[[Recording, Mapping[str, Any], float], AbstractContextManager[LiveRun]]
"""Plays a recording into a node with these parameters, at this multiple of the recorded speed."""
