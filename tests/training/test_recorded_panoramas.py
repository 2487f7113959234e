"""Panoramas with gaze in the form `stimuli/*` and `gaze.npz`: which way longitude counts, maps, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sal360.errors import DataError
from sal360.sphere import solid_angles
from training.data.gaze.datasets import GazeConfig, load_gaze
from training.data.gaze.panoramas_with_gaze import GazePanoramas, RecordedPanoramas, gaze_density, inventory

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes two panoramas of 64 rows and `gaze.npz` with the given arrays."""

    def write(**arrays: Any) -> Path:
        (tmp_path / "stimuli").mkdir(exist_ok=True)
        names = ["01.png", "02.png"]
        for name in names:
            cv2.imwrite(str(tmp_path / "stimuli" / name), np.full((64, 128, 3), 90, np.uint8))
        np.savez(tmp_path / "gaze.npz", names=np.array(names), **arrays)
        return tmp_path

    return write


GAZE = {
    "image": np.array([1, 1, 0]),
    "observer": np.array([7, 9, 7]),
    "lon_rad": np.array([np.pi / 2, np.pi / 2, 0.0]),
    "lat_rad": np.array([0.5, 0.5, -1.0]),
}


def test_longitude_counts_to_the_right_and_latitude_up(write: Write) -> None:
    records = RecordedPanoramas(write(**GAZE), panorama_height=32)
    record = records[1]
    assert record.panorama().shape == (32, 64, 3)
    assert record.observer.tolist() != [record.observer[0]] * 2
    assert np.isnan(record.time_s).all()
    assert record.density is not None
    row, column = np.unravel_index(record.density.argmax(), record.density.shape)
    height, width = record.density.shape
    assert (column + 0.5) / width == pytest.approx(0.75, abs=1 / width)  # a quarter turn to the right of the middle
    assert 90 - 180 * (row + 0.5) / height == pytest.approx(np.degrees(0.5), abs=180 / height)
    assert (record.density * solid_angles(height, width)).sum() == pytest.approx(4 * np.pi, rel=1e-5)


def test_maps_are_taken_as_recorded_and_directions_beside_them(write: Write) -> None:
    maps = np.zeros((2, 16, 32), np.float16)
    maps[:, 4, 10] = 1
    records = RecordedPanoramas(write(maps=maps, **GAZE))
    assert records[0].density is not None
    assert np.unravel_index(records[0].density.argmax(), (16, 32)) == (4, 10)
    assert len(records[0].fixations) == 1
    alone = RecordedPanoramas(write(maps=maps))
    assert len(alone[1].fixations) == 0
    assert alone[1].density is not None


def test_viewings_may_have_several_numbers(write: Write) -> None:
    people = np.array([[1, 4], [1, 5], [1, 4]])
    record = RecordedPanoramas(write(**GAZE | {"observer": people}))[1]
    assert len(set(record.observer.tolist())) == 2


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "neither maps nor gaze"),
        (GAZE | {"lat_rad": np.array([0.0, 2.0, 0.0])}, r"row 1 .* latitude 2"),
        (GAZE | {"lon_rad": np.array([0.0, np.nan, 0.0])}, r"row 1 .* longitude nan"),
        (GAZE | {"image": np.array([0, 2, 0])}, "panoramas without a name"),
        (GAZE | {"observer": np.array([1])}, "incomplete gaze"),
        ({"maps": np.ones((2, 16, 16))}, r"maps of shape \(2, 16, 16\)"),
        ({"maps": np.zeros((2, 16, 32))}, "has invalid maps"),
    ],
)
def test_a_malformed_index_is_named(write: Write, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        RecordedPanoramas(write(**arrays))


def test_missing_files_are_named(write: Write) -> None:
    root = write(**GAZE)
    assert inventory(root).is_complete
    (root / "stimuli" / "02.png").unlink()
    assert "02.png" in inventory(root).report()
    (root / "gaze.npz").unlink()
    assert "there is no" in inventory(root).report()


def test_truth_on_a_coarse_grid_is_the_mean_over_its_cells(write: Write) -> None:
    """Gaze between the centres of coarse cells is not lost, and the mass stays."""
    maps = np.full((2, 64, 128), 1e-3)
    maps[:, 16:18, 63:65] = 1  # at the corner of four cells of 8 x 8
    record = RecordedPanoramas(write(maps=maps))[0]
    assert record.density is not None
    coarse = gaze_density(record, 8, 16)
    area = solid_angles(64, 128)
    exact = (record.density * area).reshape(8, 8, 16, 8).sum((1, 3)) / area.repeat(128 // area.shape[1], 1).reshape(
        8, 8, 16, 8
    ).sum((1, 3))
    np.testing.assert_allclose(coarse, exact, rtol=1e-5)
    frame, density, mask = GazePanoramas([record], 64, (8, 16), None, 0)[0, 0]
    assert frame.shape == (64, 128, 3)
    assert mask.all()
    np.testing.assert_allclose(density[0], exact, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("maps", np.full((2, 8, 16), "a")),
        ("maps", np.ones((2, 0, 0))),
        ("lon_rad", np.array(["0", "1", "2"])),
        ("lon_rad", np.zeros((3, 1))),
        ("image", np.array([0, 0.5, 1])),
        ("observer", np.zeros((3, 1, 1), int)),
        ("t_s", np.array(["a", "b", "c"])),
        ("t_s", np.array(1.0)),
    ],
)
def test_a_column_of_another_type_or_shape_is_named(write: Write, name: str, values: Any) -> None:
    with pytest.raises(DataError, match=rf"gaze\.npz has {name} of |has maps of shape"):
        RecordedPanoramas(write(**GAZE | {name: values}))


def test_panoramas_that_nobody_looked_at_are_left_out_and_counted(write: Write) -> None:
    records = RecordedPanoramas(write(**GAZE | {"image": np.array([1, 1, 1])}), panorama_height=32)
    assert records.names == ("02.png",)
    assert len(records[0].fixations) == 3
    assert records.left_out == "panoramas without gaze: 1"
    empty = {name: values[:0] for name, values in GAZE.items()}
    with pytest.raises(DataError, match=r"gaze\.npz has no gaze"):
        RecordedPanoramas(write(**empty))


def test_a_decoder_is_measured_on_maps_alone(write: Write) -> None:
    maps = np.full((2, 16, 32), 0.1)
    maps[:, 4, 10] = 1
    config = GazeConfig(str(write(maps=maps)), dataset="pavs10k", folds=2)
    gaze = load_gaze(config, 64, (16, 32), 0)
    figures = gaze.measure(lambda frames: np.ones((len(frames), 16, 32), np.float32))
    assert "kld" in figures
    assert "nss" not in figures  # there are no fixations
    assert all(np.isfinite(value) for value in figures.values())
