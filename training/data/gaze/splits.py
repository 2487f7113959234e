"""The splits that publications use, by name."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from sal360.errors import DataError, ParameterError
from sal360.sphere import Array

SALIENT360_FIRST_VALIDATION = 75
"""Salient360! images P75 to P98 are the 24 that the paper most likely validates on; those before train."""
SPLITS = {
    "salient360": ("train", "validation", "all"),
    "vr_eyetracking": ("train", "test", "all"),
}
VR_EYETRACKING_SHEET = "train_test_set.xlsx"
"""The split of 134 training and 74 test videos comes with the data set, in this file."""

_SPREADSHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"


def split_folds(names: Sequence[str], folds: int, seed: int) -> list[Array]:
    """Indices of each fold: a partition by name, so that no picture is on both sides of a split.

    The order is drawn once from `seed` over the sorted names; it does not depend on the order on the disk.

    Raises:
        DataError: there are fewer names than folds.
    """
    if len(names) < folds:
        raise DataError(
            f"there are {len(names)} pictures for {folds} folds", "use fewer folds", expected="at least one for each"
        )
    order = np.argsort(names, kind="stable")
    return [np.sort(part) for part in np.array_split(np.random.default_rng(seed).permutation(order), folds)]


def check_split(dataset: str, split: str) -> None:
    """ParameterError that lists the data set's splits if `split` is none of them."""
    if split not in SPLITS[dataset]:
        raise ParameterError(
            f"{dataset} has no split {split!r}", "choose one", expected="one of " + ", ".join(SPLITS[dataset])
        )


def salient360_split(ids: Iterable[int], split: str) -> list[int]:
    """The image numbers of a split, sorted."""
    check_split("salient360", split)
    validates = {"train": (False,), "validation": (True,), "all": (False, True)}[split]
    return sorted(each for each in ids if (each >= SALIENT360_FIRST_VALIDATION) in validates)


def vr_eyetracking_split(root: Path, ids: Iterable[int], split: str) -> list[int]:
    """The video numbers of a split, sorted; for train and test as the data set's own sheet has them.

    Raises:
        DataError: the sheet is missing or malformed.
    """
    check_split("vr_eyetracking", split)
    if split == "all":
        return sorted(ids)
    return sorted(read_first_column(root / VR_EYETRACKING_SHEET, f"{split}_set"))


def read_first_column(path: Path, sheet: str) -> list[int]:
    """The numbers in column A of a sheet of an .xlsx workbook (ECMA-376).

    Raises:
        DataError: there is no such file or sheet, or it has no numbers there.
    """
    if not path.is_file():
        raise DataError(
            f"there is no {path}", "copy it beside the videos", expected="the split that comes with the data set"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            sheets = {
                each.attrib["name"]: each.attrib[_RELATION]
                for each in ElementTree.fromstring(archive.read("xl/workbook.xml")).iter(f"{_SPREADSHEET}sheet")
            }
            relations = {
                each.attrib["Id"]: each.attrib["Target"].removeprefix("/xl/")
                for each in ElementTree.fromstring(archive.read("xl/_rels/workbook.xml.rels"))
            }
            cells = ElementTree.fromstring(archive.read("xl/" + relations[sheets[sheet]])).iter(f"{_SPREADSHEET}c")
            values = [
                int(float(each.findtext(f"{_SPREADSHEET}v", "")))
                for each in cells
                if re.fullmatch(r"A\d+", each.attrib["r"]) and each.attrib.get("t", "n") == "n"
            ]
    except (KeyError, ValueError, zipfile.BadZipFile, ElementTree.ParseError) as error:
        raise DataError(
            f"{path} cannot be read ({error})", "copy it again", expected=f"a sheet {sheet} of numbers"
        ) from None
    if not values:
        raise DataError(
            f"sheet {sheet} of {path} has no numbers", "copy it again", expected="video numbers in column A"
        )
    return values
