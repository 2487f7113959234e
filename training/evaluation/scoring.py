"""Scores of predictions against recorded gaze by both protocols, and of people against each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from sal360.arrays import Reals
from sal360.density import resize_map, spherical_density
from sal360.ground_truth import GazeRecord, count_fixations
from sal360.metrics import METRICS, paper_protocol, standard_protocol
from sal360.metrics.measures import valid_weights
from sal360.metrics.pixel_sums import weighted_mean
from sal360.sphere import solid_angles

Protocol = Literal["standard", "paper"]
PROTOCOLS = {"standard": standard_protocol, "paper": paper_protocol}
PEOPLE, GROUND_TRUTH = "people", "ground_truth"
"""Rows of the tables that do not predict from the picture."""
INFORMATION_GAIN = "information_gain"
COLUMNS = (*METRICS, INFORMATION_GAIN)
"""All figures, in the order of the tables."""
LARGER_IS_BETTER = {**{name: metric.larger_is_better for name, metric in METRICS.items()}, INFORMATION_GAIN: True}
_MIN_DENSITY = 1e-6


@dataclasses.dataclass(frozen=True)
class Score:
    """The figures of one model on one record by one protocol."""

    model: str
    record: str
    protocol: str
    values: dict[str, float]
    """Figures by their names in `COLUMNS`; those that the record does not support are missing."""


def score(
    model: str, prediction: Reals, record: GazeRecord, protocols: Sequence[Protocol], prior: Reals
) -> list[Score]:
    """Score a prediction (h, w) against its record; the standard protocol includes information gain over `prior`."""
    scores = []
    for protocol in protocols:
        values = PROTOCOLS[protocol](prediction, record)
        if protocol == "standard" and "nss" in values:
            values[INFORMATION_GAIN] = information_gain(prediction, prior, record)
        scores.append(Score(model, record.name, protocol, values))
    return scores


def score_people(record: GazeRecord, sigma_deg: float, protocols: Sequence[Protocol], prior: Reals) -> list[Score]:
    """Predict the gaze of half of the observers by that of the other half, both ways, and average the scores.

    Empty for a record with fewer than two observers or without a density.
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
            observer=np.arange(len(of)) % 2,  # the paper's protocol halves the observers again
            time_s=np.full(len(of), np.nan),
            density=spherical_density(of, height, width, sigma_deg),
        )
        prediction = spherical_density(by, height, width, sigma_deg)
        ways.append(score(PEOPLE, prediction, truth, protocols, prior))
    return [dataclasses.replace(one, values=_mean(one.values, other.values)) for one, other in zip(*ways, strict=True)]


def _mean(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """Mean of the figures that both have: a single fixation cannot be halved again, so it has no AUC by the paper."""
    return {name: (one[name] + other[name]) / 2 for name in one if name in other}


def information_gain(prediction: Reals, baseline: Reals, record: GazeRecord) -> float:
    """Information gain over the baseline, bits per fixation (Kümmerer et al., PNAS 112(52), 2015).

    Both maps are normalised on the record's valid part and clipped below at 1e-6 of uniform. Fixations outside it do
    not count.
    """
    height = max(prediction.shape[0], baseline.shape[0])
    shape = (height, max(prediction.shape[1], baseline.shape[1]))
    weights = valid_weights(record, solid_angles(*shape), shape)
    counts = count_fixations(record.fixations, *shape) * (weights > 0)
    logs = []
    for each in (prediction, baseline):
        density = resize_map(each, *shape)
        mean = weighted_mean(weights, lambda values: values, density)
        logs.append(np.log2(np.maximum(density / mean, _MIN_DENSITY)))
    return float(((logs[0] - logs[1]) * counts).sum() / counts.sum())
