"""Cube maps: six square pictures of 90° in one frame, plain (gnomonic) or equi-angular (EAC).

A cube map stores the tangent of the angle from a face's middle, an equi-angular cube the angle itself. Its pixels cover
nearly equal solid angles (Google, "Bringing pixels front and center in VR video", 2017).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sal360.arrays import Floats, Integers, Mask
from sal360.cameras.camera import Projection, in_frame
from sal360.errors import FrameError, ParameterError

_NATURAL: dict[str, tuple[tuple[int, int, int], ...]] = {
    "f": ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
    "r": ((0, -1, 0), (-1, 0, 0), (0, 0, -1)),
    "b": ((-1, 0, 0), (0, 1, 0), (0, 0, -1)),
    "l": ((0, 1, 0), (1, 0, 0), (0, 0, -1)),
    "u": ((0, 0, 1), (0, -1, 0), (1, 0, 0)),
    "d": ((0, 0, -1), (0, -1, 0), (-1, 0, 0)),
}
"""Face → body axes of its middle, its right and its lower edge, seen from inside: the front's neighbours fit to it."""


@dataclass(frozen=True)
class Faces:
    """The order in which faces are stored, row by row, and how each is turned."""

    order: str
    """Six letters of f, b, l, r, u and d: front, back, left, right, up and down."""
    turns: str = "000000"
    """Quarter turns clockwise, 0 to 3, of each stored face; as in_frot of ffmpeg's v360."""
    mirrored: bool = False
    """Whether each face is mirrored (left and right swapped), as seen from outside the cube."""

    def axes(self) -> Floats:
        """(6, 3, 3): for each stored face, rows that turn body axes into its forward, right and down."""
        rows = []
        for letter, turn in zip(self.order, self.turns, strict=True):
            forward, right, down = (np.array(each, np.float64) for each in _NATURAL[letter])
            if self.mirrored:
                right = -right
            for _ in range(int(turn)):
                right, down = -down, right
            rows.append(np.stack([forward, right, down]))
        return np.stack(rows)


FACES = {
    "ffmpeg": Faces("rludfb"),  # v360's default for c3x2, c6x1 and c1x6
    "unity": Faces("rludfb"),  # +X −X +Y −Y +Z −Z of its left-handed axes: x right, y up, z forward
    # GL_TEXTURE_CUBE_MAP_POSITIVE_X … NEGATIVE_Z, −Z forward; OpenGL 4.6, table 8.19, mirrors what is seen from inside
    "opengl": Faces("rludbf", "002200", mirrored=True),
    "youtube": Faces("lfrdbu", "000313"),  # the rows of its equi-angular cube: left front right, down back up
}
"""Names of conventions → how faces are stored."""

LAYOUTS = {"3x2": (2, 3), "6x1": (1, 6), "1x6": (6, 1), "cross_4x3": (3, 4), "cross_3x4": (4, 3)}
"""Layout (columns x rows) → rows and columns of the grid of faces."""
_CROSSES = {
    # where each face lies in the grid, row by row; the crosses are unfolded around the front face
    "cross_4x3": (" u  ", "lfrb", " d  "),
    "cross_3x4": (" u ", "lfr", " d ", " b "),
}
_CROSS_TURNS = {"cross_4x3": {}, "cross_3x4": {"b": "2"}}


class CubeCamera:
    """Six faces in one frame; `sal360.cameras.camera.Camera`.

    Args:
        height, width: size of the frame, pixels.
        layout: a key of `LAYOUTS`.
        faces: how they are stored; a cross has its own order.
        equiangular: an equi-angular cube.
        may_stretch: accept faces that are not square, as YouTube sends them (1280 x 1080 in 3840 x 2160).

    Raises:
        FrameError: the frame does not hold whole, square faces.
        ParameterError: an unknown layout.
    """

    views = 1

    def __init__(
        self,
        height: int,
        width: int,
        layout: str = "3x2",
        faces: Faces = FACES["ffmpeg"],
        *,
        equiangular: bool = False,
        may_stretch: bool = False,
    ) -> None:
        if layout not in LAYOUTS:
            raise ParameterError(f"the layout is {layout!r}", "choose one of " + ", ".join(LAYOUTS))
        rows, columns = LAYOUTS[layout]
        is_whole = height % rows == 0 and (may_stretch or width % columns == 0) and min(height, width) > 0
        if not is_whole or (height * columns != width * rows and not may_stretch):
            raise FrameError(
                f"the frame is {width} x {height}, whose faces in the layout {layout} would be "
                f"{width / columns:.6g} x {height / rows:.6g}",
                "choose the layout that the camera sends, or remove padding and black borders",
                expected=f"square faces, a size of {columns}:{rows}",
                reason="camera_mismatch",
            )
        self.height, self.width = height, width
        # faces whose borders lie inside pixels are taken together: the rows of YouTube's cube are continuous
        self.tiles = (rows, 1 if width % columns else columns)
        self._grid = rows, columns
        self._face_height, self._face_width = height / rows, width / columns
        self._equiangular = equiangular
        if layout in _CROSSES:
            cells = "".join(_CROSSES[layout])
            order = cells.replace(" ", "")
            faces = Faces(order, "".join(_CROSS_TURNS[layout].get(each, "0") for each in order))
            self._cells = np.array([index for index, cell in enumerate(cells) if cell != " "])
        else:
            self._cells = np.arange(6)
        self._axes = faces.axes()

    def project(self, directions: Floats) -> Projection:
        """See `Camera.project`."""
        kind = directions.dtype.type
        flat = directions.reshape(-1, 3)  # (..., 3) → (n, 3)
        face = self._face_of(flat)
        x, y = np.empty_like(flat[:, 0]), np.empty_like(flat[:, 0])
        limit = kind(1 - 1e-7)  # just inside the face, so that rounding cannot move a place into the next one
        for index, axes in enumerate(self._axes.astype(flat.dtype)):
            chosen = np.flatnonzero(face == index)
            forward, right, down = axes @ flat[chosen].T
            row, column = divmod(int(self._cells[index]), self._grid[1])
            for values, places, size, cell in (
                (right, x, self._face_width, column),
                (down, y, self._face_height, row),
            ):
                part = values / forward
                if self._equiangular:
                    part = np.arctan(part) * kind(4 / math.pi)
                places[chosen] = (np.clip(part, -limit, limit) + 1) * kind(size / 2) + kind(cell * size - 0.5)
        shape = (1, *directions.shape[:-1])
        return Projection(x.reshape(shape), y.reshape(shape), np.ones(shape, directions.dtype))

    def _face_of(self, directions: Floats) -> Integers:
        """Index (n,) of the stored face that sees each direction (n, 3)."""
        axis = np.argmax(np.abs(directions), axis=1)
        is_negative = directions[np.arange(len(directions)), axis] < 0
        forward = self._axes[:, 0]  # (6, 3)
        of_axis = np.array(
            [[int(np.argmax(forward @ (sign * unit))) for sign in (1, -1)] for unit in np.eye(3)]
        )  # (3, 2): stored face of each axis and sign
        chosen: Integers = of_axis[axis, is_negative.astype(np.intp)]
        return chosen

    def unproject(self, x: Floats, y: Floats) -> tuple[Floats, Mask]:
        """See `Camera.unproject`. Outside the faces, those beside them continue."""
        x, y = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
        rows, columns = self._grid
        column = np.clip(np.floor((x + 0.5) / self._face_width), 0, columns - 1)
        row = np.clip(np.floor((y + 0.5) / self._face_height), 0, rows - 1)
        right = 2 * ((x + 0.5) / self._face_width - column) - 1
        down = 2 * ((y + 0.5) / self._face_height - row) - 1
        if self._equiangular:
            right, down = (np.tan(np.clip(each, -1.9, 1.9) * (math.pi / 4)) for each in (right, down))
        stored = np.full(rows * columns, -1)
        stored[self._cells] = np.arange(6)
        face = stored[(row * columns + column).astype(np.intp)]  # −1: the empty corners of a cross
        axes = self._axes[np.maximum(face, 0)]  # (..., 3, 3)
        vectors = axes[..., 0, :] + right[..., None] * axes[..., 1, :] + down[..., None] * axes[..., 2, :]
        directions: Floats = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
        return directions, (face >= 0) & in_frame(self, x, y)
