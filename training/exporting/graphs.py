"""Write a density model as an ONNX file, a torch program or a TensorRT engine, with its spec inside."""

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
"""Type of the network's weights and features; int8 is quantised after the export."""


def fix_averages(model: nn.Module) -> None:
    """Write the averages of smoothed columns into the weights: quantisation and TensorRT need constant weights."""
    for module in model.modules():
        if isinstance(module, CircularConv2d):
            module.fix_average()


class ExportedModel(nn.Module):
    """A density model with its network in the chosen precision and everything before and after it in float32.

    Args:
        model: converted in place.
        precision: a key of `NET_DTYPES`.
        frame_size: height and width of the frames; if larger than the network's input, the graph downsamples them.
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
        # cast first: TensorRT cannot transpose uint8
        x = frame.float().permute(0, 3, 1, 2) / 255  # (B, 3, H, W)
        content = self.model.model(self._shrunk(x).to(self.dtype)).float()  # (B, h, w)
        for _ in range(self.model.upsample):
            content = upsample_circular(content[:, None])[:, 0]  # (B, 2h, 2w)
        return self.model.density(content)

    def _shrunk(self, x: Tensor) -> Tensor:
        """Downsample to the network's input: bilinear by less than a factor of two, then the mean of whole blocks.

        TensorRT has no area interpolation, and bilinear alone would alias.
        """
        height, width = self.input_size
        block = self.frame_size[0] // height
        if self.frame_size[0] % height:
            x = F.interpolate(x, size=(block * height, block * width), mode="bilinear", align_corners=False)
        return F.avg_pool2d(x, block) if block > 1 else x  # (B, 3, height, width)


OPSET = 18
BF16_OPSET = 22
"""The first opset with bf16 convolutions."""
MAX_BATCH = 64
"""Maximum number of frames per call of a graph whose batch size is not fixed."""


def write_onnx(model: ExportedModel, spec: ModelSpec, path: Path, *, batch: int = 0) -> None:
    """Write the ONNX graph with its spec, and check it.

    Args:
        batch: fixed number of frames per call; 0: any number up to `MAX_BATCH`.

    Raises:
        ModelError: the exporter refuses the model.
    """
    import onnx  # slow to import, and only needed here

    # the example has two frames, because the exporter would treat a batch of one as a constant
    frames = torch.zeros(batch or 2, spec.input_height, spec.input_width, 3, dtype=torch.uint8)
    dynamic = None if batch else ({0: torch.export.Dim("batch", min=1, max=MAX_BATCH)},)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter
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
            "torch's exporter returned no ONNX program", "install the versions of torch and onnxscript in setup.py"
        )
    graph = program.model_proto
    forget_source(graph)
    write_onnx_spec(graph, spec)
    path.write_bytes(graph.SerializeToString())
    onnx.checker.check_model(str(path), full_check=True)


def forget_source(model: Any) -> None:
    """Remove the stack traces that the exporter attaches: they name folders of this machine."""
    del model.metadata_props[:], model.graph.metadata_props[:]
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
    for part in (*model.graph.node, *model.graph.initializer):
        part.doc_string = ""


def replace_spec(path: Path, spec: ModelSpec) -> None:
    """Replace the spec in an ONNX file."""
    import onnx

    model = onnx.load(str(path))
    write_onnx_spec(model, spec)
    path.write_bytes(model.SerializeToString())


def write_program(model: ExportedModel, spec: ModelSpec, path: Path, *, batch: int = 0) -> None:
    """Write the model as a torch.export program (.pt2) with its spec inside; `batch` as in `write_onnx`."""
    frames = torch.zeros(batch or 2, spec.input_height, spec.input_width, 3, dtype=torch.uint8)
    dynamic = None if batch else ({0: torch.export.Dim("batch", min=1, max=MAX_BATCH)},)
    program = torch.export.export(model, (frames,), dynamic_shapes=dynamic)
    torch.export.save(program, str(path), extra_files={METADATA_KEY: spec.to_json()})


def write_engine_for(
    onnx_path: Path, stem: Path, library_name: str, *, compute_capabilities: tuple[str, ...], max_batch: int
) -> Path:
    """Build and write `<stem>-<library>.engine`.

    Args:
        onnx_path: the model file.
        stem: path of the engine without `-<library>.engine`.
        library_name: tensorrt, for this machine's GPU, or tensorrt_rtx, which also builds for other GPUs.
        compute_capabilities: GPUs to build for, such as "8.9"; empty: this machine's GPU.
        max_batch: maximum number of frames per call, if the graph leaves it open.

    Raises:
        ModelError: the library or the GPU is missing, or the library refuses the graph.
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
