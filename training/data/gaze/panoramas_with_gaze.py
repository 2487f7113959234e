"""Training samples of panoramas with gaze of their own, varied together with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from sal360.arrays import Density, Mask, Pixels, Reals
from sal360.density import HEADSET_SIGMA_DEG, resize_map, spherical_density
from sal360.ground_truth import GazeRecord
from sal360.projection import Sample
from training.config import require_at_least, require_between
from training.data.loader import Key
from training.data.views import resize


@dataclass(frozen=True)
class AugmentConfig:
    """How a panorama and its gaze are varied together, as in the decoder training of the paper's published code."""

    flip: bool = True
    """Mirror panoramas left to right with probability 1/2."""
    yaw: Literal["none", "quarters", "free"] = "free"
    """Rotation about the vertical axis: none, quarter turns as in the paper, or any whole column."""
    stretch: float = 0.0
    """Probability of stretching the upper or lower half away from the equator, as if the camera stood elsewhere."""
    copies: int = 1
    """Number of times each panorama occurs in an epoch, varied differently; for data sets smaller than a batch."""

    def __post_init__(self) -> None:
        require_at_least("copies", self.copies, 1)
        require_between("stretch", self.stretch, 0, 1)


_STRETCH = (1.0, 1.5)
"""Min and max factor by which rows are stretched."""


class GazePanoramas:
    """Records as samples; the item of key (epoch, index) depends on (seed, epoch, index) alone.

    Each item is (frame (H, 2H, 3) uint8 RGB, densities (1, h, w) float32, masks (1, h, w) bool).

    Args:
        records: panoramas with gaze.
        height: rows of the frame, pixels.
        map_size: (h, w) of the model's map; H and W are multiples of h and w.
        augment: how panoramas and gaze are varied, and in how many copies; None leaves them as they are.
        seed: of the variations.
    """

    def __init__(
        self,
        records: Sequence[GazeRecord],
        height: int,
        map_size: tuple[int, int],
        augment: AugmentConfig | None,
        seed: int,
    ) -> None:
        self.records, self.height, self.map_size = records, height, map_size
        self.augment, self.seed = augment, seed

    def __len__(self) -> int:
        return len(self.records) * (self.augment.copies if self.augment else 1)

    def __getitem__(self, key: Key, /) -> tuple[Pixels, Density, Mask]:
        epoch, index = key
        record = self.records[index % len(self.records)]
        frame = resize(record.panorama(), self.height)
        density = gaze_density(record, *self.map_size)
        valid: Reals = np.ones(self.map_size, np.float32)
        if record.valid is not None:
            valid = resize_map(record.valid.astype(np.float32), *self.map_size)
        if self.augment is not None:
            generator = np.random.default_rng((self.seed, epoch, index))
            frame, density, valid = vary(frame, density, valid, self.augment, generator)
        return frame, density[None], valid[None] > 0.5


def gaze_density(record: GazeRecord, height: int, width: int) -> Reals:
    """The record's density at (height, width), made of its fixations if it has none."""
    if record.density is None:
        return spherical_density(record.fixations, height, width, HEADSET_SIGMA_DEG)
    return resize_map(record.density, height, width)


def vary(
    frame: Pixels, density: Reals, valid: Reals, augment: AugmentConfig, generator: np.random.Generator
) -> tuple[Pixels, Reals, Reals]:
    """The same random flip, turn and stretch of a frame (H, W, 3) and of its maps (h, w).

    The number of draws does not depend on their outcomes.
    """
    flips = augment.flip and generator.random() < 0.5
    column = int(generator.integers({"none": 1, "quarters": 4, "free": density.shape[1]}[augment.yaw]))
    column *= density.shape[1] // 4 if augment.yaw == "quarters" else 1
    stretches, up, factor = generator.random() < augment.stretch, generator.random() < 0.5, generator.uniform(*_STRETCH)

    def apply(picture: NDArray[Sample]) -> NDArray[Sample]:
        if flips:
            picture = picture[:, ::-1]
        # a whole number of the map's columns is a whole number of the frame's, so both turn by the same angle
        picture = np.roll(picture, column * picture.shape[1] // density.shape[1], axis=1)
        if stretches:
            picture = stretch_band(picture, factor, up=up)
        return np.ascontiguousarray(picture)

    return apply(frame), apply(density), apply(valid)


def stretch_band(picture: NDArray[Sample], factor: float, *, up: bool) -> NDArray[Sample]:
    """A picture with one half stretched away from the equator by `factor`; what passes the pole is lost.

    Args:
        picture: (h, w) or (h, w, 3).
        factor: at least 1.
        up: whether the upper half is stretched, or the lower one.
    """
    height, width = picture.shape[:2]
    row = np.arange(height) + 0.5 - height / 2  # from the equator
    half = row < 0 if up else row > 0
    source = np.where(half, row / factor, row) + height / 2 - 0.5
    map_y = np.repeat(source.astype(np.float32)[:, None], width, axis=1)
    map_x = np.repeat(np.arange(width, dtype=np.float32)[None], height, axis=0)
    stretched = cv2.remap(picture, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(stretched, picture.dtype)
