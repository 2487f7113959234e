"""The command for pictures and folders."""

from __future__ import annotations

import contextlib
import errno
import json
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from sal360.cli import main, predict
from tests.child_signals import sigint_of_children


@pytest.fixture
def run(capfd, tiny_model, tmp_path):
    """Runs the command on the tiny model; returns its status, its output and its errors."""
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


def test_maps_are_written_alone_where_that_is_asked_for(run, tmp_path):
    assert run(write_picture(tmp_path / "room.jpg"), "--no-overlays")[0] == 0
    assert written(tmp_path) == ["room.npy"]


def test_pictures_of_more_pixels_than_allowed_are_skipped(run, tmp_path):
    pictures = write_picture(tmp_path / "large.png"), write_picture(tmp_path / "small.png", size=(32, 64))
    status, _, err = run(*pictures, "--max-pixels", 64 * 128 - 1)
    assert status == 1
    assert "large.png is 128 x 64 pixels; expected at most 8191; reduce it, or raise max_pixels" in err
    assert written(tmp_path) == ["small.npy", "small_overlay.png"]
    assert run(*pictures, "--max-pixels", 64 * 128)[0] == 0


def test_a_missing_reader_of_videos_is_missed_before_any_picture_is_predicted(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "clip.mp4").write_bytes(b"")
    status, _, err = run(write_picture(tmp_path / "room.jpg"), tmp_path / "clip.mp4")
    assert status == 2
    assert err.startswith('error: the Python module av is missing; pip install ".[replay]"')
    assert not (tmp_path / "out").exists()


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
    for line, path in zip(lines, (broken, tmp_path / "none.jpg", empty, square), strict=True):
        assert line.startswith(f"skipped a picture: {path}")
        assert line.count(str(path)) == 1
    assert "64 x 64" in lines[3]
    assert "1 of 5 maps" in out
    assert written(tmp_path) == ["good.npy", "good_overlay.png"]


def test_the_line_about_a_file_is_one_line_and_leaves_the_terminal_alone(run, tmp_path):
    for name in ("two\nlines.jpg", "red\x1b[31m.jpg", "\u009b31m.jpg"):
        (tmp_path / name).write_bytes(b"no picture")
        status, _, err = run(tmp_path / name)
        assert status == 1
        assert err.count("\n") == 1
        assert err.removesuffix("\n").isprintable()
        assert name.split(".")[0].translate({10: " ", 0x1B: r"\x1b", 0x9B: r"\x9b"}) in err


def test_pictures_of_the_same_name_do_not_overwrite_each_other(run, tmp_path):
    first = write_picture(tmp_path / "a" / "room.png", seed=1)
    second = write_picture(tmp_path / "b" / "room.png", seed=2)
    status, _, err = run(first, second)
    assert status == 0
    assert f"{second} is written as room_2" in err
    maps = [np.load(tmp_path / "out" / f"{name}.npy") for name in ("room", "room_2")]
    assert not np.array_equal(*maps)


def test_every_picture_has_a_unique_name():
    assert list(predict.unique_names(["x", "x", "x_2", "x"])) == ["x", "x_2", "x_2_2", "x_3"]


def test_the_times_of_a_video_do_not_overwrite_the_map_of_a_picture(run, tmp_path):
    clip, picture = write_clip(tmp_path / "ride.avi"), write_picture(tmp_path / "ride_stamps.png")
    for first, second, renamed in ((clip, picture, "ride_stamps_2"), (picture, clip, "ride_2")):
        status, _, err = run(first, second)
        assert status == 0
        assert f"{second} is written as {renamed}, because {second.stem} is already used" in err
    assert np.load(tmp_path / "out" / "ride_stamps.npy").ndim == 2
    assert np.load(tmp_path / "out" / "ride_stamps_2.npy").ndim == 2


def test_pictures_of_subfolders_that_are_renamed_are_reported(run, tmp_path):
    first, second = (
        write_picture(tmp_path / "a" / "sub" / "room.png"),
        write_picture(tmp_path / "b" / "sub" / "room.png"),
    )
    status, _, err = run(tmp_path / "a", tmp_path / "b", "--recursive")
    assert status == 0
    assert err == f"{second} is written as sub/room_2, because sub/room is already used\n"
    assert first.exists()


def test_each_link_to_a_picture_gets_its_map(run, tmp_path):
    write_picture(tmp_path / "in" / "frame1.png")
    (tmp_path / "in" / "frame2.png").symlink_to("frame1.png")
    status, out, _ = run(tmp_path / "in")
    assert (status, "2 of 2 maps" in out) == (0, True)
    assert {"frame1.npy", "frame2.npy"} <= set(written(tmp_path))


def test_links_that_lead_nowhere_are_named_and_skipped(run, tmp_path):
    for name, target in (("round.jpg", "round.jpg"), ("gone.jpg", "nothing.jpg")):
        (tmp_path / name).symlink_to(target)
        status, _, err = run(tmp_path / name)
        assert (status, err.count("\n")) == (1, 1)
        assert err.startswith("skipped a picture: ")
        assert name in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_stopped_leaves_no_unfinished_files(tmp_path, tiny_model, number):
    clip = write_clip(tmp_path / "clip.avi", 3)
    script = (
        "import os, sys, time\n"
        "from sal360.cli import main, predict\n"
        "def stopped(*_):\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    time.sleep(60)\n"
        "predict.equirectangular_view = stopped\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    model = ["--model", tiny_model, "--backend", "onnxruntime", "--device", "cpu"]
    command = [sys.executable, "-c", script, "predict", clip, "--output", tmp_path / "out", *model]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (128 + number, "")
    assert written(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (
            ["--model", "permisive"],
            "there is no model file permisive; check the path, or name a bundled model: all or permissive",
        ),
        (["--threads", "-3"], "threads is -3"),
        (["--prior-strength", "-1"], "prior_strength is -1"),
        (["--front-strength", "5"], "argument --front-strength: 5 is not a value from 0 to 4"),
        (["--device", "tpu"], "device is 'tpu'"),
    ],
)
def test_a_wrong_option_gives_a_one_line_error_and_status_2(run, tmp_path, arguments, named):
    status, _, err = run(write_picture(tmp_path / "room.png"), *arguments)
    assert status == 2
    (line,) = err.splitlines()
    assert line.startswith(f"error: {named}")


def test_a_folder_without_pictures_gives_a_one_line_error_and_status_2(run, tmp_path):
    (tmp_path / "in").mkdir()
    status, _, err = run(tmp_path / "in")
    assert status == 2
    assert len(err.splitlines()) == 1


def test_an_output_that_cannot_be_made_gives_a_one_line_error_and_status_2(run, tmp_path):
    (tmp_path / "out").write_text("a file where the folder should be")
    status, _, err = run(write_picture(tmp_path / "room.png"))
    assert status == 2
    assert len(err.splitlines()) == 1


def test_results_beside_the_pictures_are_not_taken_for_pictures(run, tmp_path):
    write_picture(tmp_path / "out" / "room.jpg")
    for _ in range(3):
        status, out, err = run(tmp_path / "out")
        assert (status, err) == (0, "")
        assert "1 of 1 maps" in out
    assert written(tmp_path) == ["room.jpg", "room.npy", "room_overlay.png"]
    status, out, _ = run(*(tmp_path / "out").glob("*.[jp]*g"))  # as a shell expands a wildcard
    assert (status, "1 of 1 maps" in out) == (0, True)


def test_hidden_files_and_thumbnails_are_left_out(run, tmp_path):
    for name in ("room.jpg", "._room.jpg", ".hidden.png", "@eaDir/room.jpg", ".thumbnails/room.png"):
        write_picture(tmp_path / "in" / name)
    status, out, err = run(tmp_path / "in")
    assert (status, err) == (0, "")
    assert "1 of 1 maps" in out


def test_subfolders_are_reported_or_searched(run, tmp_path):
    for name in ("room.jpg", "sub/room.jpg", "sub/deep/hall.png"):
        write_picture(tmp_path / "in" / name)
    status, out, err = run(tmp_path / "in")
    assert status == 0
    assert "1 of 1 maps" in out
    assert f"left out of {tmp_path / 'in'}: pictures in subfolders" in err
    assert "add --recursive" in err
    status, out, err = run(tmp_path / "in", "--recursive")
    assert (status, err) == (0, "")
    assert "3 of 3 maps" in out
    for name in ("room", "sub/room", "sub/deep/hall"):
        assert np.load(tmp_path / "out" / f"{name}.npy").shape == (16, 32)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("sub/room.jpg", "add --recursive to search subfolders"),
        ("clip.mp4", "name videos one by one"),
        ("phone.heic", "convert pictures to JPEG or PNG"),
    ],
)
def test_a_folder_whose_pictures_are_all_left_out_gives_a_one_line_error_with_its_remedy(run, tmp_path, name, remedy):
    path = tmp_path / "in" / name
    path.parent.mkdir(parents=True)
    path.touch()
    status, out, err = run(tmp_path / "in")
    assert (status, out) == (2, "")
    assert err.startswith(f"error: the folder {tmp_path / 'in'} has no pictures, but ")
    assert err.endswith(f"(such as {path}); {remedy}\n")


def test_formats_that_are_left_out_are_reported(run, tmp_path):
    write_picture(tmp_path / "in" / "room.jpg")
    (tmp_path / "in" / "phone.heic").touch()
    (tmp_path / "in" / "clip.mp4").touch()
    status, _, err = run(tmp_path / "in")
    assert status == 0
    assert "phone.heic" in err
    assert "clip.mp4" in err
    assert err.count("\n") == 1


def test_frames_of_another_kind_have_equirectangular_maps_and_overlays(run, tmp_path):
    status, _, err = run(write_picture(tmp_path / "cube.png", size=(80, 120)), "--camera", "cubemap:faces=unity")
    assert (status, err) == (0, "")
    assert np.load(tmp_path / "out" / "cube.npy").shape == (16, 32)
    height, width = cv2.imread(str(tmp_path / "out" / "cube_overlay.png")).shape[:2]
    assert width == 2 * height
    assert 120 < width < 240  # as fine as four faces of 40 pixels side by side
    status, _, err = run(tmp_path / "cube.png")
    assert status == 1
    assert "cube.png: the frame is 120 x 80; expected a width of twice the height" in err
    assert "this looks like a cube map or an equi-angular cube (model: cubemap or eac)" in err


def test_the_part_of_the_sphere_in_a_pictures_metadata_is_used(run, tmp_path):
    tags = {"FullPanoWidthPixels": 240, "FullPanoHeightPixels": 120, "CroppedAreaImageWidthPixels": 120,
            "CroppedAreaImageHeightPixels": 60, "CroppedAreaLeftPixels": 0, "CroppedAreaTopPixels": 30}  # fmt: skip
    packet = b"http://ns.adobe.com/xap/1.0/\0<x " + b" ".join(
        b'GPano:%s="%d"' % (n.encode(), v) for n, v in tags.items()
    )
    jpeg = cv2.imencode(".jpg", np.full((60, 120, 3), 120, np.uint8))[1].tobytes()
    segment = b"\xff\xe1" + (len(packet) + 2).to_bytes(2, "big") + packet
    (tmp_path / "part.jpg").write_bytes(jpeg[:2] + segment + jpeg[2:])
    assert run(tmp_path / "part.jpg")[0] == 0
    density = np.load(tmp_path / "out" / "part.npy")
    assert (density[:3] == 0).all()
    assert (density[:, 17:] == 0).all()
    assert (density[5:11, :15] > 0).all()


@pytest.mark.parametrize(
    ("camera", "named"),
    [
        ("pinhole", "the camera is 'pinhole', which is neither a file nor known; choose a model (auto, "),
        ("absent.yaml", "the calibration cannot be read: no such file or folder (absent.yaml)"),
        ("fisheye:zoom=2", "has the setting 'zoom'"),
        ("fisheye:fov_deg=wide", "fov_deg is 'wide'; set a number"),
        ("fisheye:fov_deg=300", "fov_deg is 300.0; set it to a value from 10 to 230"),
        ("cubemap:fov_deg=100", "which is not used for the model cubemap"),
        ("cubemap:layout=2x3", "layout is '2x3'; set it to auto, side_by_side, stacked, 3x2,"),
        ("insta360_x3:fov_deg=200", "which is not used for the preset insta360_x3; remove fov_deg, or set model"),
        ("auto:eye=right", "eye is 'right', and stereo is none; set stereo, or remove eye"),
        ("cubemap:faces=unreal", "faces is 'unreal'; choose one of ffmpeg"),
        ("equirectangular:left_deg=-170,right_deg=170", "set left_deg above right_deg"),
        ("equirectangular:top_deg=-40,bottom_deg=40", "set top_deg above bottom_deg"),
        ("gear_360:fov_deg=190", "fov_deg is 190.0, which is not used for the preset gear_360"),
        ("fisheye:fov_deg=180,fov_deg=190", "has fov_deg twice; set it once"),
        (
            "outside.yaml",
            "outside.yaml: lens 1 has its centre at (150, 31), outside the frame of 128 x 64; correct the centre",
        ),
    ],
)
def test_a_camera_that_does_not_exist_gives_a_one_line_error_before_anything_is_read(
    run, tmp_path, camera, named, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    lens = "{x: 150, y: 31, radius: 30, fov_deg: 190}"
    (tmp_path / "outside.yaml").write_text(f"width: 128\nheight: 64\nlenses: [{lens}]\n")
    status, _, err = run("no_such_picture.png", "--camera", camera)
    assert status == 2
    assert named in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("camera", "size", "named"),
    [
        ("lenses.yaml", (64, 128), "the frame is 128 x 64, and the calibration lenses.yaml is for 640 x 320"),
        ("cubemap", (64, 128), "whose faces in the layout 3x2 would be 42.6667 x 32; expected square faces"),
        ("cubemap:layout=6x1", (64, 128), "expected square faces, a size of 6:1"),
        ("auto:stereo=top_bottom", (65, 65), "its height cannot be halved for two eyes (top_bottom)"),
        ("dual_fisheye", (64, 127), "its width cannot be halved for two lenses"),
        ("gear_360", (72, 128), "the preset gear_360 is for frames of 2:1"),
        ("auto", (64, 64), "looks like stereo top-bottom (stereo: top_bottom) or one fisheye (model: fisheye)"),
    ],
)
def test_frames_that_do_not_fit_the_camera_are_skipped_in_one_line(run, tmp_path, camera, size, named, monkeypatch):
    pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    lens = "{x: 159, y: 159, radius: 150, fov_deg: 190}"
    (tmp_path / "lenses.yaml").write_text(f"width: 640\nheight: 320\nlenses: [{lens}]\n")
    write_picture(tmp_path / "room.png", size)
    write_clip(tmp_path / "clip.avi", 3, (size[1] // 2 * 2, size[0] // 2 * 2))
    is_even = size[0] % 2 == size[1] % 2 == 0  # the codec needs even sizes
    for name in ("room.png", "clip.avi")[: 1 + is_even]:
        status, out, err = run(name, "--camera", camera)
        assert status == 1
        assert named in err
        assert err.count("\n") == 1
        assert "0 of 1 maps" in out
        assert list((tmp_path / "out").glob("*")) == []


def write_clip(path, count=6, size=(128, 64)):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, size)
    assert writer.isOpened()
    random = np.random.default_rng(0)
    for _ in range(count):
        writer.write(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    writer.release()
    return path


def test_a_video_becomes_a_stack_of_maps_and_an_overlay(run, tmp_path, tiny_model):
    from sal360.predictor import Predictor
    from sal360.sources import open_source

    status, out, err = run(write_clip(tmp_path / "drive.2026.avi"))
    assert (status, err) == (0, "")
    assert "6 of 6 maps" in out
    assert written(tmp_path) == ["drive.2026.npy", "drive.2026_overlay.mp4", "drive.2026_stamps.npy"]
    maps = np.load(tmp_path / "out" / "drive.2026.npy")
    assert (maps.shape, maps.dtype) == ((6, 16, 32), np.float32)
    with Predictor(tiny_model, backend="onnxruntime", device="cpu") as predictor:
        for density, frame in zip(maps, open_source(tmp_path / "drive.2026.avi"), strict=True):
            np.testing.assert_array_equal(density, predictor.predict(frame.image, "bgr"))
    np.testing.assert_allclose(np.load(tmp_path / "out" / "drive.2026_stamps.npy"), np.arange(6) / 10, atol=1e-3)
    assert len(list(open_source(tmp_path / "out" / "drive.2026_overlay.mp4"))) == 6


def test_pages_show_pictures_and_some_frames_of_videos(run, tmp_path):
    assert run("--html", write_picture(tmp_path / "room.jpg"), write_clip(tmp_path / "drive.avi", count=60))[0] == 0
    assert written(tmp_path)[:1] == ["drive.html"]
    assert "room.html" in written(tmp_path)

    def names(page):
        text = (tmp_path / "out" / page).read_text()
        return [each["name"] for each in json.loads(text.partition('id="content">')[2].partition("</")[0])["frames"]]

    assert names("room.html") == ["room"]
    shown = [int(each.removeprefix("drive_")) for each in names("drive.html")]
    assert shown == list(range(0, 60, 4))


def test_the_videos_of_a_camera_become_equirectangular(run, tmp_path):
    pytest.importorskip("av")
    write_clip(tmp_path / "clip.mp4", size=(120, 80))
    assert run(tmp_path / "clip.mp4", "--camera", "eac")[0] == 0
    assert np.load(tmp_path / "out" / "clip.npy").shape == (6, 16, 32)


def test_a_cut_video_keeps_the_maps_of_what_can_be_read_and_gives_status_1(run, tmp_path):
    clip = write_clip(tmp_path / "clip.avi", 20)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    status, out, err = run(clip)
    assert status == 1
    assert f"skipped a video: {clip} is cut off after " in err
    maps = np.load(tmp_path / "out" / "clip.npy")
    assert 0 < len(maps) < 20
    assert f"{len(maps)} of {len(maps) + 1} maps" in out


def test_a_video_of_larger_frames_than_allowed_is_refused(run, tmp_path):
    clip = write_clip(tmp_path / "clip.avi")
    status, _, err = run(clip, "--max-pixels", 64 * 128 - 1)
    assert status == 1
    assert "are 128 x 64; expected at most 8191 pixels; reduce them, or raise max_pixels" in err
    assert run(clip, "--max-pixels", 64 * 128)[0] == 0


@pytest.mark.parametrize("content", ["", "no video", "square"])
def test_a_video_without_a_usable_frame_is_skipped_and_leaves_nothing(run, tmp_path, content):
    clip = tmp_path / "clip.avi"
    write_clip(clip, size=(64, 64)) if content == "square" else clip.write_text(content)
    status, out, err = run(clip)
    assert status == 1
    assert err.startswith("skipped a video: ")
    assert err.count(str(clip)) == 1
    assert "0 of 1 maps" in out
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_a_bag_gives_a_one_line_error_that_names_the_command_for_it(run, tmp_path):
    (tmp_path / "run.mcap").touch()
    status, _, err = run(tmp_path / "run.mcap")
    assert status == 2
    assert "run.mcap is a bag; run `sal360 evaluate`" in err


def test_a_full_disk_gives_a_one_line_error_that_names_the_file(run, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sal360.cli.video_maps.np.save", fail)
    status, _, err = run(write_picture(tmp_path / "room.png"))
    assert status == 2
    assert err.startswith("error: the disk is full (")
    assert err.count("\n") == 1
    assert str(tmp_path / "out") in err
    assert written(tmp_path) == []


def test_a_reader_that_went_away_does_not_matter(tmp_path, tiny_model):
    picture = write_picture(tmp_path / "room.png")
    command = [sys.executable, "-m", "sal360", "predict", picture, "--model", tiny_model, "--backend", "onnxruntime"]
    for name, closing in (("piped", "| true"), ("no_err", "2>&-"), ("no_out", ">&-")):
        shell = f"set -o pipefail; {shlex.join(map(str, [*command, '--output', tmp_path / name]))} {closing}"
        ended = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stderr) == (0, ""), name
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["room.npy", "room_overlay.png"]


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_the_maps_of_a_video_can_be_one_archive_with_their_times(run, tmp_path, kind):
    clip = write_clip(tmp_path / "ride.avi")
    assert run(clip)[0] == 0
    expected, stamps_s = (np.load(tmp_path / "out" / name) for name in ("ride.npy", "ride_stamps.npy"))
    shutil.rmtree(tmp_path / "out")
    status, out, err = run(clip, "--maps", "npz", "--maps-type", kind)
    assert (status, err) == (0, "")
    assert "6 of 6 maps" in out
    assert written(tmp_path) == ["ride.npz", "ride_overlay.mp4"]
    with np.load(tmp_path / "out" / "ride.npz") as archive:
        assert sorted(archive) == ["maps", "stamps_s"]
        assert archive["maps"].dtype == kind
        np.testing.assert_array_equal(archive["maps"], expected.astype(kind))
        np.testing.assert_array_equal(archive["stamps_s"], stamps_s)


def test_the_maps_of_a_video_can_be_a_grey_video_that_keeps_them_exactly(run, tmp_path):
    av = pytest.importorskip("av")
    from sal360.outputs.overlay import saliency_to_mono8

    clip = write_clip(tmp_path / "ride.avi")
    assert run(clip)[0] == 0
    expected, stamps_s = (np.load(tmp_path / "out" / name) for name in ("ride.npy", "ride_stamps.npy"))
    shutil.rmtree(tmp_path / "out")
    status, _, err = run(clip, "--maps", "video", "--full-scale", 3)
    assert (status, err) == (0, "")
    assert written(tmp_path) == ["ride_maps.mkv", "ride_overlay.mp4", "ride_stamps.npy"]
    with av.open(str(tmp_path / "out" / "ride_maps.mkv")) as video:
        said = {key.lower(): value for key, value in video.metadata.items()}
        frames = list(video.decode(video=0))
    assert said["comment"] == "density relative to uniform = value / 255 * 3"
    shown = np.stack([frame.to_ndarray(format="gray") for frame in frames])
    np.testing.assert_array_equal(shown, np.stack([saliency_to_mono8(density, 3.0) for density in expected]))
    np.testing.assert_allclose([frame.time for frame in frames], stamps_s, atol=2e-3)


def test_earlier_results_in_any_form_are_not_taken_for_videos(run, tmp_path):
    (tmp_path / "out").mkdir()
    write_clip(tmp_path / "out" / "ride.avi")
    for form in ("npy", "npz", "video"):
        status, out, err = run(*(tmp_path / "out").glob("*.[am][vpk]*"), "--maps", form)
        assert (status, err) == (0, "")
        assert "6 of 6 maps" in out


def test_an_archive_of_a_cut_video_holds_what_could_be_read(run, tmp_path):
    clip = write_clip(tmp_path / "clip.avi", 20)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    assert run(clip, "--maps", "npz")[0] == 1
    with np.load(tmp_path / "out" / "clip.npz") as archive:
        assert 0 < len(archive["maps"]) == len(archive["stamps_s"]) < 20


@pytest.fixture
def live():
    """What makes live streams for tests; it needs PyAV."""
    pytest.importorskip("av")
    from tests import live_streams

    return live_streams


def test_a_live_stream_becomes_maps_with_their_times(run, tmp_path, live):
    port = live.free_port(socket.SOCK_DGRAM)
    with live.Sender(f"udp://127.0.0.1:{port}?pkt_size=1316", "mpegts"):
        status, out, err = run(f"udp://127.0.0.1:{port}", "--seconds", 1, "--wait", 60)
    assert status == 0
    assert err == f"udp://127.0.0.1:{port} sends 128 x 64\n"
    name = f"127.0.0.1_{port}"
    assert written(tmp_path) == [f"{name}.npy", f"{name}_overlay.mp4", f"{name}_stamps.npy"]
    maps, stamps_s = np.load(tmp_path / "out" / f"{name}.npy"), np.load(tmp_path / "out" / f"{name}_stamps.npy")
    assert len(maps) == len(stamps_s) > 0
    assert f"{len(maps)} of {len(maps)} maps" in out
    assert (np.diff(stamps_s) > 0).all()
    assert abs(stamps_s[-1] - time.time()) < 3600


def test_a_stream_that_does_not_come_or_refuses_the_password_is_skipped_in_one_line(run, live):
    url = f"rtsp://127.0.0.1:{live.free_port()}/live"
    status, out, err = run(url, "--wait", 0.5)
    assert status == 1
    assert err.splitlines()[-1] == (
        f"skipped a stream: {url} refuses connections; start the camera or server, or correct the port"
    )
    assert "0 of 1 maps" in out
    answer = b'RTSP/1.0 401 Unauthorized\r\nCSeq: @\r\nWWW-Authenticate: Basic realm="cam"\r\n\r\n'
    with live.Answers(answer) as server:
        status, out, err = run(f"rtsp://admin:geheim@127.0.0.1:{server.port}/live")
    assert status == 1
    assert err.count("\n") == 1
    assert "refuses the user name and password" in err
    assert "geheim" not in out + err


def test_what_is_no_address_is_an_error_without_the_password(run):
    status, _, err = run("rtps://admin:geheim@host/live")
    assert status == 2
    assert err.startswith("error: rtps://***@host/live is no address of a stream; expected rtsp://HOST/PATH")


@pytest.mark.parametrize("has_frames", [False, True])
def test_ctrl_c_ends_a_stream_and_keeps_its_maps(tmp_path, tiny_model, live, has_frames):
    port = live.free_port(socket.SOCK_DGRAM) if has_frames else live.free_port()
    url = f"{'udp' if has_frames else 'tcp'}://127.0.0.1:{port}"
    command = [sys.executable, "-m", "sal360", "predict", url, "--model", tiny_model, "--backend", "onnxruntime"]
    command += ["--output", tmp_path / "out", "--wait", "3600"]
    sender = live.Sender(f"{url}?pkt_size=1316", "mpegts") if has_frames else contextlib.nullcontext()
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE}
    with sigint_of_children(), sender, subprocess.Popen(list(map(str, command)), **pipes) as started:
        line = started.stderr.readline().decode()
        assert ("sends 128 x 64" if has_frames else "refuses connections") in line
        if has_frames:
            live.wait_for(
                lambda: any(path.stat().st_size > 10**4 for path in (tmp_path / "out").glob(".*.npy")), "maps"
            )
        started.send_signal(signal.SIGINT)
        try:
            out, err = started.communicate(timeout=60)
        finally:
            started.kill()  # the end of the block waits for it
    assert started.returncode == 130
    assert b"Traceback" not in err
    name = f"127.0.0.1_{port}"
    if has_frames:
        assert written(tmp_path) == [f"{name}.npy", f"{name}_overlay.mp4", f"{name}_stamps.npy"]
        maps = np.load(tmp_path / "out" / f"{name}.npy")
        assert len(maps) == len(np.load(tmp_path / "out" / f"{name}_stamps.npy")) > 0
        assert f"{len(maps)} of {len(maps)} maps" in out.decode()
    else:
        assert err == b"interrupted\n"
        assert written(tmp_path) == []
