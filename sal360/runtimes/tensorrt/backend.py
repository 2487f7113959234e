"""TensorRT and TensorRT-RTX: memory is allocated once; each frame takes one launch and one wait.

A frame is copied to pinned memory; the copy in, the network and the copy out are enqueued in one stream, as a captured
CUDA graph if the engine allows it; then the thread waits once.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from sal360.arrays import Density, Pixels
from sal360.errors import ModelError
from sal360.files import write_bytes
from sal360.runtimes.backend import Backend, TensorInfo, batch_limits, precision_of_graph
from sal360.runtimes.onnx_file import read_onnx
from sal360.runtimes.tensorrt.builder import first, installed_names, load_tensorrt, tensor_info
from sal360.runtimes.tensorrt.cache import engine_for, runtime_cache_path
from sal360.runtimes.tensorrt.driver import CudaDevice
from sal360.runtimes.tensorrt.engine import SUFFIX, read_engine, read_engine_info
from sal360.spec import INPUT_NAME, OUTPUT_NAME

_log = logging.getLogger(__name__)


class _EngineRefused(ModelError):
    """TensorRT refuses to load an engine that was built for this machine."""


class TensorRtBackend(Backend):
    """An engine file, or an ONNX file whose engine is built on the first start and then cached."""

    name = "tensorrt"

    @classmethod
    def is_installed(cls, device: str) -> bool:
        return device == "cuda" and bool(installed_names())

    def _open(self, path: Path, device: str, precision: str, threads: int) -> None:  # noqa: ARG002
        engine = read_engine_info(path) if path.suffix.lower() == SUFFIX else None
        self.spec = engine.spec if engine else read_onnx(path).spec
        self.device = device
        self.precision = precision_of_graph(precision, self.spec, self.name)
        self._library = load_tensorrt(engine.library if engine else "")
        self._gpu = CudaDevice(int(device.partition(":")[2]))
        self._held = ExitStack()  # frees in reverse order, even if opening failed half-way
        self._held.callback(self._gpu.release)
        try:
            self._gpu.make_current()
            if engine:
                self._load(path)
            else:
                self._load_or_build(path)
            self._allocate()
        except BaseException as error:
            self._release_after(error)
            raise

    def _load_or_build(self, onnx_path: Path) -> None:
        engine = engine_for(onnx_path, self._library, self._gpu)
        try:
            self._load(engine)
        except _EngineRefused as error:  # for instance after a driver update
            _log.warning("%s; rebuilding it", error)
            self._load(engine_for(onnx_path, self._library, self._gpu, force_update=True))

    def _load(self, path: Path) -> None:
        library, gpu = self._library, self._gpu
        content, info = read_engine(path)
        info.check_runs_on(path, library.name, library.version, gpu.compute_capability, gpu.name)
        self._held.callback(self._drop_engine)
        self._runtime = library.module.Runtime(library.logger)
        with library.errors() as errors:
            self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise _EngineRefused(
                f"{library.name} {library.version} refuses {path} ({first(errors)})",
                "update the NVIDIA driver, or open the ONNX file instead, which builds an engine for this machine",
            )
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        mode = library.module.TensorIOMode
        inputs = [self._tensor_info(name) for name in names if self._engine.get_tensor_mode(name) == mode.INPUT]
        outputs = [self._tensor_info(name) for name in names if self._engine.get_tensor_mode(name) == mode.OUTPUT]
        fewest, most = batch_limits(self.spec, inputs, outputs, str(path))
        self.batch_limits = fewest, min(most, info.max_batch)
        self._runtime_cache_path = runtime_cache_path(path)
        self._context = self._create_context()

    def _tensor_info(self, name: str) -> TensorInfo:
        return tensor_info(name, self._engine.get_tensor_dtype(name), self._engine.get_tensor_shape(name))

    def _create_context(self) -> Any:
        """TensorRT-RTX compiles kernels for the GPU here, captures graphs itself and keeps both in a cache."""
        module = self._library.module
        self._runtime_cache: Any = None
        self._captures_itself = hasattr(module, "CudaGraphStrategy")
        if not self._captures_itself:
            return self._engine.create_execution_context()
        config = self._engine.create_runtime_config()
        config.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        if hasattr(module, "DynamicShapesKernelSpecializationStrategy"):
            # compile for a batch size when it first occurs, not in the background during later frames
            eager = module.DynamicShapesKernelSpecializationStrategy.EAGER
            config.dynamic_shapes_kernel_specialization_strategy = eager
        self._runtime_cache = config.create_runtime_cache()
        if self._runtime_cache_path.is_file():
            self._runtime_cache.deserialize(self._runtime_cache_path.read_bytes())  # ignores the cache of another GPU
        config.set_runtime_cache(self._runtime_cache)
        return self._engine.create_execution_context(config)

    def _allocate(self) -> None:
        """Allocate buffers for the largest batch; smaller ones use their beginning."""
        spec, most, gpu, held = self.spec, self.batch_limits[1], self._gpu, self._held
        self._stream = gpu.create_stream()
        held.callback(gpu.destroy_stream, self._stream)
        self._host_in = gpu.allocate_pinned((most, spec.input_height, spec.input_width, 3), np.uint8)
        held.callback(gpu.free_pinned, self._host_in)
        self._host_out = gpu.allocate_pinned((most, spec.output_height, spec.output_width), np.float32)
        held.callback(gpu.free_pinned, self._host_out)
        self._device_in = gpu.allocate(self._host_in.nbytes)
        held.callback(gpu.free, self._device_in)
        self._device_out = gpu.allocate(self._host_out.nbytes)
        held.callback(gpu.free, self._device_out)
        self._context.set_tensor_address(INPUT_NAME, self._device_in)
        self._context.set_tensor_address(OUTPUT_NAME, self._device_out)
        self._batch = 0
        self._graph: int | None = None
        held.callback(self._drop_graph)

    def _run(self, frames: Pixels) -> Density:
        self._gpu.make_current()  # any thread may call
        batch = len(frames)
        np.copyto(self._host_in[:batch], frames)
        if batch != self._batch:
            self._prepare(batch)
        elif self._graph is not None:
            self._gpu.launch(self._graph, self._stream)
        else:
            self._enqueue(batch)
        self._gpu.synchronize(self._stream)
        return self._host_out[:batch].copy()

    def _prepare(self, batch: int) -> None:
        """Run a batch of a new size and capture the graph for the next ones.

        The first run cannot be captured: TensorRT allocates in it, and TensorRT-RTX compiles.
        """
        self._drop_graph()
        self._batch = 0  # until all of the following has succeeded
        self._context.set_input_shape(INPUT_NAME, (batch, *self._host_in.shape[1:]))
        self._enqueue(batch)
        self._gpu.synchronize(self._stream)
        if self._captures_itself:
            self._save_runtime_cache()
        else:
            try:
                self._graph = self._gpu.capture(lambda: self._enqueue(batch), self._stream)
            except ModelError as error:
                _log.warning("running without a CUDA graph: %s", error)
        self._batch = batch

    def _enqueue(self, batch: int) -> None:
        """Enqueue the copy in, the network and the copy out."""
        self._gpu.copy_to_device(self._device_in, self._host_in[:batch], self._stream)
        with self._library.errors() as errors:
            done = self._context.execute_async_v3(self._stream)
        if not done:
            raise ModelError(
                f"TensorRT failed during inference ({first(errors)})", "open the model again, or choose another backend"
            )
        self._gpu.copy_to_host(self._host_out[:batch], self._device_out, self._stream)

    def _save_runtime_cache(self) -> None:
        """Save the kernels that TensorRT-RTX compiled for this GPU, so that the next start need not compile them."""
        try:
            write_bytes(self._runtime_cache_path, bytes(self._runtime_cache.serialize()))
        except OSError as error:
            _log.warning("%s cannot be written (%s); the next start compiles again", self._runtime_cache_path, error)

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._gpu.destroy_graph(self._graph)
            self._graph = None

    def _drop_engine(self) -> None:
        self._context = self._runtime_cache = self._engine = self._runtime = None

    def _release_after(self, error: BaseException) -> None:
        """Free the resources after a failure to open; `error` stays the one that is reported."""
        try:
            self._held.close()
        except ModelError as second:
            _log.debug("freeing after %r failed as well: %s", error, second)

    def _release(self) -> None:
        try:
            self._gpu.make_current()
        finally:  # after a GPU error every call fails, but the rest must still be attempted
            self._held.close()
