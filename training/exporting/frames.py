"""Real panoramas for calibration and parity."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from sal360_ros.predictor import resize_frame
from sal360_ros.projection import rotate_erp
from sal360_ros.samples import bundled_panoramas
from sal360_ros.sources.stills import pictures_in, read_picture
from sal360_ros.sphere import Array, random_rotation


def panorama_frames(folder: str, count: int, height: int, *, turned: bool, seed: int = 0) -> Array:
    """Frames (count, height, 2 · height, 3) uint8 RGB of the pictures in a folder, each in turn.

    Args:
        folder: "" takes the bundled panoramas.
        turned: turn each by a random rotation, so that every part of it comes to the equator and to the poles.

    Raises:
        DataError: the folder holds no picture.
        FrameError: one of them cannot be decoded.
    """
    paths = pictures_in(Path(folder) if folder else bundled_panoramas())
    generator = np.random.default_rng(seed)
    frames = np.empty((count, height, 2 * height, 3), np.uint8)
    for index in range(count):
        picture = cv2.cvtColor(read_picture(paths[index % len(paths)]), cv2.COLOR_BGR2RGB)
        frame = resize_frame(picture, height, 2 * height)
        frames[index] = rotate_erp(frame, random_rotation(generator)) if turned else frame
    return frames
