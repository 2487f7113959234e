"""Model files whose ending `training.adapt` replaces: opened, run as far as the content, and written again."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sal360.arrays import Density, Pixels
from sal360.errors import ModelError
from sal360.files import written_beside
from sal360.runtimes import open_model
from sal360.runtimes.onnx_file import read_onnx
from sal360.spec import ModelSpec
from training.adapting.ending_family import EndingNumbers, FixedEnding
from training.exporting.ending import cut_ending, find_ending, replace_ending
from training.exporting.graphs import replace_spec
from training.exporting.parity import LIMITS, check, compare


@dataclass(frozen=True)
class OpenedModel:
    """A model file whose ending can be replaced."""

    path: Path
    spec: ModelSpec
    own: EndingNumbers
    """Its ending."""

    @property
    def map_size(self) -> tuple[int, int]:
        """Rows and columns of its map."""
        return self.spec.output_height, self.spec.output_width


def open_adaptable(path: Path) -> OpenedModel:
    """Open a model file.

    Raises:
        ModelError: it is not an ONNX file of `training.export`, or it was adapted already.
    """
    if path.is_file() and path.suffix.lower() != ".onnx":
        raise ModelError(f"{path} is not an ONNX file", "adapt the .onnx file, then build the engine from the new one")
    spec = read_onnx(path).spec
    if spec.adapted:
        raise ModelError(
            f"{path} was adapted already, to {spec.adapted.get('gaze', 'gaze')}",
            "adapt the model from which it was made, to all the gaze that you have",
        )
    ending = find_ending(_load(path), str(path))
    own = EndingNumbers(ending.temperature, ending.blur_deg, ending.floor, spec.prior_log_rows)
    return OpenedModel(path, spec, own)


def _load(path: Path) -> Any:
    import onnx

    return onnx.load(str(path))


def predict_contents(model: OpenedModel, panoramas: Sequence[Pixels]) -> Tensor:
    """The model's contents (n, h, w) of panoramas (H, 2H, 3) RGB at the size of its input.

    Raises:
        ModelError: no runtime here can run the file.
    """
    graph = _load(model.path)
    cut_ending(graph, model.spec, find_ending(graph, str(model.path)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "content.onnx"
        path.write_bytes(graph.SerializeToString())
        precision = "fp32" if model.spec.precision == "fp32" else "auto"
        with open_model(path, precision=precision) as backend:
            shown = tqdm(panoramas, desc="predict", unit="picture", disable=None)
            return torch.from_numpy(np.concatenate([backend.infer(each[None]) for each in shown]))


def check_own_ending(model: OpenedModel, frames: Pixels, expected: Density) -> None:
    """Refuse a file that does not predict frames (n, H, W, 3) as its content and its own ending do, (n, h, w).

    Raises:
        ModelError: the graph holds something else between content and map.
    """
    parity, limit = compare(model.path, model.spec.precision, frames, expected), LIMITS[model.spec.precision]
    if not (parity["cc"] >= limit.cc and parity["kld"] <= limit.kld):
        raise ModelError(
            f"{model.path} has more between its content and its map than training.export writes",
            "export the model again with python -m training.export",
        )


def write_adapted(
    model: OpenedModel, ending: FixedEnding, spec: ModelSpec, frames: Pixels, expected: Density, output: Path
) -> Path:
    """Write the model with another ending, after a runtime has predicted frames (n, H, W, 3) as expected (n, h, w).

    Raises:
        ModelError: the file does not predict what was fitted.
        OSError: it cannot be written.
    """
    graph = _load(model.path)
    replace_ending(graph, find_ending(graph, str(model.path)), ending)
    with written_beside(output) as path:
        path.write_bytes(graph.SerializeToString())
        replace_spec(path, spec)
        parity = compare(path, spec.precision, frames, expected)
        check(parity, spec.precision)
        replace_spec(path, dataclasses.replace(spec, parity=parity))
    return output
