"""VR-EyeTracking (Xu et al., CVPR 2018): 208 videos and the gaze of at least 31 people in every frame of each.

On disk: `{id}….mp4` and `Gaze_txt_files/p{observer}/{id}….txt`, where the first three digits of a name are the video,
and `train_test_set.xlsx` with the split. A line of text is `frame, number from 1, forward, head x, head y, eye, gaze x,
gaze y`, positions as fractions of the panorama from its BOTTOM left corner.
`VrEyeTracking` takes every 30th frame: its gaze is read by `read_gaze`, its picture by `read_video_frame`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from sal360.arrays import Floats, Integers, Pixels
from sal360.density import HEADSET_SIGMA_DEG, spherical_density
from sal360.errors import DataError, ParameterError
from sal360.ground_truth import GazeRecord
from training.data.gaze.dataset_files import Inventory, files_by_identity, require_files, require_folder
from training.data.gaze.records import GazeRecords, directions_of_positions

VIDEOS, OBSERVERS_A_VIDEO = 208, 31
SPLITS = ("train", "test", "all")
SPLIT_SHEET = "train_test_set.xlsx"
"""The split of 134 training and 74 test videos comes with the data set, in this file."""
_VIDEO = re.compile(r"(\d{3}).*\.(mp4|avi|mkv|mov)", re.IGNORECASE)
_GAZE = re.compile(r"(\d{3}).*\.txt")
_OBSERVER = re.compile(r"p(\d{3})")
_TAIL_BYTES = 4096


class VrEyeTracking(GazeRecords):
    """Records of single frames; names are "017/240": video and frame, from 1 as in the gaze files.

    Args:
        root: folder of the data set.
        split: train or test, by the data set's own sheet, or all.
        frame_step: frames from one record to the next; the first record is this frame.
        sigma_deg: blur of a gaze point, degrees.
        map_height: rows of the densities.

    Raises:
        DataError: a video of the split or its gaze is missing, or the sheet.
        ParameterError: there is no such split.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        frame_step: int = 30,
        sigma_deg: float = HEADSET_SIGMA_DEG,
        map_height: int = 256,
    ) -> None:
        folder = require_folder(root)
        self.sigma_deg, self._map_height = sigma_deg, map_height
        self._videos, self._gaze = _index(folder)
        ids = in_split(folder, self._videos, split)
        require_files(self._videos, ids, "videos", folder)
        require_files(self._gaze, ids, "folders of gaze", folder)
        self._keys = [
            (video, frame)
            for video in ids
            for frame in range(frame_step, _last_frame(self._gaze[video]) + 1, frame_step)
        ]
        if not self._keys:
            raise DataError(f"{root} has no frame of the split {split}", "check the path", expected="videos with gaze")
        self.names = tuple(f"{video:03d}/{frame}" for video, frame in self._keys)

    def read(self, index: int) -> GazeRecord:
        video, frame = self._keys[index]
        number, observer, directions = _gaze_of_video(self._gaze[video])
        shown = number == frame
        if not shown.any():
            raise DataError(
                f"frame {frame} of video {video:03d} has no gaze", "copy it again", expected="gaze in every frame"
            )
        return GazeRecord(
            name=self.names[index],
            panorama=partial(read_video_frame, self._videos[video], frame - 1),
            fixations=directions[shown],
            observer=observer[shown],
            time_s=np.full(int(shown.sum()), np.nan),
            density=spherical_density(directions[shown], self._map_height, 2 * self._map_height, self.sigma_deg),
        )


def in_split(root: Path, numbers: Iterable[int], split: str) -> list[int]:
    """The video numbers of a split, sorted: all, or those that the data set's own sheet has.

    Raises:
        DataError: the sheet is missing or malformed.
        ParameterError: there is no such split.
    """
    if split not in SPLITS:
        raise ParameterError(f"VR-EyeTracking has no split {split!r}", f"choose one of {', '.join(SPLITS)}")
    return sorted(numbers if split == "all" else read_first_column(root / SPLIT_SHEET, f"{split}_set"))


def read_first_column(path: Path, sheet: str) -> list[int]:
    """The numbers in column A of a sheet of an .xlsx workbook.

    Raises:
        DataError: there is no such file or sheet, or it has no numbers there.
    """
    from openpyxl import load_workbook  # starts slowly

    if not path.is_file():
        raise DataError(f"there is no {path}", "copy it from the data set; it holds the split")
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and extensions that openpyxl leaves out
            rows = list(load_workbook(file, read_only=True, data_only=True)[sheet].iter_rows(max_col=1))
    except Exception as error:  # openpyxl lets through whatever zip, XML and itself raise
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read ({reason})", "copy it again", expected=f"a sheet {sheet}") from None
    numbers = [int(row[0].value) for row in rows if row and row[0].data_type == "n" and row[0].value is not None]
    if not numbers:
        raise DataError(f"sheet {sheet} of {path} has no numbers in column A", "copy it again")
    return numbers


def read_gaze(path: Path) -> tuple[Integers, Floats]:
    """Frame numbers (n,) from 1, and gaze directions (n, 3), of one person and video.

    Raises:
        DataError: the file is missing or malformed, or gaze lies outside the panorama.
    """
    if not path.is_file():
        raise DataError(f"there is no {path}", "copy the data set again", expected="gaze")
    return _parse_gaze(path.read_text(encoding="utf-8", errors="replace").splitlines(), path)


def _gaze_of_video(files: dict[int, Path]) -> tuple[Integers, Integers, Floats]:
    """Frame numbers (n,), observers (n,) and directions (n, 3) of all people on one video."""
    return _read_all(tuple(sorted(files.items())))


@lru_cache(maxsize=4)
def _read_all(files: tuple[tuple[int, Path], ...]) -> tuple[Integers, Integers, Floats]:
    parts = [(person, *read_gaze(path)) for person, path in files]
    return (
        np.concatenate([number for _, number, _ in parts]),
        np.concatenate([np.full(len(number), person) for person, number, _ in parts]),
        np.concatenate([directions for _, _, directions in parts]),
    )


def _last_frame(files: dict[int, Path]) -> int:
    """The last frame that any person saw."""
    return max(int(_parse_gaze_end(path)[0][-1]) for path in files.values())


def _parse_gaze_end(path: Path) -> tuple[Integers, Floats]:
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return _parse_gaze(lines[1:] if size > _TAIL_BYTES else lines, path)  # the first of a cut is no whole line


def _parse_gaze(lines: list[str], path: Path) -> tuple[Integers, Floats]:
    try:
        table = np.loadtxt(lines, delimiter=",", usecols=(1, 6, 7), ndmin=2) if lines else np.zeros((0, 3))
    except ValueError as error:
        raise DataError(f"{path} is malformed ({error})", "copy it again", expected="eight fields a line") from None
    inside = ((table[:, 1:] >= 0) & (table[:, 1:] <= 1)).all(axis=1)
    if len(table) == 0 or not inside.all():
        where = f"{path} has no lines" if len(table) == 0 else f"{path} has gaze outside the panorama"
        raise DataError(where, "copy it again", expected="gaze from 0 to 1")
    return table[:, 0].astype(np.int64), directions_of_positions(table[:, 1], 1 - table[:, 2])


class _Place(NamedTuple):
    """Where a frame lies in its file."""

    shown: int
    """Its presentation time stamp."""
    decode_from: int
    """The decoding time stamp of the last key frame that is not shown after it: containers seek by those."""


def read_video_frame(path: str | Path, index: int) -> Pixels:
    """Frame `index`, from 0, as (H, W, 3) uint8 RGB.

    Raises:
        DataError: the file is no video, or has no such frame.
    """
    places = _places(str(path))
    if not 0 <= index < len(places):
        raise DataError(
            f"frame {index} of {path}", "check the gaze data's frame numbers", expected=f"0 to {len(places) - 1}"
        )
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        container.seek(places[index].decode_from, stream=stream)
        for frame in container.decode(stream):
            if frame.pts == places[index].shown:
                return np.ascontiguousarray(frame.to_ndarray(format="rgb24"))
    raise DataError(f"frame {index} of {path} cannot be decoded", "copy it again", expected="a whole video")


def check_video_frames(path: Path) -> None:
    """DataError if a video ends more than a second before its header says: it was cut short.

    Only the packets after the last key frame are read, so this is fast for videos of any length.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            unit_s, duration = float(stream.time_base or 0), stream.duration or 0
            container.seek(duration + (stream.start_time or 0), stream=stream)
            last = max((each.pts for each in container.demux(stream) if each.pts is not None), default=0)
    except (av.FFmpegError, IndexError, OSError) as error:
        raise DataError(f"{path} cannot be read ({error})", "copy it again", expected="a video") from None
    if last * unit_s < duration * unit_s - 1:
        raise DataError(f"{path} is cut short", "copy it again", expected=f"{duration * unit_s:.0f} s of video")


@lru_cache(maxsize=8)
def _places(path: str) -> tuple[_Place, ...]:
    """Of every frame in the order of display, out of the packets alone."""
    try:
        with av.open(path) as container:
            packets = [
                (packet.pts, packet.pts if packet.dts is None else packet.dts, packet.is_keyframe)
                for packet in container.demux(container.streams.video[0])
                if packet.pts is not None
            ]
    except (av.FFmpegError, IndexError, OSError) as error:
        raise DataError(f"{path} cannot be read ({error})", "copy it again", expected="a video") from None
    places, decode_from = [], 0
    for shown, decoded, is_key in sorted(packets):
        decode_from = decoded if is_key else decode_from
        places.append(_Place(shown, decode_from))
    return tuple(places)


def inventory(root: str | Path) -> Inventory:
    """What a copy holds; of each gaze file only the end is read."""
    folder = require_folder(root)
    videos, gaze = _index(folder)
    found = Inventory()
    found.count("videos", len(videos), VIDEOS)
    found.count("videos with gaze", len(gaze), VIDEOS)
    found.count("split sheet", int((folder / SPLIT_SHEET).is_file()), 1)
    found.problems += [f"video {each:03d} has no gaze" for each in sorted(set(videos) - set(gaze))]
    found.problems += [f"gaze of {each:03d} has no video" for each in sorted(set(gaze) - set(videos))]
    for video, files in sorted(gaze.items()):
        if len(files) < OBSERVERS_A_VIDEO:
            found.problems.append(f"video {video:03d} has gaze of {len(files)} people; expected {OBSERVERS_A_VIDEO}")
        for path in files.values():
            found.try_file(partial(_parse_gaze_end, path))
    for path in videos.values():
        found.try_file(partial(check_video_frames, path))
    return found


def _index(root: Path) -> tuple[dict[int, Path], dict[int, dict[int, Path]]]:
    """Videos by number; gaze files by number of the video, then of the observer."""

    def owner(match: re.Match[str], path: Path) -> tuple[int, int]:
        person = _OBSERVER.fullmatch(path.parent.name)
        return (int(match[1]), int(person[1])) if person else (-1, hash(path))

    videos = files_by_identity(root, _VIDEO, lambda match, _: int(match[1]))
    gaze: dict[int, dict[int, Path]] = {}
    for (video, person), path in files_by_identity(root, _GAZE, owner).items():
        if video >= 0:
            gaze.setdefault(video, {})[person] = path
    return videos, gaze
