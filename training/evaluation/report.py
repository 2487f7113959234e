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


class Place(NamedTuple):
    """Where a record is, and what predicts it: each part of an evaluation has baselines fitted to other records."""

    records: GazeRecords
    number: int
    """Of the record among them, from 0."""
    predictors: Mapping[str, Predictor]
    """Models, maps and baselines by their names in tables."""

    @property
    def name(self) -> str:
        """The record's name."""
        return self.records.names[self.number]


class Shown(NamedTuple):
    """What the pictures of an evaluation show."""

    places: Sequence[Place]
    """All records."""
    scores: Sequence[Score]
    protocol: str
    """The protocol whose figures stand in titles and captions."""
    of: str
    """The name of the predictor whose worst and best records are shown, and whose figures stand in the captions."""


def worst_and_best_cases(shown: Shown, count: int) -> dict[str, list[CaptionedPicture]]:
    """Pictures of the `count` records with the highest KLD, with the lowest NSS, and of the best by KLD.

    Without densities, NSS alone decides; without fixations, KLD.
    """
    own = (each for each in shown.scores if (each.model, each.protocol) == (shown.of, shown.protocol))
    values_of = {each.record: each.values for each in own}

    def best_first(metric: str, sign: int) -> list[Place]:
        known = [place for place in shown.places if metric in values_of[place.name]]
        return sorted(known, key=lambda place: sign * values_of[place.name][metric])

    by_kld, by_nss = best_first("kld", 1), best_first("nss", -1)
    best, metric = (by_kld, "KLD") if by_kld else (by_nss, "NSS")
    chosen = {
        f"Worst cases of {shown.of}: highest KLD": by_kld[::-1][:count],
        f"Worst cases of {shown.of}: lowest NSS": by_nss[::-1][:count],
        f"Best cases of {shown.of}, by {metric}": best[:count],
    }
    return {heading: [_case(shown, each) for each in places] for heading, places in chosen.items() if places}


def side_by_side(shown: Shown, count: int) -> dict[str, list[CaptionedPicture]]:
    """Pictures of at most `count` records, spread evenly: the picture, the truth and the map of each predictor."""
    if count == 0:
        return {}
    return {"Maps side by side": [_case(shown, shown.places[each]) for each in spread(len(shown.places), count)]}


def _case(shown: Shown, place: Place) -> CaptionedPicture:
    """The maps of one record, that of `shown.of` first, each with a figure, and all figures of that one below."""
    scores = (each for each in shown.scores if (each.record, each.protocol) == (place.name, shown.protocol))
    values = {each.model: each.values for each in scores}
    own = values[shown.of]
    caption = ", ".join(f"{NAMES[metric]} {own[metric]:.2f}" for metric in METRICS if metric in own)
    metric = "cc" if "cc" in own else "nss"
    titles = {name: f"{name}: {NAMES[metric]} {each[metric]:.2f}" for name, each in values.items() if metric in each}
    predictors = {shown.of: place.predictors[shown.of], **place.predictors}
    record = place.records[place.number]
    return CaptionedPicture(f"{place.name}: {shown.of} has {caption}", draw_case(record, predictors, titles))


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
