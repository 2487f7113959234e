"""Export a saliency checkpoint as the model files that `sal360` runs.

    python -m training.export --checkpoint runs/compact --output models [--precision fp16] [--frame_size 1920x3840]
        [--tensorrt true] [--tensorrt_rtx true --compute_capability 86,89,120] [--torch_program true]

The graph takes the camera's bytes and returns the published density; the ModelSpec inside the file contains everything
else that a runtime needs to know. Each file is checked, run on panoramas and compared with the checkpoint's model
before it gets its final name. `exporting/` contains the steps.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from sal360.arrays import Density, Pixels
from sal360.errors import ParameterError, one_line_errors
from sal360.files import written_beside
from sal360.spec import ModelSpec
from training.checkpoint import read_header
from training.config import option_names, read_config, require, require_between, require_path, require_together
from training.exporting.graphs import (
    ExportedModel,
    fix_averages,
    replace_spec,
    write_engine_for,
    write_onnx,
    write_program,
)
from training.exporting.parity import check, compare
from training.exporting.quantise import panorama_frames, quantise, write_signed
from training.models.saliency_model import DensityModel
from training.trained_models import name_of_run, read_saliency_model

Precision = Literal["fp32", "fp16", "bf16", "int8"]


@dataclass(frozen=True)
class ExportConfig:
    """The checkpoint, the files to write, and their description of the model."""

    checkpoint: str
    """Run folder, checkpoint folder or .safetensors file of a saliency model."""
    output: str
    """Folder for the files, or path of the .onnx file; engines are written beside it."""
    name: str = ""
    """Name of the model; empty: its encoder and the name of its run."""
    version: str = ""
    """Version of the weights; empty: the step of the checkpoint, such as step-1200."""
    trained_on: str = ""
    """Training data, in words; empty: what the runs that led to the checkpoint learnt from."""
    weights_license: str = ""
    """Licence of the weights, an SPDX identifier or a sentence; empty: none is stated, and those of the training data
    are named."""
    upsample: int = 1
    """Number of 2x upsampling steps at the output."""
    precision: Precision = "fp32"
    """Precision of the network; its input, exponential and sums stay in fp32."""
    input_size: str = ""
    """Input size of the network, HxW; empty: the checkpoint's."""
    frame_size: str = ""
    """Size of the frames that the graph accepts and downsamples itself, HxW; empty: the network's input size."""
    batch: int = 0
    """Fixed number of frames per call; 0: any number."""
    max_batch: int = 1
    """Maximum number of frames per call of an engine; used if batch is 0."""
    panoramas: str = ""
    """Folder of panoramas for int8 calibration and for the comparison; empty: the bundled ones."""
    calibration_frames: int = 32
    """Number of frames for int8 calibration: the panoramas, rotated at random."""
    force: bool = False
    """Write the file even if it differs more from the checkpoint than its precision explains."""
    torch_program: bool = False
    """Also write a torch.export program (.pt2)."""
    tensorrt: bool = False
    """Also build a TensorRT engine for this machine's GPU."""
    tensorrt_rtx: bool = False
    """Also build a TensorRT-RTX engine; with compute_capability, without a GPU."""
    compute_capability: str = ""
    """CUDA compute capabilities for the TensorRT-RTX engine, such as 86,89,120; empty: this machine's GPU."""

    def __post_init__(self) -> None:
        require_path("output", self.output, "a folder or a file")
        require_between("upsample", self.upsample, 0, 3)
        require_between("batch", self.batch, 0, 64)
        require_between("max_batch", self.max_batch, 1, 64)
        require_between("calibration_frames", self.calibration_frames, 1, 4096)
        require(
            "precision", self.precision, self.precision in ("fp32", "fp16", "bf16", "int8"), "fp32, fp16, bf16 or int8"
        )
        for option in ("input_size", "frame_size"):
            size = getattr(self, option)
            fits = size == "" or ((match := _size(size)) is not None and match[1] == 2 * match[0])
            require(option, size, fits, "HxW with W twice H, such as 320x640")
        capabilities = self.compute_capability == "" or self.tensorrt_rtx
        require_together(
            self, ("compute_capability", "tensorrt_rtx"), capabilities, "capabilities only with tensorrt_rtx"
        )
        self.compute_capabilities()

    def compute_capabilities(self) -> tuple[str, ...]:
        """The compute capabilities as TensorRT writes them: "86,120" → ("8.6", "12.0")."""
        if not self.compute_capability:
            return ()
        parts = [part.strip().replace(".", "") for part in self.compute_capability.split(",")]
        fit = all(re.fullmatch(r"\d{2,3}", part) for part in parts)
        require("compute_capability", self.compute_capability, fit, "numbers such as 86,89,120")
        return tuple(f"{part[:-1]}.{part[-1]}" for part in parts)

    def input_height(self) -> int | None:
        """Height of the network's input; None: the checkpoint's."""
        size = _size(self.input_size)
        return size[0] if size else None

    def frame_height(self) -> int | None:
        """Height of the frames that the graph accepts; None: the network's."""
        size = _size(self.frame_size)
        return size[0] if size else None


def _size(text: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    return (int(match[1]), int(match[2])) if match else None


PARITY_FRAMES = 4
_TENSORRT_INT8 = "-tensorrt"
"""Suffix of the stem of the int8 file for TensorRT."""


def export(config: ExportConfig) -> list[Path]:
    """Write the files and return their paths, the ONNX file first.

    Raises:
        CheckpointError: the checkpoint is missing, broken or does not hold a saliency model.
        ModelError: a file differs too much from the checkpoint, or a runtime refuses it.
        ParameterError: the sizes do not fit the model.
        OSError: a file cannot be written.
    """
    config = named_after_run(config)
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
            written.append(onnx_path.with_suffix(".pt2"))
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


def named_after_run(config: ExportConfig) -> ExportConfig:
    """The settings with name, version, training data and licence: those that are not given come from the checkpoint.

    Raises:
        CheckpointError: it is missing, broken or does not hold a saliency model.
    """
    header = read_header(config.checkpoint, kind="saliency")
    data = "; ".join(f"{each.data} ({each.licence})" for each in header.origin)
    return replace(
        config,
        name=config.name or name_of_run(config.checkpoint),
        version=config.version or f"step-{header.step}",
        trained_on=config.trained_on or data or "not recorded in the checkpoint",
        weights_license=config.weights_license
        or (f"none stated; learnt from {data}" if data else "none stated; training data not recorded"),
    )


def load_model(config: ExportConfig) -> DensityModel:
    """The checkpoint's model in fp32, at the configured input size."""
    height = config.input_height()
    with option_names(input_height="input_size", scales="input_size"):
        model = read_saliency_model(config.checkpoint, **({} if height is None else {"input_height": height}))
    return DensityModel(model, upsample=config.upsample).eval()


def describe(exported: ExportedModel, config: ExportConfig) -> ModelSpec:
    """The spec of the model, still without the figures of the comparison."""
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
        git_revision=read_header(config.checkpoint).git_revision,
        prior_log_rows=tuple(model.prior_log_rows[:, 0].tolist()),
    )


def _frame_size(config: ExportConfig, model: DensityModel) -> tuple[int, int]:
    network = model.model.config.input_height
    height = config.frame_height() or network
    if height < network:
        raise ParameterError(
            f"frame_size is {config.frame_size} and the network's input {network}x{2 * network}",
            "set --frame_size or --input_size",
            expected="frames at least as large as the input",
        )
    return height, 2 * height


def _onnx_path(config: ExportConfig) -> Path:
    output = Path(config.output)
    return output if output.suffix == ".onnx" else output / f"{config.name}-{config.precision}.onnx"


@torch.no_grad()
def _exact_maps(model: DensityModel, frame_size: tuple[int, int], frames: Pixels) -> Density:
    """The maps (N, h, w) of the checkpoint's model in fp32, with frames downsampled as in the graph."""
    exact = ExportedModel(model, "fp32", frame_size)
    return np.concatenate([exact(torch.from_numpy(frame[None])).numpy() for frame in frames])


def _with_parity(path: Path, spec: ModelSpec, frames: Pixels, expected: Density, *, force: bool) -> ModelSpec:
    """Compare a file with the exact maps and write the figures into its spec."""
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
    """Options as `read_config` needs them; accepts the checkpoint first, dashes in names, and flags without a value."""
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
