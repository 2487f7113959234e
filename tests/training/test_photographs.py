"""Photographs on disk: read, split and blurred; and the report on an incomplete copy."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sal360.errors import DataError
from training.data.gaze import photographs_with_maps
from training.data.gaze.datasets import GazeConfig, photograph_parts
from training.data.gaze.photographs import size_of
from training.data.gaze.photographs_with_fixations import read_photographs
from training.data.gaze.records import split_folds

WriteOsie = Callable[..., Path]


def test_fixations_go_to_their_photograph(write_osie: WriteOsie) -> None:
    root = write_osie(3, image=[0, 2, 2], x=[10.0, 20.0, 30.0], y=[1.0, 2.0, 3.0], subject=[5, 6, 7])
    photographs = read_photographs(root)
    assert [each.name for each in photographs] == ["1000.jpg", "1001.jpg", "1002.jpg"]
    assert [each.x.tolist() for each in photographs] == [[10.0], [], [20.0, 30.0]]
    assert photographs[2].subject.tolist() == [6, 7]


def test_pictures_are_rgb_and_reduced_by_area(write_osie: WriteOsie) -> None:
    photograph = read_photographs(write_osie(1))[0]
    assert photograph.read().shape == (600, 800, 3)
    small = photograph.read(80)
    assert small.shape == (60, 80, 3)
    assert small[..., 0].mean() > small[..., 2].mean() + 50  # the fixture's pictures are red


def test_density_is_the_slow_sum_of_gaussians(write_osie: WriteOsie) -> None:
    photograph = read_photographs(write_osie(1, image=[0, 0], x=[100.0, 700.0], y=[50.0, 300.0], subject=[0, 1]))[0]
    density = photograph.density(100, sigma_px=24.0)
    row, column = np.mgrid[:600, :800] + 0.5
    slow = sum(np.exp(-((column - x) ** 2 + (row - y) ** 2) / (2 * 24.0**2)) for x, y in ((100, 50), (700, 300)))
    slow = slow.reshape(75, 8, 100, 8).mean(axis=(1, 3))  # the mean over each cell
    np.testing.assert_allclose(density, slow / slow.mean(), rtol=0.01, atol=0.01)


def test_a_coarse_density_keeps_the_gaze_between_its_cells(write_osie: WriteOsie) -> None:
    photograph = read_photographs(write_osie(1, image=[0], x=[399.0], y=[301.0], subject=[0]))[0]
    density = photograph.density(4, sigma_px=3.0)  # cells of 200 pixels; the gaze is far from the middle of each
    assert density[1, 1] > 0.5 * density.sum()


@pytest.mark.parametrize("size", [(300, 800), (500, 200), (31, 17)])
def test_photographs_have_any_size(write_osie: WriteOsie, size: tuple[int, int]) -> None:
    width = size[1]
    root = write_osie(1, image=[0], x=[width - 1.0], y=[1.0], subject=[0], size=size)
    photograph = read_photographs(root)[0]
    assert (photograph.height, photograph.width) == size
    small = photograph.read(10)
    assert max(small.shape[:2]) == 10
    density = photograph.density(10)
    assert density.shape == small.shape[:2]
    assert np.unravel_index(density.argmax(), density.shape) == (0, density.shape[1] - 1)
    assert density.mean() == pytest.approx(1)


def test_maps_stand_for_fixations(write_osie: WriteOsie) -> None:
    root = write_osie(2, size=(60, 90))
    maps = np.zeros((2, 56, 56), np.uint8)
    maps[1, :28] = 200
    np.savez(root / "maps.npz", names=np.array(["1000.jpg", "1001.jpg"]), maps=maps + 1)
    photographs = photographs_with_maps.read_photographs(root)
    density = photographs[1].density(45)
    assert density.shape == (30, 45)
    assert density[:14].mean() > 100 * density[16:].mean()
    np.savez(root / "maps.npz", names=np.array(["1000.jpg", "1001.jpg"]), maps=maps)
    with pytest.raises(DataError, match=r"the map of 1000\.jpg in .* is invalid"):
        photographs_with_maps.read_photographs(root)
    np.savez(root / "maps.npz", names=np.array(["1000.jpg"]), maps=maps)
    with pytest.raises(DataError, match=r"maps of shape \(2, 56, 56\).*expected \(1, h, w\)"):
        photographs_with_maps.read_photographs(root)


def test_density_of_some_subjects_leaves_the_others_out(write_osie: WriteOsie) -> None:
    photograph = read_photographs(write_osie(1, image=[0, 0], x=[100.0, 700.0], y=[50.0, 300.0], subject=[0, 1]))[0]
    density = photograph.density(100, subjects=[1])
    assert np.unravel_index(density.argmax(), density.shape) == (37, 87)


def test_folds_are_a_partition_by_name_and_stay_the_same() -> None:
    names = [f"{i}.jpg" for i in range(11)]
    folds = split_folds(names, 5, seed=3)
    assert sorted(np.concatenate(folds).tolist()) == list(range(11))
    again = split_folds(names, 5, seed=3)
    assert all((a == b).all() for a, b in zip(folds, again, strict=True))
    reversed_names = [{names[::-1][i] for i in fold} for fold in split_folds(names[::-1], 5, seed=3)]
    assert reversed_names == [{names[i] for i in fold} for fold in folds]
    with pytest.raises(DataError, match="4 pictures for 5 folds"):
        split_folds(names[:4], 5, seed=3)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"x": [801.0], "y": [1.0], "image": [0], "subject": [0]}, r"has a fixation at \(801, 1\) in 1000\.jpg"),
        ({"x": [np.nan], "y": [1.0], "image": [0], "subject": [0]}, r"has a fixation at \(nan, 1\) in 1000\.jpg"),
        ({"x": [1.0], "y": [1.0], "image": [4], "subject": [0]}, "fixations on images without a name"),
        ({"x": [1.0, 2.0], "y": [1.0], "image": [0], "subject": [0]}, r"columns of \[1, 2\] rows"),
    ],
)
def test_a_malformed_index_is_named(write_osie: WriteOsie, broken: dict[str, list[float]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_photographs(write_osie(2, **broken))


def test_missing_and_broken_files_are_named(write_osie: WriteOsie, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no .*fixations\.npz"):
        read_photographs(tmp_path / "nowhere")
    root = write_osie(2)
    (root / "stimuli" / "1001.jpg").unlink()
    with pytest.raises(DataError, match=r"there is no .*1001\.jpg"):
        read_photographs(root)
    (root / "fixations.npz").write_bytes((root / "fixations.npz").read_bytes()[:200])
    with pytest.raises(DataError, match=r"fixations\.npz cannot be read"):
        read_photographs(root)
    with zipfile.ZipFile(root / "fixations.npz", "w") as index:
        index.writestr("image.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4' \n\n")  # its header is not closed
    with pytest.raises(DataError, match=r"fixations\.npz cannot be read"):
        read_photographs(root)


def test_half_a_photograph_is_named(write_osie: WriteOsie) -> None:
    root = write_osie(1)
    path = root / "stimuli" / "1000.jpg"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(DataError, match=r"1000\.jpg is damaged or cut short"):
        read_photographs(root)[0].read()


def test_a_picture_of_another_size_is_refused(write_osie: WriteOsie) -> None:
    root = write_osie(1, sizes=True)
    cv2.imwrite(str(root / "stimuli" / "1000.jpg"), np.zeros((60, 80, 3), np.uint8))
    with pytest.raises(DataError, match="is 80 x 60; expected a photograph of 800 x 600"):
        read_photographs(root)[0].read()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("names", np.array("1000.jpg")),
        ("names", np.array([1000, 1001])),
        ("image", np.array([0.5, 1])),
        ("image", np.array(["0", "1"])),
        ("x", np.array(["1", "2"])),
        ("x", np.array([[1.0], [2.0]])),
        ("y", np.array([1j, 2])),
        ("subject", np.array([0, np.inf])),
        ("size_hw", np.array([["60", "80"], ["60", "80"]])),
        ("duration_ms", np.array(["a", "b"])),
    ],
)
def test_a_column_of_another_type_or_shape_is_named(write_osie: WriteOsie, name: str, values: NDArray[Any]) -> None:
    root = write_osie(2, image=[0, 1], x=[1.0, 2.0], y=[1.0, 2.0], subject=[0, 1])
    with np.load(root / "fixations.npz") as table:
        columns = dict(table)
    np.savez(root / "fixations.npz", **{**columns, name: values})
    with pytest.raises(DataError, match=rf"fixations\.npz has {name} of type .*; write it as docs/gaze_data\.md"):
        read_photographs(root)


@pytest.mark.parametrize("maps", [np.full((2, 8, 8), "a"), np.full((2, 8, 8), 1j), np.ones((2, 0, 8)), np.ones(2)])
def test_maps_of_another_type_or_shape_are_named(write_osie: WriteOsie, maps: NDArray[Any]) -> None:
    root = write_osie(2)
    np.savez(root / "maps.npz", names=np.array(["1000.jpg", "1001.jpg"]), maps=maps)
    with pytest.raises(DataError, match=r"maps\.npz has maps of "):
        photographs_with_maps.read_photographs(root)


def test_a_picture_that_is_named_twice_would_be_trained_on_and_measured(write_osie: WriteOsie) -> None:
    root = write_osie(1)
    for index, read in (("fixations", read_photographs), ("maps", photographs_with_maps.read_photographs)):
        with np.load(root / "fixations.npz") as table:
            columns = dict(table)
        names = np.array(["1000.jpg", "1000.jpg"])
        np.savez(root / f"{index}.npz", **{**columns, "names": names, "maps": np.ones((2, 8, 8))})
        with pytest.raises(DataError, match=rf"{index}\.npz names 1000\.jpg twice"):
            read(root)


def test_photographs_that_nobody_looked_at_are_left_out_and_counted(
    write_osie: WriteOsie, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_osie(5, image=[0, 1, 3, 4], x=[1.0] * 4, y=[1.0] * 4, subject=[0] * 4)
    kept, others = photograph_parts(GazeConfig(str(root), panoramas="panoramas", folds=2))
    assert sorted(each.name for each in (*kept, *others)) == ["1000.jpg", "1001.jpg", "1003.jpg", "1004.jpg"]
    assert "osie, left out: photographs without gaze: 1" in capsys.readouterr().err
    with pytest.raises(DataError, match="has no photograph with gaze"):
        photograph_parts(GazeConfig(str(write_osie(2, folder="none")), panoramas="panoramas"))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_the_size_of_a_photograph_is_that_of_the_upright_picture(write_osie: WriteOsie, suffix: str) -> None:
    root = write_osie(1)
    name = f"turned{suffix}"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 40)).save(root / "stimuli" / name, exif=exif)
    with np.load(root / "fixations.npz") as table:
        columns = dict(table)
    np.savez(root / "fixations.npz", **{**columns, "names": np.array([name])})
    photograph = read_photographs(root)[0]
    assert photograph.read().shape == (photograph.height, photograph.width, 3)
    assert size_of(root / "stimuli" / name) == cv2.imread(str(root / "stimuli" / name)).shape[:2]


def test_a_photograph_in_another_format_or_too_large_is_not_to_be_copied_again(write_osie: WriteOsie) -> None:
    root = write_osie(1, sizes=True)
    path = root / "stimuli/1000.jpg"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(DataError, match=r"HEI.*; convert it to JPEG or PNG$"):
        read_photographs(root)[0].read()
    Image.new("RGB", (80, 60)).save(path, "PNG")
    content = bytearray(path.read_bytes())
    content[16:24] = (65534).to_bytes(4, "big") * 2
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"is 65534 x 65534 pixels; .*; reduce it$"):
        read_photographs(root)[0].read()
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"is empty; copy the data set again$"):  # the index names it: it must stay
        read_photographs(root)[0].read()
