"""ONNX models through OpenVINO on the CPU, in bf16 if the CPU supports it."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sal360.arrays import Density, Pixels
from sal360.errors import ModelError
from sal360.runtimes.backend import ANY_BATCH, Backend, TensorInfo, batch_limits, failed, refused
from sal360.runtimes.onnx_file import read_onnx
from sal360.spec import ModelSpec

# Importing OpenVINO or NNCF sends an event to Google Analytics and leaves an identifier in ~/intel, unless this package
# is missing. A robot must not report usage.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

_DTYPES = {"u8": "uint8", "f32": "float32"}
MAX_STREAMS = 8
"""Frames that run side by side; each takes memory for its intermediate results."""
_HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoBackend(Backend):
    """OpenVINO's CPU plugin, tuned for the latency of one frame and the throughput of several.

    A graph with a dynamic batch size is compiled for one frame, which makes light models up to 1.7 times as fast. The
    frames of a batch run side by side, each on its share of the CPU's cores: so no core waits for the others. No thread
    is bound to a core: it would wait there for other processes while other cores are free, and the threads of several
    nodes would be bound to the same ones.
    """

    name = "openvino"

    @classmethod
    def is_installed(cls, device: str) -> bool:
        return device == "cpu" and importlib.util.find_spec("openvino") is not None

    def _open(self, path: Path, device: str, precision: str, threads: int) -> None:

        self.spec = read_onnx(path).spec
        self.device = device
        core = _core()
        self.precision, hint = _precision(precision, self.spec, has_bf16=_has_bf16(core))
        self._core = core
        self._properties = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
        }
        self._graph: Any = None
        self._side_by_side: list[Any] = []
        try:
            graph = core.read_model(str(path))
            inputs, outputs = list(map(_tensor_info, graph.inputs)), list(map(_tensor_info, graph.outputs))
            self.batch_limits = batch_limits(self.spec, inputs, outputs, str(path))
            if self.batch_limits == ANY_BATCH:
                graph.reshape([1, self.spec.input_height, self.spec.input_width, 3])
                self._graph = graph
            properties = {**self._properties, "PERFORMANCE_HINT": "LATENCY"}
            self._request: Any = core.compile_model(graph, "CPU", properties).create_infer_request()
        except ModelError:
            raise
        except Exception as error:  # its frontends share no exception type
            raise refused(self.name, path, error) from None

    def _run(self, frames: Pixels) -> Density:
        try:
            if self._graph is None or len(frames) == 1:
                return _results([self._request], [frames])
            requests = self._requests(len(frames))
            parts = [frames[index : index + 1] for index in range(len(frames))]
            shares = range(0, len(frames), len(requests))
            return np.concatenate([_results(requests, parts[start : start + len(requests)]) for start in shares])
        except Exception as error:
            raise failed(self.name, error) from None

    def _requests(self, number: int) -> list[Any]:
        """Requests that run side by side, at most `MAX_STREAMS`; made when a batch of this size first occurs."""
        number = min(number, MAX_STREAMS)
        if len(self._side_by_side) < number:
            properties = {**self._properties, "PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": str(number)}
            compiled = self._core.compile_model(self._graph, "CPU", properties)
            self._side_by_side = [compiled.create_infer_request() for _ in range(number)]
        return self._side_by_side

    def _release(self) -> None:
        self._request, self._graph, self._side_by_side = None, None, []


def _results(requests: Sequence[Any], inputs: Sequence[Pixels]) -> Density:
    """The maps of as many inputs (n, H, W, 3), each run by one of the requests at the same time as the others."""
    import openvino

    running = list(zip(requests, inputs, strict=False))
    try:
        for request, frames in running:
            request.set_input_tensor(openvino.Tensor(frames, shared_memory=True))
            request.start_async()
    finally:  # none may read the frames after this function has failed
        for request, _ in running:
            request.wait()
    # the next request overwrites its output
    return np.concatenate([request.get_output_tensor().data for request, _ in running])


@functools.cache
def _core() -> Any:
    """OpenVINO, started once and kept until the process ends.

    On Linux its CPU plugin gives the thread that starts it a stack for signal handlers. When the last `Core` goes in
    another thread, the plugin frees that stack and the first thread still uses it: the next signal, such as Ctrl-C,
    crashes the process.
    """
    import openvino

    return openvino.Core()


def processor_has_bf16() -> bool | None:
    """Whether this CPU has bf16 arithmetic; None if OpenVINO does not start (opening a model reports why)."""
    try:
        return _has_bf16(_core())
    except (ImportError, OSError, RuntimeError):
        return None


def _has_bf16(core: Any) -> bool:
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _precision(asked: str, spec: ModelSpec, *, has_bf16: bool) -> tuple[str, str]:
    """The precision to report and OpenVINO's hint for it; the other operators of an int8 graph follow the hint."""
    best = "bf16" if has_bf16 else "fp32"
    if spec.precision == "int8" and asked in ("auto", "int8"):
        return "int8", _HINTS[best]
    chosen = best if asked == "auto" else asked
    if chosen not in _HINTS or spec.precision == "int8":
        raise ModelError(
            f"{asked} was requested from openvino, but the model was exported in {spec.precision}",
            "choose precision auto, or export the model in the precision that you need",
            expected="fp32 or bf16 for a floating-point model, int8 for a quantised one",
        )
    if chosen == "bf16" and best != "bf16":
        raise ModelError("this CPU has no bf16 arithmetic (AVX-512 BF16 or AMX)", "choose precision fp32 or auto")
    return chosen, _HINTS[chosen]


def _tensor_info(node: Any) -> TensorInfo:
    shape = tuple(size.get_length() if size.is_static else -1 for size in node.partial_shape)
    dtype = node.element_type.get_type_name()
    return TensorInfo(node.any_name, _DTYPES.get(dtype, dtype), shape)
