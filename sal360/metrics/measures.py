"""The five metrics of saliency prediction, on the sphere by default, and the two protocols that combine them.

Every sum over pixels is weighted (`weights`):
    "solid_angle"  the maps are ERP and each pixel counts by its solid angle (sin of its centre's colatitude);
    None           the maps are plain pictures and every pixel counts the same, as in the planar benchmarks;
    an array       (h, 1) or (h, w), not negative, of the maps' own size; pixels of weight 0 do not exist.
By definition:
- Maps of different sizes are compared on the finer grid, (larger height, larger width): a dense map is looked up
  bilinearly there (across the seam and poles unless weights is None), a fixation moves to the pixel that holds the
  centre of its own. So no fixation is lost.
- A fixation map holds counts: two fixations in one pixel count twice. A binary map is the common case.
- A constant map has AUC ½, NSS 0 and CC 0. A map without any mass is the uniform density. A map with negative
  values is raised to a minimum of 0 before SIM and KLD, which compare densities.
- Without a fixation, or with values that are not finite, there is nothing to compute: ParameterError.
No function changes its inputs. Definitions: Bylinskii et al., "What do different evaluation metrics tell us about
saliency models?" (2019), and the code of the MIT benchmark.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from sal360.density import nearest_index, resize_map
from sal360.errors import ParameterError
from sal360.ground_truth import GazeRecord, count_fixations
from sal360.metrics.pixel_sums import (
    RankAmong,
    Weights,
    as_real,
    extremes,
    finer_size,
    on_finer_grid,
    pixel_weights,
    total_weight,
    weighted_mean,
    weighted_sum,
)
from sal360.sphere import Array, solid_angles

METRICS = ("auc_judd", "nss", "cc", "sim", "kld")
PAPER_SIZE = (1024, 2048)
"""Rows and columns of the paper's evaluation."""
_EPSILON = float(np.finfo(np.float64).eps)


def auc_judd(saliency_map: Array, fixation_map: Array, weights: Weights = "solid_angle") -> float:
    """The chance, [0, 1], that a fixation lies on a higher value than a place without one (MIT's AUC_Judd).

    Exact: equal values count one half, which is the mean over all jitters that the MIT code draws one of; and the
    area is that under the true step curve, which joining its points at the n fixated values overstates by up to 1/2n.

    Raises:
        ParameterError: no fixation, no place without one, or unusable values.
    """
    saliency, (row, column, count), weight = _at_fixations(saliency_map, fixation_map, weights)
    fixated = saliency[row, column].astype(np.float64)
    rank = RankAmong(np.repeat(fixated, count))
    fixated_weight = np.broadcast_to(weight, saliency.shape)[row, column]
    elsewhere = total_weight(weight, saliency.shape[1]) - fixated_weight.sum()
    if elsewhere <= 1e-12 * fixated_weight.sum():
        raise ParameterError("every pixel holds a fixation", "use a finer fixation map", expected="places without one")
    below = weighted_sum(weight, rank.doubled, saliency) - fixated_weight @ rank.doubled(fixated)
    return float(1 - below / (2 * count.sum() * elsewhere))


def nss(saliency_map: Array, fixation_map: Array, weights: Weights = "solid_angle") -> float:
    """Mean at the fixations of the map standardised to mean 0 and (population) standard deviation 1.

    Raises:
        ParameterError: no fixation, or unusable values.
    """
    saliency, (row, column, count), weight = _at_fixations(saliency_map, fixation_map, weights)
    mean, deviation = _moments(saliency, weight)
    if deviation == 0:
        return 0.0
    return float((saliency[row, column].astype(np.float64) - mean) @ count / (deviation * count.sum()))


def cc(saliency_map: Array, ground_truth_map: Array, weights: Weights = "solid_angle") -> float:
    """Pearson's correlation of two maps, [−1, 1].

    Raises:
        ParameterError: unusable values.
    """
    saliency, truth, weight = on_finer_grid(saliency_map, ground_truth_map, weights)
    (mean, deviation), (true_mean, true_deviation) = _moments(saliency, weight), _moments(truth, weight)
    if deviation == 0 or true_deviation == 0:
        return 0.0
    covariance = weighted_mean(weight, lambda s, t: (s - mean) * (t - true_mean), saliency, truth)
    return covariance / (deviation * true_deviation)


def sim(saliency_map: Array, ground_truth_map: Array, weights: Weights = "solid_angle") -> float:
    """Mass that two densities share, [0, 1]: histogram intersection.

    Raises:
        ParameterError: unusable values.
    """
    saliency, truth, weight = on_finer_grid(saliency_map, ground_truth_map, weights)
    (gain, offset), (true_gain, true_offset) = _to_density(saliency, weight), _to_density(truth, weight)
    return weighted_mean(
        weight, lambda s, t: np.minimum(s * gain + offset, t * true_gain + true_offset), saliency, truth
    )


def kld(
    saliency_map: Array, ground_truth_map: Array, weights: Weights = "solid_angle", *, floor: float = 1e-6
) -> float:
    """KL(ground truth ‖ prediction) in nats, 0 for equal densities.

    Args:
        floor: densities below this, relative to uniform, are taken as this, so that what the prediction calls
            impossible costs 14 nats at any resolution and not infinitely many.

    Raises:
        ParameterError: unusable values.
    """
    saliency, truth, weight = on_finer_grid(saliency_map, ground_truth_map, weights)
    (gain, offset), (true_gain, true_offset) = _to_density(saliency, weight), _to_density(truth, weight)

    def surprise(s: Array, t: Array) -> Array:
        true = t * true_gain + true_offset
        return true * np.log(np.maximum(true, floor) / np.maximum(s * gain + offset, floor))

    return weighted_mean(weight, surprise, saliency, truth)


def standard_protocol(prediction: Array, truth: GazeRecord) -> dict[str, float]:
    """The metrics against the prediction only, weighted by solid angle inside the record's valid part.

    Computed on the finer of the grids of the prediction (h, w) and the record's density. A record without fixations
    gives no auc_judd and nss, one without density no cc, sim and kld: what cannot be known has no key.
    """
    shape = finer_size(prediction, prediction if truth.density is None else truth.density)
    saliency = resize_map(prediction, *shape)
    weights = _inside(truth, solid_angles(*shape), shape)
    scores: dict[str, float] = {}
    fixations = count_fixations(truth.fixations, *shape)
    if (fixations * weights).any():
        scores |= {"auc_judd": auc_judd(saliency, fixations, weights), "nss": nss(saliency, fixations, weights)}
    if truth.density is not None:
        density = resize_map(truth.density, *shape)
        scores |= {metric.__name__: metric(saliency, density, weights) for metric in (cc, sim, kld)}
    return scores


def paper_protocol(prediction: Array, truth: GazeRecord) -> dict[str, float]:
    """The metrics as the paper's evaluation took them, to stand beside its tables and for nothing else.

    Both maps at 1024 x 2048, times sin(linspace(0, π, H)) plus an epsilon, scaled to [0, 1]. CC, SIM and KLD are
    the mean over both orders of the arguments, which makes KLD symmetric. AUC and NSS are ½ [metric(prediction,
    fixations of every other observer) + metric(ground truth, fixations of the rest)]: half of that score does not
    depend on the prediction. They need fixations of two observers, and all need a density: else there is no key.
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
def _paper_truth(truth: GazeRecord) -> tuple[Array, Array, Array, dict[Callable[..., float], float]]:
    """What does not depend on the prediction: weights, density, first half of the gaze, and the half scores.

    Cached, because many models are measured on one record after the other.
    """
    assert truth.density is not None
    weights = _inside(truth, np.ones((PAPER_SIZE[0], 1)), PAPER_SIZE)
    density = _paper_map(truth.density, weights)
    first, second = (count_fixations(half, *PAPER_SIZE) for half in truth.observer_halves())
    both = (first * weights).any() and (second * weights).any()
    own = {metric: metric(density, second, weights) for metric in (auc_judd, nss)} if both else {}
    return weights, density, first, own


def _paper_map(values: Array, weights: Array) -> Array:
    rows = np.sin(np.linspace(0, math.pi, PAPER_SIZE[0]))[:, None]
    scaled = resize_map(as_real(values), *PAPER_SIZE) * rows + _EPSILON
    low, high = extremes(scaled, weights)
    # clipped, because outside the valid part there may be smaller and larger values
    return np.clip((scaled - low) / (high - low), 0, 1) if high > low else np.ones_like(scaled)


def _paper_kld(first: Array, second: Array, weights: Array) -> float:
    """KL(first ‖ second) of maps scaled to sum 1, the epsilon inside the logarithm: an empty bin costs 36 nats."""
    totals = [weighted_sum(weights, lambda values: values, each) for each in (first, second)]

    def surprise(p: Array, q: Array) -> Array:
        return p / totals[0] * np.log((p / totals[0] + _EPSILON) / (q / totals[1] + _EPSILON))

    return weighted_sum(weights, surprise, first, second)


def _inside(truth: GazeRecord, weights: Array, shape: tuple[int, int]) -> Array:
    """The weights, 0 where the ground truth means nothing."""
    if truth.valid is None:
        return weights
    rows, columns = (nearest_index(size, new) for size, new in zip(truth.valid.shape, shape, strict=True))
    return weights * truth.valid[rows[:, None], columns]


def _at_fixations(saliency_map: Array, fixation_map: Array, weights: Weights) -> tuple[Array, list[Array], Array]:
    """The map, the fixations' rows, columns and counts, and the pixel weights, on the finer grid."""
    height, width = finer_size(saliency_map, fixation_map)
    weight = pixel_weights(weights, height, width)
    saliency_map, fixation_map = as_real(saliency_map), np.asarray(fixation_map)
    pixel = np.flatnonzero(fixation_map != 0)
    row, column = np.divmod(pixel, fixation_map.shape[1])
    count = fixation_map.ravel()[pixel]
    if not np.array_equal(count, np.abs(np.rint(count))):  # False for NaN
        raise ParameterError(
            "a fixation map with values that are no counts",
            "pass a density to cc, sim or kld instead",
            expected="how many fixations each pixel holds",
        )
    row = (2 * row + 1) * height // (2 * fixation_map.shape[0])  # the pixel that holds the old one's centre
    column = (2 * column + 1) * width // (2 * fixation_map.shape[1])
    exists = np.broadcast_to(weight, (height, width))[row, column] > 0
    if not exists.any():
        raise ParameterError("a fixation map without a fixation", "leave this picture out", expected="at least one")
    saliency = resize_map(saliency_map, height, width, spherical=weights is not None)
    if not np.isfinite(extremes(saliency, weight)).all():
        raise ParameterError(
            "a map with values that are not finite", "look for NaN in the model", expected="real numbers"
        )
    return saliency, [each[exists] for each in (row, column, count.astype(np.int64))], weight


def _moments(values: Array, weight: Array) -> tuple[float, float]:
    """Mean and population standard deviation; exactly 0 for a constant map."""
    mean = weighted_mean(weight, lambda v: v, values)
    low, high = extremes(values, weight)
    if low == high:
        return mean, 0.0
    return mean, math.sqrt(weighted_mean(weight, lambda v: (v - mean) ** 2, values))


def _to_density(values: Array, weight: Array) -> tuple[float, float]:
    """Gain and offset that scale a map to a weighted mean of 1 and lift negative values to 0."""
    lift = -min(0.0, extremes(values, weight)[0])
    mean = weighted_mean(weight, lambda v: v, values) + lift
    return (1 / mean, lift / mean) if mean > 0 else (0.0, 1.0)
