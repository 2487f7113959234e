"""The demo as a process of its own, as `make demo` starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

pytestmark = pytest.mark.ros
TIMEOUT_S = 120.0


def start(output: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sal360", "demo", "--height", "64", "--rate", "10", "--output", os.fspath(output)]
    return subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C reaches a whole group of processes: not the one of the tests
    )


@pytest.mark.slow
def test_the_demo_measures_and_leaves_the_overlay(tmp_path: Path) -> None:
    process = start(tmp_path, "--seconds", "3")
    said, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, said
    assert "maps" in said
    assert "latency         p50" in said
    assert cv2.imread(os.fspath(tmp_path / "overlay.png")).shape == (64, 128, 3)
    assert (tmp_path / "overlay.mp4").stat().st_size > 1000


def test_ctrl_c_ends_the_demo_and_its_nodes_without_a_traceback(tmp_path: Path, tiny_model: Path) -> None:
    process = start(tmp_path, "--seconds", "600", "--model", os.fspath(tiny_model))
    assert process.stdout is not None
    said = ""
    while "waiting for the first map" not in said:  # by then both nodes run
        character = process.stdout.read(1)
        assert character, said
        said += character
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "interrupted"
    assert "Traceback" not in said
    with pytest.raises(ProcessLookupError):  # nobody of the group is left
        os.killpg(process.pid, 0)
