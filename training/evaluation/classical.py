"""Classical saliency, baselines without learning: spectral residual, and BMS360 (Boolean map saliency).

Spectral residual: Hou and Zhang, "Saliency Detection: A Spectral Residual Approach", CVPR 2007.

Boolean map saliency (Zhang and Sclaroff, ICCV 2013) thresholds each colour channel at many levels. In each Boolean map,
regions that do not touch the picture's border get attention, and small ones more than large ones. BMS360 adapts it to
panoramas (Lebreton and Raake, Signal Processing: Image Communication 69, 2018):
- regions continue across the seam, so the left and right edges do not count as border;
- the remaining border, the first and the last row, would favour the equator, so several rotations of the panorama are
  analysed, and their maps are rotated back and averaged;
- areas are solid angles, and the final blur is on the sphere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sal360.arrays import Floats, Pixels
from sal360.density import blur_sphere
from sal360.projection import rotate_erp
from sal360.sphere import rotation_yaw_pitch_roll, solid_angles
from training.data.views import resize

_SPECTRAL_HEIGHT = 64  # the scale that the authors use
_SPECTRAL_BLUR_DEG = 5.0


def spectral_residual(panorama: Pixels) -> Floats:
    """Saliency (64, 128), not negative, of a panorama (H, W, 3) RGB."""
    grey = cv2.cvtColor(resize(panorama, _SPECTRAL_HEIGHT), cv2.COLOR_RGB2GRAY).astype(np.float64)
    spectrum = np.fft.fft2(grey)
    log_amplitude = np.log(np.abs(spectrum) + 1e-9)
    residual = log_amplitude - cv2.blur(log_amplitude, (3, 3))
    unusual = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    return np.maximum(blur_sphere(unusual, _SPECTRAL_BLUR_DEG), 0)


_BOOLEAN_HEIGHT = 128
_STEP = 16  # between thresholds, of 256 levels
_OPENING_PX, _DILATION_PX = 3, 3
_BOOLEAN_BLUR_DEG = 5.0
_TURNS = (
    rotation_yaw_pitch_roll(),
    rotation_yaw_pitch_roll(pitch_rad=math.pi / 2),  # moves the poles to front and back
    rotation_yaw_pitch_roll(roll_rad=math.pi / 2),  # moves the poles to the sides
)


def boolean_map_saliency(panorama: Pixels) -> Floats:
    """Saliency (128, 256), not negative, of a panorama (H, W, 3) RGB."""
    small = resize(panorama, _BOOLEAN_HEIGHT)
    attention = np.zeros(small.shape[:2])
    for turn in _TURNS:
        lab = cv2.cvtColor(rotate_erp(small, turn), cv2.COLOR_RGB2LAB)
        turned = _attention(np.asarray(lab, np.uint8))
        attention += rotate_erp(turned, turn.T)
    return np.maximum(blur_sphere(attention, _BOOLEAN_BLUR_DEG), 0)


def _attention(lab: Pixels) -> Floats:
    """Sum (h, w) of the attention maps of all Boolean maps of a panorama (h, w, 3)."""
    weights = solid_angles(*lab.shape[:2])
    attention = np.zeros(lab.shape[:2])
    for boolean in _boolean_maps(lab):
        figure = surrounded(_morph(boolean, cv2.MORPH_OPEN, _OPENING_PX))
        attention += _attended(_morph(figure, cv2.MORPH_DILATE, _DILATION_PX), weights)
    return attention


def attention_of_view(lab: Pixels, weights: Floats) -> Floats:
    """The same of a perspective view (h, w, 3), of whose pixels `weights` (h, w) are the solid angles."""
    attention = np.zeros(lab.shape[:2])
    for boolean in _boolean_maps(lab):
        opened = np.asarray(cv2.morphologyEx(boolean, cv2.MORPH_OPEN, _element(_OPENING_PX)), np.uint8)
        figure = surrounded_in_view(opened)
        attention += _attended(np.asarray(cv2.dilate(figure, _element(_DILATION_PX)), np.uint8), weights)
    return attention


def _boolean_maps(lab: Pixels) -> Iterator[Pixels]:
    """Each channel of a picture (h, w, 3) above and below each threshold: (h, w), 0 or 1."""
    for channel in cv2.split(lab):
        for threshold in range(int(channel.min()), int(channel.max()), _STEP):
            above = channel > threshold
            yield above.astype(np.uint8)
            yield (~above).astype(np.uint8)


def _attended(figure: Pixels, weights: Floats) -> Floats:
    """A map of regions (h, w) as attention: small ones get more than large ones."""
    area = float((figure * weights).sum())
    return figure / math.sqrt(area) if area > 0 else figure.astype(np.float64)


def surrounded_in_view(boolean: Pixels) -> Pixels:
    """The regions of a Boolean map (h, w), 0 or 1, that do not touch the border: (h, w), 0 or 1."""
    labels = cv2.connectedComponents(boolean, connectivity=8)[1]
    at_border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return ((boolean > 0) & ~np.isin(labels, at_border)).astype(np.uint8)


def surrounded(boolean: Pixels) -> Pixels:
    """The regions of a Boolean map (h, w), 0 or 1, that touch neither the first nor the last row: (h, w), 0 or 1.

    Regions are connected by edges and corners, including across the seam.
    """
    count, labels = cv2.connectedComponents(boolean, connectivity=8)
    left, right = labels[:, 0], labels[:, -1]
    # each pixel of the first column has three neighbours in the last one
    pairs = np.concatenate(
        [np.stack([left, right]), np.stack([left[1:], right[:-1]]), np.stack([left[:-1], right[1:]])], axis=1
    )
    first, second = pairs[:, (pairs > 0).all(axis=0)]
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(count, count))
    region = connected_components(graph, directed=False)[1][labels]  # (h, w)
    at_border = np.unique(np.concatenate([region[0], region[-1]])[np.concatenate([boolean[0], boolean[-1]]) > 0])
    return ((boolean > 0) & ~np.isin(region, at_border)).astype(np.uint8)


def _morph(boolean: Pixels, operation: int, margin: int) -> Pixels:
    """A morphological operation with an ellipse `margin` pixels wide, across the seam."""
    padded = np.concatenate([boolean[:, -margin:], boolean, boolean[:, :margin]], axis=1)
    return np.asarray(cv2.morphologyEx(padded, operation, _element(margin))[:, margin:-margin], np.uint8)


def _element(margin: int) -> Pixels:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (margin, margin)), np.uint8)
