"""The metrics against slow loops and pysaliency, their conventions, and the two protocols."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sal360 import metrics
from sal360.errors import DataError, ParameterError
from sal360.ground_truth import GazeRecord, count_fixations
from sal360.metrics import METRICS, PAPER_METRICS, auc_judd, cc, kld, nss, paper_protocol, sim, standard_protocol
from sal360.sphere import angles_to_vector, erp_directions

FIXATION_METRICS = (auc_judd, nss)
DENSITY_METRICS = (cc, sim, kld)


@pytest.fixture
def maps(rng):
    """A prediction, a ground truth and counts of fixations, 24 x 48, without ties."""
    counts = rng.multinomial(40, np.full(24 * 48, 1 / (24 * 48))).reshape(24, 48)
    return rng.random((24, 48)) ** 2 + 1e-3, rng.random((24, 48)) + 1e-3, counts


@pytest.fixture
def rng():
    return np.random.default_rng(4)


def sine_weights(height, width):
    return [[math.sin(math.pi * (row + 0.5) / height) for _ in range(width)] for row in range(height)]


def slow_auc(saliency, counts, weights):
    positives = [(saliency[p], counts[p]) for p in np.ndindex(counts.shape) if counts[p]]
    won = total = 0.0
    for pixel in np.ndindex(counts.shape):
        if counts[pixel]:
            continue
        for value, times in positives:
            won += times * weights[pixel[0]][pixel[1]] * ((value > saliency[pixel]) + 0.5 * (value == saliency[pixel]))
            total += times * weights[pixel[0]][pixel[1]]
    return won / total


def slow_mean(values, weights):
    terms = [(values[p], weights[p[0]][p[1]]) for p in np.ndindex(values.shape)]
    return math.fsum(v * w for v, w in terms) / math.fsum(w for _, w in terms)


def slow_scores(saliency, truth, counts, weights):
    mean, true_mean = slow_mean(saliency, weights), slow_mean(truth, weights)
    deviation = math.sqrt(slow_mean((saliency - mean) ** 2, weights))
    true_deviation = math.sqrt(slow_mean((truth - true_mean) ** 2, weights))
    p, q = saliency / mean, truth / true_mean
    at_fixations = [saliency[pixel] for pixel in np.ndindex(counts.shape) for _ in range(counts[pixel])]
    return {
        "auc_judd": slow_auc(saliency, counts, weights),
        "nss": sum((value - mean) / deviation for value in at_fixations) / len(at_fixations),
        "cc": slow_mean((saliency - mean) * (truth - true_mean), weights) / (deviation * true_deviation),
        "sim": slow_mean(np.minimum(p, q), weights),
        "kld": slow_mean(q * np.log(q / p), weights),
    }


def all_scores(saliency, truth, counts, weights="solid_angle"):
    scores = {metric.__name__: metric(saliency, counts, weights) for metric in FIXATION_METRICS}
    return scores | {metric.__name__: metric(saliency, truth, weights) for metric in DENSITY_METRICS}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weighted_metrics_agree_with_slow_loops(maps, dtype):
    saliency, truth, counts = maps[0].astype(dtype), maps[1].astype(dtype), maps[2]
    expected = slow_scores(saliency.astype(float), truth.astype(float), counts, sine_weights(24, 48))
    assert all_scores(saliency, truth, counts) == pytest.approx(expected, abs=1e-9)


def test_weights_may_be_an_array_and_pixels_without_weight_do_not_exist(maps, rng):
    saliency, truth, counts = maps
    weights = rng.random((24, 48))
    assert all_scores(saliency, truth, counts, weights) == pytest.approx(
        slow_scores(saliency, truth, counts, weights), abs=1e-9
    )
    window = np.zeros((24, 48))
    window[6:18, 8:40] = 1
    changed = saliency.copy()
    changed[window == 0] = np.nan
    cut = (slice(6, 18), slice(8, 40))
    expected = all_scores(saliency[cut], truth[cut], counts[cut], None)
    assert all_scores(changed, truth, counts, window) == pytest.approx(expected, abs=1e-9)


def test_unweighted_metrics_agree_with_pysaliency(maps):
    pysaliency = pytest.importorskip("pysaliency", reason="pysaliency is the oracle: pip install .[oracle]")
    from pysaliency.roc_cython import general_roc

    saliency, truth, counts = maps
    row, column = np.nonzero(counts)
    row, column = np.repeat(row, counts[row, column]), np.repeat(column, counts[row, column])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy.trapz, inside pysaliency
        auc = general_roc(saliency[row, column], saliency[counts == 0])[0]
    expected = {
        "auc_judd": auc,
        "nss": pysaliency.metrics.NSS(saliency, column, row).mean(),
        "cc": pysaliency.metrics.CC(saliency, truth),
        "sim": pysaliency.metrics.SIM(saliency, truth),
        "kld": pysaliency.metrics.MIT_KLDiv(saliency, truth),
    }
    assert all_scores(saliency, truth, counts, None) == pytest.approx(expected, abs=1e-6)


def test_auc_lies_within_half_a_fixation_of_the_trapezia_of_the_matlab_code(maps):
    saliency, _, counts = maps
    binary = counts > 0
    thresholds = np.sort(saliency[binary])[::-1]
    elsewhere = saliency[~binary]
    hits = np.concatenate([[0], np.arange(1, len(thresholds) + 1) / len(thresholds), [1]])
    alarms = np.concatenate([[0], [(elsewhere >= t).mean() for t in thresholds], [1]])
    matlab = float(np.sum(np.diff(alarms) * (hits[1:] + hits[:-1]) / 2))
    assert 0 <= matlab - auc_judd(saliency, binary, None) <= 1 / (2 * len(thresholds))


@settings(max_examples=60, deadline=None)
@given(
    saliency=arrays(np.float64, (4, 8), elements=st.one_of(st.sampled_from([0.0, 1.0, 2.0]), st.floats(-1e6, 1e6))),
    counts=arrays(np.int64, (4, 8), elements=st.integers(0, 2)).filter(lambda c: 0 < (c > 0).sum() < 32),
)
def test_auc_counts_ties_as_half_for_any_values(saliency, counts):
    assert auc_judd(saliency, counts) == pytest.approx(slow_auc(saliency, counts, sine_weights(4, 8)), abs=1e-9)


@pytest.mark.parametrize("spread", [1e-300, 1e-12, 1.0, 1e200])
def test_auc_is_exact_for_skewed_values(rng, spread):
    saliency = np.exp(rng.normal(0, 8, (16, 32))) * spread
    counts = (rng.random((16, 32)) < 0.2).astype(int)
    expected = slow_auc(saliency, counts, sine_weights(16, 32))
    assert auc_judd(saliency, counts) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    "values",
    [
        np.arange(256),  # of a grey picture: every value is that of a fixation somewhere
        np.append(1 + 1e-12 * np.arange(40), 1e6),  # most differ less than any table tells apart
        np.append(np.zeros(20), np.geomspace(1e-9, 1, 60)),
    ],
)
def test_auc_is_exact_for_few_and_for_crowded_values(rng, values):
    saliency = rng.choice(values, (16, 32)).astype(np.float64)
    counts = rng.integers(0, 3, (16, 32)) * (rng.random((16, 32)) < 0.4)
    expected = slow_auc(saliency, counts, sine_weights(16, 32))
    assert auc_judd(saliency, counts) == pytest.approx(expected, abs=1e-12)


def test_no_metric_changes_its_inputs(maps):
    saliency, truth, counts = maps
    small = saliency[::2, ::2].copy()
    record = record_of(truth, directions=erp_directions(24, 48)[counts > 0])
    copies = [each.copy() for each in (saliency, truth, counts, small)]
    all_scores(saliency, truth, counts)
    all_scores(saliency, truth, counts, None)
    all_scores(small, truth, counts)
    standard_protocol(saliency, record)
    paper_protocol(saliency, record)
    for array, copy in zip((saliency, truth, counts, small), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("value", [0.0, 0.1, 3.7, -2.0])
def test_a_constant_map_scores_as_chance(maps, value):
    _, truth, counts = maps
    scores = all_scores(np.full((24, 48), value), truth, counts)
    assert (scores["auc_judd"], scores["nss"], scores["cc"]) == (0.5, 0.0, 0.0)
    uniform = all_scores(np.ones((24, 48)), truth, counts)
    assert scores["sim"] == pytest.approx(uniform["sim"])
    assert scores["kld"] == pytest.approx(uniform["kld"], abs=1e-12)


def test_a_map_scores_perfectly_against_itself(maps):
    saliency = maps[0]
    assert cc(saliency, saliency) == pytest.approx(1)
    assert sim(saliency, saliency) == pytest.approx(1)
    assert kld(saliency, saliency) == 0
    assert cc(saliency, -saliency) == pytest.approx(-1)


def test_density_metrics_do_not_depend_on_the_scale_of_a_map(maps):
    saliency, truth, counts = maps
    assert all_scores(1e-9 * saliency, 1e6 * truth, counts) == pytest.approx(all_scores(saliency, truth, counts))


def test_an_empty_bin_of_the_prediction_costs_14_nats_at_any_resolution():
    for height in (8, 256):
        prediction, truth = np.ones((height, 2 * height)), np.ones((height, 2 * height))
        prediction[:, :height] = 0
        truth[:, height:] = 0  # all true mass lies where the prediction has none
        assert kld(prediction, truth) == pytest.approx(math.log(2 / 1e-6))


def test_a_single_fixation_on_the_maximum_wins_everywhere(maps):
    saliency = maps[0]
    counts = saliency == saliency.max()
    assert auc_judd(saliency, counts) == pytest.approx(1)
    assert auc_judd(-saliency, counts) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("azimuth", "elevation", "pixel"),
    [
        (math.pi, 0.0, (4, 0)),  # the seam belongs to the first column
        (-math.pi + 1e-9, 0.0, (4, 15)),
        (1.0, math.pi / 2, (0, 5)),
        (1.0, -math.pi / 2, (7, 5)),
    ],
)
def test_fixations_on_the_seam_and_the_poles_stay_on_the_map(azimuth, elevation, pixel):
    counts = count_fixations(angles_to_vector([azimuth], [elevation]), 8, 16)
    assert counts.sum() == 1
    assert counts[pixel] == 1 or abs(elevation) > 1  # at a pole every column is right
    assert counts[pixel[0]].sum() == 1
    saliency = np.zeros((8, 16))
    saliency[counts > 0] = 1
    assert auc_judd(saliency, counts) == 1


@pytest.mark.parametrize("weights", ["solid_angle", None])
def test_sizes_may_differ_and_no_fixation_is_lost(maps, weights):
    saliency, truth, counts = maps
    for metric in FIXATION_METRICS:
        fine = metric(saliency, np.kron(counts, [[0, 0], [0, 1]]), weights)  # 48 x 96
        assert np.isfinite(fine)
        coarse = counts.reshape(12, 2, 24, 2).sum(axis=(1, 3))
        # the fixations moved to a known pixel of each 2 x 2 block: the one at its centre's lower right
        assert metric(saliency, coarse, weights) == metric(saliency, np.kron(coarse, [[0, 0], [0, 1]]), weights)
    for metric in DENSITY_METRICS:
        smooth = np.cos(erp_directions(12, 24)[..., 0]) + 2
        dense = np.cos(erp_directions(48, 96)[..., 0]) + 2
        assert metric(smooth, dense, weights) == pytest.approx(metric(dense, dense, weights), abs=0.01)
        assert metric(truth, dense, weights) == pytest.approx(metric(dense, truth, weights), abs=0.5)


@pytest.mark.parametrize("metric", FIXATION_METRICS)
def test_a_fixation_map_without_fixation_or_with_fractions_is_refused(metric, maps):
    with pytest.raises(ParameterError, match="has no fixation"):
        metric(maps[0], np.zeros((24, 48)))
    with pytest.raises(ParameterError, match="not counts"):
        metric(maps[0], maps[1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(maps, bad):
    saliency, truth, counts = maps
    saliency[3, 3] = bad
    for metric in (*FIXATION_METRICS, *DENSITY_METRICS):
        with pytest.raises(ParameterError, match="not finite"):
            metric(saliency, counts if metric in FIXATION_METRICS else truth)


def test_a_map_of_all_fixations_has_no_auc():
    with pytest.raises(ParameterError, match="every pixel"):
        auc_judd(np.ones((2, 4)), np.ones((2, 4)))


def test_unusable_shapes_and_weights_are_refused(maps):
    saliency, truth, _ = maps
    for bad in (saliency[None], saliency[:0], saliency[0]):
        with pytest.raises(ParameterError, match="has the shape"):
            cc(bad, truth)
    for weights in ("area", np.ones((3, 1)), -np.ones((24, 1)), np.zeros((24, 48))):
        with pytest.raises(ParameterError, match="weights"):
            cc(saliency, truth, weights)


def record_of(density=None, directions=None, observers=4, valid=None):
    directions = np.zeros((0, 3)) if directions is None else directions
    count = len(directions)
    return GazeRecord(
        name="P1",
        panorama=lambda: np.zeros((4, 8, 3), np.uint8),
        fixations=directions,
        observer=np.arange(count) % observers,
        time_s=np.zeros(count),
        density=density,
        valid=valid,
    )


def test_every_metric_of_the_table_is_imported_from_the_package():
    for name, metric in METRICS.items():
        assert getattr(metrics, name) is metric.function


def test_standard_protocol_is_the_metrics_of_the_table_on_the_sphere(maps):
    saliency, truth, counts = maps
    counts = np.minimum(counts, 1)
    scores = standard_protocol(saliency, record_of(truth, erp_directions(24, 48)[counts > 0]))
    truth_of = {"fixations": counts, "density": truth}
    expected = {name: metric.function(saliency, truth_of[metric.against]) for name, metric in METRICS.items()}
    assert tuple(scores) == tuple(METRICS)
    assert scores == pytest.approx(expected)


def test_protocols_leave_out_what_cannot_be_known(maps):
    saliency, truth, _ = maps
    fixations = angles_to_vector([0.0, 1.0], [0.0, 0.2])
    of = {form: {name for name, each in METRICS.items() if each.against == form} for form in ("fixations", "density")}
    assert set(standard_protocol(saliency, record_of(directions=fixations))) == of["fixations"]
    assert set(standard_protocol(saliency, record_of(truth))) == of["density"]
    assert paper_protocol(saliency, record_of(directions=fixations)) == {}
    assert set(paper_protocol(saliency, record_of(truth, fixations, observers=1))) == {"cc", "sim", "kld"}


def test_standard_protocol_stays_inside_the_valid_part(maps, rng):
    saliency, truth, counts = maps
    valid = np.zeros((24, 48), bool)
    valid[4:20, 6:30] = True
    record = record_of(truth, erp_directions(24, 48)[counts > 0], valid=valid)
    changed = np.where(valid, saliency, rng.random((24, 48)))
    assert standard_protocol(changed, record) == pytest.approx(standard_protocol(saliency, record))
    assert paper_protocol(changed[::4, ::4], record).keys() == set(PAPER_METRICS)


def test_paper_protocol_agrees_with_its_description_step_by_step(rng):
    """Written out plainly, on the paper's grid, without any function of ours but the fixations' pixels."""
    height, width = 1024, 2048
    prediction, density = rng.random((height, width)), rng.random((height, width)) + 0.1
    fixations = rng.normal(size=(60, 3))
    fixations /= np.linalg.norm(fixations, axis=1, keepdims=True)
    record = record_of(density, fixations, observers=3)
    epsilon = np.finfo(float).eps
    sine = np.sin(np.linspace(0, np.pi, height))[:, None]
    p, q = prediction * sine + epsilon, density * sine + epsilon
    p, q = (p - p.min()) / (p.max() - p.min()), (q - q.min()) / (q.max() - q.min())
    first, second = record.fixations[np.arange(60) % 3 != 1], record.fixations[np.arange(60) % 3 == 1]

    def one_way(a, b):
        a, b = a / a.sum(), b / b.sum()
        return (a * np.log((a + epsilon) / (b + epsilon))).sum()

    def mean_nss(saliency, directions):
        values = ((saliency - saliency.mean()) / saliency.std())[count_fixations(directions, height, width) > 0]
        return values.mean()

    def mean_auc(saliency, directions):
        hit = count_fixations(directions, height, width) > 0
        elsewhere = np.sort(saliency[~hit])
        below, upto = (np.searchsorted(elsewhere, saliency[hit], side) for side in ("left", "right"))
        return ((below + upto) / 2).mean() / len(elsewhere)

    expected = {
        "auc_judd": (mean_auc(p, first) + mean_auc(q, second)) / 2,
        "nss": (mean_nss(p, first) + mean_nss(q, second)) / 2,
        "cc": np.corrcoef(p.ravel(), q.ravel())[0, 1],
        "sim": np.minimum(p / p.sum(), q / q.sum()).sum(),
        "kld": (one_way(p, q) + one_way(q, p)) / 2,
    }
    assert paper_protocol(prediction, record) == pytest.approx(expected, abs=1e-9)


def test_a_record_with_incompatible_parts_is_named():
    one = angles_to_vector([0.0], [0.0])
    with pytest.raises(DataError, match="P1"):
        GazeRecord("P1", lambda: None, one, np.zeros(2, int), np.zeros(1))
    with pytest.raises(DataError, match="unit vectors"):
        GazeRecord("P1", lambda: None, 2 * one, np.zeros(1, int), np.zeros(1))
    with pytest.raises(DataError, match="negative or not finite"):
        record_of(np.full((2, 4), np.nan))
    with pytest.raises(DataError, match="mask"):
        record_of(np.ones((2, 4)), valid=np.ones((4, 8), bool))
