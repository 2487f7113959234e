"""The table of gaze data sets, and the parts on which a decoder is trained and measured.

From gaze on disk to a training sample, in this order: `DATASETS` here says who opens a data set; its own module
(`salient360.py`, …) reads `GazeRecord`s; `panoramas_with_gaze.py` makes training samples of them. Photographs are
read by `photographs_with_fixations.py` and `photographs_with_maps.py`, and `placed_photographs.py` places several on a
panorama for each sample. The sets that need no code here share a form on disk: docs/gaze_data.md.

To add a data set, write its module and a row in `DATASETS`; settings, `python -m training.data.check` and the table in
docs/reproduce.md follow from the row.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from sal360.arrays import Density, Floats, Mask, Pixels
from sal360.density import HEADSET_SIGMA_DEG
from sal360.errors import DataError
from sal360.metrics import METRICS, standard_protocol
from training.config import (
    is_first_process,
    option_names,
    require,
    require_at_least,
    require_between,
    require_path,
    require_seed,
    require_together,
)
from training.data.gaze import (
    panoramas_with_gaze,
    photographs_with_fixations,
    photographs_with_maps,
    salient360,
    sitzmann,
    vr_eyetracking,
)
from training.data.gaze.dataset_files import Inventory
from training.data.gaze.frame_cache import FrameCache
from training.data.gaze.panoramas_with_gaze import AugmentConfig, GazePanoramas, RecordedPanoramas
from training.data.gaze.photographs import COPY_AGAIN, Photograph, PhotographRecords
from training.data.gaze.placed_photographs import PlacedPhotographs, PlacementConfig
from training.data.gaze.records import (
    GazeRecords,
    GazeSplit,
    GazeSubset,
    evenly,
    split_folds,
    split_scenes,
    spread,
    summary_of,
)
from training.data.gaze.salient360 import Eye, Movement, Salient360
from training.data.gaze.sitzmann import SIGMA_DEG, Condition, Sitzmann
from training.data.gaze.vr_eyetracking import VrEyeTracking
from training.data.loader import Key
from training.data.panoramas import PanoramaConfig, open_panoramas
from training.data.taught_maps import names_below, read_taught, summary_of_maps
from training.evaluation.photographs import FIGURES, measure_photographs
from training.processes import in_shares

Shows = Literal["stills", "videos", ""]
"""What people saw; empty: both, or not known."""
Predict = Callable[[Pixels], Density]
"""Panoramas (B, H, W, 3) uint8 RGB → densities relative to uniform (B, h, w) float32."""
_TRUTH_WIDTH = 200


class Samples(Protocol):
    """Training samples: frames (H, W, 3) uint8 RGB, densities (K, h, w) float32 and masks (K, h, w) bool."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Key, /) -> tuple[Pixels, Density, Mask]: ...


class Gaze(ABC):
    """A data set of gaze, split into a part for training and a part for measuring."""

    training: Samples
    measuring: Samples
    """Samples of the part to measure, without augmentation, for pictures."""
    contents: Mapping[str, str] = MappingProxyType({})
    """What the training samples are made of, to be compared on resuming."""

    @abstractmethod
    def measure(self, predict: Predict, limit: int = 0) -> dict[str, float]:
        """Mean figures over the part to measure, or over `limit` of it, evenly spread; 0: all.

        All training processes call it, and share the work.
        """


@dataclass(frozen=True)
class GazeDataset:
    """A row of the table: one data set, and how it is opened and checked."""

    title: str
    """Its name in texts."""
    content: str
    """Contents of the data set, for documentation."""
    source: str
    """Where it was published."""
    licence: str
    """What is known of its licence. Model cards, the description in model files and the documentation repeat it."""
    split: str
    """How it is split into training and measuring."""
    inventory: Callable[[str | Path], Inventory]
    """Checks whether a copy is complete."""
    open: Callable[[GazeConfig, int, float], GazeSplit]
    """Opens its records: settings, rows of the panoramas, field of view of photographs in degrees."""
    load: Callable[[GazeConfig, int, tuple[int, int], int], Gaze]
    """Opens its training samples: settings, rows of the model's input, size of its map, seed."""
    settings: tuple[str, ...]
    """The fields of `GazeConfig` that it uses, besides `root`."""
    shows: Shows = "stills"
    """What people saw."""
    photographs: Callable[[str | Path], list[Photograph]] | None = None
    """Reads its photographs; None for a data set of panoramas."""

    @property
    def has_folds(self) -> bool:
        """Whether it is split by fold, because no split was published."""
        return "folds" in self.settings


def _open_photographs(config: GazeConfig, panorama_height: int, fov_deg: float) -> GazeSplit:
    kept, others = photograph_parts(config)
    backgrounds = _open_backgrounds(config, panorama_height)[0]
    return GazeSplit(
        PhotographRecords(others, backgrounds, fov_deg),
        PhotographRecords(kept, backgrounds, fov_deg),
        f"{_fold(config)} by photograph, each placed in front at {fov_deg:g}° on a real panorama",
    )


def _open_salient360(config: GazeConfig, panorama_height: int, _fov_deg: float) -> GazeSplit:
    train, validation = (
        Salient360(
            config.root, part, config.movement, config.eye, panorama_height=panorama_height, strict=config.strict
        )
        for part in ("train", "validation")
    )
    return GazeSplit(train, validation, "validation, P75 to P98")


def _open_sitzmann(config: GazeConfig, panorama_height: int, _fov_deg: float) -> GazeSplit:
    everything = Sitzmann(
        config.root,
        config.condition,
        config.sigma_deg or SIGMA_DEG,
        panorama_height=panorama_height,
        strict=config.strict,
    )
    return _folds_of(config, everything)


def _open_recorded(config: GazeConfig, panorama_height: int, _fov_deg: float) -> GazeSplit:
    everything = RecordedPanoramas(
        config.root,
        config.sigma_deg or HEADSET_SIGMA_DEG,
        panorama_height=panorama_height,
        scenes=config.scenes,
    )
    return _folds_of(config, everything)


def _folds_of(config: GazeConfig, everything: GazeRecords) -> GazeSplit:
    parts, of = split_scenes(everything, config.folds, config.split_seed)
    others = np.concatenate([part for i, part in enumerate(parts) if i != config.fold])
    kept = GazeSubset(everything, parts[config.fold])
    return GazeSplit(GazeSubset(everything, others), kept, f"{_fold(config)} {of}")


def _open_vr_eyetracking(config: GazeConfig, _panorama_height: int, _fov_deg: float) -> GazeSplit:
    sigma_deg = config.sigma_deg or HEADSET_SIGMA_DEG
    train, test = (
        VrEyeTracking(config.root, part, config.frame_step, sigma_deg, strict=config.strict)
        for part in ("train", "test")
    )
    return GazeSplit(train, test, "the test videos of the data set's sheet")


def _load_photographs(config: GazeConfig, height: int, map_size: tuple[int, int], seed: int) -> Gaze:
    return PhotographGaze(config, height, map_size, seed)


def _load_panoramas(config: GazeConfig, height: int, map_size: tuple[int, int], seed: int) -> Gaze:
    split = open_gaze(config, height)
    if not config.cache:
        return PanoramaGaze(split, config.augment, height, map_size, seed)
    parts = split.training, split.measuring
    of_training, of_measuring = (FrameCache(config.cache, config.root, part.names, height) for part in parts)
    return PanoramaGaze(split, config.augment, height, map_size, seed, (of_training, of_measuring))


_FOLDS = ("folds", "fold", "split_seed")


def _photographs(
    title: str, content: str, source: str, licence: str, *, photographs: int = 0, fixations: int = 0, people: int = 0
) -> GazeDataset:
    """A row of photographs with fixations, and the numbers of the complete data set, where they are known."""
    return GazeDataset(
        title=title,
        content=content,
        source=source,
        licence=licence,
        split="folds by photograph",
        inventory=partial(
            photographs_with_fixations.inventory, photographs=photographs, fixations=fixations, people=people
        ),
        open=_open_photographs,
        load=_load_photographs,
        settings=(*_FOLDS, "panoramas", "taught", "picture_width", "measure_fov_deg", "placement"),
        photographs=photographs_with_fixations.read_photographs,
    )


def _headset(title: str, content: str, source: str, licence: str, shows: Shows = "videos") -> GazeDataset:
    """A row of panoramas or frames with gaze recorded in headsets, in the form of `RecordedPanoramas`."""
    return GazeDataset(
        title=title,
        content=content,
        source=source,
        licence=licence,
        split="folds by scene, where scenes are known",
        inventory=panoramas_with_gaze.inventory,
        open=_open_recorded,
        load=_load_panoramas,
        settings=(*_FOLDS, "augment", "scenes", "sigma_deg"),
        shows=shows,
    )


_NONE_STATED = "none stated"
DATASETS = {
    "osie": _photographs(
        "OSIE",
        "600 photographs, gaze of 15 people, free viewing for 3 s",
        "[Xu et al., Journal of Vision 2014](https://github.com/NUS-VIP/predicting-human-gaze-beyond-pixels)",
        "MIT",
        photographs=600,
        fixations=84_290,
        people=15,
    ),
    "mit1003": _photographs(
        "MIT1003",
        "1003 photographs, gaze of 15 people, free viewing for 3 s",
        "[Judd et al., ICCV 2009](https://people.csail.mit.edu/tjudd/WherePeopleLook/)",
        "none stated for photographs and gaze; their repository: GPL-3.0",
    ),
    "pascal_s": _photographs(
        "PASCAL-S",
        "850 photographs, gaze of 8 people, free viewing for 2 s; no durations",
        "[Li et al., CVPR 2014](https://cbs.ic.gatech.edu/salobj/)",
        _NONE_STATED,
    ),
    "eyecrowd": _photographs(
        "EyeCrowd",
        "500 photographs of crowds, gaze of 16 people, free viewing for 5 s",
        "Jiang, Xu, Zhao, Saliency in Crowd, ECCV 2014",
        "MIT",
    ),
    "nus_scene": _photographs(
        "NUS scenes",
        "natural scenes, most 256 x 256, gaze of 12 people, free viewing for about 3 s",
        "NUS Vision and Image Processing group",
        "MIT",
    ),
    "rydel35": _photographs(
        "Rydel35",
        "photographs, gaze of 25 people for 5 s, to be recalled later",
        "origin not stated; distributed as Rydel35",
        "photographs: their own; gaze: none stated",
    ),
    "ham": GazeDataset(
        title="HAM",
        content="photographs with maps of gaze, no fixations",
        source="origin not stated; distributed as HAM, of the size of DUT-OMRON",
        licence=_NONE_STATED,
        split="folds by photograph",
        inventory=photographs_with_maps.inventory,
        open=_open_photographs,
        load=_load_photographs,
        settings=(*_FOLDS, "panoramas", "taught", "picture_width", "measure_fov_deg", "placement"),
        photographs=photographs_with_maps.read_photographs,
    ),
    "ceap": _headset(
        "CEAP-360VR",
        "frames of 8 videos, eye fixations of up to 32 people in a headset",
        "[Xue et al., CEAP-360VR 2021](https://github.com/cwi-dis/CEAP-360VR-Dataset)",
        "CC BY-NC 4.0: not for redistributed weights",
    ),
    "avtrack": _headset(
        "AVTrack360",
        "frames of videos, head directions of 48 people over up to 30 s",
        "[Fremerey et al., AVTrack360, MMSys 2018](https://github.com/Telecommunication-Telemedia-Assessment/AVTrack360)",
        "GPL-3.0",
    ),
    "rcqoea": _headset(
        "RCQoEA-360VR",
        "frames of 3 videos, head directions of 32 people, one frame per second",
        "[RCQoEA-360VR](https://github.com/sowmyyav/RCQoEA-360VR-Dataset)",
        "CC BY-NC 4.0: not for redistributed weights",
    ),
    "nasrabadi": _headset(
        "Nasrabadi et al.",
        "frames of videos, head directions of 30 people, one frame per second",
        "[Nasrabadi et al., MMSys 2019](https://github.com/acmmmsys/2019-360dataset)",
        "MIT",
    ),
    "pavs10k": _headset(
        "PAVS10K",
        "frames of videos, published maps of eye fixations",
        "PAVS10K",
        _NONE_STATED,
    ),
    "own": _headset(
        "your own",
        "your own panoramas or frames with gaze, in the form of `gaze.npz`",
        "[gaze_data.md](gaze_data.md#panoramas-with-gaze-gazenpz) says how to write them",
        "your own",
        "",
    ),
    "salient360": GazeDataset(
        title="Salient360!",
        content="85 panoramas, saliency maps and scanpaths of head and eyes",
        source="[Gutiérrez et al., QoMEX 2018](https://salient360.ls2n.fr)",
        licence="terms of its distributor",
        split="P75 to P98 validate",
        inventory=salient360.inventory,
        open=_open_salient360,
        load=_load_panoramas,
        settings=("augment", "movement", "eye"),
    ),
    "sitzmann": GazeDataset(
        title="Sitzmann et al.",
        content="22 panoramas, gaze in three viewing conditions",
        source="[Sitzmann et al., TVCG 2018](https://github.com/vsitzmann/vr-saliency)",
        licence=_NONE_STATED,
        split="folds by panorama",
        inventory=sitzmann.inventory,
        open=_open_sitzmann,
        load=_load_panoramas,
        settings=(*_FOLDS, "augment", "condition", "sigma_deg"),
    ),
    "vr_eyetracking": GazeDataset(
        title="VR-EyeTracking",
        content="208 videos, gaze of at least 31 people in every frame",
        source="[Xu et al., CVPR 2018](https://github.com/xuyanyu-shh/VR-EyeTracking)",
        licence=_NONE_STATED,
        shows="videos",
        split="134 training and 74 test videos, by its own `train_test_set.xlsx`",
        inventory=vr_eyetracking.inventory,
        open=_open_vr_eyetracking,
        load=_load_panoramas,
        settings=("augment", "sigma_deg", "frame_step"),
    ),
}
"""Data sets of human gaze by name."""


def described(names: Iterable[str]) -> str:
    """The titles of data sets, each with what is known of its licence: "OSIE (MIT) and HAM (none stated)"."""
    *others, last = [f"{DATASETS[name].title} ({DATASETS[name].licence})" for name in names]
    return f"{', '.join(others)} and {last}" if others else last


if not TYPE_CHECKING:  # noqa: SIM108  # mypy takes no conditional expression here
    DatasetName = Literal[tuple(DATASETS)]  # jsonargparse takes the choices from it
else:
    DatasetName = str  # mypy does not support a Literal of computed values


@dataclass(frozen=True)
class GazeConfig:
    """The data set of human gaze, and the part of it that is kept for measuring."""

    root: str
    """Root folder of the data set."""
    dataset: DatasetName = "osie"
    """Name of the data set; docs/reproduce.md has a table of them."""
    panoramas: str = ""
    """Photographs: folder of the panoramas on which they are placed."""
    taught: str = ""
    """Photographs: file of `training.teach` with maps of those panoramas, learnt where no photograph lies; or empty."""
    folds: int = 5
    """Data sets without a published split: number of folds for cross-validation."""
    fold: int = 0
    """Data sets without a published split: the fold that is kept for measuring, from 0."""
    split_seed: int = 0
    """Seed of the random folds."""
    picture_width: int = 400
    """Photographs: their longer side, to which they are reduced when they are read, pixels."""
    measure_fov_deg: float = 0.0
    """Photographs: field of view of the viewports in which photographs are measured, degrees; 0: placed flat."""
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    """Photographs: how they are placed."""
    scenes: str = ""
    """Panoramas in the form of `gaze.npz`: CSV file with the columns name and scene; empty: as that file says."""
    cache: str = ""
    """Panoramas with gaze: folder that keeps the decoded pictures and frames (uint8, memory-mapped); empty: they are
    decoded each time, which takes longer than training where they are large or from videos."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Panoramas with gaze: how they and their gaze are augmented."""
    movement: Movement = "HE"
    """Salient360!: maps and scanpaths of head and eyes (HE), or of the head alone (H)."""
    eye: Eye = "R"
    """Salient360!: whose scanpaths are used, those of the left (L) or of the right eye (R)."""
    condition: Condition = "vr"
    """Sitzmann et al.: how people looked: standing in a headset (vr), seated (seated_vr), or on a screen (browser)."""
    sigma_deg: float = 0.0
    """Panoramas with fixations: their blur, degrees; 0: that of the data set. Maps that a data set has stay as they
    are."""
    frame_step: int = 30
    """VR-EyeTracking: frames from one record to the next."""
    strict: bool = False
    """Refuse data that are irregular, instead of using them as far as possible and counting what is left out."""

    def __post_init__(self) -> None:
        require_path("root", self.root, "the folder of the data set")
        require("dataset", self.dataset, self.dataset in DATASETS, f"one of {', '.join(DATASETS)}")
        used = DATASETS[self.dataset].settings
        if "panoramas" in used:
            require_path("panoramas", self.panoramas, "a folder of panoramas on which to place the photographs")
        expected = "taught maps only for photographs: the panoramas of this data set have recorded gaze"
        require_together(self, ("taught", "dataset"), not self.taught or "taught" in used, expected)
        only = "a table of scenes only for panoramas in the form of gaze.npz"
        require_together(self, ("scenes", "dataset"), not self.scenes or "scenes" in used, only)
        for name in ("fold", "split_seed", "movement", "eye", "condition", "sigma_deg", "frame_step"):
            default = getattr(GazeConfig, name)
            others = [row.title for row in DATASETS.values() if name in row.settings]
            fits = name in used or getattr(self, name) == default
            require_together(self, (name, "dataset"), fits, f"{name} {default}: only {', '.join(others)} have it")
        blurs = self.sigma_deg == 0 or 0.5 <= self.sigma_deg <= 60
        require("sigma_deg", self.sigma_deg, blurs, "0, or 0.5 to 60")
        require_at_least("frame_step", self.frame_step, 1)
        require_at_least("folds", self.folds, 2)
        require_seed("split_seed", self.split_seed)
        require_between("fold", self.fold, 0, self.folds - 1)
        require_at_least("picture_width", self.picture_width, 40)
        require_between("measure_fov_deg", self.measure_fov_deg, 0, 120)


def open_gaze(config: GazeConfig, panorama_height: int, fov_deg: float = 100.0) -> GazeSplit:
    """Open the records of a data set, as evaluation needs them.

    Args:
        config: which data and which part is measured.
        panorama_height: rows at which panoramas are read, pixels.
        fov_deg: horizontal field of view at which photographs are placed, degrees.

    Raises:
        DataError: files are missing, short or broken.
    """
    split = DATASETS[config.dataset].open(config, panorama_height, fov_deg)
    for part, records in (("training", split.training), ("measured", split.measuring)):
        if records.left_out and config.strict:
            raise DataError(
                f"{config.dataset}, {part} part, has irregular data ({records.left_out})",
                "correct them, or set --data.strict false",
            )
        if records.left_out and is_first_process():
            print(f"{config.dataset}, {part} part, left out: {records.left_out}", file=sys.stderr)
    if split.measuring.left_out:
        return split._replace(description=f"{split.description} (left out: {split.measuring.left_out})")
    return split


def load_gaze(config: GazeConfig, height: int, map_size: tuple[int, int], seed: int) -> Gaze:
    """Open the training samples of a data set, and the part that measures the model while it trains.

    Args:
        config: which data, and how samples are augmented.
        height: rows of the model's input.
        map_size: rows and columns of the model's map.
        seed: seed of placements and augmentation.

    Raises:
        DataError: files are missing, short or broken.
    """
    return DATASETS[config.dataset].load(config, height, map_size, seed)


class PanoramaGaze(Gaze):
    """Panoramas with gaze, measured by the standard protocol.

    Args:
        split: the records.
        augment: how training samples are augmented.
        height: rows of the model's input.
        map_size: rows and columns of the model's map.
        seed: seed of the augmentation.
        caches: keep the decoded frames of the training and the measured records; None: they are decoded each time.
    """

    def __init__(
        self,
        split: GazeSplit,
        augment: AugmentConfig,
        height: int,
        map_size: tuple[int, int],
        seed: int,
        caches: tuple[FrameCache, FrameCache] | tuple[None, None] = (None, None),
    ) -> None:
        self._records: GazeRecords = split.measuring
        self.contents = {"records": summary_of(split.training.names)}
        self.training = GazePanoramas(split.training, height, map_size, augment, seed, caches[0])
        self.measuring = GazePanoramas(split.measuring, height, map_size, None, seed, caches[1])

    def measure(self, predict: Predict, limit: int = 0) -> dict[str, float]:
        """The metrics of the standard protocol, each a mean over the kept records that have its truth."""
        chosen = spread(len(self._records), limit or len(self._records))

        def figures_of(number: int) -> dict[str, float]:
            index = chosen[number]
            frame = self.measuring[0, index][0]
            return standard_protocol(predict(frame[None])[0], self._records[index])

        figures = in_shares(len(chosen), figures_of, "measure")
        return _means({name: [each[name] for each in figures if name in each] for name in METRICS})


class PhotographGaze(Gaze):
    """Photographs placed on panoramas, measured in the photographs' own planes.

    Args:
        config: the settings.
        height: rows of the model's input.
        map_size: rows and columns of the model's map.
        seed: seed of the placements.

    Raises:
        DataError: photographs or panoramas are missing or damaged.
    """

    def __init__(self, config: GazeConfig, height: int, map_size: tuple[int, int], seed: int) -> None:
        self._kept, others = photograph_parts(config)
        self._backgrounds, paths = _open_backgrounds(config, height)
        self._fov_deg = config.measure_fov_deg
        names = names_below(config.panoramas, paths)
        photographs = summary_of([each.name for each in others])
        self.contents = {"photographs": photographs, "panoramas": summary_of(names)}
        taught = read_taught(config.taught, names, map_size) if config.taught else None
        if taught:
            self.contents |= {"taught maps": summary_of_maps(taught)}

        def place(photographs: Sequence[Photograph], taught: Sequence[Density] | None) -> PlacedPhotographs:
            pictures = [photograph.read(config.picture_width) for photograph in photographs]
            densities = [photograph.density(_TRUTH_WIDTH) for photograph in photographs]
            return PlacedPhotographs(pictures, densities, self._backgrounds, config.placement, map_size, seed, taught)

        self.training = place(others, taught)
        self.measuring = place(self._kept, None)

    def measure(self, predict: Predict, limit: int = 0) -> dict[str, float]:
        """NSS, CC and KLD on the photographs of the fold that is kept; see training/evaluation/photographs.py.

        Without NSS if they have maps of gaze, but no fixations.
        """
        kept = evenly(self._kept, limit or len(self._kept))
        figures = measure_photographs(predict, kept, self._backgrounds, fov_deg=self._fov_deg)
        known = np.isfinite(figures)
        return _means({name: figures[known[:, i], i] for i, name in enumerate(FIGURES)})


def _means(figures: Mapping[str, Sequence[float] | Floats]) -> dict[str, float]:
    """The mean of each figure, without those that nothing has."""
    return {name: float(np.mean(values)) for name, values in figures.items() if len(values)}


def read_photographs(dataset: str, root: str | Path) -> list[Photograph]:
    """The photographs of a data set that somebody looked at; the others are left out, and counted on stderr.

    Raises:
        DataError: its files are missing or malformed, or nobody looked at any photograph.
    """
    read = DATASETS[dataset].photographs
    assert read is not None  # the settings refuse data sets of panoramas
    everything = read(root)
    seen = [each for each in everything if each.gaze_map is not None or len(each.x)]
    if not seen:
        raise DataError(f"{root} has no photograph with gaze", COPY_AGAIN)
    if len(seen) < len(everything) and is_first_process():
        print(f"{dataset}, left out: photographs without gaze: {len(everything) - len(seen)}", file=sys.stderr)
    return seen


def photograph_parts(config: GazeConfig) -> tuple[list[Photograph], list[Photograph]]:
    """The photographs of the fold that is kept, and those of the others."""
    photographs = read_photographs(config.dataset, config.root)
    folds = split_folds([each.name for each in photographs], config.folds, config.split_seed)
    others = [photographs[i] for part, fold in enumerate(folds) if part != config.fold for i in fold]
    return [photographs[i] for i in folds[config.fold]], others


def _open_backgrounds(config: GazeConfig, height: int) -> tuple[list[Pixels], tuple[str, ...]]:
    """The panoramas on which photographs are placed, (height, 2 * height, 3) uint8 each, and their paths."""
    with option_names(root="panoramas"):
        panoramas = open_panoramas(PanoramaConfig(config.panoramas, height))
    return [panoramas[i] for i in range(len(panoramas))], panoramas.paths


def _fold(config: GazeConfig) -> str:
    return f"fold {config.fold} of {config.folds} (seed {config.split_seed})"
