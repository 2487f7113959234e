"""Decoders: from an encoder's features to a log-density.

`SeparableDecoder` is the bundled model's, `PaperDecoder` the paper's. `ScaleAttention` combines the predictions at
several input scales.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.compact import CircularConv2d
from training.models.layers import wrap_columns
from training.models.prior import row_weights


class SeparableConv(nn.Module):
    """Depthwise convolution with columns that wrap, pointwise 1x1, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.depthwise = CircularConv2d(in_channels, in_channels, kernel, groups=in_channels)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) → (B, out_channels, h, w)."""
        return F.relu(self.pointwise(self.depthwise(x)))


def upsample_circular(x: Tensor) -> Tensor:
    """2x bilinear upsampling with columns that wrap: (B, C, h, w) → (B, C, 2h, 2w)."""
    x = wrap_columns(x, 1, 1)  # (B, C, h, w + 2)
    x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
    return x[..., 2:-2]  # drop the two columns that came from each wrapped one


class _Upsample2x(nn.Module):
    """`upsample_circular` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → (B, C, 2h, 2w)."""
        return upsample_circular(x)


class SeparableDecoder(nn.Module):
    """A feature pyramid: each level adds its lateral connection to the upsampled sum of the coarser levels.

    Args:
        pyramid_channels: channels of the encoder's features by stride.
        strides: the levels used, each twice the one before; the smallest is the stride of the map.
        channels: channels of every level.
    """

    def __init__(self, pyramid_channels: Mapping[int, int], strides: Sequence[int], channels: int) -> None:
        super().__init__()
        self.feature_channels = channels
        self.strides = sorted(strides, reverse=True)
        self.laterals = nn.ModuleList(nn.Conv2d(pyramid_channels[stride], channels, 1) for stride in self.strides)
        self.smooths = nn.ModuleList(SeparableConv(channels, channels, 5) for _ in self.strides)
        self.head = nn.Conv2d(channels, 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # every convolution here has a bias
        nn.init.normal_(self.head.weight, std=0.01)  # an untrained model predicts a uniform map

    def forward(self, pyramid: Mapping[int, Tensor]) -> Tensor:
        """Features by stride → log-density up to a constant, (B, h, w) at the smallest stride."""
        return self.read_out(self.features(pyramid))

    def features(self, pyramid: Mapping[int, Tensor]) -> Tensor:
        """Features by stride → the last features before the map, (B, channels, h, w) at the smallest stride."""
        x: Tensor | None = None
        for stride, lateral, smooth in zip(self.strides, self.laterals, self.smooths, strict=True):
            level = lateral(pyramid[stride])  # (B, channels, H / stride, W / stride)
            x = smooth(level if x is None else level + upsample_circular(x))
        assert x is not None  # there is at least one stride
        return x

    def read_out(self, features: Tensor) -> Tensor:
        """Last features (B, channels, h, w) → log-density up to a constant, (B, h, w)."""
        return cast(Tensor, self.head(features).squeeze(1))  # (B, h, w)


class PaperDecoder(nn.Module):
    """The paper's decoder (supplementary; Xavier weights, bias .01): 512 x 10 x 20 latent → 160 x 320 map.

    The output is the log-sigmoid instead of the paper's sigmoid: after the softmax over the sphere that turns it into a
    density, this is the paper's map up to normalisation.

    Args:
        in_channels: channels of the latent.
        circular: wrap the columns; the paper pads zeros.
    """

    def __init__(self, in_channels: int = 512, *, circular: bool = True) -> None:
        super().__init__()
        up = _Upsample2x() if circular else nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        layers: list[nn.Module] = []
        channels = in_channels
        for out_channels, grow in ((512, 1), (512, 1), (256, 1), (128, 0), (128, 1), (64, 0), (64, 0)):
            layers += [CircularConv2d(channels, out_channels, 3, circular=circular), nn.ReLU()] + [up] * grow
            channels = out_channels
        layers.append(nn.Conv2d(channels, 1, 1))
        self.feature_channels = channels
        self.layers = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.constant_(module.bias, 0.01)  # type: ignore[arg-type]  # every convolution here has a bias

    def forward(self, latent: Tensor) -> Tensor:
        """(B, in_channels, h, w) → log-density up to a constant, (B, 16 h, 16 w)."""
        return self.read_out(self.features(latent))

    def features(self, latent: Tensor) -> Tensor:
        """(B, in_channels, h, w) → the last features before the map, (B, 64, 16 h, 16 w)."""
        return cast(Tensor, self.layers[:-1](latent))

    def read_out(self, features: Tensor) -> Tensor:
        """Last features (B, 64, h, w) → log-density up to a constant, (B, h, w)."""
        return F.logsigmoid(self.layers[-1](features).squeeze(1))  # (B, h, w)


_FIRST_LOGIT = -2.0
"""Initial logit of the weights: the coarse scale counts 12 %, so a model starts close to its finest scale."""


class ScaleAttention(nn.Module):
    """Combine predictions at several input scales, weighted pixel by pixel, as the paper proposes (supplementary, B).

    Hierarchical multi-scale attention (Tao, Sapra, Catanzaro, arXiv:2005.10821): one network sees the panorama at full,
    half and quarter size. At each scale a small head predicts where this scale is better than the next finer one. With
    content L and weight α of a scale, L' of the next finer scale, and U for 2x upsampling, starting at the coarsest:

        L' ← U(α · L) + (1 − U(α)) · L'

    Two scales cost a quarter more than one.

    Args:
        channels: channels of the decoder's features.
        map_heights: height of the content at each scale, the finest first, each half the one before.
    """

    def __init__(self, channels: int, map_heights: Sequence[int]) -> None:
        super().__init__()
        last = nn.Conv2d(channels, 1, 1)
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, _FIRST_LOGIT)  # type: ignore[arg-type]  # it has a bias
        self.weight = nn.Sequential(SeparableConv(channels, channels), last)
        self.map_heights = tuple(map_heights)
        for height in map_heights:
            self.register_buffer(f"log_row_weights_{height}", row_weights(height).log(), persistent=False)  # (h, 1)

    def forward(self, x: Tensor, features: Callable[[Tensor], Tensor], read_out: Callable[[Tensor], Tensor]) -> Tensor:
        """The combined content of all scales.

        Args:
            x: normalised panoramas (B, 3, H, W).
            features: panoramas of any scale (B, 3, H', W') → the decoder's features (B, C, h', w').
            read_out: features → log-density up to a constant, (B, h', w').

        Returns:
            Log-density (B, h, w) at the finest scale.
        """
        pyramid = [x]
        while len(pyramid) < len(self.map_heights):
            pyramid.append(F.avg_pool2d(pyramid[-1], 2))
        found = features(pyramid.pop())  # (B, C, h', w')
        content = self.log_density(read_out(found))  # (B, 1, h', w')
        while pyramid:
            weight = torch.sigmoid(self.weight(found))  # (B, 1, h', w')
            found = features(pyramid.pop())  # (B, C, 2h', 2w')
            finer = self.log_density(read_out(found))  # (B, 1, 2h', 2w')
            content = upsample_circular(weight * content) + (1 - upsample_circular(weight)) * finer
        return content[:, 0]

    def log_density(self, content: Tensor) -> Tensor:
        """Log-density up to a constant (B, h, w) → log of the density relative to uniform (B, 1, h, w).

        This makes the scales comparable, regardless of the constant that each pass of the network adds.
        """
        log_weights: Tensor = getattr(self, f"log_row_weights_{content.shape[1]}")  # (h, 1)
        log_mass = torch.logsumexp((content + log_weights).flatten(1), dim=1)  # (B,)
        log_mean = log_mass - math.log(content.shape[1] * content.shape[2])
        return (content - log_mean[:, None, None])[:, None]
