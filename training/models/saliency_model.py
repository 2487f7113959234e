"""The saliency model: from a panorama to content, and with calibration and equator prior to the density of gaze.

    density ∝ [(1 − floor) · blur(softmax(content / temperature)) + floor] · prior

`SaliencyModel` predicts the content, a log-density; training fits it. `DensityModel.density` applies calibration and
prior. The prior is one factor per row, so users of the model file can remove it or change its strength exactly
(`ModelSpec.prior_log_rows`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import Tensor, nn

from training.config import require, require_at_least, require_between, require_together
from training.models.base_encoder import SmoothColumns
from training.models.decoders import PaperDecoder, ScaleAttention, SeparableDecoder, upsample_circular
from training.models.encoders import ENCODER_NAMES, EncoderName, build_encoder, encoder_kind, is_encoder
from training.models.layers import normalise
from training.models.prior import PriorConfig, equator_log_rows, row_weights

Frozen = Literal["encoder", "early", "none"]
"""Part of the model that is not trained."""


@dataclass(frozen=True)
class CalibrationConfig:
    """From the content, fitted to photographs, to the density of headset gaze on panoramas (training.calibrate)."""

    temperature: float = 1.0
    """Divides the content's log-density; values above 1 flatten the map."""
    blur_deg: float = 0.0
    """Standard deviation of the Gaussian blur of the content's density, degrees; 0: no blur."""
    floor: float = 0.0
    """Share of a uniform density mixed into the content's density before the prior, 0 to 1."""

    def __post_init__(self) -> None:
        require_between("temperature", self.temperature, 0.1, 10)
        require_between("blur_deg", self.blur_deg, 0, 30)
        require_between("floor", self.floor, 0, 0.99)


_STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class SaliencyModelConfig:
    """Encoder, decoder and calibration of a saliency model."""

    encoder: EncoderName = "compact"
    """Name of the encoder; docs/pretraining.md has a table of them."""
    decoder: Literal["separable", "paper"] = "separable"
    """separable: skip connections from several strides, for encoders that offer them, such as compact; paper: from the
    latent at stride 16."""
    strides: tuple[int, ...] = _STRIDES
    """Strides of the separable decoder's levels; the smallest is the stride of the map."""
    channels: int = 64
    """Channels of each level of the separable decoder."""
    input_height: int = 320
    """Height of the model's input, pixels; the width is twice the height."""
    circular: bool = True
    """Wrap the columns of encoder and decoder around the seam; false pads zeros, as the paper does."""
    scales: int = 1
    """Number of input scales, each half the one before, combined pixel by pixel; 1 to 4."""
    smooth_columns: SmoothColumns = "none"
    """Average each column with its neighbours (1 2 1) before the encoder's first stride (input) or before every stride
    (strides), for encoders that can, such as compact: less aliasing, so that turning the panorama turns the map more
    exactly."""
    prior: PriorConfig = field(default_factory=PriorConfig)
    """The equator prior."""
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    """Temperature, blur and floor."""

    def __post_init__(self) -> None:
        require("encoder", self.encoder, is_encoder(self.encoder), ENCODER_NAMES)
        encoder = encoder_kind(self.encoder).build
        fits = self.decoder == "paper" or bool(encoder.skip_strides)
        require_together(self, ("decoder", "encoder"), fits, f"the decoder paper for the encoder {self.encoder}")
        smooths = self.smooth_columns == "none" or encoder.smooths_columns
        require_together(
            self, ("smooth_columns", "encoder"), smooths, f"smooth_columns none for the encoder {self.encoder}"
        )
        chain = all(2 * a == b for a, b in zip(self.strides, self.strides[1:], strict=False))
        offered = encoder.skip_strides or _STRIDES
        known = set(self.strides) <= set(offered) and len(self.strides) > 0
        require("strides", self.strides, chain and known, f"a gapless chain out of {', '.join(map(str, offered))}")
        require_at_least("channels", self.channels, 1)
        whole = self.input_height >= 32 and self.input_height % 32 == 0
        require("input_height", self.input_height, whole, "a multiple of 32")
        halves = 1 <= self.scales <= 4 and self.input_height % (32 << (self.scales - 1)) == 0
        require_together(
            self, ("scales", "input_height"), halves, "1 to 4 scales, the smallest of which has a multiple of 32 rows"
        )


def blur_matrices(height: int, width: int, sigma_deg: float | Tensor) -> tuple[Tensor, Tensor]:
    """Matrices of a separable Gaussian blur in elevation (height, height) and azimuth (width, width).

    Columns wrap; at the poles the kernel is cut off and renormalised to sum 1. `sigma_deg` is measured at the equator:
    the horizontal blur shrinks on the sphere with the cosine of the elevation.
    """
    row = torch.arange(height, dtype=torch.float64) * (180 / height)
    column = torch.arange(width, dtype=torch.float64) * (360 / width)
    across = (column[:, None] - column[None]).abs()
    rows = torch.exp(-0.5 * ((row[:, None] - row[None]) / sigma_deg) ** 2)
    columns = torch.exp(-0.5 * (torch.minimum(across, 360 - across) / sigma_deg) ** 2)
    return (rows / rows.sum(dim=1, keepdim=True)).float(), (columns / columns.sum(dim=0, keepdim=True)).float()


class SaliencyModel(nn.Module):
    """Encoder and decoder: from a panorama to content.

    Args:
        config: parts and sizes.
        pretrained: start the encoder from the ImageNet weights of its package.
        weights_file: start the encoder from the weights of its whole network in this file; empty: do not.

    Raises:
        CheckpointError: from `build_encoder`.
    """

    def __init__(self, config: SaliencyModelConfig, *, pretrained: bool = False, weights_file: str = "") -> None:
        super().__init__()
        self.config = config
        self._frozen: list[nn.Module] = []
        self.encoder = build_encoder(
            config.encoder,
            pretrained=pretrained or bool(weights_file),
            circular=config.circular,
            weights_file=weights_file,
            smooth_columns=config.smooth_columns,
        )
        self.decoder: SeparableDecoder | PaperDecoder
        if config.decoder == "separable":
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
        """Height and width of the content map of a model with these settings."""
        stride = min(config.strides) if config.decoder == "separable" else 1
        return config.input_height // stride, 2 * config.input_height // stride

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of the content map."""
        return self.map_size_of(self.config)

    def freeze(self, what: Frozen) -> None:
        """Freeze a part of the model: its parameters and its batch statistics."""
        if what == "early":
            self._frozen = self.encoder.early_parts()
        else:
            self._frozen = [] if what == "none" else [self.encoder]
        for part in self._frozen:
            part.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> SaliencyModel:
        """Set training or evaluation mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def forward(self, frames: Tensor) -> Tensor:
        """Panoramas (B, 3, H, W), RGB uint8 or floats in [0, 1] → log-density up to a constant, (B, h, w)."""
        x = normalise(frames)
        if self.scale_attention is None:
            return self.decoder.read_out(self._features(x))
        return cast(Tensor, self.scale_attention(x, self._features, self.decoder.read_out))

    def _features(self, x: Tensor) -> Tensor:
        """Normalised panoramas (B, 3, H, W) → the decoder's last features (B, C, h, w)."""
        if isinstance(self.decoder, SeparableDecoder):
            return self.decoder.features(self.encoder.pyramid(x))
        return self.decoder.features(self.encoder(x))


class DensityModel(nn.Module):
    """A saliency model with calibration and prior: from the camera's bytes to the published density.

    Args:
        model: predicts the content.
        upsample: number of 2x upsampling steps at the output.
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
        rows = equator_log_rows(height, model.config.prior)
        self.register_buffer("prior_log_rows", rows, persistent=False)  # (h, 1)
        self.register_buffer("row_weights", row_weights(height), persistent=False)  # (h, 1)
        if model.config.calibration.blur_deg:
            rows, columns = blur_matrices(height, width, model.config.calibration.blur_deg)
            self.register_buffer("blur_rows", rows, persistent=False)  # (h, h)
            self.register_buffer("blur_columns", columns, persistent=False)  # (w, w)

    def forward(self, frame: Tensor) -> Tensor:
        """Panoramas (B, H, W, 3) uint8 RGB → density relative to uniform (B, h, w) float32."""
        # cast first: TensorRT cannot transpose uint8
        content = self.model(frame.float().permute(0, 3, 1, 2) / 255)  # (B, h, w)
        for _ in range(self.upsample):
            content = upsample_circular(content[:, None])[:, 0]  # (B, 2h, 2w)
        return self.density(content)

    def density(self, content: Tensor) -> Tensor:
        """Content (B, h, w) → calibrated density with the prior (B, h, w); solid-angle-weighted mean 1."""
        calibration = self.model.config.calibration
        return density_of_content(
            content,
            row_weights=self.row_weights,
            temperature=calibration.temperature,
            blur=(self.blur_rows, self.blur_columns) if calibration.blur_deg else None,
            floor=calibration.floor,
            log_prior=self.prior_log_rows,
        )


def density_of_content(
    content: Tensor,
    *,
    row_weights: Tensor,
    temperature: float | Tensor,
    blur: tuple[Tensor, Tensor] | None,
    floor: float | Tensor,
    log_prior: Tensor,
) -> Tensor:
    """The calibrated density with the prior (B, h, w), of solid-angle-weighted mean 1.

    Args:
        content: log-density up to a constant, (B, h, w).
        row_weights: from `row_weights`, (h, 1).
        temperature: as in `CalibrationConfig`.
        blur: from `blur_matrices`; None: no blur.
        floor: as in `CalibrationConfig`.
        log_prior: what the prior adds to the log-density, nats: (h, 1) or (h, w).
    """

    def normalised(density: Tensor) -> Tensor:
        return density / (density * row_weights).mean(dim=(1, 2), keepdim=True)

    content = content / temperature
    density = normalised(torch.exp(content - content.amax(dim=(1, 2), keepdim=True)))
    if blur is not None:
        rows, columns = blur
        density = normalised(rows @ density @ columns)
    density = (1 - floor) * density + floor
    return normalised(density * torch.exp(log_prior))
