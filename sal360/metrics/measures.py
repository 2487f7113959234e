"""The metrics of saliency prediction, on the sphere by default, and the two protocols that combine them.

Every sum over pixels is weighted (`weights`):
    "solid_angle"  the maps are ERP and each pixel counts by its solid angle (sin of its centre's colatitude);
    None           the maps are plain pictures and every pixel counts the same, as in the planar benchmarks;
    an array       (h, 1) or (h, w), not negative, of the maps' size; pixels of weight 0 are left out.
Conventions:
- Maps of different sizes are compared on the finer grid, (larger height, larger width): a dense map is resampled
  bilinearly (across the seam and poles unless weights is None), a fixation moves to the pixel that contains the centre
  of its old one, so that none is lost.
- A fixation map holds counts: two fixations in one pixel count twice. Most are binary.
- A constant map has AUC ½, NSS 0 and CC 0. A map that is zero everywhere counts as the uniform density. SIM and KLD,
  which compare densities, first raise a map with negative values to a minimum of 0.
- Maps without fixations or with values that are not finite are a ParameterError.
The functions leave their inputs unchanged. Definitions: Bylinskii et al., "What do different evaluation metrics tell us
about saliency models?" (2019), and the code of the MIT benchmark.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sal360.arrays import Floats, Integers, Reals
from sal360.density import nearest_index, resize_map
from sal360.errors import ParameterError
from sal360.ground_truth import GazeRecord, count_fixations
from sal360.metrics.pixel_sums import (
    RankAmong,
    Weights,
    as_real,
    check_finite,
    extremes,
    finer_size,
    on_finer_grid,
    pixel_weights,
    total_weight,
    weighted_mean,
    weighted_sum,
)
from sal360.sphere import solid_angles

__all__ = [
    "METRICS",
    "PAPER_METRICS",
    "PAPER_SIZE",
    "Metric",
    "auc_judd",
    "cc",
    "kld",
    "nss",
    "paper_protocol",
    "sim",
    "standard_protocol",
]

PAPER_SIZE = (1024, 2048)
"""Rows and columns of the paper's evaluation."""
_EPSILON = float(np.finfo(np.float64).eps)


def auc_judd(saliency_map: ArrayLike, fixation_map: ArrayLike, weights: Weights = "solid_angle") -> float:
    """Probability, [0, 1], that a fixated pixel has a higher value than one without a fixation (MIT's AUC_Judd).

    Exact: equal values count one half, the expectation of the random jitter in the MIT code, and the area is that under
    the true step curve. Joining the curve's points at the n fixated values would overstate it by up to 1/2n.

    Raises:
        ParameterError: no fixations, fixations in every pixel, or values that are not finite.
    """
    saliency, (row, column, count), weight = _at_fixations(saliency_map, fixation_map, weights)
    fixated = saliency[row, column].astype(np.float64)
    rank = RankAmong(np.repeat(fixated, count))
    fixated_weight = np.broadcast_to(weight, saliency.shape)[row, column]
    elsewhere = total_weight(weight, saliency.shape[1]) - fixated_weight.sum()
    if elsewhere <= 1e-12 * fixated_weight.sum():
        raise ParameterError("every pixel of the map holds a fixation", "use a finer fixation map")
    below = weighted_sum(weight, rank.doubled, saliency) - fixated_weight @ rank.doubled(fixated)
    return float(1 - below / (2 * count.sum() * elsewhere))


def nss(saliency_map: ArrayLike, fixation_map: ArrayLike, weights: Weights = "solid_angle") -> float:
    """Normalised scanpath saliency: the fixations' mean value in the map scaled to mean 0 and standard deviation 1.

    The standard deviation is that of the population.

    Raises:
        ParameterError: no fixations, or values that are not finite.
    """
    saliency, (row, column, count), weight = _at_fixations(saliency_map, fixation_map, weights)
    mean, deviation = _moments(saliency, weight)
    if deviation == 0:
        return 0.0
    return float((saliency[row, column].astype(np.float64) - mean) @ count / (deviation * count.sum()))


def cc(saliency_map: ArrayLike, ground_truth_map: ArrayLike, weights: Weights = "solid_angle") -> float:
    """Pearson's correlation of two maps, [−1, 1].

    Raises:
        ParameterError: values that are not finite.
    """
    saliency, truth, weight = on_finer_grid(saliency_map, ground_truth_map, weights)
    (mean, deviation), (true_mean, true_deviation) = _moments(saliency, weight), _moments(truth, weight)
    if deviation == 0 or true_deviation == 0:
        return 0.0
    covariance = weighted_mean(weight, lambda s, t: (s - mean) * (t - true_mean), saliency, truth)
    return covariance / (deviation * true_deviation)


def sim(saliency_map: ArrayLike, ground_truth_map: ArrayLike, weights: Weights = "solid_angle") -> float:
    """Similarity: the mass that two densities share, [0, 1] (histogram intersection).

    Raises:
        ParameterError: values that are not finite.
    """
    saliency, truth, weight = on_finer_grid(saliency_map, ground_truth_map, weights)
    (gain, offset), (true_gain, true_offset) = _to_density(saliency, weight), _to_density(truth, weight)
    return weighted_mean(
        weight, lambda s, t: np.minimum(s * gain + offset, t * true_gain + true_offset), saliency, truth
    )


def kld(
    saliency_map: ArrayLike, ground_truth_map: ArrayLike, weights: Weights = "solid_angle", *, floor: float = 1e-6
) -> float:
    """KL(ground truth ‖ prediction) in nats, 0 for equal densities.

    Args:
        floor: lower limit of both densities, relative to uniform. With it, gaze where the prediction is 0 costs
            14 nats at any resolution instead of infinitely many.

    Raises:
        ParameterError: values that are not finite.
    """
    saliency, truth, weight = on_finer_grid(saliency_map, ground_truth_map, weights)
    (gain, offset), (true_gain, true_offset) = _to_density(saliency, weight), _to_density(truth, weight)

    def surprise(s: Floats, t: Floats) -> Floats:
        true = t * true_gain + true_offset
        costs: Floats = true * np.log(np.maximum(true, floor) / np.maximum(s * gain + offset, floor))
        return costs

    return weighted_mean(weight, surprise, saliency, truth)


class Metric(NamedTuple):
    """Everything the protocols, the tables and the pages need to know about a metric."""

    function: Callable[..., float]
    """Of a map, the ground truth and the weights of the pixels."""
    label: str
    """Heading in tables and plots."""
    against: Literal["fixations", "density"]
    """The form of ground truth that it needs."""
    value_range: str
    """Its values, for the page on metrics."""
    chance: str
    """Its value for an uninformative map, if defined."""
    larger_is_better: bool


METRICS = {
    "auc_judd": Metric(auc_judd, "AUC-J", "fixations", "0 to 1", "½", True),
    "nss": Metric(nss, "NSS", "fixations", "", "0", True),
    "cc": Metric(cc, "CC", "density", "−1 to 1", "0", True),
    "sim": Metric(sim, "SIM", "density", "0 to 1", "", True),
    "kld": Metric(kld, "KLD", "density", "0 nats and more", "", False),
}
"""The metrics of the standard protocol by name, in the order of the tables. To add one: its function in
`__all__`, and its row."""
PAPER_METRICS = ("auc_judd", "nss", "cc", "sim", "kld")
"""The metrics of the paper, which its protocol computes differently."""


def standard_protocol(prediction: Reals, truth: GazeRecord) -> dict[str, float]:
    """The metrics by their plain definitions, weighted by solid angle inside the record's valid part.

    Computed on the finer of the grids of the prediction (h, w) and the record's density.

    Returns:
        Value by the names of `METRICS`, without those whose form of ground truth the record lacks.
    """
    shape = finer_size(prediction, prediction if truth.density is None else truth.density)
    saliency = resize_map(prediction, *shape)
    weights = valid_weights(truth, solid_angles(*shape), shape)
    known: dict[str, NDArray[Any]] = {}
    fixations = count_fixations(truth.fixations, *shape)
    if (fixations * weights).any():
        known["fixations"] = fixations
    if truth.density is not None:
        known["density"] = resize_map(truth.density, *shape)
    return {
        name: metric.function(saliency, known[metric.against], weights)
        for name, metric in METRICS.items()
        if metric.against in known
    }


def paper_protocol(prediction: Reals, truth: GazeRecord) -> dict[str, float]:
    """The metrics as the paper's evaluation computes them, for comparison with its tables only.

    Both maps at 1024 x 2048, times sin(linspace(0, π, H)) plus an epsilon, scaled to [0, 1]. CC, SIM and KLD are
    the mean over both orders of the arguments, which makes KLD symmetric. AUC and NSS are ½ [metric(prediction,
    fixations of every other observer) + metric(ground truth, fixations of the rest)]: half of that score does not
    depend on the prediction.

    Returns:
        Value by name. All metrics need a density; auc_judd and nss also need fixations of two observers. Those that
        cannot be computed are left out.
    """
    if truth.density is None:
        return {}
    weights, density, first, own = _paper_truth(truth)
    saliency = _paper_map(prediction, weights)
    scores = {metric.__name__: (metric(saliency, first, weights) + own[metric]) / 2 for metric in own}
    for symmetric in (cc, sim):
        scores[symmetric.__name__] = symmetric(saliency, density, weights)
    scores["kld"] = (_paper_kld(saliency, density, weights) + _paper_kld(density, saliency, weights)) / 2
    return scores


@lru_cache(maxsize=1)
def _paper_truth(truth: GazeRecord) -> tuple[Floats, Floats, NDArray[np.int32], dict[Callable[..., float], float]]:
    """Everything that does not depend on the prediction: weights, density, first half of the gaze, and the half scores.

    Cached, because many models are evaluated on one record in turn.
    """
    assert truth.density is not None
    weights = valid_weights(truth, np.ones((PAPER_SIZE[0], 1)), PAPER_SIZE)
    density = _paper_map(truth.density, weights)
    first, second = (count_fixations(half, *PAPER_SIZE) for half in truth.observer_halves())
    both = (first * weights).any() and (second * weights).any()
    own = {metric: metric(density, second, weights) for metric in (auc_judd, nss)} if both else {}
    return weights, density, first, own


def _paper_map(values: Reals, weights: Floats) -> Floats:
    rows = np.sin(np.linspace(0, math.pi, PAPER_SIZE[0]))[:, None]
    scaled = resize_map(as_real(values), *PAPER_SIZE) * rows + _EPSILON
    low, high = extremes(scaled, weights)
    # clipped, because values outside the valid part may be smaller or larger
    normal: Floats = np.clip((scaled - low) / (high - low), 0, 1) if high > low else np.ones_like(scaled)
    return normal


def _paper_kld(first: Floats, second: Floats, weights: Floats) -> float:
    """KL(first ‖ second) of maps scaled to sum 1, the epsilon inside the logarithm: an empty bin costs 36 nats."""
    totals = [weighted_sum(weights, lambda values: values, each) for each in (first, second)]

    def surprise(p: Floats, q: Floats) -> Floats:
        costs: Floats = p / totals[0] * np.log((p / totals[0] + _EPSILON) / (q / totals[1] + _EPSILON))
        return costs

    return weighted_sum(weights, surprise, first, second)


def valid_weights(truth: GazeRecord, weights: Floats, shape: tuple[int, int]) -> Floats:
    """Pixel weights (h, 1) or (h, w) of maps of this shape, set to 0 outside the record's valid part."""
    if truth.valid is None:
        return weights
    rows, columns = (nearest_index(size, new) for size, new in zip(truth.valid.shape, shape, strict=True))
    return weights * truth.valid[rows[:, None], columns]


def _at_fixations(
    saliency_map: ArrayLike, fixation_map: ArrayLike, weights: Weights
) -> tuple[Reals, tuple[Integers, Integers, Integers], Floats]:
    """The map, the fixations' rows, columns and counts, and the pixel weights, on the finer grid."""
    height, width = finer_size(saliency_map, fixation_map)
    weight = pixel_weights(weights, height, width)
    fixations: NDArray[Any] = np.asarray(fixation_map)
    pixel = np.flatnonzero(fixations != 0)
    row, column = np.divmod(pixel, fixations.shape[1])
    count = fixations.ravel()[pixel]
    if not np.array_equal(count, np.abs(np.rint(count))):  # False for NaN
        raise ParameterError(
            "a fixation map has values that are not counts",
            "pass a density to cc, sim or kld instead",
            expected="the number of fixations in each pixel",
        )
    row = (2 * row + 1) * height // (2 * fixations.shape[0])  # the pixel that contains the old one's centre
    column = (2 * column + 1) * width // (2 * fixations.shape[1])
    exists = np.broadcast_to(weight, (height, width))[row, column] > 0
    if not exists.any():
        raise ParameterError("a fixation map has no fixations", "leave this picture out")
    saliency = resize_map(as_real(saliency_map), height, width, spherical=weights is not None)
    check_finite(*extremes(saliency, weight))
    return saliency, (row[exists], column[exists], count.astype(np.int64)[exists]), weight


def _moments(values: Reals, weight: Floats) -> tuple[float, float]:
    """Mean and population standard deviation; exactly 0 for a constant map."""
    mean = weighted_mean(weight, lambda v: v, values)
    low, high = extremes(values, weight)
    if low == high:
        return mean, 0.0
    return mean, math.sqrt(weighted_mean(weight, lambda v: (v - mean) ** 2, values))


def _to_density(values: Reals, weight: Floats) -> tuple[float, float]:
    """Gain and offset that scale a map to a weighted mean of 1 and lift negative values to 0."""
    lift = -min(0.0, extremes(values, weight)[0])
    mean = weighted_mean(weight, lambda v: v, values) + lift
    return (1 / mean, lift / mean) if mean > 0 else (0.0, 1.0)
