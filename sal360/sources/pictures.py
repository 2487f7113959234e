"""Picture files as frames: one frame each, or each held for some time and panned as by a turning camera."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from sal360.errors import DataError, FrameError
from sal360.images import read_picture
from sal360.picture_formats import PICTURE_SUFFIXES
from sal360.sources.frame import BadFrame, Frame, scaled_to
from sal360.sources.video import VIDEO_SUFFIXES

Element = TypeVar("Element", np.uint8, np.float32, np.float64)


# Folders that operating systems and storage devices add to those of pictures. Names that begin with a dot are skipped,
# too: macOS writes ._room.jpg beside room.jpg, Linux the folder .thumbnails
_FOLDERS_OF_THUMBNAILS = ("@eadir", "__macosx", "#recycle", "$recycle.bin", "lost+found", "thumbnails")
_MAX_FOLDERS = 1000
"""Maximum number of subfolders that are searched only to report that they contain pictures."""
_OTHER_PICTURES = (
    *(
        ".heic",
        ".heif",
        ".jxl",
        ".jxr",
        ".exr",
        ".psd",
        ".tga",
        ".svg",
        ".ico",
        ".dpx",
        ".insp",
        ".apng",
        ".pam",
        ".pfm",
        ".ras",
    ),
    *(".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
)
OVERLAY_SUFFIXES = ("_overlay.png", "_overlay.mp4", "_maps.mkv")
"""Endings of the names of overlays, which lie beside <name>.npy or the picture or video from which they were made."""


@dataclass
class FolderContent:
    """The pictures of a folder, in natural order (2.jpg before 10.jpg), and those that are left out."""

    pictures: list[Path] = field(default_factory=list)
    in_subfolders: list[Path] = field(default_factory=list)
    """Some pictures in subfolders, if these are not to be searched."""
    other_formats: list[Path] = field(default_factory=list)
    """Pictures in unsupported formats."""
    videos: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)
    """Hidden pictures, and folders of thumbnails."""

    def left_out(self) -> str:
        """The files that are left out, for a message; "" if there are none."""
        kinds = {
            "pictures in subfolders": self.in_subfolders,
            "pictures in unsupported formats": self.other_formats,
            "videos": self.videos,
        }
        return ", ".join(f"{kind} (such as {paths[0]})" for kind, paths in kinds.items() if paths)


def look_into(folder: Path, *, recursive: bool = False) -> FolderContent:
    """Sort the files of a folder; hidden files, thumbnails and overlays of saliency maps are ignored.

    Links to folders are followed; a folder that is found twice is searched once.

    Args:
        recursive: search subfolders too.

    Raises:
        OSError: a folder to search cannot be read.
    """
    content = FolderContent()
    for parent, folders, names in itertools.islice(walked(folder, recursive), None if recursive else _MAX_FOLDERS):
        hidden_folders = [each for each in folders if is_hidden(each)]
        folders[:] = sorted(set(folders) - set(hidden_folders))
        files = [Path(parent, name) for name in names if not is_hidden(name)]
        pictures = [each for each in files if each.suffix.lower() in PICTURE_SUFFIXES and not is_overlay(each, names)]
        if recursive or Path(parent) == folder:
            content.pictures += pictures
            content.hidden += [Path(parent, each) for each in hidden_folders]
            content.hidden += [Path(parent, each) for each in names if _is_hidden_picture(each)]
            content.other_formats += [each for each in files if each.suffix.lower() in _OTHER_PICTURES]
            content.videos += [
                each for each in files if each.suffix.lower() in VIDEO_SUFFIXES and not is_overlay(each, names)
            ]
        elif pictures:
            content.in_subfolders += pictures
            break
    for paths in (content.pictures, content.in_subfolders, content.other_formats, content.videos, content.hidden):
        paths.sort(key=natural_key)
    return content


def walked(folder: Path, recursive: bool) -> Iterator[tuple[str, list[str], list[str]]]:
    """The folder and its subfolders, as `os.walk` yields them; one that links lead to twice is yielded once.

    Args:
        recursive: raise the errors of subfolders, not only that of the folder.

    Raises:
        OSError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        if recursive or error.filename == os.fspath(folder):  # else it is only searched for a remark
            raise error

    found = set()
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in found:
            folders.clear()
            continue
        found.add((status.st_dev, status.st_ino))
        yield parent, folders, names


def pictures_in(folder: Path, *, recursive: bool = False) -> list[Path]:
    """The pictures of a folder that `look_into` finds.

    Raises:
        DataError: there are none.
        OSError: as `look_into`.
    """
    content = look_into(folder, recursive=recursive)
    if not content.pictures:
        left_out = content.left_out()
        raise DataError(
            f"the folder {folder} has no pictures" + (f", but {left_out}" if left_out else ""),
            "choose the folder with the pictures",
            expected=f"files with {' '.join(PICTURE_SUFFIXES)}",
        )
    return content.pictures


def natural_key(path: Path) -> list[list[tuple[str, int]]]:
    """Sort key for paths in natural order: 2.jpg before 10.jpg."""
    return [_natural_name(part) for part in path.parts]


def _natural_name(name: str) -> list[tuple[str, int]]:
    parts = re.split(r"([0-9]+)", name.lower())  # text and digits alternate
    return [(text, int(digits or 0)) for text, digits in itertools.zip_longest(parts[::2], parts[1::2])]


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or contains thumbnails."""
    return name.startswith(".") or name.lower() in _FOLDERS_OF_THUMBNAILS


def _is_hidden_picture(name: str) -> bool:
    return is_hidden(name) and name.lower().endswith(PICTURE_SUFFIXES)


def is_overlay(path: Path, names: Collection[str]) -> bool:
    """Whether a file is the overlay of another one, or of a map, among the files of these names."""
    stem = next((path.name.removesuffix(each) for each in OVERLAY_SUFFIXES if path.name.endswith(each)), "")
    suffixes = (".npy", ".npz", "_stamps.npy", *PICTURE_SUFFIXES, *VIDEO_SUFFIXES)
    return bool(stem) and any(f"{stem}{suffix}" in names for suffix in suffixes)


def still_frames(
    paths: Sequence[Path],
    *,
    loop: bool,
    rate_hz: float,
    hold_s: float,
    yaw_rate_rad_s: float,
    height_px: int,
    max_pixels: int,
    on_bad_frame: BadFrame,
) -> Iterator[Frame]:
    """The pictures as frames, each held for `hold_s` (0: one frame) and panned as if the camera turned to the left."""
    frames_each = max(1, round(hold_s * rate_hz))
    order: Iterable[Path] = itertools.cycle(paths) if loop else paths
    index, loaded, still = 0, None, None
    unreadable: set[Path] = set()
    for path in order:
        try:
            if path != loaded:  # a single picture in a loop is read once
                still = scaled_to(Frame(read_picture(path, max_pixels=max_pixels), "bgr", 0.0, path.stem), height_px)
                loaded = path
        except FrameError as error:
            unreadable.add(path)
            on_bad_frame(error, path.name)
            if len(unreadable) == len(set(paths)):
                raise _nothing_decoded(error, len(unreadable)) from None
            continue
        assert still is not None
        for _ in range(frames_each):
            stamp_s = index / rate_hz
            name = still.name if frames_each == 1 and not loop else f"{still.name}_{index:06d}"
            yield Frame(panned(still.image, yaw_rate_rad_s * stamp_s), "bgr", stamp_s, name)
            index += 1


def _nothing_decoded(last: FrameError, count: int) -> DataError:
    if count == 1:
        return DataError(last.found, last.remedy, expected=last.expected)
    return DataError(
        f"none of {count} pictures can be used; the last: {last.found}", last.remedy, expected=last.expected
    )


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
