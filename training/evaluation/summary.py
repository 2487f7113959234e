"""Means, standard deviations and bootstrap intervals over records, as a table and as CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sal360.arrays import Floats
from sal360.metrics import METRICS
from training.evaluation.scoring import COLUMNS, INFORMATION_GAIN, Score
from training.evaluation.turning import Turned

NAMES = {**{name: metric.label for name, metric in METRICS.items()}, INFORMATION_GAIN: "IG (bit)"}
"""Headings of the metrics in tables and plots."""


@dataclass(frozen=True)
class Summary:
    """One metric of one model by one protocol, over all records that have it."""

    model: str
    protocol: str
    metric: str
    count: int
    """Number of records."""
    scenes: int
    """Number of scenes that they show."""
    mean: float
    deviation: float
    """Sample standard deviation (n − 1); NaN for one record."""
    low: float
    """Lower end of the 95 % interval of the mean; NaN for one scene, which does not tell how others differ."""
    high: float
    """Upper end of that interval."""


def summarise(scores: Sequence[Score], draws: int, seed: int, scene_of: Mapping[str, str]) -> list[Summary]:
    """Summaries, in the order in which models and protocols first occur.

    Args:
        scores: the scores of any number of models.
        draws: number of bootstrap samples. Whole scenes are drawn: frames of one scene stay together, because they are
            not independent samples.
        seed: seed of the bootstrap; every model gets the same draws.
        scene_of: scene of each record, by its name; records that are missing are scenes of their own.
    """
    summaries = []
    for model, protocol in dict.fromkeys((each.model, each.protocol) for each in scores):
        of_model = [each for each in scores if (each.model, each.protocol) == (model, protocol)]
        for metric in COLUMNS:
            scored = [each for each in of_model if metric in each.values]
            if not scored:
                continue
            values = np.array([each.values[metric] for each in scored])
            groups = [scene_of.get(each.record, each.record) for each in scored]
            deviation = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
            low, high = bootstrap_interval(values, groups, draws, seed)
            mean, scenes = float(values.mean()), len(set(groups))
            summaries.append(Summary(model, protocol, metric, len(values), scenes, mean, deviation, low, high))
    return summaries


def bootstrap_interval(values: Floats, groups: Sequence[str], draws: int, seed: int) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean of `values` (n,), drawing whole groups with replacement.

    NaN for one group.
    """
    _, group = np.unique(groups, return_inverse=True)
    if group.max() == 0:
        return float("nan"), float("nan")
    sums, counts = np.bincount(group, values), np.bincount(group)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(draws, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class Table:
    """The summaries of one protocol: a row for each model, a column for each metric."""

    metrics: Sequence[str]
    rows: Mapping[str, Mapping[str, Summary]]
    """Model → metric → summary; a metric that the model's records do not support is missing."""

    @property
    def records(self) -> int:
        """The largest number of records behind a cell."""
        return max((each.count for row in self.rows.values() for each in row.values()), default=0)

    @property
    def scenes(self) -> int:
        """The largest number of scenes behind a cell."""
        return max((each.scenes for row in self.rows.values() for each in row.values()), default=0)


def tabulate(summaries: Sequence[Summary], protocol: str) -> Table:
    """The summaries of one protocol as a table."""
    rows: dict[str, dict[str, Summary]] = {}
    for each in summaries:
        if each.protocol == protocol:
            rows.setdefault(each.model, {})[each.metric] = each
    return Table([metric for metric in COLUMNS if any(metric in row for row in rows.values())], rows)


def text_table(summaries: Sequence[Summary], protocol: str) -> str:
    """A Markdown table, one model per row: mean ± standard deviation [interval of the mean]."""
    table = tabulate(summaries, protocol)
    rows = [["model", *(NAMES[metric] for metric in table.metrics)]]
    for model, row in table.rows.items():
        rows.append([model, *(_cell(row.get(metric)) for metric in table.metrics)])
    return markdown(rows)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first one the header, as a Markdown table with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _cell(summary: Summary | None) -> str:
    if summary is None:
        return "–"
    return f"{summary.mean:.3f} ± {number(summary.deviation)} {interval(summary.low, summary.high)}"


def interval(low: float, high: float) -> str:
    """An interval as tables show it; of one scene, none is known."""
    return f"[{number(low)}, {number(high)}]"


def number(value: float) -> str:
    """A figure as tables show it; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.3f}"


def scores_csv(scores: Iterable[Score], scene_of: Mapping[str, str]) -> str:
    """One line for each model, record and protocol, with the record's scene."""
    rows = [
        {
            "model": each.model,
            "record": each.record,
            "scene": scene_of.get(each.record, each.record),
            "protocol": each.protocol,
            **each.values,
        }
        for each in scores
    ]
    return _csv(["model", "record", "scene", "protocol", *COLUMNS], rows)


def summaries_csv(summaries: Iterable[Summary]) -> str:
    """One line for each model, protocol and metric."""
    rows = [
        {
            "model": each.model,
            "protocol": each.protocol,
            "metric": each.metric,
            "records": each.count,
            "scenes": each.scenes,
            "mean": each.mean,
            "standard_deviation": each.deviation,
            "low_95": each.low,
            "high_95": each.high,
        }
        for each in summaries
    ]
    return _csv(list(rows[0]) if rows else [], rows)


def turned_csv(results: Iterable[Turned]) -> str:
    """One line for each model, record and turn."""
    return _csv([each.name for each in dataclasses.fields(Turned)], [dataclasses.asdict(each) for each in results])


def _csv(columns: list[str], rows: Sequence[dict[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
