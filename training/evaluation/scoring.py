"""Scores of predictions against records, by both protocols, and what people score against each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from sal360.density import resize_map, spherical_density
from sal360.ground_truth import GazeRecord, count_fixations
from sal360.metrics import METRICS, paper_protocol, standard_protocol
from sal360.metrics.measures import valid_weights
from sal360.metrics.pixel_sums import weighted_mean
from sal360.sphere import Array, solid_angles

Protocol = Literal["standard", "paper"]
PROTOCOLS = {"standard": standard_protocol, "paper": paper_protocol}
PEOPLE, GROUND_TRUTH = "people", "ground_truth"
"""Rows of tables that are no predictions from a picture."""
INFORMATION_GAIN = "information_gain"
COLUMNS = (*METRICS, INFORMATION_GAIN)
LARGER_IS_BETTER = {name: name != "kld" for name in COLUMNS}
_FLOOR = 1e-6


@dataclasses.dataclass(frozen=True)
class Score:
    """One prediction of one record by one protocol."""

    model: str
    record: str
    protocol: str
    values: dict[str, float]
    """By the names in COLUMNS; what the record does not support is missing."""


def score(
    model: str, prediction: Array, record: GazeRecord, protocols: Sequence[Protocol], prior: Array
) -> list[Score]:
    """A prediction (h, w) against its record; information gain over `prior` goes with the standard protocol."""
    scores = []
    for protocol in protocols:
        values = PROTOCOLS[protocol](prediction, record)
        if protocol == "standard" and "nss" in values:
            values[INFORMATION_GAIN] = information_gain(prediction, prior, record)
        scores.append(Score(model, record.name, protocol, values))
    return scores


def score_people(record: GazeRecord, sigma_deg: float, protocols: Sequence[Protocol], prior: Array) -> list[Score]:
    """Every other observer's density as the prediction of the rest's gaze, and the other way round, averaged.

    Nothing for a record of fewer than two observers, or without a density.
    """
    first, second = record.observer_halves()
    if record.density is None or len(first) == 0 or len(second) == 0:
        return []
    height, width = record.density.shape
    ways = []
    for by, of in ((first, second), (second, first)):
        truth = dataclasses.replace(
            record,
            fixations=of,
            observer=np.arange(len(of)) % 2,  # the paper's protocol takes them apart once more
            time_s=np.full(len(of), np.nan),
            density=spherical_density(of, height, width, sigma_deg),
        )
        prediction = spherical_density(by, height, width, sigma_deg)
        ways.append(score(PEOPLE, prediction, truth, protocols, prior))
    return [dataclasses.replace(one, values=_mean(one.values, other.values)) for one, other in zip(*ways, strict=True)]


def _mean(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """Of what both have: a half of one fixation cannot be taken apart once more, and has no AUC by the paper."""
    return {name: (one[name] + other[name]) / 2 for name in one if name in other}


def information_gain(prediction: Array, baseline: Array, record: GazeRecord) -> float:
    """Bits a fixation that the prediction knows better than the baseline (Kümmerer et al., PNAS 112(52), 2015).

    Both maps are densities on the record's valid part, no value below 1e-6 of uniform. Fixations outside do not count.
    """
    height = max(prediction.shape[0], baseline.shape[0])
    shape = (height, max(prediction.shape[1], baseline.shape[1]))
    weights = valid_weights(record, solid_angles(*shape), shape)
    counts = count_fixations(record.fixations, *shape) * (weights > 0)
    logs = []
    for each in (prediction, baseline):
        density = resize_map(each, *shape)
        mean = weighted_mean(weights, lambda values: values, density)
        logs.append(np.log2(np.maximum(density / mean, _FLOOR)))
    return float(((logs[0] - logs[1]) * counts).sum() / counts.sum())
