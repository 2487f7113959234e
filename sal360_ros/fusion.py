"""One map of the sphere from the maps of several cameras of one rig."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from rclpy.impl.rcutils_logger import RcutilsLogger
from std_msgs.msg import Header

from sal360.arrays import Density, Floats, Pixels, Reals
from sal360.density import normalised
from sal360.predictor import add_front_prior
from sal360.projection import Maps, remap_sphere, rotation_maps
from sal360.sphere import solid_angles
from sal360_ros.diagnostics import ThrottledWarnings, describe
from sal360_ros.messages import frame_size
from sal360_ros.parameters import SaliencyParameters
from sal360_ros.shared_maps import SharedMaps
from sal360_ros.stream import Answer, MapStream, PreparedFrame
from sal360_ros.topics import OutputPublisher, Prediction

_MIN_SEEN = 1e-3


class _Part(NamedTuple):
    """What one camera saw last, in the rig's axes."""

    density: Density
    """(h, w), relative to uniform within what the camera sees."""
    seen: Reals
    """(h, w) 0 to 1."""
    picture: Pixels | None
    """(H, W, 3) uint8, blue, green, red; None if nobody looks."""
    frame_height: int
    """Rows of the camera's frame as it was sent."""
    arrival_ns: int


class Fusion:
    """Publishes the fused map of the cameras' newest maps.

    In a direction that several cameras see, the densities are averaged, weighted by how much each sees of it. Each
    camera's map says how gaze divides within its own view; between views that do not overlap, gaze divides as their
    solid angles do.

    Args:
        saliency, outputs: as for `MapStream`.
        parameters: returns the common parameter values.
        logger: receives warnings.
        shared: as for `MapStream`.
    """

    def __init__(
        self,
        saliency: OutputPublisher,
        outputs: Sequence[OutputPublisher],
        parameters: Callable[[], SaliencyParameters],
        logger: RcutilsLogger,
        shared: SharedMaps | None = None,
    ) -> None:
        self._parameters = parameters
        self._warnings = ThrottledWarnings(logger.warning)
        self._maps = MapStream("fused: ", saliency, outputs, parameters, self._warnings, shared)
        self._parts: dict[int, _Part] = {}
        self._newest: tuple[Header, Answer] | None = None

    def add(self, camera: int, prepared: PreparedFrame, answer: Answer) -> None:
        """Take a camera's new map into account."""
        seen = _seen(prepared, answer.density.shape)
        density, picture = answer.density, self._picture(prepared)
        if (turn := prepared.rig_to_upright) is not None:
            density, seen = remap_sphere(density, _maps(turn, density)), remap_sphere(seen, _maps(turn, seen))
            picture = remap_sphere(picture, _maps(turn, picture)) if picture is not None else None
        weighted = density * seen
        gaze, share = _mean(weighted), _mean(seen)
        if gaze > 0:
            message, arrival_ns = prepared.frame
            scaled = density * np.float32(share / gaze)
            self._parts[camera] = _Part(scaled, seen, picture, frame_size(message)[0], arrival_ns)
        self._newest = prepared.frame.message.header, answer

    def publish(self) -> None:
        """Publish the fused map of the cameras whose last map is at most `smoothing.reset_gap_s` old."""
        if self._newest is None or self._maps.is_stopped:
            return
        parameters = self._parameters()
        header, answer = self._newest
        oldest_ns = time.monotonic_ns() - parameters.smoothing.reset_gap_s * 1e9
        newest_ns = max((part.arrival_ns for part in self._parts.values()), default=0)
        oldest_ns = min(oldest_ns, newest_ns)
        parts = [part for part in self._parts.values() if part.arrival_ns >= oldest_ns]
        if not parts:
            return
        try:
            self._publish(parts, Header(stamp=header.stamp, frame_id=parameters.fuse_frame_id), answer, parameters)
        except Exception as error:  # the cameras' maps must not suffer from it
            self._warnings.warn("fused", f"the fused map failed: {describe(error)}")

    def _publish(self, parts: list[_Part], header: Header, answer: Answer, parameters: SaliencyParameters) -> None:
        density = fused([part.density for part in parts], [part.seen for part in parts])
        density = add_front_prior(density, parameters.front_strength)
        density = self._maps.smoothed(density, answer.time_s, answer.orientation)
        height = max(part.frame_height for part in parts)
        prediction = Prediction(
            header, _composed(parts), "bgr", height, 2 * height, density, answer.orientation, answer.time_s, None
        )
        self._maps.publish(prediction)
        self._maps.derive(prediction)

    def revive(self) -> bool:
        """Restart the thread of the outputs if it has died; returns whether it had."""
        return self._maps.revive()

    def stop(self, timeout_s: float) -> bool:
        """Finish the current outputs and end their thread; returns whether it ended in time."""
        return self._maps.stop(timeout_s)

    def _picture(self, prepared: PreparedFrame) -> Pixels | None:
        if not self._maps.shows_frames:
            return None
        picture = prepared.view.picture
        return picture if prepared.channels == "bgr" else np.ascontiguousarray(picture[..., ::-1])


def fused(densities: Sequence[Density], seen: Sequence[Reals]) -> Density:
    """The mean of maps (h, w), weighted in each direction by who sees it, (h, w) 0 to 1; 0 where nobody does.

    Args:
        densities: each relative to uniform within what its camera sees.

    Returns:
        (h, w) float32, mean 1 on the sphere.
    """
    weights = sum(seen[1:], start=seen[0])
    weighted = sum(
        (density * weight for density, weight in zip(densities[1:], seen[1:], strict=True)),
        start=densities[0] * seen[0],
    )
    return normalised(np.where(weights > _MIN_SEEN, weighted / np.maximum(weights, _MIN_SEEN), 0))


def _seen(prepared: PreparedFrame, shape: tuple[int, ...]) -> Reals:
    """(h, w) float32, 0 to 1: how much the camera sees, in the axes of what the network sees."""
    if prepared.view.lookup is None:
        return np.ones(shape, np.float32)
    size = (shape[1], shape[0])
    seen = cv2.resize(prepared.view.lookup.seen.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return seen.astype(np.float32, copy=False)


def _maps(rig_to_upright: Floats, values: NDArray[Any]) -> Maps:
    """The maps of `remap_sphere` that turn values (h, w, ...) in upright axes into the rig's axes."""
    return rotation_maps(rig_to_upright.T, values.shape[0], values.shape[1])


def _mean(values: Reals) -> float:
    """The mean of values (h, w) over the sphere."""
    height, width = values.shape
    return float(values.sum(axis=1) @ solid_angles(height, width)[:, 0]) / float(
        solid_angles(height, width)[:, 0].sum() * width
    )


def _composed(parts: Sequence[_Part]) -> Pixels:
    """What the cameras see as one picture (H, W, 3), blue, green, red; black where nobody sees anything."""
    shown = [(part.picture, part.seen) for part in parts if part.picture is not None]
    if not shown:
        return np.zeros((*parts[0].density.shape, 3), np.uint8)
    height, width = max(picture.shape[:2] for picture, _ in shown)
    total: Floats = np.full((height, width, 1), _MIN_SEEN)
    mixed: Floats = np.zeros((height, width, 3))
    for picture, seen in shown:
        weight = cv2.resize(seen, (width, height)).astype(np.float64)[..., None]
        total = total + weight
        mixed = mixed + weight * cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA).astype(np.float64)
    composed: Pixels = (mixed / total + 0.5).astype(np.uint8)
    return composed
