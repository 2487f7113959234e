"""From message to map: newest-only slot, decoding, inference, publishing, and the outputs that follow behind.

Two threads, so that neither waits for the other: one answers frames, one computes what is derived from the answers.
The callbacks of ROS only put messages into a slot.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from rclpy.impl.rcutils_logger import RcutilsLogger
from sensor_msgs.msg import CompressedImage, Image

from sal360.errors import FrameError, ModelError
from sal360.outputs.smoothing import TemporalSmoothing
from sal360.predictor import Predictor, check_frame, scale_prior
from sal360.sphere import Array
from sal360_ros.diagnostics import ThrottledWarnings
from sal360_ros.messages import decode_frame, frame_size, stamp_nanoseconds
from sal360_ros.parameters import SaliencyParameters
from sal360_ros.statistics import FrameStatistics
from sal360_ros.topics import OutputPublisher, Prediction

Item = TypeVar("Item")


class NewestSlot(Generic[Item]):
    """Room for one item; a newer one takes its place."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: Item | None = None
        self._is_closed = False

    def put(self, item: Item) -> bool:
        """Store an item; returns whether an older one, that nobody took, was dropped for it."""
        with self._changed:
            dropped, self._item = self._item is not None, item
            self._changed.notify()
        return dropped

    def take(self) -> Item | None:
        """Wait for an item and remove it; None once the slot is closed, whatever is in it."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._item is not None)
            item, self._item = self._item, None
            return None if self._is_closed else item

    def close(self) -> None:
        """Wake whoever waits; nothing can be taken any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


class Worker(Generic[Item]):
    """A thread that hands the newest offered item to `handle`, which must not raise.

    Args:
        name: of the thread, for tools that list threads.
    """

    def __init__(self, name: str, handle: Callable[[Item], None]) -> None:
        self._slot: NewestSlot[Item] = NewestSlot()
        self._handle = handle
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def offer(self, item: Item) -> bool:
        """Let the thread have an item; returns whether it replaced one that had not been begun."""
        return self._slot.put(item)

    def stop(self) -> None:
        """Finish the item in hand, drop the waiting one and end the thread."""
        self._slot.close()
        self._thread.join()

    def _run(self) -> None:
        while (item := self._slot.take()) is not None:
            self._handle(item)
            del item  # a frame is up to 22 MB: not to be kept while waiting for the next


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
        self._follower: Worker[Prediction] = Worker("outputs", self._publish_outputs)
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
            image, channels = decode_frame(message, self._rows_needed(parameters))
            height, width = frame_size(message)
            check_frame(height, width)
            density = self._predictor.predict(image, channels)
            density = scale_prior(density, self._predictor.spec, parameters.prior_strength)
            orientation = self._orientation(stamp_ns)
            self._smoothing.settings = parameters.smoothing
            density = self._smoothing.update(density, stamp_ns * 1e-9, orientation)
            answer = Prediction(message.header, image, channels, height, width, density, orientation)
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

    def _publish_outputs(self, answer: Prediction) -> None:
        parameters = self._parameters()
        for output in self._outputs:
            if not output.is_wanted:
                continue
            try:
                output.publish(answer, parameters)
            except Exception as error:  # one output that fails shall not stop the others
                self._warnings.warn(output.topic, f"{output.topic} failed: {error}")
