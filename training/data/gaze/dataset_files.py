"""Finds the files of a data set, pairs them by the identity in their names, and checks whether a copy is complete.

Files are never paired by the order of a listing: one missing file would shift all that follow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from sal360.arrays import Floats, Mask
from sal360.errors import DataError, FrameError, describe_os_error
from sal360.images import read_picture
from sal360.sources.pictures import is_hidden
from training.data.panoramas import MAX_PIXELS

Identity = TypeVar("Identity", bound=Hashable)

_LISTED = 8
"""Number of names that a message lists."""


def require_folder(root: str | Path) -> Path:
    """The folder as a path; DataError if there is none."""
    path = Path(root)
    if not path.is_dir():
        raise DataError(f"there is no folder {path}", "give the root folder of the data set")
    return path


def files_by_identity(
    root: Path,
    pattern: re.Pattern[str],
    identity: Callable[[re.Match[str], Path], Identity],
    problems: list[str] | None = None,
) -> dict[Identity, Path]:
    """All files below `root` whose whole name matches, by the identity that `identity` derives from match and path.

    Hidden files and folders are left out.

    Args:
        root: the folder.
        pattern: of the names.
        identity: what a file is about.
        problems: gets a line for each file that has the identity of another one; None: that is an error.

    Raises:
        DataError: two files have the same identity.
    """
    found: dict[Identity, Path] = {}
    for path in sorted(root.rglob("*")):
        match = pattern.fullmatch(path.name)
        if match is None or not path.is_file() or any(map(is_hidden, path.relative_to(root).parts)):
            continue
        key = identity(match, path)
        first = found.setdefault(key, path)
        both = f"{first} and {path} are both {key}"
        if first is not path and problems is None:
            raise DataError(both, "remove one of them")
        if first is not path and problems is not None:
            problems.append(both)
    return found


def require_files(found: Mapping[Identity, object], wanted: Iterable[Identity], what: str, root: Path) -> None:
    """Raise a DataError that counts and names the files of `wanted` that are missing."""
    missing = [each for each in wanted if each not in found]
    if missing:
        raise DataError(
            f"{root} lacks {len(missing)} {what}: {first_of(missing)}",
            "get the missing files; python -m training.data.check lists all of them",
        )


def first_of(names: Sequence[object]) -> str:
    """The first names, for a message that cannot list all of them."""
    return ", ".join(map(str, names[:_LISTED])) + (", …" if len(names) > _LISTED else "")


@dataclass
class Irregular:
    """What is irregular in a data set's files: used as far as it can be and counted, or refused.

    Recordings with people have gaps, rounding and clocks that are set. None of that is a reason to stop, but whoever
    trains or measures needs to know how much there is.
    """

    strict: bool = False
    """Refuse the first of them."""
    counts: dict[str, int] = field(default_factory=dict)
    """Number by kind, in words: "samples after the end of the video, left out"."""
    first: dict[str, str] = field(default_factory=dict)
    """Where the first of each kind is."""

    def note(self, what: str, count: int, where: object) -> None:
        """Count `count` things of a kind; 0 counts nothing.

        Raises:
            DataError: it is strict, and there are some.
        """
        if count and self.strict:
            raise DataError(f"{where} has {what}: {count}", "correct it, or do not ask for strict data")
        if count:
            self.counts[what] = self.counts.get(what, 0) + int(count)
            self.first.setdefault(what, str(where))

    def __str__(self) -> str:
        """The counts in one line; empty if there are none."""
        return ", ".join(f"{what}: {count}" for what, count in self.counts.items())


ROUNDED = "positions beyond the panorama's edge by rounding, wrapped"
_ROUNDING = 0.01
"""How far beyond the edge a position may lie, as a fraction of the panorama; further out, the unit is another one."""


def off_panorama(positions: Floats, irregular: Irregular, where: object) -> Mask:
    """Which positions (n, 2), fractions of width and height, are not on the panorama; (n,), NaN is not.

    Positions just beyond the edge count as on it, and are noted: directions continue there, around the seam and over
    the poles, so nothing needs to be changed about them.
    """
    with np.errstate(invalid="ignore"):
        near = ((positions >= -_ROUNDING) & (positions <= 1 + _ROUNDING)).all(axis=1)
        within = ((positions >= 0) & (positions <= 1)).all(axis=1)
    irregular.note(ROUNDED, int((near & ~within).sum()), where)
    return np.asarray(~near)


class Lines(NamedTuple):
    """The non-empty lines of a text file."""

    numbers: list[int]
    """Their numbers in the file, from 1."""
    texts: list[str]
    """Columns are separated by commas, and numbers have decimal points, whatever the file has."""

    def beyond(self, count: int) -> Lines:
        """Those after the first `count`."""
        return Lines(self.numbers[count:], self.texts[count:])

    def without(self, text: str) -> Lines:
        """Those that are not `text`."""
        kept = [each != text for each in self.texts]
        return Lines(list(compress(self.numbers, kept)), list(compress(self.texts, kept)))


def read_lines(path: Path) -> Lines:
    """The non-empty lines of a table, as data sets publish or spreadsheets save it: UTF-8 or UTF-16, columns separated
    by commas, or by semicolons, tabs or spaces with decimal commas, which only some of the lines may have; cells may
    be in quotation marks. A line of separators alone is empty."""
    content = path.read_bytes()
    lines = enumerate(content.decode(_encoding(content), "replace").splitlines(), 1)
    filled = [(number, _with_commas(line)) for number, line in lines if line.strip(_BETWEEN)]
    if filled and filled[0][1].lower().startswith("sep="):  # tells a spreadsheet the separator
        del filled[0]
    return Lines([number for number, _ in filled], [line for _, line in filled])


def _encoding(content: bytes) -> str:
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    if 0 in content[:2]:  # half of a character of UTF-16 without a byte order mark
        return "utf-16-be" if content[0] == 0 else "utf-16-le"
    return "utf-8-sig"


_BETWEEN = ' ,;"\t\v\f\u00a0'
_RARE = re.compile(r'[;"\s]')
_QUOTED = re.compile(r'"([^"]*)"')
_SPACE_AFTER_COMMA = re.compile(r",\s+")
_SPACED = re.compile(r"[^,\s]+(,\d+)?(\s+[^,\s]+(,\d+)?)+")


def _with_commas(line: str) -> str:
    if "," in line and not _RARE.search(line):
        return line
    line = _QUOTED.sub(lambda cell: cell[1].replace(",", "."), line)
    inner = line.strip("; \t")  # separators at the end of a line may be others than those between its columns
    if ";" in inner:
        return line.replace(",", ".").replace(";", ",")
    if "\t" in _SPACE_AFTER_COMMA.sub(",", inner):
        return line.strip(" ").replace(",", ".").replace("\t", ",")
    if _SPACED.fullmatch(inner):
        return ",".join(cell.replace(",", ".") for cell in inner.split())
    return inner


def is_header(line: str) -> bool:
    """Whether no cell of a line of a table is a number."""
    return not any(map(_is_number, line.split(",")))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


_NO_NUMBER = {"", "-", "na", "n/a", "#n/a", "null", "none", "-nan", "nan(ind)", "-nan(ind)", "1.#qnan", "-1.#ind"}
"""Cells of a missing number, as spreadsheets, databases, pandas and C on Windows write it, besides "nan"."""


def read_numbers(path: Path, lines: Lines, columns: Sequence[int], expected: str, width: int | None = None) -> Floats:
    """The numbers in some columns, from 0, of lines of a table: (n, len(columns)), NaN where a cell has none.

    Args:
        path: the file, for errors.
        lines: its lines.
        columns: the columns.
        expected: says what a line has, for errors.
        width: the number of columns that a line has at most, for one with more may have decimal commas between commas.
            Empty ones at its end do not count.

    Raises:
        DataError: naming the first line without such numbers.
    """

    def parse(rows: list[str]) -> Floats:
        if width is not None and any(row.count(",") >= width for row in rows):
            raise ValueError("more columns")
        return np.loadtxt(rows, delimiter=",", usecols=columns, ndmin=2, comments=None)

    if not lines.texts:
        return np.zeros((0, len(columns)))
    try:
        return parse(lines.texts)
    except ValueError:
        rows = [_filled(row, width) for row in lines.texts]
    try:
        return parse(rows)
    except ValueError:
        where = next(number for number, row in zip(lines.numbers, rows, strict=True) if not _parses(parse, row))
        found = f"line {where} of {path} is malformed"
        raise DataError(found, "correct it, or copy the file again", expected=expected) from None


def _filled(row: str, width: int | None) -> str:
    """A line with "nan" in the cells without a number, and without empty columns beyond the last."""
    return ",".join("nan" if cell.lower() in _NO_NUMBER else cell for cell in cells_of(row, width))


def cells_of(row: str, width: int | None = None) -> list[str]:
    """The cells of a line without the spaces around them, and without empty ones beyond the first `width`."""
    cells = [cell.strip() for cell in row.split(",")]
    while width is not None and len(cells) > width and not cells[-1]:
        cells.pop()
    return cells


def _parses(parse: Callable[[list[str]], object], row: str) -> bool:
    try:
        parse([row])
    except ValueError:
        return False
    return True


@dataclass
class Inventory:
    """The contents of a copy of a data set."""

    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Kind of file → number of files found, and number in the complete data set."""
    problems: list[str] = field(default_factory=list)
    """One line for each missing, short or malformed file."""
    irregular: Irregular = field(default_factory=Irregular)
    """What is irregular and used as far as it can be."""

    def count(self, kind: str, found: int, expected: int) -> None:
        """Record the number of files of a kind."""
        self.counts[kind] = (found, expected)

    def try_file(self, read: Callable[[], object]) -> None:
        """Call `read` and record its error, if any."""
        try:
            read()
        except DataError as error:
            self.problems.append(error.found + (f"; expected {error.expected}" if error.expected else ""))
        except OSError as error:  # no permission, or a disk that fails: the other files are still looked at
            self.problems.append(describe_os_error(error))

    def report(self) -> str:
        """One line for each kind of file, then one for each problem and for each kind of irregularity."""
        lines = [
            f"{kind}: {found} of {expected}" + ("" if found >= expected else f", {expected - found} missing")
            for kind, (found, expected) in self.counts.items()
        ]
        irregular = [
            f"irregular, {what}: {count} (first: {self.irregular.first[what]})"
            for what, count in self.irregular.counts.items()
        ]
        return "\n".join([*lines, *self.problems, *irregular, "complete" if self.is_complete else "not complete"])

    @property
    def is_complete(self) -> bool:
        """Whether no file is missing or damaged."""
        return not self.problems and all(found >= expected for found, expected in self.counts.values())


def check_picture(path: Path) -> None:
    """Raise a DataError if a picture is incomplete; a JPEG is decoded at an eighth of its size."""
    try:
        read_picture(path, min_height=1, max_pixels=MAX_PIXELS)
    except FrameError as error:
        raise DataError(error.found, error.remedy, expected=error.expected) from None
