"""Measure models, baselines and maps of other models against human gaze.

    python -m training.evaluate --data.dataset salient360 --data.root SALIENT360 --output out \\
        --models '[bundled, runs/resnet50, maps/atsal]'

A folder such as `maps/atsal` holds the maps that another model wrote, named like the pictures: see
`evaluation.map_folders`.
Writes scores.csv (every record), summary.csv (means, deviations, intervals), turned.csv (rolled and pitched panoramas)
and report.html (the tables, and the maps side by side). Each record goes through `evaluation.scoring`;
`evaluation.summary` and `evaluation.report` show it.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from tqdm import tqdm

from sal360.errors import ModelError, ParameterError, one_line_errors, printable, require_modules
from sal360.files import check_folder_is_writable, write_text
from sal360.ground_truth import GazeRecord
from training.config import (
    option_names,
    read_config,
    require,
    require_at_least,
    require_between,
    require_path,
    require_seed,
    require_together,
)
from training.data.gaze.datasets import DATASETS, GazeConfig, open_gaze
from training.data.gaze.records import GazeRecords, GazeSplit, GazeSubset, evenly, spread
from training.data.gaze.scenes import scene_numbers
from training.evaluation.baselines import PRIOR_LIMIT, fit_priors, open_baselines
from training.evaluation.map_folders import MapFolder, is_map_folder
from training.evaluation.predictions import Predict, Predictor, RecordedGaze, one_at_a_time, seeing
from training.evaluation.report import CaptionedPicture, Place, Shown, render_report, side_by_side, worst_and_best_cases
from training.evaluation.scoring import GROUND_TRUTH, PEOPLE, Protocol, Reference, Score, score, score_people
from training.evaluation.summary import scores_csv, summaries_csv, summarise, text_table, turned_csv
from training.evaluation.turning import measure_turning
from training.processes import in_threads
from training.trained_models import MODEL_NAMES, TrainedPredictor, named_weights, read_predictor

Baseline = Literal[
    "uniform", "equator", "mean", "spectral_residual", "bms360", "prosal", "gbvs360", "people", "ground_truth"
]
_NOT_MODELS = get_args(Baseline)


@dataclass(frozen=True)
class EvaluateConfig:
    """The models and baselines to measure, and how."""

    data: GazeConfig
    """The data set and the part of it that is measured; settings of training samples are not used."""
    output: str
    """Folder for scores.csv, summary.csv, turned.csv and report.html."""
    models: tuple[str, ...] = ("bundled",)
    """Model files (.onnx, engines), saliency checkpoints, folders of maps named like the pictures, or names of
    baselines; `bundled` and `permissive` are the bundled models."""
    prior_strengths: tuple[float, ...] = (1.0,)
    """Exponents of the model's own equator prior; each model is measured at each of them. 0 removes the prior."""
    baselines: tuple[Baseline, ...] = ("uniform", "equator", "mean", "spectral_residual", "bms360", "people")
    """people: half of the observers predict the other half; ground_truth: the true density ("infinite humans")."""
    equatorial_prior: bool = False
    """Multiply bms360, prosal and gbvs360 by the equatorial prior that their authors use."""
    protocols: tuple[Protocol, ...] = ("standard", "paper", "planar")
    """standard: weighted by solid angle; paper: as in the paper's evaluation; planar: every pixel of the picture counts
    the same, as in benchmarks of photographs (docs/metrics.md)."""
    every_fold: bool = False
    """Measure on every fold in turn, each with priors fitted to the others; for data sets without a published split.
    The models are not retrained: one that was trained on OSIE has seen all folds except one."""
    limit: int = 0
    """Maximum number of records to measure, of all folds together, spread evenly over them; 0 measures all."""
    prior_limit: int = PRIOR_LIMIT
    """Maximum number of training records to which the equator prior and the mean map are fitted."""
    panorama_height: int = 512
    """Height at which panoramas are read, pixels."""
    fov_deg: float = 100.0
    """Field of view of the longer side of photographs on the panoramas, degrees."""
    turned: int = 12
    """Number of records, spread evenly, on which models also see the panorama rolled and pitched; 0 skips this test."""
    examples: int = 6
    """Number of records, spread evenly, whose maps the report shows side by side."""
    cases: int = 3
    """Number of records with the highest KLD, with the lowest NSS and with the best figures to show in the report."""
    cases_of: str = ""
    """The model or baseline whose records these are, and whose figures stand below all pictures: as in `models` or
    `baselines`, or by its name in the tables; empty: the first one."""
    threads: int = 0
    """Number of records that are measured at once; 0: one for each CPU core. The figures do not depend on it."""
    draws: int = 10_000
    """Number of bootstrap samples for the 95 % intervals."""
    seed: int = 0
    """Seed of the bootstrap."""

    def __post_init__(self) -> None:
        require_path("output", self.output, "a folder")
        some = len(self.models) + len(self.baselines) > 0
        require_together(self, ("models", "baselines"), some, "at least one model or baseline")
        require("prior_strengths", self.prior_strengths, len(self.prior_strengths) > 0, "at least one strength")
        require("protocols", self.protocols, len(self.protocols) > 0, "at least one protocol")
        cuts = DATASETS[self.data.dataset].has_folds
        foldable = cuts or not self.every_fold
        require_together(
            self, ("every_fold", "data.dataset"), foldable, "folds of a data set without a published split"
        )
        require_between("fov_deg", self.fov_deg, 20, 120)
        require_at_least("panorama_height", self.panorama_height, 64)
        for name in ("limit", "turned", "examples", "cases", "threads"):
            require_at_least(name, getattr(self, name), 0)
        for name in ("prior_limit", "draws"):
            require_at_least(name, getattr(self, name), 1)
        require_seed("seed", self.seed)

    @property
    def opened(self) -> list[str]:
        """The models and folders of maps among `models`."""
        return [each for each in self.models if each not in _NOT_MODELS]

    @property
    def rows(self) -> tuple[str, ...]:
        """The baselines to measure: those of `models` and of `baselines`."""
        return tuple(dict.fromkeys([*(each for each in self.models if each in _NOT_MODELS), *self.baselines]))


@dataclasses.dataclass(frozen=True)
class Part:
    """Records that are measured together, with baselines that were fitted to other records."""

    records: GazeRecords
    description: str
    """The split and the fit in words, for the report."""
    predictors: Mapping[str, Predictor]
    """Models, maps and baselines by their names in tables."""
    reference: Reference
    """The reference of the information gain."""


def evaluate(config: EvaluateConfig) -> list[Score]:
    """Measure, write the files, print the tables.

    Raises:
        Sal360Error: a setting, a model, a map or the data is unusable, or maps are missing.
        OSError: the results cannot be written; the folder is tried before anything is measured.
    """
    output = check_folder_is_writable(config.output)
    require_modules("matplotlib", "jinja2")  # which make the report at the end
    opened = open_models(config.opened, config.prior_strengths)
    shown = _name_of_cases(config, opened)
    models = {name: each for name, each in opened.items() if not isinstance(each, MapFolder)}
    folders = [each for each in opened.values() if isinstance(each, MapFolder)]
    splits = [_open_split(data, config) for data in _folds(config)]
    known = [*splits[0].training.names, *splits[0].measuring.names]
    splits = _limited(splits, config.limit)
    for folder in folders:
        folder.pair(known, [name for split in splits for name in split.measuring.names])
        if folder.unused:
            print(printable(f"{folder.path}: {folder.unused}"), file=sys.stderr)
    parts = [_fitted(split, opened, config) for split in splits]
    scores = [each for part in parts for each in _measure(part, config)]
    scene_of, remark = _scenes(parts)
    resampled = [f"{each.name}: {each.resampled}" for each in folders if each.resampled]
    unused = [f"{each.name}: {each.unused}" for each in folders if each.unused]
    turned = measure_turning(models, _to_turn(parts[0].records, config.turned)) if models else []
    summaries = summarise(scores, config.draws, config.seed, scene_of)
    scenes = _count(len(set(scene_of.values())), "scene")
    report = render_report(
        f"Gaze prediction on {config.data.dataset}",
        f"{sum(len(part.records) for part in parts)} records of {config.data.dataset}: "
        f"{'; '.join(part.description for part in parts)}. Intervals are over {scenes}.",
        [*unused, *resampled, *remark],
        scores=scores,
        summaries=summaries,
        turned=turned,
        cases=_cases(parts, scores, config, shown),
    )
    records = _count(len(scene_of), "record")
    for protocol in config.protocols:
        heading = f"{protocol} protocol, {records} of {scenes}"
        print(f"\n{heading}: mean ± standard deviation [95 % interval of the mean over scenes]\n")
        print(text_table(summaries, protocol))
    for each in (*resampled, *remark):
        print(printable(f"\n{each}"))
    write_text(output / "scores.csv", scores_csv(scores, scene_of))
    write_text(output / "summary.csv", summaries_csv(summaries))
    write_text(output / "turned.csv", turned_csv(turned))
    write_text(output / "report.html", report)
    print(f"\nwrote scores.csv, summary.csv, turned.csv and report.html in {output}")
    return scores


def _name_of_cases(config: EvaluateConfig, opened: Mapping[str, Predict | MapFolder]) -> str:
    """The name in tables of the model or baseline that `cases_of` means; "" if nothing predicts.

    Raises:
        ParameterError: nothing that predicts has this name.
    """
    names, entries = iter(opened), {}
    for entry in config.opened:  # each has a name at every strength of its prior; maps have one
        entries[entry] = name = next(names)
        for _ in config.prior_strengths[1:] if not isinstance(opened[name], MapFolder) else ():
            next(names)
    predicting = [*opened, *(each for each in config.rows if each not in (PEOPLE, GROUND_TRUTH))]
    name = entries.get(config.cases_of, config.cases_of) or next(iter(predicting), "")
    expected = f"empty, or one of {', '.join(dict.fromkeys([*entries, *predicting]))}"
    with option_names():
        require("cases_of", config.cases_of, name in ["", *predicting], expected)
    return name


def _cases(
    parts: Sequence[Part], scores: Sequence[Score], config: EvaluateConfig, of: str
) -> dict[str, Sequence[CaptionedPicture]]:
    """The report's pictures by heading."""
    if of not in parts[0].predictors:  # nothing predicts, or the records have no mean map
        of = next(iter(parts[0].predictors), "")
    if not of:
        return {}
    places = [Place(part.records, i, part.predictors) for part in parts for i in range(len(part.records))]
    shown = Shown(places, scores, config.protocols[0], of)
    return {**side_by_side(shown, config.examples), **worst_and_best_cases(shown, config.cases)}


def open_models(models: Sequence[str], prior_strengths: Sequence[float]) -> dict[str, Predict | MapFolder]:
    """Every model at every strength of its own equator prior, and every folder of maps, by its name in tables.

    Raises:
        ModelError, CheckpointError, DataError: a model is missing or damaged, or a folder has no maps.
        ParameterError: two models have the same name, or a model has no prior to change.
    """
    opened: dict[str, Predict | MapFolder] = {}
    for name, model in _named_models(models, prior_strengths):
        if name in opened or name in _NOT_MODELS:
            found = (
                f"two models have the name {name}" if name in opened else f"a model has the name {name}, a baseline's"
            )
            raise ParameterError(found, "rename a file or folder, or list each model once in --models")
        opened[name] = model
    return opened


def _named_models(models: Iterable[str], prior_strengths: Sequence[float]) -> Iterator[tuple[str, Predict | MapFolder]]:
    for model in models:
        if not named_weights(model) and is_map_folder(model):
            folder = MapFolder(model)
            yield folder.name, folder
            continue
        for strength in prior_strengths:
            with option_names(strength="prior_strengths"):
                predictor = _read_predictor(model, strength)
            yield predictor.name if strength == 1 else f"{predictor.name}, prior × {strength:g}", predictor.predict


def _read_predictor(model: str, strength: float) -> TrainedPredictor:
    try:
        return read_predictor(model, strength)
    except ModelError as error:
        if named_weights(model) or Path(model).exists():
            raise
        others = f"a model file, a checkpoint, a folder of maps, or one of {', '.join(_NOT_MODELS)}"
        raise ModelError(error.found, f"pass {', '.join(MODEL_NAMES)}, {others}") from None


def _open_split(data: GazeConfig, config: EvaluateConfig) -> GazeSplit:
    with option_names("data"):
        return open_gaze(data, config.panorama_height, config.fov_deg)


def _limited(splits: Sequence[GazeSplit], limit: int) -> list[GazeSplit]:
    """The splits with at most `limit` records to measure in all, spread evenly; 0: all.

    Splits that keep none are left out.
    """
    if not limit:
        return list(splits)
    limited, first = [], 0
    chosen = spread(sum(len(split.measuring) for split in splits), limit)
    for split in splits:
        own = [i - first for i in chosen if first <= i < first + len(split.measuring)]
        first += len(split.measuring)
        if own:
            limited.append(split._replace(measuring=GazeSubset(split.measuring, own)))
    return limited


def _to_turn(records: GazeRecords, count: int) -> list[GazeRecord]:
    """The records on which models see the panorama turned: neighbours are often frames of one video."""
    return evenly(records, count)


def _fitted(split: GazeSplit, opened: Mapping[str, Predict | MapFolder], config: EvaluateConfig) -> Part:
    by_name = sorted(range(len(split.training)), key=split.training.names.__getitem__)
    priors = fit_priors(GazeSubset(split.training, by_name), config.prior_limit)
    laplace = priors.laplace
    fit = f"equator prior fitted to the rest: {laplace.mean_deg:.1f}°, scale {laplace.scale_deg:.1f}°"
    predictors = {
        name: each.predict if isinstance(each, MapFolder) else seeing(one_at_a_time(each))
        for name, each in opened.items()
    }
    baselines = open_baselines(config.rows, priors, equatorial_prior=config.equatorial_prior)
    return Part(
        split.measuring,
        f"{split.description} ({fit})",
        predictors | {name: seeing(each) for name, each in baselines.items()},
        Reference(laplace.density(256), priors.of_picture),
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _scenes(parts: Sequence[Part]) -> tuple[dict[str, str], list[str]]:
    """The scene of each record, by its name, and a remark if the data set does not say it."""
    places = [(part.records, i) for part in parts for i in range(len(part.records))]
    names = [records.names[i] for records, i in places]
    known = [scene for part in parts for scene in part.records.scenes]
    numbers = scene_numbers(known, lambda i: places[i][0][places[i][1]].panorama())
    labels = {int(number): scene for number, scene in zip(numbers, known, strict=True) if scene}
    scene_of = {name: labels.get(int(n), f"scene {n}") for name, n in zip(names, numbers, strict=True)}
    unknown = known.count("")
    if not unknown:
        return scene_of, []
    found = len(set(numbers.tolist()))
    remark = (
        f"the data set does not say which scenes {unknown} of {len(names)} records show: records that look alike were "
        f"counted as one scene, {found} in all; --data.scenes FILE.csv (columns name and scene) says it exactly"
    )
    return scene_of, [remark]


def _folds(config: EvaluateConfig) -> list[GazeConfig]:
    if not config.every_fold:
        return [config.data]
    return [dataclasses.replace(config.data, fold=fold) for fold in range(config.data.folds)]


def _measure(part: Part, config: EvaluateConfig) -> Iterator[Score]:
    def of_record(index: int) -> list[Score]:
        record = part.records[index]
        panorama = cache(record.panorama)  # maps that others wrote do not need it
        scores: list[Score] = []
        for name, predict in part.predictors.items():
            scores += score(name, predict(record, panorama), record, config.protocols, part.reference)
        if PEOPLE in config.rows:
            scores += score_people(record, part.records.sigma_deg, config.protocols, part.reference)
        if GROUND_TRUTH in config.rows and record.density is not None:
            scores += score(GROUND_TRUTH, RecordedGaze(record), record, config.protocols, part.reference)
        return scores

    count = len(part.records)
    for scores in tqdm(in_threads(count, of_record, config.threads), "measure", count, unit="record", disable=None):
        yield from scores


def main() -> None:
    """The command `python -m training.evaluate`."""
    evaluate(read_config(EvaluateConfig, "Measure models and baselines against human gaze."))


if __name__ == "__main__":
    sys.exit(one_line_errors(main))
