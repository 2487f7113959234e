"""Photographs of any size with fixations: `stimuli/*` and `fixations.npz`, the format of OSIE and most other data sets.

docs/gaze_data.md describes the file and how to create it from published data.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sal360.errors import DataError
from training.data.gaze.dataset_files import Inventory, check_picture, require_folder
from training.data.gaze.photographs import COPY_AGAIN, Photograph, read_table, size_of, stimulus

INDEX = "fixations.npz"
_COLUMNS = ("image", "subject", "x", "y", "names")
_OPTIONAL = ("duration_ms", "size_hw")
_OF_PICTURES = ("names", "size_hw")


def read_photographs(root: str | Path) -> list[Photograph]:
    """All photographs of a data set, in the order of its index.

    Raises:
        DataError: the index is missing or malformed, a photograph is missing, or a fixation lies outside the picture.
    """
    root = Path(root)
    index = root / INDEX
    table = read_table(index, _COLUMNS, _OPTIONAL)
    _check_rows(table, index)
    photographs = []
    for i, name in enumerate(table["names"]):
        path = stimulus(root, str(name), index)
        height, width = table["size_hw"][i].tolist() if "size_hw" in table else size_of(path)
        mine = table["image"] == i
        duration = table["duration_ms"][mine] if "duration_ms" in table else np.full(mine.sum(), np.nan)
        photograph = Photograph(
            str(name), path, height, width, table["x"][mine], table["y"][mine], table["subject"][mine], duration
        )
        _check_inside(photograph, index)
        photographs.append(photograph)
    return photographs


def _check_rows(table: Mapping[str, NDArray[Any]], index: Path) -> None:
    lengths = {len(values) for name, values in table.items() if name not in _OF_PICTURES}
    if len(lengths) != 1:
        raise DataError(f"{index} has columns of {sorted(lengths)} rows", COPY_AGAIN, expected="columns of one length")
    pictures = len(table["names"])
    if "size_hw" in table and (table["size_hw"].shape != (pictures, 2) or (table["size_hw"] < 1).any()):
        expected = f"({pictures}, 2), rows and columns of each picture, from 1"
        raise DataError(f"{index} has size_hw of shape {table['size_hw'].shape}", COPY_AGAIN, expected=expected)
    if len(table["image"]) and not 0 <= table["image"].min() <= table["image"].max() < pictures:
        raise DataError(f"{index} has fixations on images without a name", COPY_AGAIN)


def _check_inside(photograph: Photograph, index: Path) -> None:
    x, y = photograph.x, photograph.y
    inside = (x >= 0) & (x <= photograph.width) & (y >= 0) & (y <= photograph.height)
    if not inside.all():  # NaN is never inside
        first = int(np.flatnonzero(~inside)[0])
        raise DataError(
            f"{index} has a fixation at ({x[first]:g}, {y[first]:g}) in {photograph.name}",
            COPY_AGAIN,
            expected=f"one inside {photograph.width} x {photograph.height}",
        )


def inventory(root: str | Path, *, photographs: int = 0, fixations: int = 0, people: int = 0) -> Inventory:
    """The contents of a copy: every photograph in the index, and the numbers of the complete data set, if known."""
    folder = require_folder(root)
    found = Inventory()
    try:
        read = read_photographs(folder)
    except DataError as error:
        found.count("photographs", 0, photographs)
        found.problems.append(error.found)
        return found
    for each in read:
        found.try_file(partial(check_picture, each.path))
    found.count("photographs", len(read), photographs)
    found.count("fixations", sum(len(each.x) for each in read), fixations)
    found.count("people", len({int(person) for each in read for person in each.subject}), people)
    return found
