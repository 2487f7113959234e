"""The two views of one panorama that the contrastive objective compares (Section 3.1; supplementary, C and Figure 7).

Both start from the panorama mirrored with probability ½. The view x is that panorama, reduced. The turned view x_t is
  family "paper": the panorama with its top or its bottom brought to the front, cropped, shifted, recoloured;
  family "rotation": the panorama turned by any rotation of the sphere, recoloured. Nothing is cut off, so that for
  every pixel of x_t it is known where in x it lies.
What is drawn depends on (seed, epoch, index) alone, whichever process draws it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from sal360_ros.projection import remap_sphere, rotate_erp, rotation_maps
from sal360_ros.sphere import Array, random_rotation, rotation_yaw_pitch_roll
from training.config import ViewConfig
from training.data.colour import jitter

TOP_TO_FRONT = rotation_yaw_pitch_roll(pitch_rad=math.pi / 2)
BOTTOM_TO_FRONT = rotation_yaw_pitch_roll(pitch_rad=-math.pi / 2)


class Crop(NamedTuple):
    """A rectangle of pixels: its first column and row, its width and height."""

    left: int
    top: int
    width: int
    height: int


class ViewPair:
    """Views of a panorama.

    Args:
        seed: of all draws.
        config: what is drawn.
    """

    def __init__(self, seed: int, config: ViewConfig) -> None:
        self.seed = seed
        self.config = config

    def __call__(self, panorama: Array, epoch: int, index: int) -> tuple[Array, ...]:
        """The views of one panorama in one epoch.

        Args:
            panorama: (H, W, 3) uint8 RGB, of any size; it is reduced to the views' size before anything else.
            epoch, index: which pass over the data, and which panorama it is; at least 0.

        Returns:
            x and x_t, (3, height, 2 * height) uint8 RGB each. With `correspondence` also (2, height, 2 * height)
            float32: column and row in x of every pixel of x_t (integers are pixel centres; columns are in
            [−½, width − ½), so that one near the seam lies between the last and the first).
        """
        generator = np.random.default_rng((self.seed, epoch, index))
        view = resize(panorama, self.config.height)
        if generator.random() < self.config.flip_probability:
            view = cv2.flip(view, 1)
        if self.config.family == "rotation":
            maps = rotation_maps(random_rotation(generator), *view.shape[:2])
            turned = jitter(remap_sphere(view, maps), generator, self.config)
            if self.config.correspondence:
                return to_planes(view), to_planes(turned), np.stack(maps) - 1  # − 1: the maps' border
            return to_planes(view), to_planes(turned)
        turned = rotate_erp(view, TOP_TO_FRONT if generator.random() < 0.5 else BOTTOM_TO_FRONT)
        crop = draw_crop(generator, self.config, *view.shape[:2])
        shift = draw_shift(generator, self.config)
        turned = crop_and_shift(turned, crop, shift)
        return to_planes(view), to_planes(jitter(turned, generator, self.config))


def resize(panorama: Array, height: int) -> Array:
    """A panorama (H, W, 3) at (height, 2 * height, 3); by area where it shrinks, so that nothing aliases."""
    if panorama.shape[:2] == (height, 2 * height):
        return panorama
    shrinks = panorama.shape[0] >= height
    resized: Array = cv2.resize(
        panorama, (2 * height, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return resized


def to_planes(picture: Array) -> Array:
    """(H, W, 3) as (3, H, W), contiguous."""
    return np.ascontiguousarray(picture.transpose(2, 0, 1))  # (3, H, W)


def draw_crop(generator: np.random.Generator, config: ViewConfig, height: int, width: int) -> Crop:
    """A rectangle of a random share of the area and a random shape, anywhere inside (height, width).

    The share s is uniform in [crop_scale, 1]. The shape r, width to height relative to the whole picture's, is
    log-uniform in `crop_ratio` where that fits, r in [s, 1 / s]; so the first draw always succeeds.
    """
    share = generator.uniform(config.crop_scale, 1)
    low, high = (math.log(ratio) for ratio in config.crop_ratio)
    widest = abs(math.log(share))
    ratio = math.exp(generator.uniform(max(low, -widest), min(high, widest)))
    crop_width = min(width, max(1, round(width * math.sqrt(share * ratio))))
    crop_height = min(height, max(1, round(height * math.sqrt(share / ratio))))
    left = int(generator.integers(width - crop_width + 1))
    top = int(generator.integers(height - crop_height + 1))
    return Crop(left, top, crop_width, crop_height)


def draw_shift(generator: np.random.Generator, config: ViewConfig) -> tuple[float, float]:
    """Pixels to the right and down, each uniform in ± translation_px, or none."""
    shift = generator.uniform(-config.translation_px, config.translation_px, size=2)
    shifts = generator.random() < config.translation_probability
    return (float(shift[0]), float(shift[1])) if shifts else (0.0, 0.0)


def crop_and_shift(picture: Array, crop: Crop, shift: tuple[float, float]) -> Array:
    """A crop of a picture (H, W, 3), enlarged to (H, W, 3) and shifted, bilinear; what is uncovered is mirrored.

    Both in one lookup: pixel centre x of the result is (x − shift + ½) · scale − ½ of the crop.
    """
    height, width = picture.shape[:2]
    inside = picture[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    scale_x, scale_y = crop.width / width, crop.height / height
    lookup = np.array([[scale_x, 0, (0.5 - shift[0]) * scale_x - 0.5], [0, scale_y, (0.5 - shift[1]) * scale_y - 0.5]])
    warped: Array = cv2.warpAffine(
        inside, lookup, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
    )
    return warped
