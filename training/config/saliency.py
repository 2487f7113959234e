"""Settings of the saliency model: encoder, decoder, equator prior, calibration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from training.config.ranges import require, require_at_least, require_between

Frozen = Literal["encoder", "early", "none"]
SmoothColumns = Literal["none", "input", "strides"]


@dataclass(frozen=True)
class PriorConfig:
    """The equator prior, a Laplace in elevation (published fit to headset gaze: Sitzmann et al. 2018)."""

    mean_deg: float = -1.39
    """Elevation of its middle, degrees."""
    scale_deg: float = 17.91
    """Scale of the Laplace, degrees."""
    floor: float = 0.05
    """Share of uniform mixed in, so that nowhere is impossible."""
    strength: float = 1.0
    """Power of the prior; 0 leaves it out."""

    def __post_init__(self) -> None:
        require_between("model.prior.mean_deg", self.mean_deg, -45, 45)
        require_between("model.prior.scale_deg", self.scale_deg, 1, 1000)
        require_between("model.prior.floor", self.floor, 0, 1)
        require_between("model.prior.strength", self.strength, 0, 4)


@dataclass(frozen=True)
class CalibrationConfig:
    """From the decoder's log-density, fitted to photographs, to the density of headset gaze on a panorama."""

    temperature: float = 1.0
    """Divides the content's log-density: more than 1 flattens it."""
    blur_deg: float = 0.0
    """Deviation of the Gaussian that blurs the content's density, degrees; 0: none."""
    floor: float = 0.0
    """Share of uniform mixed into the content's density, before the prior."""

    def __post_init__(self) -> None:
        require_between("model.calibration.temperature", self.temperature, 0.1, 10)
        require_between("model.calibration.blur_deg", self.blur_deg, 0, 30)
        require_between("model.calibration.floor", self.floor, 0, 0.99)


@dataclass(frozen=True)
class SaliencyModelConfig:
    """One saliency model, of any encoder."""

    encoder: Literal["compact", "vgg16", "resnet50"] = "compact"
    """compact (EfficientNet-Lite0), or one of the paper's two."""
    decoder: Literal["separable", "paper"] = "separable"
    """separable (compact only; skips from several strides), or the paper's (from the latent at stride 16)."""
    strides: tuple[int, ...] = (4, 8, 16, 32)
    """Levels of the separable decoder; the smallest is the stride of the map."""
    channels: int = 64
    """Channels of each level of the separable decoder."""
    input_height: int = 320
    """Rows of the panorama as the model sees it, pixels; the width is twice that."""
    circular: bool = True
    """Wrap the columns in the encoder and the paper's decoder around the seam; false pads zeros, as the paper does."""
    scales: int = 1
    """Sizes at which the model sees it, each half the one before, weighted pixel by pixel; 1: one size."""
    smooth_columns: SmoothColumns = "none"
    """Average each column with its neighbours (1 2 1) before the compact encoder's first stride, or before each of its
    strides: they then alias less, and a turned panorama gets the turned map more exactly."""
    prior: PriorConfig = field(default_factory=PriorConfig)
    """The equator prior."""
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    """Temperature, blur and floor of the content."""

    def __post_init__(self) -> None:
        fits = self.decoder == "paper" or self.encoder == "compact"
        require("model.decoder", self.decoder, fits, "paper for the encoders vgg16 and resnet50")
        smooths = self.smooth_columns == "none" or self.encoder == "compact"
        require("model.smooth_columns", self.smooth_columns, smooths, "none for the encoders vgg16 and resnet50")
        chain = all(2 * a == b for a, b in zip(self.strides, self.strides[1:], strict=False))
        known = set(self.strides) <= {4, 8, 16, 32} and len(self.strides) > 0
        require("model.strides", self.strides, chain and known, "a gapless chain out of 4, 8, 16, 32")
        require_at_least("model.channels", self.channels, 1)
        whole = self.input_height >= 32 and self.input_height % 32 == 0
        require("model.input_height", self.input_height, whole, "a multiple of 32")
        halves = 1 <= self.scales <= 4 and self.input_height % (32 << (self.scales - 1)) == 0
        require("model.scales", self.scales, halves, "1 to 4, and input_height halved as often a multiple of 32")
