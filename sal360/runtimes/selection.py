"""Opens a model file with the runtime and on the device that suit it best, or that were asked for."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from sal360.errors import ModelError, ParameterError
from sal360.runtimes.backend import PRECISIONS, Backend
from sal360.runtimes.onnxruntime_backend import OnnxRuntimeBackend, OnnxRuntimeTensorRtBackend
from sal360.runtimes.openvino_backend import OpenVinoBackend
from sal360.runtimes.tensorrt.backend import TensorRtBackend
from sal360.runtimes.tensorrt.driver import cuda_device_count
from sal360.runtimes.torch_backend import TorchBackend
from sal360.weights import bundled_model

BACKENDS: tuple[type[Backend], ...] = (
    TensorRtBackend,
    OpenVinoBackend,
    OnnxRuntimeTensorRtBackend,
    OnnxRuntimeBackend,
    TorchBackend,
)
"""All runtimes, the faster ones first: the automatic choice takes the first that is installed."""

BACKEND_NAMES = ("auto", *(backend.name for backend in BACKENDS))
MAX_THREADS = 256

_log = logging.getLogger(__name__)


def open_model(
    path: str | Path,
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int = 0,
) -> Backend:
    """Load a model file and get it ready to run.

    Args:
        path: ONNX file, TensorRT engine or torch program that `training.export` wrote.
        backend: one of `BACKEND_NAMES`. "auto" takes the fastest one installed for the device and logs which.
        device: "cpu", "cuda", "cuda:N" or "auto": CUDA where there are a GPU and a runtime for it.
        precision: "fp32", "fp16", "bf16", "int8" or "auto": the fastest that the file and the device allow.
        threads: processor threads; 0 leaves the number to the runtime.

    Raises:
        ParameterError: an argument is none of these.
        ModelError: there is no such file, it is no model, or no runtime here can run it as asked.
    """
    path = Path(path)
    _check_arguments(backend, device, precision, threads)
    if not path.is_file():
        raise ModelError(
            f"there is no model file {path}", "check the path, or leave it empty", expected="an ONNX model"
        )
    chosen, device = _choose(path, backend, device)
    opened = chosen(path, device=device, precision=precision, threads=threads)
    _log.info(
        "%s %s: %s on %s in %s (asked: backend %s, device %s, precision %s, threads %d)",
        *(opened.spec.name, opened.spec.version, opened.name, opened.device, opened.precision),
        *(backend, device, precision, threads),
    )
    return opened


def open_bundled_model(
    *, backend: str = "auto", device: str = "auto", precision: str = "auto", threads: int = 0
) -> Backend:
    """The bundled model in the form that suits the machine: int8 where OpenVINO's processor prefers it, fp32 elsewhere.

    An explicit precision decides instead. Arguments and exceptions are those of `open_model`, and int8 on a GPU is
    refused: the bundled form of it is for processors.
    """
    _check_arguments(backend, device, precision, threads)
    runtime, place = _choose(bundled_model(), backend, device)
    wanted = precision
    if precision == "auto" and runtime is OpenVinoBackend:
        wanted = OpenVinoBackend.best_precision()
    if wanted == "int8" and place != "cpu":
        raise ModelError(
            f"precision int8 was asked for on {place}, and the bundled int8 model is for processors",
            "export one with python -m training.export --precision int8 --tensorrt true",
            expected="precision auto, fp32, or a model of your own",
        )
    path = bundled_model("int8" if wanted == "int8" else "fp32")
    return open_model(path, backend=backend, device=device, precision=precision, threads=threads)


def _check_arguments(backend: str, device: str, precision: str, threads: int) -> None:
    _check_one_of("backend", backend, BACKEND_NAMES)
    _check_one_of("precision", precision, ("auto", *PRECISIONS))
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ParameterError(f"device is {device!r}", "choose one of these", expected="auto, cpu, cuda or cuda:N")
    if not 0 <= threads <= MAX_THREADS:
        raise ParameterError(
            f"threads is {threads}", "choose another", expected=f"0 (the runtime's choice) to {MAX_THREADS}"
        )


def _check_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ParameterError(f"{name} is {value!r}", "choose one of these", expected=f"one of {', '.join(known)}")


def _has_gpu_runtime(path: Path, backend: str) -> bool:
    return cuda_device_count() > 0 and any(each.is_installed("cuda") for each in _candidates(path, backend, "cuda"))


def _candidates(path: Path, backend: str, kind: str) -> list[type[Backend]]:
    """The runtimes that could open this kind of file on this kind of device, as far as was asked for."""
    return [
        each
        for each in BACKENDS
        if backend in ("auto", each.name) and path.suffix.lower() in each.suffixes and kind in each.devices
    ]


def _choose(path: Path, backend: str, device: str) -> tuple[type[Backend], str]:
    """The runtime for this file, and the device by its full name."""
    if device == "auto":
        device = "cuda" if _has_gpu_runtime(path, backend) else "cpu"
    device = "cuda:0" if device == "cuda" else device
    kind, _, index = device.partition(":")
    candidates = _candidates(path, backend, kind)
    if not candidates:
        able = [f"{each.name} ({' or '.join(each.suffixes)} on {' or '.join(each.devices)})" for each in BACKENDS]
        raise ModelError(
            f"backend {backend} cannot run {path.name} on {kind}",
            "choose backend auto or device auto, or export the model for the other runtime",
            expected=f"one of {', '.join(able)}",
        )
    if kind == "cuda" and int(index) >= (count := cuda_device_count()):
        raise ModelError(
            f"device {device} was asked for and this machine has {count} CUDA devices",
            "choose device cpu, or look whether nvidia-smi shows the card",
            expected="an NVIDIA GPU with its driver",
        )
    for each in candidates:
        if each.is_installed(kind):
            return each, device
    raise ModelError(
        f"{' and '.join(each.name for each in candidates)} {'is' if len(candidates) == 1 else 'are'} not installed",
        f"pip install {candidates[0].package or candidates[0].name} (docs/deploy.md names a GPU's packages)",
        expected="a runtime for the model",
    )
