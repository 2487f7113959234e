"""The model as it is exported: the camera's bytes in, the published density out, in one precision."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.compact import CircularConv2d
from training.models.decoder import upsample_circular
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
