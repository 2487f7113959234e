"""Cameras that people own: rough starting points for their dual-fisheye frames, some from published measurements.

No two cameras are alike: `sal360 calibrate-lenses` measures yours. Lengths are relative to the
frame, so that a preset fits every resolution of a stream with the same shape.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PresetLens:
    """One lens: fractions of the frame, and where it looks."""

    x: float
    """Centre as a fraction of the frame's width: 0 is its left edge, 1 its right one."""
    y: float
    """Centre as a fraction of the frame's height."""
    radius: float
    """Radius of the circle as a fraction of the frame's width."""
    yaw_deg: float
    roll_deg: float


@dataclass(frozen=True)
class Preset:
    """The dual-fisheye frames of one camera."""

    camera: str
    """Its name in shops."""
    aspect: tuple[int, int]
    """Width and height of its frames, as a ratio."""
    fov_deg: float
    lenses: tuple[PresetLens, ...]
    source: str
    """Where the numbers come from."""


def _side_by_side(radius: float, front_roll: float, rear_roll: float, y: float = 0.5) -> tuple[PresetLens, ...]:
    return PresetLens(0.25, y, radius, 0, front_roll), PresetLens(0.75, y, radius, 180, rear_roll)


_INSTA360 = PresetLens(0.75, 0.5, 0.25, 0, -90), PresetLens(0.25, 0.5, 0.25, 180, 90)
"""The sensors are mounted turned; the front lens is on the right."""

PRESETS = {
    "ricoh_theta_s": Preset(
        "Ricoh Theta S",
        (16, 9),
        202.0,
        (PresetLens(0.75, 480 / 1080, 0.25, 0, -90), PresetLens(0.25, 480 / 1080, 0.25, 180, 90)),
        "measured by an owner of a Theta SC (equidistant, 202.2°, radius 480 px in 1920 x 1080); USB stream and MP4",
    ),
    "ricoh_theta_v": Preset(
        "Ricoh Theta V",
        (2, 1),
        202.0,
        _side_by_side(0.24, 0, 0),
        "lenses of the Theta S; only for its dual-fisheye pictures, its USB stream is stitched",
    ),
    "ricoh_theta_z1": Preset(
        "Ricoh Theta Z1",
        (2, 1),
        196.0,
        _side_by_side(0.235, 0, 0),
        "its dual-fisheye pictures (7296 x 3648); its USB stream is stitched",
    ),
    "ricoh_theta_x": Preset(
        "Ricoh Theta X",
        (2, 1),
        196.0,
        _side_by_side(0.235, 0, 0),
        "its dual-fisheye pictures (11008 x 5504); its USB stream is stitched",
    ),
    "insta360_one_x2": Preset(
        "Insta360 One X2",
        (2, 1),
        194.0,
        _INSTA360,
        "radius at 97° from the checkerboard calibration in insta360_ros_driver; front and up as in that driver",
    ),
    "insta360_x3": Preset(
        "Insta360 X3",
        (2, 1),
        194.0,
        _INSTA360,
        "radius at 90° from an owner's calibration (hilti-trimble-slam-challenge-2026, issue 29); "
        "front and up as in insta360_ros_driver",
    ),
    "insta360_x4": Preset("Insta360 X4", (2, 1), 194.0, _INSTA360, "estimate: the same as the X3"),
    "gear_360": Preset(
        "Samsung Gear 360", (2, 1), 195.0, _side_by_side(0.25, 0, 0), "its maker's data sheet: 195° for each lens"
    ),
}
"""Name of the preset → the camera."""
