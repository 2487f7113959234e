"""The command from data set to report, on small copies of the data sets."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re
import sys
import time

import cv2
import numpy as np
import pytest

from sal360.errors import ParameterError, Sal360Error
from sal360.sphere import angular_distance, erp_directions, solid_angles
from training import evaluate as command
from training.data.gaze import salient360
from training.data.gaze.datasets import GazeConfig, open_gaze
from training.data.gaze.photographs import PhotographRecords
from training.data.gaze.photographs_with_fixations import read_photographs
from training.data.gaze.records import GazeRecords, GazeSplit
from training.evaluate import EvaluateConfig
from training.evaluation.scoring import score
from training.evaluation.turning import TURNS_DEG, measure_turning


def config_of(root, output, **settings):
    data = GazeConfig(root=str(root), dataset="salient360")
    defaults = {"models": (), "panorama_height": 64, "draws": 50, "cases": 1, "protocols": ("standard",)}
    return EvaluateConfig(data=data, output=str(output), **{**defaults, **settings})


def read_csv(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


@pytest.mark.parametrize("module", ["matplotlib", "jinja2"])
def test_a_module_of_the_report_is_missed_before_anything_is_measured(salient360_root, tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(command, "open_models", lambda *_: pytest.fail("the measurement has begun"))
    with pytest.raises(ModuleNotFoundError, match=module):
        command.evaluate(config_of(salient360_root, tmp_path / "out"))


def test_baselines_on_salient360_end_in_tables_and_a_report(salient360_root, tmp_path, capsys):
    out = tmp_path / "out"
    scores = command.evaluate(
        config_of(
            salient360_root,
            out,
            baselines=("uniform", "equator", "mean", "bms360", "people", "ground_truth"),
            protocols=("standard", "paper"),
            limit=2,
        )
    )
    assert {each.record for each in scores} == {"P75", "P77"}
    mean = {(row["model"], row["protocol"], row["metric"]): float(row["mean"]) for row in read_csv(out / "summary.csv")}
    assert mean["uniform", "standard", "nss"] == 0
    assert mean["uniform", "standard", "auc_judd"] == 0.5
    assert mean["bms360", "standard", "nss"] > 1
    assert mean["ground_truth", "standard", "cc"] == pytest.approx(1)
    assert mean["ground_truth", "paper", "kld"] == pytest.approx(0, abs=1e-9)
    assert mean["equator", "standard", "information_gain"] == pytest.approx(0, abs=1e-9)
    assert mean["people", "standard", "information_gain"] > 1
    assert len(read_csv(out / "scores.csv")) == 6 * 2 * 2
    page = (out / "report.html").read_text()
    assert page.count("data:image/") == 7  # two plots, two records side by side, two worst cases and a best one
    assert 'src="http' not in page
    assert "standard protocol" in capsys.readouterr().out


def test_the_report_shows_the_record_on_which_the_first_predictor_is_worst(salient360_root, tmp_path):
    scores = command.evaluate(config_of(salient360_root, tmp_path, baselines=("bms360", "uniform")))
    kld = {each.record: each.values["kld"] for each in scores if each.model == "bms360"}
    page = (tmp_path / "report.html").read_text()
    worst, best = (re.search(rf"{which} cases of bms360.*?(P\d+):", page, re.DOTALL) for which in ("Worst", "Best"))
    assert worst[1] == max(kld, key=kld.get)
    assert best[1] == min(kld, key=kld.get)


def test_the_report_shows_the_failures_of_the_model_that_is_named_by_both_metrics(salient360_root, tmp_path):
    settings = {"baselines": ("uniform", "equator", "bms360"), "cases_of": "bms360"}
    scores = command.evaluate(config_of(salient360_root, tmp_path, **settings))
    of = {each.record: each.values for each in scores if each.model == "bms360"}
    page = (tmp_path / "report.html").read_text()
    for heading, expected in (
        ("highest KLD", max(of, key=lambda record: of[record]["kld"])),
        ("lowest NSS", min(of, key=lambda record: of[record]["nss"])),
    ):
        found = re.search(rf"Worst cases of bms360: {heading}.*?figcaption>(P\d+): bms360 has", page, re.DOTALL)
        assert found[1] == expected
    assert "uniform has" not in page


@pytest.mark.parametrize(("named", "meant"), [("", "a"), ("runs/b", "b"), ("b, prior × 0", "b, prior × 0"), ("c", "c")])
def test_the_model_of_the_cases_is_named_as_in_models_or_in_the_tables(tmp_path, monkeypatch, named, meant):
    trained = lambda model, _: type("Trained", (), {"name": model.rpartition("/")[2], "predict": print})  # noqa: E731
    monkeypatch.setattr(command, "read_predictor", trained)
    maps = tmp_path / "c"
    maps.mkdir()
    np.save(maps / "P75.npy", np.ones((4, 8)))
    models = ("runs/a", str(maps), "runs/b", "bms360")
    config = config_of(tmp_path, tmp_path / "out", models=models, prior_strengths=(1.0, 0.0), cases_of=named)
    opened = command.open_models(config.opened, config.prior_strengths)
    assert command._name_of_cases(config, opened) == meant
    wrong = dataclasses.replace(config, cases_of="people")
    with pytest.raises(ParameterError, match=r"^cases_of is 'people'; expected empty, or one of runs/a, .*, bms360"):
        command._name_of_cases(wrong, opened)


def test_people_can_be_measured_without_a_predictor(salient360_root, tmp_path):
    scores = command.evaluate(config_of(salient360_root, tmp_path, baselines=("people", "ground_truth"), limit=1))
    assert {each.model for each in scores} == {"people", "ground_truth"}
    assert "Worst cases" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("threads", [1, 3])
def test_the_figures_do_not_depend_on_the_number_of_threads(salient360_root, tmp_path, threads):
    settings = {
        "baselines": ("equator", "bms360", "people", "ground_truth"),
        "protocols": ("standard", "paper", "planar"),
    }
    found = command.evaluate(config_of(salient360_root, tmp_path / "some", threads=threads, **settings))
    config = config_of(salient360_root, tmp_path, **settings)
    part = command._fitted(command._open_split(config.data, config), {}, config)
    expected = [
        each
        for record in part.records
        for name, predict in part.predictors.items()
        for each in score(name, predict(record, record.panorama), record, settings["protocols"], part.reference)
    ]
    assert [each for each in found if each.model in part.predictors] == expected


def test_a_model_is_never_called_by_two_threads_at_once(salient360_root, tmp_path, monkeypatch):
    inside, most = [], []

    def predict(panorama):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()
        return panorama[:, :, 0].astype(np.float32) + 1

    model = type("Trained", (), {"name": "slow", "predict": staticmethod(predict)})
    monkeypatch.setattr(command, "read_predictor", lambda *_: model)
    command.evaluate(config_of(salient360_root, tmp_path, models=("slow",), baselines=(), turned=0, threads=3))
    assert len(most) > 3
    assert max(most) == 1


def test_panoramas_are_not_read_where_only_maps_of_others_are_measured(salient360_root, tmp_path, monkeypatch):
    records = open_gaze(GazeConfig(root=str(salient360_root), dataset="salient360"), 64, 100.0).measuring
    (tmp_path / "maps").mkdir()
    for record in records:
        np.save(tmp_path / f"maps/{record.name}.npy", record.density)
    monkeypatch.setattr(salient360, "read_panorama", lambda *_: pytest.fail("a panorama is read"))
    maps = (str(tmp_path / "maps"),)
    settings = {"models": maps, "baselines": ("people",), "examples": 0, "cases": 0}
    scores = command.evaluate(config_of(salient360_root, tmp_path / "out", **settings))
    assert min(each.values["cc"] for each in scores if each.model == "maps") == pytest.approx(1)


def test_an_error_in_a_record_ends_the_measurement_with_that_error(salient360_root, tmp_path):
    damaged = next(salient360_root.rglob("HEsalmap_77_*.bin"))
    damaged.write_bytes(np.full(damaged.stat().st_size // 4, np.nan, np.float32).tobytes())
    with pytest.raises(Sal360Error, match=damaged.name):
        command.evaluate(config_of(salient360_root, tmp_path, baselines=("uniform",), threads=2))


def test_limit_takes_records_evenly(salient360_root, tmp_path):
    scores = command.evaluate(config_of(salient360_root, tmp_path, baselines=("uniform",), limit=2))
    assert [each.record for each in scores] == ["P75", "P77"]


def test_models_are_measured_beside_baselines_and_on_turned_panoramas(salient360_root, tmp_path, monkeypatch):
    def read_predictor(model, prior_strength):
        def predict(panorama):
            return cv2.resize(panorama[:, :, 0], (64, 32)).astype(np.float32) * (1 + prior_strength) + 1

        return type("Trained", (), {"name": model, "predict": staticmethod(predict)})

    monkeypatch.setattr(command, "read_predictor", read_predictor)
    settings = {"models": ("bright",), "prior_strengths": (1.0, 0.0), "turned": 2, "baselines": ("uniform",)}
    scores = command.evaluate(config_of(salient360_root, tmp_path, **settings))
    assert list(dict.fromkeys(each.model for each in scores)) == ["bright", "bright, prior × 0", "uniform"]
    turned = read_csv(tmp_path / "turned.csv")
    assert len(turned) == 2 * 2 * len(TURNS_DEG)
    # it looks at pixels alone, so it turns with the panorama
    assert min(float(row["cc"]) for row in turned) > 0.9
    with pytest.raises(ParameterError, match="two models have the name bright"):
        command.open_models(("bright", "bright"), (1.0,))


def test_a_model_that_likes_the_equator_moves_when_the_panorama_is_pitched(salient360_root):
    records = open_gaze(GazeConfig(root=str(salient360_root), dataset="salient360"), 64, 75.0).measuring
    equator = np.exp(-np.abs(np.linspace(-4, 4, 32)))[:, None] * np.ones((1, 64))
    moved = {(each.axis, each.angle_deg): each for each in measure_turning({"e": lambda _: equator}, records[:1])}
    assert moved["yaw", 90.0].cc == pytest.approx(1)
    assert moved["pitch", 90.0].cc < moved["pitch", 30.0].cc < moved["pitch", 10.0].cc < 1
    assert moved["roll", 90.0].kld > moved["roll", 10.0].kld > 0


def test_osie_is_measured_inside_its_viewports(osie_root, tmp_path):
    root, panoramas = osie_root
    data = GazeConfig(root=str(root), panoramas=str(panoramas), folds=3)
    settings = EvaluateConfig(
        data=data, output=str(tmp_path / "out"), models=(), baselines=("uniform", "mean"), draws=20, cases=1
    )
    scores = command.evaluate(dataclasses.replace(settings, every_fold=True, protocols=("standard",)))
    assert len({each.record for each in scores}) == 6
    assert all(each.values["nss"] == 0 for each in scores if each.model == "uniform")
    page = (tmp_path / "out/report.html").read_text()
    assert "fold 2 of 3" in page
    shown = page.partition("Maps side by side")[2].partition("Worst cases")[0]
    assert len(set(re.findall(r"figcaption>(\d\.jpg): uniform has", shown))) == 6  # those of all folds
    with pytest.raises(ParameterError, match="every_fold"):
        EvaluateConfig(data=GazeConfig(root="r", dataset="salient360"), output="o", every_fold=True)


def test_a_photograph_is_a_viewport_in_front_with_its_gaze_inside(osie_root):
    root, _ = osie_root
    photographs = read_photographs(root)
    background = np.full((128, 256, 3), 20, np.uint8)
    records = PhotographRecords(photographs, [background], 80.0, map_height=128)
    record = records[3]
    assert record.name == "3.jpg"
    assert records.sigma_deg == pytest.approx(math.degrees(24 / (400 / math.tan(math.radians(40)))))
    panorama = record.panorama()
    assert panorama[64, 128, 0] > 200
    assert panorama[64, 0, 0] == 20
    assert background.max() == 20  # not drawn on
    assert record.valid[64, 128]
    # 80° of 360° of the columns on the horizon
    assert record.valid[64].sum() == pytest.approx(256 * 80 / 360, abs=2)
    weights = solid_angles(128, 256) * record.valid
    assert (record.density * weights).sum() / weights.sum() == pytest.approx(1, rel=1e-5)
    # the fixation in the photograph's upper left corner region lies up and left (+y) of the middle
    corner = np.argmin(photographs[3].x + photographs[3].y)
    assert record.fixations[corner, 1] > 0
    assert record.fixations[corner, 2] > 0
    # every fixation lies where the density of its photograph is high
    at = [np.argmin(angular_distance(erp_directions(128, 256), each)) for each in record.fixations]
    assert record.density.ravel()[at].min() > record.density[record.valid].mean() / 2


def test_an_output_that_is_a_file_is_refused_before_anything_is_measured(salient360_root, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "open_gaze", lambda *_: pytest.fail("measured"))
    (tmp_path / "out").write_text("")
    with pytest.raises(OSError, match="out"):
        command.evaluate(config_of(salient360_root, tmp_path / "out", baselines=("uniform",)))


@pytest.mark.parametrize(
    ("model", "found"),
    [
        ("bundeld", "there is no model 'bundeld'; pass bundled, .* a folder of maps, or one of uniform, equator"),
        ("empty", "has no checkpoint"),
    ],
)
def test_a_model_that_is_not_there_is_named(salient360_root, tmp_path, monkeypatch, model, found):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(Sal360Error, match=found):
        command.evaluate(config_of(salient360_root, tmp_path / "out", models=(model,)))


def test_names_are_escaped_and_half_of_the_page_is_not_missing(salient360_root, tmp_path):
    command.evaluate(config_of(salient360_root, tmp_path, baselines=("uniform", "people"), limit=1))
    page = (tmp_path / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert page.endswith("</html>\n")
    assert re.search(r'<td class="best">0\.500 ± –<small>– … –</small></td>', page)
    assert "{{" not in page


def test_the_bundled_model_is_measured_by_its_name(salient360_root, tmp_path):
    pytest.importorskip("onnxruntime", reason="the bundled model needs a runtime")
    settings = {"models": ("bundled",), "baselines": ("uniform",), "turned": 0, "limit": 1}
    scores = command.evaluate(config_of(salient360_root, tmp_path, **settings))
    bundled = next(each for each in scores if each.model == "bundled")
    assert bundled.values["auc_judd"] > 0.5


class Numbered(GazeRecords):
    """Records that are their numbers."""

    sigma_deg = 3.0

    def __init__(self, first, count):
        self.names = tuple(str(first + i) for i in range(count))

    def read(self, index):
        return self.names[index]


def test_a_limit_is_that_of_all_folds_together_and_spread_over_them():
    splits = [GazeSplit(Numbered(0, 1), Numbered(first, 4), "") for first in (0, 4, 8)]
    for limit, expected in (
        (0, [["0", "1", "2", "3"], ["4", "5", "6", "7"], ["8", "9", "10", "11"]]),
        (99, [["0", "1", "2", "3"], ["4", "5", "6", "7"], ["8", "9", "10", "11"]]),
        (3, [["0"], ["5"], ["11"]]),
        (2, [["0"], ["11"]]),
    ):
        assert [list(split.measuring.names) for split in command._limited(splits, limit)] == expected


def test_turned_panoramas_are_spread_over_all():
    assert command._to_turn(Numbered(0, 9), 3) == ["0", "4", "8"]
    assert command._to_turn(Numbered(0, 2), 12) == ["0", "1"]
    assert command._to_turn(Numbered(0, 2), 0) == []
