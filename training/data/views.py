"""The two views of one panorama that the contrastive objective compares (Section 3.1; supplementary, C and Figure 7).

Both start from the panorama, mirrored with probability 1/2. The view x is that panorama, reduced. The rotated view x_t
  is family "paper": the panorama with its top or its bottom brought to the front, cropped, shifted, recoloured;
  family "rotation": the panorama turned by any rotation of the sphere, recoloured. Nothing is cut off, so for every
  pixel of x_t its position in x is known.
All random choices depend only on (seed, epoch, index), not on the process.

`ViewPair` makes both; below it are the crop and the shift, then the colours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sal360.arrays import Pixels
from sal360.projection import remap_sphere, rotate_erp, rotation_maps
from sal360.sphere import random_rotation, rotation_yaw_pitch_roll
from training.config import require, require_at_least, require_between, require_together

TOP_TO_FRONT = rotation_yaw_pitch_roll(pitch_rad=math.pi / 2)
BOTTOM_TO_FRONT = rotation_yaw_pitch_roll(pitch_rad=-math.pi / 2)
_LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, of R, G, B


@dataclass(frozen=True)
class ViewConfig:
    """How the view x and the rotated view x_t are made from one panorama."""

    family: Literal["paper", "rotation"] = "paper"
    """paper: top or bottom to the front, crop, shift; rotation: any rotation of the sphere, nothing cut off."""
    correspondence: bool = False
    """Also return the position in x of every pixel of x_t; only with family rotation."""
    height: int = 160
    """Height of the views, pixels; the width is twice that."""
    flip_probability: float = 0.5
    """Probability of mirroring the panorama left to right, for both views."""
    crop_scale: float = 0.75
    """Minimum fraction of the rotated panorama's area that a crop keeps; 1 never crops."""
    crop_ratio: tuple[float, float] = (0.7, 1.4)
    """Minimum and maximum aspect ratio of a crop, relative to the panorama's 2:1."""
    translation_px: float = 10.0
    """Maximum shift along each axis, pixels of the view; uncovered pixels are mirrored."""
    translation_probability: float = 0.8
    """Probability of a shift."""
    brightness: float = 0.4
    """Colour jitter: the brightness is multiplied by a factor drawn from 1 ± this."""
    contrast: float = 0.4
    """Colour jitter: the contrast is multiplied by a factor drawn from 1 ± this."""
    saturation: float = 0.4
    """Colour jitter: the saturation is multiplied by a factor drawn from 1 ± this."""
    hue: float = 0.2
    """Colour jitter: the hue is shifted by up to ± this, in turns of the colour wheel."""
    jitter_probability: float = 0.8
    """Probability of colour jitter."""
    grey_probability: float = 0.25
    """Probability of converting to grey."""

    def __post_init__(self) -> None:
        require("height", self.height, self.height >= 32 and self.height % 32 == 0, "a multiple of 32")
        fits = self.family == "rotation" or not self.correspondence
        require_together(self, ("correspondence", "family"), fits, "correspondence only with the family rotation")
        for name in ("flip", "translation", "jitter", "grey"):
            require_between(f"{name}_probability", getattr(self, f"{name}_probability"), 0, 1)
        require("crop_scale", self.crop_scale, 0 < self.crop_scale <= 1, "more than 0, at most 1")
        low, high = self.crop_ratio
        require("crop_ratio", self.crop_ratio, 0 < low <= 1 <= high, "two numbers on either side of 1")
        require_at_least("translation_px", self.translation_px, 0)
        for name in ("brightness", "contrast", "saturation"):
            require_between(name, getattr(self, name), 0, 1)
        require_between("hue", self.hue, 0, 0.5)


class ViewPair:
    """Makes the two views of a panorama.

    Args:
        seed: seed of all random choices.
        config: how the views are made.
    """

    def __init__(self, seed: int, config: ViewConfig) -> None:
        self.seed = seed
        self.config = config

    def __call__(self, panorama: Pixels, epoch: int, index: int) -> tuple[NDArray[Any], ...]:
        """The views of one panorama in one epoch.

        Args:
            panorama: (H, W, 3) uint8 RGB of any size; it is first reduced to the views' size.
            epoch, index: number of the pass over the data and of the panorama, from 0.

        Returns:
            x and x_t, (3, height, 2 * height) uint8 RGB each. With `correspondence` also (2, height, 2 * height)
            float32: column and row in x of every pixel of x_t (integers are pixel centres; columns are in
            [−½, width − ½), so that one near the seam lies between the last and the first).
        """
        generator = np.random.default_rng((self.seed, epoch, index))
        view = resize(panorama, self.config.height)
        if generator.random() < self.config.flip_probability:
            view = np.asarray(cv2.flip(view, 1), np.uint8)
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


def resize(panorama: Pixels, height: int) -> Pixels:
    """A panorama (H, W, 3) at (height, 2 * height, 3), averaged by area if it shrinks, which avoids aliasing."""
    if panorama.shape[:2] == (height, 2 * height):
        return panorama
    interpolation = cv2.INTER_AREA if panorama.shape[0] >= height else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(panorama, (2 * height, height), interpolation=interpolation), np.uint8)


def to_planes(picture: Pixels) -> Pixels:
    """(H, W, 3) as (3, H, W), contiguous."""
    return np.ascontiguousarray(picture.transpose(2, 0, 1))  # (3, H, W)


class Crop(NamedTuple):
    """A rectangle of pixels: its first column and row, its width and height."""

    left: int
    top: int
    width: int
    height: int


def draw_crop(generator: np.random.Generator, config: ViewConfig, height: int, width: int) -> Crop:
    """A random rectangle inside (height, width).

    Its fraction s of the area is uniform in [crop_scale, 1]. Its aspect ratio r, relative to the whole picture's, is
    log-uniform in the part of `crop_ratio` that fits, r in [s, 1 / s], so no draw is rejected.
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
    """A shift to the right and down, pixels, each uniform in ± translation_px; or no shift."""
    shift = generator.uniform(-config.translation_px, config.translation_px, size=2)
    shifts = generator.random() < config.translation_probability
    return (float(shift[0]), float(shift[1])) if shifts else (0.0, 0.0)


def crop_and_shift(picture: Pixels, crop: Crop, shift: tuple[float, float]) -> Pixels:
    """A crop of a picture (H, W, 3), enlarged to (H, W, 3) and shifted, bilinear; uncovered pixels are mirrored.

    Both take a single lookup: pixel centre x of the result is (x − shift + ½) · scale − ½ of the crop.
    """
    height, width = picture.shape[:2]
    inside = picture[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    scale_x, scale_y = crop.width / width, crop.height / height
    lookup = np.array([[scale_x, 0, (0.5 - shift[0]) * scale_x - 0.5], [0, scale_y, (0.5 - shift[1]) * scale_y - 0.5]])
    warped = cv2.warpAffine(
        inside, lookup, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
    )
    return np.asarray(warped, np.uint8)


def jitter(picture: Pixels, generator: np.random.Generator, config: ViewConfig) -> Pixels:
    """A picture (H, W, 3) uint8 RGB with random colours, by the configured probabilities and strengths.

    The number of draws does not depend on their outcomes.
    """
    brightness, contrast, saturation = (
        generator.uniform(1 - strength, 1 + strength)
        for strength in (config.brightness, config.contrast, config.saturation)
    )
    hue = generator.uniform(-config.hue, config.hue)
    jitters, greys = generator.random(2) < (config.jitter_probability, config.grey_probability)
    if not jitters:
        brightness, contrast, saturation, hue = 1.0, 1.0, 1.0, 0.0
    if greys:
        saturation = hue = 0.0
    return shift_hue(scale_colours(picture, brightness, contrast, saturation), hue)


def scale_colours(picture: Pixels, brightness: float, contrast: float, saturation: float) -> Pixels:
    """Scale brightness, then contrast (about the mean luminance), then saturation (about each pixel's luminance).

    All three are linear in (R, G, B, 1), so they are one matrix, and bytes are clipped once, at the end.

    Args:
        picture: (H, W, 3) uint8 RGB.
        brightness, contrast, saturation: factors; 1 changes nothing, saturation 0 gives grey.
    """
    if (brightness, contrast, saturation) == (1, 1, 1):
        return picture
    mean_luminance = _LUMINANCE @ np.asarray(cv2.mean(picture)[:3]) * brightness
    colours = saturation * np.eye(3) + (1 - saturation) * _LUMINANCE[None, :]  # (3, 3); keeps the luminance
    matrix = np.empty((3, 4))
    matrix[:, :3] = brightness * contrast * colours
    matrix[:, 3] = (1 - contrast) * mean_luminance
    return np.asarray(cv2.transform(picture, matrix), np.uint8)


def shift_hue(picture: Pixels, turns: float) -> Pixels:
    """Shift all hues of a picture (H, W, 3) uint8 RGB along the colour wheel, by turns rounded to 1 / 256."""
    steps = round(turns * 256) % 256
    if steps == 0:
        return picture
    hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] = hsv[..., 0] + np.uint8(steps)  # bytes wrap as the wheel does
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL), np.uint8)
