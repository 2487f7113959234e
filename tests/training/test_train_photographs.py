"""Training on several data sets at once: samples, heads of the sets, moving average, resuming, and what is learnt."""

from __future__ import annotations

import csv
import dataclasses
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from sal360.errors import CheckpointError, ParameterError
from sal360.sphere import erp_directions
from training.analysis.set_scores import SetScoresConfig, _chosen, analyse_sets
from training.checkpoint import load_state, read_header, read_tensors, save_checkpoint
from training.data.gaze.datasets import GazeConfig
from training.data.gaze.mixed_photographs import (
    MixedPhotographs,
    MixingConfig,
    Parts,
    PhotographSets,
    PhotographSetsConfig,
    open_parts,
)
from training.data.gaze.placed_photographs import PlacementConfig
from training.data.taught_maps import write_taught
from training.ema import MovingAverage
from training.evaluate import EvaluateConfig, evaluate
from training.evaluation.photograph_sets import (
    centre_prior_of,
    figures_in_plane,
    mean_figures,
    measure_people,
    measure_set,
)
from training.evaluation.scoring import COLUMNS
from training.loop import LoopConfig
from training.models.saliency_model import SaliencyModel, SaliencyModelConfig
from training.models.set_heads import CELLS, SetHeads, in_planes
from training.optimiser import OptimiserConfig
from training.train_photographs import TrainPhotographsConfig, train_photographs
from training.trained_models import read_saliency_model

Write = Callable[..., Path]
SIZES = {"osie": (60, 80), "eyecrowd": (80, 50)}


@pytest.fixture
def tiny(tmp_path: Path, write_osie: Write) -> TrainPhotographsConfig:
    """Two sets of dark photographs, of different shapes, with one bright square that everybody looks at."""
    generator = np.random.default_rng(0)
    count = 5
    for name, (height, width) in SIZES.items():
        x, y = generator.uniform(0.25, 0.75, count) * width, generator.uniform(0.25, 0.75, count) * height
        image = np.repeat(np.arange(count), 4)
        subject = np.tile([0, 1, 2, 3], count)
        root = write_osie(
            count, image=image, x=x[image], y=y[image], subject=subject, size=(height, width), folder=name
        )
        for i in range(count):
            picture = np.full((height, width, 3), 30, np.uint8)
            cv2.rectangle(picture, (int(x[i]) - 8, int(y[i]) - 8), (int(x[i]) + 8, int(y[i]) + 8), (250,) * 3, -1)
            cv2.imwrite(str(root / "stimuli" / f"{1000 + i}.jpg"), picture)
    panoramas = tmp_path / "panoramas"
    panoramas.mkdir()
    for i in range(2):
        cv2.imwrite(str(panoramas / f"{i}.png"), np.full((64, 128, 3), 100 + 20 * i, np.uint8))
    return TrainPhotographsConfig(
        loop=LoopConfig(run=str(tmp_path / "run"), steps=40, batch_size=2, workers=0, evaluate_every_epochs=1000),
        data=PhotographSetsConfig(
            root=str(tmp_path),
            panoramas=str(panoramas),
            sets={"osie": 1.0, "eyecrowd": 1.0},
            folds=5,
            mixing=MixingConfig(fov_deg=(60.0, 110.0), plain_width=(0.3, 0.5), crop=1.0, exposure=0, saturation=0),
        ),
        optimiser=OptimiserConfig(learning_rate=5e-3, schedule="constant"),
        model=SaliencyModelConfig(input_height=64, channels=8, strides=(4, 8)),
        imagenet=False,
    )


def samples_of(config: TrainPhotographsConfig) -> MixedPhotographs:
    return PhotographSets(config.data, 64, SaliencyModel.map_size_of(config.model), 0).training


def test_it_learns_from_both_sets_and_its_checkpoint_is_a_saliency_model(tiny: TrainPhotographsConfig) -> None:
    figures = train_photographs(tiny)
    assert min(figures["osie/nss"], figures["eyecrowd/nss"]) > 1.0  # on photographs that were kept; chance is 0
    assert read_header(tiny.loop.run).kind == "saliency"
    assert not [name for name in read_tensors(tiny.loop.run) if "heads" in name]
    read_saliency_model(tiny.loop.run)
    state = load_state(Path(tiny.loop.run) / "last")["task"]
    assert state["sets"] == ["osie", "eyecrowd"]
    assert float(state["heads"]["centre"].abs().max()) > 0  # they are trained, and kept for resuming


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_run_that_was_interrupted_ends_as_if_it_was_not(
    tiny: TrainPhotographsConfig, tmp_path: Path, ema: float
) -> None:
    whole = dataclasses.replace(
        tiny, loop=dataclasses.replace(tiny.loop, steps=4, ema=ema, checkpoint_every_steps=2, keep_checkpoints=9)
    )
    train_photographs(whole)
    parts = dataclasses.replace(whole, loop=dataclasses.replace(whole.loop, run=str(tmp_path / "parts"), resume="auto"))
    train_photographs(dataclasses.replace(parts, loop=dataclasses.replace(parts.loop, steps=2)))
    train_photographs(parts)
    one, other = read_tensors(whole.loop.run), read_tensors(parts.loop.run)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("plain_share", [0.0, 1.0])
def test_the_cells_of_a_photograph_lie_where_it_was_drawn(tiny: TrainPhotographsConfig, plain_share: float) -> None:
    """The brightness of the frame, looked up at the cells, is bright where the photograph's gaze is."""
    mixing = dataclasses.replace(tiny.data.mixing, plain_share=plain_share, grey_share=1.0)
    data = dataclasses.replace(tiny.data, mixing=mixing)
    samples = PhotographSets(data, 64, (64, 128), 0).training  # a map as fine as the frame
    seen = 0
    for index in range(4):
        sample = samples[0, index]
        bright = torch.from_numpy(sample.frame[..., 0])[None].float()
        found = in_planes(bright, torch.from_numpy(sample.grids)[None])[0].numpy()
        for slot in np.flatnonzero(sample.sets >= 0):
            mask, truth = sample.masks[slot], sample.truths[slot]
            rows, columns = mask.any(1).sum(), mask.any(0).sum()
            assert mask[:rows, :columns].all()
            assert not mask[rows:].any()
            height, width = SIZES[("osie", "eyecrowd")[sample.sets[slot]]]
            assert rows / columns == pytest.approx(height / width, rel=0.06)
            assert max(rows, columns) == CELLS
            assert found[slot].flat[truth.argmax()] > 160
            assert np.median(found[slot][mask]) < 60
            seen += 1
    assert seen > 8


def test_a_sample_depends_on_its_key_alone_and_photographs_leave_the_rest(tiny: TrainPhotographsConfig) -> None:
    one, other = samples_of(tiny), samples_of(tiny)
    other[0, 1]
    for first, second in zip(one[3, 0], other[3, 0], strict=True):
        np.testing.assert_array_equal(first, second)
    assert not all(sample.rest.all() for sample in (one[0, 0], one[0, 1]))


def test_tilted_panoramas_take_their_taught_maps_along(tiny: TrainPhotographsConfig) -> None:
    panorama = np.full((128, 256, 3), 60, np.uint8)
    panorama[56:64, 120:128] = 255, 0, 0
    taught = np.zeros((32, 64), np.float32)
    taught[14:16, 30:32] = 1
    photographs = {name: part.training for name, part in open_parts(tiny.data).items()}
    mixing = MixingConfig(plain_share=0, mean_photographs=1, fov_deg=(12, 20), tilt_deg=80)
    samples = MixedPhotographs(photographs, [1, 1], [panorama], mixing, (32, 64), 0, taught=[taught])
    elevations = []
    for index in range(20):
        sample = samples[0, index]
        red = sample.frame[..., 0].astype(int) - sample.frame[..., 1]
        if red.max() < 150:  # a photograph hides it
            continue
        row, column = np.unravel_index(int(sample.taught.argmax()), taught.shape)
        there = (
            erp_directions(32, 64)[row, column] @ erp_directions(128, 256)[np.unravel_index(red.argmax(), red.shape)]
        )
        assert there > math.cos(math.radians(12))  # two cells of the map
        elevations.append(row)
    assert len(elevations) > 10
    assert np.ptp(elevations) > 8


def test_sets_are_drawn_by_their_weights(tiny: TrainPhotographsConfig) -> None:
    data = dataclasses.replace(tiny.data, sets={"osie": 9.0, "eyecrowd": 1.0})
    samples = samples_of(dataclasses.replace(tiny, data=data))
    drawn = np.concatenate([samples[epoch, 0].sets for epoch in range(40)])
    assert 0.02 < (drawn == 1).sum() / (drawn >= 0).sum() < 0.25


def test_folds_and_the_set_that_is_left_out(tiny: TrainPhotographsConfig) -> None:
    names = {name: {each.name for each in part.training} for name, part in open_parts(tiny.data).items()}
    for name, part in open_parts(tiny.data).items():
        assert len(part.measured) == 1
        assert not names[name] & {each.name for each in part.measured}
    left_out = dataclasses.replace(tiny.data, leave_out="eyecrowd")
    parts = open_parts(left_out)
    assert (len(parts["eyecrowd"].training), len(parts["eyecrowd"].measured)) == (0, 5)
    sets = PhotographSets(left_out, 64, (16, 32), 0)
    assert sets.names == ("osie",)
    everything = open_parts(dataclasses.replace(tiny.data, fold=-1))
    assert [len(part.training) for part in everything.values()] == [5, 5]


def test_unknown_sets_are_refused() -> None:
    for sets, leave_out, message in (
        ({"nowhere": 1.0}, "", "sets is .*expected one or more of osie, mit1003"),
        ({"osie": 0.0}, "", "weights above 0"),
        ({"osie": 1.0}, "ham", "leave_out is 'ham'"),
        ({"osie": 1.0}, "osie", "nothing is left"),
    ):
        with pytest.raises(ParameterError, match=message):
            PhotographSetsConfig("root", "panoramas", sets=sets, leave_out=leave_out)


def plane(rows: int = 36, columns: int = CELLS) -> torch.Tensor:
    mask = torch.zeros(1, CELLS, CELLS, dtype=torch.bool)
    mask[:, :rows, :columns] = True
    return mask


def test_new_heads_leave_the_content_nearly_as_it_is() -> None:
    heads, mask = SetHeads(3), plane()
    content = torch.randn(1, CELLS, CELLS, generator=torch.Generator().manual_seed(0))
    content = nn.functional.avg_pool2d(content[:, None], 5, stride=1, padding=2)[:, 0] * 5
    window = torch.tensor([[-1.0, -1.0, 2.0, 2.0]])
    one = torch.exp(heads(content, mask, window, torch.tensor([1])))[mask]
    expected = torch.softmax(content[mask], 0)
    assert float((one - expected).abs().sum().detach()) < 0.1
    assert float(one.sum().detach()) == pytest.approx(1, abs=1e-4)


def test_heads_find_the_centre_bias_of_each_set_and_leave_what_they_share() -> None:
    """Two sets look alike but for the centre: the difference goes to the heads."""
    heads, mask = SetHeads(2), plane()
    window, content = torch.tensor([[-1.0, -1.0, 2.0, 2.0]]), torch.zeros(1, CELLS, CELLS)
    place = (torch.arange(CELLS) + 0.5) / CELLS * 2 - 1
    truth = torch.exp(-3 * place**2)[None].repeat(CELLS, 1)[None] * mask
    truth = truth / truth.sum()
    optimiser = torch.optim.Adam(heads.parameters(), lr=0.2)
    for _ in range(30):
        central, flat = (heads(content, mask, window, torch.tensor([each])) for each in (0, 1))
        loss = -(truth * central).sum() - (mask / mask.sum() * flat).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert heads.centre[0, 0] < heads.centre[1, 0] - 1
    density = torch.exp(heads(content, mask, window, torch.tensor([0]))).detach()
    assert float(density[0, 10, 24] / density[0, 10, 2]) > 3


def test_a_cropped_photograph_has_the_centre_of_the_whole() -> None:
    heads, mask = SetHeads(2), plane()
    with torch.no_grad():
        heads.centre[0, 0] = -4.0
    content = torch.zeros(1, CELLS, CELLS)
    right_half = torch.tensor([[0.0, -1.0, 1.0, 2.0]])  # its left edge is the middle of the photograph
    density = torch.exp(heads(content, mask, right_half, torch.tensor([0])))[0, 10]
    assert density[1] > density[20] > density[40]


def test_content_is_looked_up_across_the_seam() -> None:
    content = torch.arange(8.0)[None, None].repeat(1, 4, 1)  # (1, 4, 8): the value is the column
    grid = torch.zeros(1, 1, CELLS, CELLS, 2)
    grid[..., 0], grid[..., 1] = 7.5, 1.0
    assert float(in_planes(content, grid)[0, 0, 0, 0]) == pytest.approx(3.5)  # halfway between columns 7 and 0
    grid[..., 0] = -1.0
    assert float(in_planes(content, grid)[0, 0, 0, 0]) == pytest.approx(7.0)


def test_a_moving_average_lags_behind_and_gives_the_weights_back() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
    average = MovingAverage(model, 0.5)
    for step, value in enumerate((8.0, 8.0), start=100):
        with torch.no_grad():
            model.weight.fill_(value)
        average.update(step)
    with average.in_place():
        assert float(model.weight.detach()) == pytest.approx(6.0)
    assert float(model.weight.detach()) == 8.0


def test_plain_photographs_are_measured_where_they_lie(tiny: TrainPhotographsConfig) -> None:
    """A model that returns the frame's brightness finds the bright squares, at both sizes."""
    parts = open_parts(tiny.data)
    for part in parts.values():
        prior = centre_prior_of(part)
        for size in (64, 32):
            scores = measure_set(lambda frames: frames[..., 0] / 255 + 0.0, part.training, prior, 64, size)
            assert scores.shape == (4, len(COLUMNS))
            figures = mean_figures(scores)
            assert figures["nss"] > 1.5
            assert figures["cc"] > 0.5
            assert figures["auc_judd"] > 0.9


def test_the_prior_gains_nothing_over_itself_and_people_predict_each_other(tiny: TrainPhotographsConfig) -> None:
    part = open_parts(tiny.data)["osie"]
    prior = centre_prior_of(part)
    of_prior = dict(zip(COLUMNS, figures_in_plane(prior, part.measured[0], prior), strict=True))
    assert of_prior["information_gain"] == pytest.approx(0, abs=1e-6)
    people = dict(zip(COLUMNS, measure_people(part.measured[0], prior), strict=True))
    assert people["nss"] > 3
    assert people["information_gain"] > 1


def test_sets_are_compared_with_their_prior_and_people(
    tiny: TrainPhotographsConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SaliencyModelConfig(input_height=64, strides=(16, 32), channels=8)
    save_checkpoint(tmp_path / "model", 1, SaliencyModel(settings), "saliency", settings, {})
    maps = np.full((2, 8, 8), 1, np.uint8)
    root = tmp_path / "osie"
    (tmp_path / "ham").symlink_to(root)  # the same pictures, with maps alone
    np.savez(root / "maps.npz", names=np.array(["1000.jpg", "1001.jpg"]), maps=maps)
    data = dataclasses.replace(tiny.data, panoramas="", sets={"osie": 1.0, "ham": 1.0}, fold=-1)
    analyse_sets(
        SetScoresConfig(data, str(tmp_path / "out"), models=(str(tmp_path / "model"),), sizes_px=(384, 192), draws=20)
    )
    table = capsys.readouterr().out
    assert re.search(r"osie +\| 5 +\| half of the people +\| \d", table)
    assert re.search(
        r"ham +\| 2 +\| compact model @1, 192 px +\| – +\| – +\| -?\d", table
    )  # no fixations, so no AUC and NSS
    with open(tmp_path / "out" / "sets.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == (5 + 2) * 4
    assert all((row["nss"] == "") == (row["set"] == "ham") for row in rows)


def test_sets_are_measured_as_the_planar_protocol_of_evaluate_measures_them(
    tiny: TrainPhotographsConfig, tmp_path: Path
) -> None:
    """The same maps, people and centre prior, on the same fold."""
    (tmp_path / "maps").mkdir()
    generator = np.random.default_rng(1)
    for i in range(5):
        np.save(tmp_path / "maps" / f"{1000 + i}.npy", generator.random((30, 40)).astype(np.float32))
    models = (str(tmp_path / "maps"),)
    sets = dataclasses.replace(tiny.data, sets={"osie": 1.0})
    analyse_sets(SetScoresConfig(sets, str(tmp_path / "out"), models=models, draws=20))
    data = GazeConfig(root=str(tmp_path / "osie"), panoramas=tiny.data.panoramas)
    evaluate(EvaluateConfig(data, str(tmp_path / "out"), models, protocols=("planar",), draws=20, panorama_height=64))
    with open(tmp_path / "out" / "sets.csv") as file:
        of_sets = {(row["model"], row["photograph"]): row for row in csv.DictReader(file)}
    with open(tmp_path / "out" / "scores.csv") as file:
        of_evaluate = {(row["model"], row["record"]): row for row in csv.DictReader(file)}
    (name,) = {photograph for _, photograph in of_sets}
    for model, same in (("maps", "maps"), ("half of the people", "people")):
        for metric in COLUMNS:
            expected = float(of_evaluate[same, name][metric])
            assert float(of_sets[model, name][metric]) == pytest.approx(expected, abs=1e-6), (model, metric)


def test_a_run_is_only_resumed_with_its_sets_in_their_order(tiny: TrainPhotographsConfig) -> None:
    """By which they are drawn and have their heads."""
    train_photographs(dataclasses.replace(tiny, loop=dataclasses.replace(tiny.loop, steps=1)))
    data = dataclasses.replace(tiny.data, sets=dict(reversed(tiny.data.sets.items())))
    loop = dataclasses.replace(tiny.loop, steps=2, resume=True)
    with pytest.raises(CheckpointError, match=r"a run on osie, eyecrowd in this order; expected eyecrowd, osie"):
        train_photographs(dataclasses.replace(tiny, loop=loop, data=data))


@pytest.mark.parametrize("change", ["panorama", "photograph"])
def test_a_run_is_not_resumed_when_its_data_have_changed(tiny: TrainPhotographsConfig, change: str) -> None:
    Path(tiny.data.panoramas, "2.png").write_bytes(Path(tiny.data.panoramas, "0.png").read_bytes())
    train_photographs(dataclasses.replace(tiny, loop=dataclasses.replace(tiny.loop, steps=1)))
    if change == "panorama":
        Path(tiny.data.panoramas, "2.png").rename(Path(tiny.data.panoramas, "3.png"))
    else:
        index = Path(tiny.data.root, "osie", "fixations.npz")
        with np.load(index) as table:
            columns = dict(table)
        np.savez(index, **{**columns, "names": columns["names"][::-1]})
    loop = dataclasses.replace(tiny.loop, steps=2, resume=True)
    with pytest.raises(CheckpointError, match=r"belongs to a run with data\.(panoramas 3|osie 4) "):
        train_photographs(dataclasses.replace(tiny, loop=loop))


def test_samples_can_be_sent_to_processes_that_start_afresh(tiny: TrainPhotographsConfig) -> None:
    samples = samples_of(tiny)
    expected = samples[0, 0]
    for part, other in zip(pickle.loads(pickle.dumps(samples))[0, 0], expected, strict=True):
        np.testing.assert_array_equal(part, other)


def test_the_settings_that_both_kinds_of_samples_share_keep_their_own_defaults() -> None:
    """Recipes rely on them."""
    shared = {"elevation_deg": 25.0, "equator_share": 0.7, "roll_deg": 8.0, "slots": 8}
    placed = {"mean_photographs": 5.0, "attempts": 120, "exposure": 0.2, "saturation": 0.0, "crop": 1.0}
    mixed = {"mean_photographs": 4.0, "attempts": 40, "exposure": 0.3, "saturation": 0.3, "crop": 0.7}
    for config, defaults in ((PlacementConfig(), placed), (MixingConfig(), mixed)):
        found = dataclasses.asdict(config)
        assert {name: found[name] for name in (*shared, *defaults)} == shared | defaults
        for name in shared | defaults:
            with pytest.raises(ParameterError, match=f"^{name} is "):
                dataclasses.replace(config, **{name: -1})


def test_the_photographs_that_are_measured_are_spread_over_their_set(
    tiny: TrainPhotographsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[list[str]] = []

    def measure(_: Any, photographs: Any, *__: Any, **___: Any) -> Any:
        chosen.append([each.name for each in photographs])
        return np.zeros((len(photographs), len(COLUMNS)))

    monkeypatch.setattr("training.train_photographs.measure_set", measure)
    mixing = dataclasses.replace(tiny.data.mixing, mean_photographs=1.0)
    data = dataclasses.replace(tiny.data, leave_out="eyecrowd", measured=2, mixing=mixing)
    train_photographs(dataclasses.replace(tiny, loop=dataclasses.replace(tiny.loop, steps=1), data=data))
    assert chosen[-1] == ["1000.jpg", "1004.jpg"]
    photographs = open_parts(data)["eyecrowd"].measured
    for training, measured in (([], photographs), (photographs, [])):
        assert [each.name for each in _chosen(Parts(training, measured), 3)] == ["1000.jpg", "1002.jpg", "1004.jpg"]
        assert len(_chosen(Parts(training, measured), 0)) == 5


def test_other_taught_maps_are_other_data(tiny: TrainPhotographsConfig, tmp_path: Path) -> None:
    size = SaliencyModel.map_size_of(tiny.model)
    path = tmp_path / "taught.npz"
    data = dataclasses.replace(tiny.data, taught=str(path))
    contents = []
    for value in (1, 1, 2):
        write_taught(path, {name: np.full(size, value, np.float32) for name in ("0.png", "1.png")})
        contents.append(PhotographSets(data, 64, size, 0).contents["taught maps"])
    assert contents[0] == contents[1] != contents[2]
