"""Files of a data set found and paired by the identity in their names, never by the order of a listing."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from sal360_ros.errors import DataError

Identity = TypeVar("Identity", bound=Hashable)


def require_folder(root: str | Path) -> Path:
    """The folder as a path; DataError if there is none."""
    path = Path(root)
    if not path.is_dir():
        raise DataError(f"there is no folder {path}", "the root of the data set", "check the path")
    return path


def files_by_identity(
    root: Path, pattern: re.Pattern[str], identity: Callable[[re.Match[str], Path], Identity]
) -> dict[Identity, Path]:
    """All files below `root` whose whole name matches, by what `identity` makes of the match and the path.

    Raises:
        DataError: two files have the same identity.
    """
    found: dict[Identity, Path] = {}
    for path in sorted(root.rglob("*")):
        match = pattern.fullmatch(path.name)
        if match is None or not path.is_file():
            continue
        key = identity(match, path)
        if key in found:
            raise DataError(f"{found[key]} and {path} are both {key}", "one file each", "remove one of them")
        found[key] = path
    return found


def require_files(found: Mapping[Identity, object], wanted: Iterable[Identity], what: str, root: Path) -> None:
    """DataError that counts and names what is missing of `wanted`."""
    missing = [each for each in wanted if each not in found]
    if missing:
        some = ", ".join(str(each) for each in missing[:8]) + (", …" if len(missing) > 8 else "")
        raise DataError(
            f"{root} lacks {len(missing)} {what}: {some}",
            "a whole copy",
            "get the missing files (python -m training.data.check names all of them)",
        )
