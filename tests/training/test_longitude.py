"""Padding that wraps around the seam."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from training.models.layers import WrappedConv2d, wrap_columns, wrap_longitude


def test_seam_columns_are_neighbours() -> None:
    x = torch.arange(6.0).view(1, 1, 1, 6)
    assert wrap_columns(x, 2, 1).flatten().tolist() == [4, 5, 0, 1, 2, 3, 4, 5, 0]
    assert wrap_columns(x, 0, 0).flatten().tolist() == [0, 1, 2, 3, 4, 5]


@settings(deadline=None, max_examples=40)
@given(
    kernel=st.sampled_from([(1, 3), (3, 3), (5, 5), (3, 1)]),
    stride=st.sampled_from([1, 2]),
    groups=st.sampled_from([1, 4]),
    turn=st.integers(-5, 5),
)
def test_a_turned_panorama_gives_the_turned_features(
    kernel: tuple[int, int], stride: int, groups: int, turn: int
) -> None:
    padding = (kernel[0] // 2, kernel[1] // 2)
    layers = nn.Sequential(
        nn.Conv2d(4, 8, kernel, stride=stride, padding=padding, groups=groups),
        nn.MaxPool2d(3, stride=2, padding=1),
    )
    wrap_longitude(layers)
    x = torch.randn(2, 4, 12, 16)
    turned = layers(x.roll(turn * stride * 2, dims=-1))
    torch.testing.assert_close(turned, layers(x).roll(turn, dims=-1))


def test_away_from_the_seam_nothing_changes() -> None:
    conv = nn.Conv2d(3, 5, 3, padding=1)
    x = torch.randn(1, 3, 6, 8)
    plain, wrapped = conv(x), WrappedConv2d(conv)(x)
    torch.testing.assert_close(wrapped[..., 1:-1], plain[..., 1:-1])
    assert not torch.allclose(wrapped[..., 0], plain[..., 0])


def test_rows_beyond_the_poles_are_zero() -> None:
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    x = torch.randn(1, 1, 5, 7)
    by_hand = functional.conv2d(functional.pad(torch.cat([x[..., -1:], x, x[..., :1]], -1), (0, 0, 1, 1)), conv.weight)
    torch.testing.assert_close(WrappedConv2d(conv)(x), by_hand)


def test_wrapping_keeps_parameters_and_their_names() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    before = dict(layers.named_parameters())
    wrap_longitude(layers)
    wrap_longitude(layers)  # a second time changes nothing
    after = dict(layers.named_parameters())
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)
    assert type(layers[0]) is WrappedConv2d
    assert type(layers[1][0]) is nn.Conv2d  # a 1x1 convolution has no padding to wrap


def test_padding_by_name_is_refused() -> None:
    with pytest.raises(ValueError, match="same"):
        wrap_longitude(nn.Sequential(nn.Conv2d(3, 4, 3, padding="same")))
