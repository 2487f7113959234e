"""Scores of predictions against recorded gaze by each protocol, and of people against each other.

`standard` and `paper` compare maps on the panorama (`sal360.metrics`); `planar` compares them on the picture alone, in
which every pixel counts the same, as benchmarks of photographs and pysaliency do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from sal360.arrays import Floats, Integers, Reals
from sal360.density import resize_map, spherical_density
from sal360.ground_truth import GazeRecord
from sal360.metrics import METRICS, paper_protocol, standard_protocol
from sal360.metrics.measures import valid_weights
from sal360.metrics.pixel_sums import (
    FixationPixels,
    MapLike,
    WeightedMap,
    as_real,
    finer_size,
    fixated_pixels,
    pixels_of,
    total_weight,
    weighted,
    weighted_sum,
)
from sal360.sphere import solid_angles
from training.data.gaze.photographs import PlacedPhotograph
from training.data.gaze.records import mean_over_cells
from training.evaluation.predictions import PictureTruth, Prediction, RecordedGaze, picture_size, picture_truth

Protocol = Literal["standard", "paper", "planar"]
_ON_PANORAMA = {"standard": standard_protocol, "paper": paper_protocol}
PEOPLE, GROUND_TRUTH = "people", "ground_truth"
"""Rows of the tables that do not predict from the picture."""
INFORMATION_GAIN = "information_gain"
COLUMNS = (*METRICS, INFORMATION_GAIN)
"""All figures, in the order of the tables."""
LARGER_IS_BETTER = {**{name: metric.larger_is_better for name, metric in METRICS.items()}, INFORMATION_GAIN: True}
MIN_DENSITY = 1e-6
"""Lower limit of a density, relative to uniform, before its logarithm is taken."""
_EPSILON = 2.2204e-16
"""As the MIT/Tuebingen benchmark writes it; more digits would change KLD by 1e-5."""


@dataclasses.dataclass(frozen=True)
class Score:
    """The figures of one model on one record by one protocol."""

    model: str
    record: str
    protocol: str
    values: dict[str, float]
    """Figures by their names in `COLUMNS`; those that the record does not support are missing."""


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """What is known of the gaze without looking at the picture: the baseline of information gain."""

    on_panorama: Reals
    """(h, w), gaze per solid angle."""
    on_picture: Reals
    """(h, w) over the photograph, if photographs are measured; else the same map."""


def score(
    model: str, prediction: Prediction, record: GazeRecord, protocols: Sequence[Protocol], reference: Reference
) -> list[Score]:
    """Score a prediction against its record; all protocols except `paper` include information gain."""
    return [Score(model, record.name, each, _figures(prediction, record, each, reference)) for each in protocols]


def _figures(prediction: Prediction, record: GazeRecord, protocol: Protocol, reference: Reference) -> dict[str, float]:
    if protocol == "planar":
        return planar_protocol(prediction.on_picture, picture_truth(record), _on_picture(reference, record))
    figures = _ON_PANORAMA[protocol](prediction.on_panorama, record)
    if protocol == "standard" and "nss" in figures:
        figures[INFORMATION_GAIN] = _gain(prediction.on_panorama, reference, record)
    return figures


def _gain(prediction: Reals, reference: Reference, record: GazeRecord) -> float:
    if record.valid is not None:
        return information_gain(prediction, reference.on_panorama, record)
    baseline = _on_whole_sphere(reference, finer_size(prediction, reference.on_panorama))
    return _gain_over_map(prediction, baseline, record)


# kept, because all records of a data set have the same reference and mostly one size
@lru_cache(maxsize=2)
def _on_whole_sphere(reference: Reference, shape: tuple[int, int]) -> WeightedMap:
    return WeightedMap(resize_map(as_real(reference.on_panorama), *shape), solid_angles(*shape))


def _on_picture(reference: Reference, record: GazeRecord) -> MapLike:
    if isinstance(record, PlacedPhotograph):
        return Prediction(reference.on_picture, record, of_picture=True).on_picture
    return _on_whole_picture(reference, picture_size(record))


@lru_cache(maxsize=2)
def _on_whole_picture(reference: Reference, size: tuple[int, int]) -> WeightedMap:
    return weighted(mean_over_cells(reference.on_picture, *size), None)


def planar_protocol(prediction: Reals, truth: PictureTruth, baseline: MapLike) -> dict[str, float]:
    """The metrics by their plain definitions, every pixel of the picture counting the same, and information gain.

    KLD is that of the MIT/Tuebingen benchmark, whose epsilon lies inside the logarithm: gaze where the prediction is 0
    costs up to 36 nats.

    Args:
        prediction, baseline: (h, w), from 0 up, of any scale and of the truth's size.
        truth: the picture's gaze.

    Returns:
        Value by the names in `COLUMNS`, without those whose form of ground truth is missing.
    """
    own, known = weighted(prediction, None), dict[str, WeightedMap | FixationPixels]()
    pixels = fixated_pixels(truth.counts, *own.values.shape)
    if len(pixels.row):
        known["fixations"] = pixels
    if truth.density is not None:
        known["density"] = density = weighted(truth.density, None)
    figures = {
        name: metric.function(own, known[metric.against], weights=None)
        for name, metric in METRICS.items()
        if metric.against in known
    }
    if truth.density is not None:
        figures["kld"] = _benchmark_kld(own, density)
    if "fixations" in known:
        figures[INFORMATION_GAIN] = gain_over(own, weighted(baseline, None), pixels, MIN_DENSITY)
    return figures


def _benchmark_kld(prediction: WeightedMap, truth: WeightedMap) -> float:
    of_truth, of_prediction = _probability(truth), _probability(prediction)

    def surprise(t: Floats, s: Floats) -> Floats:
        p, costs = of_truth(t), of_prediction(s)
        costs += _EPSILON
        np.divide(p, costs, out=costs)
        costs += _EPSILON
        np.log(costs, out=costs)
        costs *= p
        return costs

    # equal maps sum to −1e-16
    return max(0.0, weighted_sum(truth.weight, surprise, truth.values, prediction.values))


def _probability(values: WeightedMap) -> Callable[[Floats], Floats]:
    """A function from values of the map to the probability of their pixels."""
    total = values.mean * total_weight(values.weight, values.values.shape[1])
    return (lambda v: v / total) if total > 0 else (lambda v: np.full_like(v, 1 / values.values.size))


def score_people(
    record: GazeRecord, sigma_deg: float, protocols: Sequence[Protocol], reference: Reference
) -> list[Score]:
    """Predict the gaze of half of the observers by that of the other half, both ways, and average the scores.

    Empty for a record with fewer than two observers or without a density.
    """
    ways = [score(PEOPLE, RecordedGaze(by), of, protocols, reference) for by, of in _halves(record, sigma_deg)]
    return [dataclasses.replace(one, values=_mean(one.values, other.values)) for one, other in zip(*ways, strict=True)]


def _halves(record: GazeRecord, sigma_deg: float) -> list[tuple[GazeRecord, GazeRecord]]:
    """What one half of the observers did, and what the other half did, both ways."""
    everyone = np.unique(record.observer)
    if record.density is None or len(everyone) < 2:
        return []
    first, second = (_seen_by(record, half, sigma_deg) for half in (everyone[::2], everyone[1::2]))
    return [(first, second), (second, first)]


def _seen_by(record: GazeRecord, people: Integers, sigma_deg: float) -> GazeRecord:
    assert record.density is not None
    height, width = record.density.shape
    mine = np.isin(record.observer, people)
    fixations = record.fixations[mine]
    changes: dict[str, Any] = {
        "fixations": fixations,
        "observer": np.arange(len(fixations)) % 2,  # the paper's protocol halves the observers again
        "time_s": np.full(len(fixations), np.nan),
        "density": spherical_density(fixations, height, width, sigma_deg),
    }
    if isinstance(record, PlacedPhotograph):
        changes["photograph"] = record.photograph.seen_by(people)
    return dataclasses.replace(record, **changes)


def _mean(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """Mean of the figures that both have: a single fixation cannot be halved again, so it has no AUC by the paper."""
    return {name: (one[name] + other[name]) / 2 for name in one if name in other}


def information_gain(prediction: Reals, baseline: Reals, record: GazeRecord) -> float:
    """Information gain over the baseline, bits per fixation (Kümmerer et al., PNAS 112(52), 2015).

    Both maps are normalised on the record's valid part and clipped below at 1e-6 of uniform. Fixations outside it do
    not count.
    """
    shape = finer_size(prediction, baseline)
    weights = valid_weights(record, solid_angles(*shape), shape)
    return _gain_over_map(prediction, WeightedMap(resize_map(as_real(baseline), *shape), weights), record)


def _gain_over_map(prediction: Reals, baseline: WeightedMap, record: GazeRecord) -> float:
    shape = baseline.values.shape
    own = WeightedMap(resize_map(as_real(prediction), *shape), baseline.weight)
    return gain_over(own, baseline, pixels_of(record.fixations, baseline.weight, *shape), MIN_DENSITY)


def gain_over(prediction: WeightedMap, baseline: WeightedMap, pixels: FixationPixels, floor: float) -> float:
    """Mean over the fixations of log2(prediction / baseline), bits.

    Args:
        prediction, baseline: from 0 up, of any scale and one size; a map that is 0 everywhere counts as uniform.
        pixels: where the fixations are; at least one.
        floor: lower limit of both, relative to uniform.
    """
    logs = []
    for each in (prediction, baseline):
        values = each.values[pixels.row, pixels.column].astype(np.float64)
        relative = values / each.mean if each.mean > 0 else np.ones_like(values)
        logs.append(np.log2(np.maximum(relative, floor)))
    return float((logs[0] - logs[1]) @ pixels.times / pixels.times.sum())
