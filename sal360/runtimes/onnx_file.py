"""Checks of an ONNX file before a runtime loads it: external data, memory, hash.

Runtimes follow the file names in a model and allocate as much memory as its operators request, so an untrusted file
could read any file on this machine or exhaust its memory. Both are refused here, for all runtimes.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sal360.errors import ModelError
from sal360.runtimes.backend import TensorInfo, check_tensors
from sal360.spec import INPUT_NAME, ModelSpec, load_onnx, spec_of

MAX_BYTES_PER_FRAME = 4 << 30
"""Maximum memory of one call for each frame of its batch, bytes. The bundled model needs 0.07 GB."""

SMALL_BYTES = 8192
"""Tensors up to this size may contain shapes that operators read; larger ones are weights."""

_REMEDY = "export the model again with python -m training.export"


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file that was checked."""

    path: Path
    spec: ModelSpec
    external_data: tuple[Path, ...]
    """The files with external weights, sorted."""

    def sha256(self) -> str:
        """Hash of the file and of its external data, if any: hexadecimal."""
        if not self.external_data:
            return _sha256_of_file(self.path)
        folder = self.path.parent.resolve()
        hashes = [(str(each.relative_to(folder)), _sha256_of_file(each)) for each in self.external_data]
        return hashlib.sha256(repr((_sha256_of_file(self.path), hashes)).encode()).hexdigest()


def read_onnx(path: Path) -> OnnxFile:
    """Check an ONNX file and read its spec.

    Raises:
        ModelError: it is not a model with a spec, its external data are missing or outside its folder, or it needs more
            memory than `MAX_BYTES_PER_FRAME` or this machine has.
    """
    model = load_onnx(path)
    spec = spec_of(model, str(path))
    external_data = _external_data(model, path)
    needed, batch = _memory(model, spec, path)
    limit = min(MAX_BYTES_PER_FRAME * batch, _physical_memory())
    if needed > limit:
        raise ModelError(
            f"{path} needs {needed / 1e9:.1f} GB of memory for one call; {limit / 1e9:.1f} GB are allowed here",
            "export it again with smaller frames or a smaller batch "
            "(python -m training.export --frame_size HxW --batch N)",
        )
    return OnnxFile(path, spec, external_data)


def _physical_memory() -> float:
    if not hasattr(os, "sysconf"):  # Windows
        return math.inf
    return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")


def _sha256_of_file(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise _unreadable(path, error) from None
    return digest.hexdigest()


def _read_range(path: Path, offset: int, size: int) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(size)
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> ModelError:
    return ModelError(f"{path} cannot be read ({error.strerror})", "check its permissions and the disk")


# --- external data ---


def _external_data(model: Any, path: Path) -> tuple[Path, ...]:
    """The files that the tensors of a model refer to, after checking that they lie in the model's folder."""
    found: dict[str, Path] = {}
    for tensor in _tensors(model):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if len(entries) < len(tensor.external_data):  # a runtime may take the first, which was not checked
            raise ModelError(f"{path} has external data with two values of one kind", _REMEDY)
        location = entries.get("location", "")
        if tensor.data_location != tensor.EXTERNAL and not entries:
            continue
        if location not in found:
            found[location] = _inside_folder(path, location)
        offset = _check_range(found[location], entries, path)
        size = _bytes(tensor.data_type, tensor.dims)
        if size <= SMALL_BYTES:  # it may contain a shape, which `_memory` needs
            tensor.raw_data = _read_range(found[location], offset, size)
            tensor.ClearField("data_location")
            tensor.ClearField("external_data")
    return tuple(sorted(found.values()))


def _tensors(message: Any) -> Iterator[Any]:
    """All tensors in a model: weights, attributes of operators, subgraphs, functions."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in (value,) if hasattr(value, "DESCRIPTOR") else value:
                yield from _tensors(each)


def _inside_folder(path: Path, location: Any) -> Path:
    """The file that `location` names, symbolic links resolved."""
    folder = path.parent.resolve()
    try:
        file = (folder / os.fsdecode(location)).resolve()
        is_file = file.is_file()
    except (OSError, ValueError, RuntimeError):  # a name with a zero byte, a loop of links
        file, is_file = folder, False
    if not is_file and not location:
        raise ModelError(f"{path} has external data without a file name", _REMEDY)
    if not file.is_relative_to(folder):
        raise ModelError(
            f"{path} keeps weights in {location!r}, outside its own folder",
            "copy that file beside the model if you trust it and correct the name, or export the model as one file",
        )
    if not is_file:
        raise ModelError(f"{path} keeps weights in {location!r}, which is missing", "copy that file beside the model")
    return file


def _check_range(file: Path, entries: dict[str, str], path: Path) -> int:
    """The offset of a tensor in its file, after checking that it lies inside."""
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", 0))
    except ValueError:
        offset, length = -1, 0
    if offset < 0 or length < 0 or offset + length > file.stat().st_size:
        raise ModelError(f"{path} expects weights beyond the end of {file.name}", f"copy {file.name} again, completely")
    return offset


# --- memory ---


def _memory(model: Any, spec: ModelSpec, path: Path) -> tuple[int, int]:
    """The maximum number of bytes that the tensors of one call take at a time, and the number of its frames.

    Every tensor lives from the operator that produces it to the last one that reads it; constants live forever. A graph
    whose sizes are not known before it runs is refused.
    """
    graph = model.graph
    _check_operators(graph, path)
    dense = [(tensor.name, tensor.data_type, tensor.dims) for tensor in graph.initializer]
    sparse = [(each.values.name, each.values.data_type, each.dims) for each in graph.sparse_initializer]
    sizes = {name: _bytes(element, shape) for name, element, shape in (*dense, *sparse)}
    constants = {"", *sizes}
    batch = _fix_input_shape(graph, spec, constants, path)
    sizes.update(_inferred_sizes(model, path))
    last_use = {name: index for index, node in enumerate(graph.node) for name in node.input}
    last_use.update({output.name: len(graph.node) for output in graph.output})
    now = peak = sum(sizes.get(name, 0) for name in {INPUT_NAME, *constants})
    for index, node in enumerate(graph.node):
        made = set(filter(None, node.output))
        if not sizes.keys() >= made:
            raise _unbounded(node, path)
        now += sum(sizes[name] for name in made)
        if constants.issuperset(node.input):
            constants |= made
        peak = max(peak, now)
        now -= sum(sizes[name] for name in {*node.input} - constants if last_use[name] == index and name in sizes)
    return peak, batch


def _check_operators(graph: Any, path: Path) -> None:
    """Refuse operators outside the ONNX standard, and those that contain a graph, such as loops."""
    from onnx import defs

    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or not defs.has(str(node.op_type)):
            raise ModelError(f"{path} has the operator {node.op_type}, which is not in the ONNX standard", _REMEDY)
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise _unbounded(node, path)


def _unbounded(node: Any, path: Path) -> ModelError:
    return ModelError(f"{path} has the operator {node.op_type}, whose memory is not known in advance", _REMEDY)


def _fix_input_shape(graph: Any, spec: ModelSpec, constants: set[str], path: Path) -> int:
    """Write the size of one call into the graph's input, so that all other sizes follow; returns the batch size."""
    inputs = [value for value in graph.input if value.name not in constants]
    promised = TensorInfo(INPUT_NAME, "uint8", (-1, spec.input_height, spec.input_width, 3))
    check_tensors([_tensor_info(value) for value in inputs], promised, str(path))
    sizes = inputs[0].type.tensor_type.shape.dim
    batch = max(1, int(sizes[0].dim_value))
    for size, value in zip(sizes, (batch, *promised.shape[1:]), strict=True):
        size.dim_value = value
    return batch


def _inferred_sizes(model: Any, path: Path) -> dict[str, int]:
    """Name → bytes of every tensor whose size follows from the graph. Changes the model."""
    from onnx import shape_inference

    graph = model.graph
    del graph.value_info[:], model.functions[:]  # unverified claims of the file, which inference would trust
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    for tensor in graph.initializer:
        if _bytes(tensor.data_type, tensor.dims) > SMALL_BYTES:  # spares inference the copies
            for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(field)
    try:
        inferred = shape_inference.infer_shapes(
            model
        ).graph  # no data_prop: a crafted file could exhaust memory with it
    except Exception as error:  # from the checker and from protobuf
        raise ModelError(f"{path} is not a valid ONNX model ({' '.join(str(error).split())[:200]})", _REMEDY) from None
    sizes = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor = value.type.tensor_type
        shape = [size.dim_value if size.HasField("dim_value") else -1 for size in tensor.shape.dim]
        if tensor.HasField("shape") and min(shape, default=0) >= 0:
            sizes[value.name] = _bytes(tensor.elem_type, shape)
    return sizes


def _bytes(element: int, shape: Any) -> int:
    from onnx import TensorProto

    one = (TensorProto.UINT8, TensorProto.INT8, TensorProto.BOOL)
    two = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    four = (TensorProto.FLOAT, TensorProto.INT32)
    each = 1 if element in one else 2 if element in two else 4 if element in four else 8
    if len(shape) > 16:  # no runtime has such tensors, and their product may have millions of digits
        return 1 << 62
    return each * math.prod(max(int(size), 0) for size in shape)


def _tensor_info(value: Any) -> TensorInfo:
    from onnx import TensorProto

    tensor = value.type.tensor_type
    names = {TensorProto.UINT8: "uint8", TensorProto.FLOAT: "float32"}
    shape = tuple(size.dim_value if size.dim_value > 0 else -1 for size in tensor.shape.dim)
    return TensorInfo(value.name, names.get(tensor.elem_type, f"element type {tensor.elem_type}"), shape)
