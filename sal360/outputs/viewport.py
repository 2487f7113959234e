"""The map in a perspective window, for renderers and streaming servers that work on a view instead of the sphere."""

from __future__ import annotations

import math

from sal360.arrays import Density
from sal360.projection import Maps, Viewport, remap_sphere, sampling_maps


class ViewportMap:
    """Perspective maps of one window.

    Args:
        viewport: the window, in the map's body axes; to look in another direction, make a new object.
    """

    def __init__(self, viewport: Viewport) -> None:
        self.viewport = viewport
        self._ready: tuple[tuple[int, ...], Maps] | None = None

    def sample(self, density: Density) -> Density:
        """The map (h, w) in the window: (height, width) float32, still relative to uniform on the whole sphere."""
        if self._ready is None or self._ready[0] != density.shape:
            self._ready = density.shape, sampling_maps(self.viewport.directions, *density.shape)
        return remap_sphere(density, self._ready[1])

    def gaze_share(self, density: Density) -> float:
        """The share of all gaze inside the window, 0 to 1; a prefetcher can rank windows by it."""
        return float((self.sample(density) * self.viewport.solid_angles_sr).sum() / (4 * math.pi))
