"""Export a saliency checkpoint as the model file that `sal360_ros` runs.

    python -m training.export runs/compact --output sal360_ros/weights/sal360_compact.onnx

The graph takes the camera's bytes and gives the published density; everything else that a reader must know is in the
ModelSpec inside the file. The file is checked by onnx, run by onnxruntime and compared with the checkpoint's own model
before it takes its final name.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sal360_ros.errors import ModelError, one_line_errors
from sal360_ros.files import written_beside
from sal360_ros.metrics import cc
from sal360_ros.spec import INPUT_NAME, OUTPUT_NAME, ModelSpec, write_onnx_spec
from sal360_ros.sphere import Array
from training.checkpoint import git_revision, load_weights, read_header
from training.config.plain import from_plain
from training.config.read import read_config
from training.config.saliency import SaliencyModelConfig
from training.models.saliency_model import DensityModel, SaliencyModel

OPSET = 18
_TOLERANCE = 1e-3
"""Largest relative difference between the file and the checkpoint's own model that is float32 rounding."""


@dataclass(frozen=True)
class ExportConfig:
    """What is exported, and what the file says of itself."""

    checkpoint: str
    """Checkpoint, run folder or .safetensors file of a saliency model."""
    output: str
    """The ONNX file to write."""
    name: str = "sal360-compact"
    """Short name of the model."""
    version: str = "1.0.0"
    """Version of the weights."""
    trained_on: str = "ImageNet (encoder); OSIE gaze on photographs placed on panoramas"
    """Data sets, for people."""
    weights_license: str = "Apache-2.0"
    """SPDX name of the licence of the weights."""
    upsample: int = 1
    """Doublings of the content map on the way out."""


def export(config: ExportConfig) -> ModelSpec:
    """Write the model file and return its spec.

    Raises:
        CheckpointError: the checkpoint is missing, broken or no saliency model.
        ModelError: the exported file does not do what the checkpoint does.
    """
    model_config = from_plain(SaliencyModelConfig, read_header(config.checkpoint).config)
    saliency_model = SaliencyModel(model_config)
    load_weights(config.checkpoint, saliency_model, kind="saliency")
    model = DensityModel(saliency_model, upsample=config.upsample).eval()
    spec = describe(model, config)
    with written_beside(config.output) as path:
        write_onnx(model, spec, path)
        spec = replace(spec, parity=compare(model, path))
        _write_spec(path, spec)
    return spec


def describe(model: DensityModel, config: ExportConfig) -> ModelSpec:
    """The spec of a model's file, before it was compared with anything."""
    height = model.model.config.input_height
    map_height, map_width = (size << model.upsample for size in model.model.map_size)
    return ModelSpec(
        name=config.name,
        version=config.version,
        input_height=height,
        input_width=2 * height,
        output_height=map_height,
        output_width=map_width,
        trained_on=config.trained_on,
        weights_license=config.weights_license,
        git_revision=git_revision(),
        prior_log_rows=tuple(model.prior_log_rows[:, 0].tolist()),
    )


def write_onnx(model: DensityModel, spec: ModelSpec, path: Path) -> None:
    """Write the graph, for batches of any size, and check it."""
    import onnx  # heavy, and only needed here

    # two frames, because a batch of one would be taken for a constant
    frames = torch.zeros(2, spec.input_height, spec.input_width, 3, dtype=torch.uint8)
    program = torch.onnx.export(
        model,
        (frames,),
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT_NAME],
        output_names=[OUTPUT_NAME],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},),
        verbose=False,
    )
    if program is None:
        raise ModelError("the exporter gave nothing", "an ONNX program", "use the versions that setup.py names")
    program.save(str(path))
    onnx.checker.check_model(str(path), full_check=True)
    _write_spec(path, spec)


def compare(model: DensityModel, path: Path, *, frames: int = 3, seed: int = 0) -> dict[str, Any]:
    """How far the file, run by onnxruntime, is from the model: largest and mean relative difference, and CC.

    Raises:
        ModelError: it is farther than rounding explains.
    """
    import onnxruntime  # heavy, and only needed here

    height = model.model.config.input_height
    batch = _textures(frames, height, seed)
    with torch.no_grad():
        expected = model(torch.from_numpy(batch)).numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run([OUTPUT_NAME], {INPUT_NAME: batch})[0]
    difference = np.abs(found - expected) / expected
    parity = {
        "runtime": f"onnxruntime {onnxruntime.__version__}",
        "max_relative_difference": float(difference.max()),
        "mean_relative_difference": float(difference.mean()),
        "cc": min(cc(a, b) for a, b in zip(found, expected, strict=True)),
    }
    if not difference.max() < _TOLERANCE:  # also catches NaN
        raise ModelError(
            f"the exported file differs from the checkpoint by {100 * difference.max():.3g} %",
            f"less than {100 * _TOLERANCE:g} %",
            "use the versions of torch and onnx that setup.py names",
        )
    return parity


def _textures(count: int, height: int, seed: int) -> Array:
    """Coloured noise of all scales, (count, height, 2 · height, 3) uint8: it drives every layer as pictures do."""
    import cv2

    generator = np.random.default_rng(seed)
    batch = np.zeros((count, height, 2 * height, 3), np.float32)
    for octave in range(3, 8):
        size = (2 * height >> (7 - octave), height >> (7 - octave))
        for i in range(count):
            noise = generator.standard_normal((size[1], size[0], 3)).astype(np.float32)
            batch[i] += cv2.resize(noise, (2 * height, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + 40 * batch, 0, 255).astype(np.uint8)


def _write_spec(path: Path, spec: ModelSpec) -> None:
    import onnx

    model = onnx.load(str(path))
    write_onnx_spec(model, spec)
    onnx.save(model, str(path))


def main() -> None:
    """The command `python -m training.export`."""
    config = read_config(ExportConfig, "Export a saliency checkpoint as a model file.")
    spec = export(config)
    size_mb = Path(config.output).stat().st_size / 1e6
    print(
        f"{config.output}: {size_mb:.1f} MB, {spec.input_height} x {spec.input_width} in, "
        f"{spec.output_height} x {spec.output_width} out, at most "
        f"{100 * spec.parity['max_relative_difference']:.2g} % from the checkpoint"
    )


if __name__ == "__main__":
    sys.exit(one_line_errors(main))
