"""How well models predict gaze on plain photographs of several data sets, beside centre priors and people."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sal360.arrays import Density, Floats, Pixels
from sal360.errors import ParameterError, printable
from training.analysis.results import new_figure, write_results
from training.config import require, require_at_least, require_path, require_seed
from training.data.gaze.mixed_photographs import Parts, PhotographSetsConfig, open_parts
from training.data.gaze.photographs import Photograph
from training.data.gaze.records import evenly
from training.evaluation.map_folders import MapFolder, is_map_folder
from training.evaluation.photograph_sets import (
    centre_prior_of,
    figures_in_plane,
    mean_figures,
    measure_people,
    measure_set,
)
from training.evaluation.scoring import COLUMNS
from training.evaluation.summary import NAMES, bootstrap_interval, interval, markdown
from training.trained_models import (
    TrainedPredictor,
    named_weights,
    read_content_predictor,
    read_predictor,
    require_distinct,
)

_COLUMNS = 768
"""Columns of the panorama for which the sizes of photographs are given."""


@dataclass(frozen=True)
class SetScoresConfig:
    """Metrics of the planar protocol on plain photographs of several data sets."""

    data: PhotographSetsConfig
    """The data sets and the fold of each, or the set that is left out, that is measured; fold −1 measures all."""
    output: str
    """Folder for sets.csv and sets.png."""
    models: tuple[str, ...] = ("bundled",)
    """Model files (.onnx, engines), saliency checkpoints, or folders of maps named like the photographs, with a
    subfolder for each set or without; `bundled` and `permissive` are the bundled models."""
    content_alone: bool = True
    """Remove the equator prior and, from checkpoints, the calibration. Model files keep their calibration."""
    sizes_px: tuple[int, ...] = (384, 192)
    """Longer sides of the photographs on a panorama of 768 columns, pixels."""
    limit: int = 0
    """Maximum number of photographs of each data set, spread evenly; 0: all."""
    draws: int = 10_000
    """Number of bootstrap samples for the 95 % intervals."""
    seed: int = 0
    """Seed of the bootstrap."""

    def __post_init__(self) -> None:
        require_path("output", self.output, "a folder")
        require("models", self.models, len(self.models) > 0, "at least one model")
        fits = len(self.sizes_px) > 0 and all(16 <= size <= _COLUMNS // 2 for size in self.sizes_px)
        require("sizes_px", self.sizes_px, fits, f"at least one, from 16 to {_COLUMNS // 2}")
        require_at_least("limit", self.limit, 0)
        require_seed("seed", self.seed)
        require_at_least("draws", self.draws, 1)


class _Row(NamedTuple):
    """How one predictor did on one data set."""

    of: str
    predictor: str
    photographs: list[Photograph]
    scores: Floats
    """(n, 6), in the order of `COLUMNS`"""


def analyse_sets(config: SetScoresConfig) -> None:
    """Measure models, centre priors and people on each data set; print the table, write sets.csv and sets.png.

    Raises:
        ModelError, CheckpointError, DataError: a model or the photographs cannot be read.
        OSError: the results cannot be written.
    """
    read = read_content_predictor if config.content_alone else read_predictor
    models = [read(each) for each in config.models if named_weights(each) or not is_map_folder(each)]
    parts = open_parts(config.data)
    require_distinct([model.name for model in models])
    chosen = {name: _chosen(part, config.limit) for name, part in parts.items()}
    maps = {name: _map_folders(name, parts[name], chosen[name], config) for name in parts}
    rows = []
    for name, part in parts.items():
        prior = centre_prior_of(part)
        rows += _measure(name, prior, chosen[name], models, config)
        for folder_name, folder in maps[name].items():
            values = [np.asarray(folder.read(each.name), np.float32) for each in chosen[name]]
            rows.append(_row(name, folder_name, chosen[name], values, prior))
    print(markdown(_table(rows, config)))
    figure = new_figure(11, 1.5 + 0.4 * len(rows))
    for axes, metric in zip(figure.subplots(1, 2, sharey=True), ("nss", "cc"), strict=True):
        axes.barh(range(len(rows)), [mean_figures(row.scores).get(metric, 0.0) for row in rows])
        axes.set_yticks(range(len(rows)), [f"{row.of}: {row.predictor}" for row in rows])
        axes.invert_yaxis()
        axes.set_title(NAMES[metric])
    write_results(config.output, "sets", list(_records(rows)), figure)


def _chosen(part: Parts, limit: int) -> list[Photograph]:
    """The photographs that are measured."""
    photographs = part.measured or part.training
    return evenly(photographs, limit or len(photographs))


def _row(of: str, predictor: str, photographs: list[Photograph], maps: Sequence[Density], prior: Density) -> _Row:
    """The row of a predictor that has a map of each photograph alone."""
    figures = [figures_in_plane(each, photograph, prior) for each, photograph in zip(maps, photographs, strict=True)]
    return _Row(of, predictor, photographs, np.array(figures))


def _map_folders(name: str, part: Parts, chosen: list[Photograph], config: SetScoresConfig) -> dict[str, MapFolder]:
    """The folders of maps for one data set, by their names in the table."""
    folders: dict[str, MapFolder] = {}
    for path in config.models:
        if not named_weights(path) and is_map_folder(path):
            if Path(path).resolve().name in folders:
                found = f"two folders of maps have the name {Path(path).resolve().name}"
                raise ParameterError(found, "rename one, or list each once in --models")
            own = Path(path) / name
            folder = MapFolder(own if own.is_dir() else path)
            folder.pair([each.name for each in (*part.training, *part.measured)], [each.name for each in chosen])
            if folder.unused:
                print(printable(f"{folder.path}, {name}: {folder.unused}"), file=sys.stderr)
            folders[Path(path).resolve().name] = folder
    return folders


def _measure(
    name: str,
    prior: Density,
    photographs: list[Photograph],
    models: list[TrainedPredictor],
    config: SetScoresConfig,
) -> list[_Row]:
    rows = [
        _row(name, "centre prior", photographs, [prior] * len(photographs), prior),
        _Row(name, "half of the people", photographs, np.array([measure_people(each, prior) for each in photographs])),
    ]
    for model in models:

        def predict(frames: Pixels, model: TrainedPredictor = model) -> Density:
            return np.asarray(model.predict(frames[0])[None], np.float32)

        for size in config.sizes_px:
            scaled = round(size * 2 * model.height / _COLUMNS)
            scores = measure_set(predict, photographs, prior, model.height, scaled)
            rows.append(_Row(name, f"{model.name}, {size} px", photographs, scores))
    return rows


def _records(rows: list[_Row]) -> Iterator[dict[str, Any]]:
    for row in rows:
        for photograph, scores in zip(row.photographs, row.scores, strict=True):
            figures = dict(zip(COLUMNS, scores.tolist(), strict=True))
            yield {"set": row.of, "model": row.predictor, "photograph": photograph.name} | {
                figure: "" if math.isnan(value) else value for figure, value in figures.items()
            }


def _table(rows: list[_Row], config: SetScoresConfig) -> list[list[str]]:
    table = [["set", "photographs", "", *(NAMES[each] for each in COLUMNS)]]
    for row in rows:
        names, cells = [each.name for each in row.photographs], []
        for column in row.scores.T:
            known = np.isfinite(column)
            if not known.any():
                cells.append("–")
                continue
            kept = [name for name, keep in zip(names, known, strict=True) if keep]
            low, high = bootstrap_interval(column[known], kept, config.draws, config.seed)
            cells.append(f"{column[known].mean():.3f} {interval(low, high)}")
        table.append([row.of, str(len(names)), row.predictor, *cells])
    return table
