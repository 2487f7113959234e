"""Input normalisation, and padding for panoramas: columns wrap around the seam, rows beyond the poles are zeros."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's pixels, RGB in [0, 1]."""


def normalise(rgb: Tensor) -> Tensor:
    """Normalise RGB pictures (B, 3, H, W), uint8 or floats in [0, 1], by the ImageNet mean and deviation."""
    if not rgb.is_floating_point():
        rgb = rgb.to(torch.float32) / 255
    return (rgb - _per_channel(IMAGENET_MEAN, rgb)) / _per_channel(IMAGENET_STD, rgb)


def _per_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Values as (1, C, 1, 1) beside `like`."""
    if like.is_cuda:  # filled there: a copy from the host would wait for the GPU, and cannot be captured in a graph
        return torch.cat([like.new_full((1, 1, 1, 1), value) for value in values], dim=1)
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)


def wrap_columns(x: Tensor, left: int, right: int) -> Tensor:
    """Add columns from the other side of the seam: (..., H, W) → (..., H, left + W + right)."""
    parts = [x[..., x.shape[-1] - left :]] if left else []
    parts += [x, x[..., :right]] if right else [x]
    return torch.cat(parts, dim=-1)


class WrappedConv2d(nn.Conv2d):
    """A Conv2d whose left and right padding comes from the other side of the seam.

    It reuses the parameters of the convolution that it replaces, so a checkpoint fits with and without wrapping.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            bias=conv.bias is not None,
            device="meta",  # allocates nothing; the parameters are set below
        )
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H', W')."""
        rows, columns = _pair(self.padding)
        x = wrap_columns(x, columns, columns)
        return functional.conv2d(x, self.weight, self.bias, self.stride, (rows, 0), self.dilation, self.groups)


class WrappedMaxPool2d(nn.MaxPool2d):
    """A MaxPool2d whose left and right padding comes from the other side of the seam."""

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__(pool.kernel_size, pool.stride, pool.padding, pool.dilation, ceil_mode=pool.ceil_mode)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H', W')."""
        rows, columns = _pair(self.padding)
        x = wrap_columns(x, columns, columns)
        return functional.max_pool2d(x, self.kernel_size, self.stride, (rows, 0), self.dilation, self.ceil_mode)


def wrap_longitude(module: nn.Module) -> None:
    """Make every padded Conv2d and MaxPool2d inside `module` wrap around the seam, except instances of subclasses."""
    for name, child in module.named_children():
        if type(child) is nn.Conv2d and _pair(child.padding)[1]:
            setattr(module, name, WrappedConv2d(child))
        elif type(child) is nn.MaxPool2d and _pair(child.padding)[1]:
            setattr(module, name, WrappedMaxPool2d(child))
        else:
            wrap_longitude(child)


def _pair(padding: int | str | tuple[int, ...]) -> tuple[int, int]:
    if isinstance(padding, str):
        raise ValueError(f"padding {padding!r} is given by name; wrapping needs it in pixels")
    rows, columns = (padding, padding) if isinstance(padding, int) else padding
    return rows, columns
