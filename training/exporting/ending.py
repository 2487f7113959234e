"""The ending of a model file, the part of its graph from content to density: found, cut off and replaced.

Every file of `training.export` ends with what `saliency_model.density_of_content` computes, whatever network comes
before. So calibration and prior of a file can be changed without the checkpoint, and content can be read from the file
by any runtime.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sal360.errors import ModelError
from sal360.spec import OUTPUT_NAME, ModelSpec, write_onnx_spec

_PREFIX = "adapted."
"""Begins the names of everything in a replaced ending."""


@dataclass(frozen=True)
class Ending:
    """The ending of a graph."""

    content: str
    """Name of the tensor with the content, (N, h, w) at the size of the map."""
    temperature: float
    """As in `CalibrationConfig`."""
    blur_deg: float
    """As in `CalibrationConfig`."""
    floor: float
    """As in `CalibrationConfig`."""


def find_ending(model: Any, source: str) -> Ending:
    """The ending of an `onnx.ModelProto`.

    Args:
        model: the model, with its weights.
        source: the file, for errors.

    Raises:
        ModelError: the graph does not end with a density from content.
    """
    graph = _Graph(model)
    softmax = graph.softmax_before(OUTPUT_NAME)
    if softmax is None:
        raise ModelError(
            f"the graph in {source} does not end as training.export writes it",
            "export the model again with python -m training.export",
        )
    content, temperature = softmax, 1.0
    divided = graph.producers.get(softmax)
    if divided is not None and divided.op_type == "Div" and graph.is_number(divided.input[1]):
        content, temperature = divided.input[0], float(graph.constants[divided.input[1]])
    blur_deg, floor = 0.0, 0.0
    for node in graph.between(OUTPUT_NAME, softmax):
        if node.op_type == "MatMul" and node.input[0] in graph.constants:
            blur_deg = _deviation_deg(graph.constants[node.input[0]])
        if node.op_type == "Add" and graph.is_number(node.input[1]):
            floor = float(graph.constants[node.input[1]])
    return Ending(content, temperature, blur_deg, floor)


def cut_ending(model: Any, spec: ModelSpec, ending: Ending) -> None:
    """Make the content the output of a loaded model, under the name that runtimes expect. Changes `model`."""
    from onnx import helper

    _remove_ending(model, ending)
    model.graph.node.append(helper.make_node("Identity", [ending.content], [OUTPUT_NAME], name="content"))
    write_onnx_spec(model, replace(spec, prior_log_rows=()))


def replace_ending(model: Any, ending: Ending, new: nn.Module) -> None:
    """Replace the ending of a loaded model. Changes `model`.

    Args:
        model: the model.
        ending: its ending.
        new: module from content (N, h, w) to density (N, h, w).

    Raises:
        ModelError: the exporter refuses the module.
    """
    sizes = [each.dim_value for each in model.graph.output[0].type.tensor_type.shape.dim]
    addition = _graph_of(new, sizes, _opset(model))
    _remove_ending(model, ending)
    names = {"": "", addition.input[0].name: ending.content, addition.output[0].name: OUTPUT_NAME}
    for node in addition.node:
        node.name = _PREFIX + node.name
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(name, _PREFIX + name) for name in tensors]
    for constant in addition.initializer:
        constant.name = _PREFIX + constant.name
    model.graph.node.extend(addition.node)
    model.graph.initializer.extend(addition.initializer)


def _graph_of(module: nn.Module, sizes: list[int], opset: int) -> Any:
    batch, height, width = sizes
    example = torch.zeros(batch or 2, height, width)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter
        program = torch.onnx.export(
            module.eval(),
            (example,),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=None if batch else ({0: torch.export.Dim("batch", min=1, max=64)},),
            verbose=False,
        )
    assert program is not None
    return program.model_proto.graph


def _opset(model: Any) -> int:
    return next(int(each.version) for each in model.opset_import if each.domain in ("", "ai.onnx"))


def _remove_ending(model: Any, ending: Ending) -> None:
    """Remove the nodes, constants and descriptions of tensors behind the content."""
    graph = _Graph(model)
    removed = {output for node in graph.between(OUTPUT_NAME, ending.content) for output in node.output}
    kept = [node for node in model.graph.node if not removed.intersection(node.output)]
    used = {name for node in kept for name in node.input}
    for field, stays in (
        (model.graph.node, [node for node in model.graph.node if not removed.intersection(node.output)]),
        (model.graph.initializer, [each for each in model.graph.initializer if each.name in used]),
        (model.graph.value_info, [each for each in model.graph.value_info if each.name not in removed]),
    ):
        copies = [type(each).FromString(each.SerializeToString()) for each in stays]
        del field[:]
        field.extend(copies)


class _Graph:
    """Which node makes each tensor, and the values of small constants."""

    def __init__(self, model: Any) -> None:
        from onnx import numpy_helper

        self.producers = {name: node for node in model.graph.node for name in node.output}
        self.constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
        for node in model.graph.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name == "value":
                    self.constants[node.output[0]] = numpy_helper.to_array(attribute.t)

    def is_number(self, name: str) -> bool:
        return name in self.constants and self.constants[name].size == 1

    def between(self, last: str, first: str) -> Iterator[Any]:
        """The nodes from the tensor `last` back to `first`, whose own node is not among them."""
        seen, waiting = {first}, [last]
        while waiting:
            name = waiting.pop()
            node = self.producers.get(name)
            if node is None or name in seen:
                continue
            seen.add(name)
            yield node
            waiting.extend(node.input)

    def softmax_before(self, last: str) -> str | None:
        """The tensor c in the softmax exp(c − max c) that is nearest before `last`."""
        for node in self.between(last, ""):
            shifted = self.producers.get(node.input[0]) if node.op_type == "Exp" else None
            if shifted is None or shifted.op_type != "Sub":
                continue
            peak = self.producers.get(shifted.input[1])
            if peak is not None and peak.op_type == "ReduceMax" and peak.input[0] == shifted.input[0]:
                return str(shifted.input[0]) if self._axes(peak) == [1, 2] else None
        return None

    def _axes(self, node: Any) -> list[int]:
        """The axes over which a node reduces: an input or, in older operator sets, an attribute."""
        if len(node.input) > 1:
            return [int(each) for each in self.constants.get(node.input[1], np.zeros(0))]
        return [each for attribute in node.attribute if attribute.name == "axes" for each in attribute.ints]


def _deviation_deg(rows: NDArray[np.float32]) -> float:
    """The deviation of a blur of elevations, degrees, from its matrix (h, h), as `blur_matrices` makes it."""
    middle = len(rows) // 2
    ratio = float(rows[middle, middle + 1] / rows[middle, middle])
    return (180 / len(rows)) / math.sqrt(-2 * math.log(ratio)) if 0 < ratio < 1 else 0.0
