"""A GPU and a TensorRT runtime made of numpy: the calls that the backend uses, with their order and their memory.

The fake driver runs nothing before a stream is synchronised, so that a result read too early is zero. The fake runtime
takes engines that the real builder made and computes the map with ONNX's reference evaluator.
"""

from __future__ import annotations

import ctypes
import itertools
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from sal360.runtimes import selection
from sal360.runtimes.tensorrt import builder, driver
from sal360.runtimes.tensorrt.engine import sha256
from sal360.spec import METADATA_KEY

OUT_OF_MEMORY = 2


class FakeCuda:
    """libcuda with one device. `calls` lists the names of all calls; `fails` maps a name to the status it gives."""

    def __init__(self, name="Fake RTX 4090", capability=(8, 9)):
        self.name, self.capability = name, capability
        self.calls: list[str] = []
        self.fails: dict[str, int] = {}
        self.handles = itertools.count(0x7F0000001000, 0x1000)  # beyond 32 bits, as real ones
        self.device_memory: dict[int, bytearray] = {}
        self.pinned: dict[int, object] = {}
        self.streams: dict[int, list] = {}
        self.capturing: dict[int, list] = {}
        self.graphs: dict[int, list] = {}
        self.contexts = 0

    def __getattr__(self, name):
        if name not in driver.SIGNATURES:
            raise AttributeError(name)
        implementation = getattr(type(self), f"_{name}")

        def call(*arguments):
            self.calls.append(name)
            if name in self.fails:
                return self.fails[name]
            return implementation(self, *(getattr(each, "value", each) for each in arguments)) or 0

        return call

    @property
    def leaks(self):
        """Everything that was taken and not given back."""
        return [*self.device_memory, *self.pinned, *self.streams, *self.graphs, *range(self.contexts)]

    def _cuGetErrorString(self, status, text):
        text._obj.value = {OUT_OF_MEMORY: b"out of memory"}.get(status, b"unknown error")

    def _cuDeviceGetCount(self, count):
        count._obj.value = 1

    def _cuDeviceGet(self, device, index):
        device._obj.value = index

    def _cuDeviceGetAttribute(self, value, attribute, device):
        assert device == 0
        value._obj.value = self.capability[attribute - 75]

    def _cuDevicePrimaryCtxRetain(self, context, device):
        assert device == 0
        self.contexts += 1
        context._obj.value = 0xC0FFEE0000000

    def _cuDevicePrimaryCtxRelease_v2(self, device):
        assert device == 0
        self.contexts -= 1

    def _cuCtxSetCurrent(self, context):
        assert context == 0xC0FFEE0000000
        assert self.contexts > 0

    def _cuMemAlloc_v2(self, address, size):
        if size >= 1 << 40:
            return OUT_OF_MEMORY
        address._obj.value = handle = next(self.handles)
        self.device_memory[handle] = bytearray(size)
        return 0

    def _cuMemFree_v2(self, address):
        del self.device_memory[address]

    def _cuMemHostAlloc(self, address, size, flags):
        buffer = ctypes.create_string_buffer(size)
        address._obj.value = ctypes.addressof(buffer)
        self.pinned[ctypes.addressof(buffer)] = buffer
        assert flags == 0

    def _cuMemFreeHost(self, address):
        del self.pinned[address]

    def _cuStreamCreate(self, stream, flags):
        assert flags == 1
        stream._obj.value = handle = next(self.handles)
        self.streams[handle] = []

    def _cuStreamDestroy_v2(self, stream):
        assert not self.streams.pop(stream), "work was left in the stream"

    def _cuStreamSynchronize(self, stream):
        assert stream not in self.capturing, "a captured stream cannot be waited for"
        work, self.streams[stream] = self.streams[stream], []
        for each in work:
            each()

    def enqueue(self, stream, work):
        """Put work into a stream, or into the graph that is being captured from it."""
        self.capturing.get(stream, self.streams[stream]).append(work)

    def _cuMemcpyHtoDAsync_v2(self, address, host, size, stream):
        assert size <= len(self.device_memory[address])
        self.enqueue(stream, lambda: self.write(address, ctypes.string_at(host, size)))

    def _cuMemcpyDtoHAsync_v2(self, host, address, size, stream):
        assert size <= len(self.device_memory[address])
        self.enqueue(stream, lambda: ctypes.memmove(host, bytes(self.device_memory[address][:size]), size))

    def _cuMemcpyDtoDAsync_v2(self, target, source, size, stream):
        self.enqueue(stream, lambda: self.write(target, bytes(self.device_memory[source][:size])))

    def write(self, address, data):
        """What a copy or a kernel does to device memory."""
        self.device_memory[address][: len(data)] = data

    def _cuStreamBeginCapture_v2(self, stream, mode):
        assert mode == 1
        self.capturing[stream] = []

    def _cuStreamEndCapture(self, stream, graph):
        graph._obj.value = handle = next(self.handles)
        self.graphs[handle] = self.capturing.pop(stream)

    def _cuGraphInstantiateWithFlags(self, executable, graph, flags):
        assert flags == 0
        executable._obj.value = handle = next(self.handles)
        self.graphs[handle] = self.graphs[graph]

    def _cuGraphLaunch(self, executable, stream):
        self.streams[stream].extend(self.graphs[executable])

    def _cuGraphExecDestroy(self, executable):
        del self.graphs[executable]

    def _cuGraphDestroy(self, graph):
        del self.graphs[graph]

    def cuDeviceGetName(self, text, length, device):  # noqa: ARG002
        text.value = self.name.encode()
        return 0


class FakeContext:
    def __init__(self, engine):
        self.engine, self.shape, self.addresses = engine, None, {}

    def set_input_shape(self, name, shape):
        assert name == "frame"
        self.shape = tuple(shape)
        return True

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        if self.engine.world.refuses_to_run:
            self.engine.world.logger.log(self.engine.world.module.ILogger.Severity.ERROR, "kernel launch failed")
            return False
        cuda, shape, addresses = self.engine.world.cuda, self.shape, dict(self.addresses)

        def work():
            frames = np.frombuffer(cuda.device_memory[addresses["frame"]], np.uint8, int(np.prod(shape))).reshape(shape)
            maps = self.engine.evaluator.run(None, {"frame": frames})[0]
            cuda.write(addresses["saliency"], maps.tobytes())

        cuda.enqueue(stream, work)
        return True


class FakeEngine:
    num_io_tensors = 2

    def __init__(self, world, path):
        from onnx.reference import ReferenceEvaluator

        self.world, self.evaluator = world, ReferenceEvaluator(str(path))
        graph = self.evaluator.proto_.graph
        self.tensors = {tensor.name: tensor.type.tensor_type for tensor in (*graph.input, *graph.output)}
        self.runtime_config = None

    def get_tensor_name(self, index):
        return list(self.tensors)[index]

    def get_tensor_mode(self, name):
        return self.world.module.TensorIOMode.INPUT if name == "frame" else self.world.module.TensorIOMode.OUTPUT

    def get_tensor_shape(self, name):
        return tuple(size.dim_value or -1 for size in self.tensors[name].shape.dim)

    def get_tensor_dtype(self, name):
        return self.world.module.DataType.UINT8 if name == "frame" else self.world.module.DataType.FLOAT

    def create_execution_context(self, config=None):
        self.runtime_config = config
        return FakeContext(self)

    def create_runtime_config(self):
        return SimpleNamespace(
            create_runtime_cache=lambda: SimpleNamespace(
                deserialize=self.world.seen_caches.append, serialize=lambda: b"compiled kernels"
            ),
            set_runtime_cache=lambda _: None,
        )


class FakeTensorRt:
    """The real package with another Runtime; classic TensorRT is one without the calls that only RTX has."""

    only_rtx = frozenset({"CudaGraphStrategy", "DynamicShapesKernelSpecializationStrategy"})

    def __init__(self, real, world, *, rtx):
        self._real, self._world, self._rtx = real, world, rtx
        self.__version__ = real.__version__ if rtx else "11.0.0"
        self.__spec__ = SimpleNamespace(name="fake")

    def __getattr__(self, name):
        if name in self.only_rtx and not self._rtx:
            raise AttributeError(name)
        return getattr(self._real, name)

    def Runtime(self, logger):
        def deserialize(content):
            path = self._world.engines.get(sha256(content))
            if path is None:
                logger.log(self._real.ILogger.Severity.ERROR, "Serialization assertion failed")
                return None
            self._world.logger = logger
            return FakeEngine(self._world, path)

        return SimpleNamespace(deserialize_cuda_engine=deserialize)


@pytest.fixture
def make_gpu(monkeypatch, tmp_path):
    """Puts a fake card and TensorRT into this process: make_gpu("tensorrt_rtx") or make_gpu("tensorrt")."""

    def make(library="tensorrt_rtx"):
        real = pytest.importorskip("tensorrt_rtx")
        world = SimpleNamespace(
            cuda=FakeCuda(), engines={}, builds=[], seen_caches=[], refuses_to_run=False, cache=tmp_path / "cache"
        )
        world.module = FakeTensorRt(real, world, rtx=library == "tensorrt_rtx")
        monkeypatch.setitem(sys.modules, library, world.module)
        monkeypatch.setattr(driver, "load_driver", lambda: world.cuda)
        monkeypatch.setattr(selection, "cuda_device_count", lambda: 1)
        monkeypatch.setenv("XDG_CACHE_HOME", str(world.cache))
        build = builder.build_engine

        def remembered_build(path, *arguments, **options):
            engine, info = build(path, *arguments, **options)
            world.engines[sha256(engine)] = path
            world.builds.append(path)
            return engine, info

        monkeypatch.setattr("sal360.runtimes.tensorrt.cache.build_engine", remembered_build)
        return world

    return make


@pytest.fixture(scope="session")
def exact(tiny_model):
    """The maps of ONNX's reference evaluator, which is written in numpy."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(tiny_model))
    return lambda frames: evaluator.run(None, {"frame": frames})[0]


@pytest.fixture(scope="session")
def as_program():
    """The tiny model as a torch program: the same constants in the same order of operations."""
    made = {}

    def convert(path):
        if path not in made:
            made[path] = write_program(path)
        return made[path]

    return convert


def write_program(onnx_path):
    import onnx
    import torch

    model = onnx.load(onnx_path)
    constants = {each.name: torch.tensor(onnx.numpy_helper.to_array(each)) for each in model.graph.initializer}
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value

    class Tiny(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name in ("w1", "w2", "prior", "weights"):
                self.register_buffer(name, constants[name])

        def forward(self, frame):
            x = frame.float().permute(0, 3, 1, 2) / 255
            x = torch.relu(torch.nn.functional.conv2d(x, self.w1, stride=2, padding=1))
            x = torch.nn.functional.conv2d(x, self.w2) + self.prior
            mass = torch.exp(x - x.amax(dim=(2, 3), keepdim=True))
            return (mass / (mass * self.weights).sum(dim=(2, 3), keepdim=True)).squeeze(1)

    spec = next(entry.value for entry in model.metadata_props if entry.key == METADATA_KEY)
    frames = torch.zeros(batch or 2, 32, 64, 3, dtype=torch.uint8)
    dynamic = None if batch else ({0: torch.export.Dim("batch", min=1, max=64)},)
    path = onnx_path.with_suffix(".pt2")
    program = torch.export.export(Tiny(), (frames,), dynamic_shapes=dynamic)
    torch.export.save(program, str(path), extra_files={METADATA_KEY: spec})
    return path
