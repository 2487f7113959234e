"""Stereo frames: the same camera model twice, one picture for each eye, of which one is looked at."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sal360.arrays import Floats, Mask
from sal360.cameras.camera import Camera, Projection, in_frame
from sal360.errors import FrameError, ParameterError

STEREO = ("none", "top_bottom", "side_by_side")
EYES = ("left", "right")


class StereoCamera:
    """Two pictures of one camera model in a frame; `sal360.cameras.camera.Camera`.

    `project` finds directions in the chosen eye's picture; `unproject` knows both pictures.

    Args:
        height, width: size of the frame, pixels.
        packing: "top_bottom" or "side_by_side"; the left eye is at the top, or on the left.
        eye: "left" or "right".
        model: makes the camera of one eye from its height and width.

    Raises:
        FrameError: the frame cannot be halved, or the model refuses a half.
        ParameterError: an unknown packing or eye.
    """

    def __init__(self, height: int, width: int, packing: str, eye: str, model: Callable[[int, int], Camera]) -> None:
        if packing not in STEREO[1:]:
            raise ParameterError(f"stereo is {packing!r}", "choose one of " + ", ".join(STEREO))
        if eye not in EYES:
            raise ParameterError(f"the eye is {eye!r}", "choose left or right")
        is_stacked = packing == "top_bottom"
        halved, side = (height, "height") if is_stacked else (width, "width")
        if halved % 2 or halved < 2:
            raise FrameError(
                f"the frame is {width} x {height}, so its {side} cannot be halved for two eyes ({packing})",
                "correct stereo, or crop the frame to an even size",
                reason="camera_mismatch",
            )
        self.height, self.width = height, width
        self.eye = model(height // 2, width) if is_stacked else model(height, width // 2)
        self.views = self.eye.views
        rows, columns = self.eye.tiles
        self.tiles = (2 * rows, columns) if is_stacked else (rows, 2 * columns)
        is_second = eye == "right"
        self._offset = (0, height // 2 * is_second) if is_stacked else (width // 2 * is_second, 0)
        self._is_stacked = is_stacked

    def project(self, directions: Floats) -> Projection:
        """See `Camera.project`."""
        x, y, weights = self.eye.project(directions)
        kind = directions.dtype.type
        return Projection(x + kind(self._offset[0]), y + kind(self._offset[1]), weights)

    def unproject(self, x: Floats, y: Floats) -> tuple[Floats, Mask]:
        """See `Camera.unproject`."""
        x, y = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
        if self._is_stacked:
            inner_x, inner_y = x, np.where(y >= self.eye.height - 0.5, y - self.eye.height, y)
        else:
            inner_x, inner_y = np.where(x >= self.eye.width - 0.5, x - self.eye.width, x), y
        directions, has_picture = self.eye.unproject(inner_x, inner_y)
        return directions, has_picture & in_frame(self, x, y)
