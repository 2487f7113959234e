"""How well a panorama's map predicts gaze on photographs that lie on the panorama, measured in their own planes.

Photographs lie on real panoramas in one of two ways, and the map is looked up at their pixels:
    flat       on the panorama's pixels, half its width each, two side by side; the map is read as it is;
    viewports  seen through viewports at the equator, three at equal distances; the map, gaze per solid angle, is
               divided by 1 / cos³ θ to be gaze per area of the photograph.
Ground truth is the density of σ = 24 px; NSS takes the unblurred fixations. 200 x 150 pixels a photograph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from sal360.metrics import cc, kld, nss
from sal360.projection import Viewport
from sal360.sphere import Array
from training.data.gaze.osie import HEIGHT_PX, WIDTH_PX, Photograph
from training.data.gaze.placed_photographs import (
    Inset,
    draw_picture,
    inset_at,
    plane_per_solid_angle,
    viewport_at,
)

HEIGHT, WIDTH = 150, 200
_FLAT, _VIEWPORTS = 2, 3
"""Photographs that lie on one panorama together."""
FIGURES = ("nss", "cc", "kld")


def measure_photographs(
    predict: Callable[[Array], Array],
    photographs: Sequence[Photograph],
    backgrounds: Sequence[Array],
    *,
    fov_deg: float = 0.0,
) -> Array:
    """NSS, CC and KLD of each photograph, (n, 3) float64.

    Args:
        predict: panoramas (B, H, W, 3) uint8 RGB → densities (B, h, w) float32; gets one panorama at a time.
        photographs: at least one.
        backgrounds: panoramas (H, W, 3) uint8 on which the photographs lie in turn.
        fov_deg: horizontal field of view of the viewports, at most 120; 0: flat.
    """
    together = _VIEWPORTS if fov_deg else _FLAT
    figures = []
    for first in range(0, len(photographs), together):
        group = photographs[first : first + together]
        panorama = backgrounds[(first // together) % len(backgrounds)].copy()
        places = [_place(i, fov_deg, *panorama.shape[:2]) for i in range(len(group))]
        for photograph, place in zip(group, places, strict=True):
            if isinstance(place, Inset):
                place.draw(panorama, photograph.read())
            else:
                draw_picture(panorama, photograph.read(), place)
        density = predict(panorama[None])[0]
        for photograph, place in zip(group, places, strict=True):
            in_plane = (
                place.cut(density, panorama.shape[0]) if isinstance(place, Inset) else viewport_map(density, place)
            )
            in_plane = cv2.resize(in_plane, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
            figures.append(measure_in_plane(in_plane, photograph))
    return np.array(figures)


def _place(index: int, fov_deg: float, height: int, width: int) -> Inset | Viewport:
    if not fov_deg:
        return inset_at(width // 4 + index * width // 2, width / 2, height, multiple=16)
    azimuth = 2 * math.pi * (index - 1) / _VIEWPORTS
    return viewport_at(azimuth, 0.0, 0.0, math.radians(fov_deg), HEIGHT, WIDTH)


def viewport_map(density: Array, viewport: Viewport) -> Array:
    """A density on the sphere (h, w) as gaze per area of the viewport's plane, (viewport's height, width) float32."""
    on_sphere = viewport.cut_from(np.ascontiguousarray(density, np.float32))
    return on_sphere / plane_per_solid_angle(viewport.directions, viewport).astype(np.float32)


def measure_in_plane(saliency_map: Array, photograph: Photograph) -> tuple[float, float, float]:
    """NSS, CC and KLD of a planar map (HEIGHT, WIDTH) against one photograph's gaze."""
    truth = photograph.density(WIDTH)
    fixation_map = np.zeros((HEIGHT, WIDTH), np.int64)
    row = np.clip((photograph.y * (HEIGHT / HEIGHT_PX)).astype(int), 0, HEIGHT - 1)
    column = np.clip((photograph.x * (WIDTH / WIDTH_PX)).astype(int), 0, WIDTH - 1)
    np.add.at(fixation_map, (row, column), 1)
    return (
        nss(saliency_map, fixation_map, weights=None),
        cc(saliency_map, truth, weights=None),
        kld(saliency_map, truth, weights=None),
    )


def centre_prior(photographs: Sequence[Photograph]) -> Array:
    """Mean density of gaze over photographs, (HEIGHT, WIDTH) float32: what one knows without looking."""
    mean: Array = np.mean([photograph.density(WIDTH) for photograph in photographs], axis=0)
    return mean


def mean_with_interval(figures: Array, *, draws: int = 10_000, seed: int = 0) -> tuple[Array, Array, Array]:
    """Mean over photographs (n, k) → (k,), and the ends of its 95 % bootstrap interval, (k,) each."""
    generator = np.random.default_rng(seed)
    chosen = generator.integers(len(figures), size=(draws, len(figures)))
    means = figures[chosen].mean(axis=1)  # (draws, k)
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return figures.mean(axis=0), low, high
