"""How well a panorama's map predicts gaze on photographs placed on the panorama, measured in each photograph's plane.

Photographs are placed on real panoramas in one of two ways, and the map is looked up at their pixels:
    flat       copied onto the panorama's pixels, by default two side by side, each half as wide as the panorama; the
               map is read as it is;
    viewports  projected through three viewports on the equator, 120° apart; the map, gaze per solid angle, is
               multiplied by the solid angle of the viewport's pixels, ∝ cos³ θ, to become gaze per area.
The ground truth is blurred with σ = 24 px of the 800 x 600 photograph; NSS uses the unblurred fixations. Photographs
are measured at 200 x 150 pixels. `python -m training.analyse photographs` prints these figures for trained models.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from sal360.arrays import Density, Floats, Pixels
from sal360.metrics import cc, kld, nss
from sal360.projection import Viewport
from training.data.gaze.osie import HEIGHT_PX, WIDTH_PX, Photograph
from training.data.gaze.placed_photographs import (
    Inset,
    draw_picture,
    inset_at,
    plane_per_solid_angle,
    viewport_at,
)

HEIGHT, WIDTH = 150, 200
_VIEWPORTS = 3
"""Number of viewports on one panorama."""
FIGURES = ("nss", "cc", "kld")


def measure_photographs(
    predict: Callable[[Pixels], Density],
    photographs: Sequence[Photograph],
    backgrounds: Sequence[Pixels],
    *,
    fov_deg: float = 0.0,
    flat_width: float = 0.5,
) -> Floats:
    """NSS, CC and KLD of each photograph, (n, 3).

    Args:
        predict: panoramas (B, H, W, 3) RGB → densities (B, h, w); gets one panorama at a time.
        photographs: at least one.
        backgrounds: panoramas (H, W, 3) on which the photographs are placed in turn.
        fov_deg: horizontal field of view of the viewports, at most 120 degrees; 0: flat.
        flat_width: width of a flat photograph relative to the panorama's, at most 1; above 0.5 each panorama has one
            photograph, in the middle.
    """
    flat = 2 if flat_width <= 0.5 else 1
    together = _VIEWPORTS if fov_deg else flat
    figures = []
    for first in range(0, len(photographs), together):
        group = photographs[first : first + together]
        panorama = backgrounds[(first // together) % len(backgrounds)].copy()
        if fov_deg:
            places = [_viewport(i, fov_deg) for i in range(len(group))]
        else:
            places = [_inset(i, flat, flat_width, *panorama.shape[:2]) for i in range(len(group))]
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
            in_plane = np.asarray(cv2.resize(in_plane, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR), np.float32)
            figures.append(measure_in_plane(in_plane, photograph))
    return np.array(figures)


def _inset(index: int, count: int, flat_width: float, height: int, width: int) -> Inset | Viewport:
    """The flat place of photograph `index` of `count` on a panorama."""
    return inset_at(width // (2 * count) + index * width // count, flat_width * width, height, multiple=16)


def _viewport(index: int, fov_deg: float) -> Inset | Viewport:
    azimuth = 2 * math.pi * (index - 1) / _VIEWPORTS
    return viewport_at(azimuth, 0.0, 0.0, math.radians(fov_deg), HEIGHT, WIDTH)


def viewport_map(density: Density, viewport: Viewport) -> Density:
    """A density on the sphere (h, w) as gaze per area of the viewport's plane, (viewport's height, width)."""
    on_sphere = viewport.cut_from(np.ascontiguousarray(density, np.float32))
    return np.asarray(on_sphere / plane_per_solid_angle(viewport.directions, viewport).astype(np.float32), np.float32)


def measure_in_plane(saliency_map: Density, photograph: Photograph) -> tuple[float, float, float]:
    """NSS, CC and KLD of a planar map (HEIGHT, WIDTH) against the gaze on one photograph."""
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


def centre_prior(photographs: Sequence[Photograph]) -> Density:
    """Mean density of gaze over photographs, (HEIGHT, WIDTH): what is known without looking at the picture."""
    return np.asarray(np.mean([photograph.density(WIDTH) for photograph in photographs], axis=0))


def measure_one_person(photograph: Photograph) -> Floats:
    """NSS, CC and KLD, (3,), of one person's gaze predicted by the density of the others: the mean over all people."""
    figures = []
    for person in np.unique(photograph.subject):
        others = photograph.density(WIDTH, subjects=photograph.subject[photograph.subject != person])
        own = photograph.subject == person
        alone = dataclasses.replace(
            photograph, x=photograph.x[own], y=photograph.y[own], subject=photograph.subject[own]
        )
        figures.append(measure_in_plane(others, alone))
    return np.asarray(np.mean(figures, axis=0))
