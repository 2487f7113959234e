"""Build a model's TensorRT engine, so that the first start is fast.

The engine is written to the cache, where `sal360` and the node find it when they are started with the same model,
device and precision, on this machine and with the same XDG_CACHE_HOME. An existing engine is not rebuilt.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sal360.cli.options import CommandParser
from sal360.errors import ModelError, ParameterError
from sal360.runtimes.backend import PRECISIONS, precision_of_graph
from sal360.runtimes.cache_files import KEEP
from sal360.runtimes.selection import Selection, select
from sal360.runtimes.tensorrt.builder import load_tensorrt
from sal360.runtimes.tensorrt.cache import engine_for
from sal360.runtimes.tensorrt.driver import CudaDevice, cuda_device_count
from sal360.runtimes.tensorrt.engine import SUFFIX
from sal360.settings import Rule
from sal360.spec import read_onnx_spec


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the engine if it is missing, and print its path."""
    parser = CommandParser("build-engine [MODEL]", __doc__)
    add = parser.add_argument
    add(
        "model",
        nargs="?",
        default="",
        metavar="MODEL",
        help='ONNX file, or "permissive" (default: the bundled model of all data sets)',
    )
    add("--device", default="auto", help="GPU that runs the engine: auto, cuda or cuda:N")
    add("--precision", choices=("auto", *PRECISIONS), default="auto", help="arithmetic precision of the model")
    add("--max-batch", type=int, default=1, metavar="N", help="maximum batch size")
    add("--force-engine-update", action="store_true", help="build the engine again even if it is in the cache")
    add(
        "--keep",
        type=int,
        default=KEEP,
        metavar="N",
        help="number of engines of one model to keep in the cache after a build; 0: all",
    )
    options = parser.parse_args(arguments)
    Rule(minimum=1, maximum=64).check("--max-batch", options.max_batch)
    Rule(minimum=0, maximum=1000).check("--keep", options.keep)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    chosen = _choose(options.model, options.device, options.precision)
    gpu = CudaDevice(int(chosen.device.partition(":")[2]))
    try:
        gpu.make_current()
        path = engine_for(
            chosen.path,
            load_tensorrt(),
            gpu,
            max_batch=options.max_batch,
            force_update=options.force_engine_update,
            keep=options.keep,
        )
    finally:
        gpu.release()
    print(path)


def _choose(model: str, device: str, precision: str) -> Selection:
    """The file and the GPU that the node would choose; raises an error if there is nothing to build."""
    if device == "cpu":
        raise ParameterError("--device is cpu", "set it to auto, cuda or cuda:N: engines run on GPUs only")
    if cuda_device_count() == 0:
        raise ModelError("this machine has no CUDA device", "build the engine on the machine that will run it")
    chosen = select(model, backend="tensorrt", device=device, precision=precision)
    if chosen.path.suffix.lower() == SUFFIX:
        raise ModelError(f"{chosen.path} is already an engine", "name the ONNX file from which to build one")
    precision_of_graph(precision, read_onnx_spec(chosen.path), "tensorrt")
    return chosen
