"""The saliency model: panorama → content log-density; with the equator prior and calibration → density of gaze.

    density ∝ [(1 − floor) · blur(softmax(content / temperature)) + floor] · prior

The content is what training fits. The prior is a factor of each row, so a reader of the model file can take it out or
change its strength exactly (`ModelSpec.prior_log_rows`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from training.config import require, require_at_least, require_between, require_together
from training.models.compact import CompactEncoder, SmoothColumns
from training.models.decoders import PaperDecoder, ScaleAttention, SeparableDecoder, upsample_circular
from training.models.encoders import EncoderName, build_encoder
from training.models.layers import normalise
from training.models.prior import PriorConfig, equator_log_rows, row_weights

Frozen = Literal["encoder", "early", "none"]


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
        require_between("temperature", self.temperature, 0.1, 10)
        require_between("blur_deg", self.blur_deg, 0, 30)
        require_between("floor", self.floor, 0, 0.99)


@dataclass(frozen=True)
class SaliencyModelConfig:
    """One saliency model, of any encoder."""

    encoder: EncoderName = "compact"
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
        require_together(self, ("decoder", "encoder"), fits, "the decoder paper for the encoders vgg16 and resnet50")
        smooths = self.smooth_columns == "none" or self.encoder == "compact"
        require_together(
            self, ("smooth_columns", "encoder"), smooths, "smooth_columns none for the encoders vgg16 and resnet50"
        )
        chain = all(2 * a == b for a, b in zip(self.strides, self.strides[1:], strict=False))
        known = set(self.strides) <= {4, 8, 16, 32} and len(self.strides) > 0
        require("strides", self.strides, chain and known, "a gapless chain out of 4, 8, 16, 32")
        require_at_least("channels", self.channels, 1)
        whole = self.input_height >= 32 and self.input_height % 32 == 0
        require("input_height", self.input_height, whole, "a multiple of 32")
        halves = 1 <= self.scales <= 4 and self.input_height % (32 << (self.scales - 1)) == 0
        require_together(
            self, ("scales", "input_height"), halves, "1 to 4 scales, the smallest of which has a multiple of 32 rows"
        )


def blur_matrices(height: int, width: int, sigma_deg: float) -> tuple[Tensor, Tensor]:
    """The matrices (height, height) and (width, width) of a Gaussian of `sigma_deg` in elevation and in azimuth.

    Columns wrap; at the poles the kernel is cut off and raised to sum 1. Towards the poles a step in azimuth is a
    shorter way on the sphere, so the blur is narrower there than at the equator: by the cosine of the elevation.
    """
    row = torch.arange(height, dtype=torch.float64) * (180 / height)
    column = torch.arange(width, dtype=torch.float64) * (360 / width)
    across = (column[:, None] - column[None]).abs()
    rows = torch.exp(-0.5 * ((row[:, None] - row[None]) / sigma_deg) ** 2)
    columns = torch.exp(-0.5 * (torch.minimum(across, 360 - across) / sigma_deg) ** 2)
    return (rows / rows.sum(dim=1, keepdim=True)).float(), (columns / columns.sum(dim=0, keepdim=True)).float()


_EARLY_STAGES = 2
"""Stages of the compact encoder up to stride 4: edges and textures, which need no gaze to be learnt."""


class SaliencyModel(nn.Module):
    """An encoder and a decoder.

    Args:
        config: its parts and sizes.
        pretrained: start the compact encoder from its ImageNet weights.
    """

    def __init__(self, config: SaliencyModelConfig, *, pretrained: bool = False) -> None:
        super().__init__()
        self.config = config
        self._frozen: list[nn.Module] = []
        self.encoder = build_encoder(
            config.encoder, pretrained=pretrained, circular=config.circular, smooth_columns=config.smooth_columns
        )
        self.decoder: SeparableDecoder | PaperDecoder
        if config.decoder == "separable":
            assert isinstance(self.encoder, CompactEncoder)  # the settings allow no other
            self.decoder = SeparableDecoder(self.encoder.pyramid_channels, config.strides, config.channels)
            self.encoder.leave_out_beyond(max(config.strides))
        else:
            self.decoder = PaperDecoder(self.encoder.latent_channels, circular=config.circular)
        self.scale_attention: ScaleAttention | None = None
        if config.scales > 1:
            heights = [self.map_size[0] >> scale for scale in range(config.scales)]
            self.scale_attention = ScaleAttention(self.decoder.feature_channels, heights)

    @staticmethod
    def map_size_of(config: SaliencyModelConfig) -> tuple[int, int]:
        """Rows and columns of the content map of such a model."""
        stride = min(config.strides) if config.decoder == "separable" else 1
        return config.input_height // stride, 2 * config.input_height // stride

    @property
    def map_size(self) -> tuple[int, int]:
        """Rows and columns of the content map."""
        return self.map_size_of(self.config)

    def freeze(self, what: Frozen) -> None:
        """Stop a part from changing: its parameters, and the batch statistics that `train` would move."""
        if what == "early" and isinstance(self.encoder, CompactEncoder):
            self._frozen = [self.encoder.stem, *self.encoder.stages[:_EARLY_STAGES]]
        else:
            self._frozen = [] if what == "none" else [self.encoder]
        for part in self._frozen:
            part.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> SaliencyModel:
        """Switch between training and evaluation; frozen parts stay in evaluation."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def forward(self, frames: Tensor) -> Tensor:
        """Panoramas (B, 3, H, W), RGB uint8 or floats in [0, 1] → content log-density up to a constant, (B, h, w)."""
        x = normalise(frames)
        if self.scale_attention is None:
            return self.decoder.read_out(self._features(x))
        content: Tensor = self.scale_attention(x, self._features, self.decoder.read_out)
        return content

    def _features(self, x: Tensor) -> Tensor:
        """The decoder's last features (B, C, h, w) of normalised panoramas (B, 3, H, W)."""
        if isinstance(self.decoder, SeparableDecoder):
            return self.decoder.features(self.encoder.pyramid(x))
        return self.decoder.features(self.encoder(x))


class DensityModel(nn.Module):
    """A saliency model with its prior and calibration, from the camera's bytes to the published density.

    Args:
        model: gives the content.
        upsample: doublings of the content map on the way out.
    """

    prior_log_rows: Tensor
    row_weights: Tensor
    blur_rows: Tensor
    blur_columns: Tensor

    def __init__(self, model: SaliencyModel, *, upsample: int = 1) -> None:
        super().__init__()
        self.model = model
        self.upsample = upsample
        height, width = (size << upsample for size in model.map_size)
        prior = model.config.prior
        rows = equator_log_rows(
            height, mean_deg=prior.mean_deg, scale_deg=prior.scale_deg, floor=prior.floor, strength=prior.strength
        )
        self.register_buffer("prior_log_rows", rows, persistent=False)  # (h, 1)
        self.register_buffer("row_weights", row_weights(height), persistent=False)  # (h, 1)
        if model.config.calibration.blur_deg:
            rows, columns = blur_matrices(height, width, model.config.calibration.blur_deg)
            self.register_buffer("blur_rows", rows, persistent=False)  # (h, h)
            self.register_buffer("blur_columns", columns, persistent=False)  # (w, w)

    def forward(self, frame: Tensor) -> Tensor:
        """Panoramas (B, H, W, 3) uint8 RGB → density relative to uniform (B, h, w) float32."""
        # the cast comes first: TensorRT transposes no bytes
        content = self.model(frame.float().permute(0, 3, 1, 2) / 255)  # (B, h, w)
        for _ in range(self.upsample):
            content = upsample_circular(content[:, None])[:, 0]  # (B, 2h, 2w)
        return self.density(content)

    def density(self, content: Tensor) -> Tensor:
        """Content log-density (B, h, w) → calibrated density with the prior (B, h, w), solid-angle-weighted mean 1."""
        calibration = self.model.config.calibration
        content = content / calibration.temperature
        density = self._normalised(torch.exp(content - content.amax(dim=(1, 2), keepdim=True)))
        if calibration.blur_deg:
            density = self._normalised(self.blur_rows @ density @ self.blur_columns)
        density = (1 - calibration.floor) * density + calibration.floor
        return self._normalised(density * torch.exp(self.prior_log_rows))

    def _normalised(self, density: Tensor) -> Tensor:
        mean = (density * self.row_weights).mean(dim=(1, 2), keepdim=True)  # (B, 1, 1)
        return density / mean
