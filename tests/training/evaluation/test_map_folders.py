"""Folders of maps that other models wrote: files, names, sizes, and their scores beside pysaliency and slow oracles."""

from __future__ import annotations

import csv
import itertools
import math
import re
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

from sal360.density import sphere_mean
from sal360.errors import DataError, ParameterError, one_line_errors
from sal360.sphere import solid_angles
from training import evaluate as command
from training.analysis.set_scores import SetScoresConfig, analyse_sets
from training.data.gaze.datasets import GazeConfig, open_gaze
from training.data.gaze.mixed_photographs import PhotographSetsConfig
from training.data.gaze.photographs import resize_plane
from training.data.gaze.photographs_with_fixations import read_photographs
from training.data.gaze.records import mean_over_cells
from training.evaluate import EvaluateConfig
from training.evaluation.map_folders import MapFolder, pair_files, read_map_file
from training.evaluation.predictions import PictureTruth, Prediction, picture_truth
from training.evaluation.scoring import planar_protocol

RAMP = np.arange(1.0, 33.0).reshape(4, 8)


def slow_planar(prediction, counts, truth, baseline):
    """The published definitions, pixel by pixel: Bylinskii et al. 2019; Kümmerer et al. 2015."""
    pixels = list(np.ndindex(prediction.shape))
    fixated = [pixel for pixel in pixels for _ in range(counts[pixel])]
    mean = sum(prediction[p] for p in pixels) / len(pixels)
    deviation = math.sqrt(sum((prediction[p] - mean) ** 2 for p in pixels) / len(pixels))
    others = [p for p in pixels if counts[p] == 0]
    wins = sum(
        (prediction[f] > prediction[o]) + (prediction[f] == prediction[o]) / 2
        for f, o in itertools.product(fixated, others)
    )
    q, p, b = (each / sum(each[i] for i in pixels) for each in (prediction, truth, baseline))
    true_mean = sum(truth[i] for i in pixels) / len(pixels)
    true_deviation = math.sqrt(sum((truth[i] - true_mean) ** 2 for i in pixels) / len(pixels))
    products = sum((prediction[i] - mean) * (truth[i] - true_mean) for i in pixels) / len(pixels)
    epsilon = 2.2204e-16
    return {
        "auc_judd": wins / (len(fixated) * len(others)),
        "nss": sum(prediction[f] - mean for f in fixated) / deviation / len(fixated),
        "cc": products / (deviation * true_deviation),
        "sim": sum(min(p[i], q[i]) for i in pixels),
        "kld": sum(p[i] * math.log(epsilon + p[i] / (q[i] + epsilon)) for i in pixels),
        "information_gain": sum(math.log2(q[f] / b[f]) for f in fixated) / len(fixated),
    }


def by_pysaliency(prediction, counts, truth, baseline):
    pysaliency = pytest.importorskip("pysaliency", reason="pysaliency is the oracle: pip install .[oracle]")
    from pysaliency.roc_cython import general_roc

    row, column = (np.repeat(each, counts[counts > 0]) for each in np.nonzero(counts))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy.trapz, inside pysaliency
        auc = general_roc(prediction[row, column], prediction[counts == 0])[0]
    gains = np.log2((prediction / prediction.sum())[row, column] / (baseline / baseline.sum())[row, column])
    return {
        "auc_judd": auc,
        "nss": pysaliency.metrics.NSS(prediction, column, row).mean(),
        "cc": pysaliency.metrics.CC(prediction, truth),
        "sim": pysaliency.metrics.SIM(prediction, truth),
        "kld": pysaliency.metrics.MIT_KLDiv(prediction, truth),
        "information_gain": gains.mean(),
    }


@pytest.fixture
def planar():
    """A prediction, counts, true density and baseline, (12, 16)."""
    rng = np.random.default_rng(20)
    prediction, truth, baseline = (rng.random((12, 16)) ** 3 + 1e-3 for _ in range(3))
    return prediction, rng.poisson(0.2, (12, 16)), truth, baseline


@pytest.mark.parametrize("oracle", [slow_planar, by_pysaliency])
def test_planar_figures_are_those_of_the_published_definitions(planar, oracle):
    prediction, counts, truth, baseline = planar
    found = planar_protocol(prediction, PictureTruth(counts, truth), baseline)
    assert found == pytest.approx(oracle(prediction, counts, truth, baseline), abs=1e-6)


def test_planar_kld_is_that_of_the_benchmark_where_the_prediction_is_zero(planar):
    prediction, counts, truth, baseline = planar
    holes = np.where(prediction < 0.1, 0, prediction)
    tiny = np.where(prediction < 0.1, 1e-17, prediction)  # as large as the benchmark's epsilon
    for each in (holes, tiny):
        found = planar_protocol(each, PictureTruth(counts, truth), baseline)["kld"]
        q, p = each / each.sum(), truth / truth.sum()
        assert found == pytest.approx(np.sum(p * np.log(2.2204e-16 + p / (q + 2.2204e-16))), abs=1e-6)
        assert found > 5


def test_what_the_ground_truth_lacks_is_left_out_of_planar_figures(planar):
    prediction, counts, truth, baseline = planar
    nobody = PictureTruth(np.zeros_like(counts), truth)
    assert planar_protocol(prediction, nobody, baseline).keys() == {"cc", "sim", "kld"}
    assert planar_protocol(prediction, PictureTruth(counts, None), baseline).keys() == {
        "auc_judd",
        "nss",
        "information_gain",
    }


def test_a_map_that_is_zero_everywhere_counts_as_uniform(planar):
    _, counts, truth, baseline = planar
    zero, flat = (
        planar_protocol(np.full((12, 16), value), PictureTruth(counts, truth), baseline) for value in (0.0, 7.0)
    )
    assert zero == pytest.approx(flat)


# --- files ---


def write_map(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".bin":
        values.astype(f"<f{int(re.search(r'_(16|32|64)b', path.name)[1]) // 8}").tofile(path)
    else:
        assert cv2.imwrite(str(path), values)


@pytest.mark.parametrize("name", ["a.npy", "a_8x4_32b.bin", "a_8x4_64b.bin", "a_8x4_16b.bin", "HEsalmap_3_8x4_32b.bin"])
def test_arrays_and_binary_maps_keep_their_values_up_to_scale(tmp_path, name):
    write_map(tmp_path / name, RAMP)
    found = read_map_file(tmp_path / name)
    np.testing.assert_allclose(found / found[0, 0], RAMP, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint8, np.int64, bool])
def test_arrays_of_any_numbers_and_with_axes_of_length_one_are_read(tmp_path, dtype):
    values = RAMP.astype(dtype)
    for shape in ((4, 8), (1, 4, 8), (4, 8, 1)):
        write_map(tmp_path / "a.npy", values.reshape(shape))
        np.testing.assert_array_equal(read_map_file(tmp_path / "a.npy"), values)


@pytest.mark.parametrize(
    ("suffix", "dtype"), [(".png", np.uint8), (".png", np.uint16), (".tif", np.uint16), (".PNG", np.uint8)]
)
def test_grey_pictures_keep_their_values(tmp_path, suffix, dtype):
    values = (RAMP * (1900 if dtype is np.uint16 else 7)).astype(dtype)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(cv2.imencode(suffix.lower(), values)[1].tobytes())
    np.testing.assert_array_equal(read_map_file(path), values)


def test_a_map_stored_as_a_grey_jpeg_is_read(tmp_path):
    smooth = cv2.resize((RAMP * 7).astype(np.uint8), (64, 32))
    write_map(tmp_path / "a.jpg", cv2.cvtColor(smooth, cv2.COLOR_GRAY2BGR))
    assert np.abs(read_map_file(tmp_path / "a.jpg") - smooth).max() < 8


@pytest.mark.parametrize(
    ("name", "values", "complaint"),
    [
        ("a.npy", np.where(RAMP == 5, np.nan, RAMP), "not finite"),
        ("a.npy", np.where(RAMP == 5, np.inf, RAMP), "not finite"),
        ("a.npy", RAMP - 2, "negative values"),
        ("a.npy", RAMP * 0, "zero everywhere"),
        ("a.npy", np.stack([RAMP, RAMP]), r"the shape \(2, 4, 8\)"),
        ("a.npy", RAMP.ravel(), r"the shape \(32,\)"),
        ("a.npy", RAMP + 1j, "does not hold one array of numbers"),
        ("a.npy", np.array([["x"]]), "does not hold one array of numbers"),
        ("a_8x4x2_32b.bin", np.stack([RAMP, RAMP]), "maps of 2 frames"),
        ("a_9x4_32b.bin", RAMP, "cut short"),
        ("a_8x3_32b.bin", RAMP, "has 128 bytes"),
        ("a_8x4_32b.bin", RAMP - 9, "negative or not finite"),
        ("a.png", np.zeros((4, 8), np.uint8), "zero everywhere"),
        ("a.png", np.full((4, 8, 3), (0, 0, 200), np.uint8), "in colour"),
    ],
)
def test_unusable_maps_are_named(tmp_path, name, values, complaint):
    write_map(tmp_path / name, values)
    with pytest.raises(DataError, match=rf"{name}.* {complaint}|{complaint}"):
        read_map_file(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.npy", b"", "not a NumPy array"),
        ("a.npy", b"\x93NUMPY\x01\x00v", "not a NumPy array"),
        ("a.png", b"not a picture", "starts with bytes"),
        ("a.bin", b"\0" * 128, "no size in its name"),
        ("a.png", cv2.imencode(".png", RAMP.astype(np.uint8))[1].tobytes()[:-20], "damaged or cut"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, complaint):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=complaint) as caught:
        read_map_file(tmp_path / name)
    assert name in str(caught.value)


# --- names ---


@pytest.mark.parametrize(
    ("file", "picture"),
    [
        ("1001.png", "1001.jpg"),
        ("1001.npy", "1001.jpg"),
        ("1001.jpg", "1001.jpg"),
        ("1001.jpg.npy", "1001.jpg"),
        ("deep/er/1001.npy", "1001.jpg"),
        ("P75.npy", "P75"),
        ("P75_9104x4552.png", "P75"),
        ("P75_9104x4552.jpg.npy", "P75"),
        ("P75_2048x1024_32b.bin", "P75"),
        ("HEsalmap_75_2048x1024_32b.bin", "P75"),
        ("Hsalmap_75_2048x1024_32b.bin", "P75"),
        ("017/240.npy", "017/240"),
        ("run/017/240.npy", ""),  # another video's frames may lie beside it
        ("P7.npy", ""),
        ("1001_overlay.png", ""),
    ],
)
def test_a_map_belongs_to_the_picture_that_it_is_named_like(file, picture):
    names = ["1001.jpg", "1002.jpg", "P75", "017/240"]
    found, extra = pair_files(Path("maps"), [Path("maps") / file], names)
    assert list(found) == ([picture] if picture else [])
    assert extra == ([] if picture else [file])


def test_a_name_with_a_size_in_it_is_taken_literally_first():
    names = ["room.jpg", "room_64x32.jpg"]
    files = [Path("m/room_64x32.npy"), Path("m/room.npy")]
    assert pair_files(Path("m"), files, names)[0] == {"room_64x32.jpg": files[0], "room.jpg": files[1]}


def test_maps_that_fit_twice_are_refused():
    with pytest.raises(DataError, match=r"a\.npy and m/a\.png are both maps of a\.jpg"):
        pair_files(Path("m"), [Path("m/a.npy"), Path("m/a.png")], ["a.jpg"])
    with pytest.raises(DataError, match=r"m/a\.npy fits a\.jpg and a\.png; name it a\.jpg\.npy"):
        pair_files(Path("m"), [Path("m/a.npy")], ["a.jpg", "a.png"])
    both = pair_files(Path("m"), [Path("m/a.jpg.npy"), Path("m/a.png.npy")], ["a.jpg", "a.png"])[0]
    assert both == {"a.jpg": Path("m/a.jpg.npy"), "a.png": Path("m/a.png.npy")}


def test_missing_maps_are_counted_and_named_and_extra_ones_too(tmp_path):
    for name in ("0", "1", "2", "stray"):
        write_map(tmp_path / f"maps/{name}.npy", RAMP)
    names = [f"{i}.jpg" for i in range(12)]
    with pytest.raises(DataError) as caught:
        MapFolder(tmp_path / "maps").pair(names, names)
    some = ", ".join(f"{i}.jpg" for i in range(3, 11))
    assert f"lacks the maps of 9 of 12 pictures: {some}, …" in str(caught.value)
    assert "stray.npy" in str(caught.value)
    folder = MapFolder(tmp_path / "maps")
    folder.pair(names, names[:2])
    assert folder.unused == "1 map of no picture left out: stray.npy; 1 map of pictures that are not measured"


def test_maps_of_other_pictures_are_told_from_missing_ones(tmp_path):
    for name in ("x", "y"):
        write_map(tmp_path / f"{name}.png", (RAMP * 7).astype(np.uint8))
    with pytest.raises(
        DataError, match=r"no checkpoint, and its maps .*: x\.png, y\.png; expected names such as 1\.png"
    ):
        MapFolder(tmp_path).pair(["1.jpg", "2.jpg"], ["1.jpg"])


def test_hidden_files_and_overlays_of_predicted_maps_are_no_maps(tmp_path):
    for name in ("a.npy", ".b.npy", ".thumbnails/c.png", "notes.txt", "a_overlay.png"):
        write_map(tmp_path / name, RAMP.astype(np.uint8)) if not name.endswith("txt") else (tmp_path / name).touch()
    folder = MapFolder(tmp_path)
    folder.pair(["a.jpg"], ["a.jpg"])
    assert folder.unused == ""


def test_a_damaged_map_is_found_before_anything_is_measured(tmp_path):
    write_map(tmp_path / "a.npy", RAMP)
    (tmp_path / "b.npy").write_bytes(b"cut")
    folder = MapFolder(tmp_path)
    folder.pair(["a", "b"], ["a"])
    with pytest.raises(DataError, match=r"b\.npy"):
        folder.pair(["a", "b"], ["a", "b"])


def test_a_folder_without_maps_is_named(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"has no checkpoint and no maps; expected files with \.npy \.bin"):
        MapFolder(tmp_path)


# --- sizes ---


@pytest.mark.parametrize("size", [(16, 32), (12, 24), (7, 13), (30, 20), (48, 96), (40, 30)])
def test_resampled_maps_are_averages_by_solid_angle_along_each_axis(size):
    fine = np.random.default_rng(21).random((40, 80))
    found = mean_over_cells(fine, *size)
    if size[0] <= 40 and size[1] <= 80:
        assert sphere_mean(found) == pytest.approx(sphere_mean(fine), rel=1e-4)
        area = solid_angles(40, 80) * np.ones((40, 80))
        if 40 % size[0] == 0 and 80 % size[1] == 0:
            shape = (size[0], 40 // size[0], size[1], 80 // size[1])
            expected = (fine * area).reshape(shape).sum(axis=(1, 3)) / area.reshape(shape).sum(axis=(1, 3))
            np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("size", [(8, 10), (16, 10), (16, 160), (4, 40)])
def test_maps_of_photographs_are_averages_along_each_axis_that_shrinks(size):
    stripe = np.zeros((8, 80))
    stripe[:, 3] = 8
    found = resize_plane(stripe, *size)
    assert found.shape == size
    assert found.mean() == pytest.approx(stripe.mean(), rel=1e-6)
    if size[1] == 10:
        np.testing.assert_allclose(found[:, 0], 1, rtol=1e-6)


def test_a_grid_that_is_finer_along_one_axis_alone_loses_nothing_along_the_other():
    """A bright column between the coarse columns' centres; looked up bilinearly, it would vanish."""
    stripe = np.zeros((8, 80))
    stripe[:, 3] = 8
    found = mean_over_cells(stripe, 16, 10)
    inner = found[1:-1]  # the outer rows see beyond the poles
    np.testing.assert_allclose(inner[:, 0], 1, rtol=1e-6)
    assert inner[:, 1:].max() == 0


# --- the command ---


def config_of(data, output, **settings):
    defaults = {
        "models": (),
        "baselines": ("uniform",),
        "panorama_height": 64,
        "draws": 50,
        "cases": 1,
        "examples": 1,
        "protocols": ("standard", "planar"),
    }
    return EvaluateConfig(data=data, output=str(output), **{**defaults, **settings})


def of(scores, model, protocol):
    return {each.record: each.values for each in scores if (each.model, each.protocol) == (model, protocol)}


@pytest.mark.parametrize("form", ["npy", "bin", "official"])
def test_true_maps_of_panoramas_score_as_the_truth_in_every_protocol(salient360_root, tmp_path, form):
    data = GazeConfig(root=str(salient360_root), dataset="salient360")
    for record in open_gaze(data, 64).measuring:
        name = {
            "npy": f"{record.name}.npy",
            "bin": f"{record.name}_128x64_32b.bin",
            "official": f"HEsalmap_{record.name[1:]}_128x64_32b.bin",
        }[form]
        write_map(tmp_path / "maps" / name, 3 * record.density)
    settings = {"models": (str(tmp_path / "maps"),), "protocols": ("standard", "paper", "planar")}
    scores = command.evaluate(config_of(data, tmp_path / "out", baselines=("ground_truth",), **settings))
    for protocol in settings["protocols"]:
        for record, values in of(scores, "ground_truth", protocol).items():
            assert of(scores, "maps", protocol)[record] == pytest.approx(values, abs=1e-5)
            assert values["cc"] == pytest.approx(1)


def test_maps_of_panoramas_have_the_planar_figures_of_the_oracle(salient360_root, tmp_path):
    data = GazeConfig(root=str(salient360_root), dataset="salient360")
    rng = np.random.default_rng(22)
    maps, records = {}, {each.name: each for each in open_gaze(data, 64).measuring}
    for name in records:
        maps[name] = rng.random((64, 128)) ** 4 + 1e-3
        write_map(tmp_path / f"other/{name}.npy", maps[name])
    scores = command.evaluate(config_of(data, tmp_path / "out", models=(str(tmp_path / "other"),)))
    for name, values in of(scores, "other", "planar").items():
        counts, density = picture_truth(records[name])
        values.pop("information_gain")
        expected = slow_planar(maps[name], counts, density.astype(np.float64), np.ones((64, 128)))
        expected.pop("information_gain")
        assert values == pytest.approx(expected, abs=1e-6)
    for name, values in of(scores, "other", "standard").items():  # weighted by solid angle: another figure
        assert abs(values["cc"] - of(scores, "other", "planar")[name]["cc"]) > 1e-4


def test_maps_of_photographs_are_measured_in_their_own_plane(osie_root, tmp_path):
    root, panoramas = osie_root
    data = GazeConfig(root=str(root), panoramas=str(panoramas), folds=3)
    split = open_gaze(data, 64)
    rng = np.random.default_rng(23)
    maps = {name: cv2.resize(rng.random((6, 8)), (800, 600)) + 0.01 for name in split.measuring.names}
    for name, values in maps.items():
        write_map(tmp_path / f"other/{Path(name).stem}.npy", values)
    scores = command.evaluate(config_of(data, tmp_path / "out", models=(str(tmp_path / "other"),)))
    assert of(scores, "other", "planar").keys() == maps.keys()
    for record in split.measuring:
        photograph, values = record.photograph, maps[record.name]
        found = of(scores, "other", "planar")[record.name]
        at = values[photograph.y.astype(int), photograph.x.astype(int)]
        truth = photograph.density().astype(np.float64)
        assert found["nss"] == pytest.approx((at.mean() - values.mean()) / values.std(), abs=1e-6)
        assert found["cc"] == pytest.approx(np.corrcoef(values.ravel(), truth.ravel())[0, 1], abs=1e-6)
        p, q = truth / truth.sum(), values / values.sum()
        assert found["sim"] == pytest.approx(np.minimum(p, q).sum(), abs=1e-6)
        assert found["kld"] == pytest.approx((p * np.log(p / q)).sum(), abs=1e-6)


def test_a_photograph_s_map_on_its_panorama_is_that_map_again_when_it_is_looked_up(osie_root):
    root, panoramas = osie_root
    record = open_gaze(GazeConfig(root=str(root), panoramas=str(panoramas), folds=3), 64).measuring[0]
    plane = record.photograph.density(400)  # half the size
    on_panorama = Prediction(plane, record, of_picture=True).on_panorama
    assert (on_panorama[~record.valid] == 0).all()
    assert np.corrcoef(on_panorama[record.valid], record.density[record.valid])[0, 1] > 0.999
    back = Prediction(on_panorama, record, of_picture=False).on_picture
    assert back.shape == (600, 800)
    assert np.corrcoef(back.ravel(), record.photograph.density().ravel())[0, 1] > 0.99


def test_photographs_with_maps_alone_are_measured_by_what_they_support(ham_root, osie_root, tmp_path):
    data = GazeConfig(root=str(ham_root), dataset="ham", panoramas=str(osie_root[1]), folds=3)
    for record in open_gaze(data, 64).measuring:
        write_map(tmp_path / f"true/{record.name}.npy", record.photograph.density())
    settings = {"models": (str(tmp_path / "true"),), "baselines": ("equator", "mean", "people", "ground_truth")}
    scores = command.evaluate(config_of(data, tmp_path / "out", protocols=("standard", "paper", "planar"), **settings))
    assert {each.model for each in scores} == {"true", "equator", "mean", "ground_truth"}  # there are no people
    for protocol in ("standard", "planar"):
        for values in of(scores, "true", protocol).values():
            assert values.keys() == {"cc", "sim", "kld"}
            assert values["cc"] > 0.998
            assert values["kld"] < 0.01
    assert 0 < np.mean([values["cc"] for values in of(scores, "mean", "planar").values()]) < 0.9


def test_panoramas_with_gaze_take_maps_of_any_size_and_say_how_they_were_resampled(tmp_path, capsys):
    root = tmp_path / "headset"
    (root / "stimuli").mkdir(parents=True)
    names = [f"{i:02d}.jpg" for i in range(4)]
    rng = np.random.default_rng(24)
    for name in names:
        cv2.imwrite(str(root / "stimuli" / name), np.full((64, 128, 3), 90, np.uint8))
    maps = cv2.resize(rng.random((8, 16)), (64, 32)) + rng.random((4, 32, 64)) / 9
    np.savez(root / "gaze.npz", names=np.array(names), maps=maps.astype(np.float32))
    data = GazeConfig(root=str(root), dataset="pavs10k", folds=2)
    for name, values in zip(names, maps, strict=True):
        write_map(tmp_path / f"fine/{name}.npy", np.kron(values, np.ones((3, 3))))
        write_map(tmp_path / f"coarse/{name}.npy", mean_over_cells(values, 16, 32))
    models = (str(tmp_path / "fine"), str(tmp_path / "coarse"))
    scores = command.evaluate(config_of(data, tmp_path / "out", models=models, every_fold=True))
    assert of(scores, "fine", "standard").keys() == set(names)
    for protocol in ("standard", "planar"):
        # not 1: rows near a pole are weighted within each cell
        assert min(values["cc"] for values in of(scores, "fine", protocol).values()) > 0.9999
        assert 0.8 < min(values["cc"] for values in of(scores, "coarse", protocol).values()) < 0.999
    page = (tmp_path / "out/report.html").read_text()
    for text in (capsys.readouterr().out, page):
        assert "4 maps of 192 x 96 averaged over the pixels of 64 x 32" in text
        assert "4 maps of 32 x 16 interpolated to 64 x 32" in text


def run(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["evaluate", *options])
    return one_line_errors(command.main)


def test_missing_maps_end_with_status_2_before_anything_is_measured(salient360_root, tmp_path, monkeypatch, capsys):
    write_map(tmp_path / "maps/P75.npy", np.ones((64, 128)))
    monkeypatch.setattr(command, "fit_priors", lambda *_: pytest.fail("the measurement has begun"))
    options = (f"--data.root={salient360_root}", "--data.dataset=salient360", f"--output={tmp_path / 'out'}")
    assert run(monkeypatch, *options, f"--models=[{tmp_path / 'maps'}]") == 2
    error = capsys.readouterr().err
    assert "lacks the maps of 2 of 3 pictures: P76, P77" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_extra_maps_are_named_and_baselines_are_models_too(salient360_root, tmp_path, monkeypatch, capsys):
    for name in ("P1", "P75", "P76", "P77", "P99"):
        write_map(tmp_path / f"maps/{name}.png", (RAMP * 7).astype(np.uint8))
    options = (f"--data.root={salient360_root}", "--data.dataset=salient360", f"--output={tmp_path / 'out'}")
    models = f"--models=[{tmp_path / 'maps'}, bms360, ground_truth]"
    few = ("--baselines=[uniform]", "--panorama_height=64", "--draws=20", "--cases=1", "--examples=2")
    assert run(monkeypatch, *options, models, *few) == 0
    said = capsys.readouterr()
    assert "1 map of no picture left out: P99.png; 1 map of pictures that are not measured" in said.err
    with open(tmp_path / "out/summary.csv") as file:
        rows = {(row["model"], row["protocol"]) for row in csv.DictReader(file)}
    assert {each for each, _ in rows} == {"maps", "bms360", "ground_truth", "uniform"}
    assert {each for _, each in rows} == {"standard", "paper", "planar"}
    page = (tmp_path / "out/report.html").read_text()
    assert "P99.png" in page
    assert page.index("Scores, planar protocol") < page.index("Maps side by side") < page.index("Worst cases of maps")
    shown = page[page.index("Maps side by side") : page.index("Worst cases")]
    assert re.findall(r"<figcaption>(P\d+): maps has AUC-J", shown) == ["P75", "P77"]


def test_two_models_of_one_name_are_refused(salient360_root, tmp_path):
    for folder in ("one/maps", "two/maps", "uniform"):
        write_map(tmp_path / folder / "P75.npy", RAMP)
    data = GazeConfig(root=str(salient360_root), dataset="salient360")
    for models, found in ((("one/maps", "two/maps"), "two models have the name maps"), (("uniform",), "a baseline's")):
        config = config_of(data, tmp_path / "out", models=tuple(str(tmp_path / each) for each in models))
        with pytest.raises(ParameterError, match=found):
            command.evaluate(config)


def test_maps_stand_beside_models_on_several_sets_of_photographs(osie_root, tmp_path, capsys):
    root, _ = osie_root
    data = PhotographSetsConfig(root=str(root.parent), sets={"osie": 1.0}, folds=3)
    for photograph in read_photographs(root):
        write_map(tmp_path / f"maps/osie/{photograph.name}.npy", photograph.density(200))
    analyse_sets(SetScoresConfig(data, str(tmp_path / "out"), models=(str(tmp_path / "maps"),), draws=20))
    table = capsys.readouterr().out
    row = next(line for line in table.splitlines() if "| maps " in line)
    assert re.search(r"\| 1\.000 \[1\.000, 1\.000\] .+\| 0\.000 \[", row)  # CC and KLD of the truth
    with open(tmp_path / "out/sets.csv") as file:
        assert sum(row["model"] == "maps" for row in csv.DictReader(file)) == 2
