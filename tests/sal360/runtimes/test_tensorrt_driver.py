"""The calls of libcuda: declared as NVIDIA's header declares them."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest

from sal360.runtimes.tensorrt import driver
from sal360.runtimes.tensorrt.driver import SIGNATURES, cuda_device_count


@pytest.fixture(scope="module")
def header() -> str:
    nvidia = pytest.importorskip("nvidia", reason="NVIDIA's header comes with the CUDA build of torch")
    for folder in nvidia.__path__:
        for path in Path(folder).glob("*/include/cuda.h"):
            return path.read_text(encoding="utf-8")
    pytest.skip("NVIDIA's header is not installed")


# how ctypes passes each kind of parameter of these functions
KINDS = {
    "int": ctypes.c_int,
    "CUdevice": ctypes.c_int,
    "CUdevice_attribute": ctypes.c_int,
    "CUresult": ctypes.c_int,
    "CUstreamCaptureMode": ctypes.c_int,
    "unsigned int": ctypes.c_uint,
    "unsigned long long": ctypes.c_uint64,
    "size_t": ctypes.c_size_t,
    "CUdeviceptr": ctypes.c_uint64,
    "char *": ctypes.c_char_p,
    "void *": ctypes.c_void_p,
    **dict.fromkeys(("CUcontext", "CUstream", "CUgraph", "CUgraphExec"), ctypes.c_void_p),
}


def ctypes_of(declaration: str):
    declaration = declaration.replace("const ", "").strip()
    match = re.fullmatch(r"(.+?)\s*(\**)\s*(\w+)", declaration)
    kind, stars = match[1].strip(), match[2]
    if kind in ("void", "char"):
        return KINDS[f"{kind} *"] if stars == "*" else ctypes.POINTER(KINDS[f"{kind} *"])
    return ctypes.POINTER(KINDS[kind]) if stars else KINDS[kind]


@pytest.mark.parametrize("name", SIGNATURES)
def test_each_call_is_declared_as_in_the_header(header, name):
    aliases = dict(re.findall(r"#define\s+(cu\w+)\s+(?:__CUDA_API_PT[DS][SZ]\()?(cu\w+)", header))
    public = next((alias for alias, symbol in aliases.items() if symbol == name), name)
    # the alias stands for the first declaration
    parameters = re.search(rf"CUresult CUDAAPI {public}\(([^)]*)\);", header)[1]
    assert SIGNATURES[name] == tuple(ctypes_of(each) for each in parameters.split(","))


class Driver:
    """A driver library that starts on command."""

    def __init__(self):
        self.is_there, self.status, self.loads = False, 0, 0

    def load(self, name):
        assert name == "libcuda.so.1"
        self.loads += 1
        if not self.is_there:
            raise OSError("libcuda.so.1: cannot open shared object file")
        return self

    def __getattr__(self, name):
        if name not in SIGNATURES:
            raise AttributeError(name)

        def call(*arguments):
            if name == "cuDeviceGetCount":
                arguments[0]._obj.value = 1
            return self.status

        setattr(self, name, call)
        return call


def test_a_driver_that_comes_up_later_is_seen(monkeypatch):
    late = Driver()
    monkeypatch.setattr(driver, "_loaded", [])
    monkeypatch.setattr(driver.ctypes, "CDLL", late.load)
    assert cuda_device_count() == 0
    late.is_there, late.status = True, 100  # the library is installed, the kernel module is not loaded
    assert cuda_device_count() == 0
    late.status = 0
    assert cuda_device_count() == cuda_device_count() == 1
    assert late.loads == 3
