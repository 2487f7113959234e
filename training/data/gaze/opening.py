"""Human gaze by its settings: what a decoder trains on and what it is measured on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from sal360.metrics import METRICS, standard_protocol
from sal360.sphere import Array
from training.config import option_names, require_at_least, require_between, require_path, require_together
from training.data.gaze.osie import OsieRecords, Photograph, read_osie
from training.data.gaze.panoramas_with_gaze import AugmentConfig, GazePanoramas, Records
from training.data.gaze.placed_photographs import PlacedPhotographs, PlacementConfig
from training.data.gaze.records import Chosen, GazeRecords
from training.data.gaze.salient360 import Salient360
from training.data.gaze.sitzmann import Sitzmann
from training.data.gaze.splits import split_folds
from training.data.gaze.vr_eyetracking import VrEyeTracking
from training.data.panoramas import PanoramaConfig, Panoramas, open_panoramas
from training.data.taught_maps import names_below, read_taught
from training.evaluation.photographs import FIGURES, measure_photographs


@dataclass(frozen=True)
class GazeConfig:
    """Which gaze, and which part of it is kept for measuring."""

    root: str
    """Folder of the data set."""
    dataset: Literal["osie", "salient360", "sitzmann", "vr_eyetracking"] = "osie"
    """osie (photographs, placed on panoramas) or one of the panoramic ones, on their published splits."""
    panoramas: str = ""
    """Folder of the panoramas on which OSIE's photographs are placed."""
    taught: str = ""
    """File of `training.teach`: maps of those panoramas, learnt where no photograph lies; empty: nothing is."""
    folds: int = 5
    """Parts into which OSIE's photographs and Sitzmann's panoramas are cut for cross-validation."""
    fold: int = 0
    """The part that is kept for measuring."""
    split_seed: int = 0
    """Of the draw of the parts."""
    picture_width: int = 400
    """Columns to which OSIE's photographs are reduced when they are read, pixels."""
    measure_fov_deg: float = 0.0
    """Field of view of the viewports in which OSIE's photographs are measured, degrees; 0: they lie flat."""
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    """How OSIE's photographs are placed."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """How panoramas with gaze are varied."""

    def __post_init__(self) -> None:
        require_path("root", self.root, "the folder of the data set")
        if self.dataset == "osie":
            require_path("panoramas", self.panoramas, "a folder of panoramas for OSIE's photographs")
        teachable = not self.taught or self.dataset == "osie"
        require_together(
            self, ("taught", "dataset"), teachable, "taught maps with osie alone: the others have gaze of their own"
        )
        require_at_least("folds", self.folds, 2)
        require_between("fold", self.fold, 0, self.folds - 1)
        require_at_least("picture_width", self.picture_width, 40)
        require_between("measure_fov_deg", self.measure_fov_deg, 0, 120)


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
        panoramas = _open_backgrounds(config, panorama_height)
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


def _open_backgrounds(config: GazeConfig, height: int) -> Panoramas:
    with option_names(root="panoramas"):
        return open_panoramas(PanoramaConfig(config.panoramas, height))


def _fold(config: GazeConfig) -> str:
    return f"fold {config.fold} of {config.folds} (seed {config.split_seed})"


Predict = Callable[[Array], Array]
"""Panoramas (B, H, W, 3) uint8 RGB → densities relative to uniform (B, h, w) float32."""
Samples = Dataset[tuple[Array, Array, Array]]
"""Frames (H, W, 3) uint8 RGB, densities (K, h, w) float32 and masks (K, h, w) bool; keys are (epoch, index)."""
_TRUTH_WIDTH = 200


class Gaze(ABC):
    """A data set of gaze, cut into a part to train on and a part to measure."""

    training: Samples
    measuring: Samples
    """Samples of the part to measure, unvaried, for pictures."""

    @abstractmethod
    def measure(self, predict: Predict) -> dict[str, float]:
        """Mean figures over the part to measure."""


class OsieGaze(Gaze):
    """OSIE's photographs placed on panoramas; measured in the photographs' own planes.

    Raises:
        DataError: the photographs or panoramas are missing or broken.
    """

    def __init__(self, config: GazeConfig, height: int, map_size: tuple[int, int], seed: int) -> None:
        photographs = read_osie(config.root)
        folds = split_folds([each.name for each in photographs], config.folds, config.split_seed)
        panoramas = _open_backgrounds(config, height)
        self.backgrounds = [panoramas[i] for i in range(len(panoramas))]
        taught = None
        if config.taught:
            taught = read_taught(config.taught, names_below(config.panoramas, panoramas.paths), map_size)
        self.fov_deg = config.measure_fov_deg
        self.kept = [photographs[i] for i in folds[config.fold]]
        others = np.concatenate([fold for i, fold in enumerate(folds) if i != config.fold])
        self.training = self._place([photographs[i] for i in others], config, map_size, seed, taught)
        self.measuring = self._place(self.kept, config, map_size, seed)

    def _place(
        self,
        photographs: Sequence[Photograph],
        config: GazeConfig,
        map_size: tuple[int, int],
        seed: int,
        taught: Sequence[Array] | None = None,
    ) -> PlacedPhotographs:
        pictures = [photograph.read(config.picture_width) for photograph in photographs]
        densities = [photograph.density(_TRUTH_WIDTH) for photograph in photographs]
        return PlacedPhotographs(pictures, densities, self.backgrounds, config.placement, map_size, seed, taught)

    def measure(self, predict: Predict) -> dict[str, float]:
        """NSS, CC and KLD on the photographs of the fold that is kept, see training/evaluation/photographs.py."""
        figures = measure_photographs(predict, self.kept, self.backgrounds, fov_deg=self.fov_deg)
        return dict(zip(FIGURES, figures.mean(axis=0).tolist(), strict=True))


class PanoramaGaze(Gaze):
    """Panoramas with gaze, measured by the standard protocol."""

    def __init__(
        self,
        training: Records,
        measuring: Records,
        config: GazeConfig,
        height: int,
        map_size: tuple[int, int],
        seed: int,
    ) -> None:
        self.records = measuring
        self.height = height
        self.training = GazePanoramas(training, height, map_size, config.augment, seed)
        self.measuring = GazePanoramas(measuring, height, map_size, None, seed)

    def measure(self, predict: Predict) -> dict[str, float]:
        """The five metrics of the standard protocol, each a mean over the records that are kept."""
        figures = []
        for index in range(len(self.records)):
            frame = self.measuring[0, index][0]
            figures.append(standard_protocol(predict(frame[None])[0], self.records[index]))
        return {name: float(np.mean([each[name] for each in figures])) for name in METRICS}


def load_gaze(config: GazeConfig, height: int, map_size: tuple[int, int], seed: int) -> Gaze:
    """The data set that the settings name.

    Args:
        config: the settings.
        height: rows of the model's input.
        map_size: rows and columns of the model's map.
        seed: of placements and variations.

    Raises:
        DataError: it is missing, short or broken.
    """
    if config.dataset == "osie":
        return OsieGaze(config, height, map_size, seed)
    split = open_gaze(config, height)
    return PanoramaGaze(split.training, split.measuring, config, height, map_size, seed)
