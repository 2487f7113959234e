"""Where people look regardless of the picture: known answers by latitude and longitude, scenes, and the command."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from sal360.arrays import Floats
from sal360.errors import one_line_errors
from sal360.predictor import add_front_prior
from sal360.sphere import solid_angles
from training import analyse as command
from training.analysis.viewing_bias import (
    bias_row,
    fit_front,
    fit_latitude,
    front_log_prior,
    pooled,
    read_gaze,
)
from training.evaluation.baselines import Laplace
from training.models.prior import LAPLACE_MEAN_DEG, LAPLACE_SCALE_DEG

SIZE = (90, 180)
Write = Callable[..., Path]


def mass_of(laplace: Laplace, front: tuple[float, float] = (0.0, 1.0)) -> Floats:
    """One scene (1, 90, 180) whose gaze has this latitude and this prior of the longitude."""
    share = solid_angles(*SIZE) * laplace.density(90) * np.exp(front_log_prior(*front))
    return np.asarray(share / share.sum())[None]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a data set of panoramas whose gaze has a normal distribution around a longitude, by scene."""

    def write(name: str, scenes: list[str], lon_deg: list[float], fixations: int = 300) -> Path:
        root = tmp_path / "sets" / name
        (root / "stimuli").mkdir(parents=True)
        generator = np.random.default_rng(0)
        names = [f"{i:02d}.png" for i in range(len(scenes))]
        for each in names:
            cv2.imwrite(str(root / "stimuli" / each), np.full((64, 128, 3), 90, np.uint8))
        image = np.repeat(np.arange(len(scenes)), fixations)
        np.savez(
            root / "gaze.npz",
            names=np.array(names),
            scene=np.array(scenes),
            image=image,
            observer=np.zeros(len(image), int),
            lon_rad=np.radians(np.array(lon_deg)[image] + generator.normal(0, 20, len(image))),
            lat_rad=np.radians(generator.laplace(4, 8, len(image)).clip(-80, 80)),
        )
        return root

    return write


@pytest.mark.parametrize(("mean_deg", "scale_deg"), [(-1.39, 17.91), (3.0, 8.0), (-12.0, 16.0)])
def test_the_laplace_density_of_the_latitude_is_found(mean_deg: float, scale_deg: float) -> None:
    found = fit_latitude(mass_of(Laplace(mean_deg, scale_deg), (4.0, 6.0)))
    assert found.mean_deg == pytest.approx(mean_deg, abs=0.6)  # rows are 2° high
    assert found.scale_deg == pytest.approx(scale_deg, rel=0.03)


def test_the_prior_of_the_longitude_is_found_and_is_the_one_that_ships() -> None:
    assert fit_front(mass_of(Laplace(0.0, 12.0), (6.4, 7.1))) == pytest.approx((6.4, 7.1), rel=0.02)
    shipped = add_front_prior(np.ones(SIZE, np.float32), 1.0)
    np.testing.assert_allclose(shipped, np.exp(front_log_prior(6.4, 7.1)), rtol=1e-4)


def test_gaze_as_published_gains_nothing_and_narrower_gaze_does() -> None:
    published = mass_of(Laplace(LAPLACE_MEAN_DEG, LAPLACE_SCALE_DEG)).repeat(3, axis=0)
    row = bias_row(next(pooled([gaze_of(published)])), draws=5, seed=0)
    assert row["own_gain_nats"] == pytest.approx(0, abs=1e-3)
    assert row["cc_published"] == pytest.approx(1, abs=1e-6)
    assert row["front_gain_nats"] < -0.1  # nobody there prefers the front
    narrow = bias_row(gaze_of(mass_of(Laplace(2.0, 7.0), (6.4, 7.1)).repeat(3, axis=0)), draws=5, seed=0)
    assert narrow["own_gain_nats"] > 0.2
    assert narrow["front_gain_nats"] > 0.2
    assert narrow["own_front_gain_nats"] == pytest.approx(narrow["front_gain_nats"], abs=1e-2)


def gaze_of(mass: Floats):
    from training.analysis.viewing_bias import Gaze

    return Gaze("made", "videos", len(mass), mass)


def test_a_scene_counts_once_however_many_frames_it_has(write: Write, tmp_path: Path) -> None:
    write("ceap", ["hall"] * 5 + ["quay"], [0.0] * 5 + [180.0])
    gaze = read_gaze("ceap", tmp_path / "sets")
    assert (gaze.records, gaze.shows, gaze.mass.shape) == (6, "videos", (2, *SIZE))
    ahead = gaze.mass.mean(axis=0)[:, 45:135].sum()
    assert ahead == pytest.approx(0.5, abs=0.01)
    np.testing.assert_allclose(gaze.mass.sum(axis=(1, 2)), 1)


def test_a_table_of_scenes_replaces_those_of_the_index(write: Write, tmp_path: Path) -> None:
    write("ceap", ["a", "b", "c"], [0.0, 10.0, -20.0])
    table = tmp_path / "scenes.csv"
    table.write_text("name,scene\n00.png,a\n01.png,a\n02.png,b\n")
    assert len(read_gaze("ceap", tmp_path / "sets", str(table)).mass) == 2


def test_the_command_writes_a_table_and_a_plot(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write("ceap", ["a", "b", "c"], [0.0, 10.0, -20.0])
    write("avtrack", ["d", "d"], [0.0, 0.0])
    options = [f"--root={tmp_path / 'sets'}", f"--output={tmp_path / 'out'}", "--sets=[ceap, avtrack]", "--draws=5"]
    monkeypatch.setattr(sys, "argv", ["analyse", "bias", *options])
    assert one_line_errors(command.main) == 0
    printed = capsys.readouterr().out
    assert "all videos" in printed
    assert (tmp_path / "out" / "bias.png").stat().st_size > 1000
    with open(tmp_path / "out" / "bias.csv") as file:
        rows = {row["set"]: row for row in csv.DictReader(file)}
    assert {name: (row["records"], row["scenes"]) for name, row in rows.items()} == {
        "ceap": ("3", "3"),
        "avtrack": ("2", "1"),
        "all videos": ("5", "4"),
    }
    for row in rows.values():
        assert float(row["mean_deg"]) == pytest.approx(4, abs=1.5)
        assert float(row["scale_deg"]) == pytest.approx(8, abs=1)
        assert float(row["front_gain_nats"]) > 0.3
    assert math.isnan(float(rows["avtrack"]["mean_deg_low"]))  # one scene does not tell how others differ
    assert (
        float(rows["ceap"]["mean_deg_low"]) <= float(rows["ceap"]["mean_deg"]) <= float(rows["ceap"]["mean_deg_high"])
    )


def test_a_set_of_photographs_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["analyse", "bias", f"--root={tmp_path}", f"--output={tmp_path}", "--sets=[osie]"])
    assert one_line_errors(command.main) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "sets is" in line
    assert "expected one or more of ceap" in line
