"""The command that finds out which way is up."""

from __future__ import annotations

import math
import re

import cv2
import numpy as np
import pytest

from sal360.cameras.levelling import UP, estimate_up, tilt
from sal360.cli import main
from sal360.images import read_picture
from sal360.projection import rotate_erp
from sal360.samples import bundled_panoramas
from sal360.sphere import angular_distance, rotation_from_quaternion, rotation_yaw_pitch_roll

ORIENTATION = rotation_yaw_pitch_roll(pitch_rad=math.radians(20), roll_rad=math.radians(-15))


@pytest.fixture
def tilted(tmp_path):
    """A bundled panorama as a camera sees it in `ORIENTATION`."""
    picture = rotate_erp(read_picture(bundled_panoramas() / "interior.jpg"), ORIENTATION.T)
    path = tmp_path / "tilted.png"
    assert cv2.imwrite(str(path), picture)
    return path


def test_roll_pitch_and_mount_are_printed_and_the_picture_is_levelled(tilted, tmp_path, capfd):
    assert main(["level", str(tilted), "--output", str(tmp_path / "out")]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    found = re.fullmatch(r'tilted: roll (\S+)°, pitch (\S+)°, confidence (\S+), mount: "(.+)"\n', out)
    assert found
    assert float(found[1]) == pytest.approx(-15, abs=2)
    assert float(found[2]) == pytest.approx(20, abs=2)
    x, y, z, w = map(float, found[4].split())
    mounted = rotation_from_quaternion(w, x, y, z)
    assert math.degrees(angular_distance(mounted @ ORIENTATION.T @ UP, UP)) < 2
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["tilted.jpg"]
    levelled = read_picture(tmp_path / "out" / "tilted.jpg")
    assert levelled.shape == (512, 1024, 3)
    assert math.degrees(tilt(estimate_up(levelled).up)) < 2


def test_several_pictures_of_one_camera_are_taken_together(tilted, tmp_path, capfd):
    other = tmp_path / "other.png"
    picture = rotate_erp(read_picture(bundled_panoramas() / "city.jpg"), ORIENTATION.T)
    assert cv2.imwrite(str(other), picture)
    assert main(["level", str(tilted), str(other)]) == 0
    last = capfd.readouterr().out.splitlines()[-1]
    assert last.startswith("together, if one camera with a fixed mount took them: roll -1")


def test_a_picture_that_does_not_show_up_is_said_to_and_is_not_levelled(tmp_path, capfd):
    assert cv2.imwrite(str(tmp_path / "fog.png"), np.full((128, 256, 3), 200, np.uint8))
    assert main(["level", str(tmp_path / "fog.png"), "--output", str(tmp_path / "out")]) == 1
    assert capfd.readouterr().out.startswith("fog: the picture does not show which way is up (the best guess is roll ")
    assert not (tmp_path / "out").exists()


def test_other_cameras_pictures_are_levelled_too(tilted, tmp_path, capfd):
    stereo = tmp_path / "stereo.png"
    picture = read_picture(tilted)
    assert cv2.imwrite(str(stereo), np.concatenate([picture, picture]))
    assert main(["level", "--camera", "auto:stereo=top_bottom", str(stereo)]) == 0
    assert "stereo: roll -1" in capfd.readouterr().out


def test_what_cannot_be_used_is_skipped_with_its_reason(tilted, tmp_path, capfd):
    video, square = tmp_path / "clip.mp4", tmp_path / "square.png"
    video.touch()
    assert cv2.imwrite(str(square), np.zeros((64, 64, 3), np.uint8))
    assert main(["level", str(video), str(square), str(tilted)]) == 1
    out, err = capfd.readouterr()
    assert out.startswith("tilted: roll ")
    assert f"{video} is a video; save some of its frames as pictures, and name these" in err
    assert f"{square}: the frame is 64 x 64" in err
    (tmp_path / "run.mcap").touch()
    assert main(["level", str(tmp_path / "run.mcap")]) == 2
    assert "run.mcap is a bag; save some of its frames as pictures, and name these" in capfd.readouterr().err
    assert main(["level", str(tmp_path / "missing.png")]) == 1
    assert "missing.png does not exist; check the path" in capfd.readouterr().err
