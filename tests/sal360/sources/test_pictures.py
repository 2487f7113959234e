from __future__ import annotations

import errno
import itertools
import math
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sal360.errors import DataError, FrameError, ParameterError
from sal360.projection import rotate_erp
from sal360.samples import bundled_panoramas
from sal360.sources import open_source
from sal360.sources.pictures import look_into, panned, pictures_in
from sal360.sphere import rotation_yaw_pitch_roll


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures whose natural order is not that of their letters, each of one grey."""
    for name, grey in (("pano10.png", 100), ("pano9.png", 50), ("Pano1.png", 10)):
        cv2.imwrite(str(tmp_path / name), np.full((16, 32, 3), grey, np.uint8))
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_a_folder_is_read_in_natural_order_with_stamps_at_the_rate(folder: Path) -> None:
    frames = list(open_source(folder, rate_hz=10))
    assert [frame.name for frame in frames] == ["Pano1", "pano9", "pano10"]
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [10, 50, 100]
    np.testing.assert_allclose([frame.stamp_s for frame in frames], [0, 0.1, 0.2])


def test_pictures_are_held_and_looped(folder: Path) -> None:
    frames = list(itertools.islice(open_source(folder, rate_hz=4, hold_s=0.5, loop=True), 8))
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [10, 10, 50, 50, 100, 100, 10, 10]
    np.testing.assert_allclose([frame.stamp_s for frame in frames], np.arange(8) / 4)
    assert len({frame.name for frame in frames}) == 8


def test_a_picture_is_one_frame_and_in_a_loop_endless(folder: Path) -> None:
    assert len(list(open_source(folder / "pano9.png"))) == 1
    assert len(list(itertools.islice(open_source(folder / "pano9.png", loop=True), 50))) == 50


def test_panning_equals_a_turn_of_the_camera() -> None:
    erp = cv2.resize(cv2.imread(str(bundled_panoramas() / "city.jpg")), (256, 128), interpolation=cv2.INTER_AREA)
    for yaw_rad in (0.0, 0.3, -2.0, math.pi, 7.0):
        turned = rotate_erp(erp, rotation_yaw_pitch_roll(yaw_rad=-yaw_rad))  # the scene turns against the camera
        difference = np.abs(panned(erp, yaw_rad).astype(int) - turned)
        assert np.quantile(difference, 0.999) <= 3  # rotate_erp interpolates in steps of 1/32 of a pixel


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(8, 12), (8, 13, 3), (8, 1), (8, 2, 3)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("yaw_rad", [1e-9, 0.4, -3.0])
def test_panning_is_a_mean_of_neighbouring_columns_of_any_array(dtype, shape, order, yaw_rad) -> None:
    values = np.asarray(np.random.default_rng(0).integers(0, 200, shape), dtype, order=order)
    shift_px = yaw_rad / (2 * math.pi) * shape[1]
    expected = np.zeros(shape)
    for column in range(shape[1]):
        left = math.floor(column - shift_px)
        share = column - shift_px - left
        expected[:, column] = (1 - share) * values[:, left % shape[1]] + share * values[:, (left + 1) % shape[1]]
    np.testing.assert_allclose(panned(values, yaw_rad), expected, atol=0.51 if dtype == np.uint8 else 1e-4)


def test_a_panned_picture_turns_at_the_rate_and_comes_round(tmp_path: Path) -> None:
    erp = np.zeros((32, 64, 3), np.uint8)
    erp[:, 32] = 255  # straight ahead
    cv2.imwrite(str(tmp_path / "mark.png"), erp)
    frames = list(open_source(tmp_path / "mark.png", rate_hz=16, hold_s=1, yaw_rate_rad_s=2 * math.pi))
    columns = [int(frame.image[16, :, 0].argmax()) for frame in frames]
    # a turn to the left moves what was ahead to the right: four columns a frame, through the seam
    assert columns == [(32 + 4 * i) % 64 for i in range(16)]


def test_pictures_are_scaled_before_they_are_panned(folder: Path) -> None:
    (frame,) = open_source(folder / "pano9.png", height_px=8, yaw_rate_rad_s=1)
    assert frame.image.shape == (8, 16, 3)


def test_an_unreadable_picture_is_raised_or_reported_and_skipped(folder: Path) -> None:
    (folder / "pano2.jpg").write_bytes(b"\xff\xd8\xff nothing")
    with pytest.raises(FrameError, match=r"pano2\.jpg is damaged or cut short"):
        list(open_source(folder))
    told: list[str] = []
    assert len(list(open_source(folder, on_bad_frame=lambda _, name: told.append(name)))) == 3
    assert told == ["pano2.jpg"]


@pytest.mark.parametrize("loop", [True, False])
def test_nothing_but_unreadable_pictures_is_an_error_with_the_reason(tmp_path: Path, loop: bool) -> None:
    (tmp_path / "a.png").write_bytes(b"no")
    with pytest.raises(DataError, match=r"^\S*/a\.png starts with bytes 6e 6f; .*; convert it to JPEG or PNG$"):
        list(open_source(tmp_path, loop=loop, on_bad_frame=lambda *_: None))
    (tmp_path / "b.png").touch()
    with pytest.raises(DataError, match=r"^none of 2 pictures can be used; the last: \S*/b\.png is empty; replace or"):
        list(open_source(tmp_path, loop=loop, on_bad_frame=lambda *_: None))


def test_an_invalid_source_gives_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    (tmp_path / "model.bin").write_bytes(b"?")
    with pytest.raises(DataError, match="cannot be opened as a video"):
        open_source(tmp_path / "clip.mp4")
    with pytest.raises(DataError, match="not recognised as a picture, video, bag or folder"):
        open_source(tmp_path / "model.bin")
    with pytest.raises(DataError, match=r"absent\.mp4 does not exist"):
        open_source(tmp_path / "absent.mp4")


@pytest.mark.parametrize("option", [{"rate_hz": 0}, {"rate_hz": math.nan}, {"hold_s": -1}, {"height_px": -2}])
def test_options_out_of_range_are_refused(option: dict[str, float]) -> None:
    with pytest.raises(ParameterError):
        open_source(bundled_panoramas(), **option)  # type: ignore[arg-type]


@pytest.fixture
def cluttered(tmp_path: Path) -> Path:
    """Two pictures among files that devices, operating systems and this project leave in folders."""
    picture = np.full((16, 32, 3), 50, np.uint8)
    pictures = ("2.png", "10.JPG", "._2.png", ".hidden.png", "2_overlay.png", "sub/3.png", "sub/deep/4.png")
    thumbnails = ("@eaDir/2.png", ".thumbnails/2.png", "__MACOSX/2.png", "sub/@eaDir/3.png")
    for name in (*pictures, *thumbnails):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), picture)
    for name in ("2.npy", "Thumbs.db", "notes.txt", "clip.mp4", "phone.HEIC"):
        (tmp_path / name).touch()
    return tmp_path


def test_hidden_files_thumbnails_and_overlays_are_not_pictures_of_a_folder(cluttered: Path) -> None:
    assert [path.name for path in pictures_in(cluttered)] == ["2.png", "10.JPG"]
    below = [str(path.relative_to(cluttered)) for path in pictures_in(cluttered, recursive=True)]
    assert below == ["2.png", "10.JPG", "sub/3.png", "sub/deep/4.png"]


def test_files_left_out_of_a_folder_are_reported(cluttered: Path) -> None:
    told = look_into(cluttered).left_out()
    for text in ("pictures in subfolders (such as ", "sub/3.png", "phone.HEIC", "clip.mp4"):
        assert text in told
    assert "subfolders" not in look_into(cluttered, recursive=True).left_out()
    named: list[str] = []
    assert len(list(open_source(cluttered, on_bad_frame=lambda _, name: named.append(name)))) == 2
    assert named == ["phone.HEIC"]


def test_an_overlay_alone_is_a_picture(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "art_overlay.png"), np.zeros((16, 32, 3), np.uint8))
    assert len(pictures_in(tmp_path)) == 1


def test_a_folder_of_folders_says_where_the_pictures_are(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    cv2.imwrite(str(tmp_path / "sub" / "room.png"), np.zeros((16, 32, 3), np.uint8))
    with pytest.raises(DataError, match=r"has no pictures, but pictures in subfolders \(such as .*room\.png\)"):
        pictures_in(tmp_path)


def test_linked_folders_are_searched_once_and_a_loop_ends(tmp_path: Path) -> None:
    real, folder = tmp_path / "real", tmp_path / "set"
    real.mkdir()
    folder.mkdir()
    cv2.imwrite(str(real / "room.png"), np.zeros((16, 32, 3), np.uint8))
    (folder / "linked").symlink_to(real)
    (folder / "linked again").symlink_to(real)
    (real / "round").symlink_to(folder)
    assert [path.name for path in pictures_in(folder, recursive=True)] == ["room.png"]
    assert len(look_into(folder).in_subfolders) == 1


def test_a_subfolder_that_cannot_be_read_is_an_error_if_it_is_to_be_searched(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "locked").mkdir()
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if os.fspath(path) == str(folder / "locked"):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert len(pictures_in(folder)) == 3
    with pytest.raises(PermissionError, match="locked"):
        pictures_in(folder, recursive=True)
    with pytest.raises(PermissionError, match="locked"):
        look_into(folder / "locked")


def test_a_folder_of_pictures_may_be_named_like_a_video(folder: Path) -> None:
    renamed = folder.rename(folder.with_name("session.ts"))
    assert len(list(open_source(renamed))) == 3


@pytest.mark.parametrize("name", ["run.mcap", "run.db3", "run.bag", "clip.mp4"])
def test_a_recording_in_a_pipe_is_refused_at_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)  # opening it would block, because nobody writes
    with pytest.raises(DataError, match=f"{name} is a pipe or device; save the recording as a file"):
        open_source(tmp_path / name)
