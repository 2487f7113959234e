"""The heat map over a frame."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from sal360.outputs.overlay import draw_overlay, saliency_to_mono8


def test_mono8_is_the_density_over_its_full_scale_clipped():
    density = np.array([[0, 1, 4, 8, 80]], np.float32)
    assert saliency_to_mono8(density, 8).tolist() == [[0, 32, 128, 255, 255]]
    assert saliency_to_mono8(density, 16).tolist() == [[0, 16, 64, 128, 255]]
    assert saliency_to_mono8(density).dtype == np.uint8


def test_the_scale_does_not_depend_on_the_rest_of_the_map():
    calm, busy = np.ones((8, 16), np.float32), np.ones((8, 16), np.float32)
    busy[2, 3] = 50
    assert saliency_to_mono8(calm)[7, 15] == saliency_to_mono8(busy)[7, 15]


@pytest.mark.parametrize("size", [(40, 80), (16, 32), (8, 16), (41, 83)])
def test_the_overlay_has_the_size_of_the_frame_and_leaves_it_alone(size):
    frame = np.full((*size, 3), 100, np.uint8)
    overlay = draw_overlay(frame, np.ones((16, 32), np.float32))
    assert overlay.shape == frame.shape
    assert overlay.dtype == np.uint8
    assert (frame == 100).all()


def test_regions_of_low_density_are_dimmed_and_keep_their_hue():
    frame = np.full((40, 80, 3), (60, 120, 180), np.uint8)
    overlay = draw_overlay(frame, np.zeros((16, 32), np.float32), opacity=0.5)
    assert np.abs(overlay.astype(int) - (30, 60, 90)).max() <= 3


def test_the_brightest_place_is_where_the_density_is_highest():
    density = np.zeros((16, 32), np.float32)
    density[4, 20] = 8
    overlay = draw_overlay(np.full((160, 320, 3), 90, np.uint8), density)
    y, x = np.unravel_index(overlay.sum(axis=2).argmax(), (160, 320))
    assert (y // 10, x // 10) == (4, 20)


def test_opacity_runs_from_the_frame_to_the_heat_map():
    frame = np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8)
    density = np.random.default_rng(1).random((16, 32), dtype=np.float32) * 8
    np.testing.assert_array_equal(draw_overlay(frame, density, opacity=0), frame)
    heat = cv2.applyColorMap(saliency_to_mono8(density), cv2.COLORMAP_INFERNO)
    np.testing.assert_array_equal(draw_overlay(frame, density, opacity=1), heat)
