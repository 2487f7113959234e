"""Gaze data sets by their settings: the records to fit on and the records to measure."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from training.config.gaze import GazeConfig
from training.config.panoramas import PanoramaConfig
from training.data.osie import read_osie
from training.data.osie_records import OsieRecords
from training.data.panoramas import open_panoramas
from training.data.records import Chosen, GazeRecords
from training.data.salient360 import Salient360
from training.data.sitzmann import Sitzmann
from training.data.splits import split_folds
from training.data.vr_eyetracking import VrEyeTracking


class GazeSplit(NamedTuple):
    """Two parts of a data set that have no picture in common."""

    training: GazeRecords
    measuring: GazeRecords
    description: str
    """The split in words, for reports."""


def open_gaze(config: GazeConfig, panorama_height: int, fov_deg: float = 100.0) -> GazeSplit:
    """The data set that the settings name.

    Args:
        config: which data and which part is measured.
        panorama_height: rows at which panoramas are read, pixels.
        fov_deg: horizontal field of view at which OSIE's photographs are placed, degrees.

    Raises:
        DataError: it is missing, short or broken.
    """
    if config.dataset == "osie":
        photographs = read_osie(config.root)
        folds = split_folds([each.name for each in photographs], config.folds, config.split_seed)
        panoramas = open_panoramas(PanoramaConfig(config.panoramas, panorama_height))
        backgrounds = [panoramas[i] for i in range(len(panoramas))]
        kept = [photographs[i] for i in folds[config.fold]]
        others = [photographs[i] for part, fold in enumerate(folds) if part != config.fold for i in fold]
        measuring = OsieRecords(kept, backgrounds, fov_deg)
        return GazeSplit(
            OsieRecords(others, backgrounds, fov_deg),
            measuring,
            f"{_fold(config)} by photograph, each placed in front at {fov_deg:g}° on a real panorama",
        )
    if config.dataset == "sitzmann":
        everything = Sitzmann(config.root, panorama_height=panorama_height)
        parts = split_folds(everything.names, config.folds, config.split_seed)
        rest = np.concatenate([part for i, part in enumerate(parts) if i != config.fold])
        return GazeSplit(
            Chosen(everything, rest),
            Chosen(everything, parts[config.fold]),
            f"{_fold(config)} by panorama",
        )
    if config.dataset == "salient360":
        validation = Salient360(config.root, "validation", panorama_height=panorama_height)
        train = Salient360(config.root, "train", panorama_height=panorama_height)
        return GazeSplit(train, validation, "validation, P75 to P98")
    test = VrEyeTracking(config.root, "test")
    return GazeSplit(VrEyeTracking(config.root, "train"), test, "the test videos of the data set's sheet")


def _fold(config: GazeConfig) -> str:
    return f"fold {config.fold} of {config.folds} (seed {config.split_seed})"
