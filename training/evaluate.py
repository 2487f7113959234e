"""Measure models and baselines against human gaze.

    python -m training.evaluate --data.dataset salient360 --data.root SALIENT360 --output out \\
        --models '[bundled, runs/resnet50]'

Writes scores.csv (every record), summary.csv (means, deviations, intervals), turned.csv and report.html.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sal360_ros.errors import ParameterError, one_line_errors
from sal360_ros.files import write_text
from sal360_ros.sphere import Array
from training.analysis.predictions import read_predictor
from training.config import read_config
from training.config.evaluate import EvaluateConfig
from training.config.gaze import GazeConfig
from training.data.gaze_records import open_gaze
from training.data.records import Chosen, GazeRecords
from training.evaluation.baselines import Predict, fit_priors, open_baselines
from training.evaluation.figures import draw_case, draw_distributions, draw_turning
from training.evaluation.report import case_caption, picture_part, render_report, table_part
from training.evaluation.scoring import GROUND_TRUTH, PEOPLE, Score, score, score_people
from training.evaluation.summary import Summary, scores_csv, summaries_csv, summarise, text_table, turned_csv
from training.evaluation.turning import Turned, measure_turning


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
            predictor = read_predictor(model, strength)
            name = predictor.name if strength == 1 else f"{predictor.name}, prior × {strength:g}"
            if name in opened:
                raise ParameterError(f"two models are called {name}", "different names", "rename a file or run folder")
            opened[name] = predictor.predict
    return opened


def _parts(config: EvaluateConfig) -> Iterator[Part]:
    for data in _folds(config):
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
