"""Engines that were built on this machine: built once for a model, a TensorRT and a card, and found again."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from sal360.errors import ModelError
from sal360.files import cache_folder
from sal360.runtimes.tensorrt.builder import TensorRt, build_engine
from sal360.runtimes.tensorrt.driver import CudaDevice
from sal360.runtimes.tensorrt.engine import SUFFIX, EngineInfo, read_engine_info, sha256, write_engine
from sal360.spec import read_onnx_spec

_log = logging.getLogger(__name__)


def engine_for(
    onnx_path: Path,
    library: TensorRt,
    device: CudaDevice,
    *,
    folder: Path | None = None,
    max_batch: int = 1,
    force_update: bool = False,
) -> Path:
    """The engine of an ONNX file for a card, built when it is not in the cache.

    Args:
        folder: the cache; None takes the user's (see `cache.cache_folder`).
        max_batch: most frames of one call.
        force_update: build it although it is there.

    Raises:
        ModelError: it cannot be built, or the cache cannot be written.
    """
    folder = folder or cache_folder() / "engines"
    key = engine_key(onnx_path, library, device, max_batch)
    path = folder / f"{onnx_path.stem}-{key[:16]}{SUFFIX}"
    if not force_update and _is_whole(path):
        _log.info("using the engine %s", path)
        return path
    _check_writable(folder)
    _log.info("building %s for %s with %s %s", path, device.name, library.name, library.version)
    started = time.monotonic()
    engine, info = build_engine(
        onnx_path,
        library,
        gpu=(device.name, device.compute_capability),
        max_batch=max_batch,
        timing_cache=None if library.is_rtx else folder / f"timings-{_hash(*_machine(library, device))[:16]}.cache",
    )
    try:
        write_engine(path, engine, info)
    except OSError as error:
        raise _unwritable(folder, error) from None
    _log.info("built %s in %.1f s", path, time.monotonic() - started)
    return path


def engine_key(onnx_path: Path, library: TensorRt, device: CudaDevice, max_batch: int) -> str:
    """All that an engine depends on, as a hash."""
    onnx_hash = sha256(onnx_path.read_bytes())
    return _hash(*_machine(library, device), onnx_hash, read_onnx_spec(onnx_path).precision, str(max_batch))


def _machine(library: TensorRt, device: CudaDevice) -> tuple[str, ...]:
    return library.name, library.version, device.name, device.compute_capability


def _hash(*parts: str) -> str:
    return sha256("\n".join(parts).encode())


def _is_whole(path: Path) -> bool:
    """Whether the cache holds the engine and its sidecar; what an interrupted build left does not count."""
    try:
        info: EngineInfo = read_engine_info(path)
        return sha256(path.read_bytes()) == info.engine_sha256
    except (ModelError, OSError):
        return False


def _check_writable(folder: Path) -> None:
    """Before minutes are spent on a build."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _unwritable(folder, PermissionError(13, "Permission denied"))


def _unwritable(folder: Path, error: OSError) -> ModelError:
    return ModelError(
        f"the engine cache {folder} cannot be written ({error.strerror or error})",
        "free some space, change its owner, or set XDG_CACHE_HOME to another place",
        expected="a folder with free space that this user may write",
    )
