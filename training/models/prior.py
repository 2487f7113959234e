"""The equator prior: in panoramas people look near the horizon, whatever is there.

`saliency_model.DensityModel` multiplies it in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from training.config import require_between

LAPLACE_MEAN_DEG = -1.39
LAPLACE_SCALE_DEG = 17.91
"""Published fit to headset gaze on 22 panoramas (Sitzmann et al., TVCG 24(4), 2018): mean latitude 91.39° counted from
the top, slightly below the horizon, and scale 17.91°."""


@dataclass(frozen=True)
class PriorConfig:
    """The equator prior, a Laplace density in elevation."""

    mean_deg: float = LAPLACE_MEAN_DEG
    """Elevation of its centre, degrees."""
    scale_deg: float = LAPLACE_SCALE_DEG
    """Scale of the Laplace density, degrees."""
    floor: float = 0.05
    """Share of a uniform density mixed in, 0 to 1, so that no elevation is impossible."""
    strength: float = 1.0
    """Exponent of the prior; 0 removes it."""

    def __post_init__(self) -> None:
        require_between("mean_deg", self.mean_deg, -45, 45)
        require_between("scale_deg", self.scale_deg, 1, 1000)
        require_between("floor", self.floor, 0, 1)
        require_between("strength", self.strength, 0, 4)


def equator_log_rows(
    height: int,
    *,
    mean_deg: float = LAPLACE_MEAN_DEG,
    scale_deg: float = LAPLACE_SCALE_DEG,
    floor: float = 0.0,
    strength: float = 1.0,
) -> Tensor:
    """Logarithm of the prior on each row of a map, nats: (height, 1) float32.

    The prior is a Laplace density in elevation, mixed with a share `floor` of uniform, to the power `strength`. At
    strength 1 its solid-angle-weighted mean is 1.
    """
    elevation_deg = 90 - 180 * (torch.arange(height, dtype=torch.float64) + 0.5) / height
    density = torch.exp(-(elevation_deg - mean_deg).abs() / scale_deg)
    weight = row_weights(height).double()[:, 0]  # (height,)
    density = (1 - floor) * density / (weight * density).mean() + floor
    return (strength * torch.log(density)).float()[:, None]


def row_weights(height: int) -> Tensor:
    """Solid angle of the pixels of each row, relative to the mean over all pixels: (height, 1) float32."""
    colatitude = math.pi * (torch.arange(height, dtype=torch.float64) + 0.5) / height
    sine = torch.sin(colatitude)
    return (sine / sine.mean()).float()[:, None]
