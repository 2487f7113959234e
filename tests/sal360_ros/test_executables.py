"""The executables as separate processes."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rclpy
from sensor_msgs.msg import Image

from sal360.spec import read_onnx_spec
from sal360.sphere import solid_angles
from sal360.weights import bundled_model
from sal360_ros.executable import start_parameters
from sal360_ros.processes import NodeProcess, ProcessError, bring_up
from sal360_ros.saliency_node import max_message_bytes

pytestmark = pytest.mark.ros
MODULES = ("sal360_ros.saliency_node", "sal360_ros.panorama_camera")
TIMEOUT_S = 60.0


def start(module, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_until_signals_are_in_hand(process):
    """Wait for main's first line, where SIGINT is blocked; before it, the signal is Python's own affair."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        status = Path(f"/proc/{process.pid}/status").read_text()
        if int(re.search(r"SigBlk:\s+(\w+)", status)[1], 16) & 1 << (signal.SIGINT - 1):
            return
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.002)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(
    ("stop", "delay_s"), [(signal.SIGINT, 0.0), (signal.SIGTERM, 0.3), (signal.SIGINT, 0.7), (signal.SIGHUP, 1.5)]
)
def test_a_signal_at_any_moment_of_the_start_ends_the_process_cleanly(module, stop, delay_s):
    process = start(module)
    wait_until_signals_are_in_hand(process)
    time.sleep(delay_s)
    process.send_signal(stop)
    process.send_signal(stop)  # the impatient second one changes nothing
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    assert "Traceback" not in output


def test_a_hangup_that_is_ignored_does_not_end_the_process():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        process = start(MODULES[1], "--ros-args", "-p", "height_px:=64")
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_until_signals_are_in_hand(process)
    process.send_signal(signal.SIGHUP)
    time.sleep(1.0)
    assert process.poll() is None
    process.terminate()
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output


def test_a_process_that_cannot_finish_says_so_ends_and_leaves_nothing_in_shared_memory(tmp_path):
    """For example while a runtime compiles a model for minutes and cannot be interrupted."""
    (tmp_path / "stubborn.py").write_text(
        "import time\n"
        "from rclpy.node import Node\n"
        "class Stubborn(Node):\n"
        "    def __init__(self):\n"
        "        super().__init__('stubborn')\n"
        "        self.create_timer(0.01, lambda: print('busy', flush=True) or time.sleep(600))\n"
    )
    code = (
        f"import sys; sys.path.append({str(tmp_path)!r}); from sal360_ros import executable; "
        "executable.GRACE_S = 0.2; sys.exit("
        "executable.run('stubborn', 'Stubborn', 'stubborn', max_message_bytes=lambda _: 0))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert select.select([process.stdout], [], [], TIMEOUT_S)[0], "no output"
    assert process.stdout.readline() == "busy\n"
    own = segments_of(process.pid)
    process.terminate()
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert own
    assert not [name for name in own if Path(name).exists()]
    assert output == "shutdown timed out after 0.2 s; exiting\n"


def shared_memory_of(pid):
    """The middleware's files in /dev/shm that a process has mapped."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {line.split()[-1] for line in maps.splitlines() if "/dev/shm/fastrtps" in line or "/dev/shm/fastdds" in line}


def segments_of(pid):
    """The middleware's segments in /dev/shm that a process has created: it keeps their lock files open."""
    links = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.append(os.readlink(link))
    return {link.removesuffix("_el") for link in links if re.search(r"/dev/shm/fast(rtps|dds)_[0-9a-f]{16}_el", link)}


def test_an_active_node_leaves_nothing_in_shared_memory_when_it_is_told_to_stop(driver, tiny_model, tmp_path):
    parameters = {"model": str(tiny_model), "backend": "onnxruntime", "device": "cpu"}
    with NodeProcess(MODULES[0], parameters, log=tmp_path / "log") as process:
        bring_up(driver, "/saliency_node", process)
        own = shared_memory_of(process.pid) - shared_memory_of(os.getpid())
        status = process.stop()
    assert own, "the node to use shared memory"
    assert status == 0, process.log.read_text()
    assert not [name for name in own if Path(name).exists()]


def test_a_node_that_is_opening_its_model_leaves_nothing_in_shared_memory_either(graph, tmp_path, repository):
    (tmp_path / "slow_node.py").write_text(
        "import sys, time\n"
        "from sal360 import predictor\n"
        "predictor.open_model = lambda *_, **_named: time.sleep(600)\n"
        "from sal360_ros.saliency_node import main\n"
        "sys.argv.insert(1, '--autostart')\n"
        "sys.exit(main())\n"
    )
    path = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{repository}"}
    with NodeProcess("slow_node", environment=path, log=tmp_path / "log") as process:
        graph.wait_for(
            lambda: any("opening" in each.message for each in graph.diagnostics.values()), "the model being opened"
        )
        own = shared_memory_of(process.pid) - shared_memory_of(os.getpid())
        status = process.stop()
    assert status == 0, process.log.read_text()
    assert own
    assert not [name for name in own if Path(name).exists()]


def test_a_process_that_ends_before_its_time_is_reported_with_its_last_line(tmp_path):
    with NodeProcess(MODULES[1], {"source": "/no/such/folder"}, log=tmp_path / "log") as process:
        deadline = time.monotonic() + TIMEOUT_S
        while process._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(ProcessError, match=r"ended with status 2: /no/such/folder does not exist;"):
            process.check_alive()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["-p", "rate_hz:=fast"], "rate_hz"),
        (["-p", "rate_hz:=0.0"], "set it to a number (1.0, not 1) from 0.1 to 1000"),
        (["-p", "image_transport:=theora"], "set it to raw or compressed"),
        (["-r", "__node:=a-b"], "correct what follows --ros-args"),
        (["--params-file", "/no/such.yaml"], "/no/such.yaml"),
        (["-p", "no_value"], "no_value"),
    ],
)
def test_wrong_arguments_give_a_one_line_error_and_status_2(arguments, line):
    process = start(MODULES[1], "--ros-args", *arguments)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2, output
    assert line in output.splitlines()[-1]
    assert output.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in output


@pytest.mark.parametrize("name", ["saliency_node", "panorama_camera"])
def test_the_scripts_that_ros2_run_starts_are_the_executables(repository, name):
    script = repository / "scripts" / name
    assert script.read_text().startswith("#!/usr/bin/env python3\n")
    assert os.access(script, os.X_OK)
    environment = dict(os.environ, PYTHONPATH=os.fspath(repository))
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    wait_until_signals_are_in_hand(process)
    process.terminate()
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output


def test_start_parameters_are_read_from_files_that_rcl_may_refuse(tmp_path):
    path = tmp_path / "parameters.yaml"
    path.write_text("1: {ros__parameters: {threads: 1}}\n/**: {ros__parameters: {overlay_height_px: 320, 2: 3}}\n")
    arguments = ["node", "--ros-args", "--params-file", str(path), "-p", "rate_hz:=5.0"]
    assert start_parameters(arguments, "node") == {"overlay_height_px": 320, "2": 3, "rate_hz": 5.0}


@pytest.mark.parametrize("rows", [10**9, -1, "many", [1], float("nan")])
def test_an_overlay_that_is_refused_takes_no_shared_memory(rows):
    assert max_message_bytes({"overlay_height_px": rows}) == max_message_bytes({})


def await_node(graph, name):
    """Wait until a node is on the graph: then its process has all its segments."""
    graph.wait_for(lambda: name in graph.node.get_node_names(), f"the node {name}")


def segment_mb(process):
    """The size of a process's largest segment."""
    return max(os.stat(name).st_size for name in segments_of(process.pid)) / 1e6


@pytest.mark.parametrize(
    ("parameters", "min_mb", "max_mb"),
    [
        ({"height_px": 64}, 1.0, 1.2),
        ({"height_px": 960}, 11.0, 14.0),
        ({"height_px": 960, "image_transport": "compressed"}, 5.5, 7.5),
    ],
)
def test_a_camera_takes_the_shared_memory_that_its_frames_need(graph, tmp_path, parameters, min_mb, max_mb):
    with NodeProcess(MODULES[1], parameters, log=tmp_path / "log") as process:
        await_node(graph, "panorama_camera")
        assert min_mb < segment_mb(process) < max_mb


def test_the_node_takes_little_shared_memory(graph, tmp_path):
    with NodeProcess(MODULES[0], log=tmp_path / "log") as process:
        await_node(graph, "saliency_node")
        assert segment_mb(process) < 8


def test_the_next_process_removes_the_segments_of_one_that_was_killed(graph, tmp_path):
    with (
        NodeProcess(MODULES[1], {"height_px": 64}, {"__node": "killed"}, log=tmp_path / "killed") as killed,
        NodeProcess(MODULES[1], {"height_px": 64}, {"__node": "alive"}, log=tmp_path / "alive") as alive,
    ):
        await_node(graph, "killed")
        await_node(graph, "alive")
        left, kept = segments_of(killed.pid), segments_of(alive.pid)
        os.kill(killed.pid, signal.SIGKILL)
        graph.wait_for(lambda: killed._process.poll() is not None, "the end of the process")
        assert all(Path(name).exists() for name in left)
        with NodeProcess(MODULES[1], {"height_px": 64}, {"__node": "next"}, log=tmp_path / "next"):
            await_node(graph, "next")
            assert not [name for name in left if Path(name).exists() or Path(f"{name}_el").exists()]
            assert all(Path(name).exists() for name in kept)


def test_the_bundled_model_answers_the_bundled_camera(driver, tmp_path):
    if not bundled_model().is_file():
        pytest.skip("the bundled model is not in this checkout")
    maps = []
    driver.create_subscription(Image, "saliency", maps.append, 10)
    with (
        NodeProcess(MODULES[0], {"encoding": "32FC1", "threads": 1}, log=tmp_path / "node.log") as node,
        NodeProcess(MODULES[1], {"height_px": 320, "rate_hz": 5.0}, log=tmp_path / "camera.log") as camera,
    ):
        bring_up(driver, "/saliency_node", node)
        deadline = time.monotonic() + TIMEOUT_S
        while len(maps) < 3:
            node.check_alive()
            camera.check_alive()
            assert time.monotonic() < deadline, node.log.read_text()
            rclpy.spin_once(driver, timeout_sec=0.1)
    spec = read_onnx_spec(bundled_model())
    density = np.frombuffer(maps[-1].data, np.float32).reshape(spec.output_height, spec.output_width)
    assert (density * solid_angles(*density.shape)).sum() / (4 * np.pi) == pytest.approx(1, rel=1e-2)
    assert density.max() > 2  # it prefers some places
    assert maps[-1].header.frame_id == "panorama_camera"
