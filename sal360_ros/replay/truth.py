"""Ground truth of each frame of a recording, matched by stamp; fixations alone become a density."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from sal360_ros.errors import DataError
from sal360_ros.fixation_density import HEADSET_SIGMA_DEG, check_sigma, spherical_density
from sal360_ros.ground_truth import GazeRecord
from sal360_ros.replay.recording import Recording
from sal360_ros.replay.truth_sources import TruthEntry, read_truth
from sal360_ros.sphere import Array, frame_to_body

DENSITY_SIZE = (256, 512)
"""Rows and columns of densities made of fixations; a pixel is 0.7 degrees wide."""


class GroundTruth:
    """What is known of the gaze at each frame.

    Each entry belongs to the frame with the nearest stamp. All fixations of a frame count together; of several maps
    the nearest in time is taken. A frame that has fixations and no map gets their density.

    Args:
        recording: whose frames are meant.
        sources: topics of its bag, and folders.
        tolerance_s: entries further than this from every frame belong to none.
        convention: axes of the fixations (`sphere.FRAME_CONVENTIONS`).
        sigma_deg: deviation of each fixation's kernel in a density made of them, degrees.

    Raises:
        ParameterError: sigma_deg is below half a pixel of `DENSITY_SIZE` or larger than 60.
        DataError: a source cannot be read, or no entry belongs to any frame.
    """

    def __init__(
        self,
        recording: Recording,
        sources: Sequence[str],
        *,
        tolerance_s: float = 0.05,
        convention: str = "body",
        sigma_deg: float = HEADSET_SIGMA_DEG,
    ) -> None:
        check_sigma(sigma_deg, *DENSITY_SIZE)
        self._name = recording.name
        self._convention = convention
        self._sigma_deg = sigma_deg
        self._entries: dict[int, list[tuple[int, TruthEntry]]] = defaultdict(list)
        stamps_ns = np.array([frame.stamp_ns for frame in recording.frames()], np.int64)
        order = np.argsort(stamps_ns, kind="stable")
        self.unmatched = 0
        """Entries that belong to no frame."""
        for source in sources:
            for entry in read_truth(source, recording):
                index, distance_ns = _nearest(stamps_ns, order, entry.stamp_ns)
                if distance_ns <= tolerance_s * 1e9:
                    self._entries[index].append((distance_ns, entry))
                else:
                    self.unmatched += 1
        if sources and not self._entries:
            raise DataError(
                f"no entry of {', '.join(sources)} ({self.unmatched}) lies within {tolerance_s:g} s of a frame",
                "ground truth with the stamps of the frames",
                "check its clock, or raise --truth-tolerance-s",
            )

    def at(self, index: int) -> GazeRecord | None:
        """The ground truth of the frame `index`, None where there is none.

        Raises:
            DataError: it holds what is no map or no direction.
        """
        entries = self._entries.get(index)
        if not entries:
            return None
        vectors = np.concatenate([entry.fixations for _, entry in entries])
        observer = np.concatenate([entry.observer for _, entry in entries])
        maps = [(distance_ns, entry.density) for distance_ns, entry in entries if entry.density is not None]
        density = min(maps, key=lambda each: each[0])[1]() if maps else None
        record = GazeRecord(
            f"{self._name}, frame {index}",
            _no_panorama,
            _unit(frame_to_body(vectors, self._convention)),
            observer,
            np.full(len(vectors), np.nan),
            density,
        )
        if density is None and len(vectors):
            blurred = spherical_density(record.fixations, *DENSITY_SIZE, self._sigma_deg)
            record = dataclasses.replace(record, density=blurred)
        return record


def _nearest(stamps_ns: Array, order: Array, stamp_ns: int) -> tuple[int, int]:
    """Index of the frame nearest in time and how far it is, nanoseconds."""
    after = int(np.searchsorted(stamps_ns, stamp_ns, sorter=order))
    candidates = [int(index) for index in order[max(0, after - 1) : after + 1]]
    if not candidates:
        return -1, 2**63
    index = min(candidates, key=lambda each: abs(int(stamps_ns[each]) - stamp_ns))
    return index, abs(int(stamps_ns[index]) - stamp_ns)


def _unit(vectors: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):  # GazeRecord refuses what is no direction, with its name
        unit: Array = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit


def _no_panorama() -> Array:
    raise DataError("the frame is in the bag", "a reader of the bag", "use sources.open_source")
