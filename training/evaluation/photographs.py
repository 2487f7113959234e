"""Measures how well a panorama's map predicts gaze on photographs placed on it, in each photograph's plane.

Photographs are placed on real panoramas in one of two ways, and the map is looked up at their pixels:
    flat       copied onto the panorama's pixels, by default two side by side, each half as wide as the panorama; the
               map is read as it is;
    viewports  projected through three viewports on the equator, 120° apart; the map, gaze per solid angle, is
               multiplied by the solid angle of the viewport's pixels, ∝ cos³ θ, to become gaze per area.
The ground truth is blurred with σ = .03 of the photograph's longer side; NSS uses the unblurred fixations. Photographs
are measured with 200 pixels on that side. `python -m training.analyse photographs` prints these figures for models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from sal360.arrays import Density, Floats, Integers, Pixels
from sal360.metrics import cc, kld, nss
from sal360.projection import Viewport
from training.data.gaze.photographs import Photograph, resize_plane, viewport_of
from training.data.gaze.placed_photographs import (
    Inset,
    draw_picture,
    fitted,
    inset_at,
    plane_per_solid_angle,
)
from training.processes import in_shares

LONG_SIDE = 200
"""Pixels of the longer side of the plane in which a photograph is measured."""
_MULTIPLE = 16
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
    """NSS, CC and KLD of each photograph, (n, 3), computed by all training processes together.

    Args:
        predict: panoramas (B, H, W, 3) RGB → densities (B, h, w); called with one panorama at a time.
        photographs: at least one.
        backgrounds: panoramas (H, W, 3) on which the photographs are placed in turn.
        fov_deg: horizontal field of view of the viewports, at most 120 degrees; 0: flat.
        flat_width: width of a flat photograph relative to the panorama's, at most 1; above 0.5 each panorama has one
            photograph, in the middle.
    """
    flat = 2 if flat_width <= 0.5 else 1
    together = _VIEWPORTS if fov_deg else flat

    def measure(number: int) -> list[tuple[float, float, float]]:
        group = photographs[number * together : (number + 1) * together]
        panorama = backgrounds[number % len(backgrounds)].copy()
        height, width = panorama.shape[:2]
        if fov_deg:
            places = [_viewport(i, fov_deg, photograph) for i, photograph in enumerate(group)]
        else:
            places = [_inset(i, flat, flat_width, (height, width), photograph) for i, photograph in enumerate(group)]
        for photograph, place in zip(group, places, strict=True):
            if isinstance(place, Inset):
                place.draw(panorama, photograph.read())
            else:
                draw_picture(panorama, photograph.read(), place)
        density = predict(panorama[None])[0]
        return [
            measure_in_plane(
                place.cut(density, height) if isinstance(place, Inset) else viewport_map(density, place), photograph
            )
            for photograph, place in zip(group, places, strict=True)
        ]

    groups = in_shares(-(-len(photographs) // together), measure, "measure")
    return np.array([figures for group in groups for figures in group])


def _inset(
    index: int, count: int, flat_width: float, size: tuple[int, int], photograph: Photograph
) -> Inset | Viewport:
    """The flat place of photograph `index` of `count` on a panorama."""
    height, width = size
    place = inset_at(width // (2 * count) + index * width // count, flat_width * width, height, multiple=_MULTIPLE)
    return fitted(place, photograph.height, photograph.width, multiple=_MULTIPLE)


def _viewport(index: int, fov_deg: float, photograph: Photograph) -> Inset | Viewport:
    azimuth = 2 * math.pi * (index - 1) / _VIEWPORTS
    return viewport_of(*photograph.size(LONG_SIDE), math.radians(fov_deg), azimuth)


def viewport_map(density: Density, viewport: Viewport) -> Density:
    """A density on the sphere (h, w) as gaze per area of the viewport's plane, (viewport's height, width)."""
    on_sphere = viewport.cut_from(np.ascontiguousarray(density, np.float32))
    return np.asarray(on_sphere / plane_per_solid_angle(viewport.directions, viewport).astype(np.float32), np.float32)


def measure_in_plane(saliency_map: Density, photograph: Photograph) -> tuple[float, float, float]:
    """NSS, CC and KLD of a planar map (h, w) against the gaze on one photograph; NSS is NaN without fixations."""
    in_plane = to_plane(saliency_map, photograph)
    truth = photograph.density(LONG_SIDE)
    fixation_map = count_in_plane(photograph)
    return (
        nss(in_plane, fixation_map, weights=None) if fixation_map.any() else math.nan,
        cc(in_plane, truth, weights=None),
        kld(in_plane, truth, weights=None),
    )


def to_plane(saliency_map: Density, photograph: Photograph, long_side: int | None = LONG_SIDE) -> Density:
    """A map (h, w) over a photograph whose longer side is measured with `long_side` pixels; None: as stored."""
    height, width = photograph.size(long_side)
    if saliency_map.shape == (height, width):
        return saliency_map
    return resize_plane(saliency_map, height, width)


def count_in_plane(photograph: Photograph, long_side: int | None = LONG_SIDE) -> Integers:
    """Number of fixations on each pixel of a photograph, (h, w), with `long_side` as in `to_plane`."""
    height, width = photograph.size(long_side)
    counts = np.zeros((height, width), np.int64)
    row = np.clip((photograph.y * (height / photograph.height)).astype(int), 0, height - 1)
    column = np.clip((photograph.x * (width / photograph.width)).astype(int), 0, width - 1)
    np.add.at(counts, (row, column), 1)
    return counts


def centre_prior(photographs: Sequence[Photograph]) -> Density:
    """Mean density of gaze over photographs, (150, 200): what is known without looking at the picture.

    Photographs of other shapes are stretched to it, and it to theirs: the middle of a picture is its middle.
    """
    size = LONG_SIDE, LONG_SIDE * 3 // 4
    densities = (photograph.density(LONG_SIDE) for photograph in photographs)
    total = sum(cv2.resize(each, size, interpolation=cv2.INTER_LINEAR).astype(np.float64) for each in densities)
    return np.asarray(total / len(photographs), np.float32)


def measure_one_person(photograph: Photograph) -> Floats:
    """NSS, CC and KLD, (3,), of one person's gaze predicted by the density of the others: the mean over all people."""
    figures = []
    for person in np.unique(photograph.subject):
        others = photograph.density(LONG_SIDE, subjects=photograph.subject[photograph.subject != person])
        figures.append(measure_in_plane(others, photograph.seen_by(person)))
    return np.asarray(np.mean(figures, axis=0))
