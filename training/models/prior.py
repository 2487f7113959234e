"""The equator prior: in a panorama people look near the horizon, whatever it shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from training.config import require_between


@dataclass(frozen=True)
class PriorConfig:
    """The equator prior, a Laplace in elevation (published fit to headset gaze: Sitzmann et al. 2018)."""

    mean_deg: float = -1.39
    """Elevation of its middle, degrees."""
    scale_deg: float = 17.91
    """Scale of the Laplace, degrees."""
    floor: float = 0.05
    """Share of uniform mixed in, so that nowhere is impossible."""
    strength: float = 1.0
    """Power of the prior; 0 leaves it out."""

    def __post_init__(self) -> None:
        require_between("mean_deg", self.mean_deg, -45, 45)
        require_between("scale_deg", self.scale_deg, 1, 1000)
        require_between("floor", self.floor, 0, 1)
        require_between("strength", self.strength, 0, 4)


LAPLACE_MEAN_DEG = 90.0 - 91.39
LAPLACE_SCALE_DEG = 17.91
"""Published fit to headset gaze on 22 panoramas (Sitzmann et al., TVCG 24(4), 2018): latitude 91.39° counted from the
top, so a little below the horizon, and scale 17.91°."""


def equator_log_rows(
    height: int,
    *,
    mean_deg: float = LAPLACE_MEAN_DEG,
    scale_deg: float = LAPLACE_SCALE_DEG,
    floor: float = 0.0,
    strength: float = 1.0,
) -> Tensor:
    """What the prior adds to the log-density of each row of a map: (height, 1) float32 nats.

    The density is a Laplace in elevation, mixed with `floor` of uniform, taken to the power `strength`. Its
    solid-angle-weighted mean is 1 at strength 1.
    """
    elevation_deg = 90 - 180 * (torch.arange(height, dtype=torch.float64) + 0.5) / height
    density = torch.exp(-(elevation_deg - mean_deg).abs() / scale_deg)
    weight = row_weights(height).double()[:, 0]  # (height,)
    density = (1 - floor) * density / (weight * density).mean() + floor
    return (strength * torch.log(density)).float()[:, None]


def row_weights(height: int) -> Tensor:
    """Solid angle of each row's pixels relative to the mean pixel: (height, 1) float32, mean 1."""
    colatitude = math.pi * (torch.arange(height, dtype=torch.float64) + 0.5) / height
    sine = torch.sin(colatitude)
    return (sine / sine.mean()).float()[:, None]
