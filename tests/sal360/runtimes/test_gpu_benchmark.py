"""benchmarks/gpu.py without a GPU: its one-line error, and a complete run on a fake GPU."""

from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import pytest

from sal360.errors import one_line_errors


@pytest.fixture
def gpu_benchmark(repository, monkeypatch):
    monkeypatch.syspath_prepend(repository / "benchmarks")
    spec = importlib.util.spec_from_file_location("gpu_benchmark", repository / "benchmarks" / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_benchmark", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    for name, value in {
        "LATENCY_RUNS": 4,
        "WARM_UP_RUNS": 1,
        "THROUGHPUT_S": 0.0,
        "PROBE_HEIGHT": 8,
        "PROBE_LAYERS": 1,
        "COPY_BYTES": 1 << 10,
        "COPIES": 2,
    }.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--json"])
    return module


def test_without_a_card_there_is_a_one_line_error(gpu_benchmark, monkeypatch, capsys):
    monkeypatch.setattr(gpu_benchmark, "cuda_device_count", lambda: 0)
    assert one_line_errors(gpu_benchmark.main) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_a_run_measures_what_is_available_and_names_the_rest(gpu_benchmark, make_gpu, tiny_model, monkeypatch, capsys):
    gpu = make_gpu("tensorrt_rtx")
    monkeypatch.setattr(gpu_benchmark, "cuda_device_count", lambda: 1)
    monkeypatch.setattr(gpu_benchmark, "bundled_model", lambda: tiny_model)
    monkeypatch.setattr("peak.CHANNELS", 4)
    gpu_benchmark.main()
    report = json.loads(capsys.readouterr().out)
    assert report["device"] == {"name": gpu.cuda.name, "compute_capability": "8.9"}
    assert set(report["peak_gflop_per_s"]) >= {"fp32", "fp16", "int8"}
    (row,) = report["rows"]
    assert (row["runtime"], row["precision"]) == ("tensorrt", "fp32")
    assert row["parity"]["cc"] == pytest.approx(1)
    assert list(row["latency_ms"]) == ["p50", "p95", "p99", "mean"]
    assert list(row["frames_per_s"]) == ["1", "4", "8"]
    assert row["share_of_roofline"] > 0
    assert np.isfinite(report["bandwidth_gb_per_s"])
    assert any(line.startswith("fp32 on onnxruntime:") for line in report["skipped"])
    assert gpu.cuda.leaks == []
