"""Build a model's TensorRT engine, so that the first start is fast.

The engine is written to the cache, where the node finds it by its key (model, TensorRT version, GPU, precision). An
engine that is already there is not built again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from sal360.cli.options import CommandParser
from sal360.runtimes.tensorrt.builder import load_tensorrt
from sal360.runtimes.tensorrt.cache import engine_for
from sal360.runtimes.tensorrt.driver import CudaDevice
from sal360.weights import bundled_model


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the engine if it is missing, and print its path."""
    parser = CommandParser("build-engine [MODEL]", __doc__)
    add = parser.add_argument
    add("model", type=Path, nargs="?", metavar="MODEL", help="ONNX file (default: the bundled model)")
    add("--device", type=int, default=0, metavar="N", help="number of the GPU, the N of cuda:N")
    add("--max-batch", type=int, default=1, metavar="N", help="maximum number of frames per call")
    add("--engine-cache", type=Path, metavar="DIR", help="folder of the engines (default: ~/.cache/sal360_ros/engines)")
    add("--force-engine-update", action="store_true", help="build the engine again even if it is in the cache")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    gpu = CudaDevice(options.device)
    gpu.make_current()
    try:
        path = engine_for(
            options.model or bundled_model(),
            load_tensorrt(),
            gpu,
            folder=options.engine_cache,
            max_batch=options.max_batch,
            force_update=options.force_engine_update,
        )
    finally:
        gpu.release()
    print(path)
