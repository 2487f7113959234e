"""The files that a run writes: report.html, report.json and frames.csv."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sal360.files import write_text
from sal360.replay.figures import Requirement, meaning
from sal360.replay.frame_table import FrameResult


@dataclass(frozen=True)
class Report:
    """Everything that is reported about one run."""

    about: Mapping[str, str]
    """Description of the run: bag or video (its path) first, then topic, mode, model, …"""
    figures: Mapping[str, float]
    results: Sequence[FrameResult]
    """One for each frame."""
    requirements: Sequence[Requirement]
    remarks: Sequence[str] = ()
    """Remarks that the reader must know: a damaged bag, ground truth that belongs to no frame."""
    node: Mapping[str, str] = field(default_factory=dict)
    """The live node's diagnostics after its last frame."""

    @property
    def unmet(self) -> list[Requirement]:
        """The requirements that do not hold."""
        return [each for each in self.requirements if not each.holds(self.figures)]

    @property
    def rejected(self) -> Counter[str]:
        """Number of rejected frames by reason."""
        return Counter(each.reason for each in self.results if each.status == "rejected")


def write_json(report: Report, path: Path) -> None:
    """Write everything except the table; numbers that are not finite become null."""
    content: dict[str, Any] = {
        "about": dict(report.about),
        "figures": {name: value if math.isfinite(value) else None for name, value in report.figures.items()},
        "rejected": dict(report.rejected),
        "requirements": [{"requirement": str(each), "met": each.holds(report.figures)} for each in report.requirements],
        "remarks": list(report.remarks),
        "node": dict(report.node),
    }
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def recording_of(report_json: Path) -> Path | None:
    """The recording that a report belongs to; None if there is no report."""
    try:
        about = json.loads(report_json.read_text(encoding="utf-8"))["about"]
        return Path(about["bag"] if "bag" in about else about["video"])
    except FileNotFoundError:
        return None
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        RecursionError,
    ):  # another kind of file, which must not be overwritten either
        return Path(os.devnull)


def write_csv(results: Sequence[FrameResult], path: Path) -> None:
    """Write a line for each frame; unknown values are empty, and each score has its own column."""
    scores = sorted({name for each in results for name in each.scores})
    names = [each.name for each in dataclasses.fields(FrameResult) if each.name != "scores"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names + scores)
    for each in results:
        writer.writerow([getattr(each, name) for name in names] + [each.scores.get(name) for name in scores])
    write_text(path, text.getvalue())


def write_html(
    report: Report, plots: Mapping[str, bytes], sheet: bytes | None, video: str, spheres: str, path: Path
) -> None:
    """Write the page: one file that contains its pictures; only the video and the spheres are separate files.

    Args:
        plots: PNG files by title.
        sheet: JPEG file with some overlays.
        video: name of the video in the same folder; "" if there is none.
        spheres: name of the page in the same folder that shows some frames as spheres; "" if there is none.
    """
    from jinja2 import Environment, PackageLoader  # imported here, so that only a replay needs jinja2

    environment = Environment(loader=PackageLoader("sal360.replay", "."), autoescape=True)
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    environment.filters["four_digits"] = _four_digits
    page = environment.get_template("report.html.jinja").render(
        title=f"Replay of {Path(next(iter(report.about.values()))).name}",
        report=report,
        plots=plots,
        sheet=sheet,
        video=video,
        spheres=spheres,
        meaning=meaning,
    )
    write_text(path, page + "\n")


def _four_digits(value: float | None) -> str:
    return "nan" if value is None else f"{value:.4g}"
