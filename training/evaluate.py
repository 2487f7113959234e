"""Measure models and baselines against human gaze.

    python -m training.evaluate --data.dataset salient360 --data.root SALIENT360 --output out \\
        --models '[bundled, runs/resnet50]'

Writes scores.csv (every record), summary.csv (means, deviations, intervals), turned.csv and report.html.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from sal360.errors import ParameterError, one_line_errors
from sal360.files import write_text
from sal360.sphere import Array
from training.config import (
    option_names,
    read_config,
    require,
    require_at_least,
    require_between,
    require_path,
    require_together,
)
from training.data.gaze.opening import GazeConfig, open_gaze
from training.data.gaze.records import Chosen, GazeRecords
from training.evaluation.baselines import Predict, fit_priors, open_baselines
from training.evaluation.figures import draw_case, draw_distributions, draw_turning
from training.evaluation.report import case_caption, picture_part, render_report, table_part
from training.evaluation.scoring import GROUND_TRUTH, PEOPLE, Score, score, score_people
from training.evaluation.summary import Summary, scores_csv, summaries_csv, summarise, text_table, turned_csv
from training.evaluation.turning import Turned, measure_turning
from training.trained_models import read_predictor

Baseline = Literal["uniform", "equator", "mean", "spectral_residual", "bms360", "people", "ground_truth"]


@dataclass(frozen=True)
class EvaluateConfig:
    """Models and baselines measured against human gaze."""

    data: GazeConfig
    """The data set and which part of it is measured; settings of training samples are not used."""
    output: str
    """Folder for scores.csv, summary.csv, turned.csv and report.html."""
    models: tuple[str, ...] = ("bundled",)
    """Model files (.onnx and engines) or saliency checkpoints; the name `bundled` is the bundled model."""
    prior_strengths: tuple[float, ...] = (1.0,)
    """Powers of the models' own equator prior at which each is measured; 0 takes it out."""
    baselines: tuple[Baseline, ...] = ("uniform", "equator", "mean", "spectral_residual", "bms360", "people")
    """people: every other observer predicts the rest. ground_truth: the density itself, the paper's infinite humans."""
    protocols: tuple[Literal["standard", "paper"], ...] = ("standard", "paper")
    """standard: against the prediction only, weighted by solid angle. paper: as the paper's evaluation did it."""
    every_fold: bool = False
    """Measure on all folds in turn, each with priors fitted to the others; for data sets without a published split.
    The models stay the same: one that was trained on OSIE has seen all folds but one."""
    limit: int = 0
    """Most records measured, evenly out of all; 0: all."""
    prior_limit: int = 500
    """Most training records to which equator prior and mean map are fitted."""
    panorama_height: int = 512
    """Rows at which panoramas are read, pixels."""
    fov_deg: float = 100.0
    """Horizontal field of view at which OSIE's photographs are placed on panoramas, degrees."""
    turned: int = 12
    """Records on which models see the panorama rolled and pitched; 0 leaves that out."""
    cases: int = 3
    """Worst and best records that the report shows of the first model."""
    draws: int = 10_000
    """Of the bootstrap for the 95 % intervals."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        require_path("output", self.output, "a folder")
        some = len(self.models) + len(self.baselines) > 0
        require_together(self, ("models", "baselines"), some, "at least one model or baseline")
        require("prior_strengths", self.prior_strengths, len(self.prior_strengths) > 0, "at least one strength")
        require("protocols", self.protocols, len(self.protocols) > 0, "standard, paper or both")
        cuts = self.data.dataset in ("osie", "sitzmann")
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
    """What is measured together: records, and baselines that were fitted to others."""

    records: GazeRecords
    description: str
    baselines: Mapping[str, Predict]
    prior: Array
    """The fitted equator prior as a map, for the information gain."""


def evaluate(config: EvaluateConfig) -> list[Score]:
    """Measure, write the files, print the tables.

    Raises:
        Sal360Error: a setting, a model or the data is unusable.
        OSError: the results cannot be written.
    """
    models = open_models(config.models, config.prior_strengths)
    parts = list(_parts(config))
    scores = [each for part in parts for each in _measure(part, models, config)]
    turned = measure_turning(models, parts[0].records[: config.turned]) if models else []
    summaries = summarise(scores, config.draws, config.seed)
    for protocol in config.protocols:
        print(f"\n{protocol} protocol: mean ± standard deviation [95 % interval of the mean]\n")
        print(text_table(summaries, protocol))
    output = Path(config.output)
    write_text(output / "scores.csv", scores_csv(scores))
    write_text(output / "summary.csv", summaries_csv(summaries))
    write_text(output / "turned.csv", turned_csv(turned))
    write_text(output / "report.html", _report(config, parts, models, scores, summaries, turned))
    print(f"\nwrote scores.csv, summary.csv, turned.csv and report.html in {output}")
    return scores


def open_models(models: Sequence[str], prior_strengths: Sequence[float]) -> dict[str, Predict]:
    """Every model at every strength of its own prior, by a name for tables.

    Raises:
        ModelError, CheckpointError: a model is missing or broken.
        ParameterError: two models have the same name, or one has no prior to change.
    """
    opened: dict[str, Predict] = {}
    for model in models:
        for strength in prior_strengths:
            with option_names(strength="prior_strengths"):
                predictor = read_predictor(model, strength)
            name = predictor.name if strength == 1 else f"{predictor.name}, prior × {strength:g}"
            if name in opened:
                raise ParameterError(
                    f"two models are called {name}", "rename a file or run folder", expected="different names"
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
            Chosen(split.measuring, chosen),
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
    for record in tqdm(part.records, desc="measure", unit="record"):
        panorama = record.panorama()
        for name, predict in predictors.items():
            yield from score(name, predict(panorama), record, config.protocols, part.prior)
        if PEOPLE in config.baselines:
            yield from score_people(record, part.records.sigma_deg, config.protocols, part.prior)
        if GROUND_TRUTH in config.baselines and record.density is not None:
            yield from score(GROUND_TRUTH, record.density, record, config.protocols, part.prior)


def _report(
    config: EvaluateConfig,
    parts: Sequence[Part],
    models: Mapping[str, Predict],
    scores: Sequence[Score],
    summaries: Sequence[Summary],
    turned: Sequence[Turned],
) -> str:
    sections = []
    for protocol in config.protocols:
        sections.append(table_part(summaries, protocol))
        caption = "The scores of all records; the triangle is the mean."
        sections.append(picture_part("", caption, [draw_distributions(scores, protocol)]))
    if turned:
        count = len({each.record for each in turned})
        caption = f"The prediction and the one of the turned panorama, turned back; means over {count} records."
        sections.append(picture_part("Turned input", caption, [draw_turning(turned)]))
    sections += _cases(parts[0], models, scores, config)
    count = sum(len(part.records) for part in parts)
    about = f"{count} records of {config.data.dataset}: {'; '.join(part.description for part in parts)}."
    return render_report(f"Gaze prediction on {config.data.dataset}", [about], sections)


def _cases(part: Part, models: Mapping[str, Predict], scores: Sequence[Score], config: EvaluateConfig) -> list[str]:
    """Sections with the records on which the first predictor is worst and best, by KLD or, without densities, NSS."""
    predictors = {**models, **part.baselines}
    if not predictors:
        return []
    first = next(iter(predictors))
    of_record = {
        each.record: each.values for each in scores if (each.model, each.protocol) == (first, config.protocols[0])
    }
    by_kld = all("kld" in values for values in of_record.values())
    metric = "kld" if by_kld else "nss"
    ranked = sorted(
        (index for index, name in enumerate(part.records.names) if metric in of_record[name]),
        key=lambda index: of_record[part.records.names[index]][metric] * (1 if by_kld else -1),
    )
    sections = []
    for heading, indices in (
        (f"Worst cases of {first}", ranked[::-1][: config.cases]),
        (f"Best cases of {first}", ranked[: config.cases]),
    ):
        for position, index in enumerate(indices):
            record = part.records[index]
            caption = f"{record.name}: {case_caption(of_record[record.name])}"
            sections.append(picture_part(heading if position == 0 else "", caption, [draw_case(record, predictors)]))
    return sections


def main() -> None:
    """The command `python -m training.evaluate`."""
    evaluate(read_config(EvaluateConfig, "Measure models and baselines against human gaze."))


if __name__ == "__main__":
    sys.exit(one_line_errors(main))
