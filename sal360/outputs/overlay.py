"""The map as a picture: 8-bit grey, and a heat map over the frame."""

from __future__ import annotations

from typing import Any, cast

import cv2
from numpy.typing import NDArray

from sal360.arrays import Density, Pixels
from sal360.images import require_picture

FULL_SCALE = 8.0
"""Density, relative to uniform, of the brightest colour and of the 8-bit value 255."""
MIN_FULL_SCALE, MAX_FULL_SCALE = 1.0, 1e3


def saliency_to_mono8(density: Density, full_scale: float = FULL_SCALE) -> Pixels:
    """The map (h, w) as uint8; 255 means `full_scale` times uniform or more. The scale never adapts to a frame."""
    return cast(Pixels, cv2.convertScaleAbs(density, alpha=255 / full_scale))  # rounds and saturates


def draw_overlay(
    frame_bgr: NDArray[Any],
    density: Density,
    *,
    full_scale: float = FULL_SCALE,
    opacity: float = 0.5,
    colormap: int = cv2.COLORMAP_INFERNO,
) -> Pixels:
    """A heat map over a copy of the frame: (H, W, 3) uint8 BGR.

    Args:
        frame_bgr: (H, W, 3) uint8.
        density: (h, w) of any size.
        full_scale: density, relative to uniform, of the brightest colour.
        opacity: heat-map opacity, 0 to 1.
        colormap: one of OpenCV's; one that starts at black dims the regions of low density instead of tinting them.

    Raises:
        FrameError: the frame is None or not an array.
    """
    require_picture(frame_bgr, "the frame")
    height, width = frame_bgr.shape[:2]
    # coloured at the map's size and then enlarged: several times faster than the other way round
    heat = cv2.applyColorMap(saliency_to_mono8(density, full_scale), colormap)  # (h, w, 3)
    heat = cv2.resize(heat, (width, height), interpolation=cv2.INTER_LINEAR)
    return cast(Pixels, cv2.addWeighted(frame_bgr, 1 - opacity, heat, opacity, 0))
