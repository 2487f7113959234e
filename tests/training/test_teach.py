"""Taught maps: the mean prediction of models for larger pictures, paired by name, learnt outside the photographs."""

from __future__ import annotations

import dataclasses
import io
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sal360.arrays import Reals
from sal360.errors import DataError, ParameterError
from training.checkpoint import IMAGENET, UNRECORDED, Origin, save_checkpoint
from training.data.gaze.datasets import GazeConfig
from training.data.gaze.placed_photographs import PlacedPhotographs, PlacementConfig
from training.data.taught_maps import names_below, read_taught, taught_origin, write_taught
from training.models.prior import row_weights
from training.models.saliency_model import SaliencyModel, SaliencyModelConfig
from training.teach import TeachConfig, teach

MODEL = SaliencyModelConfig(input_height=64, channels=8)


@pytest.fixture
def panoramas(tmp_path: Path) -> Path:
    root = tmp_path / "panoramas"
    (root / "below").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name in ("a.png", "below/b.png"):
        coarse = generator.integers(0, 256, (8, 16, 3)).astype(np.uint8)
        cv2.imwrite(str(root / name), cv2.resize(coarse, (256, 128), interpolation=cv2.INTER_CUBIC))
    return root


@pytest.fixture
def checkpoints(tmp_path: Path) -> tuple[str, ...]:
    paths = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = SaliencyModel(MODEL)
        torch.nn.init.normal_(model.decoder.head.weight)  # type: ignore[union-attr,arg-type]  # else it says "uniform"
        paths.append(str(tmp_path / f"run{seed}"))
        save_checkpoint(paths[-1], 1, model, "saliency", MODEL, {})
    return tuple(paths)


def test_maps_are_the_mean_density_over_models_sizes_and_mirror_images(
    panoramas: Path, checkpoints: tuple[str, ...], tmp_path: Path
) -> None:
    output = str(tmp_path / "taught.npz")
    maps = teach(TeachConfig(checkpoints, str(panoramas), output, heights=(64, 128)))
    assert sorted(maps) == ["a.png", "below/b.png"]
    parts = [
        teach(TeachConfig((checkpoint,), str(panoramas), output, heights=(height,), stride=height // 8))
        for checkpoint in checkpoints
        for height in (64, 128)
    ]
    for name, density in maps.items():
        assert density.shape == (8, 16)
        assert float((torch.from_numpy(density) * row_weights(8)).mean()) == pytest.approx(1, abs=0.05)
        assert density.std() > 0.01
        np.testing.assert_allclose(density, np.mean([part[name] for part in parts], axis=0), rtol=1e-4)


def test_a_mirrored_panorama_gets_the_mirrored_map(
    panoramas: Path, checkpoints: tuple[str, ...], tmp_path: Path
) -> None:
    picture = cv2.imread(str(panoramas / "a.png"))
    assert picture is not None
    cv2.imwrite(str(panoramas / "mirrored.png"), np.ascontiguousarray(picture[:, ::-1]))
    maps = teach(TeachConfig(checkpoints, str(panoramas), str(tmp_path / "taught.npz"), heights=(64,)))
    np.testing.assert_allclose(maps["mirrored.png"], maps["a.png"][:, ::-1], rtol=1e-4)


def test_stored_maps_are_found_by_name_and_averaged_to_size(tmp_path: Path) -> None:
    path = tmp_path / "taught.npz"
    fine = np.arange(32, dtype=np.float32).reshape(4, 8) + 1
    write_taught(path, {"one.png": fine, "two.png": 2 * fine})
    two, one = read_taught(path, ["two.png", "one.png"], (2, 4))
    np.testing.assert_allclose(one, fine.reshape(2, 2, 4, 2).mean(axis=(1, 3)))
    np.testing.assert_allclose(two, 2 * one)


@pytest.mark.parametrize(
    ("maps", "found"),
    [
        ({}, "has no map of one.png"),
        ({"one.png": np.full((2, 4), np.nan)}, "the map of one.png in .* is not a density"),
        ({"one.png": np.zeros((2, 4))}, "is not a density"),
        ({"one.png": np.ones(8)}, "is not a density"),
        ({"one.png": np.ones((0, 4))}, "is not a density"),
        ({"one.png": np.ones((4, 4))}, "is not a density"),
        ({"one.png": np.ones((1, 2))}, "the map of one.png in .* is 1 x 2; expected at least 2 x 4"),
    ],
)
def test_unusable_maps_are_named(tmp_path: Path, maps: dict[str, Reals], found: str) -> None:
    path = tmp_path / "taught.npz"
    write_taught(path, maps)
    with pytest.raises(DataError, match=found):
        read_taught(path, ["one.png"], (2, 4))


def test_maps_are_found_by_names_that_are_not_utf8(tmp_path: Path) -> None:
    names = names_below(tmp_path, [str(tmp_path / "part" / os.fsdecode(b"caf\xe9.jpg")), str(tmp_path / "café.jpg")])
    write_taught(tmp_path / "taught.npz", {name: np.full((2, 4), 1.0 + i) for i, name in enumerate(names)})
    first, second = read_taught(tmp_path / "taught.npz", names, (2, 4))
    assert (first[0, 0], second[0, 0]) == (1, 2)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "taught.npz"
    with pytest.raises(DataError, match=r"taught\.npz does not exist"):
        read_taught(path, ["one.png"], (2, 4))
    write_taught(path, {"one.png": np.random.default_rng(0).random((64, 128), np.float32)})
    whole = path.read_bytes()
    text, list_alone = io.BytesIO(), io.BytesIO()
    np.savez(text, **{"one.png": np.array([["a", "b"]])})
    np.save(list_alone, np.ones((2, 4)))
    damaged = whole[:200] + bytes(100) + whole[300:]
    for content in (b"PK\x03\x04 cut short", whole[:-30], damaged, list_alone.getvalue()):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"taught\.npz cannot be read"):
            read_taught(path, ["one.png"], (2, 4))
    path.write_bytes(text.getvalue())
    with pytest.raises(DataError, match="is not a density"):
        read_taught(path, ["one.png"], (2, 4))


def test_maps_finer_than_a_model_gives_are_refused(
    panoramas: Path, checkpoints: tuple[str, ...], tmp_path: Path
) -> None:
    config = TeachConfig(checkpoints, str(panoramas), str(tmp_path / "taught.npz"), heights=(128, 64), stride=2)
    with pytest.raises(ParameterError, match=r"stride is 2; expected 4 or more, as .*run0 has it"):
        teach(config)


def test_the_smallest_picture_gives_the_maps_size_wherever_it_stands(
    panoramas: Path, checkpoints: tuple[str, ...], tmp_path: Path
) -> None:
    output = str(tmp_path / "taught.npz")
    first, last = (
        teach(TeachConfig(checkpoints, str(panoramas), output, heights=heights)) for heights in ((64, 128), (128, 64))
    )
    assert first["a.png"].shape == last["a.png"].shape == (8, 16)
    np.testing.assert_allclose(first["a.png"], last["a.png"], rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "option"),
    [({"checkpoints": ()}, "checkpoints"), ({"heights": (100,)}, "heights"), ({"output": "maps"}, "output")],
)
def test_settings_out_of_range_are_named(change: dict[str, object], option: str) -> None:
    config = TeachConfig(("run",), "panoramas", "taught.npz")
    with pytest.raises(ParameterError, match=f"{option} is"):
        dataclasses.replace(config, **change)  # type: ignore[arg-type]


def test_maps_are_taught_on_photographs_on_panoramas_alone() -> None:
    with pytest.raises(ParameterError, match="have recorded gaze"):
        GazeConfig("root", dataset="salient360", taught="taught.npz")


def test_the_taught_map_turns_with_its_panorama_and_leaves_the_photographs_out() -> None:
    background = np.zeros((64, 128, 3), np.uint8)
    background[28:36, 40:48] = 255  # one map pixel of stride 8
    taught = np.full((8, 16), 0.1, np.float32)
    taught[3:5, 5] = 5.0
    picture, density = np.full((30, 40, 3), 100, np.uint8), np.ones((15, 20), np.float32)
    config = PlacementConfig(fov_deg=(50.0, 60.0), mean_photographs=1.0, attempts=1, slots=2, exposure=0.0)
    placed = PlacedPhotographs([picture], [density], [background], config, (8, 16), 0, [taught])
    bright, columns = 0, set()
    for epoch in range(60):
        frame, densities, masks = placed[epoch, 0]
        assert densities.shape == masks.shape == (3, 8, 16)
        photographs, rest = masks[:-1].any(axis=0), masks[-1]
        np.testing.assert_array_equal(rest, ~photographs)
        assert not densities[-1][photographs].any()
        white = (frame == 255).all(axis=-1)
        if white.sum() == 64 and rest[3:5].all():
            shown = white.reshape(8, 8, 16, 8).mean(axis=(1, 3))[3:5].sum(axis=0)  # share of each map column, in rows
            np.testing.assert_allclose((densities[-1][3] - 0.1) / 4.9, shown, atol=1e-5)
            bright += 1
            columns.add(int(shown.argmax()))
    assert bright > 5
    assert len(columns) > 3


def test_maps_say_from_what_their_models_learnt(panoramas: Path, checkpoints: tuple[str, ...], tmp_path: Path) -> None:
    gaze = Origin("HAM, gaze on photographs", "none stated")
    save_checkpoint(tmp_path / "known", 1, SaliencyModel(MODEL), "saliency", MODEL, {}, origin=[gaze, IMAGENET])
    output = tmp_path / "taught.npz"
    maps = teach(TeachConfig((str(tmp_path / "known"), checkpoints[0]), str(panoramas), str(output), heights=(64,)))
    assert taught_origin(output) == (gaze, IMAGENET, UNRECORDED)
    write_taught(output, maps)
    assert "does not record" in taught_origin(output)[0].data
