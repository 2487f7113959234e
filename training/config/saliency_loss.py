"""Settings of the loss of decoder training."""

from __future__ import annotations

from dataclasses import dataclass

from training.config.ranges import require, require_at_least


@dataclass(frozen=True)
class SaliencyLossConfig:
    """Weights of the parts of the loss; the paper's is KLD alone."""

    kld: float = 1.0
    """Kullback-Leibler divergence of the prediction from the gaze, nats."""
    cc: float = 0.0
    """Linear correlation, which is rewarded."""
    nss: float = 0.0
    """Normalised scanpath saliency, which is rewarded."""
    solid_angle: bool = True
    """Weight every pixel by its solid angle; false counts pixels, as the paper does."""

    def __post_init__(self) -> None:
        for name in ("kld", "cc", "nss"):
            require_at_least(f"loss.{name}", getattr(self, name), 0)
        require("loss", "all zero", self.kld + self.cc + self.nss > 0, "a weight above 0")
