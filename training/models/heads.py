"""The global module Σ, one for each encoder, and the local module (supplementary, A.1 and A.2)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import resnet50

from training.models.encoders import channel_mapping, initialise_he


class GlobalHead(nn.Module):
    """Σ: a latent to one unit vector, through what reduces it to `features` and then two linear layers.

    Args:
        reduce: the encoder's own part, (B, 512, h, w) to (B, features).
        features: what it gives.
        channels: of the embedding.
    """

    def __init__(self, reduce: nn.Module, features: int, channels: int = 512) -> None:
        super().__init__()
        self.reduce = reduce
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


def build_global_head(encoder: str, latent_height: int, channels: int = 512) -> GlobalHead:
    """The global module that goes with an encoder.

    Args:
        encoder: vgg16, resnet50 or compact (which has no layers of its own: average pooling alone).
        latent_height: rows h of the latent, which has 2h columns; the linear layer of vgg16 depends on it.
        channels: of the latent and of the embedding.
    """
    if encoder == "vgg16":
        reduce = nn.Sequential(
            nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False),  # (B, 512, 5, 10)
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.MaxPool2d(2, stride=1),  # (B, 512, 4, 9)
            nn.Flatten(),  # (B, 512 * 4 * 9)
        )
        initialise_he(reduce)
        half = (latent_height + 1) // 2
        return GlobalHead(reduce, channels * (half - 1) * (latent_height - 1), channels)
    if encoder == "resnet50":
        conv5_x = resnet50(weights=None).layer4
        reduce = nn.Sequential(channel_mapping(channels, 1024), conv5_x, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return GlobalHead(reduce, 2048, channels)
    return GlobalHead(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), channels, channels)


class LocalHead(nn.Module):
    """The local module: a latent to one unit vector at each location.

    The supplementary (A.1) has both ReLUs before the batch normalisation. Here, as in the authors' code, the second one
    follows it, so that the vectors are not negative, as those of the global module in the memory bank are not.
    """

    def __init__(self, channels: int = 512) -> None:
        super().__init__()
        self.project = nn.Sequential(
            nn.Conv2d(channels, channels, 1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )

    def forward(self, latent: Tensor) -> Tensor:
        """Vectors (B, 512, h, w), of unit length over the channels, of latents (B, 512, h, w)."""
        return functional.normalize(self.project(latent), dim=1)
