"""torch → ONNX, with the spec in the file's metadata."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch

from sal360_ros.errors import ModelError
from sal360_ros.spec import INPUT_NAME, OUTPUT_NAME, ModelSpec, write_onnx_spec
from training.exporting.model import ExportedModel

OPSET = 18
BF16_OPSET = 22
"""The first with convolutions in bf16."""
MOST_FRAMES = 64
"""Largest batch of a graph whose batch is free."""


def write_onnx(model: ExportedModel, spec: ModelSpec, path: Path, *, batch: int = 0) -> None:
    """Write the graph with its spec and check it in full.

    Args:
        batch: frames of one call; 0 leaves the number free.

    Raises:
        ModelError: the exporter or the checker refuses the model.
    """
    import onnx  # heavy, and only needed here

    # of a free number two are shown, because one would be taken for a constant
    frames = torch.zeros(batch or 2, spec.input_height, spec.input_width, 3, dtype=torch.uint8)
    dynamic = None if batch else ({0: torch.export.Dim("batch", min=1, max=MOST_FRAMES)},)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own parts
        program = torch.onnx.export(
            model,
            (frames,),
            dynamo=True,
            opset_version=BF16_OPSET if spec.precision == "bf16" else OPSET,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes=dynamic,
            verbose=False,
        )
    if program is None:
        raise ModelError("the exporter gave nothing", "an ONNX program", "use the versions that setup.py names")
    graph = program.model_proto
    forget_source(graph)
    write_onnx_spec(graph, spec)
    path.write_bytes(graph.SerializeToString())
    onnx.checker.check_model(str(path), full_check=True)


def forget_source(model: Any) -> None:
    """Take out the stack traces that the exporter attaches: they name folders of the machine it ran on."""
    del model.metadata_props[:], model.graph.metadata_props[:]
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
    for part in (*model.graph.node, *model.graph.initializer):
        part.doc_string = ""


def replace_spec(path: Path, spec: ModelSpec) -> None:
    """Put another spec into a file that was written."""
    import onnx

    model = onnx.load(str(path))
    write_onnx_spec(model, spec)
    path.write_bytes(model.SerializeToString())
