"""What became of each frame, and the same for all frames without the node: every one once, as fast as it goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from sal360_ros.errors import FrameError
from sal360_ros.outputs.smoothing import TemporalSmoothing
from sal360_ros.predictor import Predictor
from sal360_ros.replay.recording import RecordedFrame, Recording
from sal360_ros.sphere import Array


@dataclass(frozen=True, eq=False)
class Answer:
    """What became of one frame; times are milliseconds, None where the run does not know them."""

    frame: RecordedFrame
    picture: tuple[Array, str] | None
    """The frame, (H, W, 3) uint8, and its channel order; None of a rejected frame."""
    density: Array | None = None
    """The map, (h, w) float32, relative to uniform; None where there was no answer."""
    reason: str = ""
    """Why the frame was rejected ("corrupt_jpeg"), "" where it was not."""
    latency_ms: float | None = None
    """From the frame's publication to the map's arrival at a subscriber."""
    age_at_publish_ms: float | None = None
    """From the frame's publication to the map's."""
    cost_ms: float | None = None
    """Wall time of decoding, predicting and smoothing."""
    cpu_ms: float | None = None
    """Processor time of the same, all threads together."""

    @property
    def status(self) -> str:
        """answered, rejected or dropped."""
        if self.density is not None:
            return "answered"
        return "rejected" if self.reason else "dropped"


def predicted_answers(
    recording: Recording, predictor: Predictor, smoothing: TemporalSmoothing | None = None
) -> Iterator[Answer]:
    """An answer to every frame, computed here, one after the other: deterministic, no transport, no queue.

    Args:
        smoothing: of the maps over the recorded stamps, as the node does it; None leaves each as predicted.
    """
    for frame in recording.frames():
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            picture = frame.picture()
            density = predictor.predict(*picture)
            if smoothing is not None:
                density = smoothing.update(density, frame.stamp_ns / 1e9)
        except FrameError as error:
            yield Answer(frame, None, reason=error.reason)
            continue
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        yield Answer(frame, picture, density, cost_ms=wall * 1000, cpu_ms=cpu * 1000)
