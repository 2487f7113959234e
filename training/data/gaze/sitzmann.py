"""Sitzmann et al., "Saliency in VR" (IEEE TVCG 24(4), 2018): 22 panoramas in three viewing conditions.

On disk: `cubemap_0000.png` (equirectangular despite its name) and the runs of all people in
`{vr,seated_vr,browser}/cubemap_0000.pck`, pickles of Python 2; those of the browser are named `0.pck`. `Sitzmann` pairs
them by number, and `read_runs` reads the fixations. A pickle can execute arbitrary code; these are read by an unpickler
that accepts only numpy arrays, and keeps the parts of pandas' tables without running any of its code.
"""

from __future__ import annotations

import pickle
import re
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sal360.arrays import Floats, Integers
from sal360.density import spherical_density
from sal360.errors import DataError
from sal360.ground_truth import GazeRecord
from training.data.gaze.dataset_files import (
    Inventory,
    Irregular,
    files_by_identity,
    off_panorama,
    require_files,
    require_folder,
)
from training.data.gaze.records import GazeRecords, directions_of_positions
from training.data.panoramas import read_panorama

Condition = Literal["vr", "seated_vr", "browser"]

PANORAMAS = 22
CONDITIONS = ("vr", "seated_vr", "browser")
SIGMA_DEG = 1.0
"""Blur of a fixation in the authors' own maps, degrees."""
_PICTURE = re.compile(r"(cubemap_\d{4})\.png", re.IGNORECASE)
_RUNS = re.compile(r"(?:cubemap_)?(\d{1,4})\.(?:pck|pkl|pickle)", re.IGNORECASE)


class Sitzmann(GazeRecords):
    """Records of all panoramas; names are cubemap_0000 to cubemap_0021.

    Args:
        root: folder of the data set.
        condition: how people looked: vr (standing), seated_vr or browser.
        sigma_deg: blur of a fixation, degrees.
        map_height: rows of the densities.
        panorama_height: rows of the panoramas as they are read, pixels.
        strict: refuse what is irregular in the runs.

    Raises:
        DataError: a panorama lacks its runs, or there is no panorama.
    """

    def __init__(
        self,
        root: str | Path,
        condition: Condition = "vr",
        sigma_deg: float = SIGMA_DEG,
        map_height: int = 512,
        panorama_height: int = 512,
        *,
        strict: bool = False,
    ) -> None:
        folder, self._strict = require_folder(root), strict
        self.sigma_deg, self._map_height, self._panorama_height = sigma_deg, map_height, panorama_height
        self._pictures, runs = _index(folder)
        if not self._pictures:
            raise DataError(f"{root} has no panorama", "check the path", expected="cubemap_0000.png and others")
        self._runs = {name: path for (of, name), path in runs.items() if of == condition}
        require_files(self._runs, self._pictures, f"{condition} runs (.pck)", folder)
        self.names = tuple(sorted(self._pictures))

    def read(self, index: int) -> GazeRecord:
        name = self.names[index]
        fixations, observer, time_s = read_runs(self._runs[name], Irregular(self._strict))
        return GazeRecord(
            name=name,
            panorama=partial(read_panorama, self._pictures[name], self._panorama_height),
            fixations=fixations,
            observer=observer,
            time_s=time_s,
            density=spherical_density(fixations, self._map_height, 2 * self._map_height, self.sigma_deg),
        )


def read_runs(path: Path, irregular: Irregular | None = None) -> tuple[Floats, Integers, Floats]:
    """Fixations (n, 3), their observers (n,) and start times (n,) in seconds, of all runs on one panorama.

    Each run's `gaze_fixations` (samples, 2) contains, for every sample, the position of its fixation as fractions of
    the panorama's width and height, or zeros or NaN; consecutive equal rows are one fixation. Times are NaN in runs
    without `timestamp`, in those whose clock steps back, and in samples whose stamp is not finite.

    Args:
        path: the file.
        irregular: counts what is irregular in it.

    Raises:
        DataError: the file is missing, is not a pickle of this layout, requests anything other than numpy arrays, or
            contains a fixation outside the panorama.
    """
    irregular = irregular or Irregular()
    runs = _runs_in(_unpickle(path))
    if not runs:
        raise DataError(f"{path} has no runs", "copy it again", expected="a dictionary with a list 'data'")
    directions, observers, times = [], [], []
    for number, run in enumerate(runs):
        positions, stamps = _fields(run, f"run {number} of {path}")
        is_seen = (positions != 0).any(axis=1) & np.isfinite(positions).all(axis=1)
        irregular.note("runs without fixations, left out", int(not is_seen.any()), path)
        if not is_seen.any():
            continue
        starts = np.append(True, (positions[1:] != positions[:-1]).any(axis=1)) & is_seen
        if off_panorama(positions[starts], irregular, path).any():
            raise DataError(
                f"run {number} of {path} has a fixation outside the panorama",
                "copy it again",
                expected="positions from 0 to 1",
            )
        directions.append(directions_of_positions(*positions[starts].T))
        observers.append(np.full(int(starts.sum()), number))
        times.append(_starts_s(stamps, len(positions), path, irregular)[starts])
    if not directions:
        raise DataError(f"{path} has no fixations in any run", "copy it again", expected="gaze_fixations (n, 2)")
    return np.concatenate(directions), np.concatenate(observers), np.concatenate(times)


def _fields(run: Any, where: str) -> tuple[Floats, Floats]:
    """Positions (n, 2) and time stamps (n,); n is 0 for those that a run does not have."""
    try:
        positions = _real(run["gaze_fixations"])
        stamps = _real(run["timestamp"]).ravel() if "timestamp" in run else np.zeros(0)
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{where} is malformed ({error!r})", "copy it again", expected="gaze_fixations and timestamp"
        ) from None
    if positions.size and (positions.ndim != 2 or positions.shape[1] != 2):
        found = f"{where} has gaze_fixations of shape {positions.shape}"
        raise DataError(found, "copy it again", expected="(samples, 2)")
    return positions.reshape(-1, 2), stamps


def _starts_s(stamps: Floats, count: int, path: Path, irregular: Irregular) -> Floats:
    """Seconds since the first of `count` samples; NaN if the stamps are not those of the samples, or step back."""
    unknown: Floats = np.full(count, np.nan)
    irregular.note("runs without a time for each sample", int(len(stamps) != count), path)
    if len(stamps) != count:
        return unknown
    is_known = np.isfinite(stamps)
    irregular.note("samples without a time", int((~is_known).sum()), path)
    known = stamps[is_known]
    back = bool((np.diff(known) < 0).any())
    irregular.note("runs whose clock steps back, used without times", int(back), path)
    if not back and len(known):
        unknown[is_known] = known - known[0]
    return unknown


def _real(values: object) -> Floats:
    """Numbers, or seconds; none of None."""
    array: Any = np.zeros(0) if values is None else np.asarray(values)
    if array.dtype.kind == "c":  # NumPy would drop the imaginary parts
        raise TypeError("complex numbers")
    if array.dtype.kind in "mM":
        seconds = (array - array[:1]) / np.timedelta64(1, "s")
        return np.asarray(seconds, dtype=float)
    return np.asarray(array, dtype=float)


def inventory(root: str | Path) -> Inventory:
    """The contents of a copy: every panorama needs its runs in each condition."""
    folder = require_folder(root)
    found = Inventory()
    pictures, runs = _index(folder, found.problems)
    found.count("panoramas", len(pictures), PANORAMAS)
    for condition in CONDITIONS:
        names = [name for of, name in runs if of == condition]
        found.count(f"runs {condition}", len(names), PANORAMAS)
        found.problems += [f"{name} lacks its runs {condition}" for name in sorted(set(pictures) - set(names))]
        found.problems += [
            f"{name} has runs {condition}, but no picture" for name in sorted(set(names) - set(pictures))
        ]
    for path in pictures.values():
        found.try_file(partial(read_panorama, path, 1))
    for (condition, _), path in runs.items():
        elsewhere = f"runs in other folders than {', '.join(CONDITIONS)}, left out"
        found.irregular.note(elsewhere, int(condition not in CONDITIONS), path)
        if condition in CONDITIONS:
            found.try_file(partial(read_runs, path, found.irregular))
    return found


def _index(root: Path, problems: list[str] | None = None) -> tuple[dict[str, Path], dict[tuple[str, str], Path]]:
    """Pictures by name, runs by condition, or by folder if it is that of no condition, and name."""

    def condition_of(path: Path) -> str:
        folders = [path.parent.name.lower(), *(each.name.lower() for each in path.relative_to(root).parents)]
        return next((each for each in folders if each in CONDITIONS), str(path.parent))

    return (
        files_by_identity(root, _PICTURE, lambda match, _: match[1].lower(), problems),
        files_by_identity(
            root, _RUNS, lambda match, path: (condition_of(path), f"cubemap_{int(match[1]):04d}"), problems
        ),
    )


class _Kept:
    """What a pickle builds by another library's class: its arguments and its state, and none of its code."""

    def __new__(cls, *arguments: Any, **named: Any) -> _Kept:
        kept = super().__new__(cls)
        kept.parts = [*arguments, *named.values()]
        return kept

    parts: list[Any]

    def __setstate__(self, state: Any) -> None:
        self.parts.append(state)


class _ArraysOnly(pickle.Unpickler):
    """Accepts only the names that numpy arrays and scalars need, in numpy's old and new modules, and `_Kept`."""

    _MODULES = (
        *("numpy", "numpy.core.multiarray", "numpy._core.multiarray"),
        *("numpy.core.numeric", "numpy._core.numeric"),
    )
    _NAMES = ("_reconstruct", "scalar", "ndarray", "dtype", "_frombuffer")

    def find_class(self, module: str, name: str) -> Any:
        if module in self._MODULES and name in self._NAMES:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        if (module, name) == ("_codecs", "encode"):  # how Python 2 writes bytes; it has no effects
            return super().find_class(module, name)
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if name == "bytes" and module in ("__builtin__", "builtins"):  # those of an empty array
            return bytes
        if module.partition(".")[0] == "pandas" or (module, name) in _PLAIN_PARTS:
            return _Kept
        raise pickle.UnpicklingError(f"it requests {module}.{name}")


_PLAIN_PARTS = {
    ("copy_reg", "_reconstructor"),
    ("copyreg", "_reconstructor"),
    ("__builtin__", "slice"),
    ("builtins", "slice"),
}
"""What the tables of old versions of pandas need besides its own classes."""


def _runs_in(found: Any) -> list[Any]:
    """The runs in an unpickled file: its `data`, or every dictionary of a run in the parts of a table."""
    data = found.get("data") if isinstance(found, dict) else found
    if isinstance(data, np.ndarray) and data.dtype == object:
        data = data.ravel().tolist()
    if isinstance(data, (list, tuple)):
        return list(data)
    runs: list[Any] = []
    waiting, seen = [data] if isinstance(data, _Kept) else [], set[int]()
    while waiting:
        part = waiting.pop(0)
        if id(part) in seen:  # parts may hold each other
            continue
        seen.add(id(part))
        if isinstance(part, dict) and "gaze_fixations" in part:
            runs.append(part)
        elif isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, (list, tuple)):
            waiting += part
        elif isinstance(part, np.ndarray) and part.dtype == object:
            waiting += part.ravel().tolist()
        elif isinstance(part, _Kept):
            waiting += part.parts
    return runs


def _unpickle(path: Path) -> Any:
    if not path.is_file():
        raise DataError(f"{path} does not exist", "copy it again", expected="runs of the data set")
    try:
        with path.open("rb") as file:
            return _ArraysOnly(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(
            f"{path} is refused ({error})", "copy it again", expected="a pickle of lists, dictionaries and numpy arrays"
        ) from None
