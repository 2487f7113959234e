"""The few calls of NVIDIA's driver library (libcuda) that the TensorRT backend needs, without any Python package.

libcuda is part of every driver, on desktops and on Jetson, and its interface stays compatible across CUDA releases,
whereas a wheel of bindings has to match the driver's major version. Its streams and memory can be shared with the CUDA
runtime that TensorRT uses, because both work in the device's primary context.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sal360.errors import ModelError

Element = TypeVar("Element", bound=np.generic)

# Names as the library exports them: the header maps cuMemAlloc to cuMemAlloc_v2 and so on.
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxSetCurrent": (c_void_p,),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamSynchronize": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuMemcpyDtoDAsync_v2": (c_uint64, c_uint64, c_size_t, c_void_p),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cuGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_uint64),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphExecDestroy": (c_void_p,),
    "cuGraphDestroy": (c_void_p,),
}

_STREAM_NON_BLOCKING = 1
_CAPTURE_THREAD_LOCAL = 1
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76

_FAULTS = (214, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719)
"""Error codes after which CUDA refuses all further work in the process: ECC errors, kernel crashes and timeouts."""

_loaded: list[Any] = []  # the library, once it has started


def load_driver() -> Any:
    """The initialised driver library, or None without an NVIDIA driver or GPU.

    Only success is cached: a driver that is loaded later, at boot or by a container toolkit, is found by a later call.
    """
    if not _loaded:
        try:
            library = ctypes.CDLL("libcuda.so.1")
            for name, arguments in SIGNATURES.items():
                getattr(library, name).argtypes = arguments
        except (OSError, AttributeError):  # there is no driver, or it is older than CUDA 11.4
            return None
        if library.cuInit(0) != 0:
            return None
        _loaded.append(library)
    return _loaded[0]


def cuda_device_count() -> int:
    """Number of CUDA devices that this process can use; 0 without a driver."""
    driver = load_driver()
    count = c_int()
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


class CudaDevice:
    """One GPU: its identity, memory, streams and captured graphs. Addresses and handles are plain integers.

    Args:
        index: the N of "cuda:N".

    Raises:
        ModelError: there is no driver or no such device; every method also raises it if a driver call fails.
    """

    def __init__(self, index: int) -> None:
        self._driver = load_driver()
        if self._driver is None:
            raise ModelError("this machine has no NVIDIA driver", "install it, or choose device cpu")
        device = c_int()
        self._call("cuDeviceGet", ctypes.byref(device), index)
        self._device = device.value
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, len(name), self._device)
        self.name = name.value.decode(errors="replace")
        self.compute_capability = (
            f"{self._attribute(_COMPUTE_CAPABILITY_MAJOR)}.{self._attribute(_COMPUTE_CAPABILITY_MINOR)}"
        )
        self._context = self._new("cuDevicePrimaryCtxRetain", self._device)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._driver, name)(*arguments)
        if status != 0:
            text = c_char_p()
            self._driver.cuGetErrorString(status, ctypes.byref(text))
            reason = text.value.decode() if text.value else f"error {status}"
            remedy = "check with nvidia-smi that the GPU works and has free memory, or choose device cpu"
            if status in _FAULTS:
                remedy = "restart this process, because CUDA cannot recover within it (see nvidia-smi and dmesg)"
            raise ModelError(f"CUDA's {name} failed ({reason})", remedy)

    def _new(self, name: str, *arguments: Any) -> int:
        """Call a function whose first argument receives a handle."""
        handle = c_void_p()
        self._call(name, ctypes.byref(handle), *arguments)
        return handle.value or 0

    def _attribute(self, attribute: int) -> int:
        value = c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), attribute, self._device)
        return value.value

    def make_current(self) -> None:
        """Make the calling thread, and TensorRT in it, work on this device."""
        self._call("cuCtxSetCurrent", self._context)

    def release(self) -> None:
        """Release the device; everything else must have been freed before."""
        self._call("cuDevicePrimaryCtxRelease_v2", self._device)

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes of device memory; returns their address."""
        address = c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), size)
        return address.value

    def free(self, address: int) -> None:
        """Free memory from `allocate`."""
        self._call("cuMemFree_v2", address)

    def allocate_pinned(self, shape: tuple[int, ...], dtype: type[Element]) -> NDArray[Element]:
        """Allocate a page-locked host array, which the device reads and writes directly."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = self._new("cuMemHostAlloc", size, 0)
        memory = memoryview((ctypes.c_uint8 * size).from_address(address))
        return np.frombuffer(memory, dtype).reshape(shape)

    def free_pinned(self, array: NDArray[Any]) -> None:
        """Free an array from `allocate_pinned`; it must not be used afterwards."""
        self._call("cuMemFreeHost", array.ctypes.data)

    def create_stream(self) -> int:
        """Create a stream that does not wait for the default stream."""
        return self._new("cuStreamCreate", _STREAM_NON_BLOCKING)

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream."""
        self._call("cuStreamDestroy_v2", stream)

    def synchronize(self, stream: int) -> None:
        """Wait until all work in a stream is done."""
        self._call("cuStreamSynchronize", stream)

    def copy_to_device(self, address: int, array: NDArray[Any], stream: int) -> None:
        """Copy a contiguous host array to device memory, in stream order."""
        self._call("cuMemcpyHtoDAsync_v2", address, array.ctypes.data, array.nbytes, stream)

    def copy_to_host(self, array: NDArray[Any], address: int, stream: int) -> None:
        """Copy device memory to a contiguous host array, in stream order."""
        self._call("cuMemcpyDtoHAsync_v2", array.ctypes.data, address, array.nbytes, stream)

    def copy_on_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy `size` bytes within device memory, in stream order."""
        self._call("cuMemcpyDtoDAsync_v2", target, source, size, stream)

    def capture(self, enqueue: Callable[[], None], stream: int) -> int:
        """Capture the work that `enqueue` adds to the stream as an executable graph, without running it."""
        self._call("cuStreamBeginCapture_v2", stream, _CAPTURE_THREAD_LOCAL)
        graph = c_void_p()
        try:
            enqueue()
        except BaseException:
            self._driver.cuStreamEndCapture(stream, ctypes.byref(graph))  # leaves the stream usable
            raise
        self._call("cuStreamEndCapture", stream, ctypes.byref(graph))
        try:
            return self._new("cuGraphInstantiateWithFlags", graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        """Run a captured graph in a stream."""
        self._call("cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Destroy a captured graph."""
        self._call("cuGraphExecDestroy", graph)
