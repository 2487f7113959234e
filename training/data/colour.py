"""Colour jitter of the turned view, on bytes: brightness, contrast, saturation, hue, and taking the colour away."""

from __future__ import annotations

import cv2
import numpy as np

from sal360_ros.sphere import Array
from training.config import ViewConfig

LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, of R, G, B


def jitter(picture: Array, generator: np.random.Generator, config: ViewConfig) -> Array:
    """A picture (H, W, 3) uint8 RGB with other colours, by the probabilities and strengths of the configuration.

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


def scale_colours(picture: Array, brightness: float, contrast: float, saturation: float) -> Array:
    """Brightness (times), contrast (about the mean luminance), saturation (about the own), in this order.

    The three are linear in (R, G, B, 1), so they are one matrix, and bytes are clipped once, at the end.

    Args:
        picture: (H, W, 3) uint8 RGB.
        brightness, contrast, saturation: factors; 1 changes nothing, saturation 0 gives grey.
    """
    if (brightness, contrast, saturation) == (1, 1, 1):
        return picture
    mean_luminance = LUMINANCE @ np.asarray(cv2.mean(picture)[:3]) * brightness
    colours = saturation * np.eye(3) + (1 - saturation) * LUMINANCE[None, :]  # (3, 3); keeps the luminance
    matrix = np.empty((3, 4))
    matrix[:, :3] = brightness * contrast * colours
    matrix[:, 3] = (1 - contrast) * mean_luminance
    scaled: Array = cv2.transform(picture, matrix)
    return scaled


def shift_hue(picture: Array, turns: float) -> Array:
    """All hues of a picture (H, W, 3) uint8 RGB moved along the colour wheel by `turns` of it (in 1 / 256)."""
    steps = round(turns * 256) % 256
    if steps == 0:
        return picture
    hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] = hsv[..., 0] + np.uint8(steps)  # bytes wrap as the wheel does
    shifted: Array = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
    return shifted
