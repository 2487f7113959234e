"""How far predictions are from the equator prior alone (supplementary, Table 3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sal360.metrics import kld
from sal360.sphere import Array
from training.analysis.results import ENCODER_COLOURS, new_figure, write_results
from training.config import option_names, require, require_between
from training.data.panoramas import PanoramaConfig
from training.models.prior import PriorConfig, equator_log_rows
from training.trained_models import open_large_enough, read_predictor


@dataclass(frozen=True)
class EquatorConfig:
    """Distance of predictions to the equator prior (supplementary, Table 3)."""

    models: tuple[str, ...]
    """Model files (.onnx and engines) or saliency checkpoints; the name `bundled` is the bundled model."""
    data: PanoramaConfig
    """Panoramas that are predicted; they are read at least as large as the models take them."""
    output: str
    """Folder for equator.csv and equator.png."""
    prior_strength: float = 1.0
    """Power of the models' own equator prior in their predictions; 0 asks what they say without it."""
    prior: PriorConfig = field(default_factory=PriorConfig)
    """The equator prior that predictions are compared with."""

    def __post_init__(self) -> None:
        require("models", self.models, len(self.models) > 0, "at least one model")
        require_between("prior_strength", self.prior_strength, 0, 4)


PAPER_KLD = {"VGG16": 1.867, "ResNet50": 2.507}
"""Table 3, on 24 panoramas of Salient360!, by the paper's own measure of the distance."""


def equator_rows(prior: PriorConfig, height: int) -> Array:
    """Density of the prior relative to uniform on each row, (height, 1) float64."""
    log_rows = equator_log_rows(
        height, mean_deg=prior.mean_deg, scale_deg=prior.scale_deg, floor=prior.floor, strength=prior.strength
    )
    rows: Array = np.exp(log_rows.double().numpy())
    return rows


def equator_distance(density: Array, prior: PriorConfig) -> float:
    """KL(prior ‖ prediction) on the sphere, nats, of a density (h, w): small where the prior alone says as much."""
    return kld(density, np.broadcast_to(equator_rows(prior, density.shape[0]), density.shape))


def analyse_equator(config: EquatorConfig) -> None:
    """Compare each model's predictions with the prior; write equator.csv and equator.png.

    The second picture shows where over elevation the models put their mass, beside the prior.

    Raises:
        ModelError, CheckpointError, DataError, OSError: a model or the panoramas cannot be read, or nothing written.
    """
    with option_names(strength="prior_strength"):
        models = [read_predictor(model, config.prior_strength) for model in config.models]
    panoramas = open_large_enough(config.data, [model.height for model in models])
    figure = new_figure(11, 4.5)
    boxes, profiles = figure.subplots(1, 2)
    rows: list[dict[str, Any]] = []
    distances: dict[str, list[float]] = {}
    for i, model in enumerate(models):
        name, shown = model.name, tqdm(range(len(panoramas)), desc=model.name, unit="panorama")
        densities = [model.predict(panoramas[index]) for index in shown]
        distances[name] = [equator_distance(density, config.prior) for density in densities]
        for path, distance in zip(panoramas.paths, distances[name], strict=True):
            rows.append({"model": name, "panorama": Path(path).name, "kld": distance})
        profile = np.mean([density.mean(axis=1) for density in densities], axis=0)  # (h,)
        profiles.plot(
            profile, _elevations_deg(len(profile)), color=ENCODER_COLOURS[i % len(ENCODER_COLOURS)], label=name
        )
        print(f"{name}: KL(prior ‖ prediction) {np.mean(distances[name]):.3f} nats")
    boxes.boxplot(list(distances.values()), showmeans=True)
    boxes.set_xticks(range(1, 1 + len(distances)), [name.replace(" ", "\n") for name in distances])
    for (encoder, paper), style in zip(PAPER_KLD.items(), ("--", ":"), strict=True):
        boxes.axhline(paper, color="grey", linestyle=style, label=f"paper, {encoder}: {paper}")
    boxes.set(ylabel="KL(prior ‖ prediction), nats", ylim=(0, None), title=f"{len(panoramas)} panoramas")
    boxes.legend()
    profiles.plot(equator_rows(config.prior, 180)[:, 0], _elevations_deg(180), "k--", label="equator prior")
    profiles.set(xlabel="mean density, relative to uniform", ylabel="elevation, degrees", ylim=(-90, 90))
    profiles.legend()
    write_results(config.output, "equator", rows, figure)


def _elevations_deg(height: int) -> Array:
    return 90 - 180 * (np.arange(height) + 0.5) / height
