"""Resampling between the sphere and the plane: rotated panoramas, perspective viewports, pictures placed on the sphere.

Every operation is one bilinear lookup (cv2.remap) through a map of source pixels. Before it, a panorama gets a border
of one pixel with its true neighbours: the other side of the seam, and beyond a pole the same row half a turn away. So
neither the seam nor the poles cause artefacts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeAlias, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from sal360.arrays import Floats, Mask
from sal360.errors import ParameterError
from sal360.images import require_picture
from sal360.sphere import erp_directions

Sample = TypeVar("Sample", bound="np.integer[Any] | np.floating[Any]")
"""Type of a panorama's samples, any that cv2 resamples: uint8, uint16, float32, float64."""
Real = TypeVar("Real", bound="np.floating[Any]")
Maps: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32]]
"""The cv2.remap maps: column and row of the source for each target pixel."""


_NEAR_ORIGIN = 1e-6
"""Distance below which cv2's angles are wrong."""


def pad_sphere(erp: NDArray[Sample]) -> NDArray[Sample]:
    """A panorama (H, W[, C]) with a one-pixel border of its neighbours on the sphere: (H + 2, W + 2[, C])."""
    wrapped = cv2.copyMakeBorder(erp, 1, 1, 1, 1, cv2.BORDER_WRAP)  # right for the columns, wrong for the rows
    padded = wrapped.astype(erp.dtype, copy=False)
    padded[0] = _beyond_pole(padded[1])
    padded[-1] = _beyond_pole(padded[-2])
    return padded


def _beyond_pole(padded_row: NDArray[Sample]) -> NDArray[Sample]:
    """The row beyond a pole: the last one, half a turn away; padded (W + 2[, C]) like its argument."""
    row = padded_row[1:-1]  # (W[, C])
    half = row.shape[0] // 2
    beyond = np.roll(row, half, axis=0)
    if row.shape[0] % 2:  # half a turn falls between two pixels
        between = (beyond.astype(np.float64) + np.roll(row, half + 1, axis=0)) / 2
        beyond = (np.rint(between) if np.issubdtype(row.dtype, np.integer) else between).astype(row.dtype)
    return np.concatenate([beyond[-1:], beyond, beyond[:1]])


def sampling_maps(directions: Floats, height: int, width: int) -> Maps:
    """The maps of `directions.shape[:-1]` that look directions up in a panorama padded by `pad_sphere`."""
    return _maps_of_parts(np.ascontiguousarray(np.moveaxis(directions, -1, 0), dtype=np.float32), height, width)


def _maps_of_parts(xyz: NDArray[np.float32], height: int, width: int) -> Maps:
    # the formulas of `sphere` in float32, as cv2 takes it: much faster if maps change with every frame
    x, y, z = xyz
    from_seam, side = polar(-x, y)
    from_top, _ = polar(z, side)
    u, v = from_seam * np.float32(width / (2 * math.pi)), from_top * np.float32(height / math.pi)
    return u + np.float32(0.5), v + np.float32(0.5)  # − ½ to the pixel's centre, + 1 for the border


def polar(x: NDArray[Real], y: NDArray[Real]) -> tuple[NDArray[Real], NDArray[Real]]:
    """Angles of points (...) from the x axis towards the y axis, 0 to 2π, and their distances from the origin.

    The precision is that of the arguments; float32 takes a sixth of np.arctan2's time.
    """
    if x.dtype != np.float32 or not x.size:
        angle, radius = np.mod(np.arctan2(y, x), 2 * math.pi), np.hypot(x, y)
        return angle.astype(x.dtype, copy=False), radius.astype(x.dtype, copy=False)
    first, second = x.reshape(-1), y.reshape(-1)
    radius, angle = (cast(Any, each).reshape(-1) for each in cv2.cartToPolar(first, second))  # the angle to 2e-4 rad
    cos, sin = (each.reshape(-1) for each in cv2.polarToCart(cast(Any, None), angle))
    angle += (second * cos - first * sin) / np.maximum(radius, np.float32(_NEAR_ORIGIN))  # Newton's method: to 1e-6
    near = np.flatnonzero(radius < _NEAR_ORIGIN)
    if len(near):
        angle[near] = np.mod(np.arctan2(second[near], first[near]), 2 * math.pi)
    return angle.reshape(x.shape), radius.reshape(x.shape)


def sample_erp(erp: NDArray[Sample], directions: Floats) -> NDArray[Sample]:
    """A panorama (H, W[, C]) looked up bilinearly at unit vectors (h, w, 3): (h, w[, C]), the same dtype.

    Raises:
        FrameError: the panorama is None or no array.
    """
    require_picture(erp, "the panorama")
    return remap_sphere(erp, sampling_maps(directions, *erp.shape[:2]))


def remap_sphere(erp: NDArray[Sample], maps: Maps) -> NDArray[Sample]:
    """`sample_erp` with precomputed maps, for a panorama of the same size."""
    sampled = cv2.remap(pad_sphere(erp), *maps, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    shape = *maps[0].shape, *erp.shape[2:]
    return sampled.astype(erp.dtype, copy=False).reshape(shape)  # (h, w[, C]): cv2 drops a single channel


def rotation_maps(rotation: Floats, height: int, width: int) -> Maps:
    """Maps that turn a panorama of this size by `rotation` (3, 3); see `rotate_erp`."""
    parts = _erp_parts(height, width)
    # the content at d after the turn was at Rᵀ d before it
    before = np.ascontiguousarray(rotation.T, np.float32) @ parts
    return _maps_of_parts(before.reshape(3, height, width), height, width)  # (3, height · width) → (3, height, width)


@lru_cache(maxsize=8)
def _erp_parts(height: int, width: int) -> NDArray[np.float32]:
    """The x, y and z of all pixels' directions as separate rows, (3, height · width) float32."""
    parts = np.moveaxis(erp_directions(height, width), -1, 0)
    return parts.reshape(3, -1).astype(np.float32)  # (3, height, width) → (3, height · width)


def rotate_erp(erp: NDArray[Sample], rotation: Floats) -> NDArray[Sample]:
    """The sphere rotated by `rotation` (3, 3): the content in direction d moves to direction R d.

    Args:
        erp: panorama (H, W[, C]), any dtype that cv2 resamples (uint8, uint16, float32, float64).
        rotation: active rotation about body axes, e.g. of `sphere.rotation_yaw_pitch_roll`. The maps of the last
            few rotations are cached; for a stream of random rotations use `rotation_maps` and `remap_sphere`.

    Raises:
        FrameError: the panorama is None or no array.
    """
    require_picture(erp, "the panorama")
    height, width = erp.shape[:2]
    key = np.ascontiguousarray(rotation, dtype=np.float64).tobytes()
    return remap_sphere(erp, _cached_rotation_maps(key, height, width))


@lru_cache(maxsize=8)
def _cached_rotation_maps(key: bytes, height: int, width: int) -> Maps:
    return rotation_maps(np.frombuffer(key).reshape(3, 3), height, width)  # (9,) → (3, 3)


@dataclass(frozen=True, eq=False)
class Viewport:
    """A perspective (rectilinear) window on the sphere, as a headset or a pinhole camera sees it.

    Args:
        rotation: (3, 3), from the body axes of the viewport to those of the panorama. Its first column is the
            direction of the window's middle, its third column is up in the window.
        horizontal_fov_rad: angle between the left and right edges, in (0, π).
        height, width: size in pixels; pixels are square.

    Raises:
        ParameterError: the field of view is not between 0 and 180 degrees.
    """

    rotation: Floats
    horizontal_fov_rad: float
    height: int
    width: int

    def __post_init__(self) -> None:
        if not 0 < self.horizontal_fov_rad < math.pi:
            raise ParameterError(
                f"the horizontal field of view is {math.degrees(self.horizontal_fov_rad):g}°",
                "set it between 0° and 180° (60° to 110° is usual)",
            )

    @property
    def focal_px(self) -> float:
        """Focal length in pixels."""
        return self.width / 2 / math.tan(self.horizontal_fov_rad / 2)

    @cached_property
    def directions(self) -> Floats:
        """Unit vectors, in the panorama's body axes, of the window's pixel centres: (height, width, 3)."""
        x = (np.arange(self.width) + 0.5 - self.width / 2) / self.focal_px
        y = (np.arange(self.height) + 0.5 - self.height / 2) / self.focal_px
        rays = np.stack(np.broadcast_arrays(1.0, -x[None, :], -y[:, None]), axis=-1)  # (h, w, 3), viewport axes
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        turned: Floats = rays @ self.rotation.T
        return turned

    @cached_property
    def solid_angles_sr(self) -> Floats:
        """Solid angle of each pixel, (height, width) float64 steradians: cos³ of its angle from the axis, over f²."""
        solid: Floats = (self.directions @ self.rotation[:, 0]) ** 3 / self.focal_px**2
        return solid

    def project(self, vectors: Floats) -> tuple[Floats, Floats, Mask]:
        """Pixel coordinates x, y (integers are pixel centres) of vectors (..., 3), and whether they lie inside."""
        forward, left, up = np.moveaxis(np.asarray(vectors) @ self.rotation, -1, 0)
        in_front = forward > 1e-9
        safe = np.where(in_front, forward, 1.0)
        x = self.width / 2 - 0.5 - self.focal_px * left / safe
        y = self.height / 2 - 0.5 - self.focal_px * up / safe
        inside = in_front & (x >= -0.5) & (x < self.width - 0.5) & (y >= -0.5) & (y < self.height - 0.5)
        return x, y, inside

    def unproject(self, x: Floats, y: Floats) -> Floats:
        """Unit vectors (..., 3) of pixel coordinates in the window: the inverse of `project`."""
        left = -(np.asarray(x, dtype=np.float64) + 0.5 - self.width / 2) / self.focal_px
        up = -(np.asarray(y, dtype=np.float64) + 0.5 - self.height / 2) / self.focal_px
        rays = np.stack(np.broadcast_arrays(1.0, left, up), axis=-1)
        rays = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
        turned: Floats = rays @ self.rotation.T
        return turned

    def cut_from(self, erp: NDArray[Sample]) -> NDArray[Sample]:
        """The part of a panorama (H, W[, C]) that the window shows: (height, width[, C])."""
        return sample_erp(erp, self.directions)


def place_on_sphere(
    picture: NDArray[Sample], viewport: Viewport, height: int, width: int
) -> tuple[NDArray[Sample], Mask]:
    """A planar picture seen through a viewport's window, as a panorama, with the mask of where it lies.

    Args:
        picture: (h, w[, C]) that fills the window; its size in pixels need not be the viewport's. If the panorama is
            coarser than the picture, the picture is first reduced by area to avoid aliasing.
        viewport: where the picture lies; height and width give its aspect.
        height, width: of the panorama.

    Returns:
        The panorama (height, width[, C]), zero outside the picture, and the mask (height, width) bool.
    """
    pixels_per_rad = width / (2 * math.pi)
    window_px = 2 * math.tan(viewport.horizontal_fov_rad / 2) * pixels_per_rad  # the window's width, at its middle
    scale = min(1.0, window_px / picture.shape[1])
    if scale < 1:
        size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(picture.dtype, copy=False)
    x, y, inside = viewport.project(erp_directions(height, width))
    map_x = (x + 0.5) * (picture.shape[1] / viewport.width) - 0.5
    map_y = (y + 0.5) * (picture.shape[0] / viewport.height) - 0.5
    placed = cv2.remap(
        picture,
        np.where(inside, map_x, -1).astype(np.float32),
        np.where(inside, map_y, -1).astype(np.float32),
        interpolation=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    placed[~inside] = 0
    return placed.astype(picture.dtype, copy=False), inside
