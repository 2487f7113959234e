"""Export a saliency checkpoint as the model files that `sal360_ros` runs.

    python -m training.export runs/compact --output models [--precision fp16] [--frame-size 1920x3840]
        [--tensorrt] [--tensorrt-rtx --compute-capability 86,89,120] [--torch-program]

The graph takes the camera's bytes and gives the published density; everything else that a reader must know is in the
ModelSpec inside the file. Each file is checked, run on panoramas and compared with the checkpoint's own model before it
takes its final name.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from sal360_ros.errors import ParameterError, one_line_errors
from sal360_ros.files import written_beside
from sal360_ros.spec import ModelSpec
from sal360_ros.sphere import Array
from training.checkpoint import git_revision, load_weights, read_header
from training.config.export import ExportConfig
from training.config.plain import from_plain
from training.config.read import read_config
from training.config.saliency import SaliencyModelConfig
from training.exporting.engines import write_engine_for
from training.exporting.frames import panorama_frames
from training.exporting.model import ExportedModel, fix_averages
from training.exporting.onnx_graph import replace_spec, write_onnx
from training.exporting.parity import check, compare
from training.exporting.program import write_program
from training.exporting.quantise import quantise, write_signed
from training.models.saliency_model import DensityModel, SaliencyModel

PARITY_FRAMES = 4
_TENSORRT_INT8 = "-tensorrt"
"""Added to the stem of the int8 file that TensorRT wants."""


def export(config: ExportConfig) -> list[Path]:
    """Write the files that the settings ask for and return their paths, the ONNX file first.

    Raises:
        CheckpointError: the checkpoint is missing, broken or no saliency model.
        ModelError: a file does not do what the checkpoint does, or a runtime does not take it.
        ParameterError: the sizes do not fit the model.
    """
    exact = load_model(config)
    model = load_model(config)
    fix_averages(model)
    exported = ExportedModel(model, config.precision, _frame_size(config, exact)).eval()
    spec = describe(exported, config)
    onnx_path = _onnx_path(config)
    frames = panorama_frames(config.panoramas, config.batch or PARITY_FRAMES, spec.input_height, turned=False)
    expected = _exact_maps(exact, exported.frame_size, frames)
    steps = tqdm(total=_steps(config), unit="file", disable=None)
    with steps, written_beside(onnx_path) as path:
        write_onnx(exported, spec, path, batch=config.batch)
        if config.precision == "int8":
            calibration = panorama_frames(
                config.panoramas, max(config.calibration_frames, config.batch), spec.input_height, turned=True
            )
            quantise(path, calibration)
        spec = _with_parity(path, spec, frames, expected, force=config.force)
        steps.update()
        written = [onnx_path]
        for_tensorrt = path
        if config.precision == "int8" and (config.tensorrt or config.tensorrt_rtx):
            written.append(onnx_path.with_name(f"{onnx_path.stem}{_TENSORRT_INT8}.onnx"))
            for_tensorrt = written[-1]
            with written_beside(for_tensorrt) as signed:
                write_signed(path, signed)
                _with_parity(signed, spec, frames, expected, force=config.force)
        stem = onnx_path.with_suffix("")
        if config.torch_program:
            written.append(stem.with_suffix(".pt2"))
            with written_beside(written[-1]) as program:
                write_program(exported, spec, program, batch=config.batch)
            steps.update()
        for library in _libraries(config):
            written.append(
                write_engine_for(
                    for_tensorrt,
                    stem,
                    library,
                    compute_capabilities=config.compute_capabilities() if library == "tensorrt_rtx" else (),
                    max_batch=config.max_batch,
                )
            )
            steps.update()
    return written


def load_model(config: ExportConfig) -> DensityModel:
    """The checkpoint's own model, in fp32, at the input size that is asked for."""
    model_config = from_plain(SaliencyModelConfig, read_header(config.checkpoint, kind="saliency").config)
    if (height := config.input_height()) is not None:
        model_config = replace(model_config, input_height=height)
    model = SaliencyModel(model_config)
    load_weights(config.checkpoint, model, kind="saliency")
    return DensityModel(model, upsample=config.upsample).eval()


def describe(exported: ExportedModel, config: ExportConfig) -> ModelSpec:
    """The spec of a model's file, before it was compared with anything."""
    model = exported.model
    map_height, map_width = (size << model.upsample for size in model.model.map_size)
    return ModelSpec(
        name=config.name,
        version=config.version,
        input_height=exported.frame_size[0],
        input_width=exported.frame_size[1],
        output_height=map_height,
        output_width=map_width,
        trained_on=config.trained_on,
        weights_license=config.weights_license,
        precision=config.precision,
        git_revision=git_revision(),
        prior_log_rows=tuple(model.prior_log_rows[:, 0].tolist()),
    )


def _frame_size(config: ExportConfig, model: DensityModel) -> tuple[int, int]:
    network = model.model.config.input_height
    height = config.frame_height() or network
    if height < network:
        raise ParameterError(
            f"frame_size is {config.frame_size} and the network works at {network}x{2 * network}",
            "frames at least as large",
            "set --frame-size or --input-size",
        )
    return height, 2 * height


def _onnx_path(config: ExportConfig) -> Path:
    output = Path(config.output)
    return output if output.suffix == ".onnx" else output / f"{config.name}-{config.precision}.onnx"


@torch.no_grad()
def _exact_maps(model: DensityModel, frame_size: tuple[int, int], frames: Array) -> Array:
    """The maps (N, h, w) of the checkpoint's own model in fp32, frames of a camera's size shrunk as in the graph."""
    exact = ExportedModel(model, "fp32", frame_size)
    return np.concatenate([exact(torch.from_numpy(frame[None])).numpy() for frame in frames])


def _with_parity(path: Path, spec: ModelSpec, frames: Array, expected: Array, *, force: bool) -> ModelSpec:
    """Compare a file with the exact maps and put the figures into its spec."""
    replace_spec(path, spec)
    parity: dict[str, Any] = compare(path, spec.precision, frames, expected)
    if not force:
        check(parity, spec.precision)
    spec = replace(spec, parity=parity)
    replace_spec(path, spec)
    return spec


def _libraries(config: ExportConfig) -> list[str]:
    return ["tensorrt"] * config.tensorrt + ["tensorrt_rtx"] * config.tensorrt_rtx


def _steps(config: ExportConfig) -> int:
    return 1 + config.torch_program + len(_libraries(config))


def command_line(arguments: Sequence[str]) -> list[str]:
    """The settings' options from how people write them: the checkpoint first, dashes, flags without a value."""
    flags = {f"--{name}" for name, kind in ExportConfig.__annotations__.items() if kind == "bool"}
    plain = [*arguments]
    if plain and not plain[0].startswith("-"):
        plain.insert(0, "--checkpoint")
    words: list[str] = []
    for word, following in zip(plain, [*plain[1:], "--"], strict=True):
        option, equals, value = word.partition("=")
        name = option.replace("-", "_").replace("__", "--", 1) if option.startswith("--") else option
        words.append(f"{name}{equals}{value}")
        if name in flags and not equals and following.startswith("-"):
            words.append("true")
    return words


def main() -> None:
    """The command `python -m training.export`."""
    config = read_config(ExportConfig, "Export a saliency checkpoint as model files.", command_line(sys.argv[1:]))
    for path in export(config):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(one_line_errors(main))
