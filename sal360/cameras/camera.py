"""The interface of every camera model: directions to pixels of its frames, and back.

Directions are unit vectors in the camera's body axes (`sal360.sphere`: x forward, y left, z up). Pixel coordinates are
those of the frame as it arrives, x to the right and y down; integers are pixel centres, so the frame covers
[−½, width − ½) x [−½, height − ½).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from sal360.arrays import Floats, Mask


class Projection(NamedTuple):
    """Where directions are seen in a frame. A camera has V views; a direction may be seen in several of them."""

    x: Floats
    """(V, ...) columns of the frame; finite everywhere, without meaning where the weight is 0."""
    y: Floats
    """(V, ...) rows of the frame."""
    weights: Floats
    """(V, ...) 0 to 1: their sum over the views is 1 where there is a picture, and 0 where there is none."""


class Camera(Protocol):
    """A camera model for frames of one size."""

    @property
    def height(self) -> int:
        """Rows of the frames."""
        ...

    @property
    def width(self) -> int:
        """Columns of the frames."""
        ...

    @property
    def views(self) -> int:
        """Maximum number of places in the frame that one direction is looked up in."""
        ...

    @property
    def tiles(self) -> tuple[int, int]:
        """Rows and columns of equal rectangles in the frame, each a picture of its own (a face, an eye); (1, 1): one.

        Neighbouring pixels of two tiles are not neighbours on the sphere, so nothing is averaged across their border.
        """
        ...

    def project(self, directions: Floats) -> Projection:
        """Where directions are seen.

        Args:
            directions: unit vectors (..., 3). float32 gives float32 results, which is faster and accurate to 1e-3 px.
        """
        ...

    def unproject(self, x: Floats, y: Floats) -> tuple[Floats, Mask]:
        """The directions that pixel coordinates (...) see.

        Returns:
            Unit vectors (..., 3), finite everywhere, and the mask (...) of where the frame has a picture.
        """
        ...


def in_frame(camera: Camera, x: Floats, y: Floats) -> Mask:
    """Whether pixel coordinates (...) lie in the camera's frame."""
    inside: Mask = (x >= -0.5) & (x < camera.width - 0.5) & (y >= -0.5) & (y < camera.height - 0.5)
    return inside
