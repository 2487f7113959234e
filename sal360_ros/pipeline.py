"""From a frame to its outputs: newest-only slot, decoding, inference, smoothing, publishing.

One thread turns frames into maps, a second one computes the outputs that are derived from the maps, so that a slow
output does not delay the next map. The ROS callback only puts the message into a slot.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from rclpy.impl.rcutils_logger import RcutilsLogger
from sensor_msgs.msg import CompressedImage, Image

from sal360.arrays import Floats
from sal360.errors import FrameError, ModelError
from sal360.outputs.smoothing import TemporalSmoothing
from sal360.predictor import Predictor, check_frame, scale_prior
from sal360_ros.diagnostics import ThrottledWarnings
from sal360_ros.messages import decode_frame, frame_size, stamp_nanoseconds
from sal360_ros.parameters import SaliencyParameters
from sal360_ros.statistics import FrameStatistics
from sal360_ros.topics import OutputPublisher, Prediction

Item = TypeVar("Item")


class NewestSlot(Generic[Item]):
    """Holds at most one item; a newer one replaces it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: Item | None = None
        self._is_closed = False

    def put(self, item: Item) -> bool:
        """Store an item; returns whether it replaced one that was never taken."""
        with self._changed:
            dropped, self._item = self._item is not None, item
            self._changed.notify()
        return dropped

    def take(self) -> Item | None:
        """Wait for an item and remove it; None once the slot is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._item is not None)
            item, self._item = self._item, None
            return None if self._is_closed else item

    def close(self) -> None:
        """Wake the waiting thread; from now on `take` returns None."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


class Worker(Generic[Item]):
    """A thread that passes the newest offered item to `handle`, which must not raise.

    Args:
        name: name of the thread, for tools that list threads.
    """

    def __init__(self, name: str, handle: Callable[[Item], None]) -> None:
        self._slot: NewestSlot[Item] = NewestSlot()
        self._handle = handle
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def offer(self, item: Item) -> bool:
        """Put an item into the thread's slot; returns whether it replaced one that was never processed."""
        return self._slot.put(item)

    def stop(self) -> None:
        """Finish the current item, drop the waiting one and end the thread."""
        self._slot.close()
        self._thread.join()

    def _run(self) -> None:
        while (item := self._slot.take()) is not None:
            self._handle(item)
            del item  # a frame is up to 22 MB: free it before waiting for the next one


class SaliencyPipeline:
    """Publishes the map of the newest frame, and what is derived from it, until `stop` ends its threads.

    Args:
        saliency: publishes every map.
        outputs: publish what is derived from a map, each while it has a subscriber.
        parameters: returns the parameter values for the next frame.
        orientation: maps a stamp in nanoseconds to the rotation (3, 3) from body axes to a fixed frame, or None.
        statistics: counts and times the frames.
        now_ns: the node's clock, nanoseconds, for the age of the frames.
        logger: takes warnings.
    """

    def __init__(
        self,
        predictor: Predictor,
        saliency: OutputPublisher,
        outputs: Sequence[OutputPublisher],
        parameters: Callable[[], SaliencyParameters],
        orientation: Callable[[int], Floats | None],
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
        """Queue a frame for processing; it replaces one that is still waiting."""
        self._statistics.count_received()
        if self._answerer.offer(message):
            self._statistics.count_superseded()

    def stop(self) -> None:
        """Finish the current frame and outputs, and end the threads."""
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
        except Exception as error:  # whatever went wrong, the node goes on with the next frame
            self._reject(error)
            return
        age_s = (self._now_ns() - stamp_ns) * 1e-9
        self._statistics.count_answered(time.perf_counter() - begin_s, age_s)
        wanted = [output for output in self._outputs if output.is_wanted]
        if wanted and self._follower.offer(answer):
            for output in wanted:
                output.count_dropped()

    def _rows_needed(self, parameters: SaliencyParameters) -> int:
        """Min rows to which a compressed frame may be reduced while it is decoded; 0: no reduction."""
        rows = self._predictor.spec.input_height
        if any(output.shows_frame and output.is_wanted for output in self._outputs):
            return max(rows, parameters.overlay_height_px) if parameters.overlay_height_px else 0
        return rows

    def _notice_stamp(self, stamp_ns: int) -> None:
        if self._last_stamp_ns is not None and stamp_ns < self._last_stamp_ns:
            self._statistics.count_went_back()
            self._warnings.warn(
                "went_back",
                f"timestamp went backwards by {(self._last_stamp_ns - stamp_ns) * 1e-9:.3f} s; frame processed anyway "
                "(a recording that repeats, or a camera that restarted?)",
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
            except Exception as error:  # an output that fails must not stop the others
                self._warnings.warn(output.topic, f"{output.topic} failed: {error}")
