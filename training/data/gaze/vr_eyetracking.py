"""VR-EyeTracking (Xu et al., CVPR 2018): 208 videos and the gaze of at least 31 people in every frame of each.

On disk: `{id}….mp4` and `Gaze_txt_files/p{observer}/{id}….txt`, where the first three digits of a name are the video,
and `train_test_set.xlsx` with the split. A line of text is `frame, number from 1, forward, head x, head y, eye, gaze x,
gaze y`, positions as fractions of the panorama from its BOTTOM left corner.
`VrEyeTracking` uses every 30th frame: `read_gaze` reads its gaze at once, `read_video_frame` its picture on demand.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import av
import numpy as np
from tqdm import tqdm

from sal360.arrays import Floats, Integers, Pixels
from sal360.density import HEADSET_SIGMA_DEG, spherical_density
from sal360.errors import DataError, ParameterError
from sal360.ground_truth import GazeRecord
from sal360.sources.video import open_container, upright
from sal360.sources.video_completeness import is_cut, is_damaged
from training.config import is_first_process
from training.data.gaze.dataset_files import (
    Inventory,
    Irregular,
    files_by_identity,
    first_of,
    is_header,
    off_panorama,
    read_lines,
    read_numbers,
    require_files,
    require_folder,
)
from training.data.gaze.records import GazeRecords, directions_of_positions
from training.data.panoramas import is_panoramic

if TYPE_CHECKING:
    from av.container import InputContainer

VIDEOS, OBSERVERS_A_VIDEO = 208, 31
SPLITS = ("train", "test", "all")
SPLIT_SHEET = "train_test_set.xlsx"
"""The split of 134 training and 74 test videos comes with the data set, in this file."""
AFTER_END = "samples after the end of the video, left out"
BEFORE_FIRST = "samples before the first frame of the video, left out"
_VIDEO = re.compile(r"(\d{3}).*\.(mp4|avi|mkv|mov)", re.IGNORECASE)
_GAZE = re.compile(r"(\d{3}).*\.txt", re.IGNORECASE)
_OBSERVER = re.compile(r"p(\d+)", re.IGNORECASE)
_EYE_FIRST = re.compile(r"([^,]*,){2}\s*eye\s*,", re.IGNORECASE)
_FIELDS = 8
_PANORAMIC = "twice as wide as high"


class VrEyeTracking(GazeRecords):
    """Records of single frames; names are "017/240": video and frame, from 1 as in the gaze files.

    Args:
        root: folder of the data set.
        split: train or test, by the data set's own sheet, or all.
        frame_step: frames from one record to the next; the first record is this frame.
        sigma_deg: blur of a gaze point, degrees.
        map_height: rows of the densities.
        strict: refuse what is irregular instead of counting it.

    Raises:
        DataError: a video of the split, its gaze, or the sheet is missing.
        ParameterError: the split is unknown.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        frame_step: int = 30,
        sigma_deg: float = HEADSET_SIGMA_DEG,
        map_height: int = 256,
        *,
        strict: bool = False,
    ) -> None:
        folder, irregular = require_folder(root), Irregular(strict)
        self.sigma_deg, self._map_height = sigma_deg, map_height
        self._videos, files = _index(folder, irregular)
        ids = in_split(folder, self._videos, split)
        require_files(self._videos, ids, "videos", folder)
        require_files(files, ids, "folders of gaze", folder)
        hidden = None if is_first_process() else True
        self._gaze = {
            video: _read_every(files[video], frame_step, self._videos[video], irregular)
            for video in tqdm(ids, desc="gaze", unit="video", leave=False, disable=hidden)
        }
        self._keys = [(video, int(frame)) for video, gaze in self._gaze.items() for frame in np.unique(gaze.frame)]
        if not self._keys:
            raise DataError(f"{root} has no frames of the split {split}", "check the path", expected="videos with gaze")
        self.names = tuple(f"{video:03d}/{frame}" for video, frame in self._keys)
        frames = sum(gaze.frames // frame_step for gaze in self._gaze.values())
        lost = sum(gaze.lost for gaze in self._gaze.values())
        if lost or frames > len(self._keys):
            self.left_out = f"frames without gaze: {frames - len(self._keys)}, lost samples: {lost}"
        self.left_out = ", ".join(each for each in (self.left_out, str(irregular)) if each)

    @property
    def scenes(self) -> tuple[str, ...]:
        return tuple(f"{video:03d}" for video, _ in self._keys)

    def read(self, index: int) -> GazeRecord:
        video, frame = self._keys[index]
        gaze = self._gaze[video]
        shown = gaze.frame == frame
        return GazeRecord(
            name=self.names[index],
            panorama=partial(read_video_frame, self._videos[video], frame - 1),
            fixations=gaze.direction[shown],
            observer=gaze.observer[shown],
            time_s=np.full(int(shown.sum()), np.nan),
            density=spherical_density(gaze.direction[shown], self._map_height, 2 * self._map_height, self.sigma_deg),
        )


def in_split(root: Path, numbers: Iterable[int], split: str) -> list[int]:
    """The video numbers of a split, sorted: all, or those in the data set's sheet.

    Raises:
        DataError: the sheet is missing or malformed, or has a video in both splits.
        ParameterError: there is no such split.
    """
    if split not in SPLITS:
        raise ParameterError(f"VR-EyeTracking has no split {split!r}", f"choose one of {', '.join(SPLITS)}")
    if split == "all":
        return sorted(numbers)
    sheet = _split_sheet(root)
    train, test = (set(read_first_column(sheet, f"{part}_set")) for part in ("train", "test"))
    if train & test:
        found = f"{sheet} has videos in both splits: {first_of(sorted(train & test))}"
        raise DataError(found, "copy it again", expected="each video in one of them")
    return sorted(train if split == "train" else test)


def _split_sheet(root: Path, problems: list[str] | None = None) -> Path:
    """The file with the split, in any folder; where it should be if there is none."""
    path = root / SPLIT_SHEET
    if path.is_file():
        return path
    name = re.compile(re.escape(SPLIT_SHEET), re.IGNORECASE)
    found = files_by_identity(root, name, lambda *_: "the split sheet", problems)
    return next(iter(found.values()), path)


def read_first_column(path: Path, sheet: str) -> list[int]:
    """The numbers in column A of a sheet of an .xlsx workbook.

    Raises:
        DataError: the file or the sheet does not exist, or it has no numbers there.
    """
    from openpyxl import load_workbook  # starts slowly

    if not path.is_file():
        raise DataError(f"{path} does not exist", "copy it from the data set; it contains the split")
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles and extensions that openpyxl ignores
            book = load_workbook(file, read_only=True, data_only=True)
            named = [name for name in book.sheetnames if name.strip().lower() == sheet.lower()]
            rows = list(book[named[0] if len(named) == 1 else sheet].iter_rows(max_col=1))
    except Exception as error:  # openpyxl passes on exceptions of zip, XML and its own
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read ({reason})", "copy it again", expected=f"a sheet {sheet}") from None
    cells = [str(row[0].value).strip() for row in rows if row and row[0].value is not None]
    # spreadsheets store some numbers as text, and whole ones as 3.0 or 3,0; some lists have names of files
    cells = [re.sub(r"(?<=^\d{3})[._].*\D.*$|[.,]0+$", "", cell) for cell in cells]
    numbers = [cell for cell in cells if re.fullmatch(r"-?[\d.,]*\d[\d.,]*", cell)]
    for each in numbers:
        if not each.isdecimal():
            raise DataError(f"sheet {sheet} of {path} has the number {each}", "copy it again", expected=_NUMBERS)
    if not numbers:
        raise DataError(f"sheet {sheet} of {path} has no numbers in column A", "copy it again", expected=_NUMBERS)
    return [int(each) for each in numbers]


_NUMBERS = "numbers of videos in column A"


class _Gaze(NamedTuple):
    """Gaze of all people on the frames of one video that are used as records."""

    frame: Integers
    """(n,) from 1."""
    observer: Integers
    """(n,)"""
    direction: Floats
    """Unit vectors (n, 3)."""
    frames: int
    """Number of frames of the video."""
    lost: int
    """Number of samples of those frames that the eye tracker lost."""


def _read_every(files: dict[int, Path], frame_step: int, video: Path, irregular: Irregular) -> _Gaze:
    frames, observers, directions, lost = [], [], [], 0
    gaze = {person: read_gaze(path, irregular) for person, path in sorted(files.items())}
    total = frames_of(video, max(int(frame.max(initial=0)) for frame, _ in gaze.values()))
    for person, (frame, direction) in gaze.items():
        irregular.note(AFTER_END, int((frame > total).sum()), files[person])
        sampled = (frame % frame_step == 0) & (frame <= total)
        is_seen = np.isfinite(direction).all(axis=1)
        lost += int((sampled & ~is_seen).sum())
        sampled &= is_seen
        frames.append(frame[sampled])
        observers.append(np.full(int(sampled.sum()), person))
        directions.append(direction[sampled])
    return _Gaze(np.concatenate(frames), np.concatenate(observers), np.concatenate(directions), total, lost)


def read_gaze(path: Path, irregular: Irregular | None = None) -> tuple[Integers, Floats]:
    """Frame numbers (n,) from 1, and gaze directions (n, 3), of one person and video; NaN where the tracker lost it.

    Args:
        path: the file.
        irregular: counts what is irregular in it.

    Raises:
        DataError: the file is missing or malformed, or gaze lies outside the panorama.
    """
    irregular = irregular or Irregular()
    if not path.is_file():
        raise DataError(f"{path} does not exist", "copy the data set again")
    lines = read_lines(path)
    has_header = bool(lines.texts) and is_header(lines.texts[0])
    irregular.note("recordings with a header row", int(has_header), path)
    lines = lines.beyond(int(has_header))
    numbers, expected = np.asarray(lines.numbers, dtype=np.int64), "frame, number, forward, x, y, eye, x, y"
    head_last = next((number for number, text in zip(*lines, strict=True) if _EYE_FIRST.match(text)), 0)
    if head_last:
        raise DataError(f"line {head_last} of {path} is malformed", "put the head before the eye", expected=expected)
    table = read_numbers(path, lines, (1, 6, 7), expected, _FIELDS)
    irregular.note("recordings without a line, left out", int(len(table) == 0), path)
    _check_frame_numbers(path, numbers, table[:, 0])
    position = table[:, 1:]
    is_lost = ~np.isfinite(position).all(axis=1) | (position == 0).all(axis=1)  # some trackers write zeros for NaN
    position[is_lost] = np.nan
    outside = off_panorama(position, irregular, path) & ~is_lost
    if outside.any():
        found = f"line {numbers[outside][0]} of {path} has gaze outside the panorama"
        raise DataError(found, "copy it again", expected="0 to 1")
    frame = table[:, 0].astype(np.int64)
    irregular.note(BEFORE_FIRST, int((frame < 1).sum()), path)
    # where a clock was set, a frame comes again: its first sample that is not lost is used
    seen_first = np.argsort(is_lost, kind="stable")
    kept = np.sort(seen_first[np.unique(frame[seen_first], return_index=True)[1]])
    irregular.note("samples on a frame that came before, left out", len(frame) - len(kept), path)
    kept = kept[frame[kept] >= 1]
    return frame[kept], directions_of_positions(position[kept, 0], 1 - position[kept, 1])


def _check_frame_numbers(path: Path, lines: Integers, number: Floats) -> None:
    """Refuse numbers that are not whole, and those from 0, which may be one too small or before the first frame."""
    lowest = -(2**31) if np.nanmin(number, initial=1) < 0 else 1  # a recording may begin before its video
    is_frame = (number >= lowest) & (number < 2**31) & (number % 1 == 0)  # NaN is none
    if not is_frame.all():
        found = f"line {lines[~is_frame][0]} of {path} has the frame number {number[~is_frame][0]:g}"
        remedy = "add 1 to all numbers if they count from 0, else remove the line"
        raise DataError(found, remedy, expected="whole numbers from 1")


def frames_of(path: Path, wanted: int) -> int:
    """Number of frames of a video.

    They are counted, which reads the whole file, only where the container states none, or fewer than `wanted`.

    Raises:
        DataError: the file is not a video.
    """
    with _video_stream(path) as (_, stream):
        stated = int(stream.frames)
    return stated if stated >= max(wanted, 1) else len(_places(str(path)))


class _Place(NamedTuple):
    """The position of a frame in its file."""

    shown: int
    """Its presentation timestamp."""
    decode_from: int
    """The decoding timestamp of the last key frame that is not displayed after it; containers seek by these."""


def read_video_frame(path: str | Path, index: int) -> Pixels:
    """Frame `index`, from 0, as (H, W, 3) uint8 RGB.

    Raises:
        DataError: the file is not a video, or has no such frame.
    """
    places = _places(str(path))
    if not 0 <= index < len(places):
        found = f"{path} has {len(places)} frames, but gaze on frame {index + 1}"
        raise DataError(found, "copy the video and its gaze again")
    with _video_stream(path) as (container, stream):
        stream.thread_type = "AUTO"
        container.seek(places[index].decode_from, stream=stream)
        shown = next((each for each in container.decode(stream) if each.pts == places[index].shown), None)
        frame = upright(shown)  # (H, W, 3) BGR
    if frame is None:
        raise DataError(f"frame {index + 1} of {path} cannot be decoded", "copy it again")
    if not is_panoramic(frame):
        found = f"the frames of {path} are {frame.shape[1]} x {frame.shape[0]}"
        raise DataError(found, "convert the video", expected=_PANORAMIC)
    return np.ascontiguousarray(frame[:, :, ::-1])


@contextmanager
def _video_stream(path: str | Path) -> Iterator[tuple[InputContainer, av.VideoStream]]:
    """The container and the video of a file; a DataError if it is not a video or cannot be decoded inside."""
    try:
        with open_container(Path(path)) as container:
            stream: Any = container.streams.best("video")
            if stream is None:
                raise DataError(f"{path} has no video", "copy it again")
            yield container, stream
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read ({reason})", "copy it again", expected="a video") from None


def check_video(path: Path) -> None:
    """Raise a DataError if a file is not a video of panoramas, or is cut short."""
    if is_cut(path):
        raise DataError(f"{path} is cut short", "copy it again")
    if is_damaged(path):
        raise DataError(f"{path} is damaged", "copy it again")
    with _video_stream(path) as (_, stream):
        width, height = sorted((stream.width, stream.height), reverse=True)  # it may be turned
    if height and not is_panoramic(np.broadcast_to(np.uint8(0), (height, width))):
        raise DataError(f"the frames of {path} are {width} x {height}", "convert the video", expected=_PANORAMIC)


@lru_cache(maxsize=8)
def _places(path: str) -> tuple[_Place, ...]:
    """The position of every frame, in display order, from the packets alone."""
    with _video_stream(path) as (container, stream):
        packets = [
            (packet.pts, packet.pts if packet.dts is None else packet.dts, packet.is_keyframe)
            for packet in container.demux(stream)
            if packet.pts is not None
        ]
    places, decode_from = [], 0
    for shown, decoded, is_key in sorted(packets):
        decode_from = decoded if is_key else decode_from
        places.append(_Place(shown, decode_from))
    return tuple(places)


def inventory(root: str | Path) -> Inventory:
    """The contents of a copy: every video and its gaze, of which 31 people should have looked at each."""
    folder = require_folder(root)
    found = Inventory()
    videos, gaze = _index(folder, found.irregular, found.problems)
    found.count("videos", len(videos), VIDEOS)
    found.count("videos with gaze", len(gaze), VIDEOS)
    found.count("split sheet", int(_split_sheet(folder, found.problems).is_file()), 1)
    found.try_file(partial(_compare_with_sheet, folder, videos, found))
    found.problems += [f"video {each:03d} has no gaze" for each in sorted(set(videos) - set(gaze))]
    found.problems += [f"gaze of {each:03d} has no video" for each in sorted(set(gaze) - set(videos))]
    for video, files in sorted(gaze.items()):
        fewer = f"video {video:03d} has gaze of {len(files)} people"
        few = f"videos with gaze of fewer than {OBSERVERS_A_VIDEO} people"
        found.irregular.note(few, int(len(files) < OBSERVERS_A_VIDEO), fewer)
        seen: list[Integers] = []
        for path in files.values():
            found.try_file(partial(_collect_frames, path, seen, found.irregular))
        if video in videos:
            found.try_file(partial(_compare_with_video, videos[video], seen, found.irregular))
    for path in videos.values():
        found.try_file(partial(check_video, path))
    return found


def _collect_frames(path: Path, seen: list[Integers], irregular: Irregular) -> None:
    """Append the frames on which one person's gaze is known."""
    frame, direction = read_gaze(path, irregular)
    known = np.isfinite(direction).all(axis=1)
    irregular.note("samples that the eye tracker lost, left out", int((~known).sum()), path)
    seen.append(frame[known])


def _compare_with_sheet(root: Path, videos: Mapping[int, Path], found: Inventory) -> None:
    """Name the videos that the split has and the copy lacks, and count those that it does not have."""
    if not _split_sheet(root).is_file():
        return  # counted
    listed = {*in_split(root, (), "train"), *in_split(root, (), "test")}
    found.problems += [f"video {each:03d} of the split sheet is missing" for each in sorted(listed - set(videos))]
    others = sorted(set(videos) - listed)
    found.irregular.note("videos that the split sheet does not list, left out", len(others), first_of(others))


def _compare_with_video(video: Path, seen: Sequence[Integers], irregular: Irregular) -> None:
    """Count gaze after the end of a video, and frames without gaze."""
    frames = np.concatenate([*seen, np.zeros(0, np.int64)])
    total = frames_of(video, int(frames.max(initial=0)))
    shown = frames <= total
    irregular.note(AFTER_END, int((~shown).sum()), video)
    irregular.note("frames without gaze, left out", total - len(np.unique(frames[shown])), video)


def _index(
    root: Path, irregular: Irregular, problems: list[str] | None = None
) -> tuple[dict[int, Path], dict[int, dict[int, Path]]]:
    """Videos by number; gaze files by number of the video, then of the observer."""

    def owner(match: re.Match[str], path: Path) -> tuple[int, int | Path]:
        person = _OBSERVER.fullmatch(path.parent.name)
        return (int(match[1]), int(person[1])) if person else (int(match[1]), path)

    videos = files_by_identity(root, _VIDEO, lambda match, _: int(match[1]), problems)
    gaze: dict[int, dict[int, Path]] = {}
    for (video, person), path in files_by_identity(root, _GAZE, owner, problems).items():
        irregular.note("files outside the folders of people (p001, p002, …), left out", int(person == path), path)
        if isinstance(person, int):
            gaze.setdefault(video, {})[person] = path
    return videos, gaze
