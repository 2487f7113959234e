"""The exported file: does what the model does, says what it is, and refuses what it is not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from sal360_ros.errors import CheckpointError, ModelError
from sal360_ros.spec import INPUT_NAME, OUTPUT_NAME, read_onnx_spec
from training import export as export_module
from training.checkpoint import save_checkpoint
from training.config.plain import from_plain
from training.config.saliency import CalibrationConfig, PriorConfig, SaliencyModelConfig
from training.export import ExportConfig, compare, export
from training.models.saliency_model import DensityModel, SaliencyModel

CONFIG = SaliencyModelConfig(
    input_height=32,
    channels=8,
    strides=(8, 16, 32),
    prior=PriorConfig(scale_deg=20.0),
    calibration=CalibrationConfig(temperature=1.5, floor=0.1),
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DensityModel]:
    """A tiny model's file and the model."""
    torch.manual_seed(0)
    model = SaliencyModel(CONFIG)
    with torch.no_grad():
        model.decoder.head.weight.normal_()  # type: ignore[union-attr]  # an untrained head says "uniform"
    folder = tmp_path_factory.mktemp("export")
    save_checkpoint(folder / "run", 1, model, "saliency", CONFIG, {})
    export(ExportConfig(str(folder / "run"), str(folder / "model.onnx"), name="tiny", version="0.0.1", upsample=1))
    return folder / "model.onnx", DensityModel(model, upsample=1).eval()


@pytest.mark.parametrize("batch", [1, 3])
def test_the_file_does_what_the_model_does(exported: tuple[Path, DensityModel], batch: int) -> None:
    path, model = exported
    frames = np.random.default_rng(0).integers(0, 256, (batch, 32, 64, 3)).astype(np.uint8)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run([OUTPUT_NAME], {INPUT_NAME: frames})[0]
    with torch.no_grad():
        np.testing.assert_allclose(found, model(torch.from_numpy(frames)).numpy(), rtol=1e-4)


def test_the_spec_says_what_the_file_is(exported: tuple[Path, DensityModel]) -> None:
    path, model = exported
    spec = read_onnx_spec(path)
    assert (spec.name, spec.version) == ("tiny", "0.0.1")
    assert (spec.input_height, spec.input_width) == (32, 64)
    assert (spec.output_height, spec.output_width) == (8, 16)
    np.testing.assert_allclose(spec.prior_log_rows, model.prior_log_rows[:, 0], rtol=1e-6)
    assert spec.parity["max_relative_difference"] < 1e-3
    assert spec.parity["cc"] > 0.9999


def test_a_file_of_another_model_is_refused(exported: tuple[Path, DensityModel]) -> None:
    path, _ = exported
    torch.manual_seed(1)
    with pytest.raises(ModelError, match=r"differs from the checkpoint by .* expected less than 0\.1 %"):
        compare(DensityModel(SaliencyModel(CONFIG), upsample=1).eval(), path)


def test_a_failed_export_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path / "run", 1, SaliencyModel(CONFIG), "saliency", CONFIG, {})
    output = tmp_path / "model.onnx"
    output.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(export_module, "write_onnx", fail)
    with pytest.raises(OSError, match="disk full"):
        export(ExportConfig(str(tmp_path / "run"), str(output)))
    assert output.read_bytes() == b"old"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.onnx", "run"]


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        export(ExportConfig(str(tmp_path / "nowhere"), str(tmp_path / "model.onnx")))


def test_settings_come_back_from_json_and_unknown_ones_are_refused() -> None:
    plain = json.loads(json.dumps(dataclasses.asdict(CONFIG)))
    assert from_plain(SaliencyModelConfig, plain) == CONFIG
    plain["prior"]["colour"] = "green"
    with pytest.raises(CheckpointError, match="the setting 'colour' of PriorConfig is unknown"):
        from_plain(SaliencyModelConfig, plain)
