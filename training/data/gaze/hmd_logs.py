r"""Raw head and eye logs of a headset, and the fixations in them, found by a velocity threshold (I-VT).

    python -m training.data.gaze.hmd_logs --logs '[person_1.csv, person_2.csv]' --panorama P1_2048x1024.jpg --output OUT

writes OUT/fixations.txt, a scanpath file as Salient360! has it with one more column, the duration, and
OUT/fixations.png, the gaze and its fixations over the panorama, to be looked at.

`read_hmd_log` reads gaze on the sphere, `detect_fixations` finds the fixations in it, and `read_fixation_list` reads
those that the Salient360! toolbox (David et al., MMSys 2018) found.

Two layouts of Salient360! logs are supported, distinguished by their header: head rotation as a quaternion
(`cameraRotation.x` … `.w`) or as Euler angles in degrees (`cam_pitch`, `cam_yaw`, `cam_roll`), both in Unity's axes
(x right, y up, z forward). Gaze of each eye is a direction in the head (`rightEyeDirection.x`, `rightGazeDir.x`, …).

Directions follow the toolbox's fixation lists: Unity's (x, y, z) is (−x, z, y) in body axes, so x increases to the left
of the panorama; in logs with Euler angles the vertical is negated as well. With the right eye, 90 Hz and a smoothed
velocity, results agree with the toolbox to hundredths of a degree. The toolbox does not negate the vertical of the head
in those logs, so only gaze can be compared.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from scipy.interpolate import CubicSpline
from scipy.signal import savgol_filter
from scipy.spatial.transform import Rotation, Slerp

from sal360.arrays import Floats, Integers, Mask, Pixels
from sal360.errors import DataError, ParameterError, one_line_errors, printable
from sal360.files import check_folder_is_writable, write_text
from sal360.images import write_picture
from sal360.sphere import angular_distance, nearest_pixel, vector_to_angles, vector_to_pixel
from training.config import read_config, require, require_between, require_path
from training.data.gaze.dataset_files import Irregular, cells_of, off_panorama, read_lines, read_numbers
from training.data.gaze.records import directions_of_positions
from training.data.panoramas import read_panorama

Eye = Literal["left", "right"]

_TIME = ("ocutimestamp", "oculots")
_EYE = ("{eye}eyedirection", "{eye}gazedir")
_QUATERNION = tuple(f"camerarotation.{axis}" for axis in "xyzw")
_EULER = ("cam_yaw", "cam_pitch", "cam_roll")
_OTHER: dict[Eye, Eye] = {"left": "right", "right": "left"}
_SECONDS = (1.0, 1e-3, 1e-6, 1e-9)  # units that timestamps may have
_SMOOTHING = 9  # samples of the quadratic Savitzky-Golay filter over the velocity
_MOSTLY_GAPS = 100  # times as long as its samples: the clock of such a recording was set
_BRIDGED_S = 0.5  # gaze is interpolated in shorter gaps, such as blinks
_FLAGS = {"left": ("vall", "lval"), "right": ("valr", "rval")}  # whether the tracker saw the eye


@dataclass(frozen=True, eq=False)
class Scanpath:
    """Fixations in the order of time."""

    directions: Floats
    """Unit vectors (n, 3), body axes."""
    start_s: Floats
    """(n,) seconds since the stimulus began."""
    duration_s: Floats
    """(n,) seconds, NaN where unknown."""


@dataclass(frozen=True)
class HmdLogsConfig:
    """Raw logs of a headset, and the definition of a fixation."""

    logs: tuple[str, ...]
    """CSV logs of people who looked at the same panorama, one for each person."""
    output: str
    """Folder for fixations.txt and fixations.png."""
    panorama: str = ""
    """The panorama, drawn below the gaze; empty: a grid of 30 degrees."""
    eye: Eye = "right"
    """The eye whose direction counts as gaze."""
    rate_hz: float = 90.0
    """Rate at which the gaze is sampled before fixations are detected, hertz."""
    threshold_deg_s: float = 120.0
    """Maximum speed of gaze within a fixation, degrees per second."""
    minimum_s: float = 0.08
    """Minimum duration of a fixation, seconds."""
    strict: bool = False
    """Refuse logs in which the tracker lost the eye or the clock steps back."""

    def __post_init__(self) -> None:
        require("logs", self.logs, len(self.logs) > 0, "at least one log")
        require("logs", self.logs, len(set(self.logs)) == len(self.logs), "each log once")
        require_path("output", self.output, "a folder")
        require_between("rate_hz", self.rate_hz, 10, 2000)
        require_between("threshold_deg_s", self.threshold_deg_s, 1, 1000)
        require_between("minimum_s", self.minimum_s, 0, 10)


@dataclass(frozen=True)
class VelocityThreshold:
    """The definition of a fixation."""

    threshold_deg_s: float = 120.0
    """Maximum speed of gaze within a fixation, degrees per second."""
    minimum_s: float = 0.08
    """Minimum duration of a fixation, seconds."""


def read_hmd_log(
    path: str | Path, *, eye: Eye = "right", rate_hz: float = 90.0, irregular: Irregular | None = None
) -> tuple[Floats, Floats]:
    """Gaze on the sphere at a constant rate.

    The eye's direction is interpolated by a cubic spline, the head's rotation by slerp; invalid samples (zeros, NaN,
    or flagged as such by the tracker) are bridged for up to 0.5 s. Samples out of the order of time are left out, as
    few as possible.

    Args:
        path: CSV file with one header row.
        eye: the eye whose direction counts as gaze.
        rate_hz: sampling rate of the result; the logs have 120 or 250 Hz.
        irregular: counts what is irregular in the log.

    Returns:
        Time (n,) seconds since the first sample, and unit vectors (n, 3) in body axes, NaN in longer gaps.

    Raises:
        DataError: the file is missing, of an unknown layout, or has too few valid samples.
    """
    path, irregular = Path(path), irregular or Irregular()
    names = _header(path)
    time_column = _one_of(path, names, _TIME)
    eye_name = _eye_column(path, names, eye)
    is_euler = _EULER[0] in names
    head_columns = [_one_of(path, names, (name,)) for name in (_EULER if is_euler else _QUATERNION)]
    columns = [time_column, *(f"{eye_name}.{axis}" for axis in "xyz"), *head_columns]
    table = _read_columns(path, [names.index(_one_of(path, names, (name,))) for name in columns], width=len(names))
    table[_is_flagged(path, names, eye), 1:4] = np.nan
    stamps = table[:, 0]
    kept = _increasing(stamps)
    table = table[kept]
    time_s, in_head, head = _seconds(table[:, 0], path), table[:, 1:4], table[:, 4:]
    valid = np.isfinite(table).all(axis=1) & (in_head != 0).any(axis=1)
    valid &= is_euler | (head != 0).any(axis=1)  # a quaternion of zeros is no rotation
    fresh = valid & np.append((np.diff(in_head, axis=0) != 0).any(axis=1), True)  # the tracker repeats old samples
    at = np.linspace(0, time_s[-1], int(time_s[-1] * rate_hz))
    _require_samples(path, min(int(fresh.sum()), len(at)))
    in_gap = _note_gaps(time_s, valid, at, irregular, path)
    _note_clock(stamps, kept, irregular, path)
    irregular.note(_UNIT, int(is_euler and _may_be_radians(head[valid])), path)
    gaze = CubicSpline(time_s[fresh], in_head[fresh])(np.clip(at, time_s[fresh][0], time_s[fresh][-1]))
    posed = _posed_samples(head, valid)
    rotation = Rotation.from_euler("YXZ", head[posed], degrees=True) if is_euler else Rotation.from_quat(head[posed])
    turned = Slerp(time_s[posed], rotation)(np.clip(at, time_s[posed][0], time_s[posed][-1])).apply(gaze)
    turned[in_gap] = np.nan
    right, up, forward = turned.T / np.linalg.norm(turned, axis=1)
    return at, np.stack([-right, forward, -up if is_euler else up], axis=1)


_LOST = "samples that the tracker lost, bridged"
_GAPS = f"gaps of more than {_BRIDGED_S:g} s, left out"
_UNIT = "logs whose head angles may be radians; they are read as degrees"


def _may_be_radians(angles: Floats) -> bool:
    """Whether the head turned, but no angle (n, 3) is larger than a full turn in radians."""
    return bool(np.ptp(angles, axis=0).max() > 0 and np.abs(angles).max() <= 2 * np.pi)


def _is_flagged(path: Path, names: Sequence[str], eye: Eye) -> Mask:
    """In which rows (n,) the tracker says that it did not see the eye."""
    rows = read_lines(path).beyond(1).texts
    column = next((names.index(name) for name in _FLAGS[eye] if name in names), None)
    if column is None:
        return np.zeros(len(rows), bool)
    flags = []
    for text in rows:
        cells = cells_of(text, len(names))
        place = column - len(names)  # from the end, because some logs lack a comma before it
        flags.append(cells[place].lower() if len(cells) >= -place else "")
    if set(flags) == {"0", "1"}:  # some trackers have a code instead, of which 0 is the best
        return np.array([flag == "0" for flag in flags], bool)
    return np.array([flag.endswith("false") for flag in flags], bool)


def _increasing(stamps: Floats) -> Integers:
    """Indices of the most stamps (n,) that are finite and increase; at the others, the clock stands or was set."""
    ends: list[float] = []  # of the increasing series of each length, the smallest last stamp
    last, before = list[int](), list[int]()  # the index of that stamp; the index before each in its series
    for i, stamp in enumerate(stamps.tolist()):
        if not math.isfinite(stamp):
            before.append(-1)
            continue
        length = bisect_left(ends, stamp)
        before.append(last[length - 1] if length else -1)
        if ends[length : length + 1] != [stamp]:
            ends[length : length + 1], last[length : length + 1] = [stamp], [i]
    kept = list[int]()
    i = last[-1] if last else -1
    while i >= 0:
        kept.append(i)
        i = before[i]
    return np.array(kept[::-1], dtype=np.int64)


def _note_clock(stamps: Floats, kept: Integers, irregular: Irregular, path: Path) -> None:
    """Count the samples that have no place in the order of time."""
    left_out = np.delete(stamps, kept)
    irregular.note("samples without a time, left out", int((~np.isfinite(left_out)).sum()), path)
    left_out = left_out[np.isfinite(left_out)]
    repeats = int(np.isin(left_out, stamps[kept]).sum())
    irregular.note("samples at the time of another one, left out", repeats, path)
    irregular.note("samples before which the clock steps back, left out", len(left_out) - repeats, path)


def _note_gaps(time_s: Floats, valid: Mask, at: Floats, irregular: Irregular, path: Path) -> Mask:
    """Which of the times `at` (m,) are in a gap that is too long to be bridged; counts these gaps and lost samples."""
    known = time_s[valid]
    is_long = np.diff(known, prepend=0, append=time_s[-1]) > _BRIDGED_S
    lost = time_s[~valid]
    irregular.note(_LOST, int((~is_long[np.searchsorted(known, lost)]).sum()), path)
    irregular.note(_GAPS, int(is_long.sum()), path)
    return np.asarray(is_long[np.searchsorted(known, at)])


def _require_samples(path: Path, count: int) -> None:
    if count < _SMOOTHING:
        raise DataError(f"{path} has {count} valid samples", "leave this log out", expected=f"at least {_SMOOTHING}")


def _posed_samples(head: Floats, valid: Mask) -> Integers:
    """Indices of the valid samples to which the head's poses belong.

    The log repeats a pose until the display's next frame. The toolbox assigns it to its second to last repetition and
    lets the head turn evenly in between; if every repetition counted, it would turn in steps.
    """
    changes = np.append((np.diff(head, axis=0) != 0).any(axis=1), True)
    usable = np.flatnonzero(valid)
    posed = np.flatnonzero(valid & changes) - 1
    indices: Integers = np.unique(np.concatenate([usable[[0, -1]], posed[(posed >= 0) & valid[posed]]]))
    return indices


def detect_fixations(
    time_s: Floats, directions: Floats, criterion: VelocityThreshold = VelocityThreshold()
) -> Scanpath:
    """Fixations by velocity threshold (I-VT; Salvucci and Goldberg, 2000): one mean direction each.

    A single sample that differs from both its neighbours joins them. A fixation that the start of the recording cuts
    off is kept however short, because its duration is unknown.

    Args:
        time_s: (n,) seconds, increasing.
        directions: unit vectors (n, 3); NaN, which is in no fixation, where gaze was lost.
        criterion: maximum speed and minimum duration of a fixation.

    Raises:
        ParameterError: there are fewer samples than the velocity filter needs.
    """
    if len(time_s) < _SMOOTHING:
        raise ParameterError(f"the recording has {len(time_s)} samples", f"pass at least {_SMOOTHING}")
    speed = angular_distance(directions[1:], directions[:-1]) / np.diff(time_s)
    speed = np.append(speed, speed[0])
    for first, end in np.flatnonzero(np.diff(np.isfinite(speed), prepend=False, append=False)).reshape(-1, 2):
        window = min(_SMOOTHING, end - first - (end - first + 1) % 2)  # odd
        speed[first:end] = savgol_filter(speed[first:end], window, min(2, window - 1))
    still = speed <= np.deg2rad(criterion.threshold_deg_s)
    for i in range(1, len(still) - 1):
        if still[i] != still[i - 1] and still[i] != still[i + 1]:
            still[i] = still[i - 1]
    still &= np.isfinite(directions).all(axis=1)
    edges = np.flatnonzero(np.diff(still, prepend=False, append=False))
    means, starts, durations = [], [], []
    for first, end in edges.reshape(-1, 2):  # (2 · fixations,) → (fixations, 2): first sample, one past the last
        if first > 0 and time_s[end - 1] - time_s[first - 1] < criterion.minimum_s:
            continue
        mean = directions[first:end].mean(axis=0)
        means.append(mean / np.linalg.norm(mean))
        starts.append(time_s[first])
        durations.append(time_s[min(end, len(time_s) - 1)] - time_s[first])
    return Scanpath(np.array(means).reshape(-1, 3), np.array(starts), np.array(durations))


def read_fixation_list(path: str | Path) -> Scanpath:
    """A fixation list of the Salient360! toolbox: columns 0 and 1 are x and y, 12 and 14 start and duration in ms.

    Raises:
        DataError: the file is missing or malformed, or a fixation lies outside the panorama.
    """
    path = Path(path)
    table = _read_columns(path, [0, 1, 12, 14], header_rows=0)
    if off_panorama(table[:, :2], Irregular(), path).any():
        raise DataError(
            f"{path} has a fixation outside the panorama", "recreate the list", expected="x and y from 0 to 1"
        )
    return Scanpath(directions_of_positions(table[:, 0], table[:, 1]), table[:, 2] / 1000, table[:, 3] / 1000)


def _header(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(f"{path} does not exist", "pass the CSV log of a headset")
    return [name.strip().lower() for name in "".join(read_lines(path).texts[:1]).split(",")]


def _eye_column(path: Path, names: Sequence[str], eye: Eye) -> str:
    """The name of the columns of an eye, without its axis."""
    own, other = ([name.format(eye=each) + ".x" for name in _EYE] for each in (eye, _OTHER[eye]))
    if set(other) & set(names) and not set(own) & set(names):
        raise DataError(f"{path} has the {_OTHER[eye]} eye alone", f"choose it with --eye {_OTHER[eye]}")
    return _one_of(path, names, own)[:-2]


def _one_of(path: Path, names: Sequence[str], candidates: Sequence[str]) -> str:
    for candidate in candidates:
        if candidate in names:
            return candidate
    raise DataError(
        f"{path} has no column {' or '.join(candidates)}",
        "check the header; two layouts of Salient360! logs are supported",
    )


def _read_columns(path: Path, columns: list[int], header_rows: int = 1, width: int | None = None) -> Floats:
    if not path.is_file():
        raise DataError(f"{path} does not exist", "check the path")
    rows = read_lines(path).beyond(header_rows)
    if not rows.texts:
        raise DataError(f"{path} has no rows", "copy the file again")
    # only these columns, because some logs lack a comma further right
    return read_numbers(path, rows, columns, "numbers in every row", width)


def _seconds(stamps: Floats, path: Path) -> Floats:
    """Seconds since the first of increasing stamps: the unit is the one in which samples are 1 to 50 ms apart."""
    _require_samples(path, len(stamps))
    since_first = stamps - stamps[0]
    step = float(np.median(np.diff(stamps)))
    if since_first[-1] > _MOSTLY_GAPS * step * len(stamps):
        found = f"the timestamps of {path} jump by {np.diff(stamps).max():g}"
        raise DataError(found, "correct or remove these lines", expected=f"steps near {step:g}, their median")
    for unit_s in _SECONDS:
        if 1e-3 <= step * unit_s <= 0.05:
            in_seconds: Floats = since_first * unit_s
            return in_seconds
    raise DataError(
        f"the timestamps of {path} have a median step of {step:g}",
        "check the time column",
        expected="1 to 50 ms, in seconds, milliseconds, microseconds or nanoseconds",
    )


_PICTURE_HEIGHT = 512  # pixels of fixations.png
_GRID_DEG = 30


def write_fixations(config: HmdLogsConfig) -> list[Scanpath]:
    """Find the fixations in the logs, and write the table and the picture.

    Raises:
        DataError: a log is missing, of an unknown layout or has too few samples, or the panorama cannot be read.
        OSError: the results cannot be written.
    """
    output, irregular = check_folder_is_writable(config.output), Irregular(config.strict)
    criterion = VelocityThreshold(config.threshold_deg_s, config.minimum_s)
    gaze, scanpaths = [], []
    for log in config.logs:
        time_s, directions = read_hmd_log(log, eye=config.eye, rate_hz=config.rate_hz, irregular=irregular)
        gaze.append(directions)
        scanpaths.append(detect_fixations(time_s, directions, criterion))
        irregular.note("logs without fixations", int(len(scanpaths[-1].start_s) == 0), log)
        share = scanpaths[-1].duration_s.sum() / time_s[-1]
        print(printable(f"{log}: {len(scanpaths[-1].start_s)} fixations, {share:.0%} of {time_s[-1]:.1f} s"))
    if irregular.counts:
        print(f"irregular: {irregular}")
    write_text(output / "fixations.txt", "\n".join(_rows(scanpaths)) + "\n")
    write_picture(output / "fixations.png", draw_fixations(gaze, scanpaths, config.panorama))
    print(printable(f"wrote {output / 'fixations.txt'} and {output / 'fixations.png'}"))
    return scanpaths


def _rows(scanpaths: Sequence[Scanpath]) -> Iterator[str]:
    """The lines of a scanpath file: positions as fractions of the panorama, times in milliseconds."""
    yield "Idx, longitude, latitude, start timestamp, duration"
    for scanpath in scanpaths:
        azimuth, elevation = vector_to_angles(scanpath.directions)
        x, y = 0.5 - azimuth / (2 * np.pi), 0.5 - elevation / np.pi
        values = zip(x % 1, y, 1000 * scanpath.start_s, 1000 * scanpath.duration_s, strict=True)
        yield from (f"{i}, {a:.6f}, {b:.6f}, {start:.1f}, {took:.1f}" for i, (a, b, start, took) in enumerate(values))


def draw_fixations(gaze: Sequence[Floats], scanpaths: Sequence[Scanpath], panorama: str = "") -> Pixels:
    """Gaze as dots and fixations as circles, larger for longer ones, in one colour for each person: (512, 1024, 3) BGR.

    Raises:
        DataError: the panorama cannot be read.
    """
    height, width = _PICTURE_HEIGHT, 2 * _PICTURE_HEIGHT
    if panorama:
        picture = np.ascontiguousarray(read_panorama(panorama, height)[..., ::-1])
    else:
        picture = np.full((height, width, 3), 40, np.uint8)
        picture[:: height * _GRID_DEG // 180] = picture[:, :: height * _GRID_DEG // 180] = 80
    for number, (directions, scanpath) in enumerate(zip(gaze, scanpaths, strict=True)):
        hue = np.array([[[180 * number // len(scanpaths), 255, 255]]], np.uint8)
        colour = tuple(int(each) for each in cv2.cvtColor(hue, cv2.COLOR_HSV2BGR)[0, 0])
        seen = directions[np.isfinite(directions).all(axis=1)]
        column, row = nearest_pixel(seen, height, width)
        picture[row, column] = colour
        for (u, v), took in zip(
            np.stack(vector_to_pixel(scanpath.directions, height, width), 1), scanpath.duration_s, strict=True
        ):
            radius = round(4 + 12 * float(np.sqrt(max(took, 0))))
            cv2.circle(picture, (round(u), round(v)), radius, colour, 2, cv2.LINE_AA)
    return picture


def main() -> None:
    """The command `python -m training.data.gaze.hmd_logs`."""
    write_fixations(read_config(HmdLogsConfig, "Find the fixations in raw head and eye logs of a headset."))


if __name__ == "__main__":
    sys.exit(one_line_errors(main))
