"""OSIE's published files become the folder that training reads."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from sal360.errors import DataError
from training.data.gaze.photographs_with_fixations import read_photographs
from training.data.prepare_osie import PrepareOsieConfig, prepare_osie

COUNT = 9


def cell(values: list[object]) -> np.ndarray:
    """A MATLAB cell array, (n, 1)."""
    cells = np.empty((len(values), 1), object)
    cells[:, 0] = values
    return cells


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Nine photographs and two people, in the published form: one fixation each, two, none, or one outside."""
    root = tmp_path / "data"
    (root / "eye").mkdir(parents=True)
    (root / "stimuli").mkdir()
    photographs = []
    for number in range(COUNT):
        name = f"{1001 + number}.jpg"
        cv2.imwrite(str(root / "stimuli" / name), np.full((600, 800, 3), 10 * number, np.uint8))
        first = {"fix_x": [10.5 + number], "fix_y": [20.0], "fix_duration": [200.0]}
        x = [[], [30.0, 40.0], [799.0, 801.0]][number % 3]
        second = {"fix_x": x, "fix_y": [50.0] * len(x), "fix_duration": [300.0] * len(x)}
        photographs.append({"img": name, "subjects": cell([first, second])})
    savemat(root / "eye" / "fixations.mat", {"fixations": cell(photographs)})
    return root


def test_the_published_files_become_the_data_set(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_osie(PrepareOsieConfig(str(published), str(tmp_path / "osie"), all_photographs=True))
    assert "9 photographs, 18 fixations; 3 outside" in capsys.readouterr().out
    photographs = read_photographs(tmp_path / "osie")
    assert [each.name for each in photographs] == [f"{1001 + number}.jpg" for number in range(COUNT)]
    assert [each.x.tolist() for each in photographs[:3]] == [[10.5], [11.5, 30.0, 40.0], [12.5, 799.0]]
    assert photographs[1].subject.tolist() == [0, 1, 1]
    assert photographs[1].duration_ms.tolist() == [200.0, 300.0, 300.0]
    assert photographs[4].read().shape == (600, 800, 3)


def test_the_photographs_that_the_bundled_models_data_leave_out_are_left_out(published: Path, tmp_path: Path) -> None:
    prepare_osie(PrepareOsieConfig(str(published), str(tmp_path / "osie")))
    names = [each.name for each in read_photographs(tmp_path / "osie")]
    assert names == [f"{number}.jpg" for number in range(1001, 1001 + COUNT) if number != 1004]
    assert sorted(path.name for path in (tmp_path / "osie" / "stimuli").iterdir()) == names


def test_missing_or_broken_files_are_named_and_leave_no_index(published: Path, tmp_path: Path) -> None:
    config = PrepareOsieConfig(str(published), str(tmp_path / "osie"))
    index = published / "eye" / "fixations.mat"
    whole = index.read_bytes()
    (published / "stimuli" / "1002.jpg").unlink()
    with pytest.raises(DataError, match=r"there is no .*1002\.jpg, which has fixations; give the folder `data`"):
        prepare_osie(config)
    for content in (whole[: len(whole) // 2], b"no MATLAB file"):
        index.write_bytes(content)
        with pytest.raises(DataError, match=r"fixations\.mat cannot be read \("):
            prepare_osie(config)
    savemat(index, {"other": 1})
    with pytest.raises(DataError, match=r"fixations\.mat cannot be read \('fixations'\)"):
        prepare_osie(config)
    index.unlink()
    with pytest.raises(DataError, match=r"there is no .*fixations\.mat"):
        prepare_osie(config)
    assert not (tmp_path / "osie" / "fixations.npz").exists()
