"""Colour jitter on bytes."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sal360.arrays import Pixels
from training.data.views import ViewConfig, jitter, scale_colours, shift_hue

BYTE = 0.5 + (3 * 255 + 1) / 2**11
"""Rounding to a byte, and a matrix product of bytes whose coefficients OpenCV rounds to ten bits after the point."""


def picture(seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def luminance(pixel: Any) -> float:
    return 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 1000),
    brightness=st.floats(0.6, 1.4),
    contrast=st.floats(0.6, 1.4),
    saturation=st.floats(0, 1.4),
)
def test_colours_are_scaled_pixel_by_pixel(seed: int, brightness: float, contrast: float, saturation: float) -> None:
    before = picture(seed)
    bright = [[brightness * float(value) for value in pixel] for pixel in before.reshape(-1, 3)]
    mean = sum(map(luminance, bright)) / len(bright)
    expected = []
    for pixel in bright:
        contrasted = [contrast * value + (1 - contrast) * mean for value in pixel]
        grey = luminance(contrasted)
        expected.append([min(255, max(0, saturation * value + (1 - saturation) * grey)) for value in contrasted])
    after = scale_colours(before, brightness, contrast, saturation)
    assert np.abs(after.reshape(-1, 3) - np.array(expected)).max() <= BYTE


@pytest.mark.parametrize("turns", [-0.2, -0.05, 0.1, 0.2, 0.5])
def test_hue_moves_along_the_wheel(turns: float) -> None:
    before = picture()
    after = shift_hue(before, turns)
    for old, new in zip(before.reshape(-1, 3) / 255, after.reshape(-1, 3) / 255, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*old)
        expected = colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value)
        assert np.abs(new - expected).max() < 0.04  # hues are kept in 256 steps, 6 / 256 of a channel each


def test_changing_nothing_changes_nothing() -> None:
    before = picture()
    assert np.array_equal(shift_hue(scale_colours(before, 1, 1, 1), 0), before)
    off = ViewConfig(jitter_probability=0, grey_probability=0)
    assert np.array_equal(jitter(before, np.random.default_rng(0), off), before)


def test_grey_keeps_the_luminance() -> None:
    before = picture()
    grey = jitter(before, np.random.default_rng(0), ViewConfig(jitter_probability=0, grey_probability=1))
    expected = np.array([luminance(pixel) for pixel in before.reshape(-1, 3).astype(float)])
    assert np.abs(grey.reshape(-1, 3) - expected[:, None]).max() <= BYTE


def test_strengths_and_probabilities_hold_over_many_draws() -> None:
    """A grey card shows the brightness that was drawn; contrast and saturation leave a flat grey as it is."""
    card = np.full((2, 2, 3), 100, np.uint8)
    config = ViewConfig(grey_probability=0)
    drawn = np.array([jitter(card, np.random.default_rng(seed), config)[0, 0, 0] for seed in range(1000)])
    changed = drawn[drawn != 100]
    assert 0.75 < len(changed) / 1000 < 0.85
    assert changed.min() < 65
    assert changed.max() > 135
    assert drawn.min() >= 60
    assert drawn.max() <= 140


def test_draws_do_not_depend_on_outcomes() -> None:
    """Random choices after the jitter are the same whether it is applied or not."""
    after = []
    for probability in (0.0, 1.0):
        generator = np.random.default_rng(0)
        jitter(picture(), generator, ViewConfig(jitter_probability=probability, grey_probability=1 - probability))
        after.append(generator.random())
    assert after[0] == after[1]
