"""python -m training.analyse photographs: its table on a small copy of OSIE."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from sal360.errors import ParameterError
from training.analysis.photograph_scores import PhotographScoresConfig, analyse_photographs
from training.checkpoint import save_checkpoint
from training.data.gaze.datasets import GazeConfig
from training.data.gaze.photographs_with_fixations import read_photographs
from training.evaluation.photographs import centre_prior, measure_in_plane, measure_one_person
from training.models.saliency_model import SaliencyModel, SaliencyModelConfig


@pytest.fixture
def data(tmp_path: Path, write_osie: Callable[..., Path]) -> dict[str, str]:
    """Six photographs on which two people look near one place, and a panorama."""
    rng = np.random.default_rng(3)
    image = np.repeat(np.arange(6), 8)
    root = write_osie(
        6,
        image=image,
        x=rng.normal(300, 30, 48),
        y=rng.normal(250, 30, 48),
        subject=np.tile(np.arange(2), 24),
    )
    panoramas = tmp_path / "panoramas"
    panoramas.mkdir()
    for i in range(2):
        cv2.imwrite(str(panoramas / f"{i}.png"), rng.integers(0, 256, (64, 128, 3)).astype(np.uint8))
    return {"root": str(root), "panoramas": str(panoramas)}


@pytest.mark.parametrize("options", [{}, {"flat_width": 0.65, "power": 1.45}, {"measure_fov_deg": 60.0}])
def test_models_stand_beside_the_centre_prior_and_one_person(
    data: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, float]
) -> None:
    settings = SaliencyModelConfig(input_height=64, strides=(16, 32), channels=8)
    save_checkpoint(tmp_path / "run", 1, SaliencyModel(settings), "saliency", settings, {})
    gaze = {name: value for name, value in options.items() if name == "measure_fov_deg"}
    rest = {name: value for name, value in options.items() if name != "measure_fov_deg"}
    analyse_photographs(
        PhotographScoresConfig(
            data=GazeConfig(**data, folds=3, **gaze),
            output=str(tmp_path / "out"),
            models=(str(tmp_path / "run"),),
            draws=20,
            **rest,
        )
    )
    table = capsys.readouterr().out
    assert re.search(r"\| centre prior of the other 4 +\| \d+\.\d{3} \[\d+\.\d{3}, \d+\.\d{3}\] +\|", table)
    with open(tmp_path / "out/photographs.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2
    assert {row["model"] for row in rows} >= {"compact run @1", "one person, predicted by the others"}


def test_one_person_is_predicted_by_the_others(data: dict[str, str]) -> None:
    photographs = read_photographs(data["root"])
    person = measure_one_person(photographs[0])
    assert person[0] > 1  # NSS: they look at the same place
    prior = measure_in_plane(centre_prior(photographs[1:]), photographs[0])
    assert prior[0] > 1


def test_photographs_with_maps_alone_are_refused() -> None:
    data = GazeConfig("root", dataset="ham", panoramas="panoramas")
    with pytest.raises(ParameterError, match=r"^data\.dataset is 'ham'; expected one of osie,.*rydel35"):
        PhotographScoresConfig(data, "out")
