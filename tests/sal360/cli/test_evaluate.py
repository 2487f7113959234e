from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sal360.density import as_density, spherical_density
from sal360.ground_truth import GazeRecord
from sal360.images import read_map
from sal360.metrics import METRICS, PAPER_METRICS, paper_protocol, standard_protocol
from sal360.outputs.smoothing import TemporalSmoothing
from sal360.predictor import Predictor
from sal360.replay.recorders import OverlayVideo
from sal360.sources import open_source
from sal360.sources.bag import Bag


def read_report(folder: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    with (folder / "frames.csv").open(newline="") as file:
        return json.loads((folder / "report.json").read_text()), list(csv.DictReader(file))


def expected_scores(scene: Any, model: Path, index: int, density: np.ndarray) -> dict[str, float]:
    """Both protocols' metrics of a frame, without a bag; `density` is the ground truth's."""
    fixations = scene.fixations[index].astype(np.float64)
    record = GazeRecord(
        "direct",
        lambda: np.zeros((1, 2, 3), np.uint8),
        fixations / np.linalg.norm(fixations, axis=-1, keepdims=True),
        scene.OBSERVERS,
        np.full(5, np.nan),
        density,
    )
    with Predictor(model, backend="onnxruntime") as predictor:
        prediction = predictor.predict(scene.frames[index], "bgr")
    scores = {}
    for protocol, metrics in (("standard", standard_protocol), ("paper", paper_protocol)):
        scores |= {f"{protocol}_{metric}": value for metric, value in metrics(prediction, record).items()}
    assert set(scores) == {*(f"standard_{each}" for each in METRICS), *(f"paper_{each}" for each in PAPER_METRICS)}
    return scores


def test_metrics_equal_those_computed_directly(
    any_bag: Any, turning_scene: Any, run_evaluate: Any, tiny_model: Path, tmp_path: Path
) -> None:
    known = 2  # of the six frames: the paper's protocol works at 1024 x 2048 and is slow
    bag = any_bag.write(
        tmp_path / "run.bag",
        {
            "/camera": turning_scene.image_messages(any_bag),
            "/gaze/map": turning_scene.map_messages(any_bag)[:known],
            "/gaze/fixations": turning_scene.cloud_messages(any_bag)[:known],
        },
    )
    options = ("--output", tmp_path, "--no-video", "--smoothing-time-constant-s", 0)
    outcome = run_evaluate(bag, *options, "--ground-truth", "/gaze/map", "--ground-truth", "/gaze/fixations")
    assert outcome.status == 0, outcome.err
    report, rows = read_report(tmp_path)
    for index, row in enumerate(rows[:known]):
        expected = expected_scores(turning_scene, tiny_model, index, as_density(turning_scene.maps[index], "direct"))
        assert {name: float(row[name]) for name in expected} == pytest.approx(expected, abs=1e-6)
    for name in expected:
        assert report["figures"][name] == pytest.approx(np.mean([float(row[name]) for row in rows[:known]]), abs=1e-9)
    assert report["figures"]["frames_with_truth"] == known
    assert rows[known]["standard_nss"] == ""


@pytest.mark.parametrize(("options", "sigma_deg"), [([], 3.34), (["--truth-sigma-deg", "12"], 12.0)])
def test_fixations_alone_give_every_metric_of_both_protocols(
    options: list[str],
    sigma_deg: float,
    mcap_bag: Any,
    turning_scene: Any,
    run_evaluate: Any,
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    topics = {
        "/camera": turning_scene.image_messages(mcap_bag),
        "/gaze": turning_scene.cloud_messages(mcap_bag)[3:4],
    }
    bag = mcap_bag.write(tmp_path / "run", topics)
    unsmoothed = ("--no-video", "--no-bag", "--smoothing-time-constant-s", 0)
    outcome = run_evaluate(bag, "--output", tmp_path / "out", *unsmoothed, "--ground-truth", "/gaze", *options)
    assert outcome.status == 0, outcome.err
    report, rows = read_report(tmp_path / "out")
    expected = expected_scores(
        turning_scene, tiny_model, 3, spherical_density(turning_scene.fixations[3], 256, 512, sigma_deg)
    )
    assert {name: float(rows[3][name]) for name in expected} == pytest.approx(expected, abs=1e-6)
    assert f"blurred by {sigma_deg:g} degrees" in report["about"]["ground truth"]


def test_the_turn_and_the_flicker_of_a_turning_scene_are_found(
    mcap_bag: Any, turning_scene: Any, run_evaluate: Any, tmp_path: Path
) -> None:
    bag = mcap_bag.write(tmp_path / "run", {"/camera": turning_scene.image_messages(mcap_bag)})
    assert run_evaluate(bag, "--output", tmp_path / "out", "--no-bag", "--no-video").status == 0
    report, rows = read_report(tmp_path / "out")
    assert [float(row["yaw_deg"]) for row in rows[1:]] == pytest.approx([6.0] * 5, abs=0.1)
    assert report["figures"]["yaw_rate_deg_s"] == pytest.approx(60, abs=0.5)
    assert rows[0]["flicker"] == ""
    assert report["figures"]["flicker"] == pytest.approx(np.mean([float(row["flicker"]) for row in rows[1:]]))
    assert report["figures"]["frames"] == report["figures"]["answered"] == 6
    assert report["figures"]["duration_s"] == pytest.approx(0.5)


def test_the_bag_with_the_maps_holds_frames_maps_overlays_and_targets_of_the_same_stamps(
    any_bag: Any, turning_scene: Any, run_evaluate: Any, tiny_model: Path, tmp_path: Path
) -> None:
    bag = any_bag.write(tmp_path / "run.bag", {"/camera": turning_scene.image_messages(any_bag)})
    assert run_evaluate(bag, "--output", tmp_path, "--no-video").status == 0
    smoothing = TemporalSmoothing()
    with Predictor(tiny_model, backend="onnxruntime") as predictor, Bag(tmp_path / "saliency_bag") as written:
        assert not written.damage
        assert {name: topic.count for name, topic in written.topics.items() if name != "/saliency/target"} == {
            "/camera": 6,
            "/saliency": 6,
            "/saliency/overlay/compressed": 6,
        }
        for index, message in enumerate(written.messages(["/saliency"])):
            fields = message.decode()
            stamp_ns = fields.header.stamp.sec * 10**9 + fields.header.stamp.nanosec
            assert (stamp_ns, fields.header.frame_id) == (turning_scene.stamps_ns[index], "camera")
            expected = predictor.predict(turning_scene.frames[index], "bgr")
            smoothed = smoothing.update(expected, stamp_ns / 1e9)
            np.testing.assert_array_equal(read_map(fields), smoothed)
        for message in written.messages(["/saliency/target"]):
            point = message.decode().point
            assert np.hypot(np.hypot(point.x, point.y), point.z) == pytest.approx(1)
    copied = list(open_source(tmp_path / "saliency_bag", topic="/camera"))
    np.testing.assert_array_equal([frame.image for frame in copied], turning_scene.frames)


def test_the_video_has_every_frame_at_its_time(
    mcap_bag: Any, turning_scene: Any, run_evaluate: Any, tmp_path: Path
) -> None:
    bag = mcap_bag.write(tmp_path / "run", {"/camera": turning_scene.image_messages(mcap_bag)})
    assert run_evaluate(bag, "--output", tmp_path / "out", "--no-bag").status == 0
    frames = list(open_source(tmp_path / "out" / "overlay.mp4"))
    np.testing.assert_allclose([frame.stamp_s for frame in frames], np.arange(6) / 10, atol=1e-3)
    assert frames[0].image.shape == (64, 128, 3)
    assert np.abs(frames[0].image.astype(int) - turning_scene.frames[0]).mean() > 10, "no heat map over the frame"


def test_the_page_refers_to_nothing_but_the_spheres_and_the_video(
    mcap_bag: Any, turning_scene: Any, run_evaluate: Any, tmp_path: Path
) -> None:
    topics = {"/camera": turning_scene.image_messages(mcap_bag), "/map": turning_scene.map_messages(mcap_bag)[:1]}
    bag = mcap_bag.write(tmp_path / "run <b>", topics)
    outcome = run_evaluate(
        bag, "--output", tmp_path / "out", "--no-bag", "--require", "answered>=6", "--ground-truth", "/map", plots=True
    )
    assert outcome.status == 0, outcome.err
    page = (tmp_path / "out" / "report.html").read_text()
    assert "</html>" in (tmp_path / "out" / "spheres.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert [source for source in sources if not source.startswith("data:image/")] == [
        "spheres.html",
        "spheres.html",
        "overlay.mp4",
    ]
    assert len(sources) >= 8  # overlays, cost, flicker, turn, target, two protocols, mean map
    assert "run &lt;b&gt;" in page
    assert "answered &gt;= 6" in page
    for name in ("p95_cost_ms", "flicker", "peak_rss_mb"):
        assert name in page


def test_two_runs_give_the_same_maps_and_rows(
    mcap_bag: Any, turning_scene: Any, run_evaluate: Any, tmp_path: Path
) -> None:
    bag = mcap_bag.write(tmp_path / "run", {"/camera": turning_scene.image_messages(mcap_bag)})
    runs = []
    for name in ("first", "second"):
        assert run_evaluate(bag, "--output", tmp_path / name, "--no-video", "--no-bag").status == 0
        _, rows = read_report(tmp_path / name)
        runs.append([{key: row[key] for key in row if not key.endswith("_ms")} for row in rows])
    assert runs[0] == runs[1]


def test_bad_frames_are_counted_by_their_reason_and_the_rest_is_answered(
    mcap_bag: Any, turning_scene: Any, run_evaluate: Any, tmp_path: Path
) -> None:
    (when, good), *_ = turning_scene.image_messages(mcap_bag)
    square = mcap_bag.image(when, np.zeros((64, 64, 3), np.uint8), "bgr8")
    novel = mcap_bag.image(when, turning_scene.frames[0], "novel")
    entries = [(when, good), (when + 1, square), (when + 2, novel), (when + 3, b"\0\1\0\0no"), (when + 4, good)]
    bag = mcap_bag.write_typed(tmp_path / "run", {"/camera": ("sensor_msgs/msg/Image", entries)})
    outcome = run_evaluate(bag, "--output", tmp_path / "out", "--require", "rejected==3", "--require", "answered==2")
    assert outcome.status == 0, outcome.err
    report, rows = read_report(tmp_path / "out")
    assert report["rejected"] == {"not_2_to_1": 1, "unknown_encoding": 1, "bad_message": 1}
    assert [row["status"] for row in rows] == ["answered", "rejected", "rejected", "rejected", "answered"]
    assert report["figures"]["answered_share"] == pytest.approx(0.4)


def test_a_recording_without_a_usable_frame_has_a_report_and_no_video_and_gives_status_1(
    mcap_bag: Any, run_evaluate: Any, tmp_path: Path
) -> None:
    square = mcap_bag.image(1, np.zeros((64, 64, 3), np.uint8), "rgb8")
    bag = mcap_bag.write(tmp_path / "run", {"/c": [(1, square), (2, square)]})
    outcome = run_evaluate(bag, "--output", tmp_path / "out")
    assert outcome.status == 1
    assert outcome.err.startswith(
        "error: no frame has a map; 2 of 2 frames: rejected for not_2_to_1 (a frame that is not twice"
    )
    assert "so not equirectangular): the frame is 64 x 64; describe the frames with --camera" in outcome.err
    assert outcome.err.count("\n") == 1
    assert "rejected for not_2_to_1: 2" in outcome.out
    mismatch = run_evaluate(bag, "--output", tmp_path / "out", "--camera", "cubemap")
    assert mismatch.status == 1
    assert "the frame is 64 x 64, whose faces in the layout 3x2 would be" in mismatch.err
    assert mismatch.err.endswith("; correct --camera (docs/cameras.md)\n")
    assert mismatch.err.count("\n") == 1
    limited = run_evaluate(bag, "--output", tmp_path / "out", "--max-pixels", 64)
    assert limited.err.endswith("; raise --max-pixels\n")
    assert "<video" not in (tmp_path / "out" / "report.html").read_text()
    assert not (tmp_path / "out" / "overlay.mp4").exists()


def test_an_unmet_requirement_gives_status_1_and_is_reported(
    mcap_bag: Any, turning_scene: Any, run_evaluate: Any, tmp_path: Path
) -> None:
    bag = mcap_bag.write(tmp_path / "run", {"/camera": turning_scene.image_messages(mcap_bag)})
    options = (bag, "--output", tmp_path / "out", "--no-video", "--no-bag")
    outcome = run_evaluate(*options, "--require", "answered>=6", "--require", "max_cost_ms<0")
    assert outcome.status == 1
    assert "met: answered >= 6\nNOT MET: max_cost_ms < 0" in outcome.out
    report, _ = read_report(tmp_path / "out")
    assert [each["met"] for each in report["requirements"]] == [True, False]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--require", "p95_latency_ms<50"], "this run has no figure p95_latency_ms; expected one of answered, "),
        (["--require", "standard_nss>1"], "this run has no figure standard_nss"),
        (["--require", "fast"], "the requirement is 'fast'"),
        (["--rate", "2"], "--rate was given without --live"),
        (["--node-parameter", "threads:=1"], "--node-parameter was given without --live"),
        (["--topic", "/none"], "has no topic /none; expected one of its topics: /camera"),
        (["--ground-truth", "/none", "--truth-sigma-deg", "0.1"], "sigma_deg is 0.1 for a map of 512 x 256"),
        (["--ground-truth", "/none"], "the ground truth /none is neither a topic of"),
        (["--truth-sigma-deg", "nan"], "argument --truth-sigma-deg: nan is not a value from 0 to 60"),
    ],
)
def test_a_mistake_gives_a_one_line_error_before_anything_is_written(
    options: list[str], line: str, mcap_bag: Any, turning_scene: Any, run_evaluate: Any, tmp_path: Path
) -> None:
    bag = mcap_bag.write(tmp_path / "run", {"/camera": turning_scene.image_messages(mcap_bag)})
    outcome = run_evaluate(bag, "--output", tmp_path / "out", *options)
    assert outcome.status == 2
    assert line in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("module", ["av", "psutil", "rclpy"])
def test_a_package_that_is_not_installed_gives_a_one_line_error(tmp_path: Path, mcap_bag: Any, module: str) -> None:
    bag = mcap_bag.write(tmp_path / "run", {"/c": [(1, mcap_bag.image(1, np.zeros((8, 16, 3), np.uint8), "rgb8"))]})
    command = f"import runpy, sys; sys.modules[{module!r}] = None; runpy.run_module('sal360', run_name='__main__')"
    live = ["--live"] if module == "rclpy" else []
    ended = subprocess.run(
        [sys.executable, "-c", command, "evaluate", bag, "--output", tmp_path / "out", *live],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    said = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert said[0].startswith(f"error: the Python module {module} is missing; ")
    assert "Traceback" not in ended.stderr


def test_a_truncated_bag_is_reported_as_far_as_it_goes_and_is_an_error(
    mcap_bag: Any, run_evaluate: Any, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 256, 3), np.uint8)
    message = mcap_bag.image(1, noise, "rgb8")
    bag = mcap_bag.write(tmp_path / "run", {"/camera": [(i * 10**8, message) for i in range(40)]})
    (storage,) = bag.glob("*.mcap")
    storage.write_bytes(storage.read_bytes()[: storage.stat().st_size // 2])
    outcome = run_evaluate(bag, "--output", tmp_path / "out", "--no-video", "--no-bag")
    assert outcome.status == 2
    assert "is cut off" in outcome.err
    assert outcome.err.count("\n") == 1
    report, rows = read_report(tmp_path / "out")
    assert 10 <= report["figures"]["answered"] == len(rows) <= 20
    assert "is cut off" in report["remarks"][0]


def test_an_interrupted_run_leaves_the_old_results_whole(
    mcap_bag: Any, turning_scene: Any, run_evaluate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = mcap_bag.write(tmp_path / "run", {"/camera": turning_scene.image_messages(mcap_bag)})
    assert run_evaluate(bag, "--output", tmp_path / "out").status == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    frames_before_power_cut = iter([True, True])

    def draw(*_: Any) -> np.ndarray:
        if not next(frames_before_power_cut, False):
            raise KeyboardInterrupt
        return np.zeros((64, 128, 3), np.uint8)

    monkeypatch.setattr("sal360.replay.evaluation.overlay_of", draw)
    assert run_evaluate(bag, "--output", tmp_path / "out").status == 130
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_a_jpeg_stream_is_evaluated_like_any_other(
    mcap_bag: Any, turning_scene: Any, run_evaluate: Any, tmp_path: Path
) -> None:
    frames = zip(turning_scene.stamps_ns, turning_scene.frames, strict=True)
    entries = [(stamp, mcap_bag.compressed(stamp, frame)) for stamp, frame in frames]
    bag = mcap_bag.write(tmp_path / "run", {"/camera/compressed": entries})
    assert run_evaluate(bag, "--output", tmp_path / "out", "--require", "answered>=6").status == 0
    with Bag(tmp_path / "out" / "saliency_bag") as written:
        (first, *_) = written.messages(["/saliency/overlay/compressed"])
        overlay = cv2.imdecode(np.asarray(first.decode().data), cv2.IMREAD_COLOR)
    assert overlay.shape == (64, 128, 3)


FAST = ("--no-video", "--no-bag")


def test_missing_parts_of_a_bag_are_in_the_report_and_give_status_2(
    mcap_bag: Any, turning_scene: Any, run_evaluate: Any, tmp_path: Path
) -> None:
    bag = mcap_bag.write(tmp_path / "run", {"/camera": turning_scene.image_messages(mcap_bag)})
    metadata = bag / "metadata.yaml"
    text = metadata.read_text().replace("- run.mcap", "- run.mcap\n  - run_1.mcap")
    metadata.write_text(text.replace("message_count: 6", "message_count: 9"))
    outcome = run_evaluate(bag, "--output", tmp_path / "out", *FAST)
    assert outcome.status == 2
    expected = f"{bag}/run_1.mcap, which metadata.yaml lists, is missing; 6 of 9 messages were read"
    assert outcome.err.startswith(f"error: {expected}")
    assert outcome.err.count("\n") == 1
    report, rows = read_report(tmp_path / "out")
    assert len(rows) == 6
    assert report["remarks"][0].startswith(expected)
    assert "run_1.mcap" in (tmp_path / "out" / "report.html").read_text()


def test_lost_samples_and_files_that_are_not_read_are_notes(
    mcap_bag: Any, turning_scene: Any, run_evaluate: Any, tmp_path: Path
) -> None:
    bag = mcap_bag.write(tmp_path / "run", {"/camera": turning_scene.image_messages(mcap_bag)})
    (bag / "other.mcap").write_bytes((bag / "run.mcap").read_bytes())
    (tmp_path / "gaze").mkdir()
    (tmp_path / "gaze" / f"{turning_scene.stamps_ns[0]}.csv").write_text("x,y,z\n1,0,0\n0,0,0\n,,\n")
    options = ("--ground-truth", tmp_path / "gaze", "--protocol", "standard")
    outcome = run_evaluate(bag, "--output", tmp_path / "out", *FAST, *options)
    assert outcome.status == 0, outcome.err
    notes = [
        f"{bag}/other.mcap is not listed in metadata.yaml, and was not read",
        "2 samples of the ground truth are lost (zeros, NaN or empty) and were left out",
    ]
    assert outcome.err.splitlines() == [f"note: {each}" for each in notes]
    assert read_report(tmp_path / "out")[0]["remarks"] == notes


@pytest.mark.parametrize("truth", ["a header alone", "zeros"])
def test_empty_ground_truth_gives_status_1(
    mcap_bag: Any, turning_scene: Any, run_evaluate: Any, tmp_path: Path, truth: str
) -> None:
    bag = mcap_bag.write(tmp_path / "run", {"/camera": turning_scene.image_messages(mcap_bag)})
    (tmp_path / "gaze").mkdir()
    at = tmp_path / "gaze" / str(turning_scene.stamps_ns[0])
    if truth == "zeros":
        np.save(f"{at}.npy", np.zeros((8, 16), np.float32))
    else:
        Path(f"{at}.csv").write_text("x,y,z\n")
    options = ("--ground-truth", tmp_path / "gaze", "--protocol", "standard")
    outcome = run_evaluate(bag, "--output", tmp_path / "out", *FAST, *options)
    assert outcome.status == 1
    line = "error: no frame with a map has ground truth; choose another --ground-truth"
    assert outcome.err.splitlines()[-1] == line


@pytest.mark.parametrize(
    "stamps_s",
    [
        (0.5, 0.6, 1_700_000_000.0, 1_700_000_000.1),
        (1e9, 1e9 + 0.1, 1e9 + 3600, 1e9 + 3600.1),
        (1e9, 1e9 + 0.1, 1e9 + 30 * 86400, 1e9 + 30 * 86400 + 0.1),
        (1e9, 1e9 + 0.1, 1e9 - 5e8, 1e9 - 5e8 + 0.1),
    ],
    ids=["no clock at the start", "an hour on", "a month on", "back"],
)
def test_a_clock_that_was_set_while_recording_gives_a_report_and_a_video(
    mcap_bag: Any, turning_scene: Any, run_evaluate: Any, tmp_path: Path, stamps_s: tuple[float, ...]
) -> None:
    stamps = [round(each * 1e9) for each in stamps_s]
    messages = [
        (max(stamps) + index, mcap_bag.image(stamp, turning_scene.frames[index], "bgr8"))
        for index, stamp in enumerate(stamps)
    ]
    bag = mcap_bag.write(tmp_path / "run", {"/camera": messages})
    outcome = run_evaluate(bag, "--output", tmp_path / "out", "--no-bag")
    assert outcome.status == 0, outcome.err
    assert outcome.err.startswith("note: the stamps jump by ")
    assert read_report(tmp_path / "out")[0]["figures"]["answered"] == 4
    times = [frame.stamp_s for frame in open_source(tmp_path / "out" / "overlay.mp4")]
    np.testing.assert_allclose(times, [0, 0.1, 0.2, 0.3], atol=1e-3)


def test_times_before_1970_give_a_report_and_a_bag(
    sqlite_bag: Any, turning_scene: Any, run_evaluate: Any, tmp_path: Path
) -> None:
    messages = [(index - 5, sqlite_bag.image(0, turning_scene.frames[index], "bgr8")) for index in range(3)]
    outcome = run_evaluate(sqlite_bag.write(tmp_path / "run", {"/camera": messages}), "--output", tmp_path / "out")
    assert outcome.status == 0, outcome.err
    with Bag(tmp_path / "out" / "saliency_bag") as bag:
        assert len(list(bag.messages(["/camera"]))) == 3


def test_reports_of_bags_do_not_replace_each_other_and_names_keep_their_dots(
    mcap_bag: Any, turning_scene: Any, run_evaluate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    topics = {"/camera": turning_scene.image_messages(mcap_bag)[:1]}
    first = mcap_bag.write(tmp_path / "run.2026.11.01", topics)
    (tmp_path / "b").mkdir()
    others = [mcap_bag.write(tmp_path / "run.2026.11.02", topics), mcap_bag.write(tmp_path / "b" / first.name, topics)]
    for bag, name in zip([first, *others, first], ["01", "02", "01", "01"], strict=True):
        outcome = run_evaluate(bag, *FAST)
        assert outcome.status == 0, outcome.err
        assert f"out/replay/run.2026.11.{name}_offline" in outcome.out
    names = ["run.2026.11.01_offline", "run.2026.11.01_offline_2", "run.2026.11.02_offline"]
    assert sorted(each.name for each in (tmp_path / "out" / "replay").iterdir()) == names
    about = read_report(tmp_path / "out" / "replay" / names[1])[0]["about"]
    assert about["bag"] == str(others[1])
    monkeypatch.chdir(first)
    assert "out/replay/run.2026.11.01_offline/" in run_evaluate(".", *FAST).out


def test_an_input_that_is_not_a_recording_gives_a_one_line_error_and_status_2(
    run_evaluate: Any, tmp_path: Path
) -> None:
    for name in (
        "RUN.MCAP",
        "run.mcap.zstd",
        "run.db3.zstd",
        "run.bag.active",
        "metadata.yaml",
        "clip.mp4",
        "notes.txt",
    ):
        (tmp_path / name).write_text("x")
    (tmp_path / "empty").mkdir()
    for path in [*tmp_path.iterdir(), tmp_path / "absent"]:
        outcome = run_evaluate(path)
        assert outcome.status == 2
        assert outcome.err.startswith("error: ")
        assert outcome.err.count("\n") == 1
        assert str(tmp_path) in outcome.err


def test_pictures_give_a_one_line_error_that_names_the_command_for_them(run_evaluate: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert cv2.imwrite(str(tmp_path / "in" / "room.png"), np.zeros((64, 128, 3), np.uint8))
    for path, what in ((tmp_path / "in" / "room.png", "a picture"), (tmp_path / "in", "a folder of pictures")):
        outcome = run_evaluate(path)
        assert outcome.status == 2
        assert outcome.err == f"error: {path} is {what}; run `sal360 predict` on it, or name a bag or a video\n"


def video_of(scene: Any, path: Path) -> Path:
    with OverlayVideo(path) as video:
        for frame, stamp in zip(scene.frames, scene.stamps_ns, strict=True):
            video.write(frame, stamp)
    return path


def test_a_video_is_evaluated_like_a_bag(turning_scene: Any, run_evaluate: Any, tmp_path: Path) -> None:
    video = video_of(turning_scene, tmp_path / "drive.2026.mp4")
    (tmp_path / "gaze").mkdir()
    np.save(tmp_path / "gaze" / "0.1.npy", turning_scene.maps[1])
    options = ("--ground-truth", tmp_path / "gaze", "--protocol", "standard", "--require", "frames_with_truth==1")
    outcome = run_evaluate(video, "--output", tmp_path / "out", *options)
    assert outcome.status == 0, outcome.err
    report, rows = read_report(tmp_path / "out")
    assert report["about"]["video"] == str(video)
    assert [int(row["stamp_ns"]) / 1e9 for row in rows] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5], abs=1e-3)
    assert rows[1]["standard_cc"]
    assert [float(row["yaw_deg"]) for row in rows[1:]] == pytest.approx([6.0] * 5, abs=0.3)
    assert len(list(open_source(tmp_path / "out" / "overlay.mp4"))) == 6
    copied = list(open_source(tmp_path / "out" / "saliency_bag", topic="/video/image/compressed"))
    assert np.abs(copied[3].image.astype(int) - turning_scene.frames[3]).mean() < 10
    outcome = run_evaluate(video, "--topic", "/camera")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)


def test_a_cut_video_is_reported_as_far_as_it_goes_and_is_an_error(
    turning_scene: Any, run_evaluate: Any, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.avi"
    writer = cv2.VideoWriter(str(cut), cv2.VideoWriter_fourcc(*"MJPG"), 10, (128, 64))
    for frame in turning_scene.frames:
        writer.write(frame)
    writer.release()
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    outcome = run_evaluate(cut, "--output", tmp_path / "out", *FAST)
    assert outcome.status == 2
    assert "cut.avi is cut off after " in outcome.err
    report, rows = read_report(tmp_path / "out")
    assert 0 < len(rows) < 6
    assert "is cut off" in report["remarks"][0]


def test_a_recording_is_never_replaced_by_its_own_results(
    mcap_bag: Any, turning_scene: Any, run_evaluate: Any, tmp_path: Path
) -> None:
    bag = mcap_bag.write(tmp_path / "saliency_bag", {"/camera": turning_scene.image_messages(mcap_bag)})
    (part,) = bag.glob("*.mcap")
    video = tmp_path / "overlay.mp4"
    with OverlayVideo(video) as writer:
        for index in range(3):
            writer.write(np.full((64, 128, 3), index, np.uint8), index * 10**8)
    before = part.read_bytes(), video.read_bytes()
    (tmp_path / "link").symlink_to(tmp_path)
    for recording in (bag, part, video):
        for folder in (tmp_path, tmp_path / "link"):
            outcome = run_evaluate(recording, "--output", folder)
            assert outcome.status == 2
            assert "where the results would replace the recording" in outcome.err
    assert (part.read_bytes(), video.read_bytes()) == before
    assert run_evaluate(bag, "--output", tmp_path / "out").status == 0
