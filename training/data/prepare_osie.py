"""Create the OSIE folder that training reads from the published files.

    git clone https://github.com/NUS-VIP/predicting-human-gaze-beyond-pixels
    python -m training.data.prepare_osie --source predicting-human-gaze-beyond-pixels/data --output data/osie

The output contains `stimuli/*.jpg`, unchanged, and `fixations.npz` (docs/gaze_data.md). Of the 700 published
photographs, the bundled model's data leave out every seventh, from 1004.jpg on; so does this command without
`--all_photographs true`.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sal360.errors import DataError, one_line_errors
from sal360.files import written_beside
from training.config import read_config, require_path
from training.data.gaze.photographs import size_of

_REMEDY = "give the folder `data` of a complete clone of the published repository"


@dataclass(frozen=True)
class PrepareOsieConfig:
    """The published files, and the folder for the data set."""

    source: str
    """Folder `data` of the published repository, with eye/fixations.mat and stimuli/*.jpg."""
    output: str
    """Folder of the data set, for `--data.root`."""
    all_photographs: bool = False
    """Include all 700 photographs; false: the 600 of the bundled model's data."""

    def __post_init__(self) -> None:
        require_path("source", self.source, "the folder of the published files")
        require_path("output", self.output, "a folder")


class Trial(NamedTuple):
    """The fixations of one person on one photograph."""

    name: str
    """File name of the photograph."""
    subject: int
    """Number of the person, from 0."""
    fixations: NDArray[np.float32]
    """(n, 3): x and y, pixels of the photograph, and the duration, milliseconds."""


def prepare_osie(config: PrepareOsieConfig) -> None:
    """Copy the photographs and write their fixations; those outside the picture are left out and counted.

    Raises:
        DataError: a published file is missing or malformed.
        OSError: the output cannot be written.
    """
    source, output = Path(config.source), Path(config.output)
    trials = list(read_trials(source / "eye" / "fixations.mat"))
    published = sorted({each.name for each in trials})
    names = [name for i, name in enumerate(published) if config.all_photographs or i % 7 != 3]
    for name in names:
        if not (source / "stimuli" / name).is_file():
            raise DataError(f"there is no {source / 'stimuli' / name}, which has fixations", _REMEDY)
        with written_beside(output / "stimuli" / name) as temporary:
            shutil.copyfile(source / "stimuli" / name, temporary)
    sizes = {name: size_of(output / "stimuli" / name) for name in names}
    position = {name: i for i, name in enumerate(names)}
    rows = [
        (position[trial.name], trial.subject, *fixation)
        for trial in trials
        if trial.name in sizes
        for fixation in trial.fixations
        if 0 <= fixation[0] <= sizes[trial.name][1] and 0 <= fixation[1] <= sizes[trial.name][0]
    ]
    outside = sum(len(trial.fixations) for trial in trials if trial.name in sizes) - len(rows)
    # last, so that an interrupted run leaves no data set that looks complete
    with written_beside(output / "fixations.npz") as temporary:
        np.savez_compressed(temporary, **_columns(rows, sizes))
    print(f"{output}: {len(names)} photographs, {len(rows)} fixations; {outside} outside their photograph left out")


def _columns(rows: list[tuple[Any, ...]], sizes: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    columns = np.array(rows, np.float32).reshape(-1, 5).T
    types = {"image": np.int16, "subject": np.int8, "x": np.float32, "y": np.float32, "duration_ms": np.float32}
    of_fixations = {name: values.astype(kind) for (name, kind), values in zip(types.items(), columns, strict=True)}
    return {**of_fixations, "names": np.array(list(sizes)), "size_hw": np.array(list(sizes.values()))}


def read_trials(path: Path) -> Iterator[Trial]:
    """The trials in the published `fixations.mat`: a cell for each photograph, in it a cell for each person.

    Raises:
        DataError: the file is missing or malformed.
    """
    if not path.is_file():
        raise DataError(f"there is no {path}", _REMEDY)
    from scipy.io import loadmat  # starts slowly

    try:
        for photograph in np.atleast_1d(loadmat(path, simplify_cells=True)["fixations"]):
            for subject, person in enumerate(np.atleast_1d(photograph["subjects"])):
                yield Trial(str(photograph["img"]), subject, _fixations(person))
    except Exception as error:  # SciPy raises several kinds of exceptions for files that are cut or of another format
        raise DataError(f"{path} cannot be read ({error})", _REMEDY) from None


def _fixations(person: Mapping[str, Any]) -> NDArray[np.float32]:
    columns = [np.atleast_1d(person[name]) for name in ("fix_x", "fix_y", "fix_duration")]
    return np.stack(columns, axis=1).astype(np.float32)


def main() -> None:
    """The command `python -m training.data.prepare_osie`."""
    prepare_osie(read_config(PrepareOsieConfig, "Create the OSIE folder from the published files."))


if __name__ == "__main__":
    sys.exit(one_line_errors(main))
