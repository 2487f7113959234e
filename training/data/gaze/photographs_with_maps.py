"""Photographs of any size with maps of gaze: `stimuli/*` and `maps.npz`, for data sets that publish no fixations.

docs/gaze_data.md describes the file and how to create it from published data.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from sal360.errors import DataError
from training.data.gaze.dataset_files import Inventory, check_picture, require_folder
from training.data.gaze.photographs import COPY_AGAIN, LARGEST_MAP_VALUE, Photograph, read_table, size_of, stimulus

INDEX = "maps.npz"


def read_photographs(root: str | Path) -> list[Photograph]:
    """All photographs of a data set, in the order of its index.

    Raises:
        DataError: the index is missing or malformed, or a photograph is missing.
    """
    root = Path(root)
    index = root / INDEX
    table = read_table(index, ("names", "maps"))
    names, maps = table["names"], table["maps"]
    if len(maps) != len(names) or maps.size == 0:
        expected = f"({len(names)}, h, w), one for each name"
        raise DataError(f"{index} has maps of shape {maps.shape}", COPY_AGAIN, expected=expected)
    none, nobody = np.zeros(0, np.float32), np.zeros(0, np.int64)
    photographs = []
    for name, gaze_map in zip(names.tolist(), maps, strict=True):
        if (
            not 0 <= float(gaze_map.min()) <= float(gaze_map.max()) < LARGEST_MAP_VALUE or not gaze_map.any()
        ):  # NaN is no value
            raise DataError(f"the map of {name} in {index} is invalid", COPY_AGAIN, expected="values from 0, not all 0")
        path = stimulus(root, str(name), index)
        photographs.append(Photograph(str(name), path, *size_of(path), none, none, nobody, none, gaze_map))
    return photographs


def inventory(root: str | Path) -> Inventory:
    """The contents of a copy: every photograph that the index lists."""
    folder = require_folder(root)
    found = Inventory()
    try:
        read = read_photographs(folder)
    except DataError as error:
        found.problems.append(error.found)
        return found
    for each in read:
        found.try_file(partial(check_picture, each.path))
    found.count("photographs with maps", len(read), 0)
    return found
