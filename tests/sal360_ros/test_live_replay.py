from __future__ import annotations

import csv
import errno
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from sal360.cameras import CameraSettings, open_camera
from sal360.images import read_map
from sal360.predictor import Predictor
from sal360.sources.bag import Bag

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy", reason="the ROS 2 libraries are not installed")

from sal360_ros import live_replay  # noqa: E402 - needs rclpy


def stretched(entries: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """Twice the frames' distance in time, so that a busy machine answers them all."""
    first, _ = entries[0]
    return [(first + 2 * (when - first), message) for when, message in entries]


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_a_subscriber_receives_the_map_of_every_frame_and_bad_ones_are_named(
    mcap_bag: Any, turning_scene: Any, run_evaluate: Any, tiny_model: Path, tmp_path: Path, transport: str
) -> None:
    if transport == "raw":
        entries = turning_scene.image_messages(mcap_bag)
        bad = mcap_bag.image(1, turning_scene.frames[0], "bgr8", step=3)
        reason = "bad_step"
    else:
        frames = zip(turning_scene.stamps_ns, turning_scene.frames, strict=True)
        entries = [(stamp, mcap_bag.compressed(stamp, frame, ".png")) for stamp, frame in frames]
        bad = mcap_bag.compressed(1, turning_scene.frames[0])
        bad.data = bad.data[:200]
        reason = "corrupt_jpeg"
    entries = stretched(entries)
    message_type = entries[0][1].__msgtype__
    # before them one message that the node refuses and one that is not even a message
    start, _ = entries[0]
    entries = [(start - 2 * 10**8, bad), (start - 10**8, b"\0\1\0\0no"), *entries]
    bag = mcap_bag.write_typed(tmp_path / "run", {"/camera": (message_type, entries)})
    options = ("--live", "--output", tmp_path / "out", "--no-video", "--smoothing-time-constant-s", 0)
    outcome = run_evaluate(bag, *options, "--require", "answered==6")
    assert outcome.status == 0, outcome.out + outcome.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["rejected"] == {reason: 1, "bad_message": 1}
    assert report["node"][f"rejected.{reason}"] == "1"
    assert report["node"]["answered"] == "6"
    figures = report["figures"]
    assert 0 < figures["p50_age_at_publish_ms"] <= figures["p50_latency_ms"] <= figures["max_latency_ms"]
    assert figures["peak_rss_mb"] > 10
    with (tmp_path / "out" / "frames.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["stamp_ns"]) for row in rows[2:]] == turning_scene.stamps_ns, "the report keeps the recorded stamps"
    with Predictor(tiny_model, backend="onnxruntime") as predictor, Bag(tmp_path / "out" / "saliency_bag") as written:
        for message, frame in zip(written.messages(["/saliency"]), turning_scene.frames, strict=True):
            np.testing.assert_allclose(read_map(message.decode()), predictor.predict(frame, "bgr"), rtol=1e-4)


def test_frames_of_another_camera_have_the_maps_that_they_have_offline(
    mcap_bag: Any, run_evaluate: Any, tiny_model: Path, tmp_path: Path
) -> None:
    """A calibration file with a setting beside it, so that both reach the node."""
    (tmp_path / "cube.yaml").write_text("model: cubemap\nfaces: unity\nstereo: top_bottom\n")
    random = np.random.default_rng(0)
    frames = [random.integers(0, 256, (80, 60, 3), dtype=np.uint8) for _ in range(3)]
    unfit = np.zeros((64, 128, 3), np.uint8)
    times = [1_700_000_000 * 10**9 + 3 * 10**8 * index for index in range(4)]
    entries = [(at, mcap_bag.image(at, each, "bgr8")) for at, each in zip(times, [unfit, *frames], strict=True)]
    bag = mcap_bag.write(tmp_path / "run", {"/camera": entries})
    camera = f"{tmp_path / 'cube.yaml'}:eye=right"
    common = ("--camera", camera, "--no-video", "--smoothing-time-constant-s", 0, "--require", "answered==3")
    for mode in ("live", "offline"):
        outcome = run_evaluate(bag, f"--{mode}", "--output", tmp_path / mode, *common)
        assert outcome.status == 0, outcome.out + outcome.err
        report = json.loads((tmp_path / mode / "report.json").read_text())
        assert report["rejected"] == {"camera_mismatch": 1}
        assert report["about"]["camera"] == f"file {tmp_path / 'cube.yaml'}, eye right"
    model = open_camera(CameraSettings(file=str(tmp_path / "cube.yaml"), eye="right"), 80, 60)
    with Predictor(tiny_model, backend="onnxruntime") as predictor, Bag(tmp_path / "live" / "saliency_bag") as written:
        maps = [read_map(message.decode()) for message in written.messages(["/saliency"])]
        for found, frame in zip(maps, frames, strict=True):
            np.testing.assert_allclose(found, predictor.predict(frame, "bgr", camera=model), rtol=1e-3, atol=1e-3)


def test_frames_that_come_too_fast_are_dropped_and_counted(
    mcap_bag: Any, turning_scene: Any, run_evaluate: Any, tmp_path: Path
) -> None:
    message = mcap_bag.image(1, np.zeros((512, 1024, 3), np.uint8), "rgb8")
    start, _ = turning_scene.image_messages(mcap_bag)[0]
    bag = mcap_bag.write(tmp_path / "run", {"/camera": [(start + i * 10**6, message) for i in range(60)]})
    options = ("--live", "--rate", "10", "--output", tmp_path / "out", "--no-video", "--no-bag")
    outcome = run_evaluate(bag, *options, "--require", "answered_share>=100%")
    assert outcome.status == 1, outcome.out + outcome.err
    figures = json.loads((tmp_path / "out" / "report.json").read_text())["figures"]
    assert figures["answered"] + figures["dropped"] == figures["frames"] == 60
    assert figures["answered"] >= 1


def test_a_node_that_refuses_its_model_gives_a_one_line_error(
    mcap_bag: Any, turning_scene: Any, run_evaluate: Any, tmp_path: Path
) -> None:
    bag = mcap_bag.write(tmp_path / "run", {"/camera": turning_scene.image_messages(mcap_bag)})
    outcome = run_evaluate(bag, "--live", "--output", tmp_path / "out", model=tmp_path / "absent.onnx")
    assert outcome.status == 2
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("theads:=1", "error: the node has no parameter theads; did you mean threads?"),
        ("colour:=red", "error: the node has no parameter colour; docs/parameters.md lists the parameters"),
        ("smoothing.reset_gap_s:=-2", "error: reset_gap_s is -2.0; set it to a value from 0 to 3600 s"),
        ("encoding:=jpeg", "error: encoding is 'jpeg'; set it to mono8 or 32FC1"),
        ("full_scale:=wide", ": cannot configure: full_scale is 'wide'; set it to a number"),
        ("encoding:=2026-13-45", "error: the node parameter is 'encoding:=2026-13-45'; expected NAME:=VALUE; write it"),
        ("saliency.layout:=source", "error: saliency.layout is 'source', and a report compares equirectangular maps;"),
        ("prior_strength:=99", "error: prior_strength is 99.0; set it to a value from 0 to"),
        ("camera.model:=cubemap", "error: --node-parameter sets camera.model; describe the frames with --camera"),
        ("cameras:=[front, rear]", "error: --node-parameter sets cameras; remove it; a replay has one camera"),
    ],
)
def test_a_node_parameter_that_is_refused_gives_a_one_line_error_with_its_cause(
    mcap_bag: Any, turning_scene: Any, run_evaluate: Any, tmp_path: Path, parameter: str, message: str
) -> None:
    bag = mcap_bag.write(tmp_path / "run", {"/camera": turning_scene.image_messages(mcap_bag)})
    outcome = run_evaluate(bag, "--live", "--node-parameter", parameter, "--output", tmp_path / "out")
    assert outcome.status == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_whole_numbers_are_taken_for_decimal_ones(
    mcap_bag: Any, turning_scene: Any, run_evaluate: Any, tmp_path: Path
) -> None:
    bag = mcap_bag.write(tmp_path / "run", {"/camera": stretched(turning_scene.image_messages(mcap_bag))})
    options = ("--live", "--node-parameter", "smoothing.reset_gap_s:=2", "--output", tmp_path / "out", "--no-video")
    outcome = run_evaluate(bag, *options, "--no-bag")
    assert outcome.status == 0, outcome.err


def test_maps_that_cannot_be_stored_are_an_error_and_not_dropped_frames(
    mcap_bag: Any, turning_scene: Any, run_evaluate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, stored = live_replay.MapSpool.append, []

    def append_until_full(spool: Any, *arguments: Any) -> Any:
        if stored:
            spool.close()
            spool._file = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115 - the spool closes it
        stored.append(1)
        return append(spool, *arguments)

    monkeypatch.setattr(live_replay.MapSpool, "append", append_until_full)
    bag = mcap_bag.write(tmp_path / "run", {"/camera": stretched(turning_scene.image_messages(mcap_bag))})
    outcome = run_evaluate(bag, "--live", "--output", tmp_path / "out", "--no-video", "--no-bag")
    assert outcome.status == 2
    assert "No space left on device" in outcome.err
    assert "set TMPDIR" in outcome.err


def test_the_receiver_that_fails_in_any_other_way_is_an_error_too(
    mcap_bag: Any, turning_scene: Any, run_evaluate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(live_replay.MapSpool, "append", fail)
    bag = mcap_bag.write(tmp_path / "run", {"/camera": stretched(turning_scene.image_messages(mcap_bag))})
    outcome = run_evaluate(bag, "--live", "--output", tmp_path / "out", "--no-video", "--no-bag")
    assert outcome.status == 2
    assert "the device failed to read or write" in outcome.err


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_node_ends_with_the_evaluation_however_that_ends(
    mcap_bag: Any, turning_scene: Any, tiny_model: Path, tmp_path: Path, how: signal.Signals
) -> None:
    start, message = turning_scene.image_messages(mcap_bag)[0]
    slow = [(start + i * 10**9, message) for i in range(600)]
    bag = mcap_bag.write(tmp_path / "run", {"/camera": slow})
    options = ["--live", "--model", tiny_model, "--backend", "onnxruntime", "--output", tmp_path / "out"]
    process = subprocess.Popen([sys.executable, "-m", "sal360", "evaluate", *map(str, [bag, *options])])
    parent = psutil.Process(process.pid)
    deadline_s = time.monotonic() + 60
    while not (nodes := parent.children()):
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    time.sleep(3)
    process.send_signal(how)
    assert process.wait(60) == (-how if how == signal.SIGKILL else 128 + how)
    _, left = psutil.wait_procs(nodes, timeout=60)
    assert not left


def test_a_clock_that_was_set_while_recording_does_not_stop_the_replay(
    mcap_bag: Any, turning_scene: Any, run_evaluate: Any, tmp_path: Path
) -> None:
    entries = turning_scene.image_messages(mcap_bag)
    month_ns = 30 * 86400 * 10**9
    later = [(when + month_ns * (index > 2), message) for index, (when, message) in enumerate(stretched(entries))]
    bag = mcap_bag.write(tmp_path / "run", {"/camera": later})
    outcome = run_evaluate(bag, "--live", "--output", tmp_path / "out", "--no-video", "--no-bag")
    assert outcome.status == 0, outcome.out + outcome.err
    assert json.loads((tmp_path / "out" / "report.json").read_text())["figures"]["answered"] == 6


def test_a_node_that_ends_during_a_long_pause_is_seen() -> None:
    class Ended(Exception):
        pass

    def check() -> None:
        raise Ended

    with pytest.raises(Ended):
        live_replay._sleep_until(float("inf"), check)
