"""Which way is up for a camera: from its mount, from an IMU or odometry, or estimated from its pictures."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import numpy as np
from rclpy.node import Node
from rclpy.time import Time

from sal360.arrays import Floats, Pixels
from sal360.cameras.levelling import (
    UP,
    RunningLevel,
    UpEstimate,
    estimate_up,
    levelling_quaternion,
    levelling_rotation,
    roll_and_pitch,
)
from sal360.errors import ParameterError
from sal360.sphere import body_to_frame, rotation_from_quaternion, rotation_yaw_pitch_roll
from sal360_ros.diagnostics import ThrottledWarnings, describe
from sal360_ros.mount import Mount
from sal360_ros.parameters import SaliencyParameters

_TOLERANCE_RAD = math.radians(1)
"""A change of tilt that keeps the lookup tables: it changes a map by less than the noise of an IMU does."""


class Levelling(NamedTuple):
    """How a camera's body axes lie in the world."""

    mounted: Floats
    """(3, 3), from the body axes of the image to those of the robot, or of the IMU."""
    up: Floats
    """(3,) unit vector, up in the body axes of the image."""


class MountFrames:
    """The rotation between the frames of tf2.

    Raises:
        ParameterError: tf2_ros is not installed.
    """

    def __init__(self, node: Node, frame: str) -> None:
        check_tf2(frame)
        import tf2_ros

        self._frame = frame
        self._buffer: Any = tf2_ros.Buffer()
        self._listener: Any = tf2_ros.TransformListener(self._buffer, node, spin_thread=False)

    def rotation(self, frame_id: str) -> Floats:
        """The newest rotation (3, 3) from the axes of `frame_id` to those of the mount's frame.

        Raises:
            Exception: tf2 does not know it.
        """
        q = self._buffer.lookup_transform(self._frame, frame_id, Time()).transform.rotation
        return rotation_from_quaternion(q.w, q.x, q.y, q.z)

    def destroy(self) -> None:
        """Remove the subscriptions."""
        self._listener.unregister()


def check_tf2(frame: str) -> None:
    """Refuse a tf2 frame where tf2 is not installed.

    Raises:
        ParameterError: naming the package.
    """
    if importlib.util.find_spec("tf2_ros") is None:
        raise ParameterError(
            f"mount is the tf2 frame {frame!r}, and tf2_ros is not installed",
            "install ros-$ROS_DISTRO-tf2-ros-py, or set mount to a quaternion",
        )


class TiltEstimator:
    """Estimates up from some of a camera's pictures, in a thread of its own, so that no frame waits for it.

    Args:
        say: logs one line when the direction that is used changes.
        warn: logs one line when a picture could not be used.
        clock: monotonic time, seconds.
    """

    PERIOD_S = 5.0
    """Time between two pictures: an estimate takes one core for some 0.15 s."""

    def __init__(
        self, say: Callable[[str], None], warn: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say, self._warn, self._clock = say, warn, clock
        self._running = RunningLevel()
        self._thread = ThreadPoolExecutor(1, "tilt")
        self._last: Future[None] | None = None
        self._next_s = -math.inf
        self.up: Floats | None = None
        """Up (3,) in the camera's body axes; None until enough pictures agree."""

    def offer(self, picture: Pixels, channels: str, rotation: Floats | None) -> None:
        """Take a picture into account if it is time for one; returns at once.

        Args:
            picture: (H, W, 3) uint8, equirectangular; must not change afterwards.
            channels: "rgb" or "bgr".
            rotation: (3, 3), from the camera's body axes to the picture's; None: they are the same.
        """
        if self._clock() < self._next_s or (self._last is not None and not self._last.done()):
            return
        self._next_s = self._clock() + self.PERIOD_S
        self._last = self._thread.submit(self._update, picture, channels, rotation)

    def wait(self) -> None:
        """Wait until the last picture is taken into account."""
        if self._last is not None:
            self._last.result()

    def close(self) -> None:
        """End the thread, after the picture that it is at."""
        self._thread.shutdown(cancel_futures=True)

    def _update(self, picture: Pixels, channels: str, rotation: Floats | None) -> None:
        try:
            bgr = (
                picture if channels == "bgr" else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR).astype(np.uint8, copy=False)
            )
            estimate = estimate_up(bgr)
        except Exception as error:  # the camera's maps go on without it
            self._warn(f"the camera's tilt could not be estimated from a picture: {describe(error)}")
            return
        up = estimate.up if rotation is None else rotation.T @ estimate.up
        self._running.add(UpEstimate(up, estimate.confidence))
        trusted = self._running.trusted
        if trusted is not None and trusted.up is not self.up:
            self.up = trusted.up
            roll_deg, pitch_deg = (math.degrees(each) for each in roll_and_pitch(trusted.up))
            mount = " ".join(f"{round(each, 4) + 0.0:g}" for each in levelling_quaternion(trusted.up))
            self._say(f"tilt estimated: roll {roll_deg:.1f}°, pitch {pitch_deg:.1f}°, as mount: {mount}")


class LevelInput:
    """Which way is up for one camera, frame by frame.

    Args:
        node: owns the subscriptions of tf2.
        label: begins every line of the log.
        mount: how the camera is mounted.
        measured: maps a stamp in nanoseconds to the rotation (3, 3) from the IMU's or the robot's axes to axes whose z
            points up, or to None if it is not known; None if there is no such source.
    """

    def __init__(self, node: Node, label: str, mount: Mount, measured: Callable[[int], Floats | None] | None) -> None:
        self._label = label
        self._mount = mount
        self._measured = measured
        self._warnings = ThrottledWarnings(node.get_logger().warning)
        self._frames = MountFrames(node, mount.frame) if mount.frame else None
        self._estimator: TiltEstimator | None = None
        if mount.is_estimated:
            self._estimator = TiltEstimator(
                lambda line: node.get_logger().info(label + line),
                lambda line: self._warnings.warn("tilt", label + line),
            )
        self._last: tuple[int, Floats] | None = None  # stamp and rotation that were measured last
        self._tilted: Floats | None = None  # up for which the present tables are made

    def at(self, stamp_ns: int, frame_id: str, parameters: SaliencyParameters) -> Levelling | None:
        """How the camera lies in the world at the time of a frame with this frame_id; None if nothing is known."""
        if self._estimator is not None:
            return Levelling(np.eye(3), self._estimator.up) if self._estimator.up is not None else None
        mounted = self._mounted(frame_id, parameters)
        measured = self._held(stamp_ns, parameters.orientation_hold_s)
        if mounted is None or (measured is None and self._mount.is_none):
            return None
        return Levelling(mounted, (mounted if measured is None else measured @ mounted)[2])

    def offer(self, picture: Pixels, channels: str, rotation: Floats | None) -> None:
        """A picture from which up can be estimated, if the mount says so; see `TiltEstimator.offer`."""
        if self._estimator is not None:
            self._estimator.offer(picture, channels, rotation)

    def settled(self, up: Floats) -> Floats:
        """Up (3,) in body axes, without changes that are too small for new lookup tables."""
        if self._tilted is None or _angle(self._tilted, up) > _TOLERANCE_RAD:
            self._tilted = up
        return self._tilted

    @property
    def is_used(self) -> bool:
        """Whether anything can give the tilt."""
        return self._measured is not None or not self._mount.is_none

    def destroy(self) -> None:
        """Remove the subscriptions, and end the thread of the estimate."""
        if self._frames is not None:
            self._frames.destroy()
        if self._estimator is not None:
            self._estimator.close()

    def _mounted(self, frame_id: str, parameters: SaliencyParameters) -> Floats | None:
        turned = rotation_yaw_pitch_roll(yaw_rad=parameters.yaw_offset_rad)  # to the axes of frame_id
        if self._frames is None:
            return self._mount.rotation @ turned
        try:
            between = self._frames.rotation(frame_id)
        except Exception as error:  # tf2 has an exception for each reason
            self._warnings.warn("tf", f"{self._label}not levelled, because tf2 has no rotation yet: {describe(error)}")
            return None
        return between @ body_to_frame(turned.T, parameters.frame_convention).T

    def _held(self, stamp_ns: int, hold_s: float) -> Floats | None:
        if self._measured is None:
            return None
        measured = self._measured(stamp_ns)
        if measured is not None:
            self._last = stamp_ns, measured
        elif self._last is not None and not 0 <= stamp_ns - self._last[0] <= hold_s * 1e9:
            self._last = None
        return self._last[1] if self._last is not None else None


def rotation_to_upright(up: Floats) -> Floats | None:
    """The rotation (3, 3) that levels a camera with this up; None if it is upright within `_TOLERANCE_RAD`."""
    if _angle(up, UP) <= _TOLERANCE_RAD:
        return None
    return levelling_rotation(up)


def _angle(first: Floats, second: Floats) -> float:
    return math.atan2(float(np.linalg.norm(np.cross(first, second))), float(first @ second))
