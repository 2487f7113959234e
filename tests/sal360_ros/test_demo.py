"""The demo as a child process, as `make demo` starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import psutil
import pytest

from sal360.errors import ParameterError
from sal360_ros import demo as command
from sal360_ros.demo import _report
from tests.bag_writer import BagWriter
from tests.child_signals import sigint_of_children

pytestmark = pytest.mark.ros
TIMEOUT_S = 120.0


def start(output: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sal360", "demo", "--height", "64", "--rate", "10", "--output", os.fspath(output)]
    return subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C reaches a whole process group, which must not be that of the tests
    )


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        (["--topic", "/image"], "--topic was given without a bag; remove it"),
        (["rtsp://127.0.0.1/x", "--rate", "30"], "--rate was given for a live stream, which has its own rate"),
    ],
)
def test_an_option_without_effect_is_refused(arguments: list[str], refused: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(refused)):
        command.main(arguments)


def read_until(process: subprocess.Popen[str], part: str) -> None:
    """Read the output of a process up to a text; one that does not print it in time is killed."""
    assert process.stdout is not None
    said = ""
    limit = threading.Timer(TIMEOUT_S, process.kill)
    limit.start()
    try:
        while part not in said:
            character = process.stdout.read(1)
            assert character, said
            said += character
    finally:
        limit.cancel()


@pytest.mark.slow
@pytest.mark.parametrize("sigint", [signal.default_int_handler, signal.SIG_IGN], ids=["terminal", "nohup"])
def test_the_demo_measures_and_leaves_the_overlay(tmp_path: Path, sigint: object) -> None:
    with sigint_of_children(sigint):
        process = start(tmp_path, "--seconds", "3")
    said, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, said
    assert "maps" in said
    assert "latency         p50" in said
    assert cv2.imread(os.fspath(tmp_path / "overlay.png")).shape == (64, 128, 3)
    assert (tmp_path / "overlay.mp4").stat().st_size > 1000
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_the_demo_prints_the_rate_of_frames_that_arrived(capsys: pytest.CaptureFixture[str]) -> None:
    """Streams have their own, whatever --rate says."""
    _report([0.02], 1.0, {"received_hz": "14.98"}, SimpleNamespace(height=960, rate=30.0))
    assert "  camera          frames of 960 rows, 15.0 per second arrived\n" in capsys.readouterr().out


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_the_nodes_end_with_the_demo_however_that_ends(tmp_path: Path, tiny_model: Path, how: signal.Signals) -> None:
    process = start(tmp_path, "--seconds", "600", "--model", os.fspath(tiny_model))
    read_until(process, "waiting for the first map")  # by then both nodes run
    nodes = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, how)
    said, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == (-how if how == signal.SIGKILL else 128 + how)
    assert len(nodes) == 2
    _, left = psutil.wait_procs(nodes, timeout=TIMEOUT_S)
    assert not left
    assert "Traceback" not in said


@pytest.mark.slow
def test_two_demos_at_the_same_time_do_not_disturb_each_other(tmp_path: Path, tiny_model: Path) -> None:
    options = ("--seconds", "3", "--model", os.fspath(tiny_model))
    demos = [start(tmp_path / name, *options) for name in ("one", "other")]
    for demo in demos:
        said, _ = demo.communicate(timeout=TIMEOUT_S)
        assert demo.returncode == 0, said
        assert "measuring, 3 s\n" in said  # and no progress bar, because this is not a terminal
        assert "\r" not in said


def test_ctrl_c_ends_the_demo_and_its_nodes_without_a_traceback(tmp_path: Path, tiny_model: Path) -> None:
    with sigint_of_children():
        process = start(tmp_path, "--seconds", "600", "--model", os.fspath(tiny_model))
    read_until(process, "waiting for the first map")  # by then both nodes run
    nodes = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "interrupted"
    assert "Traceback" not in said
    with pytest.raises(ProcessLookupError):  # nothing of the group is left
        os.killpg(process.pid, 0)
    assert len(nodes) == 2
    assert not any(node.is_running() for node in nodes)


def test_a_bag_of_several_topics_is_played_once_the_topic_is_named(tmp_path: Path, tiny_model: Path) -> None:
    bag = BagWriter("mcap")
    image = bag.image(1, np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8), "rgb8")
    topics = {name: [(1, image), (10**8, image)] for name in ("/left", "/right")}
    source = os.fspath(bag.write(tmp_path / "run", topics))
    options = ("--seconds", "1", "--model", os.fspath(tiny_model), source)
    said, _ = start(tmp_path / "out", *options).communicate(timeout=TIMEOUT_S)
    assert said.splitlines()[-1].endswith("/run has 2 image topics; choose the topic /left or /right")
    demo = start(tmp_path / "out", "--topic", "/left", *options)
    said, _ = demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == 0, said
