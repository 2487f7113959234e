"""Small gaze data sets in their exact formats are read completely, and refused by name if damaged."""

from __future__ import annotations

import dataclasses
import os
import pickle
import sys
import types
from collections import OrderedDict

import av
import cv2
import numpy as np
import openpyxl
import pytest

from sal360.errors import DataError, ParameterError
from sal360.sphere import angular_distance, nearest_pixel, solid_angles, vector_to_angles
from training.config import read_config
from training.data.check import main as check_main
from training.data.gaze import salient360, sitzmann, vr_eyetracking
from training.data.gaze.datasets import DATASETS, GazeConfig, open_gaze
from training.data.gaze.records import directions_of_positions
from training.data.gaze.salient360 import Salient360, read_density
from training.data.gaze.sitzmann import Sitzmann, read_runs
from training.data.gaze.vr_eyetracking import VrEyeTracking, check_video, read_first_column
from training.evaluate import EvaluateConfig

OPTIONS = ("--data.root=root", "--data.panoramas=panoramas", "--output=out")
HEADER = "Idx, longitude, latitude, start timestamp\n"


def write_picture(path, height=32, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.zeros((height, 2 * height, 3), np.uint8)
    picture[: height // 4] = value
    assert cv2.imwrite(str(path), picture)


def write_map(path, peak=(512, 1024)):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full((1024, 2048), 0.5, "<f4")
    values[peak] = 1000
    values.tofile(path)


@pytest.fixture
def salient360_root(tmp_path):
    """P1, P75 and P98; the peak of each map depends on its picture's number."""
    root = tmp_path / "salient360"
    for number in (98, 1, 75):
        write_picture(root / f"Stimuli/P{number}_64x32.jpg", value=number)
        for movement in ("HE", "H"):
            write_map(root / f"{movement}/SalMaps/{movement}salmap_{number}_2048x1024_32b.bin", peak=(number, 7))
        for eye in "LR":
            path = root / f"HE/Scanpaths/{eye}/HEscanpath_{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            x = 0.25 if eye == "L" else 0.75
            path.write_text(f"{HEADER}0,0.5,0.5,0\n1,{x},0.0,300\n0,1.0,{number / 100},12.5\n")
    return root


def test_salient360_pairs_by_number_and_splits_by_name(salient360_root):
    data = Salient360(salient360_root, "validation", panorama_height=32)
    assert data.names == ("P75", "P98")
    assert Salient360(salient360_root, "train").names == ("P1",)
    assert Salient360(salient360_root, "all").names == ("P1", "P75", "P98")
    for record, number in zip(data, (75, 98), strict=False):
        assert np.unravel_index(np.argmax(record.density), record.density.shape) == (number, 7)
        assert abs(int(record.panorama()[2, 2, 0]) - number) < 4  # JPEG
        assert vector_to_angles(record.fixations[2])[1] == pytest.approx(np.pi / 2 - np.pi * number / 100)


def test_salient360_records_are_directions_observers_and_seconds(salient360_root):
    record = Salient360(salient360_root, "train", panorama_height=32)[0]
    assert record.observer.tolist() == [0, 0, 1]
    assert record.time_s == pytest.approx([0, 0.3, 0.0125])
    expected = [[1, 0, 0], [0, 0, 1], directions_of_positions(1.0, 0.01)]
    np.testing.assert_allclose(record.fixations, expected, atol=1e-12)
    column, row = nearest_pixel(record.fixations[2], 1024, 2048)
    assert (column, row) == (0, 10)  # the right edge is the left one
    assert (record.density * solid_angles(1024, 2048)).sum() == pytest.approx(4 * np.pi, rel=1e-5)
    assert record.panorama().shape == (32, 64, 3)
    left = Salient360(salient360_root, "train", eye="L")[0]
    assert angular_distance(left.fixations[0], record.fixations[0]) == 0


def test_salient360_names_what_is_missing(salient360_root):
    (salient360_root / "HE/SalMaps/HEsalmap_98_2048x1024_32b.bin").unlink()
    with pytest.raises(DataError, match="1 HE saliency maps: 98"):
        Salient360(salient360_root, "validation")
    assert len(Salient360(salient360_root, "train")) == 1
    (salient360_root / "H/Scanpaths").mkdir()
    (salient360_root / "H/Scanpaths/Hscanpath_75.txt").write_text(HEADER + "0,0.5,0.5,0\n")
    with pytest.raises(DataError, match="1 H scanpaths: 1"):
        Salient360(salient360_root, "train", movement="H")
    with pytest.raises(ParameterError, match="train, validation, all"):
        Salient360(salient360_root, "test")
    with pytest.raises(DataError, match="no folder"):
        Salient360(salient360_root / "absent", "train")
    copy = salient360_root / "again" / "P1_64x32.jpg"
    write_picture(copy)
    with pytest.raises(DataError, match="are both 1"):
        Salient360(salient360_root, "train")


def test_maps_that_are_short_long_or_invalid_are_named(salient360_root):
    path = salient360_root / "HE/SalMaps/HEsalmap_1_2048x1024_32b.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    with pytest.raises(DataError, match=r"HEsalmap_1_2048x1024_32b\.bin is cut short"):
        Salient360(salient360_root, "train")[0]
    path.write_bytes(whole + b"0000")
    with pytest.raises(DataError, match="8388612 bytes"):
        read_density(path)
    for bad in (np.nan, -1.0):
        values = np.frombuffer(whole, "<f4").copy()
        values[5] = bad
        values.tofile(path)
        with pytest.raises(DataError, match="negative or not finite"):
            read_density(path)
    np.zeros(1024 * 2048, "<f4").tofile(path)
    with pytest.raises(DataError, match="zero everywhere"):
        read_density(path)
    with pytest.raises(DataError, match="no size in its name"):
        read_density(path.with_name("map.bin"))


def test_a_frame_of_a_video_map_is_read_alone(tmp_path):
    path = tmp_path / "clip_8x4x3_64b.bin"
    values = np.arange(3 * 4 * 8, dtype="<f8")
    values.tofile(path)
    density = read_density(path, frame=2)
    assert density.shape == (4, 8)
    assert density[3, 7] / density[0, 0] == pytest.approx(95 / 64)
    with pytest.raises(DataError, match="frame 3"):
        read_density(path, frame=3)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (f"{HEADER}0,0.5,1.5,0\n", "line 2 of .*HEscanpath_1.txt is outside"),
        (f"{HEADER}0,nan,0.5,0\n0,0.5,1.02,0\n", "line 3 of .* is outside"),
        (f"{HEADER}0,0.5,half,0\n", "malformed"),
        (HEADER, "has no fixations"),
        (f"{HEADER}\n\n", "has no fixations"),
        (f"{HEADER}0,0.5,nan,0\n", "has no fixations"),
    ],
)
def test_broken_scanpaths_are_named(salient360_root, text, complaint):
    (salient360_root / "HE/Scanpaths/R/HEscanpath_1.txt").write_text(text)
    with pytest.raises(DataError, match=complaint):
        Salient360(salient360_root, "train")[0]


IRREGULAR_SCANPATHS = [
    (f"{HEADER}0,1.004,0.5,0\n1,0.25,-0.004,9\n", [(0.004, 0.5), (0.75, 0.004)], [0, 0], "by rounding, wrapped: 2"),
    (f"{HEADER}0,0.5,0.5,0\n1,nan,0.5,0\n2,0.2,0.5,9\n", [(0.5, 0.5), (0.2, 0.5)], [0, 0], "no numbers, left out: 1"),
    (f"{HEADER}3,0.5,0.5,0\n4,0.2,0.5,9\n", [(0.5, 0.5), (0.2, 0.5)], [0, 0], "first person has no beginning: 1"),
    (f"{HEADER}0,0.5,0.5,0\n2,0.2,0.5,9\n1,0.1,0.5,0\n", [(0.5, 0.5), (0.2, 0.5), (0.1, 0.5)], [0, 0, 1], "people "),
    ("0,0.5,0.5,0\n0,0.2,0.5,300\n", [(0.5, 0.5), (0.2, 0.5)], [0, 1], "without a header row: 1"),
    (f"{HEADER}0,0.5,0.5,9\n1,0.2,0.5,3\n", [(0.5, 0.5), (0.2, 0.5)], [0, 0], "start before the one before: 1"),
]
IRREGULAR_SCANPATHS += [
    ("0,5e-1,0.5,0\n1,0.2,0.5,9\n", [(0.5, 0.5), (0.2, 0.5)], [0, 0], "without a header row: 1"),
    ("0,nan,0.5,0\n1,0.2,0.5,9\n", [(0.2, 0.5)], [0], "no numbers, left out: 1"),
    (f"{HEADER}0,0.5,0.5,0\n0,,,0\n1,0.2,0.5,9\n", [(0.5, 0.5), (0.2, 0.5)], [0, 1], "no numbers, left out: 1"),
    (f"{HEADER}0,0.5,0.5,0\n1,0.2,0.5,NA\n", [(0.5, 0.5), (0.2, 0.5)], [0, 0], "without a start time: 1"),
    (f"{HEADER}0,0.5,0.5,0\n1,0.2,0.5,9\n1,0.2,0.5,9\n", [(0.5, 0.5), (0.2, 0.5)], [0, 0], "come twice, left out: 1"),
    (f"{HEADER}0,0.5,0.5,9\n3,0.2,0.5,3\n", [(0.5, 0.5), (0.2, 0.5)], [0, 1], "people whose scanpath has no begin"),
    (f"{HEADER}0,0.5,0.5,0\n3,0.2,0.5,9\n", [(0.5, 0.5), (0.2, 0.5)], [0, 0], "missing between others: 2"),
    (f"{HEADER}0,0.5,0.5,0\n{HEADER}0,0.2,0.5,9\n", [(0.5, 0.5), (0.2, 0.5)], [0, 1], "come again, left out: 1"),
]
IDS = [
    *("rounding", "nan", "cut first", "cut second", "no header", "clock"),
    *("exponent first", "nan first", "empty first of a person", "no time", "twice", "cut later", "gap", "headers"),
]


@pytest.mark.parametrize(("text", "positions", "observer", "counted"), IRREGULAR_SCANPATHS, ids=IDS)
def test_irregular_scanpaths_are_used_and_counted_or_refused(salient360_root, text, positions, observer, counted):
    path = salient360_root / "HE/Scanpaths/R/HEscanpath_1.txt"
    path.write_text(text)
    record = Salient360(salient360_root, "train")[0]
    np.testing.assert_allclose(record.fixations, directions_of_positions(*np.transpose(positions)), atol=1e-12)
    assert record.observer.tolist() == observer
    found = salient360.inventory(salient360_root)
    assert not [each for each in found.problems if "scanpath" in each]
    assert counted in str(found.irregular)
    assert f"(first: {path})" in found.report()
    with pytest.raises(DataError, match=r"HEscanpath_1\.txt has "):
        Salient360(salient360_root, "train", strict=True)[0]


@pytest.mark.parametrize(
    "row",
    [
        *("0;0,5;0,5;0", "0\t0,5\t0,5\t0", "0 0.5 0.5 0", "0  0,5  0,5  0", '0,"0,5","0,5",0', '"0";"0,5";"0,5";"0"'),
        *(
            "0,0.5,0.5,0;",
            "0,\t0.5,\t0.5,\t0",
            "0;0,5;0,5;0;",
            "0,0.5,0.5,0,",
            " 0 , 5e-1 , .5 , 0 ",
            "0,0.5,0.5,0,200",
            "0,0.5,0.5,0\n,,,",
        ),
    ],
)
def test_decimal_commas_are_read_wherever_they_are(salient360_root, row):
    (salient360_root / "HE/Scanpaths/R/HEscanpath_1.txt").write_text(f"{HEADER}{row}\n1,0.25,0.5,300\n")
    record = Salient360(salient360_root, "train", strict=True)[0]
    np.testing.assert_allclose(record.fixations, directions_of_positions([0.5, 0.25], [0.5, 0.5]), atol=1e-12)


def test_columns_of_a_scanpath_are_found_by_their_names(salient360_root):
    path = salient360_root / "HE/Scanpaths/R/HEscanpath_1.txt"
    path.write_text(",Idx,latitude,longitude,start timestamp\n0,0,0.25,0.5,9\n1,1,0.5,0.125,300\n")
    fixations, observer, time_s = salient360.read_scanpaths(path)
    np.testing.assert_allclose(fixations, directions_of_positions([0.5, 0.125], [0.25, 0.5]), atol=1e-12)
    assert observer.tolist() == [0, 0]
    assert time_s == pytest.approx([0.009, 0.3])


@pytest.mark.parametrize(
    ("row", "found"), [("0,0,0,0,5,0", "malformed"), ("-1,0.5,0.5,0", "index -1"), ("0.5,0.5,0.5,0", "index 0.5")]
)
def test_rows_that_may_mean_something_else_are_refused(salient360_root, row, found):
    path = salient360_root / "HE/Scanpaths/R/HEscanpath_1.txt"
    path.write_text(f"{HEADER}{row}\n")
    with pytest.raises(DataError, match=rf"line 2 of .* {found}"):
        salient360.read_scanpaths(path)


def test_check_names_every_file_that_training_would_refuse_or_leave_out(salient360_root, sitzmann_root):
    maps = salient360_root / "HE/SalMaps"
    (maps / "HEsalmap_98_2048x1024_32b.bin").write_bytes(bytes(4 * 2048 * 1024))
    (maps / "HEsalmap_75_2048x1024_32b.bin").rename(maps / "HEsalmap_75_1024x2048_32b.bin")
    (maps / "HEsalmap_1_2048x1024_32b.bin").rename(maps / "HESALMAP_1_2048X1024_32B.BIN")
    (salient360_root / "Stimuli/P1_64x32.jpg").unlink()
    write_picture(salient360_root / "Stimuli/P98_64x32.jpg")
    write_picture(salient360_root / "Copies/P98_64x32.jpg")
    (salient360_root / "HE/Scanpaths/L").rename(salient360_root / "HE/Scanpaths/left")
    cv2.imwrite(str(salient360_root / "Stimuli/P75_64x32.jpg"), np.zeros((64, 64, 3), np.uint8))
    report = salient360.inventory(salient360_root).report()
    for each in (
        "HEsalmap_98_2048x1024_32b.bin is zero everywhere",
        "HEsalmap_75_1024x2048_32b.bin is 1024 x 2048",
        "P1 has a map or scanpaths, but no picture",
        "are both 98",
        "P75_64x32.jpg is 64 x 64",
        "HE scanpaths L: 3 of 85",
        "HE saliency maps: 3 of 85",
    ):
        assert each in report
    (sitzmann_root / "rotated/cubemap_0001.png").unlink()
    (sitzmann_root / "data/seated_vr").rename(sitzmann_root / "data/sitting")
    report = sitzmann.inventory(sitzmann_root).report()
    assert "cubemap_0001 has runs vr, but no picture" in report
    assert "runs in other folders than vr, seated_vr, browser, left out: 2" in report


def test_maps_without_a_picture_are_counted_and_those_without_pixels_refused(salient360_root):
    (salient360_root / "Stimuli/P98_64x32.jpg").unlink()
    assert Salient360(salient360_root, "validation").left_out == "maps without a picture: 1"
    assert Salient360(salient360_root, "train").left_out == ""
    path = salient360_root / "HEsalmap_2_0x0_32b.bin"
    path.touch()
    with pytest.raises(DataError, match="no size in its name"):
        read_density(path)


def test_maps_of_the_head_and_scanpaths_of_the_left_eye_are_options(salient360_root):
    head_map = salient360_root / "H/SalMaps/Hsalmap_75_2048x1024_32b.bin"
    write_map(head_map, peak=(300, 9))

    def first(**options):
        config = GazeConfig(str(salient360_root), dataset="salient360", **options)
        return open_gaze(config, panorama_height=32).measuring[0]

    of_head = first(movement="H")  # its scanpaths were not published for pictures
    assert np.unravel_index(np.argmax(of_head.density), of_head.density.shape) == (300, 9)
    assert of_head.fixations.shape == (0, 3)
    assert angular_distance(first(eye="L").fixations[1], first().fixations[1]) == pytest.approx(0)  # a pole
    (salient360_root / "HE/Scanpaths/L/HEscanpath_75.txt").write_text(f"{HEADER}0,0.1,0.5,0\n")
    np.testing.assert_allclose(first(eye="L").fixations, [directions_of_positions(0.1, 0.5)], atol=1e-12)


def write_runs(path, runs):
    """As Python 2 wrote them: protocol 2, text that is not ASCII as latin-1, numpy under its old name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = pickle.dumps({"data": runs}, protocol=2)
    path.write_bytes(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))


def sitzmann_run(positions, repeats=3):
    rows = np.repeat(np.array(positions, float), repeats, axis=0)
    return {
        "timestamp": 100.0 + np.arange(len(rows)) / 10,
        "gaze_fixations": rows,
        "gaze_lat_lon": rows[:, ::-1] * [180, 360],
        "headLatLon": rows[:, ::-1] * [180, 360],
        "viewpoint_idx": np.int64(2),
    }


@pytest.fixture
def sitzmann_root(tmp_path):
    root = tmp_path / "sitzmann"
    for number in (1, 0):
        write_picture(root / f"rotated/cubemap_{number:04d}.png", value=100 * number)
        runs = [
            sitzmann_run([[0.5, 0.5], [0, 0], [0.25, number / 2]]),
            {**sitzmann_run([[0.1, 0.2]]), "gaze_fixations": []},
            sitzmann_run([[1.0, 0.75]]),
        ]
        for condition in ("vr", "seated_vr", "browser"):
            write_runs(root / f"data/{condition}/cubemap_{number:04d}.pck", runs)
    return root


def test_sitzmann_joins_the_samples_of_a_fixation_and_keeps_people_apart(sitzmann_root):
    data = Sitzmann(sitzmann_root, map_height=128, panorama_height=32, sigma_deg=2.0)
    assert data.names == ("cubemap_0000", "cubemap_0001")
    record = data[1]
    np.testing.assert_allclose(record.fixations, directions_of_positions([0.5, 0.25, 1], [0.5, 0.5, 0.75]), atol=1e-12)
    assert record.observer.tolist() == [0, 0, 2]
    assert record.time_s == pytest.approx([0, 0.6, 0])
    assert record.panorama()[0, 0, 0] == 100
    row, column = np.unravel_index(np.argmax(record.density), record.density.shape)
    assert column in (63, 64, 127, 128, 0, 255)
    assert row in (63, 64, 95, 96)


def test_samples_that_are_lost_are_not_fixations(sitzmann_root):
    path = sitzmann_root / "data/vr/cubemap_0000.pck"
    write_runs(path, [sitzmann_run([[0.5, 0.5], [np.nan, np.nan], [0, 0], [0.25, 0.5]])])
    np.testing.assert_allclose(read_runs(path)[0], directions_of_positions([0.5, 0.25], [0.5, 0.5]), atol=1e-12)


def test_the_runs_of_a_browser_have_other_names_and_each_condition_is_an_option(sitzmann_root):
    folder = sitzmann_root / "data/browser"
    for number in (0, 1):
        (folder / f"cubemap_{number:04d}.pck").unlink()
        write_runs(folder / f"{number}.pck", [sitzmann_run([[0.1 * (1 + number), 0.25]])])

    def records(**options):
        config = GazeConfig(str(sitzmann_root), dataset="sitzmann", folds=2, **options)
        split = open_gaze(config, panorama_height=32)
        return {each.name: each for part in split[:2] for each in part}

    for number, record in enumerate(records(condition="browser").values()):
        x = 0.1 * (1 + int(record.name[-1]))
        np.testing.assert_allclose(record.fixations, [directions_of_positions(x, 0.25)], atol=1e-12)
        assert number < 2
    assert len(records(condition="seated_vr")["cubemap_0000"].fixations) == 3
    sharp, blurred = (records(**options)["cubemap_0000"].density for options in ({}, {"sigma_deg": 8.0}))
    assert sharp.max() > 4 * blurred.max()
    assert "runs browser: 2 of 22" in sitzmann.inventory(sitzmann_root).report()


def test_irregular_runs_are_used_and_counted_or_refused(sitzmann_root):
    path = sitzmann_root / "data/vr/cubemap_0000.pck"
    beyond, back, timeless = (sitzmann_run([[each, 0.5]]) for each in (1.002, 0.2, 0.3))
    back["timestamp"] = back["timestamp"][::-1]
    del timeless["timestamp"]
    write_runs(path, [beyond, back, timeless, {**sitzmann_run([[0.5, 0.5]]), "gaze_fixations": np.zeros((0,))}])
    fixations, observer, time_s = read_runs(path)
    np.testing.assert_allclose(fixations, directions_of_positions([0.002, 0.2, 0.3], [0.5] * 3), atol=1e-12)
    assert observer.tolist() == [0, 1, 2]
    assert time_s.tolist() == pytest.approx([0, np.nan, np.nan], nan_ok=True)
    counted = str(sitzmann.inventory(sitzmann_root).irregular)
    for each in ("by rounding, wrapped: 1", "clock steps back, used without times: 1", "a time for each sample: 1"):
        assert each in counted
    with pytest.raises(DataError, match=r"cubemap_0000\.pck has positions beyond"):
        Sitzmann(sitzmann_root, strict=True)[0]


def test_times_that_are_lost_are_nan_and_runs_without_a_fixation_are_counted(sitzmann_root):
    path = sitzmann_root / "data/vr/cubemap_0000.pck"
    lost, dates, none = (sitzmann_run([[0.25, 0.5], [0.5, 0.5]], repeats=1) for _ in range(3))
    lost["timestamp"] = np.array([7.0, np.inf])
    dates["timestamp"] = np.array(["2017-01-01T00:00:00", "2017-01-01T00:00:02"], "M8[ns]")
    none["timestamp"] = None
    write_runs(path, [lost, dates, none, sitzmann_run([[0, 0]]), {**lost, "gaze_fixations": None}])
    irregular = sitzmann.Irregular()
    fixations, observer, time_s = read_runs(path, irregular)
    assert observer.tolist() == [0, 0, 1, 1, 2, 2]
    assert time_s.tolist() == pytest.approx([0, np.nan, 0, 2, np.nan, np.nan], nan_ok=True)
    assert np.isfinite(fixations).all()
    for each in ("samples without a time: 1", "without fixations, left out: 2", "a time for each sample: 1"):
        assert each in str(irregular)


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("container", [list, tuple, lambda runs: np.array([*runs, None], object)[:-1]])
def test_runs_are_read_in_every_protocol_and_container(tmp_path, protocol, container):
    path = tmp_path / "VR" / "sub" / "CUBEMAP_0000.PKL"
    path.parent.mkdir(parents=True)
    runs = [OrderedDict(sitzmann_run([[0.5, 0.5]])), sitzmann_run([[np.float32(0.25), 0.5]])]
    path.write_bytes(pickle.dumps({"data": container(runs)}, protocol=protocol))
    np.testing.assert_allclose(read_runs(path)[0], directions_of_positions([0.5, 0.25], [0.5, 0.5]), atol=1e-12)
    write_picture(tmp_path / "cubemap_0000.png")
    assert Sitzmann(tmp_path, panorama_height=32).names == ("cubemap_0000",)


def test_runs_in_a_table_of_pandas_are_read_without_its_code(tmp_path, monkeypatch):
    """As the authors' own files may be; pandas need not be installed, and nothing of it is called."""
    module = types.ModuleType("pandas.core.frame")

    class DataFrame:
        def __setstate__(self, state):
            pytest.fail("code of another library was run")

        def __reduce__(self):
            return DataFrame, (), {"_data": self.blocks}

    DataFrame.__module__, DataFrame.__qualname__ = "pandas.core.frame", "DataFrame"
    module.DataFrame = DataFrame
    for name in ("pandas", "pandas.core"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "pandas.core.frame", module)
    runs = np.empty((1, 2), dtype=object)
    runs[0] = [sitzmann_run([[0.5, 0.5]]), sitzmann_run([[0.25, 0.5]])]
    table = DataFrame()
    table.blocks = [np.array([[3, 1]]), runs]
    path = tmp_path / "0.pck"
    path.write_bytes(pickle.dumps(table, protocol=2))
    np.testing.assert_allclose(read_runs(path)[0], directions_of_positions([0.5, 0.25], [0.5, 0.5]), atol=1e-12)


def test_folds_of_panoramas_share_none_and_lose_none(sitzmann_root):
    splits = [
        open_gaze(GazeConfig(root=str(sitzmann_root), dataset="sitzmann", folds=2, fold=fold), panorama_height=32)
        for fold in (0, 1)
    ]
    for split in splits:
        assert set(split.training.names).isdisjoint(split.measuring.names)
        assert len(split.training) + len(split.measuring) == 2
    assert splits[0].measuring.names == splits[1].training.names
    assert splits[0].measuring[-1].name == splits[0].measuring.names[-1]
    assert [each.name for each in splits[0].measuring[:1]] == list(splits[0].measuring.names[:1])


class Hostile:
    def __reduce__(self):
        return os.system, ("exit 3",)


@pytest.mark.parametrize("runs", [[Hostile()], [{"gaze_fixations": np.array([Hostile()], dtype=object)}]])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path, monkeypatch, runs):
    path = tmp_path / "cubemap_0000.pck"
    write_runs(path, runs)
    called = []
    monkeypatch.setattr(os, "system", lambda command: called.append(command))
    with pytest.raises(DataError, match=r"cubemap_0000\.pck is refused .it requests posix\.system"):
        read_runs(path)
    assert called == []


def test_numpy_functions_other_than_arrays_are_refused(tmp_path):
    path = tmp_path / "cubemap_0000.pck"
    path.write_bytes(b"cnumpy\nfromfile\n(Vx\ntR.")
    with pytest.raises(DataError, match=r"requests numpy\.fromfile"):
        read_runs(path)


def test_broken_runs_are_named(sitzmann_root):
    path = sitzmann_root / "data/vr/cubemap_0000.pck"
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(DataError, match=r"cubemap_0000\.pck is refused"):
        read_runs(path)
    write_runs(path, [sitzmann_run([[0.5, 1.5]])])
    with pytest.raises(DataError, match=r"run 0 of .* outside the panorama"):
        read_runs(path)
    write_runs(path, [{"timestamp": [0.0]}])
    with pytest.raises(DataError, match=r"run 0 of .* malformed"):
        read_runs(path)
    write_runs(path, [{**sitzmann_run([[0.5, 0.5]]), "gaze_fixations": []}])
    with pytest.raises(DataError, match="no fixations in any run"):
        read_runs(path)
    path.unlink()
    with pytest.raises(DataError, match="1 vr runs"):
        Sitzmann(sitzmann_root)


def write_video(path, frames, **options):
    """Frame i is grey of level 10 · i, with B-frames, so that coding and display order differ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("mpeg4", rate=25, options={"bf": "2", "g": "6"})
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for i in range(frames):
            picture = np.full((32, 64, 3), 10 * i % 250, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def write_sheet(path, sheets):
    """Numbers in column A, text in column B and in a cell below."""
    workbook = openpyxl.Workbook()
    workbook.remove(workbook.active)
    for name, values in sheets.items():
        sheet = workbook.create_sheet(name)
        for value in values:
            sheet.append([value, "text"])
        sheet.append(["video", 0])
    workbook.save(path)


@pytest.fixture
def vr_eyetracking_root(tmp_path):
    root = tmp_path / "vr"
    for video, frames in ((4, 12), (210, 10)):
        write_video(root / f"videos/{video:03d}.mp4", frames)
        for person in (1, 7):
            folder = root / f"Gaze_txt_files/p{person:03d}"
            folder.mkdir(parents=True, exist_ok=True)
            lines = [
                f"frame,{i},forward,0.5,0.5,eye,{0.25 if person == 1 else 0.75},{0.9 if i == 6 else 0.5}"
                for i in range(1, frames + 1)
            ]
            (folder / f"{video:03d}._2017-10-13-10-28_ori_0.txt").write_text("\n".join(lines) + "\n")
    write_sheet(root / "train_test_set.xlsx", {"train_set": [4], "test_set": [210]})
    return root


def test_vr_eyetracking_has_the_frame_that_its_gaze_counts_from_one(vr_eyetracking_root):
    data = VrEyeTracking(vr_eyetracking_root, "train", frame_step=3, map_height=64, sigma_deg=5)
    assert data.names == ("004/3", "004/6", "004/9", "004/12")
    for record, grey in zip(data, (20, 50, 80, 110), strict=False):
        assert abs(int(record.panorama()[10, 10, 0]) - grey) < 4
    record = data[1]
    assert record.observer.tolist() == [1, 7]
    # 0.9 counts from the bottom: 0.1 from the top
    np.testing.assert_allclose(record.fixations, directions_of_positions([0.25, 0.75], [0.1, 0.1]), atol=1e-12)
    assert np.isnan(record.time_s).all()
    assert VrEyeTracking(vr_eyetracking_root, "test", frame_step=5).names == ("210/5", "210/10")
    assert len(VrEyeTracking(vr_eyetracking_root, "all", frame_step=10)) == 2


def test_frames_and_samples_that_the_eye_tracker_lost_are_left_out_and_counted(vr_eyetracking_root, capsys):
    for person, lost in ((1, ("0.25", "0.5")), (7, ("0.75", "0.5"))):
        path = vr_eyetracking_root / f"Gaze_txt_files/p{person:03d}/004._2017-10-13-10-28_ori_0.txt"
        lines = path.read_text().splitlines()
        lines[8] = lines[8].replace(",".join(lost), "0.000000,0.000000" if person == 1 else "nan,nan")  # frame 9
        if person == 7:
            lines[2] = lines[2].replace(",".join(lost), "nan,nan")  # frame 3
            del lines[11]  # frame 12
        path.write_text("\n".join(lines) + "\n")
    data = VrEyeTracking(vr_eyetracking_root, "train", frame_step=3)
    assert data.names == ("004/3", "004/6", "004/12")
    assert [record.observer.tolist() for record in data] == [[1], [1, 7], [1]]
    assert data.left_out == "frames without gaze: 1, lost samples: 3"
    split = open_gaze(GazeConfig(str(vr_eyetracking_root), dataset="vr_eyetracking", frame_step=3), 32)
    assert split.training.names == data.names
    assert "vr_eyetracking, training part, left out: frames without gaze: 1, lost samples: 3" in capsys.readouterr().err
    config = GazeConfig(str(vr_eyetracking_root), dataset="vr_eyetracking", frame_step=3, strict=True)
    with pytest.raises(DataError, match=r"training part, has irregular data .frames without gaze: 1, lost samples: 3"):
        open_gaze(config, 32)


def gaze_lines(*samples):
    return "".join(f"frame,{frame},forward,0.5,0.5,eye,{x},{y}\n" for frame, x, y in samples)


@pytest.mark.parametrize(
    ("text", "frames", "x", "counted"),
    [
        (gaze_lines((-1, 0.1, 0.5), (0, 0.1, 0.5), (1, 0.25, 0.5)), [1], [0.25], "before the first frame of the video"),
        (gaze_lines((3, "nan", "nan"), (3, 0.25, 0.5), (3, 0.5, 0.5)), [3], [0.25], "came before, left out: 2"),
        (gaze_lines((3, "", ""), (4, 0.25, 0.5)), [3, 4], [np.nan, 0.25], ""),
        (gaze_lines((3, "inf", 0.5), (4, 0.25, 0.5)), [3, 4], [np.nan, 0.25], ""),
        ("frame,number,forward,x,y,eye,x,y\r\n" + gaze_lines((3, 0.25, 0.5)), [3], [0.25], "header row: 1"),
        ("frame 3 forward 0.5 0.5 eye 0.25 0.5 \n", [3], [0.25], ""),
        (gaze_lines((3, 0.25, 0.5)).encode("utf-16-le").decode("latin-1"), [3], [0.25], ""),
    ],
)
def test_files_of_gaze_are_used_as_far_as_possible(tmp_path, text, frames, x, counted):
    path = tmp_path / "001.txt"
    path.write_text(text, encoding="latin-1")
    irregular = vr_eyetracking.Irregular()
    found, directions = vr_eyetracking.read_gaze(path, irregular)
    assert found.tolist() == frames
    y = np.where(np.isnan(x), np.nan, 0.5)
    np.testing.assert_allclose(directions, directions_of_positions(x, y), atol=1e-12)
    assert counted in str(irregular)


@pytest.mark.parametrize(
    "text",
    ["frame,1,forward,0.5,0.5,eye,0,1,0,5\n", "frame,1,eye,0.25,0.5,forward,0.5,0.5\n", gaze_lines((0, 0.5, 0.5))],
)
def test_lines_of_gaze_that_may_mean_something_else_are_refused(tmp_path, text):
    path = tmp_path / "001.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=r"line 1 of .*001\.txt"):
        vr_eyetracking.read_gaze(path)


def test_check_names_what_the_split_sheet_and_the_folders_of_people_leave_out(vr_eyetracking_root):
    root = vr_eyetracking_root
    (root / "Gaze_txt_files/p007").rename(root / "Gaze_txt_files/P7")
    (root / "Gaze_txt_files/p001").rename(root / "Gaze_txt_files/somebody")
    path = root / "Gaze_txt_files/P7/004._2017-10-13-10-28_ori_0.txt"
    path.write_text(gaze_lines(*((frame, 0.5, 0.5) for frame in range(1, 7))))  # half of the 12 frames
    data = VrEyeTracking(root, "train", frame_step=3)
    assert data.names == ("004/3", "004/6")
    assert data[0].observer.tolist() == [7]
    assert "frames without gaze: 2" in data.left_out
    write_sheet(root / "train_test_set.xlsx", {"Train_set": [4], "test_set ": ["017._2017-10.mp4", "12,0"]})
    report = vr_eyetracking.inventory(root).report()
    for each in (
        "video 017 of the split sheet is missing",
        "video 012 of the split sheet is missing",
        "videos that the split sheet does not list, left out: 1 (first: 210)",
        "files outside the folders of people (p001, p002, …), left out: 2",
        "frames without gaze, left out: 6",
    ):
        assert each in report
    write_sheet(root / "train_test_set.xlsx", {"train_set": [4, 210], "test_set": [210]})
    assert "videos in both splits: 210" in vr_eyetracking.inventory(root).report()
    with pytest.raises(DataError, match="videos in both splits: 210"):
        VrEyeTracking(root, "train")


def test_irregular_gaze_of_videos_is_used_and_counted_or_refused(vr_eyetracking_root, monkeypatch, capsys):
    root = vr_eyetracking_root
    path = root / "Gaze_txt_files/p007/004._2017-10-13-10-28_ori_0.txt"
    lines = path.read_text().splitlines()
    lines[2] = "frame,3,forward,0.5,0.5,eye,1.002,0.5"  # beyond the seam by rounding
    lines.insert(5, "frame,3,forward,0.5,0.5,eye,0.9,0.5")  # the clock steps back
    lines += [f"frame,{i},forward,0.5,0.5,eye,0.5,0.5" for i in (13, 15, 18)]  # more lines than frames
    path.write_text("\n".join(lines) + "\n")
    (root / "Gaze_txt_files/p001/004._2017-10-13-10-28_ori_0.txt").write_text("\n")  # a person without a line
    for file in root.glob("Gaze_txt_files/p001/210*"):
        file.unlink()  # a missing person
    config = GazeConfig(str(root), dataset="vr_eyetracking", frame_step=3)
    split = open_gaze(config, 32)
    assert split.training.names == ("004/3", "004/6", "004/9", "004/12")
    np.testing.assert_allclose(split.training[0].fixations, [directions_of_positions(0.002, 0.5)], atol=1e-12)
    assert split.training[3].panorama().shape == (32, 64, 3)
    assert split.measuring[0].observer.tolist() == [7]
    told = capsys.readouterr().err
    expected = (
        "by rounding, wrapped: 1",
        "on a frame that came before, left out: 1",
        "after the end of the video, left out: 3",
        "without a line, left out: 1",
    )
    assert all(each in told for each in expected)
    monkeypatch.setattr("sys.argv", ["check", "vr_eyetracking", str(root)])
    check_main()
    out = capsys.readouterr().out
    assert all(f"{each} (first: " in out for each in expected)
    assert "fewer than 31 people: 2 (first: video 004 has gaze of 2 people)" in out
    with pytest.raises(DataError, match="correct it, or do not ask for strict data"):
        open_gaze(dataclasses.replace(config, strict=True), 32)


def test_check_calls_irregular_data_complete_unless_it_is_strict(salient360_root, monkeypatch, capsys):
    monkeypatch.setattr(salient360, "IMAGES", 3)
    (salient360_root / "HE/Scanpaths/L/HEscanpath_1.txt").write_text(HEADER + "0,1.001,0.5,0\n")
    for options, status in (([], 0), (["--strict"], 1)):
        monkeypatch.setattr("sys.argv", ["check", "salient360", str(salient360_root), *options])
        assert check_main() == status
        assert "irregular, positions beyond the panorama's edge by rounding, wrapped: 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "only"),
    [
        ({"dataset": "salient360", "condition": "browser"}, "only Sitzmann et al. have it"),
        ({"dataset": "sitzmann", "frame_step": 5}, "only VR-EyeTracking have it"),
        ({"dataset": "vr_eyetracking", "movement": "H"}, "only Salient360! have it"),
    ],
)
def test_an_option_of_another_data_set_is_refused(options, only):
    with pytest.raises(ParameterError, match=only):
        GazeConfig("root", **options)


def test_videos_in_folders_of_any_name_are_read(vr_eyetracking_root):
    (vr_eyetracking_root / "videos").rename(vr_eyetracking_root / os.fsdecode(b"vid\xe9os"))
    data = VrEyeTracking(vr_eyetracking_root, "train", frame_step=6)
    assert data[0].panorama().shape == (32, 64, 3)


def test_hidden_copies_are_not_second_files(salient360_root):
    write_picture(salient360_root / ".Trash" / "P1_64x32.jpg")
    write_picture(salient360_root / "@eaDir" / "P75_64x32.jpg")
    assert Salient360(salient360_root, "all").names == ("P1", "P75", "P98")


def test_half_a_picture_with_an_end_mark_is_not_whole_and_one_with_padding_is(salient360_root):
    cut, padded = (salient360_root / f"Stimuli/P{number}_64x32.jpg" for number in (1, 75))
    generator = np.random.default_rng(0)
    cv2.imwrite(str(cut), generator.integers(0, 256, (64, 128, 3), np.uint8))
    cut.write_bytes(cut.read_bytes()[:2000] + b"\xff\xd9")
    padded.write_bytes(padded.read_bytes() + bytes(10_000))
    problems = salient360.inventory(salient360_root).problems
    assert [each for each in problems if "jpg" in each] == [f"{cut} is damaged or cut short (JPEG)"]


def test_a_map_with_a_signalling_nan_is_refused_and_nothing_else_is_said(salient360_root):
    path = salient360_root / "HE/SalMaps/HEsalmap_1_2048x1024_32b.bin"
    values = np.fromfile(path, np.uint32)
    values[1000] = 0x7F800001
    values.tofile(path)
    with pytest.raises(DataError, match="negative or not finite"):
        read_density(path)


def test_vr_eyetracking_names_what_is_wrong(vr_eyetracking_root):
    gaze = vr_eyetracking_root / "Gaze_txt_files/p007/004._2017-10-13-10-28_ori_0.txt"
    lines = gaze.read_text()
    gaze.write_text(lines.replace("0.75,0.9", "0.75,1.9"))
    with pytest.raises(DataError, match=r"p007/004.* outside the panorama"):
        VrEyeTracking(vr_eyetracking_root, "train", frame_step=3)
    gaze.write_text(lines.replace("eye", "eye,"))
    with pytest.raises(DataError, match=r"p007/004.* malformed"):
        VrEyeTracking(vr_eyetracking_root, "train", frame_step=3)
    for number in ("nan", "0", "2.5", "1e30"):
        gaze.write_text(lines.replace("frame,2,", f"frame,{number},"))
        with pytest.raises(DataError, match=r"line 2 of .*p007/004.* has the frame number"):
            VrEyeTracking(vr_eyetracking_root, "train", frame_step=3)
    with pytest.raises(DataError, match=r"004\.mp4 has 12 frames, but gaze on frame 15"):
        vr_eyetracking.read_video_frame(vr_eyetracking_root / "videos/004.mp4", 14)
    gaze.write_text(lines)
    video = vr_eyetracking_root / "videos/004.mp4"
    video.write_bytes(b"no video")
    with pytest.raises(DataError, match=r"004\.mp4 cannot be read"):
        VrEyeTracking(vr_eyetracking_root, "train", frame_step=3)[0].panorama()
    video.unlink()
    with pytest.raises(DataError, match="1 videos: 4"):
        VrEyeTracking(vr_eyetracking_root, "train", frame_step=3)
    (vr_eyetracking_root / "train_test_set.xlsx").write_bytes(b"no workbook")
    with pytest.raises(DataError, match=r"train_test_set\.xlsx cannot be read"):
        VrEyeTracking(vr_eyetracking_root, "test")


def test_splits_come_from_a_sheet_or_the_numbers(tmp_path):
    assert salient360.in_split([98, 3, 74, 75], "train") == [3, 74]
    path = tmp_path / "sheet.xlsx"
    write_sheet(path, {"a": [3, 1], "b": []})
    assert read_first_column(path, "a") == [3, 1]
    for sheet, complaint in (("b", "has no numbers"), ("c", "cannot be read")):
        with pytest.raises(DataError, match=complaint):
            read_first_column(path, sheet)


def test_check_counts_and_names_what_a_copy_lacks(
    salient360_root, sitzmann_root, vr_eyetracking_root, monkeypatch, capsys
):
    def check(dataset, root):
        monkeypatch.setattr("sys.argv", ["check", dataset, str(root)])
        status = check_main()
        return status, capsys.readouterr().out

    (salient360_root / "HE/SalMaps/HEsalmap_98_2048x1024_32b.bin").write_bytes(b"short")
    picture = salient360_root / "Stimuli/P1_64x32.jpg"
    picture.write_bytes(picture.read_bytes()[:-20])
    status, out = check("salient360", salient360_root)
    assert status == 1
    assert "pictures: 3 of 85, 82 missing" in out
    assert "HEsalmap_98_2048x1024_32b.bin is cut short" in out
    assert "P1_64x32.jpg is damaged or cut short" in out
    (sitzmann_root / "data/browser/cubemap_0001.pck").unlink()
    status, out = check("sitzmann", sitzmann_root)
    assert "cubemap_0001 lacks its runs browser" in out
    (vr_eyetracking_root / "videos/210.mp4").unlink()
    video = vr_eyetracking_root / "videos/004.mp4"
    whole = video.read_bytes()
    video.write_bytes(whole[: len(whole) // 2])
    status, out = check("vr_eyetracking", vr_eyetracking_root)
    assert "gaze of 210 has no video" in out
    assert "videos/004.mp4 is cut short" in out
    assert "video 004 has gaze of 2 people" in out
    with pytest.raises(DataError, match="no folder"):
        check("osie", salient360_root / "absent")


@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}])
def test_a_video_that_was_cut_short_is_named(tmp_path, options):
    path = tmp_path / "001.mp4"
    write_video(path, 100, **options)
    check_video(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(DataError, match=r"001\.mp4 is cut short"):
        check_video(path)


def test_a_video_that_is_damaged_inside_is_named(tmp_path):
    path = tmp_path / "001.mkv"
    write_video(path, 100, cluster_size_limit="1000")
    check_video(path)
    whole = path.read_bytes()
    at = whole.rindex(b"\x1f\x43\xb6\x75")
    path.write_bytes(whole[:at] + bytes(4) + whole[at + 4 :])
    with pytest.raises(DataError, match=r"001\.mkv is damaged"):
        check_video(path)


def test_a_whole_copy_is_called_complete(salient360_root, monkeypatch, capsys):
    monkeypatch.setattr(salient360, "IMAGES", 3)
    assert salient360.inventory(salient360_root).is_complete
    monkeypatch.setattr("sys.argv", ["check", "salient360", str(salient360_root)])
    assert check_main() == 0
    assert capsys.readouterr().out.endswith("\ncomplete\n")


def test_a_whole_copy_of_the_others_is_called_complete(sitzmann_root, vr_eyetracking_root, monkeypatch):
    monkeypatch.setattr(sitzmann, "PANORAMAS", 2)
    assert sitzmann.inventory(sitzmann_root).is_complete
    monkeypatch.setattr(vr_eyetracking, "VIDEOS", 2)
    monkeypatch.setattr(vr_eyetracking, "OBSERVERS_A_VIDEO", 2)
    assert vr_eyetracking.inventory(vr_eyetracking_root).is_complete


def test_the_real_osie_is_complete(shared_data, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["check", "osie", str(shared_data / "osie")])
    status = check_main()
    assert "fixations: 84290 of 84290" in capsys.readouterr().out
    assert status == 0


def test_the_table_of_data_sets_is_what_the_settings_offer():
    of_all = {"root", "dataset", "strict", "cache"}
    of_some = {field.name for field in dataclasses.fields(GazeConfig)} - of_all
    for row in DATASETS.values():
        assert set(row.settings) <= of_some
    assert {name for row in DATASETS.values() for name in row.settings} == of_some
    for name in DATASETS:
        config = read_config(EvaluateConfig, "", [f"--data.dataset={name}", *OPTIONS])
        assert config.data.dataset == name
    with pytest.raises(ParameterError, match="salient360"):
        read_config(EvaluateConfig, "", ["--data.dataset=unknown", *OPTIONS])
    with pytest.raises(ParameterError, match=rf"^dataset is 'unknown'; expected one of {', '.join(DATASETS)};"):
        GazeConfig("root", dataset="unknown")


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + HEADER + "\n0,0.5,0.5,0\n\n1,0.25,0.0,300\n",
        "sep=,\r\n" + HEADER + "0,0.5,0.5,0\r\n1,0.25,0.0,300\r\n,,,\r\n",
        HEADER.replace(",", ";") + "0;0,5;0,5;0\n1;0,25;0,0;300\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_scanpaths_as_spreadsheets_save_them_are_read(salient360_root, text, encoding):
    path = salient360_root / "HE/Scanpaths/R/HEscanpath_1.txt"
    path.write_bytes(text.encode(encoding))
    record = Salient360(salient360_root, "train")[0]
    np.testing.assert_allclose(record.fixations, directions_of_positions([0.5, 0.25], [0.5, 0.0]), atol=1e-12)
    assert record.time_s == pytest.approx([0, 0.3])


@pytest.mark.parametrize("row", ["1,0.5,half,0", "1,0.5,1.5,0", "#1,0.5,0.5,0", "1,0.5"])
def test_a_broken_row_is_named_by_its_line_and_never_taken_for_a_comment(salient360_root, row):
    path = salient360_root / "HE/Scanpaths/R/HEscanpath_1.txt"
    path.write_text(f"\n{HEADER}\n0,0.5,0.5,0\n\n{row}\n2,0.5,0.5,0\n")
    with pytest.raises(DataError, match=r"line 6 of .*HEscanpath_1\.txt"):
        Salient360(salient360_root, "train")[0]


@pytest.mark.parametrize(
    ("line", "broken"), [("frame,2,", "frame,half,"), ("frame,2,", "#frame,2,"), ("0.25,0.5", "0.25,5")]
)
def test_a_broken_line_of_gaze_is_named_by_its_number_in_the_file(vr_eyetracking_root, line, broken):
    path = vr_eyetracking_root / "Gaze_txt_files/p001/004._2017-10-13-10-28_ori_0.txt"
    lines = path.read_text().splitlines()
    lines[1] = lines[1].replace(line, broken)
    path.write_text("\n\n" + "\n".join(lines) + "\n")
    if broken.startswith("#"):
        lines[1] = lines[1].replace("frame", "frame,")  # a comment sign hides nothing
        path.write_text("\n\n" + "\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"line 4 of .*p001/004"):
        VrEyeTracking(vr_eyetracking_root, "train", frame_step=3)


def test_videos_whose_numbers_a_spreadsheet_stores_as_text_are_in_the_split(tmp_path):
    path = tmp_path / "sheet.xlsx"
    write_sheet(path, {"a": ["001", 2, " 17 ", 3.0], "b": [1, 4.5]})
    assert read_first_column(path, "a") == [1, 2, 17, 3]
    with pytest.raises(DataError, match=r"sheet b of .* has the number 4\.5"):
        read_first_column(path, "b")


def test_frames_of_a_video_are_upright_and_panoramic(vr_eyetracking_root):
    if not hasattr(av.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV writes no display matrix")
    path = vr_eyetracking_root / "videos/004.mp4"
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:16] = 200
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.set_display_rotation(180)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    data = VrEyeTracking(vr_eyetracking_root, "train", frame_step=3)
    frame = data[0].panorama()
    assert frame[:12].mean() < 20
    assert frame[20:].mean() > 180
    with av.open(str(path), "w") as container:  # two eyes above each other
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.vstack([picture, picture]), format="rgb24")))
        container.mux(stream.encode())
    vr_eyetracking._places.cache_clear()
    with pytest.raises(DataError, match=r"frames of .*004\.mp4 are 64 x 64; expected twice as wide as high"):
        vr_eyetracking.read_video_frame(path, 0)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (np.full((4, 3), 0.5), r"run 0 of .* has gaze_fixations of shape \(4, 3\)"),
        (np.full(4, 0.5), r"run 0 of .* has gaze_fixations of shape \(4,\)"),
        ([[10**400, 1]], "run 0 of .* malformed"),
    ],
)
def test_runs_of_another_shape_are_named_and_not_left_out(sitzmann_root, positions, message):
    path = sitzmann_root / "data/vr/cubemap_0000.pck"
    write_runs(path, [{**sitzmann_run([[0.5, 0.5]]), "gaze_fixations": positions}, sitzmann_run([[0.5, 0.5]])])
    with pytest.raises(DataError, match=message):
        read_runs(path)
    write_runs(path, [np.zeros(3)])
    with pytest.raises(DataError, match=r"run 0 of .* malformed"):
        read_runs(path)


def test_a_file_that_cannot_be_read_is_one_of_the_problems_of_a_copy(salient360_root, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(salient360, "read_scanpaths", refuse)
    problems = salient360.inventory(salient360_root).problems
    assert len([each for each in problems if each.startswith("no permission (")]) == 6


@pytest.mark.parametrize("setting", ["fold", "split_seed"])
def test_a_fold_of_a_data_set_with_a_published_split_is_refused(setting: str) -> None:
    with pytest.raises(
        ParameterError, match=rf"{setting} is 1 and dataset is 'salient360'; expected {setting} 0: only"
    ):
        GazeConfig("root", dataset="salient360", **{setting: 1})  # type: ignore[arg-type]
