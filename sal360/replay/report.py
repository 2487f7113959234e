"""What a run leaves behind: report.html, report.json and frames.csv."""

from __future__ import annotations

import base64
import csv
import dataclasses
import html
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

from sal360.files import write_text
from sal360.replay.figures import Requirement, meaning
from sal360.replay.frame_table import FrameRow


@dataclass(frozen=True)
class Report:
    """All that is said of one run."""

    about: Mapping[str, str]
    """What ran: bag (its path), topic, mode, model, …"""
    figures: Mapping[str, float]
    rows: Sequence[FrameRow]
    requirements: Sequence[Requirement]
    remarks: Sequence[str] = ()
    """What a reader must know: a damaged bag, ground truth that belongs to no frame."""
    node: Mapping[str, str] = field(default_factory=dict)
    """The diagnostics of a live run's node, after its last frame."""

    @property
    def unmet(self) -> list[Requirement]:
        """The requirements that do not hold."""
        return [each for each in self.requirements if not each.holds(self.figures)]

    @property
    def rejected(self) -> Counter[str]:
        """Rejected frames by reason."""
        return Counter(row.reason for row in self.rows if row.status == "rejected")


def write_json(report: Report, path: Path) -> None:
    """Write the figures and what they are of; numbers that are not finite become null."""
    content: dict[str, Any] = {
        "about": dict(report.about),
        "figures": {name: value if math.isfinite(value) else None for name, value in report.figures.items()},
        "rejected": dict(report.rejected),
        "requirements": [{"requirement": str(each), "met": each.holds(report.figures)} for each in report.requirements],
        "remarks": list(report.remarks),
        "node": dict(report.node),
    }
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_csv(rows: Sequence[FrameRow], path: Path) -> None:
    """Write one line a frame; unknown values are empty, and each score has a column."""
    scores = sorted({name for row in rows for name in row.scores})
    names = [each.name for each in dataclasses.fields(FrameRow) if each.name != "scores"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names + scores)
    for row in rows:
        writer.writerow([getattr(row, name) for name in names] + [row.scores.get(name) for name in scores])
    write_text(path, text.getvalue())


def write_html(report: Report, plots: Mapping[str, bytes], sheet: bytes | None, video: str, path: Path) -> None:
    """Write the page: one file with its pictures inside; only the video lies beside it.

    Args:
        plots: PNG files by title.
        sheet: JPEG file of some overlays.
        video: name of the video in the same folder, "" where there is none.
    """
    figures = {name: (f"{value:.4g}", meaning(name)) for name, value in report.figures.items()}
    met = {True: "met", False: "not met"}
    requirements = {
        str(each): (f"{report.figures.get(each.figure, math.nan):.4g}", met[each.holds(report.figures)])
        for each in report.requirements
    }
    parts = [
        _table({name: (value,) for name, value in report.about.items()}),
        "".join(f'<p class="remark">{html.escape(remark)}</p>' for remark in report.remarks),
        "<h2>Requirements</h2>" + _table(requirements) if requirements else "",
        "<h2>Overlays</h2>" + _picture(sheet, "jpeg", "overlays of some frames") if sheet else "",
        f'<video controls src="{html.escape(video)}"></video>' if video else "",
        "<h2>Figures</h2>" + _table(figures),
        "<h2>Rejected frames</h2>" + _table({name: (str(count),) for name, count in report.rejected.items()})
        if report.rejected
        else "",
        "<h2>The node's own diagnostics, at the end</h2>" + _table({key: (each,) for key, each in report.node.items()})
        if report.node
        else "",
        *(f"<h2>{html.escape(title)}</h2>{_picture(png, 'png', title)}" for title, png in plots.items()),
    ]
    title = f"Replay of {Path(report.about['bag']).name}"
    write_text(path, _PAGE.substitute(title=html.escape(title), body="\n".join(part for part in parts if part)))


def _table(rows: Mapping[str, tuple[str, ...]]) -> str:
    lines = (
        f"<tr><th>{html.escape(name)}</th>" + "".join(f"<td>{html.escape(each)}</td>" for each in values) + "</tr>"
        for name, values in rows.items()
    )
    return f"<table>{''.join(lines)}</table>"


def _picture(content: bytes, kind: str, alternative: str) -> str:
    data = base64.b64encode(content).decode()
    return f'<img alt="{html.escape(alternative)}" src="data:image/{kind};base64,{data}">'


_PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>$title</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #1a202c; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } th { text-align: left; font-weight: 600; }
th, td { padding: .15rem 1rem .15rem 0; vertical-align: top; border-bottom: 1px solid #e2e8f0; }
td:nth-child(2) { font-variant-numeric: tabular-nums; } td:nth-child(3) { color: #4a5568; }
img, video { max-width: 100%; display: block; } .remark { border-left: 4px solid #c05621; padding-left: .7rem; }
</style>
<h1>$title</h1>
$body
</html>
""")
