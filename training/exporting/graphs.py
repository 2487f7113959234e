"""TensorRT engines out of an exported file, by the same builder that the node uses."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sal360.errors import ModelError
from sal360.runtimes.tensorrt.builder import build_engine, load_tensorrt
from sal360.runtimes.tensorrt.driver import CudaDevice
from sal360.runtimes.tensorrt.engine import SUFFIX, write_engine
from sal360.spec import INPUT_NAME, METADATA_KEY, OUTPUT_NAME, ModelSpec, write_onnx_spec
from training.models.compact import CircularConv2d
from training.models.decoders import upsample_circular
from training.models.saliency_model import DensityModel

NET_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.float32}
"""Type of the network's weights and features; int8 is quantised afterwards."""


def fix_averages(model: nn.Module) -> None:
    """Write the averages of smoothed columns into the weights: quantisation and TensorRT want no arithmetic there."""
    for module in model.modules():
        if isinstance(module, CircularConv2d):
            module.fix_average()


class ExportedModel(nn.Module):
    """Wraps a density model: its layers in the chosen precision, everything before and after them in float32.

    Args:
        model: it is changed to the precision.
        precision: one of `NET_DTYPES`.
        frame_size: rows and columns of the frames it takes; larger than the network's input, they are averaged down
            inside the graph.
    """

    def __init__(self, model: DensityModel, precision: str, frame_size: tuple[int, int]) -> None:
        super().__init__()
        self.dtype = NET_DTYPES[precision]
        self.model = model
        self.model.model.to(self.dtype)
        self.frame_size = frame_size
        height = model.model.config.input_height
        self.input_size = (height, 2 * height)

    def forward(self, frame: Tensor) -> Tensor:
        """Frames (B, H, W, 3) uint8 RGB → density relative to uniform (B, h, w) float32."""
        # the cast comes first: TensorRT transposes no bytes
        x = frame.float().permute(0, 3, 1, 2) / 255  # (B, 3, H, W)
        content = self.model.model(self._shrunk(x).to(self.dtype)).float()  # (B, h, w)
        for _ in range(self.model.upsample):
            content = upsample_circular(content[:, None])[:, 0]  # (B, 2h, 2w)
        return self.model.density(content)

    def _shrunk(self, x: Tensor) -> Tensor:
        """Frames at the network's size: the mean of whole blocks, after a bilinear step of less than a factor of two.

        TensorRT has no area mode; bilinear alone would alias.
        """
        height, width = self.input_size
        block = self.frame_size[0] // height
        if self.frame_size[0] % height:
            x = F.interpolate(x, size=(block * height, block * width), mode="bilinear", align_corners=False)
        return F.avg_pool2d(x, block) if block > 1 else x  # (B, 3, height, width)


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
        raise ModelError(
            "the exporter gave nothing", "use the versions that setup.py names", expected="an ONNX program"
        )
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


def write_program(model: ExportedModel, spec: ModelSpec, path: Path, *, batch: int = 0) -> None:
    """Write the model as a .pt2 file with its spec inside; batch 0 leaves the number of frames free."""
    frames = torch.zeros(batch or 2, spec.input_height, spec.input_width, 3, dtype=torch.uint8)
    dynamic = None if batch else ({0: torch.export.Dim("batch", min=1, max=MOST_FRAMES)},)
    program = torch.export.export(model, (frames,), dynamic_shapes=dynamic)
    torch.export.save(program, str(path), extra_files={METADATA_KEY: spec.to_json()})


def write_engine_for(
    onnx_path: Path, stem: Path, library_name: str, *, compute_capabilities: tuple[str, ...], max_batch: int
) -> Path:
    """Build and write `<stem>-<library>.engine`.

    Args:
        library_name: "tensorrt" builds for this machine's GPU, "tensorrt_rtx" also for named kinds without a GPU.
        compute_capabilities: those kinds ("8.9"); empty takes this machine's GPU.

    Raises:
        ModelError: the library or the GPU is missing, or it does not take the graph.
    """
    library = load_tensorrt(library_name)
    path = stem.with_name(f"{stem.name}-{library_name}{SUFFIX}")
    if compute_capabilities:
        engine, info = build_engine(onnx_path, library, compute_capabilities=compute_capabilities, max_batch=max_batch)
    else:
        gpu = CudaDevice(0)
        try:
            gpu.make_current()
            identity = (gpu.name, gpu.compute_capability)
            engine, info = build_engine(onnx_path, library, gpu=identity, max_batch=max_batch)
        finally:
            gpu.release()
    write_engine(path, engine, info)
    return path
