"""The analyses, from the command line to their tables and figures, on tiny models."""

from __future__ import annotations

import csv
import math
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sal360.errors import CheckpointError, one_line_errors
from sal360.sphere import erp_directions, solid_angles
from training import analyse
from training.analysis.change import ChangeConfig, analyse_change, encoder_tensors, layer_changes
from training.analysis.embedding import EmbeddingConfig, embed_views, to_plane
from training.analysis.equator import equator_distance, equator_rows
from training.analysis.panoramas import AnalysedConfig
from training.analysis.view_coverage import TURNS, ViewCoverageConfig, analyse_views, coverage
from training.checkpoint import save_checkpoint
from training.data.panoramas import PanoramaConfig, open_panoramas, read_panorama
from training.data.views import ViewConfig, ViewPair
from training.models.contrastive import ContrastiveConfig, ContrastiveModel
from training.models.encoders import build_encoder
from training.models.prior import PriorConfig
from training.models.saliency_model import SaliencyModel, SaliencyModelConfig
from training.trained_models import read_encoder, read_predictor

Run = Callable[[Sequence[str]], int]


@pytest.fixture(scope="module")
def panoramas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three panoramas of 128 x 256: stripes along the meridians, so that a turn about the axis changes little."""
    folder = tmp_path_factory.mktemp("panoramas")
    for i in range(3):
        waves = np.sin((2 + i) * 3 * erp_directions(128, 256)[..., 2:] + i)
        cv2.imwrite(str(folder / f"stripes_{i}.png"), np.round(127 + 100 * waves).astype(np.uint8).repeat(3, axis=2))
    return folder


@pytest.fixture(scope="module")
def contrastive_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints of one encoder, the second with the first layer doubled."""
    torch.manual_seed(0)
    run = tmp_path_factory.mktemp("runs") / "first"
    config = ContrastiveConfig(encoder="compact", height=64)
    model = ContrastiveModel(config)
    save_checkpoint(run, 10, model, "contrastive", config, {})
    with torch.no_grad():
        next(model.encoder.parameters()).mul_(2)
    save_checkpoint(run, 250, model, "contrastive", config, {})
    return run


@pytest.fixture(scope="module")
def saliency_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    run = tmp_path_factory.mktemp("runs") / "saliency"
    config = SaliencyModelConfig(input_height=64, channels=8)
    save_checkpoint(run, 7, SaliencyModel(config), "saliency", config, {})
    return run


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `python -m training.analyse` with these arguments and returns its exit status."""

    def call(arguments: Sequence[str]) -> int:
        monkeypatch.setattr(sys, "argv", ["analyse", *map(str, arguments)])
        return one_line_errors(analyse.main)

    return call


def read_table(folder: Path, name: str) -> list[dict[str, str]]:
    picture = cv2.imread(str(folder / f"{name}.png"))
    assert picture.shape[0] > 100
    assert picture.std() > 5  # something is drawn
    with open(folder / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_change_is_the_norm_of_the_difference_by_that_of_the_weights() -> None:
    before = {"a": torch.tensor([[3.0, 4.0]]), "bias": torch.ones(2), "zero": torch.zeros(1, 2)}
    after = {"a": torch.tensor([[3.0, 1.0]]), "bias": torch.zeros(2), "zero": torch.ones(1, 2)}
    changes = layer_changes(before, after)
    assert changes["a"] == pytest.approx(3 / 5)
    assert math.isnan(changes["zero"])
    assert "bias" not in changes
    with pytest.raises(CheckpointError, match="a is missing"):
        layer_changes(before, {})


def test_a_module_of_the_figure_is_missed_before_the_analysis(
    run: Run, panoramas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(analyse.ANALYSES, "views", (ViewCoverageConfig, lambda _: pytest.fail("it has begun")))
    assert run(["views", f"--data.root={panoramas}", f"--output={tmp_path}"]) == 2
    assert capsys.readouterr().err.startswith("error: the Python module matplotlib is missing; ")


def test_change_takes_a_setting_that_a_checkpoint_lacks_from_the_defaults_and_refuses_one_of_another_type(
    tmp_path: Path,
) -> None:
    model = SaliencyModel(SaliencyModelConfig(input_height=64))
    for number, encoder in ((1, {}), (2, {"encoder": ["compact"]})):
        save_checkpoint(tmp_path / str(number), 1, model, "saliency", encoder, {})
    assert "stem.weight" in encoder_tensors(str(tmp_path / "1"))
    with pytest.raises(CheckpointError, match=r"the setting encoder is \['compact'\]; expected one of"):
        encoder_tensors(str(tmp_path / "2"))


def test_change_finds_the_layer_that_moved(run: Run, contrastive_run: Path, tmp_path: Path) -> None:
    before, after = contrastive_run / "step-00000010", contrastive_run
    assert run(["change", f"--before=[{before}]", f"--after=[{after}]", f"--output={tmp_path}"]) == 0
    rows = read_table(tmp_path, "change")
    names = [name for name, tensor in build_encoder("compact").state_dict().items() if tensor.ndim >= 2]
    assert [row["layer"] for row in rows] == names  # from the input on
    assert [float(row["change"]) for row in rows] == pytest.approx([1.0] + [0.0] * (len(names) - 1))
    assert rows[0]["encoder"] == "compact first @10 → compact first @250"


def test_correlation_measures_every_panorama(run: Run, contrastive_run: Path, panoramas: Path, tmp_path: Path) -> None:
    arguments = [f"--checkpoints=[{contrastive_run}]", f"--data.root={panoramas}", f"--output={tmp_path}"]
    assert run(["correlation", *arguments]) == 0
    rows = read_table(tmp_path, "correlation")
    assert [row["panorama"] for row in rows] == [f"stripes_{i}.png" for i in range(3)]
    assert all(-1 <= float(row["correlation"]) <= 1 for row in rows)


@pytest.fixture(scope="module")
def salient360(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """P1, P2, P75 and P98, grey, with a map each and one fixation."""
    root = tmp_path_factory.mktemp("salient360")
    for number in (1, 2, 75, 98):
        cv2.imwrite(str(root / f"P{number}_128x64.jpg"), np.full((64, 128, 3), number, np.uint8))
        np.ones((32, 64), "<f4").tofile(root / f"HEsalmap_{number}_64x32_32b.bin")
        (root / f"HEscanpath_{number}.txt").write_text("index, longitude, latitude, start\n0,0.5,0.5,0\n")
    return root


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ([], ["P75", "P98"]),
        (["--split=train"], ["P1", "P2"]),
        (["--split=all"], ["P1", "P2", "P75", "P98"]),
    ],
)
def test_table_2_is_measured_on_a_split_of_a_data_set(
    run: Run, contrastive_run: Path, salient360: Path, tmp_path: Path, options: list[str], names: list[str]
) -> None:
    of = ["--data.dataset=salient360", f"--data.root={salient360}", *options, f"--output={tmp_path}"]
    assert run(["correlation", f"--checkpoints=[{contrastive_run}]", *of]) == 0
    assert [row["panorama"] for row in read_table(tmp_path, "correlation")] == names


def test_table_3_and_figure_5_take_the_validation_part_of_a_data_set(
    run: Run, contrastive_run: Path, saliency_run: Path, salient360: Path, tmp_path: Path
) -> None:
    of = ["--data.dataset=salient360", f"--data.root={salient360}", f"--output={tmp_path}"]
    assert run(["equator", f"--models=[{saliency_run}]", *of]) == 0
    assert [row["panorama"] for row in read_table(tmp_path, "equator")] == ["P75", "P98"]
    assert run(["embedding", f"--checkpoints=[{contrastive_run}]", "--turned_views=1", *of]) == 0
    assert {row["panorama"] for row in read_table(tmp_path, "embedding")} == {"P75", "P98"}


def test_a_split_of_photographs_is_refused(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of = ["--data.dataset=osie", f"--data.root={tmp_path}", f"--output={tmp_path}"]
    assert run(["correlation", "--checkpoints=[a]", *of]) == 2
    assert "--data.dataset" in capsys.readouterr().err


@pytest.mark.parametrize("analysis", ["correlation", "embedding", "equator"])
def test_an_analysis_of_some_panoramas_spreads_them_evenly(
    run: Run, contrastive_run: Path, panoramas: Path, tmp_path: Path, analysis: str
) -> None:
    of = "--models=[bundled]" if analysis == "equator" else f"--checkpoints=[{contrastive_run}]"
    assert run([analysis, of, f"--data.root={panoramas}", f"--output={tmp_path}", "--limit=2"]) == 0
    names = [Path(path).name for path in open_panoramas(PanoramaConfig(str(panoramas))).paths]
    assert {row["panorama"] for row in read_table(tmp_path, analysis)} == {names[0], names[-1]}
    assert len(names) > 2


def test_embedding_draws_every_view_of_every_encoder(
    run: Run, contrastive_run: Path, panoramas: Path, tmp_path: Path
) -> None:
    both = f"--checkpoints=[{contrastive_run}/step-00000010,{contrastive_run}]"
    arguments = [both, f"--data.root={panoramas}", f"--output={tmp_path}", "--turned_views=2"]
    assert run(["embedding", *arguments]) == 0
    rows = read_table(tmp_path, "embedding")
    assert len(rows) == 2 * 3 * 3
    assert {row["view"] for row in rows} == {"plain", "turned 1", "turned 2"}
    assert {row["encoder"] for row in rows} == {"compact first @10", "compact first @250"}
    assert all(math.isfinite(float(row[key])) for row in rows for key in ("together_x", "own_y"))


def test_turned_views_are_embedded_at_the_encoders_height(contrastive_run: Path, panoramas: Path) -> None:
    encoder, found = read_encoder(contrastive_run), open_panoramas(PanoramaConfig(str(panoramas), height=128))
    config = EmbeddingConfig((str(contrastive_run),), AnalysedConfig(str(panoramas)), "o", turned_views=1)
    drawn = torch.from_numpy(ViewPair(config.seed, ViewConfig(height=64))(found[2], 0, 2)[1])
    with torch.no_grad():
        expected = encoder.model.embed(drawn[None])[0].numpy()
    np.testing.assert_allclose(embed_views(encoder, found, config)[2, 1], expected, atol=1e-5)


def test_points_of_one_cluster_stay_together_in_the_plane() -> None:
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(2, 1, 16)) * 5 + generator.normal(size=(2, 10, 16))
    points = to_plane(embeddings.reshape(20, 16).astype(np.float32), 0, seed=0).reshape(2, 10, 2)
    centres = points.mean(axis=1)
    spread = np.linalg.norm(points - centres[:, None], axis=2).max()
    assert np.linalg.norm(centres[0] - centres[1]) > 2 * spread


def test_too_few_points_for_the_perplexity_give_a_one_line_error(
    run: Run, contrastive_run: Path, panoramas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--checkpoints=[{contrastive_run}]", f"--data.root={panoramas}", f"--output={tmp_path}"]
    assert run(["embedding", *arguments, "--turned_views=0"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: there are 3 embeddings")
    assert list(tmp_path.iterdir()) == []


def test_distance_to_the_prior_is_zero_for_the_prior_and_grows_away_from_it() -> None:
    prior = PriorConfig()
    density = np.broadcast_to(equator_rows(prior, 90), (90, 180)).astype(np.float32)
    assert equator_distance(density, prior) == pytest.approx(0, abs=1e-9)
    p = equator_rows(prior, 90) * solid_angles(90, 180) * 180 / (4 * np.pi)  # mass of each row
    q = solid_angles(90, 180) * 180 / (4 * np.pi)
    by_hand = sum(float(a) * math.log(a / b) for a, b in zip(p[:, 0], q[:, 0], strict=True))
    assert equator_distance(np.ones((90, 180)), prior) == pytest.approx(by_hand, rel=1e-6)


def test_equator_compares_checkpoints_and_the_bundled_model(
    run: Run, saliency_run: Path, panoramas: Path, tmp_path: Path
) -> None:
    arguments = [f"--models=[{saliency_run},bundled]", f"--data.root={panoramas}", f"--output={tmp_path}"]
    assert run(["equator", *arguments]) == 0
    rows = read_table(tmp_path, "equator")
    assert {row["model"] for row in rows} == {"compact saliency @7", "bundled"}
    with_prior = [float(row["kld"]) for row in rows if row["model"] != "bundled"]
    assert max(with_prior) < 0.2  # an untrained decoder says "uniform", so the prior alone is left

    assert run(["equator", *arguments, "--prior_strength=0"]) == 0
    without = [float(row["kld"]) for row in read_table(tmp_path, "equator") if row["model"] != "bundled"]
    assert min(without) > 0.25


@pytest.mark.parametrize(("view", "zone"), [("top to front", "top"), ("bottom to front", "bottom")])
def test_turned_views_draw_the_poles_as_little_stretched_as_the_horizon(view: str, zone: str) -> None:
    before, after = coverage(TURNS["panorama"], 64), coverage(TURNS[view], 64)
    assert before[f"{zone}_share"] == pytest.approx(0.25)  # the rows above 45 degrees
    assert before[f"{zone}_stretch"] > 5
    assert after[f"{zone}_stretch"] < 1.2
    assert sum(after[f"{each}_share"] for each in ("top", "equator", "bottom")) == pytest.approx(1)


def test_views_are_drawn(run: Run, panoramas: Path, tmp_path: Path) -> None:
    arguments = [f"--data.root={panoramas}", f"--output={tmp_path}", "--panoramas=2", "--views.height=64"]
    assert run(["views", *arguments]) == 0
    assert [row["view"] for row in read_table(tmp_path, "views")] == list(TURNS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tables"], "there is no analysis 'tables'"),
        (["change", "--before=[a,b]", "--after=[a]", "--output=o"], "before is ('a', 'b') and after is ('a',)"),
        (["change", "--before=[nowhere]", "--after=[nowhere]", "--output=o"], "nowhere"),
        (["correlation", "--checkpoints=[]", "--data.root=d", "--output=o"], "checkpoints is empty"),
        (["correlation", "--checkpoints=[a]", "--data.root=d", "--split=train", "--output=o"], "no training part"),
        (["equator", "--data.root=d", "--data.fold=1", "--models=[a]", "--output=o"], "fold only for a data set"),
        (["views", "--data.root=nowhere", "--output=o"], "nowhere"),
        (["views", "--unknown=1"], "unknown"),
    ],
)
def test_mistakes_give_a_one_line_error(
    run: Run,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert says in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_a_saliency_checkpoint_has_no_contrastive_encoder(
    run: Run, saliency_run: Path, panoramas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--checkpoints=[{saliency_run}]", f"--data.root={panoramas}", f"--output={tmp_path}"]
    assert run(["correlation", *arguments]) == 2
    assert "holds a saliency model" in capsys.readouterr().err


def test_panoramas_of_a_models_own_size_are_predicted_without_a_warning(saliency_run: Path, tmp_path: Path) -> None:
    predictor = read_predictor(str(saliency_run))
    path = tmp_path / "own.png"
    cv2.imwrite(str(path), np.zeros((predictor.height, 2 * predictor.height, 3), np.uint8))
    panorama = read_panorama(path, predictor.height)
    panorama.flags.writeable = False  # as cached panoramas are
    assert np.isfinite(predictor.predict(panorama)).all()


def test_a_contrastive_checkpoint_predicts_no_saliency(
    run: Run, contrastive_run: Path, panoramas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["equator", f"--models=[{contrastive_run}]", f"--data.root={panoramas}", f"--output={tmp_path}"]) == 2
    assert "holds a contrastive model; give the checkpoint of a saliency model" in capsys.readouterr().err


def test_help_lists_the_analyses(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"analyse {name}" in shown for name in analyse.ANALYSES)


def test_names_are_drawn_as_they_are_whatever_is_in_them(
    panoramas: Path, contrastive_run: Path, tmp_path: Path
) -> None:
    """Dollar signs are no formulas; other bytes and letters that the font lacks raise nothing."""
    name = os.fsdecode("x $a_$ 部 ".encode() + b"\xe9")
    strange = shutil.copytree(contrastive_run, tmp_path / name, symlinks=True)
    before, after = (str(strange / f"step-{step:08d}") for step in (10, 250))
    analyse_change(ChangeConfig((before,), (after,), str(tmp_path / "out")))
    assert "x $a_$ 部 \\udce9 @10" in read_table(tmp_path / "out", "change")[0]["encoder"]
    for i, path in enumerate(sorted(panoramas.iterdir())):
        (tmp_path / "named").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "named" / f"{name}{i}.png")
    analyse_views(
        ViewCoverageConfig(PanoramaConfig(str(tmp_path / "named"), 64), str(tmp_path / "out"), ViewConfig(height=64))
    )
    assert read_table(tmp_path / "out", "views")


@pytest.mark.parametrize("analysis", ["correlation", "embedding", "equator"])
def test_two_models_of_one_name_are_refused_because_the_table_could_not_tell_them_apart(
    run: Run,
    contrastive_run: Path,
    saliency_run: Path,
    panoramas: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    analysis: str,
) -> None:
    option, of = ("models", saliency_run) if analysis == "equator" else ("checkpoints", contrastive_run)
    both = f"--{option}=[{of}/last,{of}]"
    assert run([analysis, both, f"--data.root={panoramas}", f"--output={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert "two models have the name compact" in error
    assert f"list each model once in --{option}" in error
