"""The average of checkpoints is the mean of their weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sal360.errors import CheckpointError, ParameterError
from training.average import AverageConfig, average
from training.checkpoint import PANORAMAS, UNRECORDED, load_state, load_weights, read_header, save_checkpoint
from training.models.saliency_model import SaliencyModel, SaliencyModelConfig

CONFIG = SaliencyModelConfig(input_height=32, channels=8)


def test_weights_are_averaged(tmp_path: Path) -> None:
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        models.append(SaliencyModel(CONFIG))
        save_checkpoint(tmp_path / f"run{seed}", 1, models[-1], "saliency", CONFIG, {})
    average(AverageConfig((str(tmp_path / "run0"), str(tmp_path / "run1")), str(tmp_path / "mean")))
    found = SaliencyModel(CONFIG)
    load_weights(tmp_path / "mean", found, kind="saliency")
    first, second = (model.state_dict() for model in models)
    for name, value in found.state_dict().items():
        torch.testing.assert_close(value, (first[name] + second[name]) / 2)
    with pytest.raises(CheckpointError, match=r"weights only, no training_state.pt.*; start a new run"):
        load_state(tmp_path / "mean" / "last")  # as resuming does


def test_one_checkpoint_or_a_missing_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="at least two"):
        AverageConfig((str(tmp_path),), "out")
    save_checkpoint(tmp_path / "run", 1, SaliencyModel(CONFIG), "saliency", CONFIG, {})
    with pytest.raises(CheckpointError, match="does not exist"):
        average(AverageConfig((str(tmp_path / "nowhere"), str(tmp_path / "run")), str(tmp_path / "mean")))


def test_an_average_is_not_hidden_behind_a_checkpoint_of_a_later_step(tmp_path: Path) -> None:
    for name, step in (("run", 1), ("mean", 5)):
        save_checkpoint(tmp_path / name, step, SaliencyModel(CONFIG), "saliency", CONFIG, {})
    with pytest.raises(CheckpointError, match="step-00000005 exists"):
        average(AverageConfig((str(tmp_path / "run"), str(tmp_path / "run")), str(tmp_path / "mean")))


def test_an_average_says_if_one_of_its_checkpoints_does_not_record_its_data(tmp_path: Path) -> None:
    for name, origin in (("older", ()), ("newer", (PANORAMAS,))):
        save_checkpoint(tmp_path / name, 1, SaliencyModel(CONFIG), "saliency", CONFIG, {}, origin=origin)
    average(AverageConfig((str(tmp_path / "older"), str(tmp_path / "newer")), str(tmp_path / "mean")))
    assert read_header(tmp_path / "mean").origin == (UNRECORDED, PANORAMAS)
