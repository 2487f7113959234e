"""Measures how well a model predicts gaze on plain photographs of any data set, in each photograph's plane.

Photographs are placed on a grey panorama with no change except their size, their longer side 384 or 192 pixels wide at
768 columns, several on a panorama as far as there is room. The figures are those of `scoring.planar_protocol`, in the
pixels of the stored photograph, as `training.evaluate` computes them. Information gain is over the centre prior of the
photographs' own data set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from sal360.arrays import Density, Floats, Pixels
from training.data.gaze.mixed_photographs import Parts
from training.data.gaze.photographs import Photograph
from training.data.gaze.records import evenly
from training.evaluation.baselines import PRIOR_LIMIT
from training.evaluation.photographs import centre_prior, count_in_plane, to_plane
from training.evaluation.predictions import PictureTruth
from training.evaluation.scoring import COLUMNS, planar_protocol
from training.processes import in_shares

_GREY = 114


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
    *,
    measured_px: int | None = None,
) -> Floats:
    """The figures of each photograph in the order of `COLUMNS`, (n, 6); NaN where photographs have no fixations.

    All training processes compute them together.

    Args:
        predict: panoramas (1, H, 2H, 3) RGB → densities (1, h, 2h).
        photographs: at least one.
        prior: centre prior of the data set, (h, w).
        height: rows of the panoramas.
        long_side_px: longer side of the photographs on them, at most `height`.
        measured_px: longer side of the plane in which they are measured; None: that of the stored photograph.
    """
    groups = list(_groups(photographs, height, long_side_px))

    def measure(number: int) -> list[list[float]]:
        frame, _, places = lay_out(groups[number], height, long_side_px)
        density = predict(frame[None])[0]
        figures = []
        for photograph, place in zip(groups[number], places, strict=True):
            in_plane = _cut(density, place, height, photograph.size(measured_px))
            figures.append(figures_in_plane(in_plane, photograph, prior, measured_px))
        return figures

    return np.array([figures for group in in_shares(len(groups), measure, "measure") for figures in group])


def mean_figures(scores: Floats) -> dict[str, float]:
    """Means over photographs of scores (n, 6), by the names in `COLUMNS`; without those that no photograph has."""
    columns = {name: column[np.isfinite(column)] for name, column in zip(COLUMNS, scores.T, strict=True)}
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


def _cut(density: Density, place: _Place, height: int, size: tuple[int, int]) -> Density:
    """The part of a map (h, 2h) of a panorama of `height` rows on a photograph, looked up in a plane of this size."""
    rows, columns = size
    scale = density.shape[0] / height
    x = (place.left + (np.arange(columns) + 0.5) * place.width / columns) * scale - 0.5
    y = (place.top + (np.arange(rows) + 0.5) * place.height / rows) * scale - 0.5
    map_x, map_y = np.meshgrid(x.astype(np.float32), y.astype(np.float32))
    found = cv2.remap(density.astype(np.float32), map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found, np.float32)


def figures_in_plane(
    saliency_map: Density, photograph: Photograph, prior: Density, measured_px: int | None = None
) -> list[float]:
    """The figures of a planar map (h, w), a density of any size and scale, against a photograph; see `measure_set`."""
    truth = PictureTruth(count_in_plane(photograph, measured_px), photograph.density(measured_px))
    in_plane, baseline = (to_plane(each, photograph, measured_px) for each in (saliency_map, prior))
    figures = planar_protocol(in_plane, truth, baseline)
    return [figures.get(name, math.nan) for name in COLUMNS]


def measure_people(photograph: Photograph, prior: Density) -> list[float]:
    """The figures of half of the people by the density of the other half, both ways; NaN with fewer than two people.

    A bound that models can reach.
    """
    people = np.unique(photograph.subject)
    if len(people) < 2:
        return [math.nan] * len(COLUMNS)
    halves = [photograph.seen_by(half) for half in (people[::2], people[1::2])]
    ways = [figures_in_plane(by.density(), of, prior) for by, of in (halves, halves[::-1])]
    return [float(each) for each in np.mean(ways, axis=0)]


def centre_prior_of(part: Parts, limit: int = PRIOR_LIMIT) -> Density:
    """The centre prior of a data set, from photographs that are not measured, if there are any; at most `limit`."""
    photographs = sorted(part.training or part.measured, key=lambda each: each.name)
    return centre_prior(evenly(photographs, limit))
