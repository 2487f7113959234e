"""The results of an analysis: numbers as CSV and a figure as PNG, in one folder."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

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
    save_figure(figure, picture, dpi=120)
    print(f"wrote {table} and {picture}")


def save_figure(figure: Figure, file: Path | BinaryIO, *, dpi: int) -> None:
    """Write a figure as PNG, a file completely or not at all; letters that the font lacks become boxes.

    Raises:
        OSError: it cannot be written.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ ")
        if isinstance(file, Path):
            with written_beside(file) as temporary:
                figure.savefig(temporary, dpi=dpi)
        else:
            figure.savefig(file, dpi=dpi)


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty matplotlib figure that needs no display, and shows names with $ as they are."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["text.parse_math"] = False
    return Figure(figsize=(width_in, height_in), layout="constrained")
