"""From message to map: newest-only slot, decoding, inference, publishing, and the outputs that follow behind.

Two threads, so that neither waits for the other: one answers frames, one computes what is derived from the answers.
The callbacks of ROS only put messages into a slot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rclpy.impl.rcutils_logger import RcutilsLogger
from sensor_msgs.msg import CompressedImage, Image

from sal360_ros.errors import FrameError, ModelError
from sal360_ros.outputs.smoothing import TemporalSmoothing
from sal360_ros.predictor import Predictor, check_frame, scale_prior
from sal360_ros.ros.messages import decode_message, frame_size, stamp_nanoseconds
from sal360_ros.ros.parameters import SaliencyParameters
from sal360_ros.ros.publishers import Answer, OutputPublisher
from sal360_ros.ros.statistics import FrameStatistics
from sal360_ros.ros.throttle import ThrottledWarnings
from sal360_ros.ros.worker import Worker
from sal360_ros.sphere import Array


class SaliencyPipeline:
    """Answers the newest frame with its map while it exists; `stop` ends its threads.

    Args:
        saliency: publishes every map.
        outputs: publish what is derived from maps, while somebody wants it.
        parameters: gives the values that hold for the next frame.
        orientation: the camera's axes in a fixed frame at a stamp in nanoseconds, where they are known.
        now_ns: the node's clock, for the age of the frames.
    """

    def __init__(
        self,
        predictor: Predictor,
        saliency: OutputPublisher,
        outputs: Sequence[OutputPublisher],
        parameters: Callable[[], SaliencyParameters],
        orientation: Callable[[int], Array | None],
        statistics: FrameStatistics,
        now_ns: Callable[[], int],
        logger: RcutilsLogger,
    ) -> None:
        self._predictor = predictor
        self._saliency = saliency
        self._outputs = outputs
        self._parameters = parameters
        self._orientation = orientation
        self._statistics = statistics
        self._now_ns = now_ns
        self._warnings = ThrottledWarnings(logger.warning)
        self._smoothing = TemporalSmoothing()
        self._last_stamp_ns: int | None = None
        self._follower: Worker[Answer] = Worker("outputs", self._publish_outputs)
        self._answerer: Worker[Image | CompressedImage] = Worker("inference", self._answer)

    def receive(self, message: Image | CompressedImage) -> None:
        """Take the message up, in place of one that is still waiting."""
        self._statistics.count_received()
        if self._answerer.offer(message):
            self._statistics.count_superseded()

    def stop(self) -> None:
        """Finish what is in hand and end the threads."""
        self._answerer.stop()
        self._follower.stop()

    def _answer(self, message: Image | CompressedImage) -> None:
        begin_s = time.perf_counter()
        parameters = self._parameters()
        try:
            stamp_ns = stamp_nanoseconds(message.header)
            self._notice_stamp(stamp_ns)
            image, channels = decode_message(message, self._rows_needed(parameters))
            height, width = frame_size(message)
            check_frame(height, width)
            density = self._predictor.predict(image, channels)
            density = scale_prior(density, self._predictor.spec, parameters.prior_strength)
            orientation = self._orientation(stamp_ns)
            self._smoothing.settings = parameters.smoothing
            density = self._smoothing.update(density, stamp_ns * 1e-9, orientation)
            answer = Answer(message.header, image, channels, height, width, density, orientation)
            self._saliency.publish(answer, parameters)
        except Exception as error:  # whatever one frame does, the node answers the next
            self._reject(error)
            return
        age_s = (self._now_ns() - stamp_ns) * 1e-9
        self._statistics.count_answered(time.perf_counter() - begin_s, age_s)
        if any(output.is_wanted for output in self._outputs):
            self._follower.offer(answer)

    def _rows_needed(self, parameters: SaliencyParameters) -> int:
        """Rows below which a compressed frame must not be reduced while decoding."""
        rows = self._predictor.spec.input_height
        if any(output.shows_frame and output.is_wanted for output in self._outputs):
            return max(rows, parameters.overlay_height_px) if parameters.overlay_height_px else 0
        return rows

    def _notice_stamp(self, stamp_ns: int) -> None:
        if self._last_stamp_ns is not None and stamp_ns < self._last_stamp_ns:
            self._statistics.count_went_back()
            self._warnings.warn(
                "went_back",
                f"the stamp of a frame is {(self._last_stamp_ns - stamp_ns) * 1e-9:.3f} s before the last one's; "
                "expected rising stamps; answered all the same (a recording that repeats, or a camera that restarted?)",
            )
        self._last_stamp_ns = stamp_ns

    def _reject(self, error: Exception) -> None:
        if isinstance(error, FrameError):
            reason, line = error.reason, str(error)
        elif isinstance(error, ModelError):
            reason, line = "inference_failed", str(error)
        else:
            reason, line = "internal_error", f"{type(error).__name__}: {error}"
        self._statistics.count_rejected(reason)
        self._warnings.warn(reason, f"frame rejected ({reason}): {line}")

    def _publish_outputs(self, answer: Answer) -> None:
        parameters = self._parameters()
        for output in self._outputs:
            if not output.is_wanted:
                continue
            try:
                output.publish(answer, parameters)
            except Exception as error:  # one output that fails shall not stop the others
                self._warnings.warn(output.topic, f"{output.topic} failed: {error}")
