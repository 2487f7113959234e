"""Losses of a predicted log-density against gaze, over the parts of the sphere where gaze is known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.config import require_at_least, require_together
from training.models.prior import row_weights


@dataclass(frozen=True)
class SaliencyLossConfig:
    """Weights of the terms of the loss; the paper uses KLD alone."""

    kld: float = 1.0
    """Weight of the Kullback-Leibler divergence KL(gaze ‖ prediction), nats."""
    cc: float = 0.0
    """Weight of the linear correlation coefficient, which is maximised."""
    nss: float = 0.0
    """Weight of the normalised scanpath saliency, which is maximised."""
    solid_angle: bool = True
    """Weight every pixel by its solid angle; false weights all pixels equally, as the paper does."""

    def __post_init__(self) -> None:
        for name in ("kld", "cc", "nss"):
            require_at_least(name, getattr(self, name), 0)
        some = self.kld + self.cc + self.nss > 0
        require_together(self, ("kld", "cc", "nss"), some, "at least one weight above 0")


_MASKED = -1e4  # its exponential is 0, and it is finite in bf16


def parts_with_gaze(densities: Tensor, masks: Tensor) -> Tensor:
    """The number of parts over which `saliency_losses` takes its means, a scalar; its arguments are those here."""
    return ((densities * masks).flatten(2).sum(-1) > 0).sum()


def saliency_losses(
    content: Tensor, densities: Tensor, masks: Tensor, config: SaliencyLossConfig, *, count: Tensor | None = None
) -> dict[str, Tensor]:
    """Mean losses over the known parts of a batch, and their weighted sum "loss".

    Args:
        content: (B, h, w), log-density up to a constant.
        densities: (B, K, h, w), gaze per solid angle in K parts of each panorama, of any scale.
        masks: (B, K, h, w) bool, the pixels of each part; parts without pixels or gaze are left out.
        config: weights of the losses.
        count: by what the sums over the parts are divided, a scalar; None: the number of parts with gaze. Where a
            batch is split, its mean, so that the mean over the splits is the mean over the batch.

    Returns:
        Scalars: kld, KL(gaze ‖ prediction) in nats; cc, linear correlation of the two densities; nss, expected
        normalised scanpath saliency at the gaze; loss.
    """
    masks = masks.flatten(2)  # (B, K, h·w)
    weights = row_weights(content.shape[1]) if config.solid_angle else torch.ones(content.shape[1], 1)
    weights = weights.to(content.device).expand(content.shape[1:]).flatten() * masks  # (B, K, h·w)
    gaze = densities.flatten(2) * weights  # (B, K, h·w)
    total = gaze.sum(-1, keepdim=True)
    used = (total > 0).squeeze(-1)  # (B, K)
    target = gaze / total.clamp_min(1e-12)

    log_mass = content.float().flatten(1)[:, None] + torch.log(weights.clamp_min(1e-12))  # (B, K, h·w)
    log_predicted = log_mass.masked_fill(~masks, _MASKED).log_softmax(-1)
    kld = (target * (torch.log(target.clamp_min(1e-12)) - log_predicted)).sum(-1)  # (B, K)

    area = weights / weights.sum(-1, keepdim=True).clamp_min(1e-12)
    first, second = (_deviation(mass, area) for mass in (log_predicted.exp(), target))
    spread = (area * first**2).sum(-1).clamp_min(1e-12).sqrt()
    covariance = (area * first * second).sum(-1)
    nss = covariance / spread
    cc = nss / (area * second**2).sum(-1).clamp_min(1e-12).sqrt()

    divisor = (used.sum() if count is None else count).float().clamp_min(torch.finfo(torch.float32).tiny)
    losses = {name: (each * used).sum() / divisor for name, each in (("kld", kld), ("cc", cc), ("nss", nss))}
    return losses | {"loss": config.kld * losses["kld"] - config.cc * losses["cc"] - config.nss * losses["nss"]}


def _deviation(mass: Tensor, area: Tensor) -> Tensor:
    """Density relative to its mean over the part, minus 1; zero outside the part."""
    return torch.where(area > 0, mass / area.clamp_min(1e-12) - 1, 0.0)
