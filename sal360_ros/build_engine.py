"""Build a model's TensorRT engine ahead of the first start: python -m sal360_ros.build_engine [MODEL].

The engine goes into the cache, where the node finds it under its key (model, TensorRT, card, precision); nothing is
built when it is there already.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from sal360_ros.backends.cuda_driver import CudaDevice
from sal360_ros.backends.engine_cache import engine_for
from sal360_ros.backends.tensorrt_library import load_tensorrt
from sal360_ros.errors import one_line_errors
from sal360_ros.weights import bundled_model


def main() -> None:
    """Build the engine, or say where it is."""
    parser = argparse.ArgumentParser(
        prog="python -m sal360_ros.build_engine",
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
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    gpu = CudaDevice(arguments.device)
    gpu.make_current()
    try:
        path = engine_for(
            arguments.model,
            load_tensorrt(),
            gpu,
            folder=arguments.engine_cache,
            max_batch=arguments.max_batch,
            force_update=arguments.force_engine_update,
        )
    finally:
        gpu.release()
    print(path)


if __name__ == "__main__":
    sys.exit(one_line_errors(main))
