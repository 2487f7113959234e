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
