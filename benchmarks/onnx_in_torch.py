"""Runs an ONNX file as a torch module: of the bundled model only the file is there, and torch needs no TensorRT.

It knows the operators that `training.export` writes for the bundled model, and names one that it does not know.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sal360.errors import ModelError

_DENSITY = frozenset({"Div", "Sub", "Exp", "Mul", "ReduceMax", "ReduceMean", "MatMul"})
"""Operators in float32 before the first and after the last convolution."""


class OnnxModule(nn.Module):
    """The graph of an ONNX file with one input and one output.

    Args:
        path: the file.
        dtype: type of the convolutions; everything before and after them is float32.

    Raises:
        ModelError: the graph has an operator that is not in `OPERATORS`.
    """

    def __init__(self, path: Path, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        import onnx

        graph = onnx.load(str(path)).graph
        unknown = sorted({node.op_type for node in graph.node} - OPERATORS.keys())
        if unknown:
            raise ModelError(
                f"{path} has the operators {', '.join(unknown)}, which benchmarks/onnx_in_torch.py does not know",
                "add them to OPERATORS there",
            )
        self.input, self.output = graph.input[0].name, graph.output[0].name
        convolved = {name for node in graph.node if node.op_type == "Conv" for name in node.input[1:]}
        self._buffer_of: dict[str, str] = {}
        self._plain: dict[str, Any] = {}
        for number, each in enumerate(graph.initializer):
            value = onnx.numpy_helper.to_array(each)
            if value.dtype == np.float32 and value.ndim < 2 and each.name not in convolved:
                self._plain[each.name] = value.tolist()  # numbers, which a captured graph cannot read from the GPU
            elif value.dtype == np.float32:
                tensor = torch.from_numpy(value.copy())
                if each.name in convolved:
                    tensor = tensor.to(dtype)
                if tensor.ndim == 4:
                    tensor = tensor.contiguous(memory_format=torch.channels_last)
                self._buffer_of[each.name] = f"constant{number}"
                self.register_buffer(f"constant{number}", tensor)
            else:
                self._plain[each.name] = value.reshape(-1).tolist()
        attribute = onnx.helper.get_attribute_value
        self._nodes = [
            (node.op_type, list(node.input), node.output[0], {each.name: attribute(each) for each in node.attribute})
            for node in graph.node
        ]

    def forward(self, frame: Tensor) -> Tensor:
        """Frames (B, H, W, 3) uint8 → the graph's output."""
        values: dict[str, Any] = {**self._plain, self.input: frame}
        values |= {name: getattr(self, buffer) for name, buffer in self._buffer_of.items()}
        for operator, inputs, output, attributes in self._nodes:
            given = [values.get(name) for name in inputs]
            if operator in _DENSITY:
                given = [each.float() if isinstance(each, Tensor) else each for each in given]
            values[output] = OPERATORS[operator](given, attributes)
        result: Tensor = values[self.output]
        return result


def _convolve(given: list[Any], attributes: dict[str, Any]) -> Tensor:
    x, weight, *bias = given
    x = x.to(weight.dtype)
    top, left, bottom, right = attributes["pads"]
    if (top, left) != (bottom, right):
        x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
    strides, group = tuple(attributes["strides"]), attributes["group"]
    return F.conv2d(x, weight, *bias, stride=strides, padding=(top, left), groups=group)


def _slice(given: list[Any], _: dict[str, Any]) -> Tensor:
    x, starts, ends, axes, *steps = given
    place = [slice(None)] * x.ndim
    for index, axis in enumerate(axes):
        place[axis] = slice(starts[index], min(ends[index], x.shape[axis]), steps[0][index] if steps else None)
    return x[tuple(place)]


def _resize(given: list[Any], _: dict[str, Any]) -> Tensor:
    x, _, scales, *_ = given
    return F.interpolate(x, scale_factor=tuple(scales[2:]), mode="bilinear", align_corners=False)


def _clip(given: list[Any], _: dict[str, Any]) -> Tensor:
    x, low, high = given
    return x.clamp(low, high)


def _gather(given: list[Any], attributes: dict[str, Any]) -> Tensor:
    x, indices = given
    return x.select(attributes["axis"], indices[0])


OPERATORS: dict[str, Callable[[list[Any], dict[str, Any]], Tensor]] = {
    "Add": lambda given, _: given[0] + given[1],
    "Cast": lambda given, _: given[0].float(),
    "Clip": _clip,
    "Concat": lambda given, attributes: torch.cat(given, dim=attributes["axis"]),
    "Conv": _convolve,
    "Div": lambda given, _: given[0] / given[1],
    "Exp": lambda given, _: given[0].exp(),
    "Gather": _gather,
    "MatMul": lambda given, _: given[0] @ given[1],
    "Mul": lambda given, _: given[0] * given[1],
    "ReduceMax": lambda given, attributes: given[0].amax(dim=tuple(given[1]), keepdim=bool(attributes["keepdims"])),
    "ReduceMean": lambda given, attributes: given[0].mean(dim=tuple(given[1]), keepdim=bool(attributes["keepdims"])),
    "Relu": lambda given, _: given[0].relu(),
    "Resize": _resize,
    "Slice": _slice,
    "Squeeze": lambda given, _: given[0].squeeze(tuple(given[1])),
    "Sub": lambda given, _: given[0] - given[1],
    "Transpose": lambda given, attributes: given[0].permute(attributes["perm"]),
    "Unsqueeze": lambda given, _: given[0].unsqueeze(given[1][0]),
}
"""Operator → from its inputs and attributes to its output. Arrays of whole numbers come as lists."""
