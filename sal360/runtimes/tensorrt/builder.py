"""Builds TensorRT engines from ONNX files. Networks are strongly typed: the types in the graph set the precision."""

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
from sal360.runtimes.backend import ANY_BATCH, TensorInfo, batch_limits
from sal360.runtimes.onnx_file import read_onnx
from sal360.runtimes.tensorrt.engine import LIBRARIES, EngineInfo, sha256
from sal360.spec import INPUT_NAME, ModelSpec

MIN_VERSION = (10, 0)
"""Oldest release of `tensorrt` with the calls used here; every release of `tensorrt_rtx` has them."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TensorRt:
    """An imported TensorRT package, with a logger that collects its errors."""

    name: str
    module: Any
    logger: Any

    @property
    def version(self) -> str:
        """Version of the package, such as "11.1.0"."""
        return str(self.module.__version__)

    @property
    def is_rtx(self) -> bool:
        """Whether it is TensorRT-RTX: it builds engines without a GPU and tunes them when they are loaded."""
        return self.name == "tensorrt_rtx"

    @contextmanager
    def errors(self) -> Iterator[list[str]]:
        """The errors that TensorRT logs within the block: its calls return None and log the cause."""
        del self.logger.errors[:]
        yield self.logger.errors


def installed_names() -> list[str]:
    """The packages of `LIBRARIES` that are installed; `load_tensorrt` takes the first."""
    return [name for name in LIBRARIES if importlib.util.find_spec(name) is not None]


def load_tensorrt(name: str = "") -> TensorRt:
    """Import one of the packages of `LIBRARIES`; without a name, the first that is installed.

    Raises:
        ModelError: it is not installed, cannot be imported, or is older than `MIN_VERSION`.
    """
    found = [each for each in installed_names() if name in ("", each)]
    if not found:
        wanted = name if name in LIBRARIES else " or ".join(LIBRARIES)
        raise ModelError(f"{wanted} is not installed", "pip install tensorrt or tensorrt-rtx (docs/deploy.md)")
    try:
        module = importlib.import_module(found[0])
    except (ImportError, OSError) as error:
        raise ModelError(f"{found[0]} is installed but cannot be imported ({error})", "reinstall it") from None
    library = TensorRt(found[0], module, _logger(module))
    if library.name == "tensorrt" and _version_tuple(library.version) < MIN_VERSION:
        raise ModelError(
            f"tensorrt {library.version} is installed; 10.0 is the oldest that works",
            "upgrade it (on a Jetson: JetPack 6 or newer)",
        )
    return library


def first(errors: list[str]) -> str:
    """The first error is the cause; the others follow from it."""
    return errors[0] if errors else "TensorRT gave no reason"


def _version_tuple(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def _logger(module: Any) -> Any:
    """A TensorRT logger: errors are collected, warnings go to Python's debug log, all other messages are dropped."""

    class Logger(module.ILogger):  # type: ignore[misc]  # TensorRT has no types
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
    """Build an engine for this machine's GPU or, with TensorRT-RTX, for other kinds of GPU on a machine without one.

    Args:
        compute_capabilities: kinds of GPU ("8.6", "8.9"), only with TensorRT-RTX.
        gpu: name and compute capability of the GPU in this machine; needed without `compute_capabilities`.
        max_batch: maximum number of frames of one call; the engine is tuned for one. A batch size fixed in the graph
            takes precedence.
        timing_cache: file of kernel timings that shortens the next build on this GPU.

    Raises:
        ModelError: the file is refused, or TensorRT does not support its operators or cannot build for such a GPU.
    """
    onnx = read_onnx(onnx_path)
    spec = onnx.spec
    builder = library.module.Builder(library.logger)
    network, _parser = _parse(onnx_path, library, builder)  # the parser owns the weights until the engine is built
    limits = _check_network(network, spec, onnx_path)
    config = builder.create_builder_config()
    if limits == ANY_BATCH:
        _add_profile(builder, config, spec, max_batch)
    capabilities = tuple(compute_capabilities) or ((gpu[1],) if gpu else ())
    _set_capabilities(library, config, capabilities, required=bool(compute_capabilities))
    cache = _load_timing_cache(config, timing_cache)
    with library.errors() as errors:
        serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise ModelError(
            f"{library.name} {library.version} cannot build an engine of {onnx_path} ({first(errors)})",
            "choose backend onnxruntime, or install another version of TensorRT",
        )
    if cache is not None and timing_cache is not None:
        with suppress(OSError):  # the file only saves time
            write_bytes(timing_cache, bytes(cache.serialize()))
    engine = bytes(serialized)
    return engine, EngineInfo(
        spec=spec,
        onnx_sha256=onnx.sha256(),
        engine_sha256=sha256(engine),
        library=library.name,
        library_version=library.version,
        compute_capabilities=capabilities,
        gpu_name="" if library.is_rtx or gpu is None else gpu[0],
        max_batch=max_batch if limits == ANY_BATCH else limits[1],
        fixed_batch=limits != ANY_BATCH,
    )


def _parse(path: Path, library: TensorRt, builder: Any) -> tuple[Any, Any]:
    flags = library.module.NetworkDefinitionCreationFlag
    # TensorRT 11 has only such networks, and a later version may drop the flag
    strongly_typed = 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0
    network = builder.create_network(strongly_typed)
    parser = library.module.OnnxParser(network, library.logger)
    if not parser.parse_from_file(str(path)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        reasons = [f"{error.node_operator()}: {error.desc()}".strip(": ") for error in errors]
        raise ModelError(
            f"{library.name} {library.version} cannot read {path} ({'; '.join(reasons[:3])})",
            "export the model again with python -m training.export, or choose backend onnxruntime",
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
    """Set the kinds of GPU to build for; without it, TensorRT builds for the GPU in the machine."""
    if not hasattr(config, "set_compute_capability"):
        if required:
            raise ModelError(
                f"{library.name} {library.version} builds only for the GPU in this machine",
                "pip install tensorrt-rtx, or build on the machine that will run the engine",
            )
        return
    known = library.module.ComputeCapability
    members = [f"SM{capability.replace('.', '')}" for capability in capabilities]
    unknown = [member for member in members if not hasattr(known, member)]
    if unknown:
        able = ", ".join(sorted(name[2:] for name in dir(known) if name.startswith("SM")))
        raise ModelError(
            f"{library.name} {library.version} cannot build for compute capability {', '.join(capabilities)}",
            "build with TensorRT on the machine that will run the engine (docs/deploy.md)",
            expected=able,
        )
    config.num_compute_capabilities = len(members)
    for index, member in enumerate(members):
        config.set_compute_capability(getattr(known, member), index)


def _load_timing_cache(config: Any, path: Path | None) -> Any:
    """Use the timings of earlier builds; a file for another GPU or version is ignored and replaced."""
    if path is None:
        return None
    for content in (path.read_bytes() if path.is_file() else b"", b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return cache
    return None
