"""The evaluation as one HTML file that contains its plots and pictures; `report.html.jinja` is the page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sal360.metrics import METRICS
from training.data.gaze.records import GazeRecords, spread
from training.evaluation.figures import draw_case, draw_distributions, draw_turning
from training.evaluation.predictions import Predictor
from training.evaluation.scoring import GROUND_TRUTH, LARGER_IS_BETTER, PEOPLE, Score
from training.evaluation.summary import NAMES, Summary, Table, number, tabulate
from training.evaluation.turning import Turned

_NOTES = {
    "standard": "Against the prediction only; every pixel weighted by its solid angle. Ties of the AUC count half.",
    "paper": "As in the paper's evaluation, for comparison with its tables: both maps at 1024 × 2048 times the sine of "
    "the colatitude, scaled to [0, 1]; CC, SIM and KLD averaged over both orders; half of AUC and NSS is the ground "
    "truth's own score against the other half of the observers and does not depend on the model.",
    "planar": "As in benchmarks of photographs: every pixel of the picture counts the same. A photograph is measured "
    "in its own plane, a panorama as it is stored. KLD has the benchmark's epsilon: gaze on a 0 costs up to 36 nats.",
}


class CaptionedPicture(NamedTuple):
    """A PNG or JPEG file with its caption."""

    caption: str
    picture: bytes


def render_report(
    title: str,
    about: str,
    notes: Sequence[str] = (),
    *,
    scores: Sequence[Score],
    summaries: Sequence[Summary],
    turned: Sequence[Turned],
    cases: Mapping[str, Sequence[CaptionedPicture]],
) -> str:
    """The page: a table and a plot for each protocol in `scores`, the turned input, and the cases by heading.

    `notes` are about the maps that other models wrote.
    """
    from jinja2 import Environment, PackageLoader  # imported here, so that training alone does not need it

    protocols = list(dict.fromkeys(each.protocol for each in scores))
    tables = {protocol: tabulate(summaries, protocol) for protocol in protocols}
    environment = Environment(loader=PackageLoader("training.evaluation", "."), autoescape=True)
    environment.filters |= {"data_url": _data_url, "number": number}
    page = environment.get_template("report.html.jinja").render(
        title=title,
        about=about,
        tables=tables,
        best={protocol: _best_means(table) for protocol, table in tables.items()},
        distributions={protocol: draw_distributions(scores, protocol) for protocol in protocols},
        turning=draw_turning(turned) if turned else None,
        turned_records=len({each.record for each in turned}),
        cases=cases,
        map_notes=notes,
        notes=_NOTES,
        names=NAMES,
        larger_is_better=LARGER_IS_BETTER,
        people=PEOPLE,
    )
    return page + "\n"


def worst_and_best_cases(
    records: GazeRecords, predictors: Mapping[str, Predictor], scores: Sequence[Score], protocol: str, count: int
) -> dict[str, list[CaptionedPicture]]:
    """Pictures of the `count` worst and best records of the first predictor, by KLD or, without densities, by NSS."""
    if not predictors:
        return {}
    first = next(iter(predictors))
    values_of = {each.record: each.values for each in scores if (each.model, each.protocol) == (first, protocol)}
    by_kld = all("kld" in values for values in values_of.values())
    metric = "kld" if by_kld else "nss"
    best_first = sorted(
        (index for index, name in enumerate(records.names) if metric in values_of[name]),
        key=lambda index: values_of[records.names[index]][metric] * (1 if by_kld else -1),
    )
    chosen = {
        f"Worst cases of {first}": best_first[::-1][:count],
        f"Best cases of {first}": best_first[:count],
    }
    return {
        heading: [_case(records, index, predictors, scores, protocol) for index in indices]
        for heading, indices in chosen.items()
        if indices
    }


def side_by_side(
    records: GazeRecords, predictors: Mapping[str, Predictor], scores: Sequence[Score], protocol: str, count: int
) -> dict[str, list[CaptionedPicture]]:
    """Pictures of at most `count` records, spread evenly: the picture, the truth and the map of each predictor."""
    if not predictors or count == 0:
        return {}
    cases = [_case(records, each, predictors, scores, protocol) for each in spread(len(records), count)]
    return {"Maps side by side": cases}


def _case(
    records: GazeRecords, index: int, predictors: Mapping[str, Predictor], scores: Sequence[Score], protocol: str
) -> CaptionedPicture:
    """The maps of one record, each with its first figure, and all figures of the first predictor in the caption."""
    record = records[index]
    values = {each.model: each.values for each in scores if (each.record, each.protocol) == (record.name, protocol)}
    first = next(iter(predictors))
    caption = ", ".join(f"{NAMES[metric]} {values[first][metric]:.2f}" for metric in METRICS if metric in values[first])
    metric = "cc" if "cc" in values[first] else "nss"
    titles = {name: f"{name}: {NAMES[metric]} {each[metric]:.2f}" for name, each in values.items() if metric in each}
    return CaptionedPicture(f"{record.name}: {first} has {caption}", draw_case(record, predictors, titles))


def _best_means(table: Table) -> dict[str, float]:
    """For each metric the best mean of all rows that predict from the picture; NaN, which equals nothing, if none."""
    best = {}
    for metric in table.metrics:
        means = [
            summaries[metric].mean
            for model, summaries in table.rows.items()
            if metric in summaries and model not in (PEOPLE, GROUND_TRUTH)
        ]
        best[metric] = (max if LARGER_IS_BETTER[metric] else min)(means, default=float("nan"))
    return best


def _data_url(picture: bytes) -> str:
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
