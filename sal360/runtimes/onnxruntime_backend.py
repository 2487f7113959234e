"""ONNX models through onnxruntime: on the processor, on CUDA, and on CUDA through its TensorRT provider."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from typing import Any

from sal360.arrays import Density, Pixels
from sal360.errors import ModelError
from sal360.files import cache_folder
from sal360.runtimes.backend import Backend, TensorInfo, batch_limits, failed, precision_of_graph, refused
from sal360.spec import INPUT_NAME, OUTPUT_NAME, read_onnx_spec

Provider = tuple[str, dict[str, Any]]

_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
_TENSORRT_LIBRARIES = ("libnvinfer.so.11", "libnvinfer.so.10", "nvinfer_11.dll", "nvinfer_10.dll")


class OnnxRuntimeBackend(Backend):
    """onnxruntime's own kernels, on the processor or on CUDA, in the precision of the graph."""

    name = "onnxruntime"
    gpu_libraries = "CUDA and cuDNN"
    """What the GPU provider loads when a session starts."""

    @classmethod
    def is_installed(cls, device: str) -> bool:
        if importlib.util.find_spec("onnxruntime") is None:
            return False
        if device == "cpu":
            return True  # every build has it, and the import takes 0.2 s
        try:
            import onnxruntime
        except ImportError:
            return False
        return cls.providers(device)[0][0] in onnxruntime.get_available_providers()

    @classmethod
    def providers(cls, device: str) -> list[Provider]:
        """onnxruntime's execution providers for a device; the first one must start."""
        kind, _, index = device.partition(":")
        if kind == "cpu":
            return [("CPUExecutionProvider", {})]
        return [("CUDAExecutionProvider", {"device_id": index or "0"}), ("CPUExecutionProvider", {})]

    def _open(self, path: Path, device: str, precision: str, threads: int) -> None:
        import onnxruntime

        self.spec = read_onnx_spec(path)
        self.device = device
        self.precision = precision_of_graph(precision, self.spec, self.name)
        providers = self.providers(device)
        if device != "cpu" and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # finds CUDA and cuDNN inside the nvidia-* wheels
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors only
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime's exceptions share no other base
            raise refused(self.name, path, error) from None
        if providers[0][0] not in session.get_providers():  # onnxruntime would silently go on without it
            raise ModelError(
                f"onnxruntime could not start its {providers[0][0]}",
                f"install the {self.gpu_libraries} libraries that this onnxruntime was built for (docs/deploy.md), or "
                "choose another backend or device cpu",
            )
        inputs = [_tensor_info(node) for node in session.get_inputs()]
        outputs = [_tensor_info(node) for node in session.get_outputs()]
        self.batch_limits = batch_limits(self.spec, inputs, outputs, str(path))
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
    """onnxruntime with TensorRT engines for the parts of the graph that TensorRT supports, cached between starts."""

    name = "onnxruntime-tensorrt"
    gpu_libraries = "CUDA, cuDNN and TensorRT"

    @classmethod
    def is_installed(cls, device: str) -> bool:
        # onnxruntime-gpu lists the provider whether or not TensorRT is installed
        return super().is_installed(device) and any(map(_loads, _TENSORRT_LIBRARIES))

    @classmethod
    def providers(cls, device: str) -> list[Provider]:
        """As above, without CUDA graphs: they would read every frame from the address of the first one."""
        index = device.partition(":")[2] or "0"
        folder = str(cache_folder() / "onnxruntime")
        options = {
            "device_id": index,
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": folder,
            "trt_timing_cache_enable": True,
            "trt_timing_cache_path": folder,
        }
        return [("TensorrtExecutionProvider", options), *super().providers(device)]

    def _open(self, path: Path, device: str, precision: str, threads: int) -> None:
        (cache_folder() / "onnxruntime").mkdir(parents=True, exist_ok=True)  # the provider makes no parents
        super()._open(path, device, precision, threads)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _tensor_info(node: Any) -> TensorInfo:
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return TensorInfo(node.name, _DTYPES.get(node.type, node.type), shape)
