"""Panoramas with gaze as training samples, varied together with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import cv2
import numpy as np
from torch.utils.data import Dataset

from sal360.density import HEADSET_SIGMA_DEG, resize_map, spherical_density
from sal360.ground_truth import GazeRecord
from sal360.sphere import Array
from training.config import require_at_least, require_between
from training.data.loader import Key
from training.data.views import resize


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
        require_at_least("copies", self.copies, 1)
        require_between("stretch", self.stretch, 0, 1)


_STRETCH = (1.0, 1.5)
"""Smallest and largest factor by which the rows of a polar band are stretched."""


class Records(Protocol):
    """A data set of panoramas with gaze; a list of records is one too."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> GazeRecord: ...


class GazePanoramas(Dataset[tuple[Array, Array, Array]]):
    """Records as (frame (H, 2H, 3) uint8 RGB, densities (1, h, w) float32, masks (1, h, w) bool); keys (epoch, index).

    Args:
        records: panoramas with gaze.
        height: rows of the frame, pixels.
        map_size: (h, w) of the model's map; H and W are multiples of h and w.
        augment: how panorama and gaze are varied, and in how many copies; None leaves them as they are.
        seed: of the variations.
    """

    def __init__(
        self,
        records: Records,
        height: int,
        map_size: tuple[int, int],
        augment: AugmentConfig | None,
        seed: int,
    ) -> None:
        self.records, self.height, self.map_size = records, height, map_size
        self.augment, self.seed = augment, seed

    def __len__(self) -> int:
        return len(self.records) * (self.augment.copies if self.augment else 1)

    def __getitem__(self, key: Key) -> tuple[Array, Array, Array]:
        epoch, index = key
        record = self.records[index % len(self.records)]
        frame = resize(record.panorama(), self.height)
        density = gaze_density(record, *self.map_size)
        valid: Array = np.ones(self.map_size, np.float32)
        if record.valid is not None:
            valid = resize_map(record.valid.astype(np.float32), *self.map_size)
        if self.augment is not None:
            generator = np.random.default_rng((self.seed, epoch, index))
            frame, density, valid = vary(frame, density, valid, self.augment, generator)
        return frame, density[None], valid[None] > 0.5


def gaze_density(record: GazeRecord, height: int, width: int) -> Array:
    """The record's density at (height, width), or that of its fixations where it has none."""
    if record.density is None:
        return spherical_density(record.fixations, height, width, HEADSET_SIGMA_DEG)
    return resize_map(record.density, height, width)


def vary(
    frame: Array, density: Array, valid: Array, augment: AugmentConfig, generator: np.random.Generator
) -> tuple[Array, Array, Array]:
    """The same random flip, turn and stretch of a frame (H, W, 3) and of its maps (h, w).

    The number of draws does not depend on their outcomes.
    """
    flips = augment.flip and generator.random() < 0.5
    column = int(generator.integers({"none": 1, "quarters": 4, "free": density.shape[1]}[augment.yaw]))
    column *= density.shape[1] // 4 if augment.yaw == "quarters" else 1
    stretches, up, factor = generator.random() < augment.stretch, generator.random() < 0.5, generator.uniform(*_STRETCH)

    def apply(picture: Array) -> Array:
        if flips:
            picture = picture[:, ::-1]
        # a whole number of the map's columns is a whole number of the frame's, so both turn by the same angle
        picture = np.roll(picture, column * picture.shape[1] // density.shape[1], axis=1)
        if stretches:
            picture = stretch_band(picture, factor, up=up)
        return np.ascontiguousarray(picture)

    return apply(frame), apply(density), apply(valid)


def stretch_band(picture: Array, factor: float, *, up: bool) -> Array:
    """The half above (or below) the equator stretched by `factor` about the equator; what leaves at the pole is lost.

    Args:
        picture: (h, w) or (h, w, 3).
        factor: at least 1.
        up: the upper half, not the lower one.
    """
    height, width = picture.shape[:2]
    row = np.arange(height) + 0.5 - height / 2  # from the equator
    half = row < 0 if up else row > 0
    source = np.where(half, row / factor, row) + height / 2 - 0.5
    map_y = np.repeat(source.astype(np.float32)[:, None], width, axis=1)
    map_x = np.repeat(np.arange(width, dtype=np.float32)[None], height, axis=0)
    stretched: Array = cv2.remap(picture, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return stretched
