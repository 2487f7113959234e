"""Saliency at several input scales, weighted pixel by pixel: the remedy that the supplementary (B) names for depth.

Hierarchical multi-scale attention (Tao, Sapra, Catanzaro, arXiv:2005.10821): one network sees the panorama whole,
halved, quartered. At each scale a small head says where this scale is to be believed rather than the next finer one.
With content L and weight α of a scale, L' of the next finer one, and U the doubling of size, from the coarsest on:

    L' ← U(α · L) + (1 − U(α)) · L'

Two scales cost a quarter more than one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.models.decoder import SeparableConv, upsample_circular
from training.models.prior import row_weights

_FIRST_LOGIT = -2.0
"""Where the weights begin: the coarse scale counts 12 %, so that a model starts out much like its finest scale."""


class ScaleAttention(nn.Module):
    """Weights between scales, and the content that all scales give together.

    Args:
        channels: of the decoder's features.
        map_heights: rows of the content at each scale, the finest first, each half the one before.
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
        """Content of all scales together.

        Args:
            x: normalised panoramas (B, 3, H, W).
            features: from panoramas of any scale (B, 3, H', W') to the decoder's features (B, C, h', w').
            read_out: from features to log-density up to a constant, (B, h', w').

        Returns:
            Log-density, relative to uniform where one scale is believed alone, at the finest scale, (B, h, w).
        """
        pyramid = [x]
        while len(pyramid) < len(self.map_heights):
            pyramid.append(functional.avg_pool2d(pyramid[-1], 2))
        found = features(pyramid.pop())  # (B, C, h', w')
        content = self.log_density(read_out(found))  # (B, 1, h', w')
        while pyramid:
            weight = torch.sigmoid(self.weight(found))  # (B, 1, h', w')
            found = features(pyramid.pop())  # (B, C, 2h', 2w')
            finer = self.log_density(read_out(found))  # (B, 1, 2h', 2w')
            content = upsample_circular(weight * content) + (1 - upsample_circular(weight)) * finer
        return content[:, 0]

    def log_density(self, content: Tensor) -> Tensor:
        """Log-density up to a constant (B, h, w) as log of the density relative to uniform on the sphere (B, 1, h, w).

        Only then do the scales speak of one quantity, whatever constant each pass of the network adds.
        """
        log_weights: Tensor = getattr(self, f"log_row_weights_{content.shape[1]}")  # (h, 1)
        log_mass = torch.logsumexp((content + log_weights).flatten(1), dim=1)  # (B,)
        log_mean = log_mass - math.log(content.shape[1] * content.shape[2])
        return (content - log_mean[:, None, None])[:, None]
