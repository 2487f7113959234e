"""Headset logs: both layouts, and the fixation lists that the toolbox made from real ones."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sal360.errors import DataError, ParameterError, one_line_errors
from sal360.sphere import angular_distance
from training.data.gaze import hmd_logs
from training.data.gaze.hmd_logs import VelocityThreshold, detect_fixations, read_fixation_list, read_hmd_log
from training.data.gaze.records import directions_of_positions
from training.data.gaze.salient360 import read_scanpaths

RATE_HZ = 120
TARGETS = np.array([[0.25, 0.5], [0.2, 0.4], [0.02, 0.55], [0.98, 0.6]])  # the last step crosses the seam


def unity_of_body(directions):
    x, y, z = directions.T
    return np.stack([-x, z, y], axis=1)


def log_rows(euler):
    """0.5 s on each target; the head turns along slowly and the eye makes up for it."""
    samples = RATE_HZ // 2
    world = unity_of_body(np.repeat(directions_of_positions(*TARGETS.T), samples, axis=0))
    if euler:
        world[:, 1] *= -1  # the vertical of these logs is negated
    count = len(world)
    yaw_pitch_roll = np.stack([np.linspace(0, -80, count), np.linspace(0, 10, count), np.full(count, 3.0)], axis=1)
    head = Rotation.from_euler("YXZ", yaw_pitch_roll, degrees=True)
    in_head = head.inv().apply(world)
    stamps = 10**9 + (np.arange(count) * (1e9 if euler else 1e6) / RATE_HZ).astype(np.int64)
    return stamps, in_head, head, yaw_pitch_roll


def write_log(path, euler):
    stamps, in_head, head, angles = log_rows(euler)
    with path.open("w") as file:
        if euler:
            file.write("oculoTS,currFrame,cam_pitch,cam_yaw,cam_roll,rightGazeDir.x,rightGazeDir.y,rightGazeDir.z,")
            file.write("binPor.y,Lval,Rval\n")
            for stamp, eye, (yaw, pitch, roll) in zip(stamps, in_head, angles, strict=True):
                # the real ones lack the comma after binPor.y
                file.write(f"{stamp},0,{pitch},{yaw},{roll},{eye[0]},{eye[1]},{eye[2]},666.5True,True\n")
        else:
            file.write("OcutimeStamp,cameraRotation.x,cameraRotation.y,cameraRotation.z,cameraRotation.w,")
            file.write("rightEyeDirection.x,rightEyeDirection.y,rightEyeDirection.z,valL,valR\n")
            for i, (stamp, eye, quaternion) in enumerate(zip(stamps, in_head, head.as_quat(), strict=True)):
                shown = ["nan"] * 3 if i in (20, 21) else eye  # lost samples
                file.write(",".join(map(str, [stamp, *quaternion, *shown, True, True])) + "\n")
    return path


@pytest.mark.parametrize("euler", [False, True])
def test_fixations_of_a_known_scanpath_are_found(tmp_path, euler):
    time_s, directions = read_hmd_log(write_log(tmp_path / "log.csv", euler))
    assert np.diff(time_s) == pytest.approx(1 / 90, rel=0.02)
    found = detect_fixations(time_s, directions)
    expected = directions_of_positions(*TARGETS.T)
    assert found.directions.shape == expected.shape
    assert np.degrees(angular_distance(found.directions, expected)).max() < 0.5
    assert found.start_s == pytest.approx([0, 0.5, 1.0, 1.5], abs=0.06)
    assert (found.duration_s > 0.35).all()


def test_short_fixations_and_single_samples_are_dropped():
    time_s = np.arange(200) / 100
    angle = np.where(np.arange(200) < 100, 0, np.where(np.arange(200) < 105, 0.6, 1.2))
    directions = np.stack([np.cos(angle), np.sin(angle), np.zeros(200)], axis=1)
    assert len(detect_fixations(time_s, directions).start_s) == 2
    assert len(detect_fixations(time_s, directions, VelocityThreshold(minimum_s=1.5)).start_s) == 1  # the first is cut
    with pytest.raises(ParameterError, match="samples"):
        detect_fixations(time_s[:5], directions[:5])


@pytest.mark.parametrize(("name", "share"), [("Static1", 0.9), ("Static2", 0.9), ("Static3", 0.9), ("Dyn1", 0.75)])
def test_real_logs_agree_with_the_lists_of_the_toolbox(shared_data, name, share):
    """The columns and frames are right if the gaze matches the list; in Dyn1 blinks move some borders."""
    folder = shared_data / "salient360_raw"
    listed = read_fixation_list(folder / f"fixations_{name}.csv")
    time_s, directions = read_hmd_log(folder / f"rawData{name}.csv")
    during = [
        directions[(time_s > start - 1e-3) & (time_s < start + length - 1e-3)].mean(axis=0)
        for start, length in zip(listed.start_s, listed.duration_s, strict=True)
    ]
    during /= np.linalg.norm(during, axis=1, keepdims=True)
    off_deg = np.degrees(angular_distance(during, listed.directions))
    assert np.median(off_deg) < 0.01
    assert off_deg.max() < 0.3

    found = detect_fixations(time_s, directions)
    nearest = np.argmin(np.abs(found.start_s - listed.start_s[:, None]), axis=1)
    agree = np.abs(found.start_s[nearest] - listed.start_s) < 1.5 / 90
    agree &= np.abs(found.duration_s[nearest] - listed.duration_s) < 2.5 / 90
    assert agree.mean() >= share
    assert abs(len(found.start_s) - len(listed.start_s)) <= 1


def test_broken_logs_are_named(tmp_path):
    log = tmp_path / "log.csv"
    with pytest.raises(DataError, match="does not exist"):
        read_hmd_log(log)
    log.write_text("time,x\n1,2\n")
    with pytest.raises(DataError, match=r"log\.csv has no column"):
        read_hmd_log(log)
    write_log(log, euler=False)
    log.write_text(log.read_text().replace("nan", "torn"))
    with pytest.raises(DataError, match=r"log\.csv is malformed"):
        read_hmd_log(log)
    header = log.read_text().splitlines()[0]
    log.write_text(header + "\n")
    with pytest.raises(DataError, match="no rows"):
        read_hmd_log(log)
    log.write_text(header + "\n" + "\n".join(f"{i * 8000},0,0,0,1,0,0,0,True,True" for i in range(50)) + "\n")
    with pytest.raises(DataError, match="0 valid samples"):
        read_hmd_log(log)
    log.write_text(header + "\n" + "\n".join(f"{i * 70},0,0,0,1,0,0,1,True,True" for i in range(50)) + "\n")
    with pytest.raises(DataError, match="timestamps"):
        read_hmd_log(log)
    log.write_text(header + "\n0,0,0,0,1,0,0,1,True,True\n")
    with pytest.raises(DataError):
        read_hmd_log(log)


def test_eye_directions_on_a_plane_in_front_of_the_head_are_all_read(tmp_path):
    """One of their components never changes."""
    log = write_log(tmp_path / "log.csv", euler=False)
    rows = [f"{8000 * i},0,0,0,1,{0.4 * (i // 60) + 0.001 * np.sin(i)},0.1,1,True,True" for i in range(180)]
    log.write_text("\n".join([log.read_text().splitlines()[0], *rows]) + "\n")
    assert len(detect_fixations(*read_hmd_log(log)).start_s) == 3


def test_a_byte_order_mark_is_not_part_of_the_header(tmp_path):
    log = write_log(tmp_path / "log.csv", euler=False)
    expected = read_hmd_log(log)[1]
    log.write_bytes(b"\xef\xbb\xbf" + log.read_bytes())
    np.testing.assert_array_equal(read_hmd_log(log)[1], expected)


def test_a_fixation_list_outside_the_panorama_is_refused(tmp_path):
    path = tmp_path / "fixations.csv"
    row = ["0.1"] * 29
    path.write_text(",".join(row) + "\n")
    assert len(read_fixation_list(path).start_s) == 1
    row[1] = "1.2"
    path.write_text(",".join(row) + "\n")
    with pytest.raises(DataError, match="outside the panorama"):
        read_fixation_list(path)


def rows_of(log):
    header, *rows = log.read_text().splitlines()
    return header, [row.split(",") for row in rows]


def write_rows(log, header, rows, separator=","):
    log.write_text(header.replace(",", separator) + "\n" + "\n".join(separator.join(row) for row in rows) + "\n")


@pytest.mark.parametrize("stamp", ["nan", "inf", "0"])
def test_stamps_that_are_lost_or_go_back_are_left_out(tmp_path, stamp):
    log = write_log(tmp_path / "log.csv", euler=False)
    expected = read_hmd_log(log)[1]
    header, rows = rows_of(log)
    for number in (3, 100, 101):
        rows[number][0] = stamp
    rows.append([stamp, *rows[-1][1:]])
    write_rows(log, header, rows)
    found = read_hmd_log(log)[1]
    assert found.shape == expected.shape
    assert np.degrees(angular_distance(found, expected)).max() < 1


def test_a_pose_that_was_lost_is_bridged(tmp_path):
    log = write_log(tmp_path / "log.csv", euler=False)
    expected = read_hmd_log(log)[1]
    header, rows = rows_of(log)
    for number in (50, 51, 52):
        rows[number][1:5] = ["0"] * 4
    write_rows(log, header, rows)
    assert np.degrees(angular_distance(read_hmd_log(log)[1], expected)).max() < 2


def test_a_log_with_semicolons_and_decimal_commas_is_read(tmp_path):
    log = write_log(tmp_path / "log.csv", euler=False)
    expected = read_hmd_log(log)[1]
    header, rows = rows_of(log)
    write_rows(log, header, [[cell.replace(".", ",") for cell in row] for row in rows], ";")
    np.testing.assert_array_equal(read_hmd_log(log)[1], expected)


def test_the_command_writes_scanpaths_and_a_picture(tmp_path, monkeypatch, capsys):
    first, second = (write_log(tmp_path / f"{name}.csv", euler) for name, euler in (("a", False), ("b", True)))
    lines = first.read_text().splitlines()
    lines[60], lines[61] = lines[61], lines[60]  # its clock steps back
    first.write_text("\n".join(lines) + "\n")
    options = ["--logs", f"[{first}, {second}]", "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["hmd_logs", *options])
    assert one_line_errors(hmd_logs.main) == 0
    shown = capsys.readouterr().out
    assert f"{second}: 4 fixations" in shown
    assert "tracker lost, bridged: 2" in shown
    assert "clock steps back, left out: 1" in shown
    fixations, observer, time_s = read_scanpaths(tmp_path / "out/fixations.txt")  # the form of Salient360!
    assert observer.tolist() == [0] * 4 + [1] * 4
    assert time_s[:4] == pytest.approx([0, 0.5, 1.0, 1.5], abs=0.06)
    expected = directions_of_positions(*TARGETS.T)
    assert np.degrees(angular_distance(fixations, np.concatenate([expected, expected]))).max() < 0.5
    picture = cv2.imread(str(tmp_path / "out/fixations.png"))
    assert picture.shape == (512, 1024, 3)
    for x, y in TARGETS:
        around = picture[round(512 * y) - 20 :, :][:40, max(0, round(1024 * x) - 20) :][:, :40]
        assert around.max() == 255
    monkeypatch.setattr(sys, "argv", ["hmd_logs", *options, "--strict", "true"])
    assert one_line_errors(hmd_logs.main) == 2
    assert "a.csv has samples that the tracker lost" in capsys.readouterr().err


def test_gaze_that_was_lost_for_long_is_not_a_fixation(tmp_path, monkeypatch, capsys):
    log = write_log(tmp_path / "log.csv", euler=False)
    header, rows = rows_of(log)
    for row in rows[65:175]:  # almost all of the second and third target
        row[5:8] = ["0.1", "0.2", "0.9"]
        row[9] = "False"  # the right eye; what stands there is old
    for row in rows[20:30]:
        row[5:8] = [""] * 3  # a blink is bridged
    write_rows(log, header, rows)
    time_s, directions = read_hmd_log(log)
    lost = np.isnan(directions).any(axis=1)
    assert 0.8 < lost.mean() * time_s[-1] < 1.0
    found = detect_fixations(time_s, directions)
    expected = directions_of_positions(*TARGETS[[0, 3]].T)
    assert np.degrees(angular_distance(found.directions, expected)).max() < 0.5
    monkeypatch.setattr(sys, "argv", ["hmd_logs", "--logs", f"[{log}]", "--output", str(tmp_path / "out")])
    assert one_line_errors(hmd_logs.main) == 0
    assert "gaps of more than 0.5 s, left out: 1" in capsys.readouterr().out
    assert read_hmd_log(log, eye="right")[0].shape == time_s.shape


def test_flags_of_the_tracker_are_words_or_digits_but_no_codes(tmp_path):
    log = write_log(tmp_path / "log.csv", euler=False)
    header, rows = rows_of(log)
    for words in (("True", "False"), ("1", "0"), ("0", "4")):
        for i, row in enumerate(rows):
            row[9] = words[i in (50, 51, 52)]
        write_rows(log, header, rows)
        irregular = hmd_logs.Irregular()
        read_hmd_log(log, irregular=irregular)
        lost = 2 if words == ("0", "4") else 5  # two have no direction
        assert f"bridged: {lost}" in str(irregular)
    with pytest.raises(ParameterError, match="each log once"):
        hmd_logs.HmdLogsConfig(logs=("a", "a"), output="out")


def test_a_log_of_the_other_eye_alone_says_so(tmp_path):
    log = write_log(tmp_path / "log.csv", euler=True)
    log.write_text(log.read_text().replace("rightGazeDir", "leftGazeDir"))
    with pytest.raises(DataError, match=r"log\.csv has the left eye alone; choose it with --eye left"):
        read_hmd_log(log)
    assert len(detect_fixations(*read_hmd_log(log, eye="left")).start_s) == 4


def test_a_clock_that_leaps_repeats_or_steps_back_costs_as_few_samples_as_possible(tmp_path):
    log = write_log(tmp_path / "log.csv", euler=False)
    expected = read_hmd_log(log)[1]
    header, rows = rows_of(log)
    first, *stamps = [int(row[0]) for row in rows]
    rows[100][0] = str(10**15)  # would be a recording of years
    write_rows(log, header, [*rows[:150], rows[149], *rows[150:]])
    irregular = hmd_logs.Irregular()
    found = read_hmd_log(log, irregular=irregular)[1]
    assert np.degrees(angular_distance(found, expected)).max() < 1
    assert "at the time of another one, left out: 1" in str(irregular)
    assert "clock steps back, left out: 1" in str(irregular)
    rows[100][0] = str(stamps[99])
    rows[-1][0] = str(10**15)
    write_rows(log, header, rows)
    with pytest.raises(DataError, match=r"the timestamps of .*log\.csv jump"):
        read_hmd_log(log)
    rows[-1][0] = str(stamps[-1])
    slow = [[str(first + 16_000 * (i // 2)), *row[1:]] for i, row in enumerate(rows)]  # each stamp twice
    write_rows(log, header, slow)
    assert len(detect_fixations(*read_hmd_log(log)).start_s) == 4


def test_decimal_commas_between_commas_are_refused(tmp_path):
    log = write_log(tmp_path / "log.csv", euler=False)
    header, *rows = log.read_text().splitlines()
    log.write_text(header + "\n" + "\n".join(row.replace(".", ",") for row in rows) + "\n")
    with pytest.raises(DataError, match=r"line 2 of .*log\.csv is malformed"):
        read_hmd_log(log)


def test_head_angles_that_may_be_radians_are_counted(tmp_path):
    log = write_log(tmp_path / "log.csv", euler=True)
    header, rows = rows_of(log)
    for row in rows:
        row[2:5] = [str(np.radians(float(each))) for each in row[2:5]]
    write_rows(log, header, rows)
    irregular = hmd_logs.Irregular()
    read_hmd_log(log, irregular=irregular)
    assert "may be radians" in str(irregular)


def test_a_log_that_is_too_short_is_named(tmp_path):
    log = write_log(tmp_path / "log.csv", euler=False)
    header, rows = rows_of(log)
    for count in (1, 10):
        write_rows(log, header, rows[:count])
        with pytest.raises(DataError, match=r"log\.csv has [16] valid samples; expected at least 9"):
            read_hmd_log(log)
