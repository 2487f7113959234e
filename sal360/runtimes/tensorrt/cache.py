"""The cache of engines built on this machine, one for each combination of model, TensorRT version and GPU."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path

from sal360.errors import ModelError
from sal360.files import cache_folder
from sal360.runtimes.cache_files import (
    KEEP,
    locked,
    mark_used,
    remove,
    remove_all_but_newest,
    unwritable,
    writable_folder,
)
from sal360.runtimes.onnx_file import OnnxFile, read_onnx
from sal360.runtimes.tensorrt.builder import TensorRt, build_engine
from sal360.runtimes.tensorrt.driver import CudaDevice
from sal360.runtimes.tensorrt.engine import SUFFIX, EngineInfo, read_engine, read_engine_info, sha256, write_engine

_log = logging.getLogger(__name__)


def engine_for(
    onnx_path: Path,
    library: TensorRt,
    device: CudaDevice,
    *,
    folder: Path | None = None,
    max_batch: int = 1,
    force_update: bool = False,
    keep: int = KEEP,
) -> Path:
    """The engine of an ONNX file for a GPU; it is built if it is not in the cache.

    Several processes may call this at the same time: the first one builds, the others wait for it.

    Args:
        folder: the cache; None takes `cache_folder() / "engines"`.
        max_batch: batch size that the engine must support; an engine for larger batches is used as well.
        force_update: build it even if it is in the cache.
        keep: after a build, all engines of this model except the `keep` most recently used are removed; 0 keeps all.

    Raises:
        ModelError: the file is refused, the engine cannot be built, or the cache cannot be written.
    """
    onnx = read_onnx(onnx_path)
    folder = folder or cache_folder() / "engines"
    path = folder / f"{_model_name(onnx.spec.name)}-{engine_key(onnx, library, device)[:16]}{SUFFIX}"
    if not force_update and _serves(path, max_batch):
        return _found(path)
    writable_folder(folder)
    with locked(path):
        if not force_update and _serves(path, max_batch):  # another process has built it in the meantime
            return _found(path)
        _remove_unfinished(path)
        _build(onnx_path, path, library, device, max_batch)
        if keep:
            _evict(folder, onnx.spec.name, keep)
    return path


def engine_key(onnx: OnnxFile, library: TensorRt, device: CudaDevice) -> str:
    """Hash of everything that an engine depends on: the model with its external data, TensorRT, and the GPU."""
    return _hash(*_machine(library, device), onnx.sha256())


def _machine(library: TensorRt, device: CudaDevice) -> tuple[str, ...]:
    return library.name, library.version, device.name, device.compute_capability


def _hash(*parts: str) -> str:
    return sha256("\n".join(parts).encode())


def _model_name(name: str) -> str:
    """A model's name as the beginning of a file name, safe for any text in the model file.

    Short enough that `_remove_unfinished` knows a temporary file, whose name begins with 40 letters of its engine's.
    """
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:23]


def _found(path: Path) -> Path:
    _log.info("using the engine %s", path)
    mark_used(path)
    return path


def _serves(path: Path, max_batch: int) -> bool:
    """Whether the cache has the complete engine, for a large enough batch."""
    try:
        info = read_engine(path)[1]
    except ModelError:
        return False
    return info.fixed_batch or info.max_batch >= max_batch


def _build(onnx_path: Path, path: Path, library: TensorRt, device: CudaDevice, max_batch: int) -> None:
    _log.info(
        "building the engine %s for %s with %s %s; with TensorRT this takes minutes, once",
        *(path, device.name, library.name, library.version),
    )
    started = time.monotonic()
    timings = path.parent / f"timings-{_hash(*_machine(library, device))[:16]}.cache"
    engine, info = build_engine(
        onnx_path,
        library,
        gpu=(device.name, device.compute_capability),
        max_batch=max_batch,
        timing_cache=None if library.is_rtx else timings,
    )
    try:
        write_engine(path, engine, info)
    except OSError as error:
        raise unwritable(path.parent, error) from None
    _log.info("built %s in %.1f s", path, time.monotonic() - started)


def runtime_cache_path(engine: Path) -> Path:
    """Path at which TensorRT-RTX keeps the kernels that it compiled from an engine for this machine's GPU."""
    return engine.with_name(f"{engine.name}.runtime_cache")


def _remove_unfinished(path: Path) -> None:
    """Remove temporary files that a killed build left beside its engine."""
    for each in path.parent.glob(f".{path.stem}-*"):
        remove(each)


def _evict(folder: Path, model: str, keep: int) -> None:
    """Keep the newest engines of a model; remove files that are not readable engines, such as those of old versions."""
    same: list[Path] = []
    unreadable: list[Path] = []
    for path in folder.glob(f"[!.]*{SUFFIX}"):  # files that other processes are writing begin with a dot
        info = _info(path)
        if info is None:
            unreadable.append(path)
        elif info.spec.name == model:
            same.append(path)
    removed = [*remove_all_but_newest(unreadable, 0), *remove_all_but_newest(same, keep)]
    for engine in removed:
        _log.info("removed the old engine %s", engine)
        for beside in (runtime_cache_path(engine), engine.with_name(f"{engine.name}.json")):
            remove(beside)
    remove_all_but_newest(list(folder.glob("timings-*.cache")), keep)


def _info(path: Path) -> EngineInfo | None:
    try:
        return read_engine_info(path)
    except ModelError:
        return None
