"""The file of maps that `training.teach` makes for panoramas without gaze: a map for each panorama's name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sal360.arrays import Density, Reals
from sal360.errors import DataError
from sal360.files import written_beside
from training.checkpoint import Origin

_ORIGIN = "learnt from"
"""Name of the entry that is no map; panoramas have suffixes."""
_NOT_RECORDED = Origin("maps of models that an older file does not record", "not known")


def write_taught(path: str | Path, maps: Mapping[str, Reals], origin: Sequence[Origin] = ()) -> None:
    """Write densities (h, w), by the names of their panoramas, to one .npz file, completely or not at all.

    `origin` is that of the models which predicted them.
    """
    arrays: dict[str, Any] = {name: density.astype(np.float32) for name, density in maps.items()}
    if origin:
        arrays[_ORIGIN] = np.array(json.dumps(origin))
    with written_beside(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def taught_origin(path: str | Path) -> tuple[Origin, ...]:
    """From what the models learnt whose maps these are; what learns from the maps learns from it too.

    Args:
        path: file that `read_taught` has read.
    """
    with np.load(path) as archive:
        entries = json.loads(str(archive[_ORIGIN])) if _ORIGIN in archive.files else ()
    return tuple(Origin(*map(str, each)) for each in entries) or (_NOT_RECORDED,)


def summary_of_maps(maps: Sequence[Density]) -> str:
    """The number of maps and a hash of their values, to notice that they have changed."""
    digest = hashlib.sha256()
    for density in maps:
        digest.update(np.ascontiguousarray(density).tobytes())
    return f"{len(maps)} ({digest.hexdigest()[:8]})"


def read_taught(path: str | Path, names: Sequence[str], map_size: tuple[int, int]) -> list[Density]:
    """The densities (h, w) of the panoramas named `names`, in their order.

    Args:
        path: file that `write_taught` wrote.
        names: names of the panoramas.
        map_size: (h, w) of the result; finer stored maps are averaged to it.

    Raises:
        DataError: the file is missing or damaged, lacks a panorama or has coarser maps.
    """
    remedy = "run python -m training.teach with these panoramas"
    if not Path(path).is_file():
        raise DataError(f"{path} does not exist", remedy)
    try:
        with open(path, "rb") as file, np.load(file) as archive:  # np.load alone leaves a damaged file open
            stored = {name: archive[name] for name in archive.files}
    except Exception as error:  # numpy passes on exceptions of zip, zlib, its header parser and its own
        raise DataError(f"{path} cannot be read ({error})", remedy) from None
    maps = []
    for name in names:
        density = stored.get(name)
        if density is None:
            raise DataError(f"{path} has no map of {name}", remedy)
        if not _is_density(density):
            raise DataError(
                f"the map of {name} in {path} is not a density", remedy, expected="(h, 2h), finite, not negative"
            )
        if density.shape[0] < map_size[0]:
            raise DataError(
                f"the map of {name} in {path} is {density.shape[0]} x {density.shape[1]}",
                "run python -m training.teach with a finer stride",
                expected=f"at least {map_size[0]} x {map_size[1]}, the size of the model's map",
            )
        maps.append(average_to(density, map_size))
    return maps


def _is_density(array: NDArray[Any]) -> bool:
    panoramic = array.ndim == 2 and array.size > 0 and array.shape[1] == 2 * array.shape[0]
    return bool(
        panoramic and array.dtype.kind == "f" and np.isfinite(array).all() and array.min() >= 0 and array.max() > 0
    )


def names_below(root: str | Path, paths: Sequence[str]) -> list[str]:
    """The names of the panoramas at `paths` in a file of maps: their paths relative to `root`, the same in any copy."""
    names = [Path(path).relative_to(root).as_posix() for path in paths]
    # .npz names must be text: bytes that are not UTF-8 are written as \xe9
    return [name.encode(errors="surrogateescape").decode(errors="backslashreplace") for name in names]


def average_to(density: Reals, map_size: tuple[int, int]) -> Density:
    """A density (h', w') on a coarser or equal grid (h, w): the mean over each pixel's area."""
    averaged = cv2.resize(density.astype(np.float32), map_size[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(averaged, np.float32)
