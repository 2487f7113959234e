"""What a copy of a data set holds, and what is missing or broken in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sal360_ros.errors import DataError

_ENDS = {".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9", ".png": b"IEND\xaeB`\x82"}


@dataclass
class Inventory:
    """What a copy of a data set holds."""

    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of each kind of file: how many are there, and how many the whole data set has."""
    problems: list[str] = field(default_factory=list)
    """One line for each missing, short or malformed file."""

    def count(self, kind: str, found: int, expected: int) -> None:
        """Note how many files of a kind there are."""
        self.counts[kind] = (found, expected)

    def try_file(self, read: Callable[[], object]) -> None:
        """Call `read` and note what is wrong, if something is."""
        try:
            read()
        except DataError as error:
            self.problems.append(f"{error.found}; expected {error.expected}")

    def report(self) -> str:
        """One line a kind of file, then one line a problem, for people."""
        lines = [
            f"{kind}: {found} of {expected}" + ("" if found >= expected else f", {expected - found} missing")
            for kind, (found, expected) in self.counts.items()
        ]
        return "\n".join([*lines, *self.problems, "complete" if self.is_complete else "not complete"])

    @property
    def is_complete(self) -> bool:
        """Nothing is missing and nothing is broken."""
        return not self.problems and all(found >= expected for found, expected in self.counts.values())


def check_picture_end(path: Path) -> None:
    """DataError if a JPEG or PNG file lacks its end mark: it was cut short. The picture is not decoded."""
    end = _ENDS[path.suffix.lower()]
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))  # some writers pad after the mark
        tail = file.read()
    if end not in tail:
        raise DataError(f"{path} is cut short", "a whole picture", "copy it again")
