"""Settings of the contrastive model and of its objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from training.config.ranges import require, require_at_least, require_between


@dataclass(frozen=True)
class ContrastiveConfig:
    """Which encoder learns, and through which modules the two views meet."""

    encoder: Literal["vgg16", "resnet50", "compact"] = "resnet50"
    """vgg16 and resnet50 as in the paper; compact is EfficientNet-Lite0."""
    attention: Literal["self", "average", "none"] = "self"
    """self: Listing 1 of the supplementary; average: its ablation, the mean of the turned view; none: no attention."""
    height: int = 160
    """Rows of the views, pixels, a multiple of 32; they are twice as wide."""
    circular: bool = False
    """Wrap the padding of all convolutions around the seam of the panorama."""
    pretrained: bool = False
    """Start the encoder from ImageNet weights; those of vgg16 and resnet50 are read from `weights_file`."""
    weights_file: str = ""
    """torchvision's state dict of vgg16 or resnet50 (.pth or .safetensors), with `pretrained`."""

    def __post_init__(self) -> None:
        fits = self.height >= 64 and self.height % 32 == 0
        require("model.height", self.height, fits, "a multiple of 32 from 64")


@dataclass(frozen=True)
class ObjectiveConfig:
    """How the embeddings of the two views are compared with the memory bank."""

    loss: Literal["nce", "infonce"] = "nce"
    """nce: noise-contrastive estimation as in the paper; infonce: softmax over the positive and the negatives."""
    negatives: int = 16000
    """Negatives of each sample; at most one fewer than there are panoramas."""
    temperature: float = 0.07
    """Divides the similarities."""
    memory_momentum: float = 0.5
    """What the memory keeps of its old entry when it is updated."""
    local_weight: float = 0.7
    """Weight of the local part of the loss; the global part has the rest."""

    def __post_init__(self) -> None:
        require_at_least("objective.negatives", self.negatives, 1)
        require("objective.temperature", self.temperature, self.temperature > 0, "more than 0")
        require_between("objective.memory_momentum", self.memory_momentum, 0, 1)
        require_between("objective.local_weight", self.local_weight, 0, 1)
