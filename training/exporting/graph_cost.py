"""Arithmetic and memory traffic of one inference, counted operator by operator from the ONNX graph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sal360.errors import ModelError

# Operators that runtimes fuse into the one before, so they cause no memory traffic.
_FUSED = frozenset(
    {
        *("Add", "BatchNormalization", "Cast", "Clip", "Constant", "DequantizeLinear", "Div", "Erf", "Exp", "Expand"),
        *("Flatten", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Mul", "Neg", "Pow", "QuantizeLinear"),
        *(
            "Relu",
            "Reshape",
            "Shape",
            "Sigmoid",
            "Softplus",
            "Sqrt",
            "Squeeze",
            "Sub",
            "Tanh",
            "Transpose",
            "Unsqueeze",
        ),
    }
)
_ITEM_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


@dataclass(frozen=True)
class OperatorCost:
    """The cost of one operator."""

    name: str
    operator: str
    flop: int
    """Floating-point operations of its products; a multiply-accumulate counts 2."""
    elements: int
    """Number of elements that it reads (inputs and weights) and writes (outputs)."""


@dataclass(frozen=True)
class GraphCost:
    """The cost of a graph for one batch."""

    operators: tuple[OperatorCost, ...]

    @property
    def flop(self) -> int:
        """Floating-point operations of one inference, without element-wise ones."""
        return sum(each.flop for each in self.operators)

    def bytes_moved(self, precision: str) -> int:
        """Memory traffic with element-wise operators fused and no caching between operators."""
        return sum(each.elements for each in self.operators) * _ITEM_BYTES[precision]

    def min_seconds(self, precision: str, flop_per_s: float, bytes_per_s: float) -> float:
        """Roofline model: for each operator, the longer of arithmetic and traffic at the machine's peak rates."""
        item_bytes = _ITEM_BYTES[precision]
        return sum(max(each.flop / flop_per_s, each.elements * item_bytes / bytes_per_s) for each in self.operators)


def graph_cost(path: str | Path, batch: int = 1) -> GraphCost:
    """The cost of an ONNX model file for a batch size.

    Raises:
        ModelError: the graph does not determine the size of a product.
    """
    import onnx

    model = onnx.load(str(path))
    for tensor in (*model.graph.input, *model.graph.output):
        dimensions = tensor.type.tensor_type.shape.dim
        if dimensions and not dimensions[0].HasField("dim_value"):
            dimensions[0].dim_value = batch
    del model.graph.value_info[:]  # they may contain the symbolic batch size
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: _shape(tensor, batch) for tensor in (*graph.input, *graph.output, *graph.value_info)}
    shapes.update({weight.name: tuple(weight.dims) for weight in graph.initializer})
    return GraphCost(tuple(_operator_cost(node, shapes, path) for node in graph.node if node.op_type not in _FUSED))


def _shape(tensor: Any, batch: int) -> tuple[int, ...]:
    """The sizes of a tensor; an open first size is the batch."""
    sizes = [dimension.dim_value for dimension in tensor.type.tensor_type.shape.dim]
    if sizes and sizes[0] == 0:
        sizes[0] = batch
    return tuple(sizes)


def _operator_cost(node: Any, shapes: dict[str, tuple[int, ...]], path: str | Path) -> OperatorCost:
    tensors = [name for name in (*node.input, *node.output) if name]
    return OperatorCost(
        name=node.name,
        operator=node.op_type,
        flop=_flop(node, shapes, path),
        elements=sum(math.prod(shapes.get(name, (0,))) for name in tensors),
    )


def _flop(node: Any, shapes: dict[str, tuple[int, ...]], path: str | Path) -> int:
    if node.op_type not in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
        return 0
    left, right, out = (shapes.get(name, (0,)) for name in (node.input[0], node.input[1], node.output[0]))
    if 0 in (*left, *right, *out):
        raise ModelError(
            f"the graph in {path} does not determine the size of {node.name or node.output[0]}",
            "export the model with --batch 1",
        )
    if node.op_type == "Conv":  # weights (out, in / groups, kh, kw)
        return 2 * math.prod(out) * math.prod(right[1:])
    if node.op_type == "ConvTranspose":  # weights (in, out / groups, kh, kw)
        return 2 * math.prod(left) * math.prod(right[1:])
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return 2 * math.prod(out) * left[-2 if transposed else -1]
