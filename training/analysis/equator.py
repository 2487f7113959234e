"""How far predictions are from the equator prior alone (supplementary, Table 3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from sal360.arrays import Density, Floats
from sal360.metrics import kld
from training.analysis.panoramas import AnalysedConfig, Split, open_analysed, require_has_split
from training.analysis.results import ENCODER_COLOURS, new_figure, write_results
from training.config import option_names, require, require_at_least, require_between, require_path
from training.models.prior import PriorConfig, equator_log_rows, row_elevations_deg
from training.trained_models import read_predictor, require_distinct


@dataclass(frozen=True)
class EquatorConfig:
    """Distance between predictions and the equator prior (supplementary, Table 3)."""

    models: tuple[str, ...]
    """Model files (.onnx, engines) or saliency checkpoints; `bundled` is the bundled model."""
    data: AnalysedConfig
    """Panoramas to predict, read at the models' height or higher."""
    output: str
    """Folder for equator.csv and equator.png."""
    split: Split = "validation"
    """Part of the data set `data.dataset` that is analysed; the paper's is the validation part. A folder has none."""
    limit: int = 0
    """Number of panoramas that are analysed, evenly spread; 0: all."""
    prior_strength: float = 1.0
    """Exponent of the models' own equator prior in their predictions; 0 removes it."""
    prior: PriorConfig = field(default_factory=PriorConfig)
    """The equator prior with which predictions are compared."""

    def __post_init__(self) -> None:
        require_path("output", self.output, "a folder")
        require_at_least("limit", self.limit, 0)
        require("models", self.models, len(self.models) > 0, "at least one model")
        require_has_split(self)
        require_between("prior_strength", self.prior_strength, 0, 4)


PAPER_KLD = {"VGG16": 1.867, "ResNet50": 2.507}
"""The values of Table 3, on 24 panoramas of Salient360!, by the paper's own distance."""


def equator_rows(prior: PriorConfig, height: int) -> Floats:
    """Density of the prior on each row, relative to uniform: (height, 1)."""
    return np.asarray(np.exp(equator_log_rows(height, prior).double().numpy()))


def equator_distance(density: Density, prior: PriorConfig) -> float:
    """KL(prior ‖ prediction) on the sphere, nats, of a prediction (h, w); 0 if the model adds nothing to the prior."""
    return kld(density, np.broadcast_to(equator_rows(prior, density.shape[0]), density.shape))


def analyse_equator(config: EquatorConfig) -> None:
    """Compare each model's predictions with the prior; write equator.csv and equator.png.

    The second panel shows the models' mean density by elevation, beside the prior.

    Raises:
        ModelError, CheckpointError, DataError: a model or the panoramas cannot be read.
        OSError: the results cannot be written.
    """
    with option_names(strength="prior_strength"):
        models = [read_predictor(model, config.prior_strength) for model in config.models]
    require_distinct([model.name for model in models])
    panoramas = open_analysed(config.data, config.split, [model.height for model in models], config.limit)
    figure = new_figure(11, 4.5)
    boxes, profiles = figure.subplots(1, 2)
    rows: list[dict[str, Any]] = []
    distances: dict[str, list[float]] = {}
    for i, model in enumerate(models):
        name, shown = model.name, tqdm(range(len(panoramas)), desc=model.name, unit="panorama", disable=None)
        densities = [model.predict(panoramas[index]) for index in shown]
        distances[name] = [equator_distance(density, config.prior) for density in densities]
        for panorama, distance in zip(panoramas.names, distances[name], strict=True):
            rows.append({"model": name, "panorama": panorama, "kld": distance})
        profile = np.mean([density.mean(axis=1) for density in densities], axis=0)  # (h,)
        profiles.plot(
            profile, row_elevations_deg(len(profile)), color=ENCODER_COLOURS[i % len(ENCODER_COLOURS)], label=name
        )
        print(f"{name}: KL(prior ‖ prediction) {np.mean(distances[name]):.3f} nats")
    boxes.boxplot(list(distances.values()), showmeans=True)
    boxes.set_xticks(range(1, 1 + len(distances)), [name.replace(" ", "\n") for name in distances])
    for (encoder, paper), style in zip(PAPER_KLD.items(), ("--", ":"), strict=True):
        boxes.axhline(paper, color="grey", linestyle=style, label=f"paper, {encoder}: {paper}")
    boxes.set(ylabel="KL(prior ‖ prediction), nats", ylim=(0, None), title=panoramas.description)
    boxes.legend()
    profiles.plot(equator_rows(config.prior, 180)[:, 0], row_elevations_deg(180), "k--", label="equator prior")
    profiles.set(xlabel="mean density, relative to uniform", ylabel="elevation, degrees", ylim=(-90, 90))
    profiles.legend()
    write_results(config.output, "equator", rows, figure)
