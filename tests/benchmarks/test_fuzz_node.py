"""benchmarks/fuzz_node.py draws the same messages each time, notices broken promises, and finds no trouble."""

from __future__ import annotations

import importlib
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import rclpy
from rclpy.signals import SignalHandlerOptions

from sal360.settings import flatten
from sal360_ros.parameters import SaliencyParameters

pytestmark = pytest.mark.ros


@pytest.fixture(autouse=True)
def benchmarks(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))


def described(message: object) -> str:
    """A text that is the same for the same message; padding between the fields of serialised ones holds anything."""
    return f"{len(message)} bytes" if isinstance(message, bytes) else repr(message)


def test_messages_are_the_same_for_a_seed_and_of_many_kinds() -> None:
    fuzz_messages = importlib.import_module("fuzz_messages")

    def drawn() -> list[str]:
        messages = fuzz_messages.RandomMessages(random.Random(5), lambda: 1e9)
        return [
            described(make())
            for _ in range(200)
            for make in (messages.image, messages.compressed, messages.imu, messages.odometry)
        ]

    first = drawn()
    assert first == drawn()
    assert len(set(first)) > 600


def test_every_parameter_gets_values_that_must_be_refused_and_others() -> None:
    fuzz_messages = importlib.import_module("fuzz_messages")
    rng = random.Random(1)
    for name, default, rule in flatten(SaliencyParameters()):
        drawn = [fuzz_messages.random_value(name, default, rule, rng) for _ in range(200)]
        assert {must for _, must in drawn} == {None, False}, name
        for value, must in drawn:
            message = fuzz_messages.parameter(name, value)
            assert message.name == name
            if must is None:
                assert type(value) is type(default)


FINE = {
    "received": "10",
    "answered": "4",
    "dropped_stale": "1",
    "rejected": "5",
    "rejected.zero_size": "3",
    "rejected.bad_step": "2",
    "message": "",
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"received": "11"}, "11 received, 4 answered"),
        ({"rejected.zero_size": "4"}, "5 rejected, but"),
        ({"rejected.sleepy": "0"}, "unknown reasons {'sleepy'}"),
        ({"rejected": "6", "received": "11", "rejected.internal_error": "1"}, "rejected for"),
    ],
)
def test_counters_that_do_not_add_up_are_noticed(changes: dict[str, str], said: str) -> None:
    found = importlib.import_module("fuzz_node")._miscounted({**FINE, **changes})
    assert found.startswith(said)
    assert bool(found) == bool(said)


def test_memory_that_grows_is_a_trouble() -> None:
    judge = importlib.import_module("fuzz_node").judge

    def run(memory_mb: list[float]) -> SimpleNamespace:
        empty = {"counts": Counter(), "frames": Counter(), "reasons": Counter(), "troubles": []}
        return SimpleNamespace(memory_mb=memory_mb, **empty)

    assert judge(run([200.0 + 30 * (number % 5 == 0) for number in range(60)]))["troubles"] == []
    (trouble,) = judge(run([200.0 + number for number in range(60)]))["troubles"]
    assert trouble.startswith("memory grew by 20 MB")


@pytest.mark.slow
def test_some_messages_of_every_kind_leave_the_node_unharmed(tmp_path: Path) -> None:
    fuzz_node = importlib.import_module("fuzz_node")
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        figures = fuzz_node.run(300, 3, "", tmp_path)
    finally:
        rclpy.shutdown()
    assert figures["troubles"] == []
    assert figures["counts"]["sent"] == 300
    assert figures["counts"]["saliency"] > 0
    assert figures["counts"]["checks"] >= 2
