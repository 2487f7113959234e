"""Adapting a model file: what is found in its graph, known answers, refusals, and files that every runtime opens."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from sal360 import Predictor
from sal360.errors import DataError, ModelError, ParameterError, one_line_errors
from sal360.ground_truth import GazeRecord
from sal360.runtimes import open_model
from sal360.spec import ModelSpec, read_onnx_spec
from sal360.sphere import solid_angles
from sal360.weights import bundled_model
from tests.bag_writer import BagWriter, mcap_bag
from training import adapt as command
from training.adapt import AdaptConfig
from training.adapting import fit as fitting
from training.adapting import pictures as reading
from training.adapting.ending_family import EndingFamily, EndingNumbers, FixedEnding
from training.adapting.fit import CANDIDATES, Examples, fit
from training.adapting.model_file import open_adaptable, predict_contents, write_adapted
from training.adapting.pictures import AdaptData, read_pictures
from training.exporting.ending import find_ending
from training.exporting.graphs import ExportedModel, write_onnx
from training.models.prior import PriorConfig
from training.models.saliency_model import CalibrationConfig, DensityModel, SaliencyModel, SaliencyModelConfig

__all__ = ["mcap_bag"]

SIZE = (16, 32)
OWN = EndingNumbers(1.3, 3.0, 0.1, tuple((-(np.linspace(-1, 1, 16) ** 2)).tolist()))


def contents(count: int, seed: int = 0) -> Tensor:
    """Smooth random fields (count, 16, 32)."""
    noise = torch.randn(count, 1, 6, 12, generator=torch.Generator().manual_seed(seed))
    return 2 * nn.functional.interpolate(noise, SIZE, mode="bilinear")[:, 0]


def drawn(density: Tensor, seed: int, fixations: int = 200) -> Tensor:
    """Shares (n, h, w) of fixations that are drawn from densities (n, h, w)."""
    mass = (density * torch.tensor(solid_angles(*density.shape[1:])).float()).flatten(1)
    cells = torch.multinomial(mass, fixations, replacement=True, generator=torch.Generator().manual_seed(seed))
    counts = torch.zeros_like(mass).scatter_add_(1, cells, torch.ones(cells.shape))
    return (counts / fixations).view(density.shape)


def divergence(truth: Tensor, density: Tensor) -> float:
    """Mean KL(truth ‖ density) on the sphere, nats."""
    area = torch.tensor(solid_angles(*truth.shape[1:])).float()
    mass = truth * area / (truth * area).sum((1, 2), keepdim=True)
    return float((mass * torch.log(truth / density)).sum((1, 2)).mean())


# --- the fit ---


@pytest.mark.parametrize(
    ("truth", "longitude"),
    [
        (EndingNumbers(2.4, 12.0, 0.3, tuple((-3 * np.linspace(-0.7, 1.3, 16) ** 2).tolist())), False),
        (EndingNumbers(0.6, 3.0, 0.02, OWN.prior_log_rows, (), (0.6, 1.0, 1.6)), False),
        (dataclasses.replace(OWN, longitude_log_columns=tuple(np.cos(np.linspace(-3, 3, 32)).tolist())), True),
    ],
    ids=["flatter, another prior", "sharper, coarser", "viewers who look ahead"],
)
def test_three_quarters_of_the_gap_to_known_gaze_are_recovered_on_new_pictures(
    truth: EndingNumbers, longitude: bool
) -> None:
    everything = contents(40)
    true, before = FixedEnding(SIZE, truth)(everything), FixedEnding(SIZE, OWN)(everything)
    family = EndingFamily(SIZE, OWN, longitude=longitude)
    fitted = fit(family, Examples(everything[:24], drawn(true, 1)[:24], before[:24], np.arange(24)))
    low, high = fitted.interval()
    assert low > 0
    new, adapted = true[24:], FixedEnding(SIZE, family.read(fitted.numbers))(everything[24:])
    assert divergence(new, adapted) < divergence(new, before[24:]) / 4
    gap = divergence(true[:24], before[:24]) - divergence(true[:24], adapted_left_out(family, fitted, everything[:24]))
    assert low < gap < high  # what is promised on scenes left out is what there is


def adapted_left_out(family: EndingFamily, fitted: fitting.Fitted, content: Tensor) -> Tensor:
    maps = [FixedEnding(SIZE, family.read(fitted.left_out[i]))(content[[i]])[0] for i in range(len(content))]
    return torch.stack(maps)


def test_gaze_as_the_model_predicts_it_already_promises_no_gain() -> None:
    true = FixedEnding(SIZE, OWN)(contents(12))
    family = EndingFamily(SIZE, OWN, longitude=False)
    fitted = fit(family, Examples(contents(12), drawn(true, 3), true, np.arange(12)))
    assert fitted.interval()[0] <= 0


def test_the_fit_without_a_scene_does_not_see_its_gaze(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "CANDIDATES", CANDIDATES[2:3])
    true = FixedEnding(SIZE, EndingNumbers(3.0, 10.0, 0.3))(contents(6))
    family, mass, scene = EndingFamily(SIZE, OWN, longitude=False), drawn(true, 5), np.array([0, 1, 1, 2, 3, 4])
    other = mass.clone()
    other[1:3] = 0
    other[1:3, 0, 0] = 1  # everybody looks at the zenith
    before = FixedEnding(SIZE, OWN)(contents(6))
    first, second = (fit(family, Examples(contents(6), each, before, scene)) for each in (mass, other))
    scales = family.scales(contents(1, seed=1))
    changes = [
        float((family.density(scales, one) / family.density(scales, other) - 1).abs().mean())
        for one, other in zip(first.left_out, second.left_out, strict=True)
    ]
    assert changes[1] < 0.03
    assert min(changes[0], *changes[2:]) > 0.1


def test_a_scene_counts_once_however_many_pictures_it_has() -> None:
    true = FixedEnding(SIZE, EndingNumbers(3.0, 10.0, 0.3))(contents(6))
    family, mass, before = EndingFamily(SIZE, OWN, longitude=False), drawn(true, 5), FixedEnding(SIZE, OWN)(contents(6))
    many = torch.tensor([0, 0, 0, 0, 0, 1, 2, 3, 4, 5])
    once = fit(family, Examples(contents(6), mass, before, np.arange(6)))
    again = fit(family, Examples(contents(6)[many], mass[many], before[many], many.numpy()))
    np.testing.assert_allclose(again.gains, once.gains, atol=2e-3)


def test_zeros_are_the_model_itself_and_a_fixed_ending_is_what_was_fitted() -> None:
    family, content = EndingFamily(SIZE, OWN, longitude=True), contents(3)
    zeros = torch.zeros(len(family.deviations))
    torch.testing.assert_close(family.density(family.scales(content), zeros), FixedEnding(SIZE, OWN)(content))
    numbers = 0.3 * torch.randn(len(family.deviations), generator=torch.Generator().manual_seed(2))
    fixed = FixedEnding(SIZE, family.read(numbers))(content)
    torch.testing.assert_close(family.density(family.scales(content), numbers), fixed)
    assert float((fixed * torch.tensor(solid_angles(*SIZE)).float()).sum((1, 2)).mean()) == pytest.approx(
        4 * math.pi * 3 / 3
    )


# --- the graph ---


def test_the_endings_of_the_bundled_files_are_found() -> None:
    for form in ("fp32", "int8"):
        ending = find_ending(onnx.load(bundled_model(form)), form)
        assert ending.temperature > 1
        assert ending.blur_deg == pytest.approx(2, abs=1e-3)
        assert ending.floor == pytest.approx(0.05)


def test_content_and_its_own_ending_make_the_map_of_the_bundled_file() -> None:
    model = open_adaptable(bundled_model())
    frame = np.random.default_rng(0).integers(0, 256, (384, 768, 3), np.uint8)
    found = FixedEnding(model.map_size, model.own)(predict_contents(model, [frame]))[0].numpy()
    with Predictor(bundled_model(), precision="fp32") as predictor:
        np.testing.assert_allclose(found, predictor.predict(frame), rtol=1e-3)


def write_small(path: Path, calibration: CalibrationConfig, prior: PriorConfig, upsample: int = 0) -> Path:
    """An untrained model of 64 rows, whose map varies, as training.export writes it."""
    torch.manual_seed(0)
    model = SaliencyModel(SaliencyModelConfig(input_height=64, channels=8, calibration=calibration, prior=prior))
    nn.init.normal_(model.decoder.head.weight, std=3.0)
    density = DensityModel(model.eval(), upsample=upsample).eval()
    rows = 16 << upsample
    spec = ModelSpec(
        *("small", "1.0.0", 64, 128, rows, 2 * rows, "nothing", "CC0-1.0"),
        prior_log_rows=tuple(density.prior_log_rows[:, 0].tolist()),
    )
    write_onnx(ExportedModel(density, "fp32", (64, 128)).eval(), spec, path)
    return path


SMALL = CalibrationConfig(temperature=2.0, blur_deg=4.0, floor=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["calibrated, with a prior", "bare, upsampled"])
def test_the_ending_of_an_exported_file_is_found_and_replaced(small: Path, tmp_path: Path, kind: str) -> None:
    path, calibration = small, SMALL
    if kind == "bare, upsampled":
        calibration = CalibrationConfig()
        path = write_small(tmp_path / "model.onnx", calibration, PriorConfig(strength=0.0), upsample=1)
    model = open_adaptable(path)
    own = (model.own.temperature, model.own.blur_deg, model.own.floor)
    assert own == pytest.approx((calibration.temperature, calibration.blur_deg, calibration.floor), rel=1e-4)
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 128, 3), np.uint8)
    content = predict_contents(model, list(frames))
    with open_model(model.path, backend="onnxruntime", device="cpu") as backend:
        np.testing.assert_allclose(FixedEnding(model.map_size, model.own)(content), backend.infer(frames), rtol=1e-3)
    rows = tuple(np.linspace(-1, 1, model.map_size[0]).tolist())
    ending = FixedEnding(model.map_size, EndingNumbers(2.0, 5.0, 0.1, rows, (), (0.5, 1.0, 1.5)))
    spec = dataclasses.replace(model.spec, name="new", prior_log_rows=rows)
    path = write_adapted(model, ending, spec, frames, ending(content).numpy(), tmp_path / "new.onnx")
    for name in ("onnxruntime", "openvino"):
        with open_model(path, backend=name, device="cpu", precision="fp32") as backend:
            np.testing.assert_allclose(backend.infer(frames[:1]), ending(content)[:1], rtol=1e-2)
            assert backend.spec.name == "new"
    with Predictor(path, backend="onnxruntime", prior_strength=0) as predictor:
        flat = FixedEnding(model.map_size, dataclasses.replace(ending.numbers, prior_log_rows=()))(content)[0]
        np.testing.assert_allclose(predictor.predict(frames[0]), flat, rtol=1e-2)


# --- the command ---

HEIGHT = 64
TRUTH = EndingNumbers(0.8, 10.0, 0.05, tuple((-6 * np.linspace(-1, 1, 16) ** 2).tolist()))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model file."""
    path = tmp_path_factory.mktemp("small") / "small.onnx"
    return write_small(path, SMALL, PriorConfig())


@pytest.fixture(scope="module")
def gaze(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve panoramas with gaze that an ending quite different from the model's makes."""
    root = tmp_path_factory.mktemp("gaze")
    pictures = [picture(i) for i in range(12)]
    model = open_adaptable(small)
    write_gaze(root, pictures, FixedEnding(model.map_size, TRUTH)(predict_contents(model, pictures)))
    return root


def picture(seed: int) -> np.ndarray:
    """A smooth random panorama (64, 128, 3) RGB."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 16, 3), np.uint8)
    return np.asarray(cv2.resize(noise, (2 * HEIGHT, HEIGHT), interpolation=cv2.INTER_CUBIC))


def write_gaze(root: Path, pictures: list[np.ndarray], densities: Tensor) -> None:
    """A folder of panoramas with 200 fixations each, drawn from densities."""
    (root / "stimuli").mkdir()
    names = [f"{i:02d}.png" for i in range(len(pictures))]
    for name, each in zip(names, pictures, strict=True):
        cv2.imwrite(str(root / "stimuli" / name), each[..., ::-1])
    image, row, column = np.nonzero(np.round(200 * drawn(densities, 7).numpy()))
    height, width = densities.shape[1:]
    times = np.round(200 * drawn(densities, 7).numpy())[image, row, column].astype(int)
    np.savez(
        root / "gaze.npz",
        names=np.array(names),
        image=np.repeat(image, times),
        observer=np.arange(times.sum()) % 5,
        lon_rad=np.repeat((column + 0.5) / width * 2 * np.pi - np.pi, times),
        lat_rad=np.repeat(np.pi / 2 - (row + 0.5) / height * np.pi, times),
    )


Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, small: Path) -> Run:
    """Runs the command on the small model and returns its status."""

    def run(*options: str) -> int:
        model = [] if any(each.startswith("--model") for each in options) else [f"--model={small}"]
        monkeypatch.setattr(sys, "argv", ["adapt", *model, *options])
        return one_line_errors(command.main)

    return run


@pytest.mark.slow
def test_the_command_writes_a_model_that_says_what_was_fitted_to_what(
    run: Run, gaze: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "mine.onnx"
    assert run(f"--data.root={gaze}", f"--output={output}", "--name=mine") == 0
    spec = read_onnx_spec(output)
    assert (spec.name, spec.adapted["pictures"], spec.adapted["scenes"]) == ("mine", 12, 12)
    low, high = spec.adapted["gain_95"]
    assert 0 < low < spec.adapted["gain_nats_per_fixation"] < high
    assert f"gaze on 12 panoramas of 12 scenes ({gaze.name})" in spec.trained_on
    page = (tmp_path / "mine.html").read_text()
    assert page.count("<img") > 5
    assert "Temperature 2.00 →" in page
    assert "adapted, scene left out" in capsys.readouterr().out
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mine.html", "mine.onnx"]
    # a camera that turns by a whole number of strides sees the same
    frame = picture(99)
    with Predictor(output) as predictor:
        turned = np.roll(predictor.predict(np.roll(frame, 32, axis=1)), -8, axis=1)
        np.testing.assert_allclose(turned, predictor.predict(frame), rtol=0.02, atol=0.02)


@pytest.mark.slow
def test_an_adapted_model_is_not_adapted_again(
    run: Run, gaze: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"--data.root={gaze}", f"--output={tmp_path / 'one.onnx'}") == 0
    assert run(f"--model={tmp_path / 'one.onnx'}", f"--data.root={gaze}", f"--output={tmp_path / 'two.onnx'}") == 2
    assert "was adapted already" in capsys.readouterr().err
    assert not (tmp_path / "two.onnx").exists()


def test_a_fit_that_does_not_surely_help_is_refused_and_nothing_is_written(
    run: Run, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gaze").mkdir()
    pictures, model = [picture(i) for i in range(6)], open_adaptable(small)
    write_gaze(tmp_path / "gaze", pictures, FixedEnding(model.map_size, model.own)(predict_contents(model, pictures)))
    assert run(f"--data.root={tmp_path / 'gaze'}", f"--output={tmp_path / 'out' / 'mine.onnx'}") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("not adapted: on scenes left out, adapting gains ")
    assert "6 pictures, 6 scenes" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output=mine"], "output is 'mine'"),
        (["--output=mine.onnx", "--int8=true"], "int8"),
        (["--output=mine.onnx", "--data.bags=[a]"], "data.root"),
        (["--output=mine.onnx", "--data.dataset=osie"], "a data set of panoramas"),
        (["--output=mine.onnx", "--data.gaze=[/gaze]"], "data.gaze"),
        (["--output=mine.onnx", "--model=missing.onnx"], "missing.onnx"),
    ],
)
def test_wrong_options_are_one_line(
    run: Run, gaze: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    options: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run(f"--data.root={gaze}", *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_model_that_ends_otherwise_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"does not end as training\.export writes it"):
        open_adaptable(tiny_model)
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"")
    with pytest.raises(ModelError, match="is not an ONNX file"):
        open_adaptable(engine)


# --- pictures and scenes ---


def test_pictures_that_look_alike_are_one_scene_and_a_table_may_say_otherwise(gaze: Path, tmp_path: Path) -> None:
    root = tmp_path / "gaze"
    (root / "stimuli").mkdir(parents=True)
    with np.load(gaze / "gaze.npz") as table:
        np.savez(root / "gaze.npz", **table)
    for i in range(12):  # three places, each at four times with other light
        seen = np.clip(picture(i // 4) * (0.7 + 0.1 * (i % 4)) + 5 * (i % 4), 0, 255).astype(np.uint8)
        cv2.imwrite(str(root / "stimuli" / f"{i:02d}.png"), seen[..., ::-1])
    found = read_pictures(AdaptData(root=str(root)), HEIGHT)
    assert found.scene.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert found.scenes == 3
    parts = read_pictures(AdaptData(root=str(root), within_scenes=True), HEIGHT)
    assert parts.scenes == 3
    assert parts.scene.max() == 8
    assert all(len(set(found.scene[parts.scene == part])) == 1 for part in range(9))
    table = tmp_path / "scenes.csv"
    with open(table, "w", newline="") as file:
        csv.writer(file).writerows([("name", "scene"), *((f"{i:02d}.png", "ab"[i % 2]) for i in range(12))])
    assert read_pictures(AdaptData(root=str(root), scenes=str(table)), HEIGHT).scene.tolist() == [0, 1] * 6
    table.write_text("name,scene\n00.png,a\n")
    with pytest.raises(DataError, match=r"has no scene for 01\.png"):
        read_pictures(AdaptData(root=str(root), scenes=str(table)), HEIGHT)


def test_one_scene_is_refused_unless_its_parts_are_left_out(gaze: Path, tmp_path: Path) -> None:
    table = tmp_path / "scenes.csv"
    table.write_text("name,scene\n" + "".join(f"{i:02d}.png,here\n" for i in range(12)))
    with pytest.raises(DataError, match=r"show one scene.*--data\.within_scenes true"):
        read_pictures(AdaptData(root=str(gaze), scenes=str(table)), HEIGHT)
    data = AdaptData(root=str(gaze), scenes=str(table), within_scenes=True)
    assert read_pictures(data, HEIGHT).scene.max() == 9


def test_pictures_are_spread_over_all(gaze: Path) -> None:
    found = read_pictures(AdaptData(root=str(gaze), limit=3), HEIGHT)
    assert [record.name for record in found.records] == ["00.png", "05.png", "11.png"]
    assert found.records[0].panorama().shape == (HEIGHT, 2 * HEIGHT, 3)


def test_maps_without_fixations_are_enough(tmp_path: Path) -> None:
    root = tmp_path / "maps"
    (root / "stimuli").mkdir(parents=True)
    maps = np.ones((12, 16, 32), np.float32)
    maps[:, 8] = 30
    for i in range(12):
        cv2.imwrite(str(root / "stimuli" / f"{i:02d}.png"), picture(i))
    np.savez(root / "gaze.npz", names=np.array([f"{i:02d}.png" for i in range(12)]), maps=maps)
    record: GazeRecord = read_pictures(AdaptData(root=str(root)), HEIGHT).records[3]
    assert len(record.fixations) == 0
    mass = command._gaze_mass(record, *SIZE)
    assert mass.sum() == pytest.approx(1)
    assert mass[8].sum() > 0.6


def test_a_bag_gives_its_frames_with_gaze(mcap_bag: BagWriter, tmp_path: Path) -> None:
    frames, gaze = [], []
    for i in range(8):
        at_ns = 10**9 + i * 10**8
        frames.append((at_ns, mcap_bag.compressed(at_ns, picture(i)[..., ::-1], ".png")))
        if i % 2:
            point = mcap_bag.new("geometry_msgs/msg/Point", x=0.0, y=2.0, z=0.0)
            header = mcap_bag.header(at_ns)
            gaze.append((at_ns, mcap_bag.new("geometry_msgs/msg/PointStamped", header=header, point=point)))
    bag = mcap_bag.write(tmp_path / "bag", {"/image": frames, "/gaze": gaze})
    found = read_pictures(AdaptData(bags=(str(bag),), gaze=("/gaze",)), HEIGHT)
    assert [record.name for record in found.records] == [f"bag, frame {i}" for i in (1, 3, 5, 7)]
    np.testing.assert_array_equal(found.records[2].panorama(), picture(5))
    np.testing.assert_allclose(found.records[0].fixations, [[0, 1, 0]])
    assert found.scenes == 4


def test_a_folder_or_bags_are_needed_and_not_both() -> None:
    with pytest.raises(ParameterError, match="the folder of a data set, or bags"):
        AdaptData()
    with pytest.raises(ParameterError, match="the gaze in the bags"):
        AdaptData(bags=("run.mcap",))
    with pytest.raises(ParameterError, match="limit"):
        AdaptData(root="gaze", limit=1)
    assert AdaptConfig(AdaptData(root="gaze"), output="a.onnx").data.label == "gaze"


@pytest.mark.parametrize(("bags", "limit", "expected"), [(2, 100, 50), (3, 10, 3), (8, 4, 1)])
def test_a_limit_is_that_of_all_bags_together(monkeypatch, bags, limit, expected):
    limits = []
    recording = SimpleNamespace(damage={}, name="run")
    monkeypatch.setattr(reading, "open_recording", lambda *_: contextlib.nullcontext(recording))
    monkeypatch.setattr(reading, "RecordedGaze", lambda *_, **__: SimpleNamespace(unmatched=0))
    monkeypatch.setattr(reading, "_of_recording", lambda _, __, each, *___: limits.append(each) or [])
    list(reading._of_bags(AdaptData(bags=tuple(map(str, range(bags))), gaze=("/gaze",), limit=limit), 64, []))
    assert limits == [expected] * min(bags, limit)
