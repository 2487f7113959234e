"""Which runtime opens a model file, on which device, and in which precision.

`BACKENDS` is the table of runtimes. To add one, write its class in a new module and add a row here.
"""

from __future__ import annotations

import logging
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sal360.errors import ModelError, ParameterError
from sal360.runtimes.backend import PRECISIONS, Backend
from sal360.runtimes.onnxruntime_backend import OnnxRuntimeBackend, OnnxRuntimeTensorRtBackend
from sal360.runtimes.openvino_backend import OpenVinoBackend, processor_has_bf16
from sal360.runtimes.tensorrt.backend import TensorRtBackend
from sal360.runtimes.tensorrt.driver import cuda_device_count
from sal360.runtimes.tensorrt.engine import SUFFIX as ENGINE
from sal360.runtimes.torch_backend import TorchBackend
from sal360.settings import Rule
from sal360.spec import no_model_file
from sal360.weights import Form, bundled_model, bundled_weights


@dataclass(frozen=True)
class BackendRow:
    """A runtime, with the facts that the selection and the documentation need."""

    backend: type[Backend]
    suffixes: tuple[str, ...]
    """Kinds of model file that it opens."""
    install: Mapping[str, str]
    """Kind of device that it runs on, "cpu" or "cuda" → what `pip install` needs for it there; "": no pip package."""
    precisions: tuple[str, ...]
    """Precisions that it supports; all runtimes except OpenVINO compute in the precision of the file."""
    runs_code: bool = False
    """Whether opening a file can execute its author's code; `open_model` then requires consent."""

    @property
    def name(self) -> str:
        """The runtime's name, for `backend`."""
        return self.backend.name


BACKENDS = (
    BackendRow(TensorRtBackend, (".onnx", ENGINE), {"cuda": "tensorrt"}, PRECISIONS),
    BackendRow(OpenVinoBackend, (".onnx",), {"cpu": "openvino"}, ("fp32", "bf16", "int8")),
    BackendRow(OnnxRuntimeTensorRtBackend, (".onnx",), {"cuda": "onnxruntime-gpu[cuda,cudnn] tensorrt"}, PRECISIONS),
    BackendRow(
        OnnxRuntimeBackend,
        (".onnx",),
        {"cpu": "onnxruntime", "cuda": "onnxruntime-gpu[cuda,cudnn]"},
        PRECISIONS,
    ),
    BackendRow(TorchBackend, (".pt2",), {"cpu": "torch", "cuda": "torch"}, ("fp32", "fp16", "bf16"), runs_code=True),
)
"""All runtimes, faster ones first: "auto" takes the first that is installed for the file and the device."""

BACKEND_NAMES = ("auto", *(row.name for row in BACKENDS))
MAX_THREADS = 256

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """A model file, and the runtime and device that will run it."""

    path: Path
    row: BackendRow
    device: str
    """"cpu" or "cuda:N"."""


def open_model(
    path: str | Path,
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int = 0,
    allow_pickled_programs: bool = False,
) -> Backend:
    """Load a model file and get it ready to run.

    Args:
        path: ONNX file, TensorRT engine or torch program that `training.export` wrote, or the name of a bundled model:
            "all", "permissive", or "" for the default; see `sal360.weights`.
        backend: one of `BACKEND_NAMES`; "auto" takes the fastest runtime installed for the device and logs which.
        device: "cpu", "cuda", "cuda:N" or "auto"; "auto" takes CUDA if there is a GPU and a runtime for it.
        precision: "fp32", "fp16", "bf16", "int8" or "auto"; "auto" takes the fastest that the file and device allow.
        threads: CPU threads, 0 to `MAX_THREADS`; 0 lets the runtime choose.
        allow_pickled_programs: open torch programs (.pt2), which can execute arbitrary code when opened.

    Raises:
        ParameterError: an argument is out of its range.
        ModelError: the file does not exist or is not a model, or no runtime here can run it as asked.
    """
    chosen = select(path, backend=backend, device=device, precision=precision)
    Rule(minimum=0, maximum=MAX_THREADS).check("threads", threads)
    if chosen.row.runs_code and not allow_pickled_programs:
        raise ModelError(
            f"{chosen.path} is a torch program, which can execute arbitrary code when opened",
            "set allow_pickled_programs (--allow-pickled-programs on a command line) if you trust its author, or "
            "export the model as ONNX",
        )
    opened = chosen.row.backend(chosen.path, device=chosen.device, precision=precision, threads=threads)
    _log.info(
        "%s %s: %s on %s in %s (requested: backend %s, device %s, precision %s, threads %d)",
        *(opened.spec.name, opened.spec.version, opened.name, opened.device, opened.precision),
        *(backend, device, precision, threads),
    )
    return opened


def select(path: str | Path = "", *, backend: str = "auto", device: str = "auto", precision: str = "auto") -> Selection:
    """The file, the runtime and the device that `open_model` uses.

    Arguments and exceptions are those of `open_model`.
    """
    Rule(choices=BACKEND_NAMES).check("backend", backend)
    Rule(choices=("auto", *PRECISIONS)).check("precision", precision)
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ParameterError(f"device is {device!r}", "set it to auto, cpu, cuda or cuda:N")
    weights = bundled_weights(path)
    file = bundled_model(weights=weights) if weights else Path(path)
    if not file.is_file():
        raise no_model_file(file)
    row, device = _choose(file, backend, device, precision)
    if weights:
        file = bundled_model(bundled_form(row, device, precision), weights)
    return Selection(file, row, device)


def bundled_form(row: BackendRow, device: str, precision: str) -> Form:
    """Which of the two files of bundled weights to open: the only place where int8 is chosen.

    int8 is opened when it is requested, and for precision "auto" when OpenVINO runs on an x86 CPU without bf16: int8
    takes .4 to .6 of the time of fp32 there (measured with AVX2; VNNI can only help). On a CPU with bf16, OpenVINO runs
    the fp32 file in bf16: nearly exact, and as fast as int8 for depthwise networks. onnxruntime is slower with int8
    than with fp32. CPUs other than x86 were not measured and get fp32, as GPUs do.

    Raises:
        ModelError: int8 was requested on a GPU; the bundled int8 file is for CPUs.
    """
    if precision == "auto" and row.backend is OpenVinoBackend:
        is_x86 = platform.machine() in ("x86_64", "AMD64")
        return "int8" if is_x86 and processor_has_bf16() is False else "fp32"
    if precision == "int8" and device != "cpu":
        raise ModelError(
            f"precision int8 was requested on {device}, but the bundled int8 model is for CPUs",
            "choose precision auto, or export an int8 model for the GPU: "
            "python -m training.export --precision int8 --tensorrt true",
        )
    return "int8" if precision == "int8" else "fp32"


def _choose(path: Path, backend: str, device: str, precision: str) -> tuple[BackendRow, str]:
    """The runtime for a file, and the device by its full name ("cpu" or "cuda:N")."""
    if device == "auto":
        device = "cuda" if _has_gpu_runtime(path, backend) else "cpu"
    device = "cuda:0" if device == "cuda" else device
    kind, _, index = device.partition(":")
    candidates = _candidates(path, backend, kind)
    if not candidates:
        raise _no_candidate(path, backend, kind)
    if kind == "cuda" and int(index) >= (count := cuda_device_count()):
        raise ModelError(
            f"device {device} was requested, but this machine has {count} CUDA devices",
            "choose another device, or check that nvidia-smi lists the GPU",
        )
    installed = [row for row in candidates if row.backend.is_installed(kind)]
    if not installed:
        names = " and ".join(row.name for row in candidates)
        raise ModelError(
            f"{names} {'is' if len(candidates) == 1 else 'are'} not installed{' for CUDA' if kind == 'cuda' else ''}",
            _how_to_install(candidates, kind),
        )
    for row in installed:
        if precision in ("auto", *row.precisions):
            return row, device
    raise ModelError(
        f"{installed[0].name} does not compute in {precision}",
        f"choose precision auto or one of {', '.join(installed[0].precisions)}, or another backend",
    )


def _no_candidate(path: Path, backend: str, kind: str) -> ModelError:
    able = [f"{row.name} on {' or '.join(row.install)}" for row in BACKENDS if path.suffix.lower() in row.suffixes]
    if not able:
        suffixes = dict.fromkeys(suffix for row in BACKENDS for suffix in row.suffixes)
        return ModelError(
            f"{path} is not a model file, by its name",
            "choose another file, or rename it",
            expected=f"a name that ends in {' or '.join(suffixes)}",
        )
    return ModelError(
        f"backend {backend} cannot run {path.name} on {kind}",
        "choose one of these, or a model in another format",
        expected=" or ".join(able),
    )


def _candidates(path: Path, backend: str, kind: str) -> list[BackendRow]:
    """The runtimes, among those requested, that open this kind of file on this kind of device."""
    suffix = path.suffix.lower()
    return [row for row in BACKENDS if backend in ("auto", row.name) and suffix in row.suffixes and kind in row.install]


def _how_to_install(rows: Sequence[BackendRow], kind: str) -> str:
    """The remedy where none of these runtimes is installed: the package of the first that has one."""
    for row in rows:
        if packages := row.install[kind]:
            return f"pip install {packages} (docs/deploy.md lists the packages for each device)"
    return f"install {'it' if len(rows) == 1 else 'one of them'} (there is no pip package), or choose another backend"


def _has_gpu_runtime(path: Path, backend: str) -> bool:
    rows = _candidates(path, backend, "cuda")
    return cuda_device_count() > 0 and any(row.backend.is_installed("cuda") for row in rows)
