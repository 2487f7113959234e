"""The contrastive model (Section 3 of the paper): encoder, attention between two views, global and local embedding.

`ContrastiveModel.forward` at the end shows how the parts fit together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.config import require
from training.models.base_encoder import Encoder
from training.models.encoders import ENCODER_NAMES, EncoderName, build_encoder, is_encoder
from training.models.layers import normalise, wrap_longitude

AttentionName: TypeAlias = Literal["self", "average", "none"]
LocalOrder: TypeAlias = Literal["norm_last", "relu_last"]


@dataclass(frozen=True)
class ContrastiveConfig:
    """Encoder and attention of the contrastive model."""

    encoder: EncoderName = "resnet50"
    """Name of the encoder; docs/pretraining.md has a table of them."""
    attention: AttentionName = "self"
    """self: Listing 1 of the supplementary; average: its ablation, the mean of the turned view; none: no attention."""
    local: LocalOrder = "relu_last"
    """Order of the local module's layers. norm_last: both convolutions with their ReLU, then the batch normalisation,
    as in the supplementary; relu_last: the second ReLU follows the normalisation, as in the authors' code, so that no
    component is negative, like those of the global vectors in the memory bank."""
    height: int = 160
    """Height of the views, pixels: a multiple of 32, at least 64. The width is twice that."""
    circular: bool = False
    """Pad all convolutions with columns from the other side of the panorama's seam instead of zeros."""
    pretrained: bool = False
    """Start the encoder from ImageNet weights: those of its package, or of `weights_file`."""
    weights_file: str = ""
    """ImageNet weights of an encoder without packaged ones: a state dict of torchvision or timm, .pth or .safetensors.
    Needs `pretrained`."""

    def __post_init__(self) -> None:
        require("encoder", self.encoder, is_encoder(self.encoder), ENCODER_NAMES)
        fits = self.height >= 64 and self.height % 32 == 0
        require("height", self.height, fits, "a multiple of 32 from 64")


class SelfAttention(nn.Module):
    """Attention of every location of Λ_x over 2x2 patches of Λ_xt, added to Λ_xt (supplementary, Listing 1).

    `gamma` starts at zero, so training starts with Λ_xt alone; in the paper it reaches 8.0 after 250 epochs.

    Args:
        channels: channels of the latents; queries and keys have one eighth of them, values half.
    """

    def __init__(self, channels: int = 512) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels // 2, 1)
        self.output = nn.Conv2d(channels // 2, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, latent: Tensor, turned_latent: Tensor) -> Tensor:
        """Ψ (B, C, h, w) from Λ_x and Λ_xt, (B, C, h, w) each; h and w are at least 2."""
        query = self.query(latent).flatten(2).transpose(1, 2)  # (B, 200, 64): 200 = 10 x 20 locations
        key = functional.max_pool2d(self.key(turned_latent), 2).flatten(2)  # (B, 64, 50): 50 = 5 x 10 patches
        value = functional.max_pool2d(self.value(turned_latent), 2).flatten(2)  # (B, 256, 50)
        weights = torch.softmax(query @ key, dim=-1)  # (B, 200, 50)
        attended = value @ weights.transpose(1, 2)  # (B, 256, 200)
        attended = attended.reshape(*attended.shape[:2], *latent.shape[2:])  # (B, 256, 10, 20)
        attended = cast(Tensor, self.output(attended))  # (B, 512, 10, 20)
        return self.gamma * attended + turned_latent  # (B, 512, 10, 20)


class AveragePooling(nn.Module):
    """Uniform attention, an ablation (supplementary, B): every location of Λ_x gets the mean of Λ_xt.

    All locations get the same vector, so only one is returned; the loss averages over locations anyway.
    """

    def forward(self, latent: Tensor, turned_latent: Tensor) -> Tensor:  # noqa: ARG002
        """(B, C, 1, 1) from Λ_x and Λ_xt, (B, C, h, w) each."""
        return turned_latent.mean(dim=(2, 3), keepdim=True)


class NoAttention(nn.Module):
    """No attention, an ablation: Λ_xt unchanged."""

    def forward(self, latent: Tensor, turned_latent: Tensor) -> Tensor:  # noqa: ARG002
        """Λ_xt (B, C, h, w)."""
        return turned_latent


def build_attention(name: AttentionName, channels: int = 512) -> nn.Module:
    """The attention module for a name."""
    modules: dict[AttentionName, Callable[[], nn.Module]] = {
        "self": partial(SelfAttention, channels),
        "average": AveragePooling,
        "none": NoAttention,
    }
    return modules[name]()


class GlobalHead(nn.Module):
    """Σ, the global module: from a latent to one unit vector, by the encoder's reduction and two linear layers.

    Args:
        encoder: provides the reduction, (B, 512, h, 2h) → (B, features).
        latent_height: height h of the latent; the size of vgg16's linear layer depends on it.
    """

    def __init__(self, encoder: Encoder, latent_height: int) -> None:
        super().__init__()
        self.reduce, features = encoder.global_reduction(latent_height)
        channels = encoder.latent_channels
        self.project = nn.Sequential(
            nn.Linear(features, channels),
            nn.BatchNorm1d(channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
            nn.ReLU(),
        )

    def forward(self, latent: Tensor) -> Tensor:
        """Unit vectors (B, 512) of latents (B, 512, h, w)."""
        return functional.normalize(self.project(self.reduce(latent)), dim=1)


class LocalHead(nn.Module):
    """The local module (supplementary, A.1): from a latent to one unit vector at each location.

    Args:
        channels: channels of the latent.
        order: as in `ContrastiveConfig.local`.
    """

    def __init__(self, channels: int = 512, order: LocalOrder = "norm_last") -> None:
        super().__init__()
        last: list[nn.Module] = [nn.ReLU(), nn.BatchNorm2d(channels)]
        self.project = nn.Sequential(
            nn.Conv2d(channels, channels, 1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
            *(last if order == "norm_last" else last[::-1]),
        )

    def forward(self, latent: Tensor) -> Tensor:
        """Vectors (B, 512, h, w) with unit length over the channels, of latents (B, 512, h, w)."""
        return functional.normalize(self.project(latent), dim=1)


class ContrastiveOutput(NamedTuple):
    """Embeddings of a batch of view pairs, float32."""

    global_embedding: Tensor
    """v_x (B, 512): unit vectors of the plain views."""
    local_embedding: Tensor
    """ψ (B, 512, h, w): unit vectors at each location of the turned views, after attention."""


class ContrastiveModel(nn.Module):
    """Encoder f_θ, attention A, global module Σ and local module, trained together.

    Raises:
        ParameterError, CheckpointError: from `build_encoder`.
    """

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self.encoder = build_encoder(
            config.encoder, pretrained=config.pretrained, circular=config.circular, weights_file=config.weights_file
        )
        channels = self.encoder.latent_channels
        self.attention = build_attention(config.attention, channels)
        self.global_head = GlobalHead(self.encoder, config.height // self.encoder.stride)
        self.local_head = LocalHead(channels, config.local)
        if config.circular:
            wrap_longitude(self.global_head)

    def forward(self, view: Tensor, turned_view: Tensor) -> ContrastiveOutput:
        """Embeddings of views x and x_t, RGB (B, 3, H, W) each, uint8 or floats in [0, 1]."""
        latent = self.encoder(normalise(view))  # Λ_x  (B, 512, h, w)
        turned_latent = self.encoder(normalise(turned_view))  # Λ_xt (B, 512, h, w)
        selected = self.attention(latent, turned_latent)  # Ψ    (B, 512, h, w)
        return ContrastiveOutput(self.global_head(latent).float(), self.local_head(selected).float())

    def embed(self, view: Tensor) -> Tensor:
        """Global embeddings v (B, 512) of views (B, 3, H, W) RGB, for retrieval and plots."""
        return cast(Tensor, self.global_head(self.encoder(normalise(view))).float())
