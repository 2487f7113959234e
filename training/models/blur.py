"""A Gaussian blur of maps as two matrix products, which every runtime has: rows · map · columns."""

from __future__ import annotations

import torch
from torch import Tensor


def blur_matrices(height: int, width: int, sigma_deg: float) -> tuple[Tensor, Tensor]:
    """The matrices (height, height) and (width, width) of a Gaussian of `sigma_deg` in elevation and in azimuth.

    Columns wrap; at the poles the kernel is cut off and raised to sum 1. Towards the poles a step in azimuth is a
    shorter way on the sphere, so the blur is narrower there than at the equator: by the cosine of the elevation.
    """
    row = torch.arange(height, dtype=torch.float64) * (180 / height)
    column = torch.arange(width, dtype=torch.float64) * (360 / width)
    across = (column[:, None] - column[None]).abs()
    rows = torch.exp(-0.5 * ((row[:, None] - row[None]) / sigma_deg) ** 2)
    columns = torch.exp(-0.5 * (torch.minimum(across, 360 - across) / sigma_deg) ** 2)
    return (rows / rows.sum(dim=1, keepdim=True)).float(), (columns / columns.sum(dim=0, keepdim=True)).float()
