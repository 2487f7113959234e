"""All installed runtimes behave alike: the same maps, the same refusals, from any thread."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest

from sal360.errors import FrameError, ModelError
from sal360.runtimes import open_model

# of the real builder: TensorRT-RTX ignores the timing cache that classic TensorRT is given
pytestmark = pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")


@dataclass(frozen=True)
class Runtime:
    """A way to run the tiny model, and how far its maps may be from the exact ones (relative)."""

    backend: str
    precision: str
    tolerance: float
    package: str
    device: str = "cpu"

    @property
    def missing(self) -> str:
        """Why it cannot be tried here; empty when it can."""
        if self.device == "cpu" and importlib.util.find_spec(self.package) is None:
            return f"{self.package} is not installed"
        if self.precision == "bf16":
            import openvino

            if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
                return "this CPU has no bf16 arithmetic"
        return ""


RUNTIMES = [
    Runtime("onnxruntime", "fp32", 1e-5, "onnxruntime"),
    Runtime("openvino", "fp32", 1e-5, "openvino"),
    Runtime("openvino", "bf16", 5e-2, "openvino"),  # 8 bits of mantissa, and the map is an exponential
    # with the real builder, and a fake card and runtime
    Runtime("tensorrt", "fp32", 1e-5, "tensorrt", "cuda:0"),
    Runtime("tensorrt", "fp32", 1e-5, "tensorrt_rtx", "cuda:0"),
    Runtime("torch", "fp32", 1e-5, "torch"),
]


@pytest.fixture(params=RUNTIMES, ids=lambda runtime: f"{runtime.package}-{runtime.precision}")
def runtime(request, make_gpu) -> Runtime:
    if request.param.missing:
        pytest.skip(request.param.missing)
    if request.param.device != "cpu":
        make_gpu(request.param.package)
    return request.param


@pytest.fixture
def open_here(runtime, as_program):
    """Opens a model with the runtime under test, as the kind of file that it takes."""

    def open_it(path):
        path = as_program(path) if runtime.backend == "torch" else path
        return open_model(
            path,
            backend=runtime.backend,
            device=runtime.device,
            precision=runtime.precision,
            threads=1,
            allow_pickled_programs=True,
        )

    return open_it


@pytest.fixture
def backend(open_here, tiny_model):
    with open_here(tiny_model) as opened:
        yield opened


def test_maps_are_those_of_the_reference_evaluator(backend, runtime, exact, frames):
    maps = backend.infer(frames)
    assert maps.shape == (3, 16, 32)
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, exact(frames), rtol=runtime.tolerance)


def test_it_says_what_it_is(backend, runtime):
    assert (backend.name, backend.device, backend.precision) == (runtime.backend, runtime.device, runtime.precision)
    assert backend.spec.name == "tiny"


def test_each_frame_of_a_batch_is_its_own(backend, frames):
    maps = backend.infer(frames)
    for frame, saliency in zip(frames, maps, strict=True):
        np.testing.assert_allclose(backend.infer(frame[None])[0], saliency, rtol=1e-5)


def test_a_fixed_batch_serves_any_number_of_frames(open_here, make_model, runtime, exact, frames):
    with open_here(make_model(batch=2)) as backend:
        assert backend.batch_limits == (2, 2)
        for number in (1, 2, 3):
            np.testing.assert_allclose(backend.infer(frames[:number]), exact(frames[:number]), rtol=runtime.tolerance)


def test_a_map_stays_as_it_was_when_the_next_one_is_made(backend, frames):
    first = backend.infer(frames[:1])
    kept = first.copy()
    backend.infer(frames[1:2])
    np.testing.assert_array_equal(first, kept)


def test_frames_with_strides_are_taken(backend, frames):
    mirrored = frames[:, :, ::-1]
    assert not mirrored.flags.c_contiguous
    np.testing.assert_array_equal(backend.infer(mirrored), backend.infer(mirrored.copy()))


def test_frames_in_read_only_memory_are_taken(backend, frames):
    read_only = np.frombuffer(frames.tobytes(), np.uint8).reshape(frames.shape)
    assert not read_only.flags.writeable
    np.testing.assert_array_equal(backend.infer(read_only), backend.infer(frames))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 32, 64, 3), np.float32),
        np.zeros((32, 64, 3), np.uint8),
        np.zeros((1, 32, 64, 4), np.uint8),
        np.zeros((1, 64, 32, 3), np.uint8),
        np.zeros((1, 3, 32, 64), np.uint8),
        np.zeros((0, 32, 64, 3), np.uint8),
    ],
    ids=lambda frames: f"{frames.shape}-{frames.dtype}",
)
def test_frames_of_another_shape_or_type_are_refused(backend, wrong, frames):
    with pytest.raises(FrameError, match=r"\(N, 32, 64, 3\) uint8") as raised:
        backend.infer(wrong)
    assert raised.value.reason == "wrong_size"
    backend.infer(frames)  # and it still works


def test_a_closed_model_refuses_and_can_be_opened_again(open_here, tiny_model, frames):
    backend = open_here(tiny_model)
    before = backend.infer(frames)
    backend.close()
    backend.close()
    with pytest.raises(ModelError, match="closed"):
        backend.infer(frames)
    with open_here(tiny_model) as again:
        np.testing.assert_array_equal(again.infer(frames), before)


def test_other_threads_get_the_same_maps(backend, frames):
    expected = backend.infer(frames)
    with ThreadPoolExecutor(4) as pool:
        for maps in pool.map(backend.infer, [frames] * 12):
            np.testing.assert_array_equal(maps, expected)


def test_no_thread_is_bound_to_a_core(open_here, tiny_model, frames):
    """It would wait there while another process keeps that core busy, and with it the whole batch."""
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("one core")
    with open_here(tiny_model) as backend:
        for number in (1, 3):
            backend.infer(frames[:number])
        bound = []
        for task in os.listdir("/proc/self/task"):
            with contextlib.suppress(ProcessLookupError):  # it has ended
                bound.append(os.sched_getaffinity(int(task)))
    assert all(each == allowed for each in bound)


def test_closing_waits_for_the_frame_in_work(backend, frames, monkeypatch):
    started, may_go_on = threading.Event(), threading.Event()
    run = backend._run

    def slow_run(batch):
        started.set()
        assert may_go_on.wait(10)
        return run(batch)

    monkeypatch.setattr(backend, "_run", slow_run)
    with ThreadPoolExecutor(2) as pool:
        maps = pool.submit(backend.infer, frames[:1])
        assert started.wait(10)
        closing = pool.submit(backend.close)
        may_go_on.set()
        assert maps.result(10).shape == (1, 16, 32)
        closing.result(10)


CLOSED_BY_ANOTHER_THREAD = """
import signal, sys, threading
from sal360.runtimes import open_model
model = open_model(sys.argv[1], backend=sys.argv[2], device="cpu", threads=1)
closing = threading.Thread(target=model.close)
closing.start()
closing.join()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
signal.raise_signal(signal.SIGTERM)
"""


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_signals_are_handled_after_another_thread_has_closed_the_model(name, tiny_model):
    pytest.importorskip(name)
    command = [sys.executable, "-c", CLOSED_BY_ANOTHER_THREAD, os.fspath(tiny_model), name]
    assert subprocess.run(command, check=False).returncode == 5


def test_a_model_that_cannot_be_freed_counts_as_closed(backend, frames, monkeypatch, caplog):
    def fail():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with monkeypatch.context() as patch:
        patch.setattr(backend, "_release", fail)
        backend.close()
    assert "was not freed (CUDA error: an illegal memory access was encountered)" in caplog.text
    with pytest.raises(ModelError, match="closed"):
        backend.infer(frames)
