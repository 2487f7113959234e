"""Measure models and baselines against human gaze.

    python -m training.evaluate --data.dataset salient360 --data.root SALIENT360 --output out \\
        --models '[bundled, runs/resnet50]'

Writes scores.csv (every record), summary.csv (means, deviations, intervals), turned.csv (rolled and pitched panoramas)
and report.html. Each record goes through `evaluation.scoring`; `evaluation.summary` and `evaluation.report` show it.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from tqdm import tqdm

from sal360.arrays import Floats
from sal360.errors import ParameterError, one_line_errors, require_modules
from sal360.files import check_folder_is_writable, write_text
from training.config import (
    option_names,
    read_config,
    require,
    require_at_least,
    require_between,
    require_path,
    require_together,
)
from training.data.gaze.datasets import DATASETS, GazeConfig, open_gaze
from training.data.gaze.records import GazeRecords, GazeSubset
from training.evaluation.baselines import Predict, fit_priors, open_baselines
from training.evaluation.report import render_report, worst_and_best_cases
from training.evaluation.scoring import GROUND_TRUTH, PEOPLE, Score, score, score_people
from training.evaluation.summary import scores_csv, summaries_csv, summarise, text_table, turned_csv
from training.evaluation.turning import measure_turning
from training.trained_models import read_predictor

Baseline = Literal["uniform", "equator", "mean", "spectral_residual", "bms360", "people", "ground_truth"]


@dataclass(frozen=True)
class EvaluateConfig:
    """The models and baselines to measure, and how."""

    data: GazeConfig
    """The data set and the part of it that is measured; settings of training samples are not used."""
    output: str
    """Folder for scores.csv, summary.csv, turned.csv and report.html."""
    models: tuple[str, ...] = ("bundled",)
    """Model files (.onnx, engines) or saliency checkpoints; `bundled` is the bundled model."""
    prior_strengths: tuple[float, ...] = (1.0,)
    """Exponents of the model's own equator prior; each model is measured at each of them. 0 removes the prior."""
    baselines: tuple[Baseline, ...] = ("uniform", "equator", "mean", "spectral_residual", "bms360", "people")
    """people: half of the observers predict the other half; ground_truth: the true density ("infinite humans")."""
    protocols: tuple[Literal["standard", "paper"], ...] = ("standard", "paper")
    """standard: weighted by solid angle; paper: as in the paper's evaluation (docs/metrics.md)."""
    every_fold: bool = False
    """Measure on every fold in turn, each with priors fitted to the others; for data sets without a published split.
    The models are not retrained: one that was trained on OSIE has seen all folds except one."""
    limit: int = 0
    """Maximum number of records to measure, spread evenly over the data set; 0 measures all."""
    prior_limit: int = 500
    """Maximum number of training records to which the equator prior and the mean map are fitted."""
    panorama_height: int = 512
    """Height at which panoramas are read, pixels."""
    fov_deg: float = 100.0
    """Field of view of the longer side of photographs on the panoramas, degrees."""
    turned: int = 12
    """Number of records on which models also see the panorama rolled and pitched; 0 skips this test."""
    cases: int = 3
    """Number of worst and of best records of the first model to show in the report."""
    draws: int = 10_000
    """Number of bootstrap samples for the 95 % intervals."""
    seed: int = 0
    """Seed of the bootstrap."""

    def __post_init__(self) -> None:
        require_path("output", self.output, "a folder")
        some = len(self.models) + len(self.baselines) > 0
        require_together(self, ("models", "baselines"), some, "at least one model or baseline")
        require("prior_strengths", self.prior_strengths, len(self.prior_strengths) > 0, "at least one strength")
        require("protocols", self.protocols, len(self.protocols) > 0, "standard, paper or both")
        cuts = DATASETS[self.data.dataset].has_folds
        foldable = cuts or not self.every_fold
        require_together(
            self, ("every_fold", "data.dataset"), foldable, "folds of a data set without a published split"
        )
        require_between("fov_deg", self.fov_deg, 20, 120)
        require_at_least("panorama_height", self.panorama_height, 64)
        for name in ("limit", "turned", "cases", "seed"):
            require_at_least(name, getattr(self, name), 0)
        for name in ("prior_limit", "draws"):
            require_at_least(name, getattr(self, name), 1)


@dataclasses.dataclass(frozen=True)
class Part:
    """Records that are measured together, with baselines that were fitted to other records."""

    records: GazeRecords
    description: str
    """The split and the fit in words, for the report."""
    baselines: Mapping[str, Predict]
    prior: Floats
    """The fitted equator prior, (256, 512), the reference of the information gain."""


def evaluate(config: EvaluateConfig) -> list[Score]:
    """Measure, write the files, print the tables.

    Raises:
        Sal360Error: a setting, a model or the data is unusable.
        OSError: the results cannot be written; the folder is tried before anything is measured.
    """
    output = check_folder_is_writable(config.output)
    require_modules("matplotlib", "jinja2")  # which make the report at the end
    models = open_models(config.models, config.prior_strengths)
    parts = list(_parts(config))
    scores = [each for part in parts for each in _measure(part, models, config)]
    turned = measure_turning(models, parts[0].records[: config.turned]) if models else []
    summaries = summarise(scores, config.draws, config.seed)
    report = render_report(
        f"Gaze prediction on {config.data.dataset}",
        f"{sum(len(part.records) for part in parts)} records of {config.data.dataset}: "
        f"{'; '.join(part.description for part in parts)}.",
        scores=scores,
        summaries=summaries,
        turned=turned,
        cases=worst_and_best_cases(
            parts[0].records, {**models, **parts[0].baselines}, scores, config.protocols[0], config.cases
        ),
    )
    for protocol in config.protocols:
        print(f"\n{protocol} protocol: mean ± standard deviation [95 % interval of the mean]\n")
        print(text_table(summaries, protocol))
    write_text(output / "scores.csv", scores_csv(scores))
    write_text(output / "summary.csv", summaries_csv(summaries))
    write_text(output / "turned.csv", turned_csv(turned))
    write_text(output / "report.html", report)
    print(f"\nwrote scores.csv, summary.csv, turned.csv and report.html in {output}")
    return scores


def open_models(models: Sequence[str], prior_strengths: Sequence[float]) -> dict[str, Predict]:
    """Every model at every strength of its own equator prior, by its name in tables.

    Raises:
        ModelError, CheckpointError: a model is missing or damaged.
        ParameterError: two models have the same name, or a model has no prior to change.
    """
    opened: dict[str, Predict] = {}
    for model in models:
        for strength in prior_strengths:
            with option_names(strength="prior_strengths"):
                predictor = read_predictor(model, strength)
            name = predictor.name if strength == 1 else f"{predictor.name}, prior × {strength:g}"
            if name in opened:
                raise ParameterError(
                    f"two models have the name {name}",
                    "rename a file or run folder, or list each model once in --models",
                )
            opened[name] = predictor.predict
    return opened


def _parts(config: EvaluateConfig) -> Iterator[Part]:
    for data in _folds(config):
        with option_names("data"):
            split = open_gaze(data, config.panorama_height, config.fov_deg)
        priors = fit_priors(split.training, config.prior_limit)
        count = len(split.measuring)
        chosen = np.unique(np.linspace(0, count - 1, min(config.limit or count, count)).astype(int))
        laplace = priors.laplace
        fit = f"equator prior fitted to the rest: {laplace.mean_deg:.1f}°, scale {laplace.scale_deg:.1f}°"
        yield Part(
            GazeSubset(split.measuring, chosen),
            f"{split.description} ({fit})",
            open_baselines(config.baselines, priors),
            laplace.density(256),
        )


def _folds(config: EvaluateConfig) -> list[GazeConfig]:
    if not config.every_fold:
        return [config.data]
    return [dataclasses.replace(config.data, fold=fold) for fold in range(config.data.folds)]


def _measure(part: Part, models: Mapping[str, Predict], config: EvaluateConfig) -> Iterator[Score]:
    predictors = {**models, **part.baselines}
    for record in tqdm(part.records, desc="measure", unit="record", disable=None):
        panorama = record.panorama()
        for name, predict in predictors.items():
            yield from score(name, predict(panorama), record, config.protocols, part.prior)
        if PEOPLE in config.baselines:
            yield from score_people(record, part.records.sigma_deg, config.protocols, part.prior)
        if GROUND_TRUTH in config.baselines and record.density is not None:
            yield from score(GROUND_TRUTH, record.density, record, config.protocols, part.prior)


def main() -> None:
    """The command `python -m training.evaluate`."""
    evaluate(read_config(EvaluateConfig, "Measure models and baselines against human gaze."))


if __name__ == "__main__":
    sys.exit(one_line_errors(main))
