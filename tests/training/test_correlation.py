"""Inter-map correlation against a loop over pairs of channels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from training.latent_correlation import inter_map_correlation


def test_correlation_is_the_mean_over_pairs_of_channels() -> None:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(3, 1, 4, 6, generator=generator)
    latent = torch.randn(3, 7, 4, 6, generator=generator) + torch.tensor([0.0, 1.0, -3.0]).view(3, 1, 1, 1) * shared
    result = inter_map_correlation(latent)
    for b in range(3):
        maps = latent[b].flatten(1).double().numpy()
        pairs = [np.corrcoef(maps[i], maps[j])[0, 1] for i, j in itertools.permutations(range(7), 2)]
        assert float(result[b]) == pytest.approx(np.mean(pairs), abs=1e-5)
    assert result[0] < 0.2 < result[1] < result[2]


def test_equal_maps_correlate_fully_and_opposite_ones_do_not() -> None:
    ramp = torch.arange(24.0).view(1, 1, 4, 6)
    assert float(inter_map_correlation(torch.cat([ramp, 3 * ramp + 5], dim=1))) == pytest.approx(1)
    assert float(inter_map_correlation(torch.cat([ramp, -ramp], dim=1))) == pytest.approx(-1)


def test_constant_maps_are_left_out() -> None:
    latent = torch.randn(1, 4, 4, 6)
    constant = torch.tensor([0.0, 1 / 3, 1e4]).view(1, 3, 1, 1).expand(-1, -1, 4, 6)  # dead channels after a ReLU
    with_dead = inter_map_correlation(torch.cat([latent, constant], dim=1))
    torch.testing.assert_close(with_dead, inter_map_correlation(latent))


def test_nothing_varies_nothing_correlates() -> None:
    assert inter_map_correlation(torch.zeros(2, 4, 3, 3)).isnan().all()


def test_bf16_latents_are_measured_in_float32() -> None:
    latent = torch.randn(1, 16, 4, 6).to(torch.bfloat16)
    torch.testing.assert_close(inter_map_correlation(latent), inter_map_correlation(latent.float()))
