"""The evaluation as one HTML file that needs nothing else: tables, plots, worst and best cases."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

from sal360.metrics import METRICS
from training.evaluation.scoring import COLUMNS, GROUND_TRUTH, LARGER_IS_BETTER, PEOPLE
from training.evaluation.summary import NAMES, Summary

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1500px; margin: 2em auto; padding: 0 1.5em; color: #1b1b1f }
table { border-collapse: collapse; margin: 1em 0 } th, td { padding: .35em .8em; text-align: right }
th:first-child, td:first-child { text-align: left } tbody tr:nth-child(odd) { background: #f4f4f7 }
td small { display: block; color: #666 } td.best { font-weight: 700 }
img { max-width: 100%; display: block; margin: .6em 0 }
figcaption { color: #444 } h2 { margin-top: 2em }
"""
_NOTES = {
    "standard": "Against the prediction only; every pixel weighted by its solid angle. Ties of the AUC count half.",
    "paper": "As the paper's evaluation did it, to stand beside its tables: both maps at 1024 × 2048 times the sine of "
    "the colatitude, scaled to [0, 1]; CC, SIM and KLD averaged over both orders; half of AUC and NSS is the ground "
    "truth's own score against the other half of the observers and does not depend on the model.",
}


def render_report(title: str, description: Sequence[str], parts: Iterable[str]) -> str:
    """A whole page; `parts` are HTML."""
    about = "".join(f"<p>{html.escape(each)}</p>" for each in description)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>{about}{''.join(parts)}</html>\n"
    )


def table_part(summaries: Sequence[Summary], protocol: str) -> str:
    """The table of one protocol: mean ± standard deviation, and below it the interval of the mean."""
    mine = [each for each in summaries if each.protocol == protocol]
    columns = [metric for metric in COLUMNS if any(each.metric == metric for each in mine)]
    best = {metric: _best([each for each in mine if each.metric == metric], metric) for metric in columns}
    head = "".join(f"<th>{NAMES[metric]} {'↑' if LARGER_IS_BETTER[metric] else '↓'}</th>" for metric in columns)
    rows = []
    for model in dict.fromkeys(each.model for each in mine):
        of_model = {each.metric: each for each in mine if each.model == model}
        cells = "".join(_cell(of_model.get(metric), best[metric]) for metric in columns)
        rows.append(f"<tr><td>{html.escape(model)}</td>{cells}</tr>")
    count = max((each.count for each in mine), default=0)
    return (
        f"<h2>Scores, {protocol} protocol</h2><p>{_NOTES[protocol]} Mean ± standard deviation over {count} records; "
        f"below it the 95 % bootstrap interval of the mean; bold: the best prediction from the picture alone. The row "
        f"“{PEOPLE}” is measured against the gaze of the other half of the people.</p>"
        f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def picture_part(heading: str, caption: str, pictures: Iterable[bytes]) -> str:
    """Pictures (PNG or JPEG bytes) below a heading; an empty heading continues the part before."""
    images = "".join(
        f'<img src="data:image/{_kind(each)};base64,{base64.b64encode(each).decode()}">' for each in pictures
    )
    title = f"<h2>{html.escape(heading)}</h2>" if heading else ""
    return f"{title}<figure><figcaption>{html.escape(caption)}</figcaption>{images}</figure>"


def case_caption(values: dict[str, float]) -> str:
    """The scores of one case in one line."""
    return ", ".join(f"{NAMES[metric]} {values[metric]:.2f}" for metric in METRICS if metric in values)


def _best(summaries: Sequence[Summary], metric: str) -> float:
    """The best mean among what predicts from the picture; NaN, which equals nothing, where nothing does."""
    means = [each.mean for each in summaries if each.model not in (PEOPLE, GROUND_TRUTH)]
    return (max if LARGER_IS_BETTER[metric] else min)(means, default=float("nan"))


def _cell(summary: Summary | None, best: float) -> str:
    if summary is None:
        return "<td>–</td>"
    mark = ' class="best"' if summary.mean == best else ""
    interval = f"<small>{summary.low:.3f} … {summary.high:.3f}</small>"
    return f"<td{mark}>{summary.mean:.3f} ± {summary.deviation:.3f}{interval}</td>"


def _kind(picture: bytes) -> str:
    return "png" if picture.startswith(b"\x89PNG") else "jpeg"
