"""Baselines without a trained model: uniform, equator prior, mean map of other pictures, classical saliency."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from tqdm import tqdm

from sal360.arrays import Density, Floats, Pixels, Reals
from sal360.density import nearest_index
from sal360.errors import DataError
from sal360.ground_truth import GazeRecord
from sal360.sphere import solid_angles, vector_to_angles
from training.data.gaze.photographs import Photograph, PlacedPhotograph
from training.data.gaze.records import mean_over_cells, spread
from training.evaluation.classical import boolean_map_saliency, spectral_residual
from training.evaluation.photographs import centre_prior
from training.evaluation.predictions import Predict
from training.evaluation.view_saliency import gbvs360, prosal, with_equatorial_prior
from training.models.prior import log_laplace, row_elevations_deg
from training.processes import in_threads

_HEIGHT = 256
PRIOR_LIMIT = 500
"""Maximum number of records to which priors are fitted, unless set otherwise."""


@dataclass(frozen=True)
class Laplace:
    """An equator prior: gaze per degree of latitude falls off as exp(−|elevation − mean| / scale)."""

    mean_deg: float
    scale_deg: float

    def density(self, height: int) -> Floats:
        """The prior as a map (height, 2 · height) with solid-angle-weighted mean 1."""
        area = solid_angles(height, 1)  # (height, 1)
        rows = np.exp(_log_laplace(row_elevations_deg(height)[:, None], self.mean_deg, self.scale_deg))
        return np.repeat(rows * area.sum() / (rows * area).sum(), 2 * height, axis=1)


def fit_laplace(elevation_rad: Floats, seen: Floats | None = None, weight: Floats | None = None) -> Laplace:
    """The maximum-likelihood `Laplace` of fixations.

    Args:
        elevation_rad: elevations of the fixations (n,), n > 0.
        weight: (n,) how much each counts, such as the gaze in the rows of a map; None: all the same.
        seen: (h,) share of each row of the sphere, from the top, in which fixations could lie; None: everywhere.
    """
    elevation_deg = np.degrees(elevation_rad)
    height = 1800 if seen is None else len(seen)
    row_deg = row_elevations_deg(height)
    area = np.cos(np.radians(row_deg)) * (1 if seen is None else seen)

    def negative_log_likelihood(parameters: Floats) -> float:
        mean, scale = parameters[0], math.exp(parameters[1])
        integral = float((np.exp(_log_laplace(row_deg, mean, scale)) * area).sum())
        return math.log(integral) - float(np.average(_log_laplace(elevation_deg, mean, scale), weights=weight))

    middle = np.median(elevation_deg) if weight is None else np.average(elevation_deg, weights=weight)
    start = np.array([middle, math.log(max(np.average(np.abs(elevation_deg), weights=weight), 1.0))])
    # scales in [1, 1000] degrees: beyond, the fixations are a single point or practically uniform
    found = minimize(negative_log_likelihood, start, method="Nelder-Mead", bounds=[(-89, 89), (0, math.log(1000))]).x
    return Laplace(float(found[0]), math.exp(found[1]))


def _log_laplace(elevation_deg: Floats, mean_deg: float, scale_deg: float) -> Floats:
    return np.asarray(log_laplace(torch.from_numpy(elevation_deg), mean_deg, scale_deg).numpy())


@dataclass(frozen=True)
class Priors:
    """Priors fitted to the training part."""

    laplace: Laplace
    mean_map: Floats | None
    """Mean density, (256, 512); None if the records have no densities."""
    centre: Density | None = None
    """Mean density over photographs, in their plane; None for panoramas."""

    @property
    def of_picture(self) -> Reals:
        """What is known of the gaze on a picture without looking at it: the centre prior or the equator prior."""
        return self.laplace.density(_HEIGHT) if self.centre is None else self.centre


def fit_priors(records: Sequence[GazeRecord], limit: int) -> Priors:
    """Fit the priors to at most `limit` records, spread evenly over all; without fixations, to their densities.

    Raises:
        DataError: the records have neither fixations nor densities, or one is broken.
    """
    chosen = spread(len(records), limit)
    elevations, photographs, seen = [], [], np.zeros(_HEIGHT)
    total, densities = np.zeros((_HEIGHT, 2 * _HEIGHT)), 0
    parts = in_threads(len(chosen), lambda number: _of_record(records[chosen[number]]))
    for part in tqdm(parts, "priors", len(chosen), unit="record", leave=False, disable=None):
        elevations.append(part.elevation)
        seen += part.seen
        if part.density is not None:
            total += part.density
            densities += 1
        if part.photograph is not None:
            photographs.append(part.photograph)
    elevation, weight = np.concatenate(elevations), None
    if len(elevation) == 0 and densities:
        elevation = np.radians(row_elevations_deg(_HEIGHT))
        weight = (total * solid_angles(*total.shape)).sum(axis=1)
    if len(elevation) == 0:
        raise DataError(
            "the training part has no fixations and no maps, so no equator prior can be fitted",
            "check the gaze files below --data.root, or set another --data.fold",
        )
    mean_map = total / densities if densities else None
    return Priors(fit_laplace(elevation, seen, weight), mean_map, centre_prior(photographs) if photographs else None)


class _OfRecord(NamedTuple):
    """What priors need of a record."""

    elevation: Floats
    """(n,) of the fixations, radians."""
    seen: Floats
    """(256,) share of each row that is valid."""
    density: Density | None
    """(256, 512)"""
    photograph: Photograph | None


def _of_record(record: GazeRecord) -> _OfRecord:
    valid = np.ones((1, 1), bool) if record.valid is None else record.valid
    return _OfRecord(
        vector_to_angles(record.fixations)[1],
        valid.mean(axis=1)[nearest_index(len(valid), _HEIGHT)],
        None if record.density is None else mean_over_cells(record.density, _HEIGHT, 2 * _HEIGHT),
        record.photograph if isinstance(record, PlacedPhotograph) else None,
    )


def open_baselines(names: Sequence[str], priors: Priors, *, equatorial_prior: bool = False) -> dict[str, Predict]:
    """The baselines in `names` that predict from a panorama, by name; "mean" only with a mean map.

    Args:
        names: their names.
        priors: priors fitted to the training part.
        equatorial_prior: whether bms360, prosal and gbvs360 have their authors' prior.
    """
    equator = priors.laplace.density(_HEIGHT)
    known: dict[str, Predict] = {
        "uniform": lambda _: np.ones((2, 4)),
        "equator": lambda _: equator,
        "spectral_residual": spectral_residual,
    }
    for name, predict in (("bms360", boolean_map_saliency), ("prosal", prosal), ("gbvs360", gbvs360)):
        known[name] = partial(_with_prior, predict) if equatorial_prior else predict
    if priors.mean_map is not None:
        mean_map = priors.mean_map
        known["mean"] = lambda _: mean_map
    return {name: known[name] for name in names if name in known}


def _with_prior(predict: Callable[[Pixels], Floats], panorama: Pixels) -> Floats:
    return with_equatorial_prior(predict(panorama))
