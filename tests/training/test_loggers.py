"""Curves in CSV files, MLflow and Weights & Biases beside the TensorBoard files."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from sal360.errors import TrainingError, one_line_errors
from training.curves import Curves, read_curves
from training.loggers import LoggerName, Tracker, open_tracker
from training.loop import LoopConfig, make_fabric

SETTINGS = {"loop": {"steps": 30}, "model": {"encoder": "compact", "strides": [4, 8]}}
POINTS = {0: {"score": 0.5}, 10: {"loss": 2.0, "speed/images_per_s": 7.0}, 20: {"loss": 1.0, "score": 0.75}}


def write(name: LoggerName, run: Path, points: Mapping[int, Mapping[str, float]], *, is_new: bool = True) -> None:
    tracker = open_tracker(name, run, SETTINGS, is_new=is_new)
    start = 0 if is_new else min(points) - 1
    with Curves(run, start, enabled=True, tracker=tracker) as curves:
        for step, values in points.items():
            curves.write(step, values)


def table(path: Path) -> list[dict[str, float]]:
    rows = list(csv.DictReader(path.read_text().splitlines()))
    return [{name: float(value) for name, value in row.items() if value} for row in rows]


def test_curves_are_tables_too_and_each_restart_has_its_own(tmp_path: Path) -> None:
    write("csv", tmp_path, POINTS)
    write("csv", tmp_path, {30: {"loss": 0.5}}, is_new=False)
    assert table(tmp_path / "csv/version_0/metrics.csv") == [
        {"step": step, **values} for step, values in POINTS.items()
    ]
    assert table(tmp_path / "csv/version_1/metrics.csv") == [{"step": 30, "loss": 0.5}]
    assert read_curves(tmp_path)["loss"] == ([10, 20, 30], [2.0, 1.0, 0.5])


def test_points_are_in_the_table_while_the_run_goes_on(tmp_path: Path) -> None:
    with Curves(tmp_path, 0, enabled=True, tracker=open_tracker("csv", tmp_path, {}, is_new=True)) as curves:
        curves.write(10, POINTS[10])
        assert table(tmp_path / "csv/version_0/metrics.csv") == [{"step": 10, **POINTS[10]}]


def test_tensorboard_alone_needs_nothing_else(tmp_path: Path) -> None:
    assert open_tracker("tensorboard", tmp_path, SETTINGS, is_new=True) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "module"), [("mlflow", "mlflow"), ("wandb", "wandb"), ("wandb", "pytorch_lightning")])
def test_a_missing_package_is_one_line_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: Any, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "pytorch_lightning", sys.modules.get("pytorch_lightning", type(sys)("x")))
    if module == "pytorch_lightning":
        monkeypatch.setitem(sys.modules, module, None)
    config = LoopConfig(run=str(tmp_path / "run"), steps=1, accelerator="cpu", logger=name)
    assert one_line_errors(lambda: make_fabric(config)) != 0
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f'the Python module {module} is missing; pip install ".[tracking]" in the checkout of sal360' in said
    assert not (tmp_path / "run").exists()


class Failing:
    """A service that goes away after the first point."""

    def __init__(self) -> None:
        self.points: list[int] = []
        self.ended = ""

    def log_metrics(self, _values: Mapping[str, float], step: int) -> None:
        if self.points:
            raise ConnectionError("no route to host\nmore lines")
        self.points.append(step)

    def save(self) -> None:
        return

    def finalize(self, status: str) -> None:
        self.ended = status


def test_a_service_that_goes_away_does_not_end_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service = Failing()
    with Curves(tmp_path, 0, enabled=True, tracker=Tracker("mlflow", service)) as curves:
        for step in (1, 2, 3):
            curves.write(step, {"loss": 1.0})
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "mlflow takes no curves any more (no route to host); the run continues" in said
    assert read_curves(tmp_path)["loss"][0] == [1, 2, 3]
    assert service.ended == ""


@pytest.mark.parametrize("fails", [True, False])
def test_a_service_is_told_how_the_run_ended(tmp_path: Path, fails: bool) -> None:
    service = Failing()
    expected = pytest.raises(TrainingError) if fails else nullcontext()
    with expected, Curves(tmp_path, 0, enabled=True, tracker=Tracker("wandb", service)):
        if fails:
            raise TrainingError("the loss is nan", "lower the rate")
    assert service.ended == ("failed" if fails else "success")


@pytest.fixture
def _mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("mlflow", "pytorch_lightning"):
        pytest.importorskip(module, reason='MLflow is optional: pip install ".[tracking]"')
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.usefixtures("_mlflow")
@pytest.mark.filterwarnings("ignore")  # those of the packages
def test_mlflow_has_settings_and_curves_of_a_run_across_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    place = f"file:{tmp_path / 'server'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # no server in tests
    write("mlflow", tmp_path / "run", POINTS)
    write("mlflow", tmp_path / "run", {30: {"loss": 0.5}}, is_new=False)
    client = MlflowClient(place)
    (found,) = client.search_runs([client.get_experiment_by_name("sal360").experiment_id])
    assert found.data.tags["mlflow.runName"] == "run"
    assert found.data.params["model/encoder"] == "compact"
    assert found.info.status == "FINISHED"
    history = [(point.step, point.value) for point in client.get_metric_history(found.info.run_id, "loss")]
    assert history == [(10, 2.0), (20, 1.0), (30, 0.5)]


@pytest.mark.usefixtures("_mlflow")
@pytest.mark.filterwarnings("ignore")
def test_without_a_server_mlflow_writes_into_the_folder_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # so that the end of the test restores it
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    write("mlflow", tmp_path, POINTS)
    assert list((tmp_path / "mlruns").rglob("metrics/loss"))


@pytest.mark.usefixtures("_mlflow")
@pytest.mark.filterwarnings("ignore")
def test_a_server_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrainingError, match=r"mlflow cannot be used \(.*\); check MLFLOW_TRACKING_URI, or") as caught:
        open_tracker("mlflow", tmp_path, SETTINGS, is_new=True)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases_writes_a_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("wandb", "pytorch_lightning"):
        pytest.importorskip(module, reason='Weights & Biases is optional: pip install ".[tracking]"')
    monkeypatch.setenv("WANDB_MODE", "offline")
    write("wandb", tmp_path / "run", POINTS)
    (own,) = (tmp_path / "run/wandb").glob("offline-run-*")
    before = (tmp_path / "run/tracking.json").read_text()
    assert own.name.split("-")[-1] in before
    write("wandb", tmp_path / "run", {30: {"loss": 0.5}}, is_new=False)
    assert (tmp_path / "run/tracking.json").read_text() == before
