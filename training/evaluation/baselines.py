"""What one knows without a model: chance, the equator, the mean of other pictures, classical saliency."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from tqdm import tqdm

from sal360.density import nearest_index, resize_map
from sal360.errors import DataError
from sal360.ground_truth import GazeRecord
from sal360.sphere import Array, vector_to_angles
from training.evaluation.classical import boolean_map_saliency, spectral_residual
from training.models.prior import equator_log_rows

Predict = Callable[[Array], Array]
"""A panorama (H, W, 3) uint8 RGB to a map (h, w), not negative, of any scale."""
_HEIGHT = 256


@dataclass(frozen=True)
class Laplace:
    """An equator prior: gaze density exp(−|elevation − mean| / scale), relative to uniform on the sphere."""

    mean_deg: float
    scale_deg: float

    def density(self, height: int) -> Array:
        """The prior as a map (height, 2 · height) float64, solid-angle-weighted mean 1."""
        rows = np.exp(equator_log_rows(height, mean_deg=self.mean_deg, scale_deg=self.scale_deg).double().numpy())
        return np.repeat(rows, 2 * height, axis=1)


def fit_laplace(elevation_rad: Array, seen: Array | None = None) -> Laplace:
    """The most likely `Laplace` of fixations at these elevations (n,), n > 0.

    It is the density per solid angle that is a Laplace, so its integral over the sphere, which has less room near the
    poles, takes part in the fit: the scale is larger than the mean absolute deviation.

    Args:
        elevation_rad: of the fixations.
        seen: (h,) share of each row of the sphere, from the top, in which fixations could lie; None is all of it.
    """
    elevation_deg = np.degrees(elevation_rad)
    height = 1800 if seen is None else len(seen)
    row_deg = 90 - 180 * (np.arange(height) + 0.5) / height
    room = np.cos(np.radians(row_deg)) * (1 if seen is None else seen)

    def surprise(parameters: Array) -> float:
        mean, scale = parameters[0], math.exp(parameters[1])
        integral = float((np.exp(-np.abs(row_deg - mean) / scale) * room).sum())
        return float(np.abs(elevation_deg - mean).mean()) / scale + math.log(integral)

    start = np.array([np.median(elevation_deg), math.log(max(np.abs(elevation_deg).mean(), 1.0))])
    # within [1, 1000] degrees: beyond, the fixations are a point or as good as uniform
    found = minimize(surprise, start, method="Nelder-Mead", bounds=[(-90, 90), (0, math.log(1000))]).x
    return Laplace(float(found[0]), math.exp(found[1]))


@dataclass(frozen=True)
class Priors:
    """What the training part alone says."""

    laplace: Laplace
    mean_map: Array | None
    """Mean density, (256, 512) float64; None if the records have no densities."""


def fit_priors(records: Sequence[GazeRecord], limit: int) -> Priors:
    """Fit the priors to at most `limit` records, evenly out of all.

    Raises:
        DataError: there is no fixation in them, or one is broken.
    """
    chosen = np.unique(np.linspace(0, len(records) - 1, min(limit, len(records))).astype(int))
    elevations, seen = [], np.zeros(_HEIGHT)
    total, densities = np.zeros((_HEIGHT, 2 * _HEIGHT)), 0
    for index in tqdm(chosen, desc="priors", unit="record", leave=False):
        record = records[index]
        elevations.append(vector_to_angles(record.fixations)[1])
        valid = np.ones((1, 1), bool) if record.valid is None else record.valid
        seen += valid.mean(axis=1)[nearest_index(len(valid), _HEIGHT)]
        if record.density is not None:
            total += resize_map(record.density, _HEIGHT, 2 * _HEIGHT)
            densities += 1
    elevation = np.concatenate(elevations)
    if len(elevation) == 0:
        raise DataError(
            "the training part has no fixation", "choose another split", expected="some to fit the equator prior to"
        )
    return Priors(fit_laplace(elevation, seen), total / densities if densities else None)


def open_baselines(names: Sequence[str], priors: Priors) -> dict[str, Predict]:
    """Those of the names that predict from a panorama; "mean" needs a mean map."""
    equator = priors.laplace.density(_HEIGHT)
    known: dict[str, Predict] = {
        "uniform": lambda _: np.ones((2, 4)),
        "equator": lambda _: equator,
        "spectral_residual": spectral_residual,
        "bms360": boolean_map_saliency,
    }
    if priors.mean_map is not None:
        mean_map = priors.mean_map
        known["mean"] = lambda _: mean_map
    return {name: known[name] for name in names if name in known}
