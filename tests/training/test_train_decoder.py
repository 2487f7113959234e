"""Decoder training end to end on a tiny data set: it learns, keeps, measures and draws."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from sal360.arrays import Density, Mask, Pixels
from sal360.errors import CheckpointError, DataError, ParameterError
from training.average import AverageConfig, average
from training.checkpoint import IMAGENET, PANORAMAS, UNRECORDED, Origin, read_header, save_checkpoint
from training.data.gaze.datasets import Gaze, GazeConfig, PhotographGaze, Predict
from training.data.gaze.placed_photographs import PlacementConfig
from training.data.loader import Key
from training.data.taught_maps import write_taught
from training.loop import LoopConfig, make_fabric, train
from training.models.saliency_model import SaliencyModel, SaliencyModelConfig
from training.optimiser import OptimiserConfig, make_optimiser
from training.pictures import write_predictions, write_views
from training.saliency_task import print_figures
from training.train_decoder import DecoderTask, TrainDecoderConfig, train_decoder

WriteOsie = Callable[..., Path]


@pytest.fixture
def tiny(tmp_path: Path, write_osie: WriteOsie) -> TrainDecoderConfig:
    """Photographs that are dark but for one bright square, which everybody looks at, on grey panoramas."""
    generator = np.random.default_rng(0)
    count = 6
    x, y = generator.uniform(150, 650, count), generator.uniform(150, 450, count)
    image = np.repeat(np.arange(count), 3)
    root = write_osie(count, image=image, x=x[image], y=y[image], subject=np.tile([0, 1, 2], count))
    for i in range(count):
        picture = np.full((600, 800, 3), 30, np.uint8)
        cv2.rectangle(picture, (int(x[i]) - 80, int(y[i]) - 80), (int(x[i]) + 80, int(y[i]) + 80), (250, 250, 250), -1)
        cv2.imwrite(str(root / "stimuli" / f"{1000 + i}.jpg"), picture)
    panoramas = tmp_path / "panoramas"
    panoramas.mkdir()
    for i in range(2):
        cv2.imwrite(str(panoramas / f"{i}.png"), np.full((64, 128, 3), 100 + 20 * i, np.uint8))
    return TrainDecoderConfig(
        loop=LoopConfig(run=str(tmp_path / "run"), steps=60, batch_size=2, workers=0, log_every_steps=5),
        data=GazeConfig(
            root=str(root),
            panoramas=str(panoramas),
            folds=3,
            picture_width=80,
            placement=PlacementConfig(fov_deg=(90.0, 110.0), mean_photographs=2.0, exposure=0.0, inset_share=0.5),
        ),
        optimiser=OptimiserConfig(learning_rate=5e-3, schedule="constant"),
        model=SaliencyModelConfig(input_height=64, channels=8, strides=(4, 8)),
        imagenet=False,
        frozen="none",
    )


def test_it_learns_what_everybody_looks_at_and_draws_it(tiny: TrainDecoderConfig) -> None:
    figures = train_decoder(tiny)
    assert figures["measured/nss"] > 1.0  # on the photographs that were kept; chance is 0
    assert figures["measured/cc"] > 0.4
    run = Path(tiny.loop.run)
    header = read_header(run)
    assert (header.kind, header.step) == ("saliency", 60)
    picture = cv2.imread(str(run / "predictions" / "step-00000060.png"))
    assert picture is not None
    assert picture.shape[1] == 3 * 400
    assert (run / "config.yaml").is_file()


class UnequalGaze(Gaze):
    """Panoramas with one, two, five and eight parts."""

    def __init__(self) -> None:
        self.training = self.measuring = self

    def __len__(self) -> int:
        return 4

    def __getitem__(self, key: Key, /) -> tuple[Pixels, Density, Mask]:
        generator = np.random.default_rng(key[1])
        masks = np.zeros((8, 16, 32), bool)
        for part in range((1, 2, 5, 8)[key[1]]):
            masks[part, 2 * part : 2 * part + 2] = True
        frame = generator.integers(0, 256, (64, 128, 3), dtype=np.uint8)
        return frame, generator.random(masks.shape, np.float32) * masks, masks

    def measure(self, predict: Predict, limit: int = 0) -> dict[str, float]:  # noqa: ARG002
        return {}


def test_a_step_is_the_same_however_the_batch_is_split(tiny: TrainDecoderConfig) -> None:
    changes = []
    for accumulate in (1, 2, 4):
        loop = dataclasses.replace(tiny.loop, run=f"{tiny.loop.run}{accumulate}", steps=1, batch_size=4)
        loop = dataclasses.replace(loop, accumulate=accumulate, accelerator="cpu")
        fabric = make_fabric(loop)
        task = DecoderTask(dataclasses.replace(tiny, loop=loop), UnequalGaze(), fabric)
        before = [each.detach().clone() for each in task.model.parameters()]
        optimiser = OptimiserConfig(name="sgd", learning_rate=1.0, weight_decay=0.0, schedule="constant")
        train(task, loop, optimiser, fabric)
        after = task.model.parameters()
        changes.append(torch.cat([(new - old).flatten() for new, old in zip(after, before, strict=True)]).detach())
    for split in changes[1:]:
        assert (split - changes[0]).norm() < 1e-4 * changes[0].norm()


def test_a_checkpoint_says_from_what_its_weights_were_learnt_since_their_first_run(tiny: TrainDecoderConfig) -> None:
    short = dataclasses.replace(tiny, loop=dataclasses.replace(tiny.loop, steps=1))
    train_decoder(dataclasses.replace(short, imagenet=True))
    again = dataclasses.replace(
        short, start=tiny.loop.run, loop=dataclasses.replace(short.loop, run=f"{tiny.loop.run}2")
    )
    train_decoder(again)
    average(AverageConfig((tiny.loop.run, again.loop.run), f"{tiny.loop.run}3"))
    for run in (tiny.loop.run, again.loop.run, f"{tiny.loop.run}3"):
        first, second, third = read_header(run).origin
        assert first == IMAGENET
        assert second == ("OSIE, gaze on photographs", "MIT")
        assert third == PANORAMAS


def test_a_run_is_not_overwritten(tiny: TrainDecoderConfig) -> None:
    short = dataclasses.replace(tiny, loop=dataclasses.replace(tiny.loop, steps=1))
    train_decoder(short)
    with pytest.raises(CheckpointError, match="exists"):
        train_decoder(short)


def test_a_refused_resume_leaves_the_settings_of_the_run(tiny: TrainDecoderConfig) -> None:
    short = dataclasses.replace(tiny, loop=dataclasses.replace(tiny.loop, steps=1))
    train_decoder(short)
    settings = (Path(tiny.loop.run) / "config.yaml").read_text()
    other = dataclasses.replace(short, loop=dataclasses.replace(short.loop, seed=7, resume=True))
    with pytest.raises(CheckpointError, match="seed"):
        train_decoder(other)
    assert (Path(tiny.loop.run) / "config.yaml").read_text() == settings


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("data", {"fold": 1}, r"data.fold 0; expected 1"),
        ("loss", {"cc": 0.5}, r"loss.cc 0.0; expected 0.5"),
    ],
)
def test_a_run_on_other_gaze_or_for_another_loss_is_not_resumed(
    tiny: TrainDecoderConfig, part: str, changes: dict[str, Any], message: str
) -> None:
    """Continuing with another fold would measure on training data."""
    train_decoder(dataclasses.replace(tiny, loop=dataclasses.replace(tiny.loop, steps=1)))
    loop = dataclasses.replace(tiny.loop, steps=2, resume=True)
    other = dataclasses.replace(tiny, loop=loop, **{part: dataclasses.replace(getattr(tiny, part), **changes)})
    with pytest.raises(CheckpointError, match=message):
        train_decoder(other)


def _taught_maps(config: TrainDecoderConfig, folder: Path) -> Path:
    """A file with a uniform map for every panorama."""
    names = [path.name for path in Path(config.data.panoramas).iterdir()]
    even = np.ones(SaliencyModel.map_size_of(config.model), np.float32)
    write_taught(folder / "taught.npz", dict.fromkeys(names, even))
    return folder / "taught.npz"


def test_a_run_with_taught_maps_continues_with_them_wherever_they_are_now(
    tiny: TrainDecoderConfig, tmp_path: Path
) -> None:
    taught = _taught_maps(tiny, tmp_path)
    with_maps = dataclasses.replace(tiny.data, taught=str(taught))
    train_decoder(dataclasses.replace(tiny, loop=dataclasses.replace(tiny.loop, steps=1), data=with_maps))
    loop = dataclasses.replace(tiny.loop, steps=2, resume=True)
    with pytest.raises(CheckpointError, match=r"data.taught given; expected none"):
        train_decoder(dataclasses.replace(tiny, loop=loop))
    moved = dataclasses.replace(tiny.data, taught=str(taught.rename(tmp_path / "moved.npz")))
    train_decoder(dataclasses.replace(tiny, loop=loop, data=moved))
    assert read_header(Path(tiny.loop.run)).step == 2


def test_a_run_without_taught_maps_does_not_continue_with_them(tiny: TrainDecoderConfig, tmp_path: Path) -> None:
    train_decoder(dataclasses.replace(tiny, loop=dataclasses.replace(tiny.loop, steps=1)))
    data = dataclasses.replace(tiny.data, taught=str(_taught_maps(tiny, tmp_path)))
    with pytest.raises(CheckpointError, match=r"data.taught none; expected given"):
        train_decoder(dataclasses.replace(tiny, loop=dataclasses.replace(tiny.loop, steps=2, resume=True), data=data))


def test_data_that_moved_are_the_same_data(tiny: TrainDecoderConfig) -> None:
    train_decoder(dataclasses.replace(tiny, loop=dataclasses.replace(tiny.loop, steps=1)))
    moved = Path(tiny.data.panoramas).rename(Path(tiny.data.panoramas).with_name("elsewhere"))
    loop = dataclasses.replace(tiny.loop, steps=2, resume=True)
    data = dataclasses.replace(tiny.data, panoramas=str(moved))
    train_decoder(dataclasses.replace(tiny, loop=loop, data=data))
    assert read_header(Path(tiny.loop.run)).step == 2


def test_a_finished_run_is_left_as_it_is(tiny: TrainDecoderConfig) -> None:
    """Also one that trained other parts, as runs of earlier versions did."""
    short = dataclasses.replace(tiny, loop=dataclasses.replace(tiny.loop, steps=1))
    train_decoder(short)
    written = {path: path.read_bytes() for path in Path(tiny.loop.run).rglob("*.yaml")}
    loop = dataclasses.replace(short.loop, resume="auto")
    train_decoder(dataclasses.replace(short, loop=loop, frozen="encoder"))
    assert written
    assert {path: path.read_bytes() for path in Path(tiny.loop.run).rglob("*.yaml")} == written


def test_two_starting_points_are_refused(tiny: TrainDecoderConfig) -> None:
    with pytest.raises(ParameterError, match="at most one of the three"):
        dataclasses.replace(tiny, start="runs/a", encoder_weights="runs/b")


def test_an_encoder_without_packaged_imagenet_weights_needs_others(tiny: TrainDecoderConfig) -> None:
    model = SaliencyModelConfig(encoder="vgg16", decoder="paper", input_height=64)
    with pytest.raises(ParameterError, match=r"encoder_weights is .*imagenet is True .*expected encoder_weights from"):
        dataclasses.replace(tiny, model=model, imagenet=True)
    assert dataclasses.replace(tiny, model=model, imagenet=True, start="runs/vgg16").start


def test_missing_encoder_weights_are_an_error_and_not_a_random_start(tiny: TrainDecoderConfig) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        train_decoder(dataclasses.replace(tiny, encoder_weights="nowhere"))


def test_missing_panoramas_are_named(tiny: TrainDecoderConfig, tmp_path: Path) -> None:
    data = dataclasses.replace(tiny.data, panoramas=str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"there is no folder .*none"):
        train_decoder(dataclasses.replace(tiny, data=data))


def test_the_encoder_can_move_more_slowly() -> None:
    from torch import nn

    model = nn.ModuleDict({"encoder": nn.Linear(2, 2), "decoder": nn.Linear(2, 2)})
    groups = make_optimiser(model, OptimiserConfig(encoder_factor=0.1)).param_groups
    factor = {id(each): group["rate_factor"] for group in groups for each in group["params"]}
    assert factor[id(model["encoder"].weight)] == 0.1  # type: ignore[index]
    assert factor[id(model["decoder"].bias)] == 1.0  # type: ignore[index]


def test_a_run_is_not_resumed_when_its_data_have_changed(tiny: TrainDecoderConfig) -> None:
    Path(tiny.data.panoramas, "2.png").write_bytes(Path(tiny.data.panoramas, "0.png").read_bytes())
    train_decoder(dataclasses.replace(tiny, loop=dataclasses.replace(tiny.loop, steps=1)))
    Path(tiny.data.panoramas, "2.png").unlink()
    loop = dataclasses.replace(tiny.loop, steps=2, resume=True)
    with pytest.raises(CheckpointError, match=r"belongs to a run with data\.panoramas 3 .*; expected 2 "):
        train_decoder(dataclasses.replace(tiny, loop=loop))


def test_figures_are_printed_by_the_first_process_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        print_figures({"loss": 0.5, "measured/nss": 1.25, "speed": 3.0})
        assert capsys.readouterr().out == ("" if rank == "1" else "loss 0.5  measured/nss 1.25\n")


@pytest.mark.parametrize("write", [write_views, write_predictions])
def test_pictures_are_written_under_names_that_are_not_utf8_or_refused(
    write: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planes = np.zeros((3, 32, 64), np.uint8)
    frame, even = np.zeros((32, 64, 3), np.uint8), np.ones((8, 16))
    contents = [(planes, planes)] if write is write_views else [(frame, even, even)]
    path = tmp_path / os.fsdecode(b"caf\xe9") / "picture.png"
    write(path, contents)
    assert path.read_bytes().startswith(b"\x89PNG")

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write(path, contents)
    assert path.read_bytes().startswith(b"\x89PNG")


OTHERS = Origin("gaze of others", "CC-BY-4.0")


def test_taught_maps_are_learnt_from_what_their_models_learnt_from_and_other_maps_are_other_data(
    tiny: TrainDecoderConfig, tmp_path: Path
) -> None:
    taught = _taught_maps(tiny, tmp_path)
    with np.load(taught) as archive:
        maps = dict(archive)
    write_taught(taught, maps, [OTHERS])
    tiny = dataclasses.replace(tiny, data=dataclasses.replace(tiny.data, taught=str(taught)))
    train_decoder(dataclasses.replace(tiny, loop=dataclasses.replace(tiny.loop, steps=1)))
    assert OTHERS in read_header(tiny.loop.run).origin
    maps["0.png"][0] += 1
    write_taught(taught, maps, [OTHERS])
    with pytest.raises(CheckpointError, match=r"a run with data\.taught maps 2 "):
        train_decoder(dataclasses.replace(tiny, loop=dataclasses.replace(tiny.loop, steps=2, resume=True)))


@pytest.mark.parametrize("still_named", [True, False])
def test_a_resumed_run_needs_no_start_and_keeps_its_origin(
    tiny: TrainDecoderConfig, tmp_path: Path, still_named: bool
) -> None:
    start = tmp_path / "start"
    save_checkpoint(start, 1, SaliencyModel(tiny.model), "saliency", tiny.model, {}, origin=[OTHERS])
    started = dataclasses.replace(tiny, start=str(start), loop=dataclasses.replace(tiny.loop, steps=1))
    train_decoder(started)
    start.rename(tmp_path / "moved")
    loop = dataclasses.replace(tiny.loop, steps=2, resume=True)
    train_decoder(dataclasses.replace(started if still_named else tiny, loop=loop))
    header = read_header(tiny.loop.run)
    assert header.step == 2
    assert header.origin == (OTHERS, ("OSIE, gaze on photographs", "MIT"), PANORAMAS)


def test_a_start_that_does_not_record_its_data_is_not_taken_for_one_without_any(
    tiny: TrainDecoderConfig, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "older", 1, SaliencyModel(tiny.model), "saliency", tiny.model, {})
    loop = dataclasses.replace(tiny.loop, steps=1)
    train_decoder(dataclasses.replace(tiny, start=str(tmp_path / "older"), loop=loop))
    assert read_header(tiny.loop.run).origin[0] == UNRECORDED


def test_a_setting_of_a_part_of_the_data_is_named_alone(tiny: TrainDecoderConfig) -> None:
    train_decoder(dataclasses.replace(tiny, loop=dataclasses.replace(tiny.loop, steps=1)))
    placement = dataclasses.replace(tiny.data.placement, roll_deg=3.0)
    loop = dataclasses.replace(tiny.loop, steps=2, resume=True)
    with pytest.raises(CheckpointError, match=r"a run with data\.placement\.roll_deg 8\.0; expected 3\.0"):
        train_decoder(dataclasses.replace(tiny, loop=loop, data=dataclasses.replace(tiny.data, placement=placement)))


def test_the_best_weights_are_chosen_by_figures_of_the_same_photographs(
    tiny: TrainDecoderConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last evaluation measures all of them, on which the figure may be lower."""
    rising = iter((0.1, 0.2))
    monkeypatch.setattr(PhotographGaze, "measure", lambda _, __, limit=0: {"cc": next(rising) if limit else -1.0})
    loop = dataclasses.replace(tiny.loop, steps=1, best_by="measured/cc")
    assert train_decoder(dataclasses.replace(tiny, loop=loop, measured=1))["measured/cc"] == -1
    assert read_header(Path(tiny.loop.run) / "best").step == 1
