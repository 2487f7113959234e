"""The demo as a child process, as `make demo` starts it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

pytestmark = pytest.mark.ros
TIMEOUT_S = 120.0


@contextlib.contextmanager
def sigint_of_children(handler: object) -> Iterator[None]:
    """Start children with SIGINT ignored (SIG_IGN), or at its default whatever these tests themselves inherited.

    `nohup make test &` ignores SIGINT, and children inherit that. A handler is not inherited: exec resets it.
    """
    inherited = signal.signal(signal.SIGINT, handler)  # type: ignore[arg-type]
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, inherited)


def start(output: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sal360", "demo", "--height", "64", "--rate", "10", "--output", os.fspath(output)]
    return subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C reaches a whole process group, which must not be that of the tests
    )


def read_until(process: subprocess.Popen[str], part: str) -> None:
    """Read the output of a process up to a text."""
    assert process.stdout is not None
    said = ""
    while part not in said:
        character = process.stdout.read(1)
        assert character, said
        said += character


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


def test_ctrl_c_ends_the_demo_and_its_nodes_without_a_traceback(tmp_path: Path, tiny_model: Path) -> None:
    with sigint_of_children(signal.default_int_handler):
        process = start(tmp_path, "--seconds", "600", "--model", os.fspath(tiny_model))
    read_until(process, "waiting for the first map")  # by then both nodes run
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "interrupted"
    assert "Traceback" not in said
    with pytest.raises(ProcessLookupError):  # nothing of the group is left
        os.killpg(process.pid, 0)
