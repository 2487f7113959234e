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
from std_msgs.msg import Header

from sal360.arrays import Density, Floats, Pixels
from sal360.errors import FrameError, ModelError
from sal360.outputs.layout import EQUIRECTANGULAR
from sal360.outputs.smoothing import TemporalSmoothing
from sal360.outputs.stream_time import FrameTime, StreamTime
from sal360.predictor import add_front_prior, scale_prior
from sal360.spec import ModelSpec
from sal360_ros.diagnostics import ThrottledWarnings, describe
from sal360_ros.level import LevelInput, rotation_to_upright
from sal360_ros.messages import decode_frame, frame_size, stamp_nanoseconds
from sal360_ros.orientation import LastOrientation, OrientationInput
from sal360_ros.parameters import SaliencyParameters
from sal360_ros.shared_maps import SharedMaps
from sal360_ros.statistics import FrameStatistics
from sal360_ros.topics import OutputPublisher, Prediction
from sal360_ros.view import CameraView, View
from sal360_ros.worker import NewestSlot, Worker


class MapStream:
    """Smooths and publishes a stream of maps, and what is derived from them while somebody subscribes to it.

    Args:
        label: begins every line of the log.
        saliency: publishes every map.
        outputs: publish the derived outputs, each while it has a subscriber.
        parameters: returns the parameter values for the next map.
        warnings: throttles warnings.
        shared: writes every map to shared memory; None: nothing does.
    """

    def __init__(
        self,
        label: str,
        saliency: OutputPublisher,
        outputs: Sequence[OutputPublisher],
        parameters: Callable[[], SaliencyParameters],
        warnings: ThrottledWarnings,
        shared: SharedMaps | None,
    ) -> None:
        self.is_stopped = False
        """Whether no more maps are published."""
        self._label = label
        self._saliency = saliency
        self._outputs = outputs
        self._parameters = parameters
        self._warnings = warnings
        self._shared = shared
        self._smoothing = TemporalSmoothing()
        self._follower: Worker[Prediction, Prediction] = Worker(
            f"{label}outputs", NewestSlot(), self._publish_outputs, self._output_error
        )

    @property
    def shows_frames(self) -> bool:
        """Whether somebody subscribes to an output that shows the frame."""
        return any(output.shows_frame and output.is_wanted for output in self._outputs)

    def smoothed(self, density: Density, time_s: float, orientation: Floats | None) -> Density:
        """The smoothed map (h, w) after the next one, of this time."""
        self._smoothing.settings = self._parameters().smoothing
        return self._smoothing.update(density, time_s, orientation)

    def publish(self, prediction: Prediction) -> None:
        """Publish a map, and write it to shared memory if that is wanted."""
        parameters = self._parameters()
        if self._shared is not None:
            try:
                self._shared.publish(prediction, parameters)
            except Exception as error:  # the topic must not suffer from it
                self._warnings.warn(
                    "shm", f"{self._label}a map could not be written to shared memory: {describe(error)}"
                )
        self._saliency.publish(prediction, parameters)

    def derive(self, prediction: Prediction) -> None:
        """Let the other thread publish what is derived from a map; it replaces one that is still waiting."""
        wanted = [output for output in self._outputs if output.is_wanted]
        if wanted and self._follower.offer(prediction):
            for output in wanted:
                output.count_dropped()

    def stuck_s(self) -> float:
        """Seconds since the outputs began the current map; 0 while they wait for one."""
        return self._follower.busy_s

    def revive(self) -> bool:
        """Restart the thread if it has died; returns whether it had."""
        return self._follower.revive()

    def stop(self, timeout_s: float) -> bool:
        """Finish the current outputs and end their thread; returns whether it ended in time."""
        self.is_stopped = True
        return self._follower.stop(timeout_s)

    def _publish_outputs(self, prediction: Prediction) -> None:
        parameters = self._parameters()
        for output in self._outputs:
            if not output.is_wanted:
                continue
            try:
                output.publish(prediction, parameters)
            except BaseException as error:  # an output that fails must not stop the others
                self._warnings.warn(output.topic, f"{output.topic} failed: {describe(error)}")

    def _output_error(self, error: BaseException) -> None:
        self._warnings.warn("outputs", f"{self._label}the outputs of a map failed: {describe(error)}")


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
    view: View
    """What the network sees of it."""
    rig_to_upright: Floats | None
    """(3, 3), if maps are fused; None: the rig is upright."""
    up: Floats | None
    """(3,) unit vector, up in the image's body axes; None if it is not known."""
    time: FrameTime
    begin_s: float
    """When its processing began, by `time.perf_counter`."""


class Answer(NamedTuple):
    """The network's map of a frame, for a fused map."""

    density: Density
    """(h, w) as the network sees it: in upright axes, and also where the camera has no picture."""
    orientation: Floats | None
    """(3, 3), the camera's axes in a fixed frame, if it is known."""
    time_s: float


class Inputs(NamedTuple):
    """What is known about a camera besides its frames."""

    orientation: OrientationInput | None
    """None if orientation is not used."""
    level: LevelInput
    is_fused: bool
    """Whether its maps become part of a fused map."""


class _Levelled(NamedTuple):
    """How a camera is levelled for the network; fields as those of `PreparedFrame`."""

    rotation: Floats | None = None
    """(3, 3), from the camera's body axes to upright axes; None: they are the same."""
    rig_to_upright: Floats | None = None
    up: Floats | None = None


class CameraStream:
    """Prepares the frames of one camera, and publishes their maps.

    Args:
        name: the camera's name, for the log; "" if it is the only one.
        spec: the model's.
        saliency, outputs: as for `MapStream`.
        parameters: returns the parameter values for the next frame.
        inputs: orientation and tilt.
        view: looks the frames up; its tables outlive the stream.
        statistics: counts and times the frames.
        now_ns: the node's clock, nanoseconds, for the age of the frames.
        logger: receives warnings.
        shared: as for `MapStream`.
    """

    def __init__(
        self,
        name: str,
        spec: ModelSpec,
        saliency: OutputPublisher,
        outputs: Sequence[OutputPublisher],
        parameters: Callable[[], SaliencyParameters],
        inputs: Inputs,
        view: CameraView,
        statistics: FrameStatistics,
        now_ns: Callable[[], int],
        logger: RcutilsLogger,
        shared: SharedMaps | None = None,
    ) -> None:
        self.answered = 0
        """Number of maps published."""
        self._label = f"{name}: " if name else ""
        self._spec = spec
        self._parameters = parameters
        self._inputs = inputs
        self._statistics = statistics
        self._now_ns = now_ns
        self._warnings = ThrottledWarnings(logger.warning)
        self._maps = MapStream(self._label, saliency, outputs, parameters, self._warnings, shared)
        self._view = view
        self._stream_time = StreamTime()
        self._last_orientation = LastOrientation()
        self._last_stamp_ns: int | None = None
        self._has_frame = False  # whether a frame is between `prepare` and its map
        self._is_abandoned = False

    def count_received(self) -> None:
        """Count a frame that has arrived."""
        self._statistics.count_received()

    def count_superseded(self) -> None:
        """Count a frame that is dropped before it was processed."""
        self._statistics.count_superseded()

    def prepare(self, frame: Frame) -> PreparedFrame:
        """Decode a frame and look it up for the network; `answer` or `reject` must follow.

        Raises:
            FrameError: the frame cannot be used.
        """
        self._has_frame = True
        begin_s = time.perf_counter()
        parameters, header = self._parameters(), frame.message.header
        frame_time = self._time_of(stamp_nanoseconds(header), frame.arrival_ns)
        image, channels = decode_frame(frame.message, self._rows_needed(parameters), parameters.max_pixels)
        levelled = self._levelling(header, frame_time, parameters)
        view = self._view.see(image, *frame_size(frame.message), parameters.camera, levelled.rotation)
        if parameters.level:
            self._inputs.level.offer(view.picture, channels, levelled.rotation)
        return PreparedFrame(
            frame, parameters, image, channels, view, levelled.rig_to_upright, levelled.up, frame_time, begin_s
        )

    def answer(self, prepared: PreparedFrame, density: Density) -> Answer | None:
        """Smooth and publish the map (h, w) of what the network saw, and start the outputs derived from it.

        Returns:
            The map for a fused one; None if the stream was stopped meanwhile.
        """
        if self._maps.is_stopped:
            self._end_frame(self._statistics.count_superseded)
            return None
        parameters, header = prepared.parameters, prepared.frame.message.header
        upright = scale_prior(density, self._spec, parameters.prior_strength)
        density = prepared.view.lookup.to_camera(upright) if prepared.view.lookup is not None else upright
        density = add_front_prior(density, parameters.front_strength, -parameters.yaw_offset_rad)
        time_s = prepared.time.time_ns * 1e-9
        orientation = self._orientation_at(self._stamp_of(header, prepared.time), time_s, parameters)
        density = self._maps.smoothed(density, time_s, orientation)
        answer = Prediction(
            header,
            prepared.image,
            prepared.channels,
            *frame_size(prepared.frame.message),
            density,
            orientation,
            time_s,
            prepared.view.camera,
            prepared.view.layout if parameters.saliency.layout == "source" else EQUIRECTANGULAR,
            prepared.up,
        )
        self._maps.publish(answer)
        stamp_ns = stamp_nanoseconds(header)
        age_s = (self._now_ns() - stamp_ns) * 1e-9 if stamp_ns else math.nan
        self._statistics.count_answered(time.perf_counter() - prepared.begin_s, age_s)
        self._has_frame = False
        self.answered += 1
        self._maps.derive(answer)
        return Answer(upright, orientation, time_s)

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
        return self._maps.stuck_s()

    def revive(self) -> bool:
        """Restart the thread of the outputs if it has died; returns whether it had."""
        return self._maps.revive()

    def discard(self) -> None:
        """Publish no more maps: a frame that is being processed counts as dropped."""
        self._maps.is_stopped = True

    def abandon(self) -> None:
        """Ignore the result of an inference that does not return; a frame that is in it counts as rejected."""
        if self._has_frame:
            self._statistics.count_rejected("inference_failed")
        self._is_abandoned = True

    def stop(self, timeout_s: float) -> bool:
        """Finish the current outputs and end their thread; returns whether it ended in time."""
        return self._maps.stop(timeout_s)

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

    def _stamp_of(self, header: Header, frame_time: FrameTime) -> int:
        """The time of a frame by the clock of the orientation's stamps, nanoseconds."""
        return self._now_ns() if frame_time.stands_still else stamp_nanoseconds(header)

    def _orientation_at(self, stamp_ns: int, time_s: float, parameters: SaliencyParameters) -> Floats | None:
        if self._inputs.orientation is None:
            return None
        measured = self._inputs.orientation.at(stamp_ns)
        self._statistics.count_orientation(measured is not None)
        return self._last_orientation.update(measured, time_s, parameters.orientation_hold_s)

    def _levelling(self, header: Header, frame_time: FrameTime, parameters: SaliencyParameters) -> _Levelled:
        """The rotations from the camera's body axes and, if maps are fused, from the rig's to upright axes.

        Raises:
            FrameError: maps are fused and the camera's mount is not known.
        """
        inputs = self._inputs
        if not (inputs.is_fused or (parameters.level and inputs.level.is_used)):
            return _Levelled()
        level = inputs.level.at(self._stamp_of(header, frame_time), header.frame_id, parameters)
        if not inputs.is_fused:
            if level is None:
                return _Levelled()
            return _Levelled(rotation_to_upright(inputs.level.settled(level.up)), None, level.up)
        if level is None:
            raise FrameError(
                "the camera's mount is not known yet, so its map cannot be fused",
                "check that tf2 has the mount's frame",
                reason="camera_mismatch",
            )
        rig_to_upright = None
        if parameters.level:
            rig_to_upright = rotation_to_upright(inputs.level.settled(level.mounted @ level.up))
        rotation = level.mounted if rig_to_upright is None else rig_to_upright @ level.mounted
        return _Levelled(rotation, rig_to_upright, level.up)

    def _rows_needed(self, parameters: SaliencyParameters) -> int:
        """Minimum number of rows to which a compressed frame may be reduced during decoding; 0: no reduction."""
        if not parameters.camera.is_plain:
            return 0
        rows = self._spec.input_height
        if self._maps.shows_frames:
            return max(rows, parameters.overlay_height_px) if parameters.overlay_height_px else 0
        return rows
