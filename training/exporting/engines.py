"""TensorRT engines out of an exported file, by the same builder that the node uses."""

from __future__ import annotations

from pathlib import Path

from sal360_ros.backends.cuda_driver import CudaDevice
from sal360_ros.backends.engine_build import build_engine
from sal360_ros.backends.engine_file import SUFFIX, write_engine
from sal360_ros.backends.tensorrt_library import load_tensorrt


def write_engine_for(
    onnx_path: Path, stem: Path, library_name: str, *, compute_capabilities: tuple[str, ...], max_batch: int
) -> Path:
    """Build and write `<stem>-<library>.engine` with its sidecar.

    Args:
        library_name: "tensorrt" builds for this machine's GPU, "tensorrt_rtx" also for named kinds without a GPU.
        compute_capabilities: those kinds ("8.9"); empty takes this machine's GPU.

    Raises:
        ModelError: the library or the GPU is missing, or it does not take the graph.
    """
    library = load_tensorrt(library_name)
    path = stem.with_name(f"{stem.name}-{library_name}{SUFFIX}")
    if compute_capabilities:
        engine, info = build_engine(onnx_path, library, compute_capabilities=compute_capabilities, max_batch=max_batch)
    else:
        gpu = CudaDevice(0)
        try:
            gpu.make_current()
            identity = (gpu.name, gpu.compute_capability)
            engine, info = build_engine(onnx_path, library, gpu=identity, max_batch=max_batch)
        finally:
            gpu.release()
    write_engine(path, engine, info)
    return path
