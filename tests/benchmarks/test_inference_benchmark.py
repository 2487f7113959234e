"""benchmarks/inference.py runs and its figures fit each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def report(repository):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    ran = subprocess.run(
        [sys.executable, "benchmarks/inference.py", "--rounds", "2", "--threads", "1", "--json"],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_each_runtime_has_a_row(report):
    names = {(row["backend"], row["precision"]) for row in report["rows"]}
    assert {(backend, form) for backend in ("onnxruntime", "openvino") for form in ("fp32", "int8")} <= names
    assert report["rows"][0]["ratio"] == 1


def test_the_share_of_the_peak_is_the_counted_work_over_the_time(report):
    for row in report["rows"]:
        assert 0 < row["min_ms"] <= row["median_ms"]
        rate = report["gflop"][row["model"]] / (row["min_ms"] / 1e3)
        assert row["share_of_peak"] == pytest.approx(rate / report["peak_gflop_per_s"][row["precision"]])
