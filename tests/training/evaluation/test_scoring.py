"""Scores, information gain, people against people, intervals and tables."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import pytest

from sal360.density import spherical_density
from sal360.ground_truth import GazeRecord
from sal360.metrics import paper_protocol, standard_protocol
from sal360.sphere import angles_to_vector, erp_directions
from training.evaluation.predictions import Prediction
from training.evaluation.scoring import Reference, Score, information_gain, score, score_people
from training.evaluation.summary import bootstrap_interval, scores_csv, summaries_csv, summarise, text_table

UNIFORM = Reference(np.ones((2, 4)), np.ones((2, 4)))


@pytest.fixture
def gaze():
    """40 fixations of 4 people around two places."""
    rng = np.random.default_rng(8)
    azimuth = rng.normal(0, 0.15, 40) + np.repeat([0.3, -2.0], 20)
    fixations = angles_to_vector(azimuth, rng.normal(0.1, 0.1, 40))
    density = spherical_density(fixations, 32, 64, 8.0)
    return GazeRecord("a", lambda: None, fixations, np.arange(40) % 4, np.zeros(40), density)


def test_a_prediction_is_scored_by_both_protocols_and_against_the_prior(gaze):
    prediction = np.exp(erp_directions(16, 32)[..., 0])
    shown = Prediction(prediction, gaze, of_picture=False)
    standard, paper = score("m", shown, gaze, ["standard", "paper"], UNIFORM)
    gain = standard.values.pop("information_gain")
    assert standard.values == standard_protocol(prediction, gaze)
    assert paper.values == paper_protocol(prediction, gaze)
    assert gain == information_gain(prediction, np.ones((2, 4)), gaze)


def test_information_gain_is_the_mean_logarithm_of_the_ratio_at_fixations(gaze):
    prior = np.exp(-np.abs(np.linspace(-3, 3, 32)))[:, None] * np.ones((1, 64))
    assert information_gain(prior, prior, gaze) == 0
    doubled = np.ones((32, 64))
    doubled[:, :32] = 3  # 1.5 and 0.5 of uniform
    left = gaze.fixations[:, 1] > 0
    expected = np.where(left, math.log2(1.5), -1).mean()
    assert information_gain(doubled, np.ones((2, 4)), gaze) == pytest.approx(expected)
    impossible = np.zeros((32, 64))
    impossible[0] = 1
    assert information_gain(impossible, np.ones((2, 4)), gaze) == pytest.approx(math.log2(1e-6))


def test_information_gain_counts_the_valid_part_alone(gaze):
    valid = np.zeros((32, 64), bool)
    valid[:, :32] = True
    part = GazeRecord("a", gaze.panorama, gaze.fixations, gaze.observer, gaze.time_s, gaze.density, valid)
    doubled = np.ones((32, 64))
    doubled[:, 32:] = 9
    assert information_gain(doubled, np.ones((32, 64)), part) == pytest.approx(0)


def test_people_predict_each_other_better_than_chance_and_worse_than_themselves(gaze):
    people = score_people(gaze, 8.0, ["standard", "paper"], UNIFORM)
    assert [each.protocol for each in people] == ["standard", "paper"]
    assert 0.6 < people[0].values["cc"] < 1
    assert people[0].values["information_gain"] > 1
    alone = GazeRecord("a", gaze.panorama, gaze.fixations, np.zeros(40, int), gaze.time_s, gaze.density)
    assert score_people(alone, 8.0, ["standard"], UNIFORM) == []


def test_people_of_whom_one_half_made_a_single_fixation_have_what_both_ways_give(gaze):
    few = GazeRecord("a", gaze.panorama, gaze.fixations[:3], np.array([0, 1, 1]), np.zeros(3), gaze.density)
    standard, paper = score_people(few, 8.0, ["standard", "paper"], UNIFORM)
    assert standard.values.keys() >= {"auc_judd", "nss", "kld"}
    assert paper.values.keys() == {"cc", "sim", "kld"}


def test_summaries_are_means_sample_deviations_and_counts_of_what_there_is():
    scores = [
        Score("m", "1", "standard", {"nss": 1.0, "kld": 2.0}),
        Score("m", "2", "standard", {"nss": 3.0}),
        Score("n", "1", "standard", {"nss": 5.0}),
    ]
    nss, kld, other = summarise(scores, draws=200, seed=0, scene_of={})
    assert (nss.model, nss.metric, nss.count, nss.mean) == ("m", "nss", 2, 2.0)
    assert nss.deviation == pytest.approx(math.sqrt(2))
    assert (nss.low, nss.high) == (1, 3)
    assert (kld.count, kld.scenes) == (1, 1)
    assert all(map(math.isnan, (kld.deviation, kld.low, kld.high)))  # one scene does not tell how others differ
    assert other.model == "n"


def test_the_interval_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(9)
    covered = 0
    for _ in range(200):
        values = rng.normal(3, 1, 40)
        low, high = bootstrap_interval(values, [str(i) for i in range(40)], 400, 0)
        covered += low <= 3 <= high
    assert 0.88 < covered / 200 <= 0.99


def test_frames_of_a_video_are_drawn_together():
    """Frames that all say the same add no certainty."""
    videos = np.random.default_rng(10).normal(0, 1, 12)
    names = [f"{video:03d}" for video in range(12)]
    few = bootstrap_interval(videos, names, 500, 0)
    many = bootstrap_interval(np.repeat(videos, 30), [name for name in names for _ in range(30)], 500, 0)
    assert many == pytest.approx(few)
    frames = {f"{v:03d}-{f}.jpg": v for v in range(12) for f in range(30)}
    scores = [Score("m", name, "standard", {"nss": float(videos[v])}) for name, v in frames.items()]
    summary = summarise(scores, 500, 0, {name: f"{v:03d}" for name, v in frames.items()})[0]
    assert (summary.count, summary.scenes) == (360, 12)
    assert (summary.low, summary.high) == pytest.approx(few)


def test_photographs_in_one_folder_are_pictures_of_their_own():
    scores = [Score("m", f"street/{i}.jpg", "planar", {"nss": float(i)}) for i in range(8)]
    (summary,) = summarise(scores, 100, 0, {})
    assert summary.scenes == 8
    assert summary.low < summary.mean < summary.high


def test_one_scene_has_no_interval_in_any_table():
    scores = [Score("m", f"{i}.jpg", "standard", {"nss": float(i)}) for i in range(3)]
    scene_of = {f"{i}.jpg": "hall" for i in range(3)}
    summaries = summarise(scores, 100, 0, scene_of)
    assert "1.000 ± 1.000 [–, –]" in text_table(summaries, "standard")
    (row,) = csv.DictReader(io.StringIO(summaries_csv(summaries)))
    assert (row["records"], row["scenes"], row["low_95"]) == ("3", "1", "nan")
    assert {row["scene"] for row in csv.DictReader(io.StringIO(scores_csv(scores, scene_of)))} == {"hall"}


def test_tables_say_what_is_missing():
    scores = [Score("m", "1", "standard", {"nss": 1.0}), Score("n", "1", "standard", {"nss": 2.0, "kld": 0.5})]
    summaries = summarise(scores, 10, 0, {})
    lines = text_table(summaries, "standard").splitlines()
    assert lines[0].split("|")[1:-1] == [" model ", lines[0].split("|")[2], lines[0].split("|")[3]]
    assert "NSS" in lines[0]
    assert "KLD" in lines[0]
    assert "AUC" not in lines[0]
    assert "–" in lines[2]
    rows = list(csv.DictReader(io.StringIO(scores_csv(scores, {}))))
    assert rows[0]["kld"] == ""
    assert rows[1]["kld"] == "0.5"
    assert [row["metric"] for row in csv.DictReader(io.StringIO(summaries_csv(summaries)))] == ["nss", "nss", "kld"]
