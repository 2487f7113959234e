"""What every encoder expects of its input: RGB by ImageNet's mean and standard deviation."""

from __future__ import annotations

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(rgb: Tensor) -> Tensor:
    """RGB pictures (B, 3, H, W), uint8 or floats in [0, 1], as an encoder takes them: the same shape, floats."""
    if not rgb.is_floating_point():
        rgb = rgb.to(torch.float32) / 255
    mean = torch.tensor(IMAGENET_MEAN, dtype=rgb.dtype, device=rgb.device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, dtype=rgb.dtype, device=rgb.device).view(1, 3, 1, 1)
    return (rgb - mean) / std
