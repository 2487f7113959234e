"""Equirectangular frames: the whole sphere, or a part of it between two meridians and two parallels."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from sal360.arrays import Floats, Mask
from sal360.cameras.camera import Camera, Projection, in_frame
from sal360.errors import FrameError, ParameterError
from sal360.projection import polar
from sal360.sphere import angles_to_vector

ASPECT_TOLERANCE = 0.04  # some cameras send 640 x 322
_TURN = 2 * math.pi


class EquirectangularCamera:
    """An equirectangular frame; `sal360.cameras.camera.Camera`.

    Azimuths grow to the left, elevations upwards (`sal360.sphere`). The frame's left edge may lie at any azimuth.

    Args:
        height, width: size of the frame, pixels.
        left_deg, right_deg: azimuths of its left and right edges; left − right is in (0, 360].
        top_deg, bottom_deg: elevations of its top and bottom edges, −90 to 90, top above bottom.

    Raises:
        ParameterError: the angles contradict each other.
    """

    tiles = (1, 1)
    views = 1

    def __init__(
        self,
        height: int,
        width: int,
        left_deg: float = 180.0,
        right_deg: float = -180.0,
        top_deg: float = 90.0,
        bottom_deg: float = -90.0,
    ) -> None:
        if not 0 < left_deg - right_deg <= 360:
            raise ParameterError(
                f"the frame reaches from azimuth left_deg = {left_deg:g} to right_deg = {right_deg:g}",
                "set left_deg above right_deg, by at most 360; azimuths grow to the left",
            )
        if not -90 <= bottom_deg < top_deg <= 90:
            raise ParameterError(
                f"the frame reaches from elevation bottom_deg = {bottom_deg:g} to top_deg = {top_deg:g}",
                "set top_deg above bottom_deg, both from -90 to 90",
            )
        self.height, self.width = height, width
        self._left_rad, self._top_rad = math.radians(left_deg), math.radians(top_deg)
        self._across_rad = math.radians(left_deg - right_deg)
        self._down_rad = math.radians(top_deg - bottom_deg)
        self.is_whole = left_deg - right_deg == 360 and (top_deg, bottom_deg) == (90, -90)
        """Whether it shows the whole sphere with azimuth 0 anywhere."""
        self.is_plain = self.is_whole and left_deg == 180
        """Whether its pixels are those of `sal360.sphere`: the whole sphere, azimuth 0 in the middle."""

    def project(self, directions: Floats) -> Projection:
        """See `Camera.project`."""
        kind = directions.dtype.type
        forward, left, up = np.moveaxis(directions, -1, 0)
        from_back, side = polar(-forward, left)
        across = np.mod(from_back + kind(self._left_rad - math.pi), kind(_TURN))
        down = polar(up, side)[0] + kind(self._top_rad - math.pi / 2)
        x = across * kind(self.width / self._across_rad) - kind(0.5)
        y = down * kind(self.height / self._down_rad) - kind(0.5)
        if self.is_whole:
            return Projection(x[None], y[None], np.ones_like(x)[None])
        return Projection(x[None], y[None], in_frame(self, x, y).astype(x.dtype)[None])

    def unproject(self, x: Floats, y: Floats) -> tuple[Floats, Mask]:
        """See `Camera.unproject`. Outside the frame, the sphere continues."""
        azimuth = self._left_rad - (np.asarray(x, np.float64) + 0.5) * (self._across_rad / self.width)
        elevation = self._top_rad - (np.asarray(y, np.float64) + 0.5) * (self._down_rad / self.height)
        return angles_to_vector(azimuth, elevation), in_frame(self, x, y)


@dataclass(frozen=True)
class GPano:
    """The crop that a picture's GPano metadata give, in pixels of the whole panorama (Photo Sphere XMP)."""

    full_width: int
    full_height: int
    left: int
    top: int
    width: int
    height: int

    @property
    def is_crop(self) -> bool:
        """Whether the picture is a part of the panorama."""
        return (self.width, self.height) != (self.full_width, self.full_height)

    def camera(self, height: int, width: int) -> EquirectangularCamera:
        """The camera of the picture, which may have been resized since.

        Raises:
            FrameError: the crop lies outside the panorama, or has another shape than the picture.
        """
        if not (
            0 <= self.left < self.left + self.width <= self.full_width
            and 0 <= self.top < self.top + self.height <= self.full_height
        ):
            raise FrameError(
                f"the GPano metadata crop {self.width} x {self.height} at ({self.left}, {self.top}) from a panorama of "
                f"{self.full_width} x {self.full_height}",
                "correct or remove them",
                reason="camera_mismatch",
            )
        if abs(self.width * height - self.height * width) > ASPECT_TOLERANCE * self.height * width:
            raise FrameError(
                f"the frame is {width} x {height}, and its GPano metadata are those of {self.width} x {self.height}",
                "remove them, or use the picture as the camera wrote it",
                reason="camera_mismatch",
            )
        across, down = 360 / self.full_width, 180 / self.full_height
        left_deg, top_deg = 180 - across * self.left, 90 - down * self.top
        return EquirectangularCamera(
            height,
            width,
            left_deg,
            max(left_deg - across * self.width, left_deg - 360),
            top_deg,
            max(top_deg - down * self.height, -90),
        )


_GPANO_FIELDS = {
    "full_width": "FullPanoWidthPixels",
    "full_height": "FullPanoHeightPixels",
    "left": "CroppedAreaLeftPixels",
    "top": "CroppedAreaTopPixels",
    "width": "CroppedAreaImageWidthPixels",
    "height": "CroppedAreaImageHeightPixels",
}
_XMP_BYTES = 1 << 20
"""XMP stands near the beginning of JPEG and PNG files; one packet has at most 64 KB."""


def read_gpano(content: bytes) -> GPano | None:
    """The crop in the GPano metadata of a picture file; None if it has none, or not all of the crop.

    Args:
        content: the bytes of the file, or its first megabyte.
    """
    head = content[:_XMP_BYTES]
    values = {}
    for name, tag in _GPANO_FIELDS.items():
        match = re.search(rb"GPano:" + tag.encode() + rb"""\s*(?:=\s*["']|>)\s*(\d{1,9})\s*["'<]""", head)
        if match is None:
            return None
        values[name] = int(match[1])
    return GPano(**values)


def is_plain(camera: Camera) -> bool:
    """Whether the pixels of a camera's frames are those of `sal360.sphere`, so that nothing has to be looked up."""
    return isinstance(camera, EquirectangularCamera) and camera.is_plain


def check_frame(height: int, width: int) -> None:
    """Refuse a size that cannot be that of a whole equirectangular frame.

    Raises:
        FrameError: the size is 0, or not 2:1 within 4 % (some cameras pad, so 640 x 322 is accepted).
    """
    if height >= 1 and abs(width - 2 * height) <= ASPECT_TOLERANCE * 2 * height:
        return
    likely = looks_like(height, width)
    remedy = "use the stitched equirectangular picture or stream"
    raise FrameError(
        f"the frame is {width} x {height}",
        f"{remedy}, or describe the camera: this looks like {likely}" if likely else remedy,
        expected="a width of twice the height",
        reason="not_2_to_1",
    )


_SHAPES = (
    (1, 1, "stereo top-bottom (stereo: top_bottom) or one fisheye (model: fisheye)"),
    (3, 2, "a cube map or an equi-angular cube (model: cubemap or eac)"),
    (
        16,
        9,
        "an equi-angular cube of YouTube (model: eac), or a fisheye in a wide frame (model: fisheye or dual_fisheye)",
    ),
    (4, 1, "stereo side by side (stereo: side_by_side)"),
    (4, 3, "a cube map laid out as a cross (model: cubemap), or one fisheye (model: fisheye)"),
    (3, 4, "a cube map laid out as a cross (model: cubemap) or stereo cube maps (stereo: top_bottom)"),
    (1, 2, "two fisheyes, one above the other (model: dual_fisheye)"),
    (6, 1, "a cube map in one row (model: cubemap)"),
    (1, 6, "a cube map in one column (model: cubemap)"),
)
"""Width, height, and what frames of this shape usually are."""


def looks_like(height: int, width: int) -> str:
    """What a frame of this size usually is, for the error that refuses it; "" if nothing is usual."""
    for across, down, what in _SHAPES:
        if height >= 1 and abs(width * down - height * across) <= 0.02 * height * across:
            return what
    return ""
