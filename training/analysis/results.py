"""The results of an analysis: numbers as CSV and a figure as PNG, in one folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sal360.files import write_text, written_beside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENCODER_COLOURS = ("navy", "red", "darkorange", "seagreen", "purple", "saddlebrown", "deeppink", "grey")
"""The first two are those of the paper's Figure 5: VGG16 navy, ResNet50 red."""


def write_results(folder: str | Path, name: str, rows: Sequence[Mapping[str, Any]], figure: Figure) -> None:
    """Write FOLDER/NAME.csv and FOLDER/NAME.png and print their paths.

    Args:
        folder: where to write; created if missing.
        name: stem of both files.
        rows: the numbers; all rows have the keys of the first, which become the header.
        figure: the figure.

    Raises:
        OSError: they cannot be written.
    """
    table, picture = Path(folder) / f"{name}.csv", Path(folder) / f"{name}.png"
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(table, text.getvalue())
    with written_beside(picture) as temporary:
        figure.savefig(temporary, dpi=120)
    print(f"wrote {table} and {picture}")


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty matplotlib figure that needs no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained")
