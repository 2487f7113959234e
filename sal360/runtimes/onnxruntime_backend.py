"""ONNX models through onnxruntime: on the CPU, on CUDA, and on CUDA through its TensorRT provider."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sal360.arrays import Density, Pixels
from sal360.errors import ModelError
from sal360.files import cache_folder
from sal360.runtimes.backend import Backend, TensorInfo, batch_limits, failed, precision_of_graph, refused
from sal360.runtimes.cache_files import KEEP, locked, mark_used, remove, remove_all_but_newest, writable_folder
from sal360.runtimes.onnx_file import OnnxFile, read_onnx
from sal360.spec import INPUT_NAME, OUTPUT_NAME

_log = logging.getLogger(__name__)

Provider = tuple[str, dict[str, Any]]

_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
_TENSORRT_LIBRARIES = ("libnvinfer.so.11", "libnvinfer.so.10", "nvinfer_11.dll", "nvinfer_10.dll")


class OnnxRuntimeBackend(Backend):
    """onnxruntime's own kernels, on the CPU or on CUDA, in the precision of the graph."""

    name = "onnxruntime"
    gpu_provider = "CUDAExecutionProvider"
    gpu_libraries = "CUDA and cuDNN"
    """The libraries that the GPU provider loads when a session starts."""

    @classmethod
    def is_installed(cls, device: str) -> bool:
        if importlib.util.find_spec("onnxruntime") is None:
            return False
        if device == "cpu":
            return True  # every build supports it, and importing takes 0.2 s
        try:
            import onnxruntime
        except ImportError:
            return False
        return cls.gpu_provider in onnxruntime.get_available_providers()

    @classmethod
    def providers(cls, device: str) -> list[Provider]:
        """onnxruntime's execution providers for a device; the first one must start."""
        kind, _, index = device.partition(":")
        cpu: Provider = ("CPUExecutionProvider", {})
        return [cpu] if kind == "cpu" else [("CUDAExecutionProvider", {"device_id": index or "0"}), cpu]

    def _open(self, path: Path, device: str, precision: str, threads: int) -> None:
        self._start(read_onnx(path), self.providers(device), device, precision, threads)

    def _start(self, onnx: OnnxFile, providers: Sequence[Provider], device: str, precision: str, threads: int) -> None:
        import onnxruntime

        self.spec = onnx.spec
        self.device = device
        self.precision = precision_of_graph(precision, self.spec, self.name)
        if device != "cpu" and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # finds CUDA and cuDNN inside the nvidia-* wheels
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors only
        # threads that spin while they wait take half of the CPU time away from other processes
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(str(onnx.path), options, providers=providers)
        except Exception as error:  # onnxruntime's exceptions share no other base
            raise refused(self.name, onnx.path, error) from None
        if providers[0][0] not in session.get_providers():  # onnxruntime would silently continue without it
            raise ModelError(
                f"onnxruntime could not start its {providers[0][0]}",
                f"install the {self.gpu_libraries} libraries that this onnxruntime was built for (docs/deploy.md), or "
                "choose another backend or device cpu",
            )
        inputs = [_tensor_info(node) for node in session.get_inputs()]
        outputs = [_tensor_info(node) for node in session.get_outputs()]
        self.batch_limits = batch_limits(self.spec, inputs, outputs, str(onnx.path))
        self._session: Any = session

    def _run(self, frames: Pixels) -> Density:
        try:
            maps: Density = self._session.run([OUTPUT_NAME], {INPUT_NAME: frames})[0]
        except Exception as error:
            raise failed(self.name, error) from None
        return maps

    def _release(self) -> None:
        self._session = None


class OnnxRuntimeTensorRtBackend(OnnxRuntimeBackend):
    """onnxruntime with TensorRT engines for the parts of the graph that TensorRT supports, cached between starts.

    The cache has a folder for each model, because onnxruntime names an engine only by its graph: the engines of two
    models that differ in their weights would have the same name.
    """

    name = "onnxruntime-tensorrt"
    gpu_provider = "TensorrtExecutionProvider"
    gpu_libraries = "CUDA, cuDNN and TensorRT"

    @classmethod
    def is_installed(cls, device: str) -> bool:
        # onnxruntime-gpu lists the provider whether or not TensorRT is installed
        return super().is_installed(device) and any(map(_loads, _TENSORRT_LIBRARIES))

    def _open(self, path: Path, device: str, precision: str, threads: int) -> None:
        onnx = read_onnx(path)
        engines = writable_folder(cache_folder() / "onnxruntime")
        folder = engines / onnx.sha256()[:16]
        with locked(folder):
            folder.mkdir(exist_ok=True)
            mark_used(folder)
            remove_all_but_newest([each for each in engines.iterdir() if each.is_dir()], KEEP)
            was_filled = any(folder.iterdir())
            try:
                self._start_and_build(onnx, folder, device, precision, threads)
            except ModelError as error:
                if not was_filled:
                    raise
                _log.warning("%s; trying again without the engines in %s", error.found, folder)
                with _set_aside(folder):  # a build that was killed leaves half an engine
                    self._start_and_build(onnx, folder, device, precision, threads)

    def _start_and_build(self, onnx: OnnxFile, folder: Path, device: str, precision: str, threads: int) -> None:
        self._start(onnx, self.providers_with_cache(device, folder), device, precision, threads)
        size = (self.batch_limits[0], self.spec.input_height, self.spec.input_width, 3)
        self._run(np.zeros(size, np.uint8))  # a graph with a dynamic batch is built in its first run

    @classmethod
    def providers_with_cache(cls, device: str, folder: Path) -> list[Provider]:
        """TensorRT before the others. No CUDA graphs: they would read every frame from the first one's address."""
        options = {
            "device_id": device.partition(":")[2] or "0",
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": True,
            "trt_timing_cache_path": str(folder),
        }
        return [(cls.gpu_provider, options), *cls.providers(device)]


@contextlib.contextmanager
def _set_aside(folder: Path) -> Iterator[None]:
    """Replace a folder by an empty one; the old one comes back if the block fails, and is removed if it does not."""
    aside = folder.with_name(f"{folder.name}.old")
    remove(aside)
    os.replace(folder, aside)
    folder.mkdir()
    try:
        yield
    except BaseException:
        remove(folder)
        os.replace(aside, folder)
        raise
    remove(aside)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _tensor_info(node: Any) -> TensorInfo:
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return TensorInfo(node.name, _DTYPES.get(node.type, node.type), shape)
