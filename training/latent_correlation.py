"""Inter-map correlation: how redundant the channels of a latent are (supplementary, Table 2)."""

from __future__ import annotations

import torch
from torch import Tensor


def inter_map_correlation(latent: Tensor) -> Tensor:
    """Mean correlation coefficient over all pairs of different channels, for each latent of a batch.

    The pairs of a channel that is constant over the map are left out, because its correlation is undefined.

    Args:
        latent: (B, C, h, w).

    Returns:
        (B,) float32 in [−1, 1]; NaN where fewer than two channels vary.
    """
    maps = latent.float().flatten(2)  # (B, C, h * w)
    centred = maps - maps.mean(dim=2, keepdim=True)
    norm = centred.norm(dim=2, keepdim=True)  # (B, C, 1)
    # rounding leaves a constant map with a norm of about ε times its value
    varies = norm > 1e-5 * maps.abs().amax(dim=2, keepdim=True)
    unit = torch.where(varies, centred / norm.clamp(min=torch.finfo(maps.dtype).tiny), 0)
    count = varies.sum(dim=1).squeeze(1).to(maps.dtype)  # (B,)
    # Σ_i≠j u_i · u_j = ‖Σ u_i‖² − Σ ‖u_i‖², without the C x C matrix
    total = unit.sum(dim=1).square().sum(dim=1) - count
    return torch.where(count > 1, total / (count * (count - 1)), torch.nan)
