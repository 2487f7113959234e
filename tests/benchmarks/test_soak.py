"""benchmarks/soak.py reports growth and slow recovery, and nothing else."""

from __future__ import annotations

import importlib
import threading
from collections import Counter
from types import SimpleNamespace

import pytest
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from sal360.cameras import CameraSettings, open_camera
from sal360.predictor import Predictor
from sal360.settings import flatten
from sal360_ros import saliency_node
from sal360_ros.parameters import SaliencyParameters
from sal360_ros.processes import ProcessError

pytestmark = pytest.mark.ros


def test_inference_of_the_node_under_test_fails_and_works_on_command(repository, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    faulty_node = importlib.import_module("faulty_node")
    command = tmp_path / "command"
    command.write_bytes(bytes([faulty_node.NONE]))
    monkeypatch.setenv(faulty_node.VARIABLE, str(command))
    monkeypatch.setattr(Predictor, "__init__", lambda *_, **__: None)
    monkeypatch.setattr(Predictor, "predict_batch", lambda *_: "maps")
    seen = []

    def main():
        predictor = object.__new__(Predictor)
        seen.append(predictor.predict_batch())
        faulty_node.mapped(command)[0] = faulty_node.FAIL
        with pytest.raises(RuntimeError, match="injected by the benchmark"):
            predictor.predict_batch()
        faulty_node.mapped(command)[0] = faulty_node.HANG
        threading.Timer(0.3, lambda: faulty_node.mapped(command).__setitem__(0, faulty_node.NONE)).start()
        seen.append(predictor.predict_batch())
        faulty_node.mapped(command)[0] = faulty_node.HANG + 2
        for _ in range(2):
            with pytest.raises(RuntimeError, match="injected by the benchmark"):
                predictor.predict_batch()
        seen.append(predictor.predict_batch())
        faulty_node.mapped(command)[0] = faulty_node.FAIL
        Predictor("a model", threads=1)  # repairs inference
        seen.append(predictor.predict_batch())
        return 0

    monkeypatch.setattr(saliency_node, "main", main)
    assert faulty_node.main() == 0
    assert seen == ["maps"] * 4


@pytest.fixture
def judged(repository, monkeypatch):
    """The troubles of a soak of 30 samples and one recovery; a value may be given as a function of time."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    soak = importlib.import_module("soak")

    def judge(*, recovery_s=0.2, calm_s=0.1, crowds=None, said=(), **curves):
        steady = {"maps_hz": 30.0, "memory_mb": 400.0, "threads": 20, "handles": 30, "shared_memory_files": 9}
        samples = [
            {"time_s": time_s, **steady, **{name: curve(time_s) for name, curve in curves.items()}}
            for time_s in range(30)
        ]
        run = SimpleNamespace(
            samples=samples,
            recoveries=[("pause", recovery_s)],
            crowds=Counter(crowds or {}),
            troubles=list(said),
            calm_s=calm_s,
            frames=soak.FrameCounts(),
        )
        return soak.judge(run)["troubles"]

    return judge


def test_a_steady_node_with_peaks_and_a_heap_that_settles_has_no_trouble(judged):
    peaks = {"memory_mb": lambda time_s: 400 + 150 * (time_s % 5 == 0), "shared_memory_files": lambda t: 9 + t % 2}
    assert judged(**peaks, crowds={"left": 3, "hung": 1}) == []
    assert judged(memory_mb=lambda time_s: min(400, 300 + 10 * time_s)) == []


@pytest.mark.parametrize(
    ("name", "curve"),
    [
        ("memory_mb", lambda time_s: 400 + 2 * time_s),
        ("threads", lambda time_s: 20 + time_s // 10),
        ("handles", lambda time_s: 30 + time_s // 15),
        ("shared_memory_files", lambda time_s: 9 + (time_s >= 20)),
    ],
)
def test_growth_is_named(judged, name, curve):
    (trouble,) = judged(**{name: curve})
    assert trouble.startswith(f"{name} grew by ")


def test_cameras_of_different_formats_have_frames_that_their_models_accept(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    faults = importlib.import_module("faults")
    names = list(faults.CAMERAS)
    assert len(names) == 3
    assert len({faults.CAMERAS[name].camera.get("model", "auto") for name in names}) == 3
    for each in faults.CAMERAS.values():
        camera = open_camera(CameraSettings(**each.camera), *each.size)
        assert (camera.height, camera.width) == each.size
    parameters = faults.camera_parameters()
    assert parameters["cameras"] == names
    SaliencyParameters(cameras=tuple(names))
    known = {name for name, _, _ in flatten(SaliencyParameters())}
    for name in parameters.keys() - {"cameras"}:
        owner, _, setting = name.partition(".")
        assert owner in names
        assert setting in known


def test_a_camera_without_maps_while_another_is_away_is_a_trouble(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    soak = importlib.import_module("soak")
    driver = object.__new__(soak.Soak)
    driver._newest_stamp_s = {"front": 5.0, "rear": 4.0, "cube": 1.0}
    assert driver.silent_since(4.5, besides="cube") == ["rear"]
    assert driver.silent_since(3.0, besides="cube") == []


def test_a_slow_recovery_and_a_crowd_that_failed_are_troubles(judged):
    assert judged(recovery_s=1.5) == ["recovery from pause took 1.50 s"]
    assert judged(recovery_s=1.5, calm_s=0.6) == []  # the machine is busy with other work
    assert judged(crowds={"left": 1, "failed": 2}) == ["2 crowds of subscribers ended with an error"]
    assert judged(said=["the second node: no model"]) == ["the second node: no model"]


@pytest.fixture
def driver(repository, monkeypatch, tmp_path):
    """A `Soak` without a node, all of whose cameras have maps; `restored` counts how often the node was repaired."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    soak = importlib.import_module("soak")
    made = object.__new__(soak.Soak)
    log = tmp_path / "node.log"
    log.write_text("[ERROR] [1.0] [node]: inference hangs; deactivating\n[INFO] [2.0] [node]: hello\n")
    made.restored = 0

    def restore():
        made.restored += 1

    made._faults = SimpleNamespace(all={}, restore=restore, calm_s=0.0)
    made._process = SimpleNamespace(log=log, check_alive=lambda: None)
    made._newest_stamp_s, made.troubles, made.recoveries = {}, [], []
    return made


def test_a_refused_transition_is_a_trouble_with_the_nodes_errors_and_the_run_continues(driver):
    def refused():
        raise ProcessError("there is no transition 4 in the state inactive", "")

    driver._faults.all.update(reactivation=refused, pause=lambda: None)
    driver.run_fault("reactivation")
    driver.run_fault("pause")
    (trouble,) = driver.troubles
    assert trouble.startswith("reactivation: there is no transition 4")
    assert "inference hangs; deactivating" in trouble
    assert "hello" not in trouble
    assert driver.restored == 1
    assert [name for name, _ in driver.recoveries] == ["reactivation", "pause"]


def test_a_node_that_has_ended_ends_the_run(driver):
    def ended():
        raise ProcessError("saliency_node was ended by SIGSEGV", "")

    driver._faults.all["pause"], driver._process.check_alive = ended, ended
    with pytest.raises(ProcessError, match="SIGSEGV"):
        driver.run_fault("pause")
    assert driver.restored == 0


def test_frames_are_counted_over_all_activations(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    counts = importlib.import_module("soak").FrameCounts()
    for name, received, lost in (("front", 10, 1), ("rear", 5, 0), ("front", 30, 2), ("front", 4, 0), ("front", 6, 1)):
        values = {"state": "active", "received": str(received), "lost_in_transport": str(lost)}
        counts.add(
            DiagnosticStatus(name=name, values=[KeyValue(key=key, value=value) for key, value in values.items()])
        )
    assert counts.totals() == {
        "received": 30 + 6 + 5, "answered": 0, "dropped_stale": 0, "rejected": 0, "lost_in_transport": 2 + 1,
    }  # fmt: skip
