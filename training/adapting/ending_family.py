"""The endings among which `training.adapt` chooses: from content to density with some twenty numbers of known meaning.

    density ∝ [(1 − floor) · blur(softmax(Σ weight · scale / temperature)) + floor] · prior(elevation) · bias(longitude)

The scales are bands of the content, fine, middle and coarse, which add up to it. The logarithm of the prior is that of
the model's own prior times a strength, plus cosines of the colatitude, which are smooth across the poles. The bias, if
there is one, has sines and cosines of the longitude.

Every number is a deviation from the model's own, so that zeros are the model itself. A normal distribution of each
holds it there unless gaze says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from training.models.prior import row_weights
from training.models.saliency_model import blur_matrices, density_of_content

SCALES_DEG = (4.0, 16.0)
"""Standard deviations of the blurs that divide the content into scales, degrees."""
_ELEVATION_WAVES, _LONGITUDE_WAVES = 6, 4
_MIN_BLUR_DEG, _MAX_BLUR_DEG = 0.5, 30.0
_MIN_FLOOR, _MAX_FLOOR = 0.01, 0.9

_DEVIATIONS = {
    "temperature": [0.5],  # logarithm
    "scales": [0.25, 0.25],  # logarithms of the weights of the fine and of the coarse scale
    "blur": [1.0],  # logarithm
    "floor": [1.5],  # logit
    "strength": [0.5],
    "elevation": [1 / order**2 for order in range(1, 1 + _ELEVATION_WAVES)],  # nats; slow waves before fast ones
    "longitude": [1 / order**2 for order in range(1, 1 + _LONGITUDE_WAVES) for _ in ("cosine", "sine")],
}
"""The numbers of an ending, and the standard deviations of their distributions."""


@dataclass(frozen=True)
class EndingNumbers:
    """An ending in numbers that people can read."""

    temperature: float
    """Divides the content."""
    blur_deg: float
    """Standard deviation of the blur of the content's density, degrees."""
    floor: float
    """Share of a uniform density before the prior."""
    prior_log_rows: tuple[float, ...] = ()
    """What the prior adds to the log-density of each row, nats: (h,); empty: no prior."""
    longitude_log_columns: tuple[float, ...] = ()
    """What the longitude bias adds to the log-density of each column, nats: (w,); empty: no bias."""
    scale_weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Weights of the fine, middle and coarse scale of the content."""


class EndingFamily:
    """All endings that differ from a model's own in the numbers that are fitted.

    Args:
        map_size: rows and columns of the map.
        own: the model's own ending.
        longitude: whether endings have a longitude bias.
    """

    def __init__(self, map_size: tuple[int, int], own: EndingNumbers, *, longitude: bool) -> None:
        self.map_size, self.own = map_size, own
        height, width = map_size
        self._row_weights = row_weights(height)
        self._own_rows = torch.tensor(own.prior_log_rows or (0.0,) * height)
        colatitude = math.pi * (torch.arange(height) + 0.5) / height
        self._elevation_waves = torch.stack([torch.cos(n * colatitude) for n in range(1, 1 + _ELEVATION_WAVES)], 1)
        angle = 2 * math.pi * (torch.arange(width) + 0.5) / width - math.pi  # 0 in the middle of the picture
        waves = [wave(n * angle) for n in range(1, 1 + _LONGITUDE_WAVES) for wave in (torch.cos, torch.sin)]
        self._longitude_waves = torch.stack(waves, 1)
        names = [name for name in _DEVIATIONS if longitude or name != "longitude"]
        self._places: dict[str, slice] = {}
        for name in names:
            first = max((place.stop for place in self._places.values()), default=0)
            self._places[name] = slice(first, first + len(_DEVIATIONS[name]))
        self.deviations = torch.tensor([each for name in names for each in _DEVIATIONS[name]])
        """Standard deviations of the numbers of an ending, (p,); each has mean 0."""

    def coarser(self, factor: int) -> EndingFamily:
        """The same endings on a grid with fewer rows and columns by a factor."""
        height, width = self.map_size[0] // factor, self.map_size[1] // factor
        rows = self._own_rows.view(height, factor).mean(1)
        own = replace(self.own, prior_log_rows=tuple(rows.tolist()))
        return EndingFamily((height, width), own, longitude="longitude" in self._places)

    def places(self, names: Sequence[str]) -> list[int]:
        """Indices of the numbers with these names; names that this family does not have are left out."""
        return [index for name in names if name in self._places for index in range(*self._places[name].indices(99))]

    def scales(self, content: Tensor) -> Tensor:
        """Content (B, h, w) → its scales (3, B, h, w), fine to coarse."""
        middle, coarse = (rows @ content @ columns for rows, columns in scale_blurs(self.map_size))
        return torch.stack([content - middle, middle - coarse, coarse])

    def density(self, scales: Tensor, numbers: Tensor) -> Tensor:
        """Scales (3, B, h, w) and the numbers of an ending (p,) → density (B, h, w)."""
        content = torch.tensordot(self._scale_weights(numbers), scales, dims=1)
        return density_of_content(
            content,
            row_weights=self._row_weights,
            temperature=self._temperature(numbers),
            blur=blur_matrices(*self.map_size, self._blur_deg(numbers)),
            floor=self._floor(numbers),
            log_prior=self._log_rows(numbers)[:, None] + self._log_columns(numbers),
        )

    def read(self, numbers: Tensor) -> EndingNumbers:
        """The numbers of an ending (p,) as people read them."""
        fine, middle, coarse = self._scale_weights(numbers).tolist()
        return EndingNumbers(
            temperature=float(self._temperature(numbers)),
            blur_deg=float(self._blur_deg(numbers)),
            floor=float(self._floor(numbers)),
            prior_log_rows=tuple(self._log_rows(numbers).tolist()),
            longitude_log_columns=tuple(self._log_columns(numbers).tolist()) if "longitude" in self._places else (),
            scale_weights=(fine, middle, coarse),
        )

    def _of(self, name: str, numbers: Tensor) -> Tensor:
        return numbers[self._places[name]]

    def _temperature(self, numbers: Tensor) -> Tensor:
        return self.own.temperature * torch.exp(self._of("temperature", numbers)[0])

    def _scale_weights(self, numbers: Tensor) -> Tensor:
        fine, coarse = torch.exp(self._of("scales", numbers))
        return torch.stack([fine, torch.ones(()), coarse])

    def _blur_deg(self, numbers: Tensor) -> Tensor:
        own = max(self.own.blur_deg, _MIN_BLUR_DEG)
        return (own * torch.exp(self._of("blur", numbers)[0])).clamp(_MIN_BLUR_DEG, _MAX_BLUR_DEG)

    def _floor(self, numbers: Tensor) -> Tensor:
        own = min(max(self.own.floor, _MIN_FLOOR), _MAX_FLOOR)
        return torch.sigmoid(math.log(own / (1 - own)) + self._of("floor", numbers)[0])

    def _log_rows(self, numbers: Tensor) -> Tensor:
        strength = 1 + self._of("strength", numbers)
        return strength * self._own_rows + self._elevation_waves @ self._of("elevation", numbers)

    def _log_columns(self, numbers: Tensor) -> Tensor:
        if "longitude" not in self._places:
            return torch.zeros(1)
        return self._longitude_waves @ self._of("longitude", numbers)


def scale_blurs(map_size: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
    """The blurs that divide content into scales, each as from `blur_matrices`."""
    return [blur_matrices(*map_size, sigma_deg) for sigma_deg in SCALES_DEG]


class FixedEnding(nn.Module):
    """One ending, as it is written into a file: from content (B, h, w) to density (B, h, w).

    Args:
        map_size: rows and columns of the map.
        numbers: the ending.
    """

    def __init__(self, map_size: tuple[int, int], numbers: EndingNumbers) -> None:
        super().__init__()
        self.numbers = numbers
        height, width = map_size
        fine, middle, coarse = numbers.scale_weights
        self.weights = (fine, middle - fine, coarse - middle)
        self.scale_blurs = scale_blurs(map_size) if any(self.weights[1:]) else []
        self.row_weights = row_weights(height)
        self.blur = blur_matrices(height, width, numbers.blur_deg) if numbers.blur_deg else None
        log_prior = torch.tensor(numbers.prior_log_rows or (0.0,) * height)[:, None]
        if numbers.longitude_log_columns:
            log_prior = log_prior + torch.tensor(numbers.longitude_log_columns)
        self.log_prior = log_prior

    def forward(self, content: Tensor) -> Tensor:
        """Content (B, h, w) → density (B, h, w)."""
        weighted = self.weights[0] * content
        for weight, (rows, columns) in zip(self.weights[1:], self.scale_blurs, strict=False):
            weighted = weighted + weight * (rows @ content @ columns)
        return density_of_content(
            weighted,
            row_weights=self.row_weights,
            temperature=self.numbers.temperature,
            blur=self.blur,
            floor=self.numbers.floor,
            log_prior=self.log_prior,
        )
