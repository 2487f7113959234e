"""Calibrate a saliency model for headset gaze on panoramas, without recorded gaze to fit it to.

    python -m training.calibrate --checkpoint runs/compact --panoramas PANORAMAS --output runs/compact_calibrated

A model fitted to photographs is too peaked for panoramas: people turn round, recorded gaze is blurred by degrees, and
gaze also depends on much that is not in the picture. Two published facts and a set of panoramas replace the missing
gaze (docs/model_search.md has the argument):
- The *gain*, KL(prediction ‖ equator prior) averaged over panoramas, sets the temperature. For a calibrated prediction
  it equals the improvement over the prior, so it can be estimated from published results.
- The *marginal*: gaze averaged over panoramas is as far from the equator as under the published Laplace density (of
  gaze per degree of latitude), or as far as you say. Content itself concentrates near the horizon, so the prior that
  the model multiplies in must be wider than that density.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from sal360.errors import ParameterError, one_line_errors
from training.checkpoint import PANORAMAS, joined, read_header, require_no_checkpoint, save_checkpoint
from training.config import read_config, require_between, require_path
from training.data.panoramas import PanoramaConfig, open_panoramas
from training.models.prior import PriorConfig, equator_log_rows, row_elevations_deg, row_weights
from training.models.saliency_model import CalibrationConfig, DensityModel, SaliencyModel, SaliencyModelConfig
from training.trained_models import read_saliency_model

_ROUNDS = 4
"""Number of alternations between temperature and prior, which depend on each other only weakly."""


class _Aim(NamedTuple):
    """The name of a figure that is to reach an aim, and what to do if it cannot."""

    figure: str
    remedy: str


_GAIN = _Aim("a gain", "change --gain_nats, or pass --panoramas whose predictions are less uniform")
_NEGATIVE_DISTANCE = _Aim(
    "minus the mean distance of gaze from the equator, degrees,",
    "pass --panoramas that were taken upright, or train the model with them",
)


@dataclass(frozen=True)
class CalibrateConfig:
    """The model to calibrate, and the targets."""

    checkpoint: str
    """Run folder, checkpoint folder or .safetensors file of a saliency model."""
    panoramas: str
    """Folder of panoramas similar to those that the model will see."""
    output: str
    """Run folder for the calibrated checkpoint: the same weights with other settings."""
    gain_nats: float = 0.21
    """Target of KL(prediction ‖ equator prior), mean over the panoramas, nats."""
    distance_deg: float = 0.0
    """Target of the mean distance of gaze from the equator, degrees; 0: that of the published density of gaze on still
    pictures, 18 degrees. Viewers of videos stay nearer to it (docs/priors.md)."""
    blur_deg: float = 3.0
    """Standard deviation of the blur of the content's density, degrees. Recorded headset gaze is itself blurred by 3 to
    7 degrees, and a map without finer detail changes less when the camera turns."""
    floor: float = 0.1
    """Share of a uniform density in the content: people also look where nothing attracts them."""
    prior_floor: float = 0.05
    """Share of a uniform density in the prior."""

    def __post_init__(self) -> None:
        require_path("panoramas", self.panoramas, "a folder of panoramas")
        require_path("output", self.output, "a run folder")
        require_between("gain_nats", self.gain_nats, 0.001, 2)
        require_between("distance_deg", self.distance_deg, 0, 60)
        require_between("blur_deg", self.blur_deg, 0, 30)
        require_between("floor", self.floor, 0, 0.9)
        require_between("prior_floor", self.prior_floor, 0, 0.9)


def calibrate(contents: Tensor, model: SaliencyModel, config: CalibrateConfig) -> SaliencyModelConfig:
    """The model's settings, with the temperature and the scale of the prior that reach the gain and the marginal.

    Args:
        contents: contents (log-densities) that `model` predicts for the panoramas, (n, h, w).
        model: the model.
        config: the targets.

    Raises:
        ParameterError: no temperature reaches the gain, or no scale the marginal.
    """
    height = contents.shape[1]
    prior = PriorConfig(floor=config.prior_floor)
    published = torch.exp(equator_log_rows(height, prior)).expand_as(contents[0])  # (h, w)
    settings = replace(
        model.config,
        prior=prior,
        calibration=CalibrationConfig(temperature=1.0, blur_deg=config.blur_deg, floor=config.floor),
    )

    def predict(temperature: float, scale_deg: float) -> Tensor:
        """Densities (n, h, w) with these settings."""
        model.config = replace(
            settings,
            prior=replace(settings.prior, scale_deg=scale_deg),
            calibration=replace(settings.calibration, temperature=temperature),
        )
        return DensityModel(model, upsample=0).density(contents)

    def gain(scale_deg: float, temperature: float) -> float:
        return float(divergence(predict(temperature, scale_deg), published))

    def negative_distance(temperature: float, scale_deg: float) -> float:
        return -float(mean_distance(predict(temperature, scale_deg)))

    distance_deg = config.distance_deg or float(mean_distance(published[None]))
    temperature, scale_deg = 2.0, prior.scale_deg
    for _ in range(_ROUNDS):
        temperature = _solve_decreasing(partial(gain, scale_deg), config.gain_nats, 0.2, 10.0, _GAIN)
        scale_deg = _solve_decreasing(
            partial(negative_distance, temperature), -distance_deg, 5.0, 200.0, _NEGATIVE_DISTANCE
        )
    predict(temperature, scale_deg)
    return model.config


def divergence(densities: Tensor, reference: Tensor) -> Tensor:
    """KL(density ‖ reference) of densities (n, h, w) and a reference (h, w), nats: mean over the panoramas."""
    return (row_weights(densities.shape[1]) * densities * torch.log(densities / reference)).mean()


def mean_distance(densities: Tensor) -> Tensor:
    """Mean angular distance of gaze from the equator over densities (n, h, w), degrees."""
    height = densities.shape[1]
    distance = torch.from_numpy(row_elevations_deg(height)).float().abs()[:, None]  # (h, 1)
    return (row_weights(height) * densities * distance).mean()


def _solve_decreasing(function: Callable[[float], float], aim: float, low: float, high: float, of: _Aim) -> float:
    """The argument between `low` and `high` at which a decreasing function reaches `aim`, by logarithmic bisection.

    Raises:
        ParameterError: it does not reach `aim` there.
    """
    largest, smallest = function(low), function(high)
    if not smallest <= aim <= largest:
        raise ParameterError(
            f"the model reaches {of.figure} from {smallest:.3g} to {largest:.3g}, not {aim:.3g}", of.remedy
        )
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if function(middle) > aim else (low, middle)
    return math.sqrt(low * high)


def main() -> None:
    """The command `python -m training.calibrate`."""
    config = read_config(CalibrateConfig, "Calibrate a saliency model for headset gaze.")
    require_no_checkpoint(config.output)
    header = read_header(config.checkpoint, kind="saliency")
    model = read_saliency_model(config.checkpoint).eval()
    panoramas = open_panoramas(PanoramaConfig(config.panoramas, model.config.input_height))
    with torch.no_grad():
        contents = torch.cat(
            [model(torch.from_numpy(panoramas[i].copy())[None].permute(0, 3, 1, 2)) for i in range(len(panoramas))]
        )
        settings = calibrate(contents, model, config)
    save_checkpoint(
        config.output, header.step, model, "saliency", settings, {}, origin=joined(header.learnt_from, [PANORAMAS])
    )
    print(f"temperature {settings.calibration.temperature:.3f}, prior scale {settings.prior.scale_deg:.2f} degrees")


if __name__ == "__main__":
    sys.exit(one_line_errors(main))
