"""How far the camera turned between two frames, and how much of a map's change that does not explain."""

from __future__ import annotations

import math

import cv2
import numpy as np

from sal360_ros.outputs.stability import map_distance
from sal360_ros.sources.stills import panned
from sal360_ros.sphere import Array, pixel_to_angles

_HEIGHT, _WIDTH = 64, 128
_UPSAMPLING = 8


def edges_of(image: Array) -> Array:
    """What `yaw_between` compares: horizontal gradients of a small grey picture, (64, 128) float32.

    Args:
        image: frame (H, W, 3) uint8 in either channel order.
    """
    small = cv2.resize(image, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA).astype(np.float32).mean(axis=2)
    _, elevation = pixel_to_angles(0, np.arange(_HEIGHT), _HEIGHT, _WIDTH)
    # gradients, because the shade of a whole row says nothing of a turn; cosine, because rows shrink to the poles
    gradients: Array = (small - np.roll(small, 1, axis=1)) * np.cos(elevation)[:, None].astype(np.float32)
    return gradients


def yaw_between(before: Array, after: Array) -> float:
    """By how much the camera turned to the left between two frames, radians in (−π, π]: 0 where nothing matches.

    The peak of the circular cross-correlation of their `edges_of` along longitude. Exact to some hundredths of a degree
    for a pure yaw of a distant scene; pitch, roll and translation stay in what is left.
    """
    spectrum = (np.conj(np.fft.rfft(before, axis=1)) * np.fft.rfft(after, axis=1)).sum(axis=0)  # (65,)
    # the frequencies that alias pull the peak towards whole columns: a Gaussian of two columns takes them out
    spectrum *= np.exp(-2 * (math.pi * 2 * np.arange(spectrum.size) / _WIDTH) ** 2)
    fine = _WIDTH * _UPSAMPLING
    correlation = np.fft.irfft(spectrum, n=fine)  # by how far the scene moved to the right
    peak = int(correlation.argmax())
    if correlation[peak] <= 0:
        return 0.0
    left, middle, right = correlation[[peak - 1, peak, (peak + 1) % fine]]
    bend = left - 2 * middle + right
    offset = 0.5 * (left - right) / bend if bend < 0 else 0.0
    # a scene that moves to the right is seen by a camera that turns to the left
    return math.remainder((peak + offset) * 2 * math.pi / fine, 2 * math.pi)


def unexplained_change(before: Array, after: Array, yaw_rad: float) -> float:
    """Share of the density, [0, 1], that moved between two maps (h, w) beside what the camera's turn moved."""
    return map_distance(panned(before, yaw_rad), after)
