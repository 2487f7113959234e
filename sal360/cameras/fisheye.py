"""Fisheye lenses: one, or several that together see the sphere (dual fisheye), in one frame.

A lens maps the angle θ from its axis to a distance r from its centre, r = f · g(θ), where f is the focal length in
pixels. The common g: equidistant θ, equisolid 2 sin(θ/2), stereographic 2 tan(θ/2); the Kannala-Brandt polynomial
θ + k1 θ³ + k2 θ⁵ + k3 θ⁷ + k4 θ⁹ is `cv2.fisheye`, and the `equidistant` of ROS camera_info (Kannala and Brandt, "A
generic camera model and calibration method for conventional, wide-angle, and fish-eye lenses", TPAMI 2006, eq. 6).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sal360.arrays import Floats, Mask
from sal360.cameras.camera import Projection
from sal360.errors import ParameterError

LENS_PROJECTIONS = ("equidistant", "equisolid", "stereographic", "kannala_brandt")
MIN_FOV_DEG, MAX_FOV_DEG = 10.0, 230.0
WHOLE_OVERLAP_DEG = 180.0
"""A blend that is as wide as the overlap of any two lenses."""
_NEWTON_STEPS = 20


@dataclass(frozen=True, eq=False)
class Lens:
    """One fisheye lens and its circle in the frame.

    Its own axes are body axes: x along the optical axis, y to the left in the picture, z up in the picture.

    Raises:
        ParameterError: a value is out of its range, or a Kannala-Brandt polynomial does not grow up to the edge of the
            field of view.
    """

    centre_x: float
    """Column of the optical axis, pixels."""
    centre_y: float
    """Row of the optical axis, pixels."""
    focal_x_px: float
    """Focal length along the columns, pixels."""
    focal_y_px: float
    """Focal length along the rows, pixels."""
    fov_deg: float
    """Full angle of the cone that the lens sees, 10° to 230°."""
    projection: str = "equidistant"
    """One of `LENS_PROJECTIONS`."""
    coefficients: tuple[float, ...] = ()
    """k1 to k4 of kannala_brandt; otherwise empty."""
    rotation: Floats = field(default_factory=lambda: np.eye(3))
    """(3, 3), from the lens's axes to the camera's body axes: its first column is the optical axis."""

    def __post_init__(self) -> None:
        numbers = {
            "the lens's x": self.centre_x,
            "the lens's y": self.centre_y,
            "the focal length": min(self.focal_x_px, self.focal_y_px),
        }
        for name, value in {**numbers, **{f"k{i + 1}": each for i, each in enumerate(self.coefficients)}}.items():
            if not math.isfinite(value):
                raise ParameterError(f"{name} is {value}", "set a finite number")
        if not min(self.focal_x_px, self.focal_y_px) > 0:
            raise ParameterError(
                f"the focal length is {min(self.focal_x_px, self.focal_y_px):g} pixels", "set it, or radius, above 0"
            )
        if not MIN_FOV_DEG <= self.fov_deg <= MAX_FOV_DEG:
            raise ParameterError(
                f"fov_deg is {self.fov_deg:g}", f"set it from {MIN_FOV_DEG:g} to {MAX_FOV_DEG:g} degrees"
            )
        self._check_projection()

    def _check_projection(self) -> None:
        if self.projection not in LENS_PROJECTIONS:
            raise ParameterError(
                f"the lens projection is {self.projection!r}", "choose one of " + ", ".join(LENS_PROJECTIONS)
            )
        if self.projection != "kannala_brandt":
            if self.coefficients:
                raise ParameterError(
                    f"a lens with the projection {self.projection} has the coefficients {list(self.coefficients)}",
                    "remove them, or set the projection to kannala_brandt",
                )
            return
        if len(self.coefficients) != 4:
            raise ParameterError(
                f"a kannala_brandt lens has {len(self.coefficients)} coefficients", "set k1, k2, k3 and k4"
            )
        theta = np.linspace(0, self.half_fov_rad, 512, dtype=np.float64)
        if self._slope(theta).min() <= 0:
            limit_deg = 2 * math.degrees(theta[np.argmax(self._slope(theta) <= 0)])
            raise ParameterError(
                f"the polynomial {list(self.coefficients)} stops growing before fov_deg = {self.fov_deg:g}",
                f"set fov_deg below {limit_deg:.0f}, or calibrate again",
            )

    @classmethod
    def with_radius(
        cls,
        centre_x: float,
        centre_y: float,
        radius_px: float,
        fov_deg: float,
        projection: str = "equidistant",
        coefficients: tuple[float, ...] = (),
        rotation: Floats | None = None,
    ) -> Lens:
        """A lens whose field of view ends `radius_px` from its centre.

        Raises:
            ParameterError: as the class.
        """
        if not 0 < radius_px < math.inf:
            raise ParameterError(f"the radius of a lens is {radius_px:g} pixels", "set it above 0")
        turned = np.eye(3) if rotation is None else rotation
        unit = cls(centre_x, centre_y, 1.0, 1.0, fov_deg, projection, coefficients, turned)
        focal_px = radius_px / unit.edge
        return cls(centre_x, centre_y, focal_px, focal_px, fov_deg, projection, coefficients, turned)

    @property
    def half_fov_rad(self) -> float:
        """Angle between the optical axis and the edge of the field of view, radians."""
        return math.radians(self.fov_deg) / 2

    @property
    def edge(self) -> float:
        """g at the edge of the field of view: the radius of the circle for a focal length of 1."""
        return float(self._growth(np.array(self.half_fov_rad)))

    @property
    def radius_px(self) -> float:
        """Radius of the circle, pixels: the mean of both axes."""
        return self.edge * (self.focal_x_px + self.focal_y_px) / 2

    def project(self, directions: Floats) -> tuple[Floats, Floats, Floats]:
        """Pixel coordinates x, y and angles from the optical axis, radians, (...), of unit vectors (..., 3).

        Directions beyond the field of view get the nearest place on the edge of the circle.
        """
        forward, left, up = np.moveaxis(directions @ self.rotation.astype(directions.dtype), -1, 0)
        side = np.hypot(left, up)
        theta = np.arctan2(side, forward)
        reach = self._growth(np.minimum(theta, directions.dtype.type(self.half_fov_rad)))
        scale = reach / np.maximum(side, directions.dtype.type(1e-30))  # on the axis: 0 / 1e-30
        return self.centre_x - self.focal_x_px * (scale * left), self.centre_y - self.focal_y_px * (scale * up), theta

    def unproject(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Unit vectors (..., 3) of pixel coordinates (...), and their angles from the optical axis, radians.

        Outside the circle, the nearest direction on the edge of the field of view, and an angle beyond it.
        """
        left = (self.centre_x - x) / self.focal_x_px
        up = (self.centre_y - y) / self.focal_y_px
        reach = np.hypot(left, up)
        is_inside = reach <= self.edge * (1 + 1e-12)
        theta = np.minimum(self._angle(np.minimum(reach, self.edge)), self.half_fov_rad)
        scale = np.sin(theta) / np.maximum(reach, 1e-30)
        in_lens = np.stack([np.cos(theta), scale * left, scale * up], axis=-1)
        return in_lens @ self.rotation.T, np.where(is_inside, theta, math.inf)

    def _growth(self, theta: Floats) -> Floats:
        """g(θ)."""
        if self.projection == "equidistant":
            return theta
        if self.projection == "equisolid":
            return 2 * np.sin(theta / 2)
        if self.projection == "stereographic":
            return 2 * np.tan(theta / 2)
        k1, k2, k3, k4 = self.coefficients
        square = theta * theta
        return theta * (1 + square * (k1 + square * (k2 + square * (k3 + square * k4))))

    def _angle(self, reach: Floats) -> Floats:
        """θ of g(θ) = reach, from 0 to `edge`."""
        if self.projection == "equidistant":
            return reach
        if self.projection == "equisolid":
            return 2 * np.arcsin(reach / 2)
        if self.projection == "stereographic":
            return 2 * np.arctan(reach / 2)
        # Newton's steps from a table, which is close enough that a growing polynomial cannot lead them astray
        table = np.linspace(0, self.half_fov_rad, 2048, dtype=np.float64)
        theta = np.interp(reach, self._growth(table), table)
        for _ in range(_NEWTON_STEPS):
            step = (self._growth(theta) - reach) / self._slope(theta)
            theta = np.clip(theta - step, 0, self.half_fov_rad)
            if np.abs(step).max(initial=0) < 1e-13:
                break
        return theta

    def _slope(self, theta: Floats) -> Floats:
        """g'(θ) of kannala_brandt."""
        k1, k2, k3, k4 = self.coefficients
        square = theta * theta
        slope: Floats = 1 + square * (3 * k1 + square * (5 * k2 + square * (7 * k3 + square * 9 * k4)))
        return slope


class FisheyeCamera:
    """One or more fisheye lenses in a frame; `sal360.cameras.camera.Camera`.

    Where several lenses see a direction, each counts by how far the direction is inside its field of view: the weights
    fall to 0 at the edges, and are equal where the angles to both edges are equal.

    Args:
        height, width: size of the frame, pixels.
        lenses: at least one.
        blend_deg: widest angle over which two lenses are mixed, degrees; less shows fewer double contours of what is
            near, more hides differences of exposure. 180 mixes over the whole overlap.
        may_be_cut: frames may be parts of what the lenses see, without their centres.

    Raises:
        ParameterError: no lens, a centre outside the frame, or blend_deg out of its range.
    """

    tiles = (1, 1)

    def __init__(
        self,
        height: int,
        width: int,
        lenses: Sequence[Lens],
        blend_deg: float = WHOLE_OVERLAP_DEG,
        *,
        may_be_cut: bool = False,
    ) -> None:
        if not lenses:
            raise ParameterError("the camera has no lens", "give it at least one")
        if not 0.1 <= blend_deg <= WHOLE_OVERLAP_DEG:
            raise ParameterError(f"blend_deg is {blend_deg:g}", f"set it from 0.1 to {WHOLE_OVERLAP_DEG:g} degrees")
        for number, lens in enumerate(lenses, 1):
            is_inside = -0.5 <= lens.centre_x < width - 0.5 and -0.5 <= lens.centre_y < height - 0.5
            if not (is_inside or may_be_cut):
                raise ParameterError(
                    f"lens {number} has its centre at ({lens.centre_x:g}, {lens.centre_y:g}), outside the frame of "
                    f"{width} x {height}",
                    "correct the centre, or the size that it belongs to",
                )
        self.height, self.width = height, width
        self.lenses = tuple(lenses)
        self.views = len(self.lenses)
        self.blend_deg = blend_deg
        self._are_apart = all(
            math.hypot(first.centre_x - second.centre_x, first.centre_y - second.centre_y)
            > first.edge * max(first.focal_x_px, first.focal_y_px)
            + second.edge * max(second.focal_x_px, second.focal_y_px)
            for index, first in enumerate(self.lenses)
            for second in self.lenses[:index]
        )

    def project(self, directions: Floats) -> Projection:
        """See `Camera.project`."""
        x, y, theta = (
            np.stack(parts) for parts in zip(*(each.project(directions) for each in self.lenses), strict=True)
        )
        half_fov = np.array([each.half_fov_rad for each in self.lenses], theta.dtype)
        inside = half_fov.reshape(-1, *[1] * (theta.ndim - 1)) - theta  # angle to the edge of the field of view
        is_seen = (inside >= 0) & (x >= -0.5) & (x < self.width - 0.5) & (y >= -0.5) & (y < self.height - 0.5)
        if not self._are_apart:
            is_seen &= self._owner(x, y) == np.arange(self.views).reshape(-1, *[1] * (theta.ndim - 1))
        return Projection(x, y, _weights(inside, is_seen, math.radians(self.blend_deg)))

    def unproject(self, x: Floats, y: Floats) -> tuple[Floats, Mask]:
        """See `Camera.unproject`. A pixel belongs to the lens in whose circle it lies deepest."""
        x, y = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
        owner = self._owner(x, y)
        directions, angles = self.lenses[0].unproject(x, y)
        for index, lens in enumerate(self.lenses[1:], 1):
            is_own = owner == index
            directions[is_own], angles[is_own] = lens.unproject(x[is_own], y[is_own])
        is_in_frame = (x >= -0.5) & (x < self.width - 0.5) & (y >= -0.5) & (y < self.height - 0.5)
        return directions, np.isfinite(angles) & is_in_frame

    def _owner(self, x: Floats, y: Floats) -> Floats:
        """Index (...) of the lens that pixel coordinates (...) belong to."""
        depths = [
            np.hypot(
                (x - lens.centre_x) / (lens.focal_x_px * lens.edge), (y - lens.centre_y) / (lens.focal_y_px * lens.edge)
            )
            for lens in self.lenses
        ]
        nearest: Floats = np.argmin(np.stack(depths), axis=0)
        return nearest


def _weights(inside: Floats, is_seen: Mask, blend_rad: float) -> Floats:
    """Weights (V, ...) by how far a direction is inside each field of view, radians."""
    if len(inside) == 1:
        return is_seen.astype(inside.dtype)
    depth = np.where(is_seen, np.maximum(inside, inside.dtype.type(1e-9)), 0)  # on the very edge it is seen, barely
    deepest = depth.max(axis=0)
    shares = np.clip(np.minimum(depth, depth - deepest + blend_rad), 0, blend_rad)
    total = shares.sum(axis=0)
    weights: Floats = shares / np.where(total > 0, total, 1)
    return weights
