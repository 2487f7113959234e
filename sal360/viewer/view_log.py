"""Where viewers look, beside what was predicted: a table of views, and a summary."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TextIO

import numpy as np

from sal360.arrays import Floats
from sal360.projection import sample_erp
from sal360.sphere import angular_distance, vector_to_angles
from sal360.viewer.scene import Scene
from sal360.viewer.server import SeenView

_COLUMNS = "time_s,stamp_s,viewer,head,azimuth_deg,elevation_deg,density,target_deg"
_REMEMBERED = 64
"""Frames after which one that a page still shows is forgotten."""
NEAR_DEG = 30.0
"""Angle to the target within which a view counts as near it: it is then inside the middle of a headset's picture."""


@dataclass
class _Sums:
    """Of all views of one kind."""

    views: int = 0
    density: float = 0.0
    with_target: int = 0
    near_target: int = 0


class ViewLog:
    """Records the views of all pages with the map's density in their middle.

    Args:
        table: gets a line of CSV for each view; None: only the summary is made.
    """

    def __init__(self, table: TextIO | None = None) -> None:
        self._table = table
        self._scenes: deque[Scene] = deque(maxlen=_REMEMBERED)
        self._of_pages, self._of_heads = _Sums(), _Sums()
        self._lock = threading.Lock()
        if table is not None:
            print(_COLUMNS, file=table)

    def add_scene(self, scene: Scene) -> None:
        """Remember a scene that is shown from now on."""
        with self._lock:
            self._scenes.append(scene)

    def add_view(self, view: SeenView) -> None:
        """Record a view; one from before the first frame is left out."""
        with self._lock:
            scene = next((each for each in self._scenes if each.stamp_s == view.stamp_s), None)
        if scene is None:
            return
        forward = direction(view.quaternion)
        density = float(sample_erp(scene.density, forward[None, None])[0, 0])
        target_deg = math.nan
        if scene.target is not None:
            target_deg = math.degrees(float(angular_distance(forward, scene.target.direction)))
        sums = self._of_heads if view.is_head else self._of_pages
        sums.views += 1
        sums.density += density
        sums.with_target += not math.isnan(target_deg)
        sums.near_target += target_deg <= NEAR_DEG
        if self._table is not None:
            azimuth, elevation = (math.degrees(float(each)) for each in vector_to_angles(forward))
            place = (
                f"{azimuth:.2f},{elevation:.2f},{density:.4f},{'' if math.isnan(target_deg) else f'{target_deg:.2f}'}"
            )
            line = f"{time.time():.3f},{scene.stamp_s:.6f},{view.viewer},{int(view.is_head)},{place}"
            print(line, file=self._table)

    def summary(self) -> str:
        """One line on how well the maps predicted the views, of heads if there were any; "" without views."""
        sums, who = (self._of_heads, "head directions") if self._of_heads.views else (self._of_pages, "views")
        if not sums.views:
            return ""
        near = (
            f", {sums.near_target / sums.with_target:.0%} within {NEAR_DEG:g}° of the target"
            if sums.with_target
            else ""
        )
        return f"{sums.views} {who}: mean density {sums.density / sums.views:.2f} times uniform in their middle{near}"


def direction(quaternion: tuple[float, float, float, float]) -> Floats:
    """The direction (3,) of a view's middle: the x axis, turned by the quaternion x, y, z, w."""
    x, y, z, w = quaternion
    return np.array([1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w)])
