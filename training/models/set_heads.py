"""The differences between gaze data sets, in a dozen numbers per set; the content network is shared.

Sets differ in their centre bias, in how their fixations were recorded, in viewing time and task; under twenty
parameters per set close most of the gap between sets (Kümmerer, Bethge, "DeepGaze MSDB", 2025). `SetHeads` learns them
together with the content network and is not part of checkpoints and model files.

All except the noise are deviations from the mean over the sets. Properties that all sets share, such as some centre
bias, are thus left to the content network, so that its maps are those of the average set.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

CELLS = 48
"""Cells of the longer side of the plane in which a photograph is learnt."""
_BLURS = (1.5, 5.0)
"""Standard deviations, cells, that divide a map into bands: fine, middle, coarse."""
_MASKED = -1e4


class SetHeads(nn.Module):
    """From content in a photograph's plane to the log-density of gaze of one data set.

    Args:
        sets: number of data sets.
    """

    blurs: Tensor

    def __init__(self, sets: int) -> None:
        super().__init__()
        self.bands = nn.Parameter(torch.zeros(sets, 3))
        """Logarithms of the weights of the bands of the content: the power of each scale."""
        self.centre = nn.Parameter(torch.zeros(sets, 6))
        """Coefficients of the centre bias: u², v, v², u⁴, v⁴, u²v², with u and v from −1 to 1 across the picture."""
        self.noise = nn.Parameter(torch.tensor([[-3.0, -4.0]]).repeat(sets, 1))
        """Logits of the share of the density that is blurred, and of the share that is uniform."""
        self.register_buffer("blurs", torch.stack([_gaussian(sigma) for sigma in _BLURS]), persistent=False)

    def forward(self, content: Tensor, masks: Tensor, windows: Tensor, sets: Tensor) -> Tensor:
        """Content of photographs in their planes to log-densities per area, up to a constant.

        Args:
            content: (N, CELLS, CELLS), log-density per area, up to a constant.
            masks: (N, CELLS, CELLS) bool, the cells on the photograph.
            windows: (N, 4): left, top, width and height in u and v of what is shown of the photograph.
            sets: (N,) integers, the data set of each photograph.

        Returns:
            (N, CELLS, CELLS) log-density.
        """
        inside = masks.to(content.dtype)
        content = content - (content * inside).sum((1, 2), keepdim=True) / inside.sum((1, 2), keepdim=True)
        fine, coarse = (self._blurred(content, inside, blur) for blur in self.blurs)
        weights = torch.exp(_deviations(self.bands))[sets][..., None, None]  # (N, 3, 1, 1)
        log_density = weights[:, 0] * (content - fine) + weights[:, 1] * (fine - coarse) + weights[:, 2] * coarse
        log_density = log_density + self._centre_bias(masks, windows, sets)
        density = log_density.masked_fill(~masks, _MASKED).flatten(1).softmax(1).view_as(content)
        blurred_share, uniform_share = torch.sigmoid(self.noise[sets]).T[..., None, None]
        density = density + blurred_share * (self._blurred(density, inside, self.blurs[0]) - density)
        uniform = inside / inside.sum((1, 2), keepdim=True)
        density = density + uniform_share * (uniform - density)
        return torch.log(density.clamp_min(1e-12))

    def _centre_bias(self, masks: Tensor, windows: Tensor, sets: Tensor) -> Tensor:
        """The centre bias of each photograph's set on its cells, nats: (N, CELLS, CELLS)."""
        left, top, width, height = windows.T[..., None]  # (N, 1) each
        place = torch.arange(CELLS, device=masks.device) + 0.5
        columns = masks.any(1).sum(1, keepdim=True)  # (N, 1) cells across the photograph
        rows = masks.any(2).sum(1, keepdim=True)
        u = (left + width * place / columns)[:, None, :].square()  # (N, 1, CELLS), squared: bias has no side
        v = (top + height * place / rows)[:, :, None]  # (N, CELLS, 1)
        one = torch.ones_like(u * v)
        basis = torch.stack([u * one, v * one, v**2 * one, u**2 * one, v**4 * one, u * v**2], 1)  # (N, 6, CELLS, CELLS)
        return (_deviations(self.centre)[sets][..., None, None] * basis).sum(1)

    def _blurred(self, values: Tensor, inside: Tensor, blur: Tensor) -> Tensor:
        """Values (N, CELLS, CELLS) blurred inside the photographs."""
        share = (blur @ inside @ blur).clamp_min(1e-6)
        return (blur @ (values * inside) @ blur) / share * inside


def _deviations(parameters: Tensor) -> Tensor:
    return parameters - parameters.mean(0, keepdim=True)


def _gaussian(sigma: float) -> Tensor:
    """A symmetric matrix (CELLS, CELLS) that blurs along one side."""
    place = torch.arange(CELLS, dtype=torch.float32)
    return torch.exp(-0.5 * ((place[:, None] - place[None]) / sigma) ** 2)


def in_planes(content: Tensor, grids: Tensor) -> Tensor:
    """Content on panoramas, looked up bilinearly on the cells of photographs.

    Args:
        content: (B, h, w), log-density per solid angle.
        grids: (B, K, CELLS, CELLS, 2), column and row on the map of each cell's middle; integers are pixel centres.

    Returns:
        (B, K, CELLS, CELLS).
    """
    height, width = content.shape[1:]
    padded = torch.cat([content[..., -1:], content, content[..., :1]], dim=-1)[:, None]  # (B, 1, h, w + 2)
    x = 2 * (torch.remainder(grids[..., 0] + 0.5, width) + 1) / (width + 2) - 1
    y = 2 * (grids[..., 1] + 0.5) / height - 1
    places = torch.stack([x, y], -1).flatten(1, 2)  # (B, K · CELLS, CELLS, 2)
    found = nn.functional.grid_sample(padded, places, mode="bilinear", padding_mode="border", align_corners=False)
    return found[:, 0].view(grids.shape[:4])
