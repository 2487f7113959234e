"""Measures how well a model predicts gaze on plain photographs of any data set, in each photograph's plane.

Photographs are placed on a grey panorama with no change except their size, their longer side 384 or 192 pixels wide at
768 columns, several on a panorama as far as there is room. NSS, AUC and information gain use the fixations themselves;
CC and KLD the density, blurred with σ = .03 of the longer side. Information gain is over the centre prior of the
photographs' own data set, bits per fixation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from sal360.arrays import Density, Floats, Pixels
from sal360.metrics import auc_judd
from training.data.gaze.mixed_photographs import Parts
from training.data.gaze.photographs import Photograph
from training.evaluation.photographs import (
    LONG_SIDE,
    centre_prior,
    count_in_plane,
    measure_in_plane,
    to_plane,
)
from training.evaluation.scoring import gain_over

FIGURES = ("nss", "cc", "kld", "auc", "information_gain")
_GREY = 114
_MIN_DENSITY = 1e-3
"""Relative to uniform: lower limit of a density before its logarithm is taken."""
_PRIOR_PHOTOGRAPHS = 400


class _Place(NamedTuple):
    """A flat photograph, pixels of the panorama."""

    left: int
    top: int
    width: int
    height: int


def measure_set(
    predict: Callable[[Pixels], Density],
    photographs: Sequence[Photograph],
    prior: Density,
    height: int,
    long_side_px: int,
) -> Floats:
    """The `FIGURES` of each photograph, (n, 5); NaN where photographs have no fixations.

    Args:
        predict: panoramas (1, H, 2H, 3) RGB → densities (1, h, 2h).
        photographs: at least one.
        prior: centre prior of the data set, (h, w).
        height: rows of the panoramas.
        long_side_px: longer side of the photographs on them, at most `height`.
    """
    figures = []
    for group in _groups(photographs, height, long_side_px):
        frame, _, places = lay_out(group, height, long_side_px)
        density = predict(frame[None])[0]
        for photograph, place in zip(group, places, strict=True):
            figures.append(figures_in_plane(_cut(density, place, height, photograph), photograph, prior))
    return np.array(figures)


def mean_figures(scores: Floats) -> dict[str, float]:
    """Means over photographs of scores (n, 5), by the names in `FIGURES`; without those that no photograph has."""
    columns = {name: column[np.isfinite(column)] for name, column in zip(FIGURES, scores.T, strict=True)}
    return {name: float(column.mean()) for name, column in columns.items() if len(column)}


def _groups(photographs: Sequence[Photograph], height: int, long_side_px: int) -> Iterator[Sequence[Photograph]]:
    together = (height // long_side_px) * (2 * height // long_side_px)
    for first in range(0, len(photographs), together):
        yield photographs[first : first + together]


def lay_out(photographs: Sequence[Photograph], height: int, long_side_px: int) -> tuple[Pixels, Density, list[_Place]]:
    """Photographs on a grey panorama (height, 2 · height, 3), their gaze on it, (height, 2 · height), and places."""
    frame = np.full((height, 2 * height, 3), _GREY, np.uint8)
    truth = np.zeros((height, 2 * height), np.float32)
    across, places = 2 * height // long_side_px, []
    for i, photograph in enumerate(photographs):
        rows, columns = photograph.size(long_side_px)
        down, right = divmod(i, across)
        place = _Place(
            right * long_side_px + (long_side_px - columns) // 2,
            down * long_side_px + (long_side_px - rows) // 2,
            columns,
            rows,
        )
        where = slice(place.top, place.top + rows), slice(place.left, place.left + columns)
        picture = photograph.read(long_side_px)  # smaller ones are enlarged
        frame[where] = cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_LINEAR)
        truth[where] = photograph.density(long_side_px)
        places.append(place)
    return frame, truth, places


def _cut(density: Density, place: _Place, height: int, photograph: Photograph) -> Density:
    """The part of a map (h, 2h) of a panorama of `height` rows on a photograph, looked up in the photograph's plane."""
    rows, columns = photograph.size(LONG_SIDE)
    scale = density.shape[0] / height
    x = (place.left + (np.arange(columns) + 0.5) * place.width / columns) * scale - 0.5
    y = (place.top + (np.arange(rows) + 0.5) * place.height / rows) * scale - 0.5
    map_x, map_y = np.meshgrid(x.astype(np.float32), y.astype(np.float32))
    found = cv2.remap(density.astype(np.float32), map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found, np.float32)


def figures_in_plane(saliency_map: Density, photograph: Photograph, prior: Density) -> list[float]:
    """The `FIGURES` of a planar map (h, w) of any size, which is a density of any scale, against one photograph."""
    in_plane = to_plane(saliency_map, photograph)
    figures = list(measure_in_plane(in_plane, photograph))
    counts = count_in_plane(photograph)
    if not counts.any():
        return [*figures, math.nan, math.nan]
    gain = gain_over(in_plane, to_plane(prior, photograph), counts, np.ones((len(in_plane), 1)), _MIN_DENSITY)
    return [*figures, auc_judd(in_plane, counts, weights=None), gain]


def measure_people(photograph: Photograph, prior: Density) -> list[float]:
    """The `FIGURES` of half of the people by the density of the other half, both ways; NaN with fewer than two people.

    A bound that models can reach.
    """
    people = np.unique(photograph.subject)
    if len(people) < 2:
        return [math.nan] * len(FIGURES)
    ways = []
    for half in (people[::2], people[1::2]):
        others = photograph.density(LONG_SIDE, subjects=np.setdiff1d(people, half).tolist())
        ways.append(figures_in_plane(others, photograph.seen_by(half), prior))
    return [float(each) for each in np.mean(ways, axis=0)]


def centre_prior_of(part: Parts) -> Density:
    """The centre prior of a data set, from photographs that are not measured, if there are any."""
    return centre_prior((part.training or part.measured)[:_PRIOR_PHOTOGRAPHS])
