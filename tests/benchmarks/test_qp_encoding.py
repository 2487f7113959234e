"""The encoding benchmark: offsets reach the encoder, and the gain is the distance of the curves."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

av = pytest.importorskip("av")


@pytest.fixture(scope="module")
def benchmark_module(repository: Path) -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("qp_encoding", repository / "benchmarks" / "qp_encoding.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["qp_encoding"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_blocks_with_lower_offsets_are_encoded_better(benchmark_module: ModuleType) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (64, 128, 3)).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(pixels, format="bgr24").reformat(format="yuv420p")
    frame.pts, frame.time_base = 0, benchmark_module._TIME_BASE
    offsets = np.where(np.arange(8) < 4, -8, 8)[None, :].repeat(4, axis=0).astype(np.int8)
    marked = benchmark_module._with_regions(frame, offsets)

    def errors(encoded: object) -> list[float]:
        packets = benchmark_module._encode([encoded], 23, "veryfast")
        (after,) = benchmark_module._decode(packets)
        squared = (benchmark_module._luma(frame) - after) ** 2
        return [float(squared[:, :64].mean()), float(squared[:, 64:].mean())]

    plain, offset = errors(frame), errors(marked)
    assert offset[0] < 0.5 * plain[0]
    assert offset[1] > 1.5 * plain[1]


def test_the_gain_of_a_curve_that_lies_two_decibels_higher_is_two(benchmark_module: ModuleType) -> None:
    rates = [100.0, 200.0, 400.0, 800.0, 1600.0]
    psnr = [28.0, 31.0, 34.5, 37.0, 39.0]
    plain = {"kbit_s": rates, "gaze": psnr}
    higher = {"kbit_s": rates, "gaze": [each + 2 for each in psnr]}
    cheaper = {"kbit_s": [each / 2 for each in rates], "gaze": [30 + 10 * np.log10(each / 100) for each in rates]}
    straight = {"kbit_s": rates, "gaze": cheaper["gaze"]}
    assert benchmark_module._gain_db(plain, higher, "gaze") == pytest.approx(2)
    assert benchmark_module._gain_db(straight, cheaper, "gaze") == pytest.approx(10 * np.log10(2))
