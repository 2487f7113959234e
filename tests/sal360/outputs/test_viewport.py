"""Perspective maps: the map's values along the window's rays, and the gaze inside it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sal360 import sphere
from sal360.arrays import Density
from sal360.outputs.tiles import cube_faces
from sal360.outputs.viewport import ViewportMap
from sal360.projection import Viewport


def scene(height: int, width: int) -> Density:
    x, y, z = np.moveaxis(sphere.erp_directions(height, width), -1, 0)
    return (1 + 0.6 * x * y + 0.5 * y * z - 0.4 * z).astype(np.float32)


def test_each_pixel_has_the_density_that_its_ray_meets() -> None:
    viewport = Viewport(sphere.rotation_yaw_pitch_roll(2.9, -0.6, 0.2), math.radians(100), 30, 40)  # over the seam
    x, y, z = np.moveaxis(viewport.directions, -1, 0)
    sampled = ViewportMap(viewport).sample(scene(160, 320))
    assert sampled.shape == (30, 40)
    assert sampled.dtype == np.float32
    assert np.allclose(sampled, 1 + 0.6 * x * y + 0.5 * y * z - 0.4 * z, atol=2e-3)


def test_a_size_that_changes_is_followed() -> None:
    window = ViewportMap(Viewport(np.eye(3), math.radians(90), 20, 20))
    coarse, fine = window.sample(scene(40, 80)), window.sample(scene(160, 320))
    assert np.allclose(coarse, fine, atol=0.01)
    assert np.array_equal(window.sample(scene(40, 80)), coarse)


def test_the_six_faces_of_a_cube_share_out_all_gaze() -> None:
    density = scene(160, 320)
    shares = [ViewportMap(face).gaze_share(density) for face in cube_faces(64)]
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    top, bottom = shares[2], shares[3]
    assert bottom > top  # the scene is denser below
