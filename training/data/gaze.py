"""Human gaze by its settings: what a decoder trains on and what it is measured on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
from torch.utils.data import Dataset

from sal360_ros.metrics import METRICS, standard_protocol
from sal360_ros.sphere import Array
from training.config import PanoramaConfig
from training.config.gaze import GazeConfig
from training.data.gaze_panoramas import GazePanoramas, Records
from training.data.gaze_records import open_gaze
from training.data.osie import Photograph, read_osie
from training.data.panoramas import open_panoramas
from training.data.placed_photographs import PlacedPhotographs
from training.data.splits import split_folds
from training.data.taught_maps import names_below, read_taught
from training.photograph_metrics import FIGURES, measure_photographs

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
        panoramas = open_panoramas(PanoramaConfig(config.panoramas, height))
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
        """NSS, CC and KLD on the photographs of the fold that is kept, see training/photograph_metrics.py."""
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
