"""Where people look in headsets regardless of the picture: by latitude and by longitude, beside the priors."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize
from tqdm import tqdm

from sal360.arrays import Floats
from sal360.errors import DataError
from sal360.ground_truth import GazeRecord, count_fixations
from sal360.predictor import add_front_prior
from sal360.sphere import erp_directions, solid_angles
from training.analysis.results import ENCODER_COLOURS, new_figure, write_results
from training.config import option_names, require, require_at_least, require_path, require_seed
from training.data.gaze.datasets import DATASETS, GazeConfig, open_gaze
from training.data.gaze.records import mean_over_cells
from training.data.gaze.scenes import scene_numbers
from training.evaluation.baselines import Laplace, fit_laplace
from training.evaluation.summary import markdown, number
from training.models.prior import LAPLACE_MEAN_DEG, LAPLACE_SCALE_DEG, row_elevations_deg

_GRID = (90, 180)
"""Rows and columns on which gaze is counted, 2° each."""
_PANORAMA_ROWS = 64
_PUBLISHED = Laplace(LAPLACE_MEAN_DEG, LAPLACE_SCALE_DEG)


@dataclass(frozen=True)
class ViewingBiasConfig:
    """Where people look in headsets regardless of the picture: by latitude and longitude, beside the priors."""

    root: str
    """Folder with a subfolder or link for each data set, named like it."""
    output: str
    """Folder for bias.csv and bias.png."""
    sets: tuple[str, ...] = ("ceap", "avtrack", "rcqoea", "nasrabadi", "pavs10k")
    """Names of data sets of panoramas; docs/reproduce.md has a table of them."""
    scenes: dict[str, str] = field(default_factory=dict)
    """For some of the sets, a CSV file with the columns name and scene: '{nasrabadi: scenes.csv}'."""
    draws: int = 500
    """Number of bootstrap samples of scenes for the 95 % intervals."""
    seed: int = 0
    """Seed of the bootstrap."""

    def __post_init__(self) -> None:
        require_path("root", self.root, "the folder of the data sets")
        require_path("output", self.output, "a folder")
        known = [name for name, row in DATASETS.items() if row.photographs is None]
        some = len(self.sets) > 0 and set(self.sets) <= set(known)
        require("sets", self.sets, some, f"one or more of {', '.join(known)}")
        require("scenes", self.scenes, set(self.scenes) <= set(self.sets), "tables only for the sets that are read")
        require_at_least("draws", self.draws, 1)
        require_seed("seed", self.seed)


class Gaze(NamedTuple):
    """The gaze of one data set or of several, by scene."""

    name: str
    shows: str
    """stills, videos, or empty if that is not known."""
    records: int
    mass: Floats
    """(scenes, rows, columns): share of a scene's gaze in each cell; the records of a scene count the same."""


# --- reading ---


def read_gaze(name: str, root: str | Path, scenes: str = "") -> Gaze:
    """All gaze of a data set.

    Raises:
        DataError: it is missing or malformed, or has no gaze.
    """
    with option_names("data"):
        config = GazeConfig(root=str(Path(root) / name), dataset=name, folds=2, scenes=scenes)
        split = open_gaze(config, _PANORAMA_ROWS)
    parts = (split.training, split.measuring)
    places = [(part, i) for part in parts for i in range(len(part))]
    known = [scene for part in parts for scene in part.scenes]
    scene = scene_numbers(known, lambda i: places[i][0][places[i][1]].panorama())
    if "" in known:
        found = f"{known.count('')} of {len(known)} records look like {int(scene.max()) + 1} scenes"
        print(f"{name}: {found}; --scenes says it exactly", file=sys.stderr)
    mass, count = np.zeros((int(scene.max()) + 1, *_GRID)), np.zeros(int(scene.max()) + 1)
    for (part, i), at in zip(tqdm(places, desc=name, unit="record", disable=None), scene, strict=True):
        share = gaze_share(part[i])
        if share is not None:
            mass[at] += share
            count[at] += 1
    if not count.any():
        raise DataError(f"{name} has no gaze", "check its files: python -m training.data.check")
    seen = count > 0
    return Gaze(name, DATASETS[name].shows, int(count.sum()), mass[seen] / count[seen, None, None])


def gaze_share(record: GazeRecord) -> Floats | None:
    """The share of a record's gaze in each cell, of its fixations or else of its density; None without gaze."""
    if len(record.fixations):
        found = count_fixations(record.fixations, *_GRID).astype(np.float64)
    elif record.density is not None:
        found = mean_over_cells(record.density, *_GRID) * solid_angles(*_GRID)
    else:
        return None
    return np.asarray(found / found.sum())


def pooled(gaze: Sequence[Gaze]) -> Iterator[Gaze]:
    """The data sets, and those of stills and those of videos together, where there are several."""
    yield from gaze
    for shows in ("stills", "videos"):
        of_kind = [each for each in gaze if each.shows == shows]
        if len(of_kind) > 1:
            records = sum(each.records for each in of_kind)
            yield Gaze(f"all {shows}", shows, records, np.concatenate([each.mass for each in of_kind]))


# --- fits ---


def fit_latitude(mass: Floats) -> Laplace:
    """The Laplace density per degree of latitude that fits gaze (scenes, rows, columns); scenes count the same."""
    return fit_laplace(np.radians(row_elevations_deg(_GRID[0])), weight=mass.mean(axis=0).sum(axis=1))


def fit_front(mass: Floats) -> tuple[float, float]:
    """Height a and concentration c of the prior 1 + a · exp(c (cos θ − 1)) of the longitude at each latitude."""
    share = mass.mean(axis=0)

    def loss(logarithms: Floats) -> float:
        return -float((share * front_log_prior(*np.exp(logarithms))).sum())

    start = np.log([5.0, 5.0])
    height, concentration = np.exp(minimize(loss, start, method="Nelder-Mead", bounds=[(-5, 8), (-3, 6)]).x)
    return float(height), float(concentration)


def front_log_prior(height: float, concentration: float) -> Floats:
    """Logarithm of the prior on each cell, nats; its exponential has mean 1 over each row."""
    forward = erp_directions(*_GRID)[..., 0]
    prior = 1 + height * np.exp(concentration * (forward - 1))
    return np.asarray(np.log(prior / prior.mean(axis=1, keepdims=True)))


# --- the table ---


def bias_row(gaze: Gaze, draws: int, seed: int) -> dict[str, Any]:
    """What `analyse_bias` writes of one data set: fits and figures with their 95 % intervals over scenes."""
    own, front = fit_latitude(gaze.mass), fit_front(gaze.mass)
    published, shipped = _log_rows(_PUBLISHED), np.log(add_front_prior(np.ones(_GRID, np.float32), 1.0))
    of_rows = gaze.mass.sum(axis=2)  # (scenes, rows)
    row: dict[str, Any] = {"set": gaze.name, "shows": gaze.shows, "records": gaze.records, "scenes": len(gaze.mass)}
    fits = _drawn(gaze.mass, lambda mass: (*_of(fit_latitude(mass)), *fit_front(mass)), draws, seed)
    for i, (name, value) in enumerate(
        {**dict(zip(_FITTED[:2], _of(own), strict=True)), **dict(zip(_FITTED[2:], front, strict=True))}.items()
    ):
        row |= _with_interval(name, value, None if fits is None else fits[:, i])
    row |= {
        "nats_published": float((of_rows @ published).mean()),
        "nats_own": float((of_rows @ _log_rows(own)).mean()),
        "cc_published": _cc(of_rows.mean(axis=0), np.exp(published)),
    }
    figures = {
        "front_quarter": gaze.mass[:, :, 3 * _GRID[1] // 8 : 5 * _GRID[1] // 8].sum(axis=(1, 2)),
        "front_gain_nats": (gaze.mass * shipped).sum(axis=(1, 2)),
    }
    if len(gaze.mass) > 1:
        figures["own_gain_nats"] = _gain_left_out(gaze.mass, fit_latitude, _log_rows, of_rows @ published, of_rows)
        flat = gaze.mass.reshape(len(gaze.mass), -1)
        figures["own_front_gain_nats"] = _gain_left_out(
            gaze.mass, fit_front, lambda fitted: front_log_prior(*fitted).ravel(), np.zeros(len(flat)), flat
        )
    for name in _MEASURED:
        values = figures.get(name, np.array([math.nan]))
        row |= _with_interval(name, float(values.mean()), _drawn(values, np.mean, draws, seed))
    return row


_FITTED = ("mean_deg", "scale_deg", "front_height", "front_concentration")
_MEASURED = ("own_gain_nats", "front_quarter", "front_gain_nats", "own_front_gain_nats")


def _of(laplace: Laplace) -> tuple[float, float]:
    return laplace.mean_deg, laplace.scale_deg


def _log_rows(laplace: Laplace) -> Floats:
    """Logarithm of the density on each row, nats relative to uniform: (rows,)."""
    return np.asarray(np.log(laplace.density(_GRID[0])[:, 0]))


def _cc(share: Floats, density: Floats) -> float:
    """Correlation on the sphere of the density of gaze by rows, from its shares (rows,), and another (rows,)."""
    area = solid_angles(*_GRID)[:, 0]
    covariance = np.cov(share / area, density, aweights=area)
    return float(covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1]))


def _gain_left_out(
    mass: Floats, fit: Callable[[Floats], Any], log_prior: Callable[[Any], Floats], before: Floats, shares: Floats
) -> Floats:
    """Gain on each scene of a prior that is fitted to the others, nats per fixation: (scenes,).

    Args:
        before: (scenes,) log-likelihood of each scene with the prior that it is compared with.
        shares: (scenes, n), and `log_prior` of a fit (n,).
    """
    return np.array(
        [shares[i] @ log_prior(fit(np.delete(mass, i, axis=0))) - before[i] for i in range(len(mass))], np.float64
    )


def _drawn(scenes: Floats, figure: Callable[[Floats], Any], draws: int, seed: int) -> Floats | None:
    """`figure` of bootstrap samples of the scenes; None for one scene."""
    if len(scenes) < 2:
        return None
    indices = np.random.default_rng(seed).integers(len(scenes), size=(draws, len(scenes)))
    return np.array([figure(scenes[each]) for each in indices], np.float64)


def _with_interval(name: str, value: float, drawn: Floats | None) -> dict[str, float]:
    low, high = (math.nan, math.nan) if drawn is None else np.percentile(drawn, [2.5, 97.5]).tolist()
    return {name: value, f"{name}_low": low, f"{name}_high": high}


# --- the command ---


def analyse_bias(config: ViewingBiasConfig) -> None:
    """Fit gaze by latitude and longitude in each data set; print a table, write bias.csv and bias.png.

    Raises:
        DataError: a data set cannot be read.
        OSError: the results cannot be written.
    """
    gaze = list(pooled([read_gaze(name, config.root, config.scenes.get(name, "")) for name in config.sets]))
    rows = [bias_row(each, config.draws, config.seed) for each in tqdm(gaze, desc="fit", unit="set", disable=None)]
    print(markdown([_HEADINGS, *(_cells(row) for row in rows)]))
    figure = new_figure(11, 4.5)
    by_latitude, by_longitude = figure.subplots(1, 2)
    elevation_deg = row_elevations_deg(_GRID[0])
    longitude_deg = (np.arange(_GRID[1]) + 0.5) * 360 / _GRID[1] - 180
    for i, each in enumerate(gaze):
        style = (
            {"color": "black", "linewidth": 2} if each.name.startswith("all ") else {"color": ENCODER_COLOURS[i % 8]}
        )
        share = each.mass.mean(axis=0)
        by_latitude.plot(elevation_deg, share.sum(axis=1) * _GRID[0] / 180, label=each.name, **style)
        by_longitude.plot(longitude_deg, share.sum(axis=0) * _GRID[1], label=each.name, **style)
    area = solid_angles(*_GRID)[:, 0]
    by_latitude.plot(elevation_deg, area / area.sum() * np.exp(_log_rows(_PUBLISHED)) / 2, "k--", label="published")
    horizon = add_front_prior(np.ones(_GRID, np.float32), 1.0)[_GRID[0] // 2]
    by_longitude.plot(longitude_deg, horizon, "k--", label="front prior, strength 1, horizon")
    by_latitude.set(xlabel="latitude, degrees", ylabel="gaze per degree of latitude", xlim=(-90, 90))
    by_longitude.set(xlabel="longitude, degrees; 0: the front", ylabel="gaze relative to uniform", xlim=(-180, 180))
    by_latitude.legend()
    by_longitude.legend()
    write_results(config.output, "bias", rows, figure)


_HEADINGS = (
    "set",
    "records, scenes",
    "centre",
    "scale",
    "nats: published, own",
    "own over published, left out",
    "CC, published",
    "front quarter",
    "front prior, nats",
    "own front, left out, nats",
)


def _cells(row: dict[str, Any]) -> list[str]:
    def figure(name: str) -> str:
        return f"{number(row[name])} [{number(row[f'{name}_low'])}, {number(row[f'{name}_high'])}]"

    return [
        row["set"],
        f"{row['records']}, {row['scenes']}",
        figure("mean_deg"),
        figure("scale_deg"),
        f"{number(row['nats_published'])}, {number(row['nats_own'])}",
        figure("own_gain_nats"),
        number(row["cc_published"]),
        figure("front_quarter"),
        figure("front_gain_nats"),
        figure("own_front_gain_nats"),
    ]
