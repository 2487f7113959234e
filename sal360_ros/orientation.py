"""The camera's orientation at the time of a frame, from an IMU or odometry.

Only yaw is used. Changes in yaw are the same for all devices that are fixed to the robot, so no calibration between
camera and IMU is needed; roll and pitch would need one.
"""

from __future__ import annotations

import bisect
import math
import threading
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.node import Node
from sensor_msgs.msg import Imu

from sal360.arrays import Floats
from sal360.errors import ParameterError
from sal360.sphere import rotation_from_quaternion, rotation_yaw_pitch_roll
from sal360_ros.diagnostics import ThrottledWarnings
from sal360_ros.messages import stamp_nanoseconds
from sal360_ros.qos import input_qos, overridable

KEPT_S = 2.0
MAX_DISTANCE_S = 0.1


class YawHistory:
    """The yaw over the last `KEPT_S` seconds; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stamps_ns: list[int] = []
        self._yaws_rad: list[float] = []

    def add(self, stamp_ns: int, yaw_rad: float) -> None:
        """Add a yaw in radians; a stamp that is not newer than the last one starts a new history."""
        with self._lock:
            if self._stamps_ns and stamp_ns <= self._stamps_ns[-1]:
                self._stamps_ns, self._yaws_rad = [], []
            if self._yaws_rad:  # unwrapped, so that interpolation takes the short way
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
            right = bisect.bisect_left(stamps_ns, stamp_ns)
            near = [each for each in (right - 1, right) if 0 <= each < len(stamps_ns)]
            near = [each for each in near if abs(stamps_ns[each] - stamp_ns) <= MAX_DISTANCE_S * 1e9]
            if not near:
                return None
            first, last = near[0], near[-1]
            if first == last:
                return yaws_rad[first]
            share = (stamp_ns - stamps_ns[first]) / (stamps_ns[last] - stamps_ns[first])
            return yaws_rad[first] + share * (yaws_rad[last] - yaws_rad[first])


class OrientationInput:
    """Subscribes to `imu` or `odom` and gives the camera's orientation at a time.

    Args:
        source: "imu" (sensor_msgs/Imu) or "odometry" (nav_msgs/Odometry).
    """

    def __init__(self, node: Node, source: str) -> None:
        self._node = node
        self._history = YawHistory()
        self._warnings = ThrottledWarnings(node.get_logger().warning)
        kind, topic, callback = (Imu, "imu", self._on_imu) if source == "imu" else (Odometry, "odom", self._on_odometry)
        self._subscription = node.create_subscription(
            kind, topic, callback, input_qos(depth=50), qos_overriding_options=overridable()
        )

    def at(self, stamp_ns: int) -> Floats | None:
        """The rotation (3, 3) from the camera's body axes to a fixed frame; None if no sample is near that time."""
        yaw_rad = self._history.at(stamp_ns)
        return None if yaw_rad is None else rotation_yaw_pitch_roll(yaw_rad=yaw_rad)

    def destroy(self) -> None:
        """Remove the subscription."""
        self._node.destroy_subscription(self._subscription)

    def _on_imu(self, message: Imu) -> None:
        if message.orientation_covariance[0] == -1:  # sensor_msgs/Imu: there is no orientation estimate
            self._warnings.warn(
                "no orientation",
                "the IMU publishes no orientation; run it through a filter (imu_filter_madgwick), or set orientation "
                "to odometry",
            )
            return
        self._add(stamp_nanoseconds(message.header), message.orientation)

    def _on_odometry(self, message: Odometry) -> None:
        self._add(stamp_nanoseconds(message.header), message.pose.pose.orientation)

    def _add(self, stamp_ns: int, quaternion: Any) -> None:
        try:
            rotation = rotation_from_quaternion(quaternion.w, quaternion.x, quaternion.y, quaternion.z)
        except ParameterError as error:
            self._warnings.warn("quaternion", str(error))
            return
        self._history.add(stamp_ns, math.atan2(rotation[1, 0], rotation[0, 0]))
