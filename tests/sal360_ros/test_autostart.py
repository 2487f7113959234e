"""A node that configures and activates itself."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from sal360_ros.autostart import autostart

pytestmark = pytest.mark.ros


def test_the_node_becomes_active_and_works(graph: Any, make_node: Any, camera: Any) -> None:
    node = make_node()
    failures: list[bool] = []
    graph.call(autostart, node, lambda: failures.append(True))
    graph.wait_for(lambda: graph.values().get("state") == "active", "the state active")
    camera.stream_until(lambda: int(graph.values()["answered"]) > 0, "maps")
    assert not failures


def test_it_does_not_wait_for_a_clock(graph: Any, make_node: Any) -> None:
    graph.call(autostart, make_node(use_sim_time=True), lambda: None)
    graph.wait_for(lambda: graph.values().get("state") == "active", "the state active")


def test_a_refusal_is_reported_once_and_the_node_stays(graph: Any, make_node: Any) -> None:
    failures: list[bool] = []
    graph.call(autostart, make_node(model="/no/such.onnx"), lambda: failures.append(True))
    graph.wait_for(lambda: failures, "the failure")
    graph.wait_for_line("cannot configure: there is no model file /no/such.onnx")
    graph.wait_for(lambda: graph.values().get("state") == "unconfigured", "the state unconfigured")
    assert failures == [True]


def test_an_executable_can_end_when_it_cannot_start() -> None:
    command = [sys.executable, "-m", "sal360_ros.saliency_node", "--autostart", "--exit-on-failure"]
    ros = ["--ros-args", "-p", "model:=/no/such.onnx"]
    ended = subprocess.run([*command, *ros], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "cannot configure: there is no model file /no/such.onnx" in ended.stderr


def test_an_unknown_option_is_refused() -> None:
    command = [sys.executable, "-m", "sal360_ros.saliency_node", "--autostrat", "--ros-args", "-p", "threads:=1"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    line = "unrecognized arguments: --autostrat; see saliency_node --help; ROS arguments follow --ros-args"
    assert ended.stderr == f"error: {line}\n"
