"""The panoramas of an analysis: those of a folder, or one split of a gaze data set, as the paper analyses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sal360.arrays import Pixels
from training.config import (
    option_names,
    require,
    require_at_least,
    require_between,
    require_seed,
    require_together,
)
from training.data.gaze.datasets import DATASETS, GazeConfig, open_gaze
from training.data.gaze.records import GazeRecords, spread
from training.data.panoramas import PanoramaConfig, Panoramas
from training.data.views import resize
from training.trained_models import open_large_enough

Split = Literal["validation", "train", "all"]
_OF_PANORAMAS = [name for name, dataset in DATASETS.items() if dataset.photographs is None]


@dataclass(frozen=True)
class AnalysedConfig(PanoramaConfig):
    """Which panoramas are analysed."""

    root: str
    """Folder of panoramas (searched recursively), or the folder of the gaze data set."""
    dataset: str = ""
    """Name of a gaze data set of panoramas, one of those in docs/reproduce.md; empty: the root is a folder of
    panoramas."""
    folds: int = 5
    """Data sets without a published split: number of folds."""
    fold: int = 0
    """Data sets without a published split: the fold that validates, from 0."""
    split_seed: int = 0
    """Seed of the random folds."""
    scenes: str = ""
    """Panoramas in the form of `gaze.npz`: CSV file with the columns name and scene, as in training; empty: as that
    file says."""

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.dataset in ("", *_OF_PANORAMAS)
        require("dataset", self.dataset, known, f"a data set of panoramas ({', '.join(_OF_PANORAMAS)}), or empty")
        require_at_least("folds", self.folds, 2)
        require_between("fold", self.fold, 0, self.folds - 1)
        require_seed("split_seed", self.split_seed)
        used = DATASETS[self.dataset].settings if self.dataset else ()
        for name in ("fold", "split_seed", "scenes"):
            fits = name in used or getattr(self, name) == getattr(AnalysedConfig, name)
            require_together(self, (name, "dataset"), fits, f"{name} only for a data set that has it")


def require_has_split(config: Any) -> None:
    """Refuse the training part of a folder, which would be all of it.

    Args:
        config: the settings of an analysis, with `split` and `data`.
    """
    fits = bool(config.data.dataset) or config.split != "train"
    require_together(config, ("split", "data.dataset"), fits, "a data set, because a folder has no training part")


@dataclass(frozen=True)
class AnalysedPanoramas:
    """Panoramas with names; item i is (height, 2 * height, 3) uint8 RGB."""

    names: tuple[str, ...]
    """Names of the files, or of the records in their data set."""
    description: str
    """Their number and origin, for titles."""
    height: int
    """Rows, pixels."""
    source: Panoramas | tuple[GazeRecords, ...]
    chosen: tuple[int, ...]
    """Numbers of the panoramas in their source."""

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Pixels:
        index = self.chosen[index]
        if isinstance(self.source, Panoramas):
            return self.source[index]
        for records in self.source:
            if index < len(records):
                return resize(records[index].panorama(), self.height)
            index -= len(records)
        raise IndexError(index)


def open_analysed(config: AnalysedConfig, split: Split, heights: Sequence[int], limit: int = 0) -> AnalysedPanoramas:
    """The panoramas at the largest of `config.height` and `heights`, so that no model sees them enlarged.

    Args:
        config: a folder, or a data set.
        split: the part of the data set; a folder has none.
        heights: rows of the models' inputs.
        limit: number of panoramas, evenly spread; 0: all.

    Raises:
        DataError: they are missing or unusable.
    """
    if not config.dataset:
        panoramas = open_large_enough(config, heights)
        names = tuple(Path(path).name for path in panoramas.paths)
        return _chosen(names, limit, "panoramas", panoramas.height, panoramas)
    height = max(config.height, *heights)
    with option_names("data"):
        gaze = GazeConfig(
            root=config.root,
            dataset=config.dataset,
            folds=config.folds,
            fold=config.fold,
            split_seed=config.split_seed,
            scenes=config.scenes,
        )
        opened = open_gaze(gaze, height)
    parts = {"validation": (opened.measuring,), "train": (opened.training,)}.get(split, opened[:2])
    names = tuple(name for part in parts for name in part.names)
    return _chosen(names, limit, f"panoramas of {DATASETS[config.dataset].title}, {split}", height, parts)


def _chosen(
    names: Sequence[str], limit: int, of: str, height: int, source: Panoramas | tuple[GazeRecords, ...]
) -> AnalysedPanoramas:
    chosen = spread(len(names), limit or len(names))
    count = f"{len(chosen)} of {len(names)}" if len(chosen) < len(names) else f"{len(names)}"
    return AnalysedPanoramas(tuple(names[each] for each in chosen), f"{count} {of}", height, source, tuple(chosen))
