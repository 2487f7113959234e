"""From a frame to its outputs: newest-only slot, decoding, inference, smoothing, publishing.

One thread turns frames into maps, a second one computes the outputs derived from the maps, so that a slow output does
not delay the next map. The ROS callback only puts the message into a slot.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from rclpy.impl.rcutils_logger import RcutilsLogger
from sensor_msgs.msg import CompressedImage, Image

from sal360.arrays import Density, Floats, Pixels
from sal360.errors import FrameError, ModelError
from sal360.outputs.smoothing import TemporalSmoothing
from sal360.outputs.stream_time import FrameTime, StreamTime
from sal360.predictor import Predictor, add_front_prior, check_frame, scale_prior
from sal360_ros.diagnostics import ThrottledWarnings, describe
from sal360_ros.messages import decode_frame, frame_size, stamp_nanoseconds
from sal360_ros.orientation import LastOrientation
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

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    def close(self) -> bool:
        """Wake the waiting thread; from now on `take` returns None. Returns whether an item was waiting."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            dropped, self._item = self._item is not None, None
        return dropped


class Worker(Generic[Item]):
    """A thread that passes the newest offered item to `handle`, and survives any exception.

    Args:
        name: name of the thread, for tools that list threads.
        handle: processes one item.
        on_error: called with every exception that `handle` raises, including SystemExit.
    """

    def __init__(
        self, name: str, handle: Callable[[Item], None], on_error: Callable[[BaseException], None] = lambda _: None
    ) -> None:
        self._slot: NewestSlot[Item] = NewestSlot()
        self._name = name
        self._handle = handle
        self._on_error = on_error
        self._begun_s: float | None = None
        self._thread = self._start()

    def offer(self, item: Item) -> bool:
        """Put an item into the thread's slot; returns whether it replaced one that was never processed."""
        return self._slot.put(item)

    @property
    def busy_s(self) -> float:
        """Seconds since the thread began the current item; 0 while it waits for one."""
        begun_s = self._begun_s
        return 0.0 if begun_s is None else time.monotonic() - begun_s

    def revive(self) -> bool:
        """Start the thread again if it has died; returns whether it had."""
        if self._thread.is_alive() or self._slot.is_closed:
            return False
        self._thread = self._start()
        return True

    def close(self) -> bool:
        """Drop the waiting item and let the thread end after the current one; returns whether one was waiting."""
        return self._slot.close()

    def stop(self, timeout_s: float | None = None) -> bool:
        """Finish the current item, drop the waiting one and end the thread; returns whether it ended in time."""
        self._slot.close()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        while not self._slot.is_closed:
            try:
                self._handle_next()
            except BaseException as error:  # this thread must survive
                with contextlib.suppress(BaseException):
                    self._on_error(error)

    def _handle_next(self) -> None:
        item = self._slot.take()  # a frame is up to 22 MB: freed when this call returns, before the next wait
        if item is None:
            return
        self._begun_s = time.monotonic()
        try:
            self._handle(item)
        finally:
            self._begun_s = None


class _Frame(NamedTuple):
    message: Image | CompressedImage
    arrival_ns: int
    """Monotonic time."""


class SaliencyPipeline:
    """Publishes the map of the newest frame, and the outputs derived from it, until `stop` ends its threads.

    Args:
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
        predictor: Predictor,
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
        self._predictor = predictor
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
        self._failures = 0  # consecutive failures of inference
        self._last_failure = ""
        self._is_stopped = self._is_abandoned = False
        self._follower: Worker[Prediction] = Worker("outputs", self._publish_outputs, self._output_error)
        self._answerer: Worker[_Frame] = Worker("inference", self._answer, self._reject)

    def receive(self, message: Image | CompressedImage) -> None:
        """Queue a frame for processing; it replaces one that is still waiting."""
        self._statistics.count_received()
        if self._answerer.offer(_Frame(message, time.monotonic_ns())):
            self._statistics.count_superseded()

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

    def stuck_output_s(self) -> float:
        """Seconds since the outputs began the current map; 0 while they wait for one."""
        return self._follower.busy_s

    def revive(self) -> bool:
        """Restart threads that have died; returns whether any had."""
        return any([self._answerer.revive(), self._follower.revive()])

    def stop(self, timeout_s: float) -> bool:
        """Finish the current frame and outputs and end the threads; returns whether they ended in time.

        A thread that does not end is abandoned, and its results are discarded.
        """
        self._is_stopped = True
        end_s = time.monotonic() + timeout_s
        if self._answerer.close():
            self._statistics.count_superseded()
        has_answered = self._answerer.stop(timeout_s)
        if not has_answered:
            self._is_abandoned = True
            self._statistics.count_rejected("inference_failed")
        return self._follower.stop(max(0.0, end_s - time.monotonic())) and has_answered

    def _answer(self, frame: _Frame) -> None:
        """Publish the map of a frame, or reject it."""
        begin_s = time.perf_counter()
        parameters = self._parameters()
        stamp_ns = stamp_nanoseconds(frame.message.header)
        time_ns, stands_still = self._time_of(stamp_ns, frame.arrival_ns)
        image, channels = decode_frame(frame.message, self._rows_needed(parameters), parameters.max_pixels)
        height, width = frame_size(frame.message)
        check_frame(height, width)
        density = self._predict(image, channels)
        if self._is_stopped:
            if not self._is_abandoned:
                self._statistics.count_superseded()
            return
        density = scale_prior(density, self._predictor.spec, parameters.prior_strength)
        density = add_front_prior(density, parameters.front_strength, -parameters.yaw_offset_rad)
        time_s = time_ns * 1e-9
        orientation = self._orientation_at(self._now_ns() if stands_still else stamp_ns, time_s, parameters)
        self._smoothing.settings = parameters.smoothing
        density = self._smoothing.update(density, time_s, orientation)
        answer = Prediction(frame.message.header, image, channels, height, width, density, orientation, time_s)
        self._saliency.publish(answer, parameters)
        age_s = (self._now_ns() - stamp_ns) * 1e-9 if stamp_ns else math.nan
        self._statistics.count_answered(time.perf_counter() - begin_s, age_s)
        self.answered += 1
        self._pass_on(answer)

    def _predict(self, image: Pixels, channels: str) -> Density:
        """The map of a frame; failures not caused by the frame are counted until an inference succeeds."""
        try:
            density = self._predictor.predict(image, channels)
        except BaseException as error:
            if not isinstance(error, FrameError) or error.reason == "map_not_finite":
                self._failures, self._last_failure = self._failures + 1, describe(error)
            raise
        self._failures = 0
        return density

    def _time_of(self, stamp_ns: int, arrival_ns: int) -> FrameTime:
        if self._last_stamp_ns is not None and 0 != stamp_ns < self._last_stamp_ns:
            self._statistics.count_went_back()
            self._warnings.warn(
                "went_back",
                f"timestamp went backwards by {(self._last_stamp_ns - stamp_ns) * 1e-9:.3f} s; frame processed anyway "
                "(a recording that repeats, or a camera that restarted?)",
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
        rows = self._predictor.spec.input_height
        if any(output.shows_frame and output.is_wanted for output in self._outputs):
            return max(rows, parameters.overlay_height_px) if parameters.overlay_height_px else 0
        return rows

    def _reject(self, error: BaseException) -> None:
        """Count and log why a frame has no map."""
        if self._is_abandoned:  # it was counted then
            return
        if isinstance(error, FrameError):
            reason = error.reason
        else:
            reason = "inference_failed" if isinstance(error, ModelError) else "internal_error"
        self._statistics.count_rejected(reason)
        self._warnings.warn(reason, f"frame rejected ({reason}): {describe(error)}")

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
        self._warnings.warn("outputs", f"the outputs of a map failed: {describe(error)}")
