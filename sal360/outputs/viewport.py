"""The map as a perspective window sees it, for renderers and streamers that work on the view and not on the sphere."""

from __future__ import annotations

import math

from sal360.projection import Maps, Viewport, remap_sphere, sampling_maps
from sal360.sphere import Array


class ViewportMap:
    """Perspective maps of one window; looking elsewhere takes a new one.

    Args:
        viewport: the window in the map's body axes.
    """

    def __init__(self, viewport: Viewport) -> None:
        self.viewport = viewport
        self._ready: tuple[tuple[int, ...], Maps] | None = None

    def sample(self, density: Array) -> Array:
        """The map (h, w) in the window: (height, width) float32, still relative to uniform on the whole sphere."""
        if self._ready is None or self._ready[0] != density.shape:
            self._ready = density.shape, sampling_maps(self.viewport.directions, *density.shape)
        return remap_sphere(density, self._ready[1])

    def gaze_share(self, density: Array) -> float:
        """The share of all gaze that falls into the window, 0 to 1: what a prefetcher ranks windows by."""
        return float((self.sample(density) * self.viewport.solid_angles_sr).sum() / (4 * math.pi))
