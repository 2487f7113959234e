"""How the latent of the plain view selects from the latent of the turned one (supplementary, A.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SelfAttention(nn.Module):
    """Attention of every location of Λ_x over 2x2 patches of Λ_xt, added to Λ_xt (supplementary, Listing 1).

    `gamma` starts at zero, so that training begins with Λ_xt alone; the paper saw it reach 8.0 after 250 epochs.

    Args:
        channels: of the latents; queries and keys have an eighth of them, values half.
    """

    def __init__(self, channels: int = 512) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels // 2, 1)
        self.output = nn.Conv2d(channels // 2, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, latent: Tensor, turned_latent: Tensor) -> Tensor:
        """Ψ (B, C, h, w) of Λ_x and Λ_xt, (B, C, h, w) each; h and w are at least 2."""
        query = self.query(latent).flatten(2).transpose(1, 2)  # (B, 200, 64): 200 = 10 x 20 locations
        key = functional.max_pool2d(self.key(turned_latent), 2).flatten(2)  # (B, 64, 50): 50 = 5 x 10 patches
        value = functional.max_pool2d(self.value(turned_latent), 2).flatten(2)  # (B, 256, 50)
        weights = torch.softmax(query @ key, dim=-1)  # (B, 200, 50)
        attended = value @ weights.transpose(1, 2)  # (B, 256, 200)
        attended = attended.unflatten(2, latent.shape[2:])  # (B, 256, 10, 20)
        attended = self.output(attended)  # (B, 512, 10, 20)
        return self.gamma * attended + turned_latent


class AveragePooling(nn.Module):
    """Equal attention, the ablation of the supplementary (B): every location of Λ_x gets the mean of Λ_xt.

    Because all locations get the same, one is returned: what is averaged over locations afterwards stays equal.
    """

    def forward(self, latent: Tensor, turned_latent: Tensor) -> Tensor:  # noqa: ARG002
        """(B, C, 1, 1) of Λ_x and Λ_xt, (B, C, h, w) each."""
        return turned_latent.mean(dim=(2, 3), keepdim=True)


class NoAttention(nn.Module):
    """The ablation without attention: Λ_xt as it is."""

    def forward(self, latent: Tensor, turned_latent: Tensor) -> Tensor:  # noqa: ARG002
        """Λ_xt."""
        return turned_latent


def build_attention(name: str, channels: int = 512) -> nn.Module:
    """The module called "self", "average" or "none"."""
    if name == "self":
        return SelfAttention(channels)
    return AveragePooling() if name == "average" else NoAttention()
