"""Calibrate a saliency model for headset gaze on panoramas, of which there is none to fit.

    python -m training.calibrate --checkpoint runs/compact --panoramas PANORAMAS --output runs/compact_calibrated

A model fitted to photographs is too peaked for panoramas: people turn round, gaze is recorded and blurred by degrees,
and much of what attracts them is not in the picture. Two published facts and the pictures themselves set what gaze
cannot (`CalibrateConfig` and the model card have the argument):
- the *gain*, KL(prediction ‖ equator prior) averaged over panoramas, sets the temperature. For a calibrated prediction
  it is also how much better than the prior it is, so it can be argued about;
- the *marginal*: gaze averaged over panoramas falls off from the equator as the published Laplace does. Content itself
  gathers near the horizon, so the factor that the model multiplies in must be wider than that Laplace.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from sal360.errors import ParameterError, one_line_errors
from training.checkpoint import read_header, save_checkpoint
from training.config import read_config, require_between, require_path
from training.data.panoramas import PanoramaConfig, open_panoramas
from training.models.prior import LAPLACE_MEAN_DEG, LAPLACE_SCALE_DEG, PriorConfig, equator_log_rows, row_weights
from training.models.saliency_model import CalibrationConfig, DensityModel, SaliencyModel, SaliencyModelConfig
from training.trained_models import read_saliency_model

_ROUNDS = 4
"""Alternations between temperature and prior; the second changes the first only a little."""


@dataclass(frozen=True)
class CalibrateConfig:
    """What is calibrated, and to what."""

    checkpoint: str
    """Checkpoint, run folder or .safetensors file of a saliency model."""
    panoramas: str
    """Folder of panoramas that look like those of its use."""
    output: str
    """Run folder of the calibrated checkpoint: the same weights, other settings."""
    gain_nats: float = 0.21
    """KL(prediction ‖ equator prior), the mean over the panoramas."""
    blur_deg: float = 3.0
    """Blur of the content's density, degrees: recorded headset gaze is itself blurred by 3 to 7, and a map without
    finer detail moves less when the camera turns."""
    floor: float = 0.1
    """Share of uniform in the content: what nothing draws the eye to is still looked at now and then."""
    prior_floor: float = 0.05
    """Share of uniform in the prior."""

    def __post_init__(self) -> None:
        require_path("panoramas", self.panoramas, "a folder of panoramas")
        require_between("gain_nats", self.gain_nats, 0.001, 2)
        require_between("blur_deg", self.blur_deg, 0, 30)
        require_between("floor", self.floor, 0, 0.9)
        require_between("prior_floor", self.prior_floor, 0, 0.9)


def calibrate(contents: Tensor, model: SaliencyModel, config: CalibrateConfig) -> SaliencyModelConfig:
    """The model's settings with the temperature and the prior's scale that reach the gain and the marginal.

    Args:
        contents: content log-densities of the panoramas, (n, h, w).
        model: gave them.
        config: the aims.

    Raises:
        ParameterError: no temperature reaches the gain.
    """
    height = contents.shape[1]
    published = torch.exp(equator_log_rows(height, floor=config.prior_floor)).expand_as(contents[0])  # (h, w)
    settings = replace(
        model.config,
        prior=PriorConfig(LAPLACE_MEAN_DEG, LAPLACE_SCALE_DEG, config.prior_floor),
        calibration=CalibrationConfig(temperature=1.0, blur_deg=config.blur_deg, floor=config.floor),
    )

    def predict(temperature: float, scale_deg: float) -> Tensor:
        """(n, h, w) densities."""
        model.config = replace(
            settings,
            prior=replace(settings.prior, scale_deg=scale_deg),
            calibration=replace(settings.calibration, temperature=temperature),
        )
        return DensityModel(model, upsample=0).density(contents)

    def gain(scale_deg: float, temperature: float) -> float:
        return float(divergence(predict(temperature, scale_deg), published))

    def nearness(temperature: float, scale_deg: float) -> float:
        return -float(mean_distance(predict(temperature, scale_deg)))

    aim = -float(mean_distance(published[None]))
    temperature, scale_deg = 2.0, LAPLACE_SCALE_DEG
    for _ in range(_ROUNDS):
        temperature = _falling_to(config.gain_nats, partial(gain, scale_deg), 0.2, 10.0)
        scale_deg = _falling_to(aim, partial(nearness, temperature), 5.0, 200.0)
    predict(temperature, scale_deg)
    return model.config


def divergence(densities: Tensor, reference: Tensor) -> Tensor:
    """Mean over panoramas of KL(density ‖ reference), nats; (n, h, w) and (h, w)."""
    return (row_weights(densities.shape[1]) * densities * torch.log(densities / reference)).mean()


def mean_distance(densities: Tensor) -> Tensor:
    """Mean distance of gaze from the equator, degrees, over densities (n, h, w)."""
    height = densities.shape[1]
    elevation_deg = 90 - 180 * (torch.arange(height) + 0.5) / height
    return (row_weights(height) * densities * elevation_deg.abs()[:, None]).mean()


def _falling_to(aim: float, function: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function reaches `aim`, by bisection of a logarithmic interval.

    Raises:
        ParameterError: it does not between `low` and `high`.
    """
    if not function(high) <= aim <= function(low):
        raise ParameterError(
            f"the model reaches {function(low):.3g} to {function(high):.3g}",
            "change the aim",
            expected=f"a range around {aim:.3g}",
        )
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if function(middle) > aim else (low, middle)
    return (low * high) ** 0.5


def main() -> None:
    """The command `python -m training.calibrate`."""
    config = read_config(CalibrateConfig, "Calibrate a saliency model for headset gaze.")
    header = read_header(config.checkpoint, kind="saliency")
    model = read_saliency_model(config.checkpoint).eval()
    panoramas = open_panoramas(PanoramaConfig(config.panoramas, model.config.input_height))
    with torch.no_grad():
        contents = torch.cat(
            [model(torch.from_numpy(panoramas[i].copy())[None].permute(0, 3, 1, 2)) for i in range(len(panoramas))]
        )
        settings = calibrate(contents, model, config)
    save_checkpoint(config.output, header.step, model, "saliency", settings, {})
    print(f"temperature {settings.calibration.temperature:.3f}, prior scale {settings.prior.scale_deg:.2f} degrees")


if __name__ == "__main__":
    sys.exit(one_line_errors(main))
