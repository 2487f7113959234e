"""Weights for levelling are fitted to upright panoramas, and find up in others."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from sal360.cameras.levelling import UP, estimate_up, read_weights
from sal360.errors import DataError
from sal360.images import read_picture
from sal360.projection import rotate_erp
from sal360.samples import bundled_panoramas
from sal360.sphere import angular_distance, rotation_yaw_pitch_roll
from training.fit_levelling import FitLevellingConfig, fit_levelling


def test_weights_fitted_to_some_panoramas_find_up_in_another(tmp_path: Path) -> None:
    output = tmp_path / "weights.json"
    fit_levelling(FitLevellingConfig(str(bundled_panoramas()), str(output), leave_out=["interior.jpg"], turns=2))
    assert json.loads(output.read_text())["pictures"] == ["city.jpg", "courtyard.jpg", "sunset.jpg"]
    rotation = rotation_yaw_pitch_roll(0.5, 0.3, -0.2)
    turned = rotate_erp(read_picture(bundled_panoramas() / "interior.jpg"), rotation)
    estimate = estimate_up(turned, weights=read_weights(output))
    assert math.degrees(angular_distance(estimate.up, rotation @ UP)) < 5


def test_names_that_are_not_there_and_too_many_names_are_refused(tmp_path: Path) -> None:
    shutil.copy(bundled_panoramas() / "city.jpg", tmp_path)
    output = str(tmp_path / "weights.json")
    with pytest.raises(DataError, match=r"has no town\.jpg; leave out names of pictures in this folder"):
        fit_levelling(FitLevellingConfig(str(tmp_path), output, leave_out=["town.jpg"]))
    with pytest.raises(DataError, match=r"all pictures of .* are left out; leave out fewer"):
        fit_levelling(FitLevellingConfig(str(tmp_path), output, leave_out=["city.jpg"]))
