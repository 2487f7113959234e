"""One camera's way from a frame to its outputs, except inference, which the cameras share.

The inference thread prepares a frame and later publishes its map; a second thread computes the outputs derived from the
maps, so that a slow output does not delay the next map.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rclpy.impl.rcutils_logger import RcutilsLogger
from sensor_msgs.msg import CompressedImage, Image

from sal360.arrays import Density, Floats, Pixels
from sal360.errors import FrameError, ModelError
from sal360.outputs.smoothing import TemporalSmoothing
from sal360.outputs.stream_time import FrameTime, StreamTime
from sal360.predictor import add_front_prior, check_frame, scale_prior
from sal360.spec import ModelSpec
from sal360_ros.diagnostics import ThrottledWarnings, describe
from sal360_ros.messages import decode_frame, frame_size, stamp_nanoseconds
from sal360_ros.orientation import LastOrientation
from sal360_ros.parameters import SaliencyParameters
from sal360_ros.statistics import FrameStatistics
from sal360_ros.topics import OutputPublisher, Prediction
from sal360_ros.worker import NewestSlot, Worker


class Frame(NamedTuple):
    """A frame as it arrived."""

    message: Image | CompressedImage
    arrival_ns: int
    """Monotonic time."""


class PreparedFrame(NamedTuple):
    """A frame that is ready for the network."""

    frame: Frame
    parameters: SaliencyParameters
    image: Pixels
    """(H, W, 3) uint8."""
    channels: str
    time: FrameTime
    begin_s: float
    """When its processing began, by `time.perf_counter`."""


class CameraStream:
    """Prepares the frames of one camera, and publishes their maps and the outputs derived from them.

    Args:
        name: the camera's name, for the log; "" if it is the only one.
        spec: the model's.
        saliency: publishes every map.
        outputs: publish the derived outputs, each while it has a subscriber.
        parameters: returns the parameter values for the next frame.
        orientation: maps a stamp in nanoseconds to the rotation (3, 3) from body axes to a fixed frame, or to None if
            it is not known; None if orientation is not used.
        statistics: counts and times the frames.
        now_ns: the node's clock, nanoseconds, for the age of the frames.
        logger: receives warnings.
    """

    def __init__(
        self,
        name: str,
        spec: ModelSpec,
        saliency: OutputPublisher,
        outputs: Sequence[OutputPublisher],
        parameters: Callable[[], SaliencyParameters],
        orientation: Callable[[int], Floats | None] | None,
        statistics: FrameStatistics,
        now_ns: Callable[[], int],
        logger: RcutilsLogger,
    ) -> None:
        self.answered = 0
        """Number of maps published."""
        self._label = f"{name}: " if name else ""
        self._spec = spec
        self._saliency = saliency
        self._outputs = outputs
        self._parameters = parameters
        self._orientation = orientation
        self._statistics = statistics
        self._now_ns = now_ns
        self._warnings = ThrottledWarnings(logger.warning)
        self._smoothing = TemporalSmoothing()
        self._stream_time = StreamTime()
        self._last_orientation = LastOrientation()
        self._last_stamp_ns: int | None = None
        self._has_frame = False  # whether a frame is between `prepare` and its map
        self._is_stopped = self._is_abandoned = False
        self._follower: Worker[Prediction, Prediction] = Worker(
            f"{name} outputs".lstrip(), NewestSlot(), self._publish_outputs, self._output_error
        )

    def count_received(self) -> None:
        """Count a frame that has arrived."""
        self._statistics.count_received()

    def count_superseded(self) -> None:
        """Count a frame that is dropped before it was processed."""
        self._statistics.count_superseded()

    def prepare(self, frame: Frame) -> PreparedFrame:
        """Decode and check a frame; `answer` or `reject` must follow.

        Raises:
            FrameError: the frame cannot be used.
        """
        self._has_frame = True
        begin_s = time.perf_counter()
        parameters = self._parameters()
        frame_time = self._time_of(stamp_nanoseconds(frame.message.header), frame.arrival_ns)
        image, channels = decode_frame(frame.message, self._rows_needed(parameters), parameters.max_pixels)
        check_frame(*frame_size(frame.message))
        return PreparedFrame(frame, parameters, image, channels, frame_time, begin_s)

    def answer(self, prepared: PreparedFrame, density: Density) -> None:
        """Smooth and publish the map (h, w) of a frame, and start the outputs derived from it."""
        if self._is_stopped:
            self._end_frame(self._statistics.count_superseded)
            return
        parameters, header = prepared.parameters, prepared.frame.message.header
        stamp_ns = stamp_nanoseconds(header)
        density = scale_prior(density, self._spec, parameters.prior_strength)
        density = add_front_prior(density, parameters.front_strength, -parameters.yaw_offset_rad)
        time_s = prepared.time.time_ns * 1e-9
        orientation = self._orientation_at(
            self._now_ns() if prepared.time.stands_still else stamp_ns, time_s, parameters
        )
        self._smoothing.settings = parameters.smoothing
        density = self._smoothing.update(density, time_s, orientation)
        height, width = frame_size(prepared.frame.message)
        answer = Prediction(header, prepared.image, prepared.channels, height, width, density, orientation, time_s)
        self._saliency.publish(answer, parameters)
        age_s = (self._now_ns() - stamp_ns) * 1e-9 if stamp_ns else math.nan
        self._statistics.count_answered(time.perf_counter() - prepared.begin_s, age_s)
        self._has_frame = False
        self.answered += 1
        self._pass_on(answer)

    def reject(self, error: BaseException) -> None:
        """Count and log why a frame has no map."""
        if self._is_abandoned:  # it was counted then
            return
        if isinstance(error, FrameError):
            reason = error.reason
        else:
            reason = "inference_failed" if isinstance(error, ModelError) else "internal_error"
        self._end_frame(lambda: self._statistics.count_rejected(reason))
        self._warnings.warn(reason, f"{self._label}frame rejected ({reason}): {describe(error)}")

    def stuck_output_s(self) -> float:
        """Seconds since the outputs began the current map; 0 while they wait for one."""
        return self._follower.busy_s

    def revive(self) -> bool:
        """Restart the thread of the outputs if it has died; returns whether it had."""
        return self._follower.revive()

    def discard(self) -> None:
        """Publish no more maps: a frame that is being processed counts as dropped."""
        self._is_stopped = True

    def abandon(self) -> None:
        """Ignore the result of an inference that does not return; a frame that is in it counts as rejected."""
        if self._has_frame:
            self._statistics.count_rejected("inference_failed")
        self._is_abandoned = True

    def stop(self, timeout_s: float) -> bool:
        """Finish the current outputs and end their thread; returns whether it ended in time."""
        self._is_stopped = True
        return self._follower.stop(timeout_s)

    def _end_frame(self, count: Callable[[], None]) -> None:
        self._has_frame = False
        if not self._is_abandoned:
            count()

    def _time_of(self, stamp_ns: int, arrival_ns: int) -> FrameTime:
        if self._last_stamp_ns is not None and 0 != stamp_ns < self._last_stamp_ns:
            self._statistics.count_went_back()
            self._warnings.warn(
                "went_back",
                f"{self._label}timestamp went backwards by {(self._last_stamp_ns - stamp_ns) * 1e-9:.3f} s; frame "
                "processed anyway (a recording that repeats, or a camera that restarted?)",
            )
        frame_time = self._stream_time.update(stamp_ns, arrival_ns)
        if frame_time.stands_still:
            self._statistics.count_stood_still()
        else:
            self._last_stamp_ns = stamp_ns
        return frame_time

    def _orientation_at(self, stamp_ns: int, time_s: float, parameters: SaliencyParameters) -> Floats | None:
        if self._orientation is None:
            return None
        measured = self._orientation(stamp_ns)
        self._statistics.count_orientation(measured is not None)
        return self._last_orientation.update(measured, time_s, parameters.orientation_hold_s)

    def _rows_needed(self, parameters: SaliencyParameters) -> int:
        """Minimum number of rows to which a compressed frame may be reduced during decoding; 0: no reduction."""
        rows = self._spec.input_height
        if any(output.shows_frame and output.is_wanted for output in self._outputs):
            return max(rows, parameters.overlay_height_px) if parameters.overlay_height_px else 0
        return rows

    def _pass_on(self, answer: Prediction) -> None:
        wanted = [output for output in self._outputs if output.is_wanted]
        if wanted and self._follower.offer(answer):
            for output in wanted:
                output.count_dropped()

    def _publish_outputs(self, answer: Prediction) -> None:
        parameters = self._parameters()
        for output in self._outputs:
            if not output.is_wanted:
                continue
            try:
                output.publish(answer, parameters)
            except BaseException as error:  # an output that fails must not stop the others
                self._warnings.warn(output.topic, f"{output.topic} failed: {describe(error)}")

    def _output_error(self, error: BaseException) -> None:
        self._warnings.warn("outputs", f"{self._label}the outputs of a map failed: {describe(error)}")
