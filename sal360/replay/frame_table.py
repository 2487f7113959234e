"""The table of a run, one result for each frame: status, times, camera turn, flicker, target, view and metrics."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from sal360.arrays import Density, Floats, Pixels, Reals
from sal360.ground_truth import GazeRecord
from sal360.metrics import paper_protocol, standard_protocol
from sal360.outputs.smoothing import map_distance
from sal360.outputs.stream_time import StreamTime
from sal360.outputs.targets import TargetSelector, find_peaks
from sal360.projection import sample_erp
from sal360.replay.recording import ReplayedFrame
from sal360.sources.pictures import panned
from sal360.sphere import (
    angles_to_vector,
    angular_distance,
    pixel_to_angles,
    rotation_yaw_pitch_roll,
    vector_to_angles,
)

PROTOCOLS: Mapping[str, Callable[[Density, GazeRecord], dict[str, float]]] = {
    "standard": standard_protocol,
    "paper": paper_protocol,
}
"""Metrics by protocol."""


@dataclass(frozen=True)
class FrameResult:
    """One frame, a line of frames.csv; None for values that the run does not have."""

    index: int
    stamp_ns: int
    status: str
    """answered, rejected or dropped."""
    reason: str = ""
    latency_ms: float | None = None
    age_at_publish_ms: float | None = None
    cost_ms: float | None = None
    cpu_ms: float | None = None
    yaw_deg: float | None = None
    """Yaw of the camera since the previous answered frame, positive to the left."""
    flicker: float | None = None
    """Share of the density that moved since then, compensated for the yaw, 0 to 1."""
    target_azimuth_deg: float | None = None
    target_elevation_deg: float | None = None
    """Direction of the gaze target in the camera's body axes."""
    target_since_s: float | None = None
    """When the target was chosen; the same value means the same target."""
    view_azimuth_deg: float | None = None
    view_elevation_deg: float | None = None
    """Where somebody's view or head was directed, in the same axes."""
    view_density: float | None = None
    """The map there, relative to uniform."""
    view_target_deg: float | None = None
    """Angle between it and the gaze target."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Metrics against the ground truth, named <protocol>_<metric>."""

    @property
    def target(self) -> Floats | None:
        """The gaze target, unit vector (3,) in the camera's body axes."""
        if self.target_azimuth_deg is None or self.target_elevation_deg is None:
            return None
        return angles_to_vector(math.radians(self.target_azimuth_deg), math.radians(self.target_elevation_deg))


def column(results: Sequence[FrameResult], name: str) -> Floats:
    """The known values of one column or one score, in order."""
    is_score = name not in FrameResult.__dataclass_fields__
    values = (each.scores.get(name) if is_score else getattr(each, name) for each in results)
    return np.array([value for value in values if value is not None], np.float64)


class FrameTable:
    """Collects the results of one run's frames, which must be added in order.

    Args:
        protocols: keys of `PROTOCOLS`, for frames with ground truth.
    """

    def __init__(self, protocols: Sequence[str] = ()) -> None:
        self.results: list[FrameResult] = []
        self._protocols = protocols
        self._previous: tuple[Reals, Density] | None = None  # edges and map of the previous answered frame
        self._yaw_rad = 0.0  # of the camera since the first frame
        self._selector = TargetSelector()
        self._stream_time = StreamTime()

    def add(self, replayed: ReplayedFrame, truth: GazeRecord | None = None, view: Floats | None = None) -> FrameResult:
        """Append the next frame's result.

        Args:
            truth: where people looked, for the metrics.
            view: direction (3,) of somebody's view, a unit vector in body axes.
        """
        frame = replayed.frame
        result = FrameResult(
            index=frame.index,
            stamp_ns=frame.stamp_ns,
            status=replayed.status,
            reason=replayed.reason,
            latency_ms=replayed.latency_ms,
            age_at_publish_ms=replayed.age_at_publish_ms,
            cost_ms=replayed.cost_ms,
            cpu_ms=replayed.cpu_ms,
            **self._motion_and_target(replayed),
            **_view_columns(replayed.density, view),
            scores=self._scores(replayed.density, truth),
        )
        if view is not None and result.target is not None:
            apart_deg = math.degrees(float(angular_distance(view, result.target)))
            result = dataclasses.replace(result, view_target_deg=apart_deg)
        self.results.append(result)
        return result

    def _motion_and_target(self, replayed: ReplayedFrame) -> dict[str, float]:
        density = replayed.density
        if replayed.picture is None or density is None:
            return {}
        values: dict[str, float] = {}
        edges = edges_of(replayed.picture[0])
        if self._previous is not None and self._previous[1].shape == density.shape:
            yaw_rad = yaw_between(self._previous[0], edges)
            self._yaw_rad += yaw_rad
            values["yaw_deg"] = math.degrees(yaw_rad)
            values["flicker"] = unexplained_change(self._previous[1], density, yaw_rad)
        self._previous = edges, density
        camera = rotation_yaw_pitch_roll(self._yaw_rad)
        frame = replayed.frame
        time_ns = self._stream_time.update(frame.stamp_ns, frame.message.recorded_ns).time_ns
        target = self._selector.update(find_peaks(density), time_ns / 1e9, camera)
        if target is not None:
            azimuth_rad, elevation_rad = vector_to_angles(target.direction)
            values["target_azimuth_deg"] = math.degrees(azimuth_rad)
            values["target_elevation_deg"] = math.degrees(elevation_rad)
            values["target_since_s"] = target.since_s
        return values

    def _scores(self, density: Density | None, truth: GazeRecord | None) -> dict[str, float]:
        if density is None or truth is None:
            return {}
        return {
            f"{protocol}_{metric}": value
            for protocol in self._protocols
            for metric, value in PROTOCOLS[protocol](density, truth).items()
        }


def _view_columns(density: Density | None, view: Floats | None) -> dict[str, float]:
    if view is None:
        return {}
    azimuth_rad, elevation_rad = vector_to_angles(view)
    values = {
        "view_azimuth_deg": math.degrees(float(azimuth_rad)),
        "view_elevation_deg": math.degrees(float(elevation_rad)),
    }
    if density is not None:
        values["view_density"] = float(sample_erp(density, view[None, None])[0, 0])
    return values


_HEIGHT, _WIDTH = 64, 128
_UPSAMPLING = 8


def edges_of(image: Pixels) -> Reals:
    """The input of `yaw_between`: horizontal gradients of the frame as a small grey picture, (64, 128) float32.

    Args:
        image: frame (H, W, 3) uint8 in either channel order.
    """
    small = cv2.resize(image, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA).astype(np.float32).mean(axis=2)
    _, elevation = pixel_to_angles(0, np.arange(_HEIGHT), _HEIGHT, _WIDTH)
    # gradients, because a row's brightness carries no information about yaw; cosine, because rows shrink to the poles
    gradients: Reals = (small - np.roll(small, 1, axis=1)) * np.cos(elevation)[:, None].astype(np.float32)
    return gradients


def yaw_between(before: Reals, after: Reals) -> float:
    """Yaw of the camera between two frames, positive to the left, radians in (−π, π]; 0 if nothing matches.

    The peak of the circular cross-correlation of their `edges_of` along longitude. Accurate to a few hundredths of a
    degree for a pure yaw in a distant scene; pitch, roll and translation are not compensated.
    """
    spectrum = (np.conj(np.fft.rfft(before, axis=1)) * np.fft.rfft(after, axis=1)).sum(axis=0)  # (65,)
    # a Gaussian of two columns removes the frequencies that alias and pull the peak towards whole columns
    spectrum *= np.exp(-2 * (math.pi * 2 * np.arange(spectrum.size) / _WIDTH) ** 2)
    fine = _WIDTH * _UPSAMPLING
    correlation = np.fft.irfft(spectrum, n=fine)  # over the scene's shift to the right
    peak = int(correlation.argmax())
    if correlation[peak] <= 0:
        return 0.0
    left, middle, right = correlation[[peak - 1, peak, (peak + 1) % fine]]
    bend = left - 2 * middle + right
    offset = 0.5 * (left - right) / bend if bend < 0 else 0.0
    # when the camera turns to the left, the scene moves to the right
    return math.remainder((peak + offset) * 2 * math.pi / fine, 2 * math.pi)


def unexplained_change(before: Density, after: Density, yaw_rad: float) -> float:
    """Share of the density, 0 to 1, that moved between two maps (h, w), compensated for the camera's yaw."""
    return map_distance(panned(before, yaw_rad), after)
