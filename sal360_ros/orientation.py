"""The camera's orientation at the time of a frame, from an IMU or odometry.

Smoothing and targets use only yaw. Changes in yaw are the same for all devices that are fixed to the robot, so no
calibration between camera and IMU is needed. Levelling uses the whole orientation (`sal360_ros.level`).
"""

from __future__ import annotations

import bisect
import math
import threading
import time
from collections import deque
from enum import Enum
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.node import Node
from sensor_msgs.msg import Imu

from sal360.arrays import Floats
from sal360.errors import ParameterError
from sal360.sphere import rotation_from_quaternion, rotation_yaw_pitch_roll
from sal360_ros.diagnostics import ThrottledWarnings, publisher_types
from sal360_ros.messages import stamp_nanoseconds
from sal360_ros.qos import input_qos, of_camera, overridable

KEPT_S = 2.0
MAX_DISTANCE_S = 0.1
_SILENCE_S = 1.0
_MIN_LEVEL = 0.1  # horizontal part of a unit x axis; below it, less than 6° from the vertical, yaw is noise
_JUMP_RAD, _MAX_RATE_RAD_S = 0.5, 30.0  # a larger change at a higher rate is no turn: the fixed frame was changed
_MAX_FRAMES = 8


class _Order(Enum):
    """How the stamp of a sample follows the newest one before."""

    NEXT = 1
    """It is as late or later."""
    LATE = 2
    """It is earlier by at most `MAX_DISTANCE_S`: best-effort delivery does not preserve the order. It is dropped."""
    SET_BACK = 3
    """It is earlier still, so the clock was set back: the samples before are those of another moment, and go."""

    @staticmethod
    def of(stamp_ns: int, newest_ns: int) -> _Order:
        """The order of two stamps, nanoseconds."""
        if stamp_ns >= newest_ns:
            return _Order.NEXT
        return _Order.LATE if newest_ns - stamp_ns <= round(MAX_DISTANCE_S * 1e9) else _Order.SET_BACK


class YawHistory:
    """The yaw over the last `KEPT_S` seconds; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stamps_ns: list[int] = []
        self._yaws_rad: list[float] = []

    def add(self, stamp_ns: int, yaw_rad: float) -> None:
        """Add a yaw in radians; one with the last stamp replaces it. For earlier stamps, see `_Order`."""
        with self._lock:
            order = _Order.of(stamp_ns, self._stamps_ns[-1] if self._stamps_ns else stamp_ns)
            if order is _Order.LATE:
                return
            if order is _Order.SET_BACK:
                self._stamps_ns, self._yaws_rad = [], []
            if self._stamps_ns and stamp_ns == self._stamps_ns[-1]:
                del self._stamps_ns[-1], self._yaws_rad[-1]
            if self._yaws_rad:  # unwrapped, so that interpolation takes the shorter way
                last_rad = self._yaws_rad[-1]
                yaw_rad = last_rad + math.remainder(yaw_rad - last_rad, 2 * math.pi)
            self._stamps_ns.append(stamp_ns)
            self._yaws_rad.append(yaw_rad)
            outdated = bisect.bisect_left(self._stamps_ns, stamp_ns - round(KEPT_S * 1e9))
            del self._stamps_ns[:outdated], self._yaws_rad[:outdated]

    def at(self, stamp_ns: int) -> float | None:
        """The yaw in radians at a time, interpolated; None if no sample is within `MAX_DISTANCE_S`."""
        with self._lock:
            stamps_ns, yaws_rad = self._stamps_ns, self._yaws_rad
            near = [each for each in self._around(stamp_ns) if abs(stamps_ns[each] - stamp_ns) <= MAX_DISTANCE_S * 1e9]
            if not near:
                return None
            first, last = near[0], near[-1]
            if first == last:
                return yaws_rad[first]
            share = (stamp_ns - stamps_ns[first]) / (stamps_ns[last] - stamps_ns[first])
            return yaws_rad[first] + share * (yaws_rad[last] - yaws_rad[first])

    def newest(self) -> tuple[int, float] | None:
        """Stamp in nanoseconds and yaw in radians of the newest sample; None if there is none."""
        with self._lock:
            return (self._stamps_ns[-1], self._yaws_rad[-1]) if self._stamps_ns else None

    def distance_s(self, stamp_ns: int) -> float:
        """Seconds from a time to the nearest sample; infinite if there is none."""
        with self._lock:
            return min(
                (abs(self._stamps_ns[each] - stamp_ns) * 1e-9 for each in self._around(stamp_ns)), default=math.inf
            )

    def _around(self, stamp_ns: int) -> list[int]:
        right = bisect.bisect_left(self._stamps_ns, stamp_ns)
        return [each for each in (right - 1, right) if 0 <= each < len(self._stamps_ns)]


class RotationHistory:
    """The rotations (3, 3) over the last `KEPT_S` seconds; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._samples: deque[tuple[int, Floats]] = deque()

    def add(self, stamp_ns: int, rotation: Floats) -> None:
        """Add a rotation; one with the last stamp replaces it. For earlier stamps, see `_Order`."""
        with self._lock:
            order = _Order.of(stamp_ns, self._samples[-1][0] if self._samples else stamp_ns)
            if order is _Order.LATE:
                return
            if order is _Order.SET_BACK:
                self._samples.clear()
            if self._samples and stamp_ns == self._samples[-1][0]:
                self._samples.pop()
            self._samples.append((stamp_ns, rotation))
            while stamp_ns - self._samples[0][0] > KEPT_S * 1e9:
                self._samples.popleft()

    def at(self, stamp_ns: int) -> Floats | None:
        """The rotation that is nearest in time; None if none is within `MAX_DISTANCE_S`."""
        with self._lock:
            nearest = min(self._samples, key=lambda each: abs(each[0] - stamp_ns), default=None)
        if nearest is None or abs(nearest[0] - stamp_ns) > MAX_DISTANCE_S * 1e9:
            return None
        return nearest[1]


class OrientationInput:
    """Subscribes to `imu` or `odom` and returns the camera's orientation at a given time.

    Args:
        source: "imu" (sensor_msgs/Imu) or "odometry" (nav_msgs/Odometry).
        camera: name of the camera, which the topic begins with; "" for the only camera.
    """

    def __init__(self, node: Node, source: str, camera: str = "") -> None:
        self._node = node
        self._history = YawHistory()
        self._rotations = RotationHistory()
        self._warnings = ThrottledWarnings(node.get_logger().warning)
        kind, name, callback = (Imu, "imu", self._on_imu) if source == "imu" else (Odometry, "odom", self._on_odometry)
        self._name = of_camera(camera, name)
        self._topic = node.resolve_topic_name(self._name)
        self._last_arrival_s = -math.inf
        self._stamp_ns, self._stamp_since_s = 0, 0.0  # stamp of the last sample, and when it was first seen
        self._offsets_rad: dict[str, float] = {}  # fixed frame → what is added to its yaws
        self._frame: str | None = None  # that of the last sample
        self._refused = ""  # why the last message had no usable orientation
        self._distance_s = math.inf  # from the last frame without an orientation to the nearest sample
        self._subscription = node.create_subscription(
            kind, self._name, callback, input_qos(depth=50), qos_overriding_options=overridable()
        )

    def at(self, stamp_ns: int) -> Floats | None:
        """The rotation (3, 3) from the camera's body axes to a fixed frame; None if no sample is near that time."""
        yaw_rad = self._history.at(stamp_ns)
        if yaw_rad is None:
            self._distance_s = self._history.distance_s(stamp_ns)
            return None
        return rotation_yaw_pitch_roll(yaw_rad=yaw_rad)

    def rotation_at(self, stamp_ns: int) -> Floats | None:
        """The measured rotation (3, 3) from the sensor's axes to axes whose z points up; None if none is known."""
        return self._rotations.at(stamp_ns)

    def cause(self) -> str:
        """Why frames have no orientation, as far as messages and graph reveal it."""
        topic = self._topic
        if not self._node.count_publishers(topic):
            return f"no publisher on {topic}; start the driver, remap {self._name}, or set orientation to none"
        if self._refused:
            return self._refused
        silence_s = time.monotonic() - self._last_arrival_s
        if silence_s > _SILENCE_S:
            since = f" for {silence_s:.0f} s" if math.isfinite(silence_s) else ""
            kinds = ", ".join(publisher_types(self._node, topic))
            return (
                f"no message arrives on {topic}{since}, although it has a publisher ({kinds}); check that it is sending"
            )
        return (
            f"the nearest sample on {topic} is {self._distance_s:.3g} s from the frame's timestamp; "
            f"at most {MAX_DISTANCE_S:g} s are allowed; check that both drivers use the same clock"
        )

    def destroy(self) -> None:
        """Remove the subscription."""
        self._node.destroy_subscription(self._subscription)

    def _on_imu(self, message: Imu) -> None:
        if message.orientation_covariance[0] == -1:  # sensor_msgs/Imu: there is no orientation estimate
            self._refuse(
                "no orientation",
                "the IMU publishes no orientation; run it through a filter (imu_filter_madgwick), or set orientation "
                "to odometry",
            )
            return
        self._add(stamp_nanoseconds(message.header), message.header.frame_id, message.orientation)

    def _on_odometry(self, message: Odometry) -> None:
        frame = f"{message.header.frame_id} to {message.child_frame_id}"
        self._add(stamp_nanoseconds(message.header), frame, message.pose.pose.orientation)

    def _add(self, stamp_ns: int, frame: str, quaternion: Any) -> None:
        try:
            rotation = rotation_from_quaternion(quaternion.w, quaternion.x, quaternion.y, quaternion.z)
        except ParameterError as error:
            self._refuse("quaternion", str(error))
            return
        time_ns = self._time_of(stamp_ns)
        self._rotations.add(time_ns, rotation)
        if math.hypot(rotation[0, 0], rotation[1, 0]) < _MIN_LEVEL:
            self._refuse(
                "vertical",
                f"the x axis of {self._topic} points up or down, so it has no yaw; publish the orientation of a frame "
                "whose x axis is level",
            )
            return
        self._refused, self._last_arrival_s = "", time.monotonic()
        self._history.add(time_ns, self._aligned(time_ns, frame, math.atan2(rotation[1, 0], rotation[0, 0])))

    def _time_of(self, stamp_ns: int) -> int:
        """The stamp of the sample that has just arrived; if stamps are zero or stand still, its time of arrival."""
        if stamp_ns != self._stamp_ns:
            self._stamp_ns, self._stamp_since_s = stamp_ns, time.monotonic()
        if stamp_ns and time.monotonic() - self._stamp_since_s <= MAX_DISTANCE_S:
            return stamp_ns
        what = "no timestamp" if stamp_ns == 0 else "a timestamp that stands still"
        self._warnings.warn("no stamp", f"messages on {self._topic} have {what}; using their arrival times")
        return self._node.get_clock().now().nanoseconds

    def _aligned(self, stamp_ns: int, frame: str, yaw_rad: float) -> float:
        """The yaw of a sample in the fixed frame of all samples.

        Sources may change their fixed frame: an odometry from `odom` to `map`, an IMU by setting its heading to zero.
        The camera has not turned meanwhile, so the first sample in another frame is given the last yaw.
        """
        newest = self._history.newest()
        changed = self._frame is not None and frame != self._frame
        self._frame = frame
        if frame not in self._offsets_rad:
            if len(self._offsets_rad) >= _MAX_FRAMES:
                self._offsets_rad.clear()
            self._offsets_rad[frame] = newest[1] - yaw_rad if newest is not None else 0.0
        elif newest is not None and not changed and _jumps(*newest, stamp_ns, yaw_rad + self._offsets_rad[frame]):
            changed = True
            self._offsets_rad[frame] = newest[1] - yaw_rad
        if changed:
            line = f"the fixed frame of {self._topic} has changed; directions are kept as the camera sees them"
            self._warnings.warn("frame", line)
        return yaw_rad + self._offsets_rad[frame]

    def _refuse(self, kind: str, line: str) -> None:
        self._refused = line
        self._warnings.warn(kind, line)


def _jumps(before_ns: int, before_rad: float, stamp_ns: int, yaw_rad: float) -> bool:
    """Whether a yaw changes faster than any camera turns."""
    change_rad = abs(math.remainder(yaw_rad - before_rad, 2 * math.pi))
    passed_s = (stamp_ns - before_ns) * 1e-9
    return change_rad > _JUMP_RAD and 0 <= passed_s * _MAX_RATE_RAD_S < change_rad


class LastOrientation:
    """Replaces a missing orientation with the last one, for a limited time."""

    def __init__(self) -> None:
        self._last: Floats | None = None
        self._time_s = -math.inf

    def update(self, measured: Floats | None, time_s: float, hold_s: float) -> Floats | None:
        """The orientation to use for a frame: the measured one, or the last one if it is at most `hold_s` old.

        Args:
            measured: (3, 3), or None if it is missing.
            time_s: time of the frame.
        """
        if measured is not None:
            self._last, self._time_s = measured, time_s
        elif not 0 <= time_s - self._time_s <= hold_s:
            self._last = None
        return self._last
