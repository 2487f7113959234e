"""NSS, CC and KLD of models on photographs that are placed on panoramas, beside the centre prior and one person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sal360.arrays import Density, Floats, Pixels
from training.analysis.results import new_figure, write_results
from training.config import require, require_at_least, require_between, require_path, require_seed
from training.data.gaze.datasets import DATASETS, GazeConfig, photograph_parts
from training.data.gaze.photographs import Photograph
from training.data.gaze.photographs_with_fixations import read_photographs
from training.data.panoramas import PanoramaConfig
from training.evaluation.photographs import (
    FIGURES,
    centre_prior,
    measure_in_plane,
    measure_one_person,
    measure_photographs,
)
from training.evaluation.summary import NAMES, bootstrap_interval, interval, markdown
from training.trained_models import (
    TrainedPredictor,
    open_large_enough,
    read_content_predictor,
    read_predictor,
    require_distinct,
)


@dataclass(frozen=True)
class PhotographScoresConfig:
    """NSS, CC and KLD on the photographs of the measured fold, placed on panoramas."""

    data: GazeConfig
    """A data set of photographs with fixations, the panoramas, and the measured fold. `measure_fov_deg` 0 places the
    photographs flat."""
    output: str
    """Folder for photographs.csv and photographs.png."""
    models: tuple[str, ...] = ("bundled",)
    """Model files (.onnx, engines) or saliency checkpoints; `bundled` is the bundled model."""
    content_alone: bool = True
    """Remove the equator prior and, from checkpoints, the calibration. Model files keep their calibration."""
    flat_width: float = 0.5
    """Width of a flat photograph relative to the panorama's; above 0.5 each panorama has one photograph, else two."""
    power: float = 1.0
    """Exponent of the predicted density; above 1 sharpens it, which suits NSS."""
    draws: int = 10_000
    """Number of bootstrap samples for the 95 % intervals."""
    seed: int = 0
    """Seed of the bootstrap."""

    def __post_init__(self) -> None:
        known = [name for name, row in DATASETS.items() if row.photographs is read_photographs]
        require("data.dataset", self.data.dataset, self.data.dataset in known, f"one of {', '.join(known)}")
        require_path("output", self.output, "a folder")
        require("models", self.models, len(self.models) > 0, "at least one model")
        require_between("flat_width", self.flat_width, 0.1, 1)
        require_between("power", self.power, 0.1, 10)
        require_at_least("draws", self.draws, 1)
        require_seed("seed", self.seed)


def analyse_photographs(config: PhotographScoresConfig) -> None:
    """Measure the models, the centre prior and one person; print the table, write photographs.csv and .png.

    Raises:
        ModelError, CheckpointError, DataError: a model, the photographs or the panoramas cannot be read.
        OSError: the results cannot be written.
    """
    read = read_content_predictor if config.content_alone else read_predictor
    models = [read(name) for name in config.models]
    require_distinct([model.name for model in models])
    measured, others = photograph_parts(config.data)
    centre = centre_prior(others)
    figures: dict[str, Floats] = {  # each (n, 3)
        f"centre prior of the other {len(others)}": np.array([measure_in_plane(centre, each) for each in measured]),
        "one person, predicted by the others": np.array([measure_one_person(each) for each in measured]),
    }
    for model in models:
        figures[model.name] = _measure(model, measured, config)

    print(markdown(_table(figures, [each.name for each in measured], config)))
    rows: list[dict[str, Any]] = [
        {"model": name, "photograph": photograph.name} | dict(zip(FIGURES, scores.tolist(), strict=True))
        for name, all_scores in figures.items()
        for photograph, scores in zip(measured, all_scores, strict=True)
    ]
    figure = new_figure(11, 1.5 + 0.5 * len(figures))
    for axes, metric, column in zip(figure.subplots(1, len(FIGURES), sharey=True), FIGURES, range(3), strict=True):
        axes.boxplot([each[:, column] for each in figures.values()], orientation="horizontal", showmeans=True)
        axes.set_yticks(range(1, 1 + len(figures)), list(figures))
        axes.set_title(NAMES[metric])
    write_results(config.output, "photographs", rows, figure)


def _measure(model: TrainedPredictor, photographs: list[Photograph], config: PhotographScoresConfig) -> Floats:
    """NSS, CC and KLD of a model on each photograph, (n, 3)."""
    panoramas = open_large_enough(PanoramaConfig(config.data.panoramas, model.height), [model.height])

    def predict(frames: Pixels) -> Density:
        density = model.predict(frames[0]) ** config.power
        return np.asarray(density[None], np.float32)  # (1, h, w)

    return measure_photographs(
        predict,
        photographs,
        [panoramas[i] for i in range(len(panoramas))],
        fov_deg=config.data.measure_fov_deg,
        flat_width=config.flat_width,
    )


def _table(figures: Mapping[str, Floats], names: list[str], config: PhotographScoresConfig) -> list[list[str]]:
    rows = [["", *(NAMES[metric] for metric in FIGURES)]]
    for model, scores in figures.items():
        cells = []
        for column in scores.T:
            low, high = bootstrap_interval(column, names, config.draws, config.seed)
            cells.append(f"{column.mean():.3f} {interval(low, high)}")
        rows.append([model, *cells])
    return rows
