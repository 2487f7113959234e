"""Picture files as frames: one frame each, or each held for a while and panned like the view of a turning camera."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from sal360.errors import DataError, FrameError
from sal360.images import read_picture
from sal360.picture_formats import PICTURE_SUFFIXES
from sal360.sources.frame import BadFrame, Frame, scaled_to

Element = TypeVar("Element", np.uint8, np.float32, np.float64)


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder in natural order (2.jpg before 10.jpg).

    Raises:
        DataError: there are none.
    """
    paths = [path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()]
    if not paths:
        raise DataError(
            f"the folder {folder} holds no pictures",
            "choose another folder",
            expected=f"files with {' '.join(PICTURE_SUFFIXES)}",
        )
    return sorted(paths, key=_natural_key)


def _natural_key(path: Path) -> list[tuple[str, int]]:
    parts = re.split(r"([0-9]+)", path.name.lower())  # text and digits alternate
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
    """The pictures as frames, each held for `hold_s` (0: one frame) and panned by a camera that turns to the left."""
    frames_each = max(1, round(hold_s * rate_hz))
    order: Iterable[Path] = itertools.cycle(paths) if loop else paths
    index, loaded, still = 0, None, None
    unreadable: set[Path] = set()
    for path in order:
        if len(unreadable) == len(set(paths)):
            raise DataError("no picture could be decoded", "see the warnings above for the reason of each")
        try:
            if path != loaded:  # a single picture in a loop is read once
                still = scaled_to(Frame(read_picture(path), "bgr", 0.0, path.stem), height_px)
                loaded = path
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


def panned(erp: NDArray[Element], yaw_rad: float) -> NDArray[Element]:
    """The panorama or map (H, W[, C]) as seen by a camera that has turned to the left by `yaw_rad`.

    A pure yaw shifts the columns: whole columns are copied, fractions are interpolated linearly. This is much faster
    than `projection.rotate_erp`, and five times faster than `cv2.warpAffine`.
    """
    shift_px = math.remainder(yaw_rad, 2 * math.pi) / (2 * math.pi) * erp.shape[1]
    whole = math.floor(shift_px)
    rest = shift_px - whole
    moved = np.roll(erp, whole, axis=1) if whole else erp
    if rest == 0:
        return moved
    blended = np.empty_like(moved, order="C")  # cv2 writes rows
    cv2.addWeighted(moved[:, 1:], 1 - rest, moved[:, :-1], rest, 0, dst=blended[:, 1:])
    edge = cv2.addWeighted(moved[:, :1], 1 - rest, moved[:, -1:], rest, 0)
    blended[:, :1] = edge.reshape(blended[:, :1].shape)  # (H, 1[, C]): cv2 drops the last axis of a single channel
    return blended
