"""Scenes for the tests of the viewer."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from sal360.density import spherical_density
from sal360.outputs.targets import Target
from sal360.sphere import angles_to_vector, erp_directions
from sal360.viewer.scene import Scene


def smooth_picture(height: int, width: int) -> np.ndarray:
    """A picture (H, W, 3) uint8 BGR without edges that looks different everywhere on the sphere."""
    x, y, z = np.moveaxis(erp_directions(height, width), -1, 0)
    waves = np.stack([np.sin(2.3 * x + 0.7), np.sin(2.9 * y - 0.4), np.sin(2.1 * z + x * y)], axis=-1)
    return np.rint(127 + 100 * waves).astype(np.uint8)


def make_scene(stamp_s: float = 1.0, sequence: int = 1, height: int = 256, **changes: object) -> Scene:
    looked_at = np.stack([angles_to_vector(math.radians(40), math.radians(10)), angles_to_vector(-2.0, -0.3)])
    fields = {
        "name": f"scene_{sequence}",
        "stamp_s": stamp_s,
        "picture": smooth_picture(height, 2 * height),
        "density": spherical_density(looked_at[[0, 0, 1]], 48, 96, 15.0),
        "target": Target(looked_at[0], 5.0, stamp_s - 0.5),
        "sequence": sequence,
    }
    return Scene(**{**fields, **changes})


@pytest.fixture
def scene() -> Scene:
    """A smooth picture, and a map with two peaks."""
    return make_scene()


def noise_scene(sequence: int) -> Scene:
    """A scene whose JPEG is large, with its number as the colour of the map and in the stamp."""
    noise = np.random.default_rng(sequence).integers(0, 256, (512, 1024, 3), np.uint8)
    return make_scene(float(sequence), sequence, picture=cv2.GaussianBlur(noise, (3, 3), 0))
