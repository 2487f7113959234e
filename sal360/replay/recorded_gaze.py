"""Where people looked at each frame of a recording: maps and fixations from topics and folders, matched by stamp."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sal360.arrays import Density, Floats, Integers, Pixels, Reals
from sal360.density import HEADSET_SIGMA_DEG, as_density, check_sigma, spherical_density
from sal360.errors import DataError, FrameError, ParameterError, Sal360Error
from sal360.ground_truth import GazeRecord
from sal360.images import read_map, read_map_picture
from sal360.picture_formats import PICTURE_SUFFIXES
from sal360.replay.fixation_table import read_fixation_table
from sal360.replay.recording import Recording
from sal360.sources.bag import RAW, BagMessage, stamp_ns
from sal360.sphere import frame_to_body, rotation_from_quaternion

DENSITY_SIZE = (256, 512)
"""Rows and columns of densities made from fixations; a pixel is 0.7 degrees wide."""


class RecordedGaze:
    """Where people looked at each frame of a recording.

    Each entry of the ground truth belongs to the frame with the nearest stamp. All fixations of a frame count together;
    of several maps, the nearest in time is taken. The fixations of a frame without a map are blurred to a density.
    Samples that an eye tracker lost (zeros, NaN, empty cells) and maps that are zero everywhere are left out.

    Args:
        recording: the frames.
        sources: topics of the recording, and folders.
        tolerance_s: maximum distance of an entry from its frame, seconds.
        convention: axes of the fixations, one of `sphere.FRAME_CONVENTIONS`; those of views are known.
        sigma_deg: standard deviation of the blur, degrees.

    Raises:
        ParameterError: sigma_deg is below half a pixel of `DENSITY_SIZE`, or above 60.
        DataError: a source cannot be read, or no entry belongs to any frame.
    """

    def __init__(
        self,
        recording: Recording,
        sources: Sequence[str],
        *,
        tolerance_s: float = 0.05,
        convention: str = "body",
        sigma_deg: float = HEADSET_SIGMA_DEG,
    ) -> None:
        check_sigma(sigma_deg, *DENSITY_SIZE)
        self._name = recording.name
        self._convention = convention
        self._sigma_deg = sigma_deg
        self._entries: dict[int, list[tuple[int, GazeEntry]]] = defaultdict(list)  # with distances in ns, by frame
        self.unmatched = 0
        """Number of entries that belong to no frame."""
        self.lost = 0
        """Number of samples and maps without content; maps are counted when they are read."""
        stamps_ns = np.array([frame.stamp_ns for frame in recording.frames()], np.int64)
        order = np.argsort(stamps_ns, kind="stable")
        for source in sources:
            for entry in read_entries(source, recording):
                self.lost += entry.lost
                if not len(entry.fixations) and entry.read_map is None and entry.lost:
                    continue
                index, distance_ns = _nearest(stamps_ns, order, entry.stamp_ns)
                if distance_ns <= tolerance_s * 1e9:
                    self._entries[index].append((distance_ns, entry))
                else:
                    self.unmatched += 1
        if sources and not self._entries:
            raise self._nothing_matched(sources, tolerance_s)

    def _nothing_matched(self, sources: Sequence[str], tolerance_s: float) -> DataError:
        named = ", ".join(sources)
        if not self.unmatched:
            return DataError(f"{named} has no gaze ({self.lost} samples are lost)", "choose another --ground-truth")
        return DataError(
            f"none of the {self.unmatched} entries of {named} is within {tolerance_s:g} s of a frame",
            "compare its stamps with those of the frames, or raise --truth-tolerance-s",
        )

    @property
    def frames(self) -> list[int]:
        """Indices of the frames to which gaze belongs, in order."""
        return sorted(self._entries)

    def at(self, index: int) -> GazeRecord | None:
        """The gaze at the frame `index`; None if nothing is known.

        Raises:
            DataError: a map is not a density.
        """
        entries = self._entries.get(index)
        if not entries:
            return None
        vectors = np.concatenate([self._in_body_axes(entry) for _, entry in entries])
        observer = np.concatenate([entry.observer for _, entry in entries])
        density, has_map = self._density(entries)
        if has_map and density is None and not len(vectors):
            return None
        record = GazeRecord(
            f"{self._name}, frame {index}",
            _no_panorama,
            _unit(vectors),
            observer,
            np.full(len(vectors), np.nan),
            density,
        )
        if density is None and len(vectors):
            blurred = spherical_density(record.fixations, *DENSITY_SIZE, self._sigma_deg)
            record = dataclasses.replace(record, density=blurred)
        return record

    def view_at(self, index: int) -> Floats | None:
        """The mean direction (3,) of the views at the frame `index`, a unit vector; None if nothing is known."""
        views = [entry.fixations for _, entry in self._entries.get(index, []) if entry.is_view]
        if not views:
            return None
        mean = _unit(np.concatenate(views)).mean(axis=0)
        return _unit(mean) if np.linalg.norm(mean) > 1e-6 else None  # opposite views have no mean

    def _in_body_axes(self, entry: GazeEntry) -> Floats:
        return entry.fixations if entry.is_view else frame_to_body(entry.fixations, self._convention)

    def _density(self, entries: list[tuple[int, GazeEntry]]) -> tuple[Density | None, bool]:
        """The nearest map that is not zero everywhere, and whether there is any map."""
        maps = sorted(
            ((distance_ns, entry) for distance_ns, entry in entries if entry.read_map), key=lambda each: each[0]
        )
        for _, entry in maps:
            assert entry.read_map is not None
            values = entry.read_map()
            with np.errstate(invalid="ignore"):
                is_empty = not values.any()
            if not is_empty:
                return as_density(values, entry.name), True
            self.lost += 1
        return None, bool(maps)


def _nearest(stamps_ns: Integers, order: Integers, stamp_ns: int) -> tuple[int, int]:
    """Index of the frame nearest in time, and its distance in nanoseconds."""
    after = int(np.searchsorted(stamps_ns, stamp_ns, sorter=order))
    candidates = [int(index) for index in order[max(0, after - 1) : after + 1]]
    if not candidates:
        return -1, 2**63
    index = min(candidates, key=lambda each: abs(int(stamps_ns[each]) - stamp_ns))
    return index, abs(int(stamps_ns[index]) - stamp_ns)


def _unit(vectors: Floats) -> Floats:
    unit: Floats = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)  # (n, 3) / (n, 1)
    return unit


def _no_panorama() -> Pixels:
    raise DataError("the frame is in the bag", "read it with sources.open_source")


CLOUD = "sensor_msgs/msg/PointCloud2"
POINT = "geometry_msgs/msg/PointStamped"
VECTOR = "geometry_msgs/msg/Vector3Stamped"
VIEW = "geometry_msgs/msg/QuaternionStamped"
"""Where a viewer or a headset looks: a turn from x forward, y left, z up to the body axes, as in `viewer/view`."""
GAZE_TYPES = (RAW, CLOUD, POINT, VECTOR, VIEW)


@dataclass(frozen=True, eq=False)
class GazeEntry:
    """The ground truth at one time: fixations, or a map that is read when it is needed."""

    stamp_ns: int
    name: str
    """Where it was found, for errors."""
    fixations: Floats = field(default_factory=lambda: np.empty((0, 3)))
    """(n, 3), in the axes of the source, of any length above 0; n may be 0."""
    observer: Integers = field(default_factory=lambda: np.empty(0, np.int64))
    """(n,): who made each fixation."""
    read_map: Callable[[], Reals] | None = None
    """Reads the map, (h, w), of any scale."""
    lost: int = 0
    """Number of samples without a direction."""
    is_view: bool = False
    """Whether the fixation is the middle of somebody's view, in body axes."""


def _fixation_entry(at_ns: int, name: str, vectors: Floats, observer: Integers, lost: int = 0) -> GazeEntry:
    """An entry without the vectors that have no direction: NaN, or zero."""
    with np.errstate(invalid="ignore", over="ignore"):
        length = np.linalg.norm(vectors, axis=-1)
    known = np.isfinite(length) & (length > 0)
    return GazeEntry(at_ns, name, vectors[known], observer[known], lost=lost + int((~known).sum()))


def _view_entry(at_ns: int, name: str, quaternion: Any) -> GazeEntry:
    """The direction to which the x axis is turned; a quaternion without an orientation is a lost sample."""
    try:
        turn = rotation_from_quaternion(quaternion.w, quaternion.x, quaternion.y, quaternion.z)
    except ParameterError:
        return GazeEntry(at_ns, name, lost=1, is_view=True)
    return GazeEntry(at_ns, name, turn[:, 0][None], np.zeros(1, np.int64), is_view=True)


def read_entries(source: str, recording: Recording) -> Iterator[GazeEntry]:
    """The entries of a topic of the recording, or of a folder.

    Raises:
        DataError: there is no such topic or folder, or its contents are malformed.
    """
    topics = recording.topics
    if source in topics:
        if topics[source].type not in GAZE_TYPES:
            raise DataError(
                f"the ground truth {source} carries {topics[source].type}",
                "choose another topic, or a folder",
                expected="one of " + ", ".join(GAZE_TYPES),
            )
        return _topic_entries(source, recording)
    if Path(source).is_dir():
        return _folder_entries(Path(source))
    usable = [name for name, topic in topics.items() if topic.type in GAZE_TYPES]
    raise DataError(
        f"the ground truth {source} is neither a topic of {recording.path} nor a folder",
        "correct --ground-truth",
        expected="one of the topics " + (", ".join(usable) or "(none of them can be ground truth)"),
    )


def _topic_entries(topic: str, recording: Recording) -> Iterator[GazeEntry]:
    maps = _MapsOfTopic(recording, topic)
    for index, message in enumerate(recording.messages(topic)):
        try:
            fields = message.decode()
        except FrameError:
            yield GazeEntry(message.recorded_ns, topic, lost=1)
            continue
        at_ns = stamp_ns(message, fields)
        name = f"at {at_ns} ns on {topic}"
        if message.type == RAW:
            yield GazeEntry(at_ns, name, read_map=partial(maps.read, index, name))
        elif message.type == CLOUD:
            yield _fixation_entry(at_ns, name, *_cloud_points(fields, name))
        elif message.type == VIEW:
            yield _view_entry(at_ns, name, fields.quaternion)
        else:
            sample = fields.point if message.type == POINT else fields.vector
            yield _fixation_entry(at_ns, name, np.array([[sample.x, sample.y, sample.z]]), np.zeros(1, np.int64))


class _MapsOfTopic:
    """Reads maps of a bag again when they are needed, so that they do not all stay in memory; fastest if in order."""

    def __init__(self, recording: Recording, topic: str) -> None:
        self._recording, self._topic = recording, topic
        self._messages: Iterator[tuple[int, BagMessage]] = iter(())
        self._next = 0

    def read(self, index: int, name: str) -> Reals:
        """The map in the topic's message of this index.

        Raises:
            DataError: the message is not a map.
        """
        if index < self._next or not self._next:
            self._messages = enumerate(self._recording.messages_beside(self._topic))
        for at, message in self._messages:
            self._next = at + 1
            if at == index:
                try:
                    return read_map(message.decode())
                except Sal360Error as error:
                    raise DataError(f"{error.found}, {name}", error.remedy, expected=error.expected) from None
        raise DataError(f"the map {name} cannot be read again", "do not change the bag while it is evaluated")


# element types of sensor_msgs/PointField, by their constants
_POINT_FIELDS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}


def _cloud_points(cloud: Any, name: str) -> tuple[Floats, Integers]:
    """The points of a PointCloud2 (n, 3), and their observers from the field `observer`, 0 without it."""
    order = ">" if cloud.is_bigendian else "<"
    offsets = {
        field.name: (order + _POINT_FIELDS[field.datatype], field.offset)
        for field in cloud.fields
        if field.datatype in _POINT_FIELDS
    }
    count = cloud.width * cloud.height
    missing = {"x", "y", "z"} - set(offsets)
    if (
        missing
        or len(cloud.data) < count * cloud.point_step
        or cloud.row_step not in (0, cloud.width * cloud.point_step)
    ):
        raise DataError(
            f"a point cloud {name} has the fields {', '.join(offsets)} and {len(cloud.data)} bytes",
            "record it again",
            expected=f"x, y and z of {count} points without gaps between rows",
        )
    names = [name for name in ("x", "y", "z", "observer") if name in offsets]
    try:
        point = np.dtype(
            {
                "names": names,
                "formats": [offsets[name][0] for name in names],
                "offsets": [offsets[name][1] for name in names],
                "itemsize": cloud.point_step,
            }
        )
    except ValueError:  # a field lies beyond the end of the point
        raise DataError(
            f"a point cloud {name} has fields that do not fit into its point_step of {cloud.point_step} bytes",
            "record it again",
        ) from None
    points = np.frombuffer(cloud.data, point, count)
    with np.errstate(invalid="ignore"):  # of NaN
        observer = points["observer"].astype(np.int64) if "observer" in names else np.zeros(count, np.int64)
        return np.stack([points[axis].astype(np.float64) for axis in "xyz"], axis=-1), observer


def _folder_entries(folder: Path) -> Iterator[GazeEntry]:
    paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]  # ._*: files that macOS adds
    paths = [path for path in paths if _is_ground_truth(path)]
    if not paths:
        raise DataError(
            f"the folder {folder} has no ground truth",
            "choose another folder",
            expected="<stamp>.npy, <stamp>.png or <stamp>.csv",
        )
    for path in paths:
        at_ns, suffix = _stamp_of(path), path.suffix.lower()
        if suffix in (".csv", *_OTHER_TABLES):
            yield _fixation_entry(at_ns, str(path), *read_fixation_table(path))
        else:
            yield GazeEntry(at_ns, str(path), read_map=partial(read_map_file, path))


_OTHER_TABLES = (".tsv", ".txt")


def _is_ground_truth(path: Path) -> bool:
    """Whether a file holds ground truth, by its name; a text file without a stamp is a note."""
    if path.suffix.lower() not in _OTHER_TABLES:
        return path.suffix.lower() in (".csv", ".npy", *PICTURE_SUFFIXES)
    with contextlib.suppress(DataError):
        _stamp_of(path)
        return True
    return False


def _stamp_of(path: Path) -> int:
    """The stamp in a file's name, nanoseconds: 16 digits or more are nanoseconds, other numbers are seconds."""
    try:
        number = Decimal(path.stem)
        is_nanoseconds = len(path.stem) >= 16 and path.stem.isdigit()
        return int(number if is_nanoseconds else number * 10**9)
    except (ArithmeticError, ValueError):
        raise DataError(
            f"the name of {path} is not a stamp", "rename it", expected="seconds or nanoseconds, such as 12.5.npy"
        ) from None


def read_map_file(path: Path) -> Reals:
    """The values of a map (h, w) from a file of numpy (.npy) or a grey picture, not yet a density.

    Raises:
        DataError: the file cannot be read, or holds something else.
    """
    return _read_npy(path) if path.suffix.lower() == ".npy" else _read_picture(path)


def _read_npy(path: Path) -> Reals:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)  # a header may promise more than the file holds
    except Exception as error:  # numpy's parser of headers raises various exceptions
        raise DataError(f"{path} cannot be read ({error})", "recreate it with numpy.save") from None
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise DataError(f"{path} holds {values.dtype} {values.shape}", "recreate it", expected="a map (h, w)")
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are refused where the map is used
        return np.asarray(values, np.float32)


def _read_picture(path: Path) -> Reals:
    try:
        return read_map_picture(path)
    except FrameError as error:
        raise DataError(error.found, error.remedy, expected=error.expected) from None
