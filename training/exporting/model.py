"""The model as it is exported: the camera's bytes in, the published density out, in one precision."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.decoder import upsample_circular
from training.models.saliency_model import DensityModel

NET_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.float32}
"""Type of the network's weights and features; int8 is quantised afterwards."""


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
        """Frames at the network's size: whole blocks are averaged, the rest is bilinear (TensorRT has no area mode)."""
        if self.frame_size == self.input_size:
            return x
        block = max(1, self.frame_size[0] // self.input_size[0])
        if block > 1:
            x = F.avg_pool2d(x, block)  # (B, 3, H / block, W / block)
        if tuple(x.shape[-2:]) != self.input_size:
            x = F.interpolate(x, size=self.input_size, mode="bilinear", align_corners=False)
        return x
