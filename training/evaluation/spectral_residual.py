"""Spectral residual saliency (Hou and Zhang, CVPR 2007) of a panorama: what is unusual in its spectrum.

OpenCV has it in its contributed modules only. The columns of a panorama wrap as the Fourier transform takes them to;
its rows do not, so a strong contrast between zenith and nadir leaves a trace at the poles.
"""

from __future__ import annotations

import cv2
import numpy as np

from sal360_ros.sphere import Array
from training.data.views import resize
from training.evaluation.spherical_blur import blur_sphere

_HEIGHT = 64  # the authors' scale
_BLUR_DEG = 5.0


def spectral_residual(panorama: Array) -> Array:
    """The map (64, 128) float64, not negative, of a panorama (H, W, 3) uint8 RGB."""
    grey = cv2.cvtColor(resize(panorama, _HEIGHT), cv2.COLOR_RGB2GRAY).astype(np.float64)
    spectrum = np.fft.fft2(grey)
    log_amplitude = np.log(np.abs(spectrum) + 1e-9)
    residual = log_amplitude - cv2.blur(log_amplitude, (3, 3))
    unusual = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    return np.maximum(blur_sphere(unusual, _BLUR_DEG), 0)
