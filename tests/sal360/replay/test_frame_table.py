from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from sal360.projection import rotate_erp
from sal360.replay.frame_table import edges_of, unexplained_change, yaw_between
from sal360.samples import bundled_panoramas
from sal360.sphere import erp_directions, rotation_yaw_pitch_roll, solid_angles


@pytest.mark.parametrize("name", ["city", "courtyard", "interior", "sunset"])
@pytest.mark.parametrize("yaw_deg", [-170, -20, -3, -0.5, 0, 1.3, 7, 45, 179])
def test_the_yaw_between_two_frames_of_a_turning_camera_is_found(name: str, yaw_deg: float) -> None:
    erp = cv2.imread(str(bundled_panoramas() / f"{name}.jpg"))
    yaw_rad = math.radians(yaw_deg)
    turned = rotate_erp(erp, rotation_yaw_pitch_roll(yaw_rad=-yaw_rad))  # the scene turns against the camera
    found = yaw_between(edges_of(erp), edges_of(turned))
    assert abs(math.degrees(math.remainder(found - yaw_rad, 2 * math.pi))) < 0.05  # a column has 2.8


def test_nothing_to_match_means_no_turn() -> None:
    flat = edges_of(np.full((64, 128, 3), 90, np.uint8))
    assert yaw_between(flat, flat) == 0


def bump(azimuth_rad: float, sharpness: float = 20) -> np.ndarray:
    """A density around one place on the horizon."""
    towards = np.array([math.cos(azimuth_rad), math.sin(azimuth_rad), 0])
    density = np.exp(sharpness * (erp_directions(80, 160) @ towards - 1))
    return (density / (density * solid_angles(80, 160)).sum() * 4 * math.pi).astype(np.float32)


def test_a_map_that_follows_the_scene_does_not_flicker() -> None:
    # a camera that turns to the left sees the same place further to the right: its azimuth falls
    yaw_rad = 0.3
    assert unexplained_change(bump(0.5), bump(0.5 - yaw_rad), yaw_rad) < 0.01
    assert unexplained_change(bump(0.5), bump(0.5), yaw_rad) > 0.4


def test_unexplained_change_is_the_share_of_the_density_that_moved() -> None:
    still, moved = bump(-2, sharpness=80), bump(2, sharpness=80)
    assert unexplained_change(still, still, 0) == 0
    assert unexplained_change(still, moved, 0) == pytest.approx(1, abs=1e-3)
    assert unexplained_change(still, (still + moved) / 2, 0) == pytest.approx(0.5, abs=1e-3)
