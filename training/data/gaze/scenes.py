"""Which pictures show one scene: frames of one video are not independent samples, so scenes are counted, not frames."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from scipy.sparse.csgraph import connected_components

from sal360.arrays import Integers, Mask, Pixels
from sal360.errors import DataError

_THUMBNAIL_ROWS = 32
_ALIKE = 0.8
"""Correlation of two pictures above which they show one scene. The highest between scenes was .3 on 18 frames, and the
median between seconds of one still camera .99."""


def scene_numbers(known: Sequence[str], panorama: Callable[[int], Pixels]) -> Integers:
    """(n,) from 0, in the order of the pictures: the scene of each.

    Args:
        known: the scene of each picture by name; "" where it is not known. Such a picture is of the scene of those that
            it looks like, directly or through others.
        panorama: reads picture number i, (H, W, 3); not called if all scenes are known.
    """
    names = np.array(known)
    same = (names[:, None] == names) & (names != "")
    if not all(known):
        unknown = names == ""
        same |= _look_alike([panorama(i) for i in range(len(known))]) & (unknown[:, None] | unknown)
    labels = connected_components(same, directed=False)[1]
    _, first, scene = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[scene].astype(np.int64)


def _look_alike(panoramas: Sequence[Pixels]) -> Mask:
    """(n, n): which pictures correlate, the mean of each row taken out: sky above ground is common to most scenes."""
    size = (2 * _THUMBNAIL_ROWS, _THUMBNAIL_ROWS)
    grey = np.stack([cv2.resize(each, size, interpolation=cv2.INTER_AREA).mean(axis=2) for each in panoramas])
    grey -= grey.mean(axis=2, keepdims=True)  # (n, rows, columns)
    area = np.cos(np.pi * ((np.arange(_THUMBNAIL_ROWS) + 0.5) / _THUMBNAIL_ROWS - 0.5))
    flat = (grey * np.sqrt(area)[:, None]).reshape(len(grey), -1)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
    return np.asarray(flat @ flat.T > _ALIKE)


def read_scenes(path: str | Path, names: Sequence[str]) -> list[str]:
    """The scene of each picture by its name, from a CSV file with the columns `name` and `scene`.

    Raises:
        DataError: the file is not such a table, or has no scene for a picture.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file ({error})", "write it again") from None
    if not rows or not {"name", "scene"} <= set(rows[0]):
        raise DataError(f"{path} has no columns name and scene", "write them in its first line, as in 001.jpg,kitchen")
    scene_of = {str(row["name"]): str(row["scene"] or "") for row in rows}
    missing = [name for name in names if not scene_of.get(name)]
    if missing:
        raise DataError(f"{path} has no scene for {missing[0]}", "add a line for each picture")
    return [scene_of[name] for name in names]
