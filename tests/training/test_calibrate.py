"""Calibration reaches its targets, on contents whose truth is known."""

from __future__ import annotations

import pytest
import torch

from sal360.errors import ParameterError
from training.calibrate import CalibrateConfig, calibrate, divergence, mean_distance
from training.models.prior import LAPLACE_SCALE_DEG, PriorConfig, equator_log_rows, row_weights
from training.models.saliency_model import DensityModel, SaliencyModel, SaliencyModelConfig


@pytest.fixture(scope="module")
def model() -> SaliencyModel:
    return SaliencyModel(SaliencyModelConfig(input_height=64, channels=8))


def _contents(equator_pull: float = 0.0) -> torch.Tensor:
    """Four smooth random fields (4, 16, 32), with more content near the equator as `equator_pull` grows."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 1, 6, 12, generator=generator)
    fields = torch.nn.functional.interpolate(noise, (16, 32), mode="bilinear")[:, 0]
    elevation = (torch.arange(16) - 7.5).abs()[:, None] / 8
    return 2 * fields - equator_pull * elevation


def test_the_gain_is_reached(model: SaliencyModel) -> None:
    config = CalibrateConfig("run", "panoramas", "out", gain_nats=0.15)
    model.config = calibrate(_contents(), model, config)
    densities = DensityModel(model, upsample=0).density(_contents())
    published = torch.exp(equator_log_rows(16, PriorConfig(floor=config.prior_floor))).expand(16, 32)
    assert float(divergence(densities, published)) == pytest.approx(0.15, rel=0.02)
    assert float((row_weights(16) * densities).mean()) == pytest.approx(1)


def test_gaze_falls_off_from_the_equator_as_published_although_content_gathers_there(model: SaliencyModel) -> None:
    config = CalibrateConfig("run", "panoramas", "out", gain_nats=0.2)
    published = torch.exp(equator_log_rows(16, PriorConfig(floor=config.prior_floor))).expand(16, 32)[None]
    model.config = calibrate(_contents(equator_pull=2.0), model, config)
    densities = DensityModel(model, upsample=0).density(_contents(equator_pull=2.0))
    assert float(mean_distance(densities)) == pytest.approx(float(mean_distance(published)), rel=1e-3)
    assert model.config.prior.scale_deg > 1.1 * LAPLACE_SCALE_DEG


def test_gaze_is_as_near_to_the_equator_as_the_user_says(model: SaliencyModel) -> None:
    config = CalibrateConfig("run", "panoramas", "out", gain_nats=0.2, distance_deg=14)
    model.config = calibrate(_contents(equator_pull=2.0), model, config)
    densities = DensityModel(model, upsample=0).density(_contents(equator_pull=2.0))
    assert float(mean_distance(densities)) == pytest.approx(14, rel=1e-3)


def test_a_model_without_content_cannot_reach_a_gain(model: SaliencyModel) -> None:
    with pytest.raises(ParameterError, match=r"the model reaches a gain from .*--gain_nats"):
        calibrate(torch.zeros(2, 16, 32), model, CalibrateConfig("run", "panoramas", "out"))


def test_divergence_and_distance_of_known_densities() -> None:
    uniform = torch.ones(1, 180, 4)
    assert float(divergence(uniform, uniform[0])) == 0
    assert float(mean_distance(uniform)) == pytest.approx(32.7, abs=0.1)  # (π/2 − 1) rad
