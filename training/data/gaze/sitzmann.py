"""Sitzmann et al., "Saliency in VR" (IEEE TVCG 24(4), 2018): 22 panoramas in three viewing conditions.

On disk: `cubemap_0000.png` (equirectangular despite its name) and the runs of all people in
`{vr,seated_vr,browser}/cubemap_0000.pck`, pickles of Python 2. `Sitzmann` pairs them by name, and `read_runs` reads the
fixations. A pickle can execute arbitrary code; these are read by an unpickler that accepts only numpy arrays.
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
    check_picture,
    files_by_identity,
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
_PICTURE = re.compile(r"(cubemap_\d{4})\.png")
_RUNS = re.compile(r"(cubemap_\d{4})\.pck")


class Sitzmann(GazeRecords):
    """Records of all panoramas; names are cubemap_0000 to cubemap_0021.

    Args:
        root: folder of the data set.
        condition: how people looked: vr (standing), seated_vr or browser.
        sigma_deg: blur of a fixation, degrees.
        map_height: rows of the densities.
        panorama_height: rows of the panoramas as they are read, pixels.

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
    ) -> None:
        folder = require_folder(root)
        self.sigma_deg, self._map_height, self._panorama_height = sigma_deg, map_height, panorama_height
        self._pictures, runs = _index(folder)
        if not self._pictures:
            raise DataError(f"{root} has no panorama", "check the path", expected="cubemap_0000.png and others")
        self._runs = {name: path for (of, name), path in runs.items() if of == condition}
        require_files(self._runs, self._pictures, f"{condition} runs (.pck)", folder)
        self.names = tuple(sorted(self._pictures))

    def read(self, index: int) -> GazeRecord:
        name = self.names[index]
        fixations, observer, time_s = read_runs(self._runs[name])
        return GazeRecord(
            name=name,
            panorama=partial(read_panorama, self._pictures[name], self._panorama_height),
            fixations=fixations,
            observer=observer,
            time_s=time_s,
            density=spherical_density(fixations, self._map_height, 2 * self._map_height, self.sigma_deg),
        )


def read_runs(path: Path) -> tuple[Floats, Integers, Floats]:
    """Fixations (n, 3), their observers (n,) and start times (n,) in seconds, of all runs on one panorama.

    Each run's `gaze_fixations` (samples, 2) contains, for every sample, the position of its fixation as fractions of
    the panorama's width and height, or zeros or NaN; consecutive equal rows are one fixation.

    Raises:
        DataError: the file is missing, is not a pickle of this layout, requests anything other than numpy arrays, or
            contains a fixation outside the panorama.
    """
    found = _unpickle(path)
    runs = found.get("data") if isinstance(found, dict) else None
    if not isinstance(runs, list) or not runs:
        raise DataError(f"{path} has no runs", "copy it again", expected="a dictionary with a list 'data'")
    directions, observers, times = [], [], []
    for number, run in enumerate(runs):
        try:
            positions, stamps = _real(run["gaze_fixations"]), _real(run["timestamp"]).ravel()
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"run {number} of {path} is malformed ({error!r})",
                "copy it again",
                expected="gaze_fixations and timestamp",
            ) from None
        if positions.size == 0:
            continue  # a run without fixations has an empty list
        if positions.ndim != 2 or positions.shape[1] != 2:
            found = f"run {number} of {path} has gaze_fixations of shape {positions.shape}"
            raise DataError(found, "copy it again", expected="(samples, 2)")
        is_seen = (positions != 0).any(axis=1) & np.isfinite(positions).all(axis=1)
        starts = np.append(True, (positions[1:] != positions[:-1]).any(axis=1)) & is_seen
        x, y = positions[starts].T
        if not ((x >= 0) & (x <= 1) & (y >= 0) & (y <= 1)).all():
            raise DataError(
                f"run {number} of {path} has a fixation outside the panorama",
                "copy it again",
                expected="positions from 0 to 1",
            )
        directions.append(directions_of_positions(x, y))
        observers.append(np.full(len(x), number))
        same_length = len(stamps) == len(positions)
        times.append(stamps[starts] - stamps[0] if same_length else np.full(len(x), np.nan))
    if sum(len(each) for each in directions) == 0:
        raise DataError(f"{path} has no fixations in any run", "copy it again", expected="gaze_fixations (n, 2)")
    return np.concatenate(directions), np.concatenate(observers), np.concatenate(times)


def _real(values: object) -> Floats:
    array = np.asarray(values)
    if array.dtype.kind == "c":  # NumPy would drop the imaginary parts
        raise TypeError("complex numbers")
    return array.astype(float)


def inventory(root: str | Path) -> Inventory:
    """The contents of a copy: every panorama needs its runs in each condition."""
    folder = require_folder(root)
    pictures, runs = _index(folder)
    found = Inventory()
    found.count("panoramas", len(pictures), PANORAMAS)
    for condition in CONDITIONS:
        names = [name for of, name in runs if of == condition]
        found.count(f"runs {condition}", len(names), PANORAMAS)
        found.problems += [f"{name} lacks its runs {condition}" for name in sorted(set(pictures) - set(names))]
    for path in pictures.values():
        found.try_file(partial(check_picture, path))
    for path in runs.values():
        found.try_file(partial(read_runs, path))
    return found


def _index(root: Path) -> tuple[dict[str, Path], dict[tuple[str, str], Path]]:
    """Pictures by name, runs by condition and name."""
    return (
        files_by_identity(root, _PICTURE, lambda match, _: match[1]),
        files_by_identity(root, _RUNS, lambda match, path: (path.parent.name, match[1])),
    )


class _ArraysOnly(pickle.Unpickler):
    """Accepts only the names that numpy arrays and scalars need, in numpy's old and new modules."""

    _MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
    _NAMES = ("_reconstruct", "scalar", "ndarray", "dtype")

    def find_class(self, module: str, name: str) -> Any:
        if module in self._MODULES and name in self._NAMES:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        if (module, name) == ("_codecs", "encode"):  # how Python 2 writes bytes; it has no effects
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it requests {module}.{name}")


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
