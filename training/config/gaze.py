"""Settings of the human gaze that decoders learn from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from training.config.placement import PlacementConfig
from training.config.ranges import require, require_at_least, require_between


@dataclass(frozen=True)
class AugmentConfig:
    """Changes that a panorama and its gaze undergo together (decoder training of the paper's published code)."""

    flip: bool = True
    """Mirror every second panorama."""
    yaw: Literal["none", "quarters", "free"] = "free"
    """Turn about the vertical: quarter turns as the paper does, or any whole column."""
    stretch: float = 0.0
    """Probability of stretching the bands near the poles over more rows, as if the camera stood elsewhere."""
    copies: int = 1
    """Times that each panorama occurs in an epoch, varied anew each time: for data sets smaller than a batch."""

    def __post_init__(self) -> None:
        require_at_least("data.augment.copies", self.copies, 1)
        require_between("data.augment.stretch", self.stretch, 0, 1)


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
        require("data.root", repr(self.root), bool(self.root.strip()), "the folder of the data set")
        needs = self.dataset != "osie" or bool(self.panoramas.strip())
        require("data.panoramas", repr(self.panoramas), needs, "a folder of panoramas for OSIE's photographs")
        teachable = not self.taught or self.dataset == "osie"
        require("data.taught", repr(self.taught), teachable, "nothing where the panoramas have gaze of their own")
        require_at_least("data.folds", self.folds, 2)
        require_between("data.fold", self.fold, 0, self.folds - 1)
        require_at_least("data.picture_width", self.picture_width, 40)
        require_between("data.measure_fov_deg", self.measure_fov_deg, 0, 120)
