"""The command for pictures and folders."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from sal360.cli import main, predict


@pytest.fixture
def run(capfd, tiny_model, tmp_path):
    """Runs the command on the tiny model; gives its status, what it printed and what it complained of."""
    pytest.importorskip("onnxruntime")

    def run_it(*arguments):
        model = ["--model", tiny_model, "--backend", "onnxruntime", "--device", "cpu", "--output", tmp_path / "out"]
        status = main(["predict", *map(str, [*model, *arguments])])
        return status, *capfd.readouterr()

    return run_it


def write_picture(path, size=(64, 128), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))
    return path


def written(tmp_path):
    return sorted(path.name for path in (tmp_path / "out").iterdir())


def test_a_picture_becomes_a_map_and_an_overlay(run, tmp_path):
    status, out, err = run(write_picture(tmp_path / "room.jpg"))
    assert (status, err) == (0, "")
    assert "1 of 1 maps" in out
    assert written(tmp_path) == ["room.npy", "room_overlay.png"]
    density = np.load(tmp_path / "out" / "room.npy")
    assert (density.shape, density.dtype) == ((16, 32), np.float32)
    assert cv2.imread(str(tmp_path / "out" / "room_overlay.png")).shape == (64, 128, 3)


def test_folders_stand_for_their_pictures_and_nothing_is_done_twice(run, tmp_path):
    for name in ("b.png", "a.jpg"):
        write_picture(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    status, out, _ = run(tmp_path / "in", tmp_path / "in" / "a.jpg")
    assert status == 0
    assert "2 of 2 maps" in out
    assert written(tmp_path) == ["a.npy", "a_overlay.png", "b.npy", "b_overlay.png"]


def test_unreadable_files_are_named_and_skipped_and_the_rest_is_done(run, tmp_path):
    good = write_picture(tmp_path / "good.png")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 no picture")
    empty = tmp_path / "empty.png"
    empty.touch()
    square = write_picture(tmp_path / "square.png", (64, 64))
    status, out, err = run(broken, tmp_path / "none.jpg", empty, square, good)
    assert status == 1
    lines = [line for line in err.splitlines() if line.startswith("skipped")]
    assert [line.split(":")[0] for line in lines] == [
        f"skipped {path}" for path in (broken, tmp_path / "none.jpg", empty, square)
    ]
    assert "64 x 64" in lines[3]
    assert "1 of 5 maps" in out
    assert written(tmp_path) == ["good.npy", "good_overlay.png"]


def test_pictures_of_the_same_name_do_not_overwrite_each_other(run, tmp_path):
    first = write_picture(tmp_path / "a" / "room.png", seed=1)
    second = write_picture(tmp_path / "b" / "room.png", seed=2)
    status, _, err = run(first, second)
    assert status == 0
    assert f"{second} is written as room_2" in err
    maps = [np.load(tmp_path / "out" / f"{name}.npy") for name in ("room", "room_2")]
    assert not np.array_equal(*maps)


def test_every_picture_has_a_name_of_its_own():
    from pathlib import Path

    stems = [Path(name) for name in ("x.png", "a/x.png", "x_2.png", "b/x.jpg")]
    assert list(predict.output_names(stems)) == ["x", "x_2", "x_2_2", "x_3"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--model", "none.onnx"], "there is no model file none.onnx"),
        (["--threads", "-3"], "threads is -3"),
        (["--prior-strength", "-1"], "prior_strength is -1"),
        (["--device", "tpu"], "device is 'tpu'"),
    ],
)
def test_a_wrong_option_is_one_line_and_status_2(run, tmp_path, arguments, named):
    status, _, err = run(write_picture(tmp_path / "room.png"), *arguments)
    assert status == 2
    (line,) = err.splitlines()
    assert line.startswith(f"error: {named}")


def test_a_folder_without_pictures_is_one_line_and_status_2(run, tmp_path):
    (tmp_path / "in").mkdir()
    status, _, err = run(tmp_path / "in")
    assert status == 2
    assert len(err.splitlines()) == 1


def test_an_output_that_cannot_be_made_is_one_line_and_status_2(run, tmp_path):
    (tmp_path / "out").write_text("a file where the folder should be")
    status, _, err = run(write_picture(tmp_path / "room.png"))
    assert status == 2
    assert len(err.splitlines()) == 1
