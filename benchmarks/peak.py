"""The probe with which the benchmarks measure a machine's peak arithmetic rate in each precision.

The probe is a model file like any other: a chain of 3 x 3 convolutions with 256 channels, each with a ReLU. Runtimes
come closest to the hardware's limit with such work. The peak is the fastest run of the probe by any runtime.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sal360.spec import ModelSpec, write_onnx_spec

CHANNELS = 256


def write_probe(path: Path, precision: str, *, height: int, layers: int, signed: bool = False) -> Path:
    """Write the probe as an ONNX file: frames (N, 2 · height, 4 · height, 3) in, maps (N, height, 2 · height) out.

    Args:
        precision: fp32, fp16, bf16 or int8.
        height: rows of the feature maps; they have twice as many columns.
        layers: number of convolutions in the chain.
        signed: int8 activations, which TensorRT needs, instead of uint8; only for precision int8.
    """
    import onnx
    from onnx import TensorProto, helper

    element = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}.get(precision, TensorProto.FLOAT)
    graph = _Graph(element, np.int8 if signed else np.uint8)
    graph.add("Cast", ["frame"], "float", to=element)
    graph.add("Transpose", ["float"], "nchw", perm=[0, 3, 1, 2])
    graph.convolve("nchw", "x0", graph.weights(CHANNELS, 3), strides=[2, 2])
    for layer in range(layers):
        source = graph.quantised(f"x{layer}") if precision == "int8" else f"x{layer}"
        weights = graph.weights(CHANNELS, CHANNELS, quantised=precision == "int8")
        graph.convolve(source, f"x{layer + 1}", weights)
    graph.convolve(f"x{layers}", "map", graph.weights(1, CHANNELS))
    graph.add("Cast", ["map"], "map_float", to=TensorProto.FLOAT)
    graph.constant("axis", np.array([1]))
    graph.add("Squeeze", ["map_float", "axis"], "saliency")
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "probe",
            [helper.make_tensor_value_info("frame", TensorProto.UINT8, ["N", 2 * height, 4 * height, 3])],
            [helper.make_tensor_value_info("saliency", TensorProto.FLOAT, ["N", height, 2 * height])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", 22 if precision == "bf16" else 19)],
        ir_version=10 if precision == "bf16" else 9,
    )
    sizes = (2 * height, 4 * height, height, 2 * height)
    write_onnx_spec(model, ModelSpec("probe", "1", *sizes, "nothing", "Apache-2.0", precision))
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return path


class _Graph:
    """Nodes and constants of the probe; the small random weights are the same every time."""

    def __init__(self, element: int, activation: type) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._element, self._activation = element, activation
        self._random = np.random.default_rng(0)

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, name: str, value: Any, element: int | None = None) -> str:
        from onnx import helper, numpy_helper

        value = np.asarray(value)
        tensor = numpy_helper.from_array(value, name)
        if element is not None:
            tensor = helper.make_tensor(name, element, value.shape, value.ravel())
        self.constants.append(tensor)
        return name

    def weights(self, outputs: int, inputs: int, *, quantised: bool = False) -> str:
        name = f"w{len(self.constants)}"
        weights = self._random.normal(0, 1 / np.sqrt(9 * inputs), (outputs, inputs, 3, 3)).astype(np.float32)
        if not quantised:
            return self.constant(name, weights, self._element)
        scale = np.abs(weights).max() / 127
        self.constant(f"{name}_int", np.round(weights / scale).astype(np.int8))
        self.constant(f"{name}_scale", np.float32(scale))
        self.constant(f"{name}_zero", np.int8(0))
        return self.add("DequantizeLinear", [f"{name}_int", f"{name}_scale", f"{name}_zero"], name)

    def quantised(self, source: str) -> str:
        scale = self.constant(f"{source}_scale", np.float32(4 / 127))
        zero = self.constant(f"{source}_zero", self._activation(0))
        self.add("QuantizeLinear", [source, scale, zero], f"{source}_int")
        return self.add("DequantizeLinear", [f"{source}_int", scale, zero], f"{source}_back")

    def convolve(self, source: str, output: str, weights: str, **attributes: Any) -> None:
        self.add("Conv", [source, weights], f"{output}_sum", pads=[1, 1, 1, 1], **attributes)
        self.add("Relu", [f"{output}_sum"], output)
