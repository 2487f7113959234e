"""A picture by which to judge a calibration: the stitched panorama before and after, and the matches in the overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from sal360.arrays import Floats, Pixels
from sal360.cameras.calibration import Calibration, Rig, looked_up, ring
from sal360.cameras.camera import Camera
from sal360.cameras.lookup import Lookup

_WIDTH = 1440
_BAND_RAD = math.radians(40)
_GAP = 28
_WHITE = (255, 255, 255)


def draw_calibration(pictures: Sequence[Pixels], found: Calibration, before: Camera, after: Camera) -> Pixels:
    """A calibration, drawn on the picture with the largest number of matches.

    From top to bottom: the panoramas of the cameras before and after, and the ring that both lenses see, from the first
    lens and from the second, with lines between the matches: green where they agree, red at 0.5° or more.

    Args:
        pictures: those that were calibrated, (H, W, 3) uint8 BGR.

    Returns:
        (h, 1440, 3) uint8 BGR.
    """
    index = int(np.bincount(found.matches.picture, minlength=len(pictures)).argmax())
    picture, shown = pictures[index], found.matches.among(found.matches.picture == index)
    bands = [_band(picture, found.rig, lens) for lens in range(2)]
    overlap = np.concatenate([bands[0], np.zeros((_GAP, _WIDTH, 3), np.uint8), bands[1]])
    ends = [_on_band(found.rig.directions(lens, each)) for lens, each in enumerate((shown.first, shown.second))]
    _draw_matches(overlap, ends[0], ends[1] + (0, bands[0].shape[0] + _GAP), shown.angles(found.rig))
    return np.concatenate(
        [
            _title("before"),
            Lookup(before, _WIDTH // 2, _WIDTH)(picture),
            _title(f"after: median residual {math.degrees(found.residual_rad):.2f} degrees"),
            Lookup(after, _WIDTH // 2, _WIDTH)(picture),
            _title(f"the overlap, seen by the first lens and by the second; {len(shown)} matches in this picture"),
            overlap,
        ]
    )


def _title(text: str) -> Pixels:
    title = np.zeros((_GAP, _WIDTH, 3), np.uint8)
    cv2.putText(title, text, (10, _GAP - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.55, _WHITE, 1, cv2.LINE_AA)
    return title


def _band(picture: Pixels, rig: Rig, lens: int) -> Pixels:
    per_rad = _WIDTH / (2 * math.pi)
    rows = round(_BAND_RAD * per_rad)
    angle = math.pi / 2 + (np.arange(rows, dtype=np.float64) + 0.5 - rows / 2) / per_rad
    turn = (np.arange(_WIDTH, dtype=np.float64) + 0.5) / per_rad
    points, from_axis = rig.points(lens, ring(angle[:, None], turn))
    band = looked_up(picture, points)
    band[from_axis > rig[lens].half_fov_rad] = 0
    return band


def _on_band(directions: Floats) -> Floats:
    """Pixel coordinates (N, 2) on a band of directions (N, 3)."""
    per_rad = _WIDTH / (2 * math.pi)
    x, left, up = np.moveaxis(directions, -1, 0)
    turn = np.mod(np.arctan2(up, left), 2 * math.pi)
    rows = round(_BAND_RAD * per_rad)
    return np.stack([turn * per_rad - 0.5, (np.arccos(np.clip(x, -1, 1)) - math.pi / 2) * per_rad + rows / 2 - 0.5], -1)


def _draw_matches(overlap: Pixels, first: Floats, second: Floats, angles: Floats) -> None:
    for one, other, angle in zip(first, second, angles, strict=True):
        wrong = min(math.degrees(angle) / 0.5, 1.0)
        colour = (0, round(255 * (1 - wrong)), round(255 * wrong))
        start, end = (round(one[0]), round(one[1])), (round(other[0]), round(other[1]))
        for place in (start, end):
            cv2.circle(overlap, place, 3, colour, 1, cv2.LINE_AA)
        if abs(start[0] - end[0]) < _WIDTH // 2:  # not across the end of the band
            cv2.line(overlap, start, end, colour, 1, cv2.LINE_AA)
