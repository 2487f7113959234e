"""OSIE's photographs as records on the sphere: each one a viewport in front, on a real panorama; valid inside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from sal360_ros.ground_truth import GazeRecord
from sal360_ros.projection import Viewport
from sal360_ros.sphere import Array, solid_angles
from training.data.osie import HEIGHT_PX, SIGMA_PX, WIDTH_PX, Photograph
from training.data.placement import draw_picture, gaze_on_sphere, viewport_at
from training.data.records import GazeRecords


class OsieRecords(GazeRecords):
    """Photographs at azimuth and elevation 0; names are those of the photographs.

    Args:
        photographs: at least one.
        backgrounds: panoramas (H, W, 3) uint8 RGB on which they lie in turn.
        fov_deg: horizontal field of view of a photograph, degrees.
        map_height: rows of the densities.
    """

    def __init__(
        self, photographs: Sequence[Photograph], backgrounds: Sequence[Array], fov_deg: float, map_height: int = 256
    ) -> None:
        self._photographs, self._backgrounds, self._map_height = photographs, backgrounds, map_height
        self._viewport = viewport_at(0.0, 0.0, 0.0, math.radians(fov_deg), HEIGHT_PX, WIDTH_PX)
        self.names = tuple(each.name for each in photographs)
        self.sigma_deg = math.degrees(SIGMA_PX / self._viewport.focal_px)

    def read(self, index: int) -> GazeRecord:
        photograph = self._photographs[index]
        height, width = self._map_height, 2 * self._map_height
        gaze, valid = gaze_on_sphere(photograph.density(), self._viewport, height, width)
        mass = (gaze * valid * solid_angles(height, width)).sum() / (valid * solid_angles(height, width)).sum()
        background = self._backgrounds[index % len(self._backgrounds)]
        return GazeRecord(
            name=photograph.name,
            panorama=partial(_draw, photograph, background, self._viewport),
            # a photograph's x counts from its left edge, a viewport's from the middle of its first pixel
            fixations=self._viewport.unproject(photograph.x - 0.5, photograph.y - 0.5),
            observer=photograph.subject.astype(np.int64),
            time_s=np.full(len(photograph.x), np.nan),
            density=(gaze / mass).astype(np.float32),
            valid=valid,
        )


def _draw(photograph: Photograph, background: Array, viewport: Viewport) -> Array:
    panorama = background.copy()
    draw_picture(panorama, photograph.read(), viewport)
    return panorama
