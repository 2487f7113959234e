"""The sphere: equirectangular (ERP) pixels, azimuth and elevation, unit vectors, solid angles, rotations.

This is the only place for these formulas; every other module uses them. A pixel's centre has
    azimuth   = π − 2π (u + ½) / W      counter-clockwise seen from above, 0 in the image's middle, +π/2 to the left
    elevation = π/2 − π (v + ½) / H     +π/2 is straight up
and its unit vector, in the body axes of REP-103 (x forward, y left, z up), is
    (cos el · cos az, cos el · sin az, sin el).
So the image's centre looks along +x, the point at three quarters of its width along −y, its top row along +z.
Directions are arrays (..., 3); u and v are pixel coordinates whose integers are pixel centres.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from sal360.arrays import Floats, Integers
from sal360.errors import ParameterError

# Rows turn body axes (REP-103) into the axes of each convention.
_BODY_TO_FRAME: dict[str, Floats] = {
    "body": np.eye(3),  # REP-103: x forward, y left, z up
    "optical": np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]]),  # REP-103 optical: x right, y down
    "openxr": np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [-1.0, 0.0, 0.0]]),  # OpenXR 1.1, 2.16: x right, y up
}
FRAME_CONVENTIONS = tuple(_BODY_TO_FRAME)


def pixel_to_angles(u: ArrayLike, v: ArrayLike, height: int, width: int) -> tuple[Floats, Floats]:
    """Azimuth in (−π, π] and elevation in [−π/2, π/2], radians, of pixel coordinates.

    Coordinates outside the image continue across the seam and over the poles, as on the sphere.
    """
    azimuth = math.pi - 2 * math.pi * (np.asarray(u, dtype=np.float64) + 0.5) / width
    elevation = math.pi / 2 - math.pi * (np.asarray(v, dtype=np.float64) + 0.5) / height
    return normalise_angles(azimuth, elevation)


def angles_to_pixel(azimuth_rad: ArrayLike, elevation_rad: ArrayLike, height: int, width: int) -> tuple[Floats, Floats]:
    """Pixel coordinates u in [−½, W − ½), v in [−½, H − ½] of directions given by their angles."""
    azimuth, elevation = normalise_angles(azimuth_rad, elevation_rad)
    u = (math.pi - azimuth) * (width / (2 * math.pi)) - 0.5
    v = (math.pi / 2 - elevation) * (height / math.pi) - 0.5
    return u, v


def normalise_angles(azimuth_rad: ArrayLike, elevation_rad: ArrayLike) -> tuple[Floats, Floats]:
    """The same directions with azimuth in (−π, π] and elevation in [−π/2, π/2]."""
    azimuth, elevation = np.broadcast_arrays(
        np.asarray(azimuth_rad, dtype=np.float64), np.asarray(elevation_rad, dtype=np.float64)
    )
    turned = np.mod(elevation + math.pi / 2, 2 * math.pi)  # 0 … π before the pole, π … 2π on its far side
    over_pole = turned > math.pi
    elevation = np.where(over_pole, 1.5 * math.pi - turned, turned - math.pi / 2)
    azimuth = np.where(over_pole, azimuth + math.pi, azimuth)
    azimuth = math.pi - np.mod(math.pi - azimuth, 2 * math.pi)
    azimuth = np.where(azimuth <= -math.pi, math.pi, azimuth)  # mod of a tiny negative rounds up to 2π itself
    return azimuth, elevation


def angles_to_vector(azimuth_rad: ArrayLike, elevation_rad: ArrayLike) -> Floats:
    """Unit vectors (..., 3) in body axes (REP-103)."""
    azimuth = np.asarray(azimuth_rad, dtype=np.float64)
    elevation = np.asarray(elevation_rad, dtype=np.float64)
    horizontal = np.cos(elevation)
    parts = (horizontal * np.cos(azimuth), horizontal * np.sin(azimuth), np.sin(elevation))
    return np.stack(np.broadcast_arrays(*parts), axis=-1)


def vector_to_angles(vector: ArrayLike) -> tuple[Floats, Floats]:
    """Azimuth and elevation, radians, of vectors (..., 3) of any length; the zero vector gives 0, 0."""
    x, y, z = np.moveaxis(np.asarray(vector, dtype=np.float64), -1, 0)
    # + 0.0 turns −0 into +0: atan2(−0, −1) is −π, which lies outside (−π, π]
    return np.arctan2(y + 0.0, x), np.arctan2(z, np.hypot(x, y))


def pixel_to_vector(u: ArrayLike, v: ArrayLike, height: int, width: int) -> Floats:
    """Unit vectors (..., 3) of pixel coordinates."""
    return angles_to_vector(*pixel_to_angles(u, v, height, width))


def vector_to_pixel(vector: ArrayLike, height: int, width: int) -> tuple[Floats, Floats]:
    """Pixel coordinates (u, v) of vectors (..., 3)."""
    return angles_to_pixel(*vector_to_angles(vector), height, width)


def nearest_pixel(vector: ArrayLike, height: int, width: int) -> tuple[Integers, Integers]:
    """Column and row of the pixel that contains each direction (..., 3); columns wrap, rows are clamped."""
    u, v = vector_to_pixel(vector, height, width)
    column = np.mod(np.floor(u + 0.5).astype(np.int64), width)
    row = np.clip(np.floor(v + 0.5).astype(np.int64), 0, height - 1)
    return column, row


def body_to_frame(vector: ArrayLike, convention: str) -> Floats:
    """Vectors (..., 3) in body axes expressed in the axes of `convention` (body, optical or openxr)."""
    return np.asarray(vector) @ _frame_matrix(convention).T


def frame_to_body(vector: ArrayLike, convention: str) -> Floats:
    """The inverse of `body_to_frame`."""
    return np.asarray(vector) @ _frame_matrix(convention)


def _frame_matrix(convention: str) -> Floats:
    try:
        return _BODY_TO_FRAME[convention]
    except KeyError:
        raise ParameterError(
            f"the frame convention is {convention!r}", "choose one of " + ", ".join(FRAME_CONVENTIONS)
        ) from None


@lru_cache(maxsize=8)
def erp_directions(height: int, width: int) -> Floats:
    """Unit vectors of all pixel centres, (height, width, 3) float64, read-only and cached."""
    directions = pixel_to_vector(np.arange(width)[None, :], np.arange(height)[:, None], height, width)
    directions.flags.writeable = False
    return directions


@lru_cache(maxsize=32)
def solid_angles(height: int, width: int) -> Floats:
    """Solid angle of one pixel of each row, (height, 1) float64 steradians: times `width`, they sum to 4π.

    Exact: the integral over a pixel is proportional to the sine of its centre's colatitude. Read-only and cached;
    broadcasts against maps (..., height, width).
    """
    colatitude = math.pi * (np.arange(height) + 0.5) / height
    row_sr: Floats = (2 * math.pi / width) * 2 * math.sin(math.pi / (2 * height)) * np.sin(colatitude)
    column: Floats = row_sr[:, None]  # (height,) → (height, 1)
    column.flags.writeable = False
    return column


def angular_distance(first: ArrayLike, second: ArrayLike) -> Floats:
    """Angle in radians, [0, π], between unit vectors (..., 3); accurate for tiny and for opposite angles."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    # 2·atan2(|a − b|, |a + b|) keeps the digits that the arccos of a dot product loses near 0 and π
    angle: Floats = 2 * np.arctan2(np.linalg.norm(a - b, axis=-1), np.linalg.norm(a + b, axis=-1))
    return angle


def rotation_yaw_pitch_roll(yaw_rad: float = 0.0, pitch_rad: float = 0.0, roll_rad: float = 0.0) -> Floats:
    """The rotation Rz(yaw) · Ry(pitch) · Rx(roll), (3, 3) float64, active, about REP-103 axes.

    Positive yaw turns to the left, positive pitch tilts the top (+z) towards the front (+x), positive roll lifts
    the left side.
    """
    cy, sy = math.cos(yaw_rad), math.sin(yaw_rad)
    cp, sp = math.cos(pitch_rad), math.sin(pitch_rad)
    cr, sr = math.cos(roll_rad), math.sin(roll_rad)
    yaw = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1.0]])
    pitch = np.array([[cp, 0, sp], [0, 1.0, 0], [-sp, 0, cp]])
    roll = np.array([[1.0, 0, 0], [0, cr, -sr], [0, sr, cr]])
    rotation: Floats = yaw @ pitch @ roll
    return rotation


def rotation_from_quaternion(w: float, x: float, y: float, z: float) -> Floats:
    """The rotation (3, 3) float64 of a quaternion of any length above 0, as in ROS messages.

    Raises:
        ParameterError: the quaternion is zero or not finite, so it does not give an orientation.
    """
    length = math.sqrt(w * w + x * x + y * y + z * z)
    if not 0 < length < math.inf:
        raise ParameterError(f"the quaternion is ({w}, {x}, {y}, {z})", "set an orientation of finite length above 0")
    w, x, y, z = w / length, x / length, y / length, z / length
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def random_rotation(generator: np.random.Generator) -> Floats:
    """A rotation drawn uniformly from SO(3), (3, 3) float64: a normalised Gaussian quaternion (Shoemake, 1992)."""
    return rotation_from_quaternion(*generator.standard_normal(4).tolist())
