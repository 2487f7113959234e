"""Settings of the export: which files, in which precision, for which runtimes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from sal360_ros.errors import ParameterError
from training.config.ranges import require, require_between

Precision = Literal["fp32", "fp16", "bf16", "int8"]


@dataclass(frozen=True)
class ExportConfig:
    """What is exported, and what the files say of themselves."""

    checkpoint: str
    """Checkpoint, run folder or .safetensors file of a saliency model."""
    output: str
    """Folder of the files, or the path of the .onnx file (engines then lie beside it)."""
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
    precision: Precision = "fp32"
    """Arithmetic of the network; its input, exponential and sums stay in fp32."""
    input_size: str = ""
    """Size HxW at which the network works; "" keeps the checkpoint's."""
    frame_size: str = ""
    """Size HxW of the frames that the graph takes and shrinks itself; "" takes them at the network's size."""
    batch: int = 0
    """Frames of one call, fixed in the graph; 0 leaves the number free."""
    max_batch: int = 1
    """Most frames of one call of an engine, where the graph leaves the number free."""
    panoramas: str = ""
    """Folder of pictures for calibration and parity; "" takes the bundled ones."""
    calibration_frames: int = 32
    """Frames that int8 is calibrated on: the panoramas, turned at random."""
    force: bool = False
    """Write the file although it is farther from the checkpoint than its precision allows."""
    torch_program: bool = False
    """Also write a torch.export program (.pt2)."""
    tensorrt: bool = False
    """Also build a TensorRT engine for this machine's GPU."""
    tensorrt_rtx: bool = False
    """Also build a TensorRT-RTX engine; with compute_capability this needs no GPU."""
    compute_capability: str = ""
    """Kinds of GPU for the TensorRT-RTX engine, "86,89,120"; "" takes this machine's."""

    def __post_init__(self) -> None:
        require_between("upsample", self.upsample, 0, 3)
        require_between("batch", self.batch, 0, 64)
        require_between("max_batch", self.max_batch, 1, 64)
        require_between("calibration_frames", self.calibration_frames, 1, 4096)
        require("precision", self.precision, self.precision in ("fp32", "fp16", "bf16", "int8"), "a known precision")
        for option in ("input_size", "frame_size"):
            size = getattr(self, option)
            fits = size == "" or ((match := _size(size)) is not None and match[1] == 2 * match[0])
            require(option, size, fits, "HxW with W twice H, such as 320x640")
        capabilities = self.compute_capability == "" or self.tensorrt_rtx
        require("compute_capability", self.compute_capability, capabilities, "nothing without tensorrt_rtx")
        self.compute_capabilities()

    def compute_capabilities(self) -> tuple[str, ...]:
        """The kinds of GPU as TensorRT writes them: "86,120" → ("8.6", "12.0")."""
        if not self.compute_capability:
            return ()
        parts = [part.strip().replace(".", "") for part in self.compute_capability.split(",")]
        if not all(re.fullmatch(r"\d{2,3}", part) for part in parts):
            raise ParameterError(
                f"compute_capability is {self.compute_capability!r}", "numbers such as 86,89,120", "see docs/deploy.md"
            )
        return tuple(f"{part[:-1]}.{part[-1]}" for part in parts)

    def input_height(self) -> int | None:
        """Rows at which the network works; None keeps the checkpoint's."""
        size = _size(self.input_size)
        return size[0] if size else None

    def frame_height(self) -> int | None:
        """Rows of the frames that the graph takes; None is the network's."""
        size = _size(self.frame_size)
        return size[0] if size else None


def _size(text: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    return (int(match[1]), int(match[2])) if match else None
