"""Pictures of a saliency map for people: a heat map over the frame, and the 8-bit map itself."""

from __future__ import annotations

import cv2

from sal360.sphere import Array

FULL_SCALE = 8.0
"""The density, relative to uniform, that has the brightest colour and the largest 8-bit value."""


def saliency_to_mono8(density: Array, full_scale: float = FULL_SCALE) -> Array:
    """The map (h, w) as uint8: 255 is `full_scale` times uniform and more. The scale is fixed, so nothing pumps."""
    gray: Array = cv2.convertScaleAbs(density, alpha=255 / full_scale)  # rounds and saturates
    return gray


def draw_overlay(
    frame_bgr: Array,
    density: Array,
    *,
    full_scale: float = FULL_SCALE,
    opacity: float = 0.5,
    colormap: int = cv2.COLORMAP_INFERNO,
) -> Array:
    """A heat map over a frame: (H, W, 3) uint8 BGR, the size of the frame, which is not changed.

    The map is coloured at its own size and then enlarged, which is several times as fast as the other way round.

    Args:
        frame_bgr: (H, W, 3) uint8.
        density: (h, w) of any size.
        full_scale: density, relative to uniform, of the brightest colour.
        opacity: share of the heat map in the mixture, 0 to 1.
        colormap: one of OpenCV's; those that start at black dim what nobody looks at and tint nothing else.
    """
    height, width = frame_bgr.shape[:2]
    heat = cv2.applyColorMap(saliency_to_mono8(density, full_scale), colormap)  # (h, w, 3)
    heat = cv2.resize(heat, (width, height), interpolation=cv2.INTER_LINEAR)
    overlay: Array = cv2.addWeighted(frame_bgr, 1 - opacity, heat, opacity, 0)
    return overlay
