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
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sal360.arrays import Floats, Reals
from sal360.density import nearest_index, resize_map
from sal360.errors import ParameterError
from sal360.ground_truth import GazeRecord
from sal360.metrics.pixel_sums import (
    FixationPixels,
    MapLike,
    PerRecord,
    RankAmong,
    WeightedMap,
    Weights,
    as_real,
    blocks,
    extremes,
    finer_size,
    fixated_pixels,
    on_finer_grid,
    pixel_weights,
    pixels_of,
    total_weight,
    weighted,
    weighted_mean,
    weighted_sum,
    with_weight,
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


def auc_judd(
    saliency_map: MapLike, fixation_map: ArrayLike | FixationPixels, weights: Weights = "solid_angle"
) -> float:
    """Probability, [0, 1], that a fixated pixel has a higher value than one without a fixation (MIT's AUC_Judd).

    Exact: equal values count one half, the expectation of the random jitter in the MIT code, and the area is that under
    the true step curve. Joining the curve's points at the n fixated values would overstate it by up to 1/2n.

    Raises:
        ParameterError: no fixations, fixations in every pixel, or values that are not finite.
    """
    saliency, (row, column, count) = _at_fixations(saliency_map, fixation_map, weights)
    values, weight = saliency.values, saliency.weight
    fixated = values[row, column].astype(np.float64)
    rank = RankAmong(np.repeat(fixated, count))
    fixated_weight = np.broadcast_to(weight, values.shape)[row, column]
    elsewhere = total_weight(weight, values.shape[1]) - fixated_weight.sum()
    if elsewhere <= 1e-12 * fixated_weight.sum():
        raise ParameterError("every pixel of the map holds a fixation", "use a finer fixation map")
    below = weighted_sum(weight, rank.doubled, values) - fixated_weight @ rank.doubled(fixated)
    return float(1 - below / (2 * count.sum() * elsewhere))


def nss(saliency_map: MapLike, fixation_map: ArrayLike | FixationPixels, weights: Weights = "solid_angle") -> float:
    """Normalised scanpath saliency: the fixations' mean value in the map scaled to mean 0 and standard deviation 1.

    The standard deviation is that of the population.

    Raises:
        ParameterError: no fixations, or values that are not finite.
    """
    saliency, (row, column, count) = _at_fixations(saliency_map, fixation_map, weights)
    if saliency.deviation == 0:
        return 0.0
    above_mean = saliency.values[row, column].astype(np.float64) - saliency.mean
    return float(above_mean @ count / (saliency.deviation * count.sum()))


def cc(saliency_map: MapLike, ground_truth_map: MapLike, weights: Weights = "solid_angle") -> float:
    """Pearson's correlation of two maps, [−1, 1].

    Raises:
        ParameterError: values that are not finite.
    """
    saliency, truth = on_finer_grid(saliency_map, ground_truth_map, weights)
    if saliency.deviation == 0 or truth.deviation == 0:
        return 0.0

    def product(s: Floats, t: Floats) -> Floats:
        both = s - saliency.mean
        both *= t - truth.mean
        return both

    covariance = weighted_mean(saliency.weight, product, saliency.values, truth.values)
    return covariance / (saliency.deviation * truth.deviation)


def sim(saliency_map: MapLike, ground_truth_map: MapLike, weights: Weights = "solid_angle") -> float:
    """Similarity: the mass that two densities share, [0, 1] (histogram intersection).

    Raises:
        ParameterError: values that are not finite.
    """
    saliency, truth = on_finer_grid(saliency_map, ground_truth_map, weights)
    of_saliency, of_truth = saliency.to_density(), truth.to_density()
    return weighted_mean(
        saliency.weight, lambda s, t: np.minimum(of_saliency(s), of_truth(t)), saliency.values, truth.values
    )


def kld(
    saliency_map: MapLike, ground_truth_map: MapLike, weights: Weights = "solid_angle", *, floor: float = 1e-6
) -> float:
    """KL(ground truth ‖ prediction) in nats, 0 for equal densities.

    Args:
        floor: lower limit of both densities, relative to uniform. With it, gaze where the prediction is 0 costs
            14 nats at any resolution instead of infinitely many.

    Raises:
        ParameterError: values that are not finite.
    """
    saliency, truth = on_finer_grid(saliency_map, ground_truth_map, weights)
    of_saliency, of_truth = saliency.to_density(), truth.to_density()

    def surprise(s: Floats, t: Floats) -> Floats:
        true = of_truth(t)
        costs: Floats = np.maximum(true, floor)
        costs /= np.maximum(of_saliency(s), floor)
        np.log(costs, out=costs)
        costs *= true
        return costs

    return weighted_mean(saliency.weight, surprise, saliency.values, truth.values)


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
    weights, known = _standard_truth(truth, shape)
    saliency = WeightedMap(resize_map(as_real(prediction), *shape), weights)
    return {
        name: metric.function(saliency, known[metric.against], weights)
        for name, metric in METRICS.items()
        if metric.against in known
    }


@PerRecord
def _standard_truth(
    truth: GazeRecord, shape: tuple[int, int]
) -> tuple[Floats, dict[str, WeightedMap | FixationPixels]]:
    """The weights of the pixels, and the ground truth in each form that the record has."""
    weights = valid_weights(truth, solid_angles(*shape), shape)
    known: dict[str, WeightedMap | FixationPixels] = {}
    fixations = pixels_of(truth.fixations, weights, *shape)
    if len(fixations.row):
        known["fixations"] = fixations
    if truth.density is not None:
        known["density"] = WeightedMap(resize_map(truth.density, *shape), weights)
    return weights, known


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
    scores["kld"] = _paper_kld(saliency, density)
    return scores


@PerRecord
def _paper_truth(
    truth: GazeRecord,
) -> tuple[Floats, WeightedMap, FixationPixels, dict[Callable[..., float], float]]:
    """All that does not depend on the prediction: weights, density, first half of the gaze, and the half scores."""
    assert truth.density is not None
    weights = valid_weights(truth, np.ones((PAPER_SIZE[0], 1)), PAPER_SIZE)
    density = _paper_map(truth.density, weights)
    first, second = (pixels_of(half, weights, *PAPER_SIZE) for half in truth.observer_halves())
    both = len(first.row) > 0 and len(second.row) > 0
    own = {metric: metric(density, second, weights) for metric in (auc_judd, nss)} if both else {}
    return weights, density, first, own


def _paper_map(values: Reals, weights: Floats) -> WeightedMap:
    rows = np.sin(np.linspace(0, math.pi, PAPER_SIZE[0]))[:, None]
    resized = resize_map(as_real(values), *PAPER_SIZE)
    scaled = np.empty(PAPER_SIZE)
    for part in blocks(scaled):  # which stay in the cache
        np.multiply(resized[part], rows[part], out=scaled[part])
        scaled[part] += _EPSILON
    low, high = extremes(scaled, weights)
    if not high > low:
        return WeightedMap(np.ones_like(scaled), weights)
    for part in blocks(scaled):
        scaled[part] -= low
        scaled[part] /= high - low
    if weights.all():
        return WeightedMap(scaled, weights, (0.0, 1.0))
    np.clip(scaled, 0, 1, out=scaled)  # values outside the valid part may be smaller or larger
    return WeightedMap(scaled, weights)


def _paper_kld(first: WeightedMap, second: WeightedMap) -> float:
    """The mean of KL(first ‖ second) and KL(second ‖ first), maps scaled to sum 1.

    The epsilon is inside the logarithm: an empty bin costs 36 nats.
    """
    gain, other_gain = (1 / (each.mean * total_weight(each.weight, PAPER_SIZE[1])) for each in (first, second))

    def surprise(p: Floats, q: Floats) -> Floats:
        p, q = p * gain, q * other_gain
        costs: Floats = p + _EPSILON
        costs /= q + _EPSILON
        np.log(costs, out=costs)
        costs *= p - q  # both ways at once: p log(p / q) + q log(q / p)
        return costs

    return weighted_sum(first.weight, surprise, first.values, second.values) / 2


def valid_weights(truth: GazeRecord, weights: Floats, shape: tuple[int, int]) -> Floats:
    """Pixel weights (h, 1) or (h, w) of maps of this shape, set to 0 outside the record's valid part."""
    if truth.valid is None:
        return weights
    rows, columns = (nearest_index(size, new) for size, new in zip(truth.valid.shape, shape, strict=True))
    return weights * truth.valid[rows[:, None], columns]


def _at_fixations(
    saliency_map: MapLike, fixation_map: ArrayLike | FixationPixels, weights: Weights
) -> tuple[WeightedMap, FixationPixels]:
    """The map with the pixel weights, and its fixated pixels, on the finer grid."""
    if isinstance(fixation_map, FixationPixels):
        return weighted(saliency_map, weights), fixation_map
    values = saliency_map.values if isinstance(saliency_map, WeightedMap) else as_real(saliency_map)
    height, width = finer_size(values, fixation_map)
    weight = pixel_weights(weights, height, width)
    pixels = with_weight(fixated_pixels(np.asarray(fixation_map), height, width), weight, width)
    if not len(pixels.row):
        raise ParameterError("a fixation map has no fixations", "leave this picture out")
    if isinstance(saliency_map, WeightedMap) and values.shape == (height, width):
        return saliency_map, pixels
    return WeightedMap(resize_map(values, height, width, spherical=weights is not None), weight), pixels
