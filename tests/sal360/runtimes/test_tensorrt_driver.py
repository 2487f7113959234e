"""The calls of libcuda: declared as NVIDIA's header declares them."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest

from sal360.runtimes.tensorrt.driver import SIGNATURES


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
    # the first declaration is the one that the alias stands for
    parameters = re.search(rf"CUresult CUDAAPI {public}\(([^)]*)\);", header)[1]
    assert SIGNATURES[name] == tuple(ctypes_of(each) for each in parameters.split(","))
