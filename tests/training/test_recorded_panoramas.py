"""Panoramas with gaze in the form `stimuli/*` and `gaze.npz`: which way longitude counts, maps, and what is refused."""

from __future__ import annotations

import csv
import dataclasses
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sal360.arrays import Pixels
from sal360.errors import DataError
from sal360.ground_truth import GazeRecord
from sal360.sphere import solid_angles
from training.config import SettingError
from training.data.gaze.datasets import GazeConfig, load_gaze
from training.data.gaze.panoramas_with_gaze import GazePanoramas, RecordedPanoramas, gaze_density, inventory
from training.data.gaze.records import GazeRecords, split_scenes
from training.data.panoramas import read_panorama
from training.evaluate import EvaluateConfig, evaluate

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


def test_a_scene_is_known_by_a_table_the_index_or_the_folder_in_the_name(write: Write, tmp_path: Path) -> None:
    assert RecordedPanoramas(write(**GAZE)).scenes == ("", "")
    assert RecordedPanoramas(write(**GAZE, scene=np.array(["hall", ""]))).scenes == ("hall", "")
    table = tmp_path / "scenes.csv"
    table.write_text("name,scene\n02.png,b\n01.png,a\n")
    assert RecordedPanoramas(write(**GAZE), scenes=str(table)).scenes == ("a", "b")
    root = write(**GAZE)
    (root / "stimuli" / "clip").mkdir()
    (root / "stimuli" / "01.png").rename(root / "stimuli" / "clip" / "01.png")
    np.savez(root / "gaze.npz", names=np.array(["clip/01.png", "02.png"]), **GAZE)
    assert RecordedPanoramas(root).scenes == ("clip", "")


def test_folds_are_cut_by_scene_where_scenes_are_known() -> None:
    class Frames(GazeRecords):
        def __init__(self, scenes: Sequence[str]) -> None:
            self.names = tuple(f"{i}.jpg" for i in range(len(scenes)))
            self._scenes = tuple(scenes)

        @property
        def scenes(self) -> tuple[str, ...]:
            return self._scenes

        def read(self, index: int) -> GazeRecord:
            raise NotImplementedError

    known = Frames("aaabbccccd")
    folds, of = split_scenes(known, 2, 0)
    assert of == "by scene"
    assert sorted(np.concatenate(folds).tolist()) == list(range(10))
    first, second = ({known.scenes[i] for i in fold} for fold in folds)
    assert not first & second
    for records, why in ((Frames(["a", "a", "", "b"]), "scenes are not known"), (Frames("aaaa"), "there are 1 scenes")):
        assert split_scenes(records, 2, 0)[1] == f"by panorama ({why})"


def test_the_interval_is_over_scenes_which_are_found_by_likeness_where_they_are_not_known(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(0)
    names = [f"{i:02d}.png" for i in range(8)]
    root = write(**GAZE)
    for i, name in enumerate(names):  # four rooms, two frames of each
        room = np.random.default_rng(i // 2).integers(0, 256, (8, 16, 3), dtype=np.uint8)
        room = cv2.resize(room, (128, 64), interpolation=cv2.INTER_CUBIC)
        noise = generator.integers(0, 10, room.shape)
        cv2.imwrite(str(root / "stimuli" / name), np.clip(room.astype(int) + noise, 0, 255).astype(np.uint8))
    image = np.repeat(np.arange(8), 5)
    lon, lat = generator.uniform(-1, 1, 40), generator.uniform(-0.5, 0.5, 40)
    gaze = {"image": image, "observer": np.tile(np.arange(5), 8), "lon_rad": lon, "lat_rad": lat}
    np.savez(root / "gaze.npz", names=np.array(names), **gaze)
    data = GazeConfig(root=str(root), dataset="own", folds=2)
    settings = {
        "models": (),
        "baselines": ("uniform",),
        "protocols": ("standard",),
        "draws": 20,
        "turned": 0,
        "examples": 0,
    }
    config = EvaluateConfig(data, str(tmp_path / "out"), panorama_height=64, every_fold=True, cases=0, **settings)  # type: ignore[arg-type]
    evaluate(config)
    said = capsys.readouterr().out
    assert "8 records of 4 scenes" in said
    assert "does not say which scenes 8 of 8 records show: records that look alike were counted as one scene" in said
    table = tmp_path / "scenes.csv"
    table.write_text("name,scene\n" + "".join(f"{name},{'ab'[i > 3]}\n" for i, name in enumerate(names)))
    evaluate(dataclasses.replace(config, data=dataclasses.replace(data, scenes=str(table))))
    said = capsys.readouterr().out
    assert "8 records of 2 scenes" in said
    assert "does not say" not in said
    with open(tmp_path / "out" / "summary.csv") as file:
        assert {row["scenes"] for row in csv.DictReader(file)} == {"2"}


def test_a_table_of_scenes_is_refused_for_a_data_set_that_has_none(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"a table of scenes only for panoramas in the form of gaze\.npz"):
        GazeConfig(root=str(tmp_path), dataset="salient360", scenes="scenes.csv")


def test_viewings_may_have_several_numbers(write: Write) -> None:
    people = np.array([[1, 4], [1, 5], [1, 4]])
    record = RecordedPanoramas(write(**GAZE | {"observer": people}))[1]
    assert len(set(record.observer.tolist())) == 2


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "neither maps nor gaze"),
        (GAZE | {"lat_rad": np.array([0.0, 2.0, 0.0])}, r"row 1 .* latitude 2"),
        (GAZE | {"t_s": np.array([0.0, np.inf, np.nan])}, "row 1 .* infinite time"),
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


def test_a_decoder_can_be_measured_on_some_of_the_records(write: Write) -> None:
    gaze = load_gaze(GazeConfig(str(write(**GAZE)), dataset="ceap", folds=2), 64, (16, 32), 0)
    gaze._records = [gaze._records[0]] * 5  # type: ignore[attr-defined]
    seen = []

    class First:
        """The plain sample of every record."""

        def __getitem__(self, key: tuple[int, int]) -> tuple[Any, ...]:
            seen.append(key[1])
            return (np.zeros((64, 128, 3), np.uint8),) * 3

    gaze.measuring = First()  # type: ignore[assignment]
    gaze.measure(lambda frames: np.ones((len(frames), 16, 32), np.float32), 3)
    assert seen == [0, 2, 4]


def test_frames_are_decoded_once_and_again_when_the_files_change(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write(**GAZE)
    config = GazeConfig(str(root), dataset="ceap", folds=2, cache=str(tmp_path / "cache"))
    reads = []

    def read(path: str, height: int) -> Pixels:
        reads.append(path)
        return read_panorama(path, height)

    monkeypatch.setattr("training.data.gaze.panoramas_with_gaze.read_panorama", read)
    plain = load_gaze(dataclasses.replace(config, cache=""), 64, (16, 32), 0).training[3, 0]
    for _ in range(2):  # as in two runs
        samples = pickle.loads(pickle.dumps(load_gaze(config, 64, (16, 32), 0).training))  # as in a loader process
        for part, expected in zip(samples[3, 0], plain, strict=True):
            np.testing.assert_array_equal(part, expected)
    assert len(reads) == 2  # without the cache, and into it
    os.utime(reads[0], (1, 1))
    load_gaze(config, 64, (16, 32), 0).training[3, 0]
    assert len(reads) == 3
