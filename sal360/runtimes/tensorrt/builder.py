"""ONNX → TensorRT engine: a strongly typed network, so the graph's own types decide the precision."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sal360.errors import ModelError
from sal360.files import write_bytes
from sal360.runtimes.backend import TensorInfo, batch_limits
from sal360.runtimes.tensorrt.engine import EngineInfo, sha256
from sal360.spec import INPUT_NAME, ModelSpec, read_onnx_spec

NAMES = ("tensorrt", "tensorrt_rtx")
OLDEST = (10, 0)
"""Oldest release of `tensorrt` with the calls used here; every release of `tensorrt_rtx` has them."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TensorRt:
    """An imported TensorRT package, with a logger that keeps its complaints."""

    name: str
    module: Any
    logger: Any

    @property
    def version(self) -> str:
        """Its release, "11.1.0"."""
        return str(self.module.__version__)

    @property
    def is_rtx(self) -> bool:
        """Whether engines are finished on the card they run on, and can be built without one."""
        return self.name == "tensorrt_rtx"

    @contextmanager
    def complaints(self) -> Iterator[list[str]]:
        """The errors that TensorRT logs within the block: it returns None and says there why."""
        del self.logger.errors[:]
        yield self.logger.errors


def installed_names() -> list[str]:
    """The packages that are installed here, the preferred one first."""
    return [name for name in NAMES if importlib.util.find_spec(name) is not None]


def load_tensorrt(name: str = "") -> TensorRt:
    """Import TensorRT; without a name the first one that is installed.

    Raises:
        ModelError: it is not installed, cannot be imported, or is older than `OLDEST`.
    """
    names = [name] if name else installed_names()
    if not names or importlib.util.find_spec(names[0]) is None:
        wanted = name or " or ".join(NAMES)
        raise ModelError(
            f"{wanted} is not installed",
            "pip install tensorrt or tensorrt-rtx (see docs/deploy.md)",
            expected="TensorRT 10 or newer, or TensorRT-RTX",
        )
    try:
        module = importlib.import_module(names[0])
    except (ImportError, OSError) as error:
        raise ModelError(
            f"{names[0]} is installed and cannot be imported ({error})",
            "install it again",
            expected="a working installation",
        ) from None
    library = TensorRt(names[0], module, _logger(module))
    if library.name == "tensorrt" and _version_tuple(library.version) < OLDEST:
        raise ModelError(
            f"tensorrt {library.version} is installed", "install JetPack 6 or a newer wheel", expected="10.0 or newer"
        )
    return library


def first(complaints: list[str]) -> str:
    """The first complaint is the cause; the others follow from it."""
    return complaints[0] if complaints else "it does not say why"


def _version_tuple(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def _logger(module: Any) -> Any:
    """A TensorRT logger: errors are kept, warnings go to Python's log, the thousands of details nowhere."""

    class Logger(module.ILogger):
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (module.ILogger.Severity.ERROR, module.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))
            elif severity == module.ILogger.Severity.WARNING:
                _log.debug("%s", message)

    return Logger()


_DTYPES = {"UINT8": "uint8", "FLOAT": "float32"}


def build_engine(
    onnx_path: Path,
    library: TensorRt,
    *,
    compute_capabilities: Sequence[str] = (),
    gpu: tuple[str, str] | None = None,
    max_batch: int = 1,
    timing_cache: Path | None = None,
) -> tuple[bytes, EngineInfo]:
    """Build an engine for this machine's GPU or, with TensorRT-RTX, for named kinds of GPU without having one.

    Args:
        compute_capabilities: kinds of GPU ("8.6", "8.9"), only with TensorRT-RTX.
        gpu: name and compute capability of the card in this machine; needed when no kinds are named.
        max_batch: most frames of one call; one is what the engine is tuned for. A fixed batch in the graph wins.
        timing_cache: file of kernel timings that makes the next build on this card quicker.

    Raises:
        ModelError: the file is no model, TensorRT does not take its operators, or cannot build for such a GPU.
    """
    spec = read_onnx_spec(onnx_path)
    builder = library.module.Builder(library.logger)
    network, _parser = _parse(onnx_path, library, builder)  # the parser owns the weights until the engine is built
    most = _check_network(network, spec, onnx_path)[1]
    config = builder.create_builder_config()
    if network.get_input(0).shape[0] < 0:
        most = max_batch
        _add_profile(builder, config, spec, max_batch)
    capabilities = tuple(compute_capabilities) or ((gpu[1],) if gpu else ())
    _set_capabilities(library, config, capabilities, required=bool(compute_capabilities))
    cache = _load_timing_cache(config, timing_cache)
    with library.complaints() as complaints:
        serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise ModelError(
            f"{library.name} cannot build {onnx_path} ({first(complaints)})",
            "choose backend onnxruntime, or another version of TensorRT",
            expected="a graph and a GPU that it supports",
        )
    if cache is not None and timing_cache is not None:
        with suppress(OSError):  # it only saves time
            write_bytes(timing_cache, bytes(cache.serialize()))
    engine = bytes(serialized)
    return engine, EngineInfo(
        spec=spec,
        onnx_sha256=sha256(onnx_path.read_bytes()),
        engine_sha256=sha256(engine),
        library=library.name,
        library_version=library.version,
        compute_capabilities=capabilities,
        gpu_name="" if library.is_rtx or gpu is None else gpu[0],
        max_batch=most,
    )


def _parse(path: Path, library: TensorRt, builder: Any) -> tuple[Any, Any]:
    flags = library.module.NetworkDefinitionCreationFlag
    # TensorRT 11 knows no other networks and may one day drop the name
    strongly_typed = 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0
    network = builder.create_network(strongly_typed)
    parser = library.module.OnnxParser(network, library.logger)
    if not parser.parse_from_file(str(path)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        reasons = [f"{error.node_operator()}: {error.desc()}".strip(": ") for error in errors]
        raise ModelError(
            f"{library.name} {library.version} cannot read {path} ({'; '.join(reasons[:3])})",
            "export the model again with python -m training.export, or choose backend onnxruntime",
            expected="a whole ONNX file of operators that it knows",
        )
    return network, parser


def _check_network(network: Any, spec: ModelSpec, path: Path) -> tuple[int, int]:
    inputs = [_tensor_info(network.get_input(index)) for index in range(network.num_inputs)]
    outputs = [_tensor_info(network.get_output(index)) for index in range(network.num_outputs)]
    return batch_limits(spec, inputs, outputs, str(path))


def _tensor_info(tensor: Any) -> TensorInfo:
    return tensor_info(tensor.name, tensor.dtype, tensor.shape)


def tensor_info(name: str, dtype: Any, shape: Any) -> TensorInfo:
    """A TensorRT tensor's name, type and shape in the terms of the other runtimes."""
    return TensorInfo(name, _DTYPES.get(dtype.name, dtype.name), tuple(shape))


def _add_profile(builder: Any, config: Any, spec: ModelSpec, max_batch: int) -> None:
    profile = builder.create_optimization_profile()
    frame = (spec.input_height, spec.input_width, 3)
    profile.set_shape(INPUT_NAME, (1, *frame), (1, *frame), (max_batch, *frame))
    config.add_optimization_profile(profile)


def _set_capabilities(library: TensorRt, config: Any, capabilities: tuple[str, ...], *, required: bool) -> None:
    """Name the kinds of GPU to build for; without that, classic TensorRT builds for the card in the machine."""
    if not hasattr(config, "set_compute_capability"):
        if required:
            raise ModelError(
                f"{library.name} {library.version} builds only for the card in this machine",
                "pip install tensorrt-rtx, or build on the target",
                expected="tensorrt_rtx for other cards",
            )
        return
    known = library.module.ComputeCapability
    members = [f"SM{capability.replace('.', '')}" for capability in capabilities]
    unknown = [member for member in members if not hasattr(known, member)]
    if unknown:
        able = ", ".join(sorted(name[2:] for name in dir(known) if name.startswith("SM")))
        raise ModelError(
            f"{library.name} {library.version} cannot build for compute capability {', '.join(capabilities)}",
            "build with classic TensorRT on the target (docs/deploy.md)",
            expected=able,
        )
    config.num_compute_capabilities = len(members)
    for index, member in enumerate(members):
        config.set_compute_capability(getattr(known, member), index)


def _load_timing_cache(config: Any, path: Path | None) -> Any:
    """Use the timings of earlier builds; a file of another card or version is ignored and replaced."""
    if path is None:
        return None
    for content in (path.read_bytes() if path.is_file() else b"", b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return cache
    return None
