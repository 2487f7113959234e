"""The contrastive model of Section 3: an encoder, attention between two views, a global and a local embedding."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from training.config import ContrastiveConfig
from training.models.attention import build_attention
from training.models.encoders import build_encoder, normalise
from training.models.heads import LocalHead, build_global_head
from training.models.longitude import wrap_longitude


class ContrastiveOutput(NamedTuple):
    """Embeddings of a batch of view pairs, float32."""

    global_embedding: Tensor
    """v_x (B, 512), unit vectors of the plain views."""
    local_embedding: Tensor
    """ψ (B, 512, h, w), unit vectors at each location of the turned views, after attention."""


class ContrastiveModel(nn.Module):
    """f_θ, the attention A, the global module Σ and the local module, as they are trained together.

    Raises:
        ParameterError, CheckpointError: as `build_encoder` does.
    """

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self.encoder = build_encoder(
            config.encoder, pretrained=config.pretrained, circular=config.circular, weights_file=config.weights_file
        )
        channels = self.encoder.latent_channels
        self.attention = build_attention(config.attention, channels)
        self.global_head = build_global_head(config.encoder, config.height // self.encoder.stride, channels)
        self.local_head = LocalHead(channels)
        if config.circular:
            wrap_longitude(self.global_head)

    def forward(self, view: Tensor, turned_view: Tensor) -> ContrastiveOutput:
        """Embeddings of views x and x_t, RGB (B, 3, H, W) each, uint8 or floats in [0, 1]."""
        latent = self.encoder(normalise(view))  # Λ_x  (B, 512, h, w)
        turned_latent = self.encoder(normalise(turned_view))  # Λ_xt (B, 512, h, w)
        selected = self.attention(latent, turned_latent)  # Ψ    (B, 512, h, w)
        return ContrastiveOutput(self.global_head(latent).float(), self.local_head(selected).float())

    def embed(self, view: Tensor) -> Tensor:
        """v (B, 512) of views alone, RGB (B, 3, H, W): for retrieval and for pictures of the embedding."""
        return self.global_head(self.encoder(normalise(view))).float()
