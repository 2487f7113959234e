"""torch.export programs: for machines that run torch anyway."""

from __future__ import annotations

from pathlib import Path

import torch

from sal360_ros.spec import METADATA_KEY, ModelSpec
from training.exporting.model import ExportedModel
from training.exporting.onnx_graph import MOST_FRAMES


def write_program(model: ExportedModel, spec: ModelSpec, path: Path, *, batch: int = 0) -> None:
    """Write the model as a .pt2 file with its spec inside; batch 0 leaves the number of frames free."""
    frames = torch.zeros(batch or 2, spec.input_height, spec.input_width, 3, dtype=torch.uint8)
    dynamic = None if batch else ({0: torch.export.Dim("batch", min=1, max=MOST_FRAMES)},)
    program = torch.export.export(model, (frames,), dynamic_shapes=dynamic)
    torch.export.save(program, str(path), extra_files={METADATA_KEY: spec.to_json()})
