"""Build a model's TensorRT engine before the first start.

The engine goes into the cache, where the node finds it under its key (model, TensorRT, card, precision); nothing is
built when it is there already.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from sal360.runtimes.tensorrt.builder import load_tensorrt
from sal360.runtimes.tensorrt.cache import engine_for
from sal360.runtimes.tensorrt.driver import CudaDevice
from sal360.weights import bundled_model


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the engine, or say where it is."""
    parser = argparse.ArgumentParser(
        prog="sal360 build-engine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model", type=Path, nargs="?", default=bundled_model(), help="ONNX file; default: the bundled one"
    )
    parser.add_argument("--device", type=int, default=0, metavar="N", help="the N of cuda:N (%(default)s)")
    parser.add_argument("--max-batch", type=int, default=1, metavar="N", help="most frames of one call (%(default)s)")
    parser.add_argument("--engine-cache", type=Path, metavar="DIR", help="default: ~/.cache/sal360_ros/engines")
    parser.add_argument("--force-engine-update", action="store_true", help="build although it is there")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    gpu = CudaDevice(options.device)
    gpu.make_current()
    try:
        path = engine_for(
            options.model,
            load_tensorrt(),
            gpu,
            folder=options.engine_cache,
            max_batch=options.max_batch,
            force_update=options.force_engine_update,
        )
    finally:
        gpu.release()
    print(path)
