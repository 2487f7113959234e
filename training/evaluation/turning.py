"""Robustness to camera rotation: predict a rotated panorama, rotate the map back, compare it with the upright map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from sal360.ground_truth import GazeRecord
from sal360.metrics import cc, kld
from sal360.projection import rotate_erp
from sal360.sphere import rotation_yaw_pitch_roll
from training.evaluation.predictions import Predict

TURNS_DEG = (
    ("yaw", 90.0),
    ("roll", 10.0),
    ("roll", 30.0),
    ("roll", 90.0),
    ("pitch", 10.0),
    ("pitch", 30.0),
    ("pitch", 90.0),
)
"""Axis and angle in degrees: 10° is a tilted tripod, 30° a hand-held camera, 90° a camera on its side."""


@dataclass(frozen=True)
class Turned:
    """The change of one prediction under one rotation."""

    model: str
    record: str
    axis: str
    angle_deg: float
    cc: float
    """Correlation between the upright map and the map of the rotated panorama, rotated back; 1: unchanged."""
    kld: float
    """KL divergence between the two, nats; 0: unchanged."""


def measure_turning(models: Mapping[str, Predict], records: Sequence[GazeRecord]) -> list[Turned]:
    """Measure every model on every record at every rotation in `TURNS_DEG`."""
    results = []
    for record in tqdm(records, desc="turned input", unit="record", disable=None):
        panorama = record.panorama()
        for name, predict in models.items():
            upright = predict(panorama)
            for axis, angle_deg in TURNS_DEG:
                rotation = rotation_yaw_pitch_roll(**{f"{axis}_rad": math.radians(angle_deg)})
                turned = predict(rotate_erp(panorama, rotation))
                back = np.maximum(rotate_erp(np.ascontiguousarray(turned, np.float32), rotation.T), 0)
                results.append(Turned(name, record.name, axis, angle_deg, cc(back, upright), kld(back, upright)))
    return results
