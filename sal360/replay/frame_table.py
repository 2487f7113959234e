"""What is known of each frame after a run: the lines of the table, made one after the other as answers come."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from sal360.ground_truth import GazeRecord
from sal360.metrics import paper_protocol, standard_protocol
from sal360.outputs.smoothing import map_distance
from sal360.outputs.targets import TargetSelector, find_peaks
from sal360.replay.recording import ReplayedFrame
from sal360.sources.pictures import panned
from sal360.sphere import Array, angles_to_vector, pixel_to_angles, rotation_yaw_pitch_roll, vector_to_angles

_HEIGHT, _WIDTH = 64, 128
_UPSAMPLING = 8


def edges_of(image: Array) -> Array:
    """What `yaw_between` compares: horizontal gradients of a small grey picture, (64, 128) float32.

    Args:
        image: frame (H, W, 3) uint8 in either channel order.
    """
    small = cv2.resize(image, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA).astype(np.float32).mean(axis=2)
    _, elevation = pixel_to_angles(0, np.arange(_HEIGHT), _HEIGHT, _WIDTH)
    # gradients, because the shade of a whole row says nothing of a turn; cosine, because rows shrink to the poles
    gradients: Array = (small - np.roll(small, 1, axis=1)) * np.cos(elevation)[:, None].astype(np.float32)
    return gradients


def yaw_between(before: Array, after: Array) -> float:
    """By how much the camera turned to the left between two frames, radians in (−π, π]: 0 where nothing matches.

    The peak of the circular cross-correlation of their `edges_of` along longitude. Exact to some hundredths of a degree
    for a pure yaw of a distant scene; pitch, roll and translation stay in what is left.
    """
    spectrum = (np.conj(np.fft.rfft(before, axis=1)) * np.fft.rfft(after, axis=1)).sum(axis=0)  # (65,)
    # the frequencies that alias pull the peak towards whole columns: a Gaussian of two columns takes them out
    spectrum *= np.exp(-2 * (math.pi * 2 * np.arange(spectrum.size) / _WIDTH) ** 2)
    fine = _WIDTH * _UPSAMPLING
    correlation = np.fft.irfft(spectrum, n=fine)  # by how far the scene moved to the right
    peak = int(correlation.argmax())
    if correlation[peak] <= 0:
        return 0.0
    left, middle, right = correlation[[peak - 1, peak, (peak + 1) % fine]]
    bend = left - 2 * middle + right
    offset = 0.5 * (left - right) / bend if bend < 0 else 0.0
    # a scene that moves to the right is seen by a camera that turns to the left
    return math.remainder((peak + offset) * 2 * math.pi / fine, 2 * math.pi)


def unexplained_change(before: Array, after: Array, yaw_rad: float) -> float:
    """Share of the density, [0, 1], that moved between two maps (h, w) beside what the camera's turn moved."""
    return map_distance(panned(before, yaw_rad), after)


PROTOCOLS: Mapping[str, Callable[[Array, GazeRecord], dict[str, float]]] = {
    "standard": standard_protocol,
    "paper": paper_protocol,
}


@dataclass(frozen=True)
class FrameRow:
    """One frame; None where the run does not know a value."""

    index: int
    stamp_ns: int
    status: str
    reason: str = ""
    latency_ms: float | None = None
    age_at_publish_ms: float | None = None
    cost_ms: float | None = None
    cpu_ms: float | None = None
    yaw_deg: float | None = None
    """By how much the camera turned to the left since the answered frame before."""
    flicker: float | None = None
    """Share of the density that moved since then beside the turn, 0 to 1."""
    target_azimuth_deg: float | None = None
    target_elevation_deg: float | None = None
    """Where the gaze target is, in the camera's body axes."""
    target_since_s: float | None = None
    """When it was chosen: as long as this stays, it is the same target."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Metrics against the ground truth, named <protocol>_<metric>."""

    @property
    def target(self) -> Array | None:
        """The gaze target, unit vector (3,) in the camera's body axes."""
        if self.target_azimuth_deg is None or self.target_elevation_deg is None:
            return None
        return angles_to_vector(math.radians(self.target_azimuth_deg), math.radians(self.target_elevation_deg))


class RowMaker:
    """Turns the answers of one run, in their order, into rows.

    Args:
        protocols: of `PROTOCOLS`, for frames with ground truth.
    """

    def __init__(self, protocols: Sequence[str] = ()) -> None:
        self._protocols = protocols
        self._before: tuple[Array, Array] | None = None  # edges and map of the answered frame before
        self._yaw_rad = 0.0  # of the camera since the first frame
        self._selector = TargetSelector()

    def row(self, answer: ReplayedFrame, truth: GazeRecord | None = None) -> FrameRow:
        """The row of the next frame, with what is known of the gaze at it."""
        frame = answer.frame
        return FrameRow(
            index=frame.index,
            stamp_ns=frame.stamp_ns,
            status=answer.status,
            reason=answer.reason,
            latency_ms=answer.latency_ms,
            age_at_publish_ms=answer.age_at_publish_ms,
            cost_ms=answer.cost_ms,
            cpu_ms=answer.cpu_ms,
            **self._of_map(answer.picture[0], answer.density, frame.stamp_ns / 1e9) if answer.picture else {},
            scores=self._scores(answer.density, truth),
        )

    def _of_map(self, image: Array, density: Array | None, stamp_s: float) -> dict[str, float]:
        if density is None:
            return {}
        values: dict[str, float] = {}
        edges = edges_of(image)
        if self._before is not None and self._before[1].shape == density.shape:
            yaw_rad = yaw_between(self._before[0], edges)
            self._yaw_rad += yaw_rad
            values["yaw_deg"] = math.degrees(yaw_rad)
            values["flicker"] = unexplained_change(self._before[1], density, yaw_rad)
        self._before = edges, density
        target = self._selector.update(find_peaks(density), stamp_s, rotation_yaw_pitch_roll(self._yaw_rad))
        if target is not None:
            azimuth_rad, elevation_rad = vector_to_angles(target.direction)
            values["target_azimuth_deg"] = math.degrees(azimuth_rad)
            values["target_elevation_deg"] = math.degrees(elevation_rad)
            values["target_since_s"] = target.since_s
        return values

    def _scores(self, density: Array | None, truth: GazeRecord | None) -> dict[str, float]:
        if density is None or truth is None:
            return {}
        return {
            f"{protocol}_{metric}": value
            for protocol in self._protocols
            for metric, value in PROTOCOLS[protocol](density, truth).items()
        }


def column(rows: list[FrameRow], name: str) -> Array:
    """The known values of one column, or of one score, in order."""
    values = (row.scores.get(name) if name not in FrameRow.__dataclass_fields__ else getattr(row, name) for row in rows)
    return np.array([value for value in values if value is not None], np.float64)
