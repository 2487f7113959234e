"""Settings of the two views that the contrastive objective compares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from training.config.ranges import require, require_at_least, require_between


@dataclass(frozen=True)
class ViewConfig:
    """How the plain view x and the turned view x_t are made of one panorama."""

    family: Literal["paper", "rotation"] = "paper"
    """paper: top or bottom to the front, crop, translation; rotation: any turn of the sphere, all of it kept."""
    correspondence: bool = False
    """Also return, for every pixel of x_t, where it lies in x; with family rotation only."""
    height: int = 160
    """Rows of the views, pixels; they are twice as wide."""
    flip_probability: float = 0.5
    """Of mirroring the panorama left to right, before both views."""
    crop_scale: float = 0.75
    """Smallest share of the turned panorama's area that a crop keeps; 1 never crops."""
    crop_ratio: tuple[float, float] = (0.7, 1.4)
    """Width to height of a crop, relative to the panorama's own 2:1; ends on either side of 1."""
    translation_px: float = 10.0
    """Largest shift along each axis, pixels of the view; what is uncovered is mirrored."""
    translation_probability: float = 0.8
    """Of shifting at all."""
    brightness: float = 0.4
    """Colour jitter: factors are drawn from 1 ± this."""
    contrast: float = 0.4
    """Colour jitter: factors are drawn from 1 ± this."""
    saturation: float = 0.4
    """Colour jitter: factors are drawn from 1 ± this."""
    hue: float = 0.2
    """Colour jitter: shifts are drawn from ± this, in turns of the colour wheel."""
    jitter_probability: float = 0.8
    """Of colour jitter at all."""
    grey_probability: float = 0.25
    """Of taking the colour away."""

    def __post_init__(self) -> None:
        require("views.height", self.height, self.height >= 32 and self.height % 32 == 0, "a multiple of 32")
        fits = self.family == "rotation" or not self.correspondence
        require("views.correspondence", self.correspondence, fits, "false, or views.family rotation")
        for name in ("flip", "translation", "jitter", "grey"):
            require_between(f"views.{name}_probability", getattr(self, f"{name}_probability"), 0, 1)
        require("views.crop_scale", self.crop_scale, 0 < self.crop_scale <= 1, "more than 0, at most 1")
        low, high = self.crop_ratio
        require("views.crop_ratio", self.crop_ratio, 0 < low <= 1 <= high, "two numbers on either side of 1")
        require_at_least("views.translation_px", self.translation_px, 0)
        for name in ("brightness", "contrast", "saturation"):
            require_between(f"views.{name}", getattr(self, name), 0, 1)
        require_between("views.hue", self.hue, 0, 0.5)
