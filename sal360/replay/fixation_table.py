"""Text tables of fixations, as people and spreadsheets write them."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import numpy as np

from sal360.arrays import Floats, Integers
from sal360.errors import DataError

_COLUMNS = ("x", "y", "z", "observer")


def read_fixation_table(path: Path) -> tuple[Floats, Integers, int]:
    """Fixations of a text table: x, y, z and, if known, observer in columns of these names.

    The columns may be separated by commas, semicolons, tabs or spaces; decimal commas are accepted unless commas
    separate the columns. Without a header line, the columns are in this order. Lines that begin with # are comments,
    except for a header line as numpy.savetxt writes it, and rows with empty cells are lost samples.

    Returns:
        Vectors (n, 3), which may be zero or NaN, observers (n,), and the number of rows with empty cells.

    Raises:
        DataError: naming a line that is not such a row, or the first line of an empty file.
    """
    lines = _lines(path)
    if not lines:
        raise _error(path, 1, "the file is empty")
    vectors: list[list[float]] = []
    observers: list[int] = []
    lost = 0
    names, rows = _columns_and_rows(path, lines)
    for number, cells in rows:
        if len(cells) != len(names):
            raise _error(path, number, f"it has {len(cells)} cells, and the first line {len(names)}")
        row = dict(zip(names, cells, strict=True))
        if all(row[axis] for axis in "xyz"):
            vectors.append([_number(path, number, row[axis]) for axis in "xyz"])
            observers.append(_observer(path, number, row))
        else:
            lost += 1
    return np.array(vectors, np.float64).reshape(-1, 3), np.array(observers, np.int64), lost  # (n, 3), also n = 0


def _lines(path: Path) -> list[tuple[int, str]]:
    """Number and text of the header line, if there is one, and of each row."""
    lines = [(number, line.strip()) for number, line in enumerate(_text_of(path).splitlines(), 1)]
    lines = [(number, line) for number, line in lines if line.strip("# ")]
    if lines and re.fullmatch(r"sep=.", lines[0][1], re.IGNORECASE):  # for Excel, which writes and reads this line
        del lines[0]
    first_row = next((index for index, (_, line) in enumerate(lines) if not line.startswith("#")), len(lines))
    rows = [(number, line) for number, line in lines[first_row:] if not line.startswith("#")]
    if 0 < first_row < len(lines):
        number, comment = lines[first_row - 1]
        header = comment.lstrip("# ")
        if set("xyz") <= set(_names(header)) and not set("xyz") <= set(_names(rows[0][1])):
            return [(number, header), *rows]
    return rows


def _separator(line: str) -> str | None:
    """What separates the columns; None: spaces."""
    return next((each for each in ";\t," if each in line), None)


def _names(line: str) -> list[str]:
    return [cell.lower() for cell in _cells(line, _separator(line))]


def _columns_and_rows(path: Path, lines: list[tuple[int, str]]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Names of the columns, and number and cells of each row below them."""
    separator, first = _separator(lines[0][1]), _names(lines[0][1])
    if {"x", "y", "z"} <= set(first):
        if twice := [each for each in _COLUMNS if first.count(each) > 1]:
            raise _error(path, lines[0][0], f"the column {twice[0]} occurs twice")
        names, lines = first, lines[1:]
    elif len(first) in (3, 4) and all(map(_is_number, first)):
        names = list(_COLUMNS[: len(first)])
    else:
        raise _error(path, lines[0][0], f"its columns are {', '.join(first)}")
    rows = [(number, _cells(line, separator)) for number, line in lines]
    for _, cells in rows:
        while len(cells) > len(names) and not cells[-1]:  # a separator at the end of the line
            cells.pop()
    return names, rows


def _text_of(path: Path) -> str:
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"  # the two that spreadsheets write
    try:
        return content.decode(encoding).lstrip("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _error(path, line, "it is not UTF-8 text") from None


def _cells(line: str, separator: str | None) -> list[str]:
    cells = [cell.strip().strip("\"'").strip() for cell in line.split(separator)]
    return cells if separator == "," else [cell.replace(",", ".") for cell in cells]


def _is_number(cell: str) -> bool:
    with contextlib.suppress(ValueError):
        float(cell or 0)  # an empty cell is a lost number
        return True
    return False


def _number(path: Path, number: int, cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise _error(path, number, f"{cell!r} is not a number") from None


def _observer(path: Path, number: int, row: dict[str, str]) -> int:
    value = _number(path, number, row.get("observer") or "0")
    if not (value.is_integer() and abs(value) < 2**53):  # beyond, two observers would become one
        raise _error(path, number, f"the observer is {row['observer']}")
    return int(value)


def _error(path: Path, number: int, found: str) -> DataError:
    return DataError(
        f"line {number} of {path} is not a row of fixations ({found})",
        "correct or remove it",
        expected="numbers x,y,z[,observer] below these names",
    )
