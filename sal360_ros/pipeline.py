"""From the cameras' frames to their maps: one thread runs the network on the newest frame of every camera at once.

The ROS callbacks only put messages into a slot. Whatever is wrong with one camera's frame rejects that frame alone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from sensor_msgs.msg import CompressedImage, Image

from sal360.arrays import Density
from sal360.errors import FrameError
from sal360.predictor import Predictor
from sal360_ros.diagnostics import describe
from sal360_ros.fusion import Fusion
from sal360_ros.stream import CameraStream, Frame, PreparedFrame
from sal360_ros.worker import NewestOfEach, Worker


class SaliencyPipeline:
    """Publishes the map of the newest frame of every camera until `stop` ends its threads.

    Args:
        streams: the cameras.
        fusion: publishes a map of all of them; None if they are not fused.
        wait_s: returns how long the first frame of a batch waits for the other cameras, seconds.
    """

    def __init__(
        self,
        predictor: Predictor,
        streams: Sequence[CameraStream],
        fusion: Fusion | None,
        wait_s: Callable[[], float],
    ) -> None:
        self._predictor = predictor
        self._streams = streams
        self._fusion = fusion
        self._failures = 0  # consecutive failures of inference
        self._last_failure = ""
        slot: NewestOfEach[Frame] = NewestOfEach(wait_s)
        self._answerer: Worker[tuple[int, Frame], Mapping[int, Frame]] = Worker("inference", slot, self._answer)

    @property
    def answered(self) -> int:
        """Number of maps published, of all cameras."""
        return sum(stream.answered for stream in self._streams)

    def receive(self, camera: int, message: Image | CompressedImage) -> None:
        """Queue a frame of a camera for processing; it replaces one of that camera that is still waiting."""
        stream = self._streams[camera]
        stream.count_received()
        if self._answerer.offer((camera, Frame(message, time.monotonic_ns()))):
            stream.count_superseded()

    def fault(self, max_failures: int, hang_s: float) -> str:
        """Description of a problem with inference; "" if there is none.

        Args:
            max_failures: number of consecutive failures that count as a problem.
            hang_s: duration of one inference after which it counts as hung, seconds.
        """
        busy_s = self._answerer.busy_s
        if busy_s > hang_s:
            return f"inference has not returned for {busy_s:.0f} s"
        if self._failures >= max_failures:
            return f"inference failed {self._failures} consecutive times ({self._last_failure})"
        return ""

    def stuck_output_s(self, camera: int) -> float:
        """Seconds since the outputs of a camera began the current map; 0 while they wait for one."""
        return self._streams[camera].stuck_output_s()

    def revive(self) -> bool:
        """Restart threads that have died; returns whether any had."""
        return any([self._answerer.revive(), *(each.revive() for each in self._with_outputs)])

    def stop(self, timeout_s: float) -> bool:
        """Finish the current frames and outputs and end the threads; returns whether they ended in time.

        A thread that does not end is abandoned, and its results are discarded.
        """
        end_s = time.monotonic() + timeout_s
        for stream in self._streams:
            stream.discard()
        for camera in self._answerer.close() or ():
            self._streams[camera].count_superseded()
        has_answered = self._answerer.stop(timeout_s)
        if not has_answered:
            for stream in self._streams:
                stream.abandon()
        ended = [each.stop(max(0.0, end_s - time.monotonic())) for each in self._with_outputs]
        return has_answered and all(ended)

    @property
    def _with_outputs(self) -> list[CameraStream | Fusion]:
        return [*self._streams, *([self._fusion] if self._fusion is not None else [])]

    def _answer(self, frames: Mapping[int, Frame]) -> None:
        """Publish the maps of frames, or reject them."""
        prepared: list[tuple[int, PreparedFrame]] = []
        for camera, frame in frames.items():
            stream = self._streams[camera]
            with _rejected_by(stream):
                prepared.append((camera, stream.prepare(frame)))
        if prepared:
            self._publish(prepared)

    def _publish(self, prepared: Sequence[tuple[int, PreparedFrame]]) -> None:
        try:
            densities = self._predict([frame for _, frame in prepared])
        except BaseException as error:
            if isinstance(error, FrameError) and len(prepared) > 1:  # one of the maps cannot be used: find out which
                for each in prepared:
                    self._publish([each])
            else:
                for camera, _ in prepared:
                    with contextlib.suppress(BaseException):
                        self._streams[camera].reject(error)
            return
        for (camera, frame), density in zip(prepared, densities, strict=True):
            with _rejected_by(self._streams[camera]):
                answer = self._streams[camera].answer(frame, density)
                if answer is not None and self._fusion is not None:
                    self._fusion.add(camera, frame, answer)
        if self._fusion is not None:
            self._fusion.publish()

    def _predict(self, frames: Sequence[PreparedFrame]) -> Sequence[Density]:
        """The maps of frames; failures not caused by the frames are counted until an inference succeeds."""
        try:
            if len(frames) == 1:
                densities = [self._predictor.predict(frames[0].view.picture, frames[0].channels)]
            else:
                pictures, channels = [frame.view.picture for frame in frames], [frame.channels for frame in frames]
                densities = list(self._predictor.predict_batch(pictures, channels))
        except BaseException as error:
            if not isinstance(error, FrameError) or error.reason == "map_not_finite":
                self._failures, self._last_failure = self._failures + 1, describe(error)
            raise
        self._failures = 0
        return densities


@contextlib.contextmanager
def _rejected_by(stream: CameraStream) -> Iterator[None]:
    """Let the stream count and log an error, so that the other cameras' frames are processed all the same."""
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(BaseException):
            stream.reject(error)
