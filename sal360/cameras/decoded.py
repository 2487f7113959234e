"""Frames that are smaller than the camera sent them: a JPEG decoded at a half, quarter or eighth of its size."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from sal360.arrays import Floats, Mask
from sal360.cameras.camera import Camera, Projection
from sal360.cameras.lookup import pixels_per_rad
from sal360.errors import FrameError

_FACTORS = (8, 4, 2)


class DecodedCamera:
    """A camera whose frames were decoded at 1/factor of their size; `sal360.cameras.camera.Camera`."""

    def __init__(self, camera: Camera, factor: int) -> None:
        self.height, self.width = -(-camera.height // factor), -(-camera.width // factor)
        self.views, self.tiles = camera.views, camera.tiles
        self._camera, self._factor = camera, factor

    def project(self, directions: Floats) -> Projection:
        """See `Camera.project`."""
        x, y, weights = self._camera.project(directions)
        kind, factor = directions.dtype.type, self._factor
        return Projection(
            (x + kind(0.5)) / kind(factor) - kind(0.5), (y + kind(0.5)) / kind(factor) - kind(0.5), weights
        )

    def unproject(self, x: Floats, y: Floats) -> tuple[Floats, Mask]:
        """See `Camera.unproject`."""
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        return self._camera.unproject((x + 0.5) * self._factor - 0.5, (y + 0.5) * self._factor - 0.5)


def rows_to_decode(camera: Camera, width: int) -> int:
    """Rows of a frame that a grid of `width` columns needs, as `min_height` of `images.decode_compressed`.

    Faces and eyes must keep whole pixels, so frames whose faces cannot be halved are decoded in full.
    """
    fineness = pixels_per_rad(camera) / (width / (2 * math.pi))
    fitting = (each for each in _FACTORS if fineness >= each and _divides(camera, each))
    return camera.height // next(fitting, 1)


def _divides(camera: Camera, factor: int) -> bool:
    rows, columns = camera.tiles
    return camera.tiles == (1, 1) or (camera.height // rows % factor == 0 and camera.width // columns % factor == 0)


@lru_cache(maxsize=16)
def camera_of_decoded(camera: Any, height: int, width: int) -> Camera:
    """The camera for frames of this decoded size; the same object for the same arguments.

    Raises:
        FrameError: it is not the camera's size, nor a half, quarter or eighth of it.
    """
    chosen: Camera = camera
    if (height, width) == (chosen.height, chosen.width):
        return chosen
    for factor in _FACTORS:
        decoded = DecodedCamera(chosen, factor)
        if (decoded.height, decoded.width) == (height, width) and _divides(chosen, factor):
            return decoded
    raise FrameError(
        f"the frame is {width} x {height}, and the camera's are {chosen.width} x {chosen.height}",
        "describe the camera again when its resolution changes",
        reason="camera_mismatch",
    )
