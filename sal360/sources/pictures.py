"""Frames out of pictures: one after the other, or each held for a while and panned as a turning camera sees it."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from sal360.errors import DataError, FrameError
from sal360.images import read_picture
from sal360.sources.frame import BadFrame, Frame, scaled_to
from sal360.sphere import Array

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder as people count them: 2.jpg before 10.jpg.

    Raises:
        DataError: it holds none.
    """
    paths = [path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()]
    if not paths:
        raise DataError(
            f"the folder {folder} holds no picture", "choose another folder", expected="files such as .jpg and .png"
        )
    return sorted(paths, key=_natural_key)


def _natural_key(path: Path) -> list[tuple[str, int]]:
    parts = re.split(r"([0-9]+)", path.name.lower())  # texts and digits in turn
    return [(text, int(digits or 0)) for text, digits in itertools.zip_longest(parts[::2], parts[1::2])]


def still_frames(
    paths: Sequence[Path],
    *,
    loop: bool,
    rate_hz: float,
    hold_s: float,
    yaw_rate_rad_s: float,
    height_px: int,
    on_bad_frame: BadFrame,
) -> Iterator[Frame]:
    """Frames of the pictures, each held for `hold_s` (0: one frame), seen from a camera that turns to the left."""
    frames_each = max(1, round(hold_s * rate_hz))
    order: Iterable[Path] = itertools.cycle(paths) if loop else paths
    index, path_in_hand, still = 0, None, None
    unreadable: set[Path] = set()
    for path in order:
        if len(unreadable) == len(set(paths)):
            raise DataError("no picture could be decoded", "see the lines above", expected="at least one whole picture")
        try:
            if path != path_in_hand:  # a single picture in a loop is read once
                still = scaled_to(Frame(read_picture(path), "bgr", 0.0, path.stem), height_px)
                path_in_hand = path
        except FrameError as error:
            unreadable.add(path)
            on_bad_frame(error, path.name)
            continue
        assert still is not None
        for _ in range(frames_each):
            stamp_s = index / rate_hz
            name = still.name if frames_each == 1 and not loop else f"{still.name}_{index:06d}"
            yield Frame(panned(still.image, yaw_rate_rad_s * stamp_s), "bgr", stamp_s, name)
            index += 1


def panned(erp: Array, yaw_rad: float) -> Array:
    """The panorama or map (H, W[, C]) as a camera sees it that has turned to the left by `yaw_rad`.

    A pure yaw shifts the columns: whole ones by copying, the rest as a mean of neighbours. This is many times quicker
    than `projection.rotate_erp`, and five times as `cv2.warpAffine`.
    """
    shift_px = math.remainder(yaw_rad, 2 * math.pi) / (2 * math.pi) * erp.shape[1]
    whole = math.floor(shift_px)
    rest = shift_px - whole
    moved: Array = np.roll(erp, whole, axis=1) if whole else erp
    if rest == 0:
        return moved
    blended = np.empty(moved.shape, moved.dtype)  # rows together, as cv2 writes them
    cv2.addWeighted(moved[:, 1:], 1 - rest, moved[:, :-1], rest, 0, dst=blended[:, 1:])
    edge = cv2.addWeighted(moved[:, :1], 1 - rest, moved[:, -1:], rest, 0)  # loses the last axis of a single channel
    blended[:, :1] = edge.reshape(blended[:, :1].shape)
    return blended
