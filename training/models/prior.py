"""The equator prior: in panoramas people look near the horizon, regardless of the content.

`saliency_model.DensityModel` multiplies it in. Fits to gaze are densities per degree of latitude: how often people look
at each elevation, all around. A map is a density per solid angle, and a degree of latitude has cos(elevation) times the
area that it has at the horizon. So the prior on a map is the fit divided by that cosine.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sal360.arrays import Floats
from training.config import require_between

LAPLACE_MEAN_DEG = -1.39
LAPLACE_SCALE_DEG = 17.91
"""Published fit to headset gaze on 22 panoramas (Sitzmann et al., TVCG 24(4), 2018): mean latitude 91.39° counted from
the top, slightly below the horizon, and scale 17.91°, of the number of fixations per degree of latitude."""

Measure = Literal["latitude", "solid_angle"]
"""The unit per which a Laplace density in elevation counts gaze."""


@dataclass(frozen=True)
class PriorConfig:
    """The equator prior: gaze follows a Laplace density in elevation."""

    mean_deg: float = LAPLACE_MEAN_DEG
    """Elevation of its centre, degrees."""
    scale_deg: float = LAPLACE_SCALE_DEG
    """Scale of the Laplace density, degrees."""
    floor: float = 0.05
    """Share of a uniform density mixed in, 0 to 1, so that no elevation is impossible."""
    strength: float = 1.0
    """Exponent of the prior; 0 removes it."""
    per: Measure = "latitude"
    """latitude: the Laplace density counts gaze per degree of latitude, as published fits do; solid_angle: per solid
    angle, as in older checkpoints, which is narrower."""

    def __post_init__(self) -> None:
        require_between("mean_deg", self.mean_deg, -45, 45)
        require_between("scale_deg", self.scale_deg, 1, 1000)
        require_between("floor", self.floor, 0, 1)
        require_between("strength", self.strength, 0, 4)


def equator_log_rows(height: int, prior: PriorConfig) -> Tensor:
    """Logarithm of the prior on each row of a map, nats: (height, 1) float32.

    The prior is a density per solid angle, mixed with a share `floor` of uniform, to the power `strength`. At
    strength 1 its solid-angle-weighted mean is 1.
    """
    elevation_deg = torch.from_numpy(row_elevations_deg(height))
    density = torch.exp(log_laplace(elevation_deg, prior.mean_deg, prior.scale_deg, prior.per))
    weight = row_weights(height).double()[:, 0]  # (height,)
    density = (1 - prior.floor) * density / (weight * density).mean() + prior.floor
    return (prior.strength * torch.log(density)).float()[:, None]


def log_laplace(elevation_deg: Tensor, mean_deg: float, scale_deg: float, per: Measure = "latitude") -> Tensor:
    """Logarithm of the density of gaze per solid angle at elevations (n,), degrees, up to a constant: (n,), nats.

    Towards the poles the area of a degree of latitude vanishes faster than the Laplace density, so their quotient would
    rise again: for the published fit beyond 73°, to most of its peak at the pole. Nobody has measured that; it is the
    tail of a fit. The density stays as it is from there on, so it never rises away from its centre, and a Laplace
    density of infinite scale is the uniform density.

    Args:
        elevation_deg: elevations, degrees.
        mean_deg: centre of the Laplace density, degrees.
        scale_deg: its scale, degrees.
        per: what the Laplace density counts gaze by.
    """
    if per == "solid_angle":
        return -(elevation_deg - mean_deg).abs() / scale_deg
    turn = math.degrees(math.atan(math.degrees(1) / scale_deg))  # where the quotient's slope is 0
    held = elevation_deg.clamp(min(-turn, mean_deg), max(turn, mean_deg))
    return -(held - mean_deg).abs() / scale_deg - torch.log(torch.cos(torch.deg2rad(held)))


def prior_settings_of_header(settings: dict[str, object]) -> dict[str, object]:
    """The settings of a prior in the header of a checkpoint, complete.

    Older checkpoints say nothing about the measure: theirs was the solid angle.
    """
    return {**asdict(PriorConfig(per="solid_angle")), **settings}


def row_elevations_deg(height: int) -> Floats:
    """Elevations of the rows of a map from the top, degrees: (height,)."""
    return np.asarray(90 - 180 * (np.arange(height) + 0.5) / height)


def row_weights(height: int) -> Tensor:
    """Solid angle of the pixels of each row, relative to the mean over all pixels: (height, 1) float32."""
    colatitude = math.pi * (torch.arange(height, dtype=torch.float64) + 0.5) / height
    sine = torch.sin(colatitude)
    return (sine / sine.mean()).float()[:, None]
