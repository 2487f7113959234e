"""The losses against their definitions, pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sal360.errors import ParameterError
from sal360.sphere import solid_angles
from training.saliency_loss import SaliencyLossConfig, parts_with_gaze, saliency_losses

H, W = 6, 12


def _batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Content (2, H, W), and gaze in one and in two parts; the last slots of both are empty."""
    generator = torch.Generator().manual_seed(seed)
    content = torch.randn(2, H, W, generator=generator)
    masks = torch.zeros(2, 3, H, W, dtype=torch.bool)
    masks[0, 0, 1:4, 2:7] = True
    masks[1, 0, :, :5] = True
    masks[1, 1, 2:, 6:] = True
    densities = torch.rand(2, 3, H, W, generator=generator) * masks
    return content, densities, masks


@pytest.mark.parametrize("solid_angle", [True, False])
def test_losses_are_their_definitions(solid_angle: bool) -> None:
    content, densities, masks = _batch()
    expected: dict[str, list[float]] = {"kld": [], "cc": [], "nss": []}
    for b in range(2):
        for k in range(3):
            mask = masks[b, k].numpy()
            if not mask.any():
                continue
            area = (solid_angles(H, W) * np.ones((H, W)) if solid_angle else np.ones((H, W)))[mask]
            area /= area.sum()
            predicted, truth = (
                np.exp(content[b].numpy()[mask].astype(float)),
                densities[b, k].numpy()[mask].astype(float),
            )
            predicted, truth = predicted / (area * predicted).sum(), truth / (area * truth).sum()
            expected["kld"].append((area * truth * np.log(truth / predicted)).sum())
            spread = math.sqrt((area * (predicted - 1) ** 2).sum())
            covariance = (area * (predicted - 1) * (truth - 1)).sum()
            expected["nss"].append(covariance / spread)
            expected["cc"].append(covariance / spread / math.sqrt((area * (truth - 1) ** 2).sum()))
    found = saliency_losses(content, densities, masks, SaliencyLossConfig(solid_angle=solid_angle))
    for name, values in expected.items():
        assert found[name].item() == pytest.approx(np.mean(values), rel=1e-4), name


def test_loss_is_the_weighted_sum_of_its_parts() -> None:
    losses = saliency_losses(*_batch(), SaliencyLossConfig(kld=2.0, cc=0.5, nss=0.25))
    expected = 2 * losses["kld"] - 0.5 * losses["cc"] - 0.25 * losses["nss"]
    assert losses["loss"].item() == pytest.approx(expected.item())


def test_split_batches_cost_on_average_what_the_whole_batch_costs() -> None:
    """The first sample has one part and the second two: a mean of both means would count the first one twice."""
    batch, config = _batch(), SaliencyLossConfig(cc=0.5, nss=0.1)
    whole = saliency_losses(*batch, config)
    halves = [[part[i : i + 1] for part in batch] for i in range(2)]
    count = torch.stack([parts_with_gaze(*half[1:]) for half in halves]).float().mean()
    losses = [saliency_losses(*half, config, count=count) for half in halves]
    for name, value in whole.items():
        assert (losses[0][name] + losses[1][name]).item() / 2 == pytest.approx(value.item(), rel=1e-5), name


def test_the_right_answer_costs_nothing_and_its_scale_does_not_matter() -> None:
    _, densities, masks = _batch()
    masks, densities = masks[1:, :1], densities[1:, :1] + 0.01 * masks[1:, :1]
    content = torch.log(densities[:, 0].clamp_min(1e-6)) + 7.0
    losses = saliency_losses(content, 1000 * densities, masks, SaliencyLossConfig())
    assert losses["kld"].item() == pytest.approx(0, abs=1e-5)
    assert losses["cc"].item() == pytest.approx(1, abs=1e-5)


def test_pixels_outside_the_masks_have_no_gradient() -> None:
    content, densities, masks = _batch()
    content.requires_grad_(True)
    saliency_losses(content, densities, masks, SaliencyLossConfig(cc=1.0, nss=1.0))["loss"].backward()
    assert content.grad is not None
    outside = ~masks.any(dim=1)
    assert content.grad[outside].abs().max() < 1e-9
    assert content.grad[~outside].abs().min() > 0


def test_a_batch_without_gaze_costs_nothing() -> None:
    content, densities, masks = _batch()
    losses = saliency_losses(content, 0 * densities, masks, SaliencyLossConfig(cc=1.0))
    assert losses["loss"].item() == 0


def test_weights_must_leave_something_to_minimise() -> None:
    with pytest.raises(ParameterError, match=r"^kld is 0.* and cc is 0.* and nss is 0"):
        SaliencyLossConfig(kld=0.0)
