"""Where people looked at each frame of a recording: maps and fixations from topics and folders, matched by stamp."""

from __future__ import annotations

import csv
import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sal360.arrays import Density, Floats, Integers, Pixels, Reals
from sal360.density import HEADSET_SIGMA_DEG, as_density, check_sigma, spherical_density
from sal360.errors import DataError
from sal360.ground_truth import GazeRecord
from sal360.images import read_map
from sal360.replay.recording import Recording
from sal360.sources.bag import RAW, BagMessage, stamp_ns
from sal360.sphere import frame_to_body

DENSITY_SIZE = (256, 512)
"""Rows and columns of densities made from fixations; a pixel is 0.7 degrees wide."""


class RecordedGaze:
    """Where people looked at each frame of a recording.

    Each entry of the ground truth belongs to the frame with the nearest stamp. All fixations of a frame count together;
    of several maps, the nearest in time is taken. The fixations of a frame without a map are blurred to a density.

    Args:
        recording: the frames.
        sources: topics of the recording's bag, and folders.
        tolerance_s: maximum distance of an entry from its frame, seconds.
        convention: axes of the fixations, one of `sphere.FRAME_CONVENTIONS`.
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
        stamps_ns = np.array([frame.stamp_ns for frame in recording.frames()], np.int64)
        order = np.argsort(stamps_ns, kind="stable")
        for source in sources:
            for entry in read_entries(source, recording):
                index, distance_ns = _nearest(stamps_ns, order, entry.stamp_ns)
                if distance_ns <= tolerance_s * 1e9:
                    self._entries[index].append((distance_ns, entry))
                else:
                    self.unmatched += 1
        if sources and not self._entries:
            raise DataError(
                f"none of the {self.unmatched} entries of {', '.join(sources)} is within {tolerance_s:g} s of a frame",
                "compare its stamps with those of the frames, or raise --truth-tolerance-s",
            )

    def at(self, index: int) -> GazeRecord | None:
        """The gaze at the frame `index`; None if nothing is known.

        Raises:
            DataError: a map is not a density, or a fixation is not a direction.
        """
        entries = self._entries.get(index)
        if not entries:
            return None
        vectors = np.concatenate([entry.fixations for _, entry in entries])
        observer = np.concatenate([entry.observer for _, entry in entries])
        maps = [(distance_ns, entry.read_map) for distance_ns, entry in entries if entry.read_map is not None]
        density = min(maps, key=lambda each: each[0])[1]() if maps else None
        record = GazeRecord(
            f"{self._name}, frame {index}",
            _no_panorama,
            _unit(frame_to_body(vectors, self._convention)),
            observer,
            np.full(len(vectors), np.nan),
            density,
        )
        if density is None and len(vectors):
            blurred = spherical_density(record.fixations, *DENSITY_SIZE, self._sigma_deg)
            record = dataclasses.replace(record, density=blurred)
        return record


def _nearest(stamps_ns: Integers, order: Integers, stamp_ns: int) -> tuple[int, int]:
    """Index of the frame nearest in time, and its distance in nanoseconds."""
    after = int(np.searchsorted(stamps_ns, stamp_ns, sorter=order))
    candidates = [int(index) for index in order[max(0, after - 1) : after + 1]]
    if not candidates:
        return -1, 2**63
    index = min(candidates, key=lambda each: abs(int(stamps_ns[each]) - stamp_ns))
    return index, abs(int(stamps_ns[index]) - stamp_ns)


def _unit(vectors: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):  # GazeRecord rejects what is not a direction
        unit: Floats = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)  # (n, 3) / (n, 1)
    return unit


def _no_panorama() -> Pixels:
    raise DataError("the frame is in the bag", "read it with sources.open_source")


CLOUD = "sensor_msgs/msg/PointCloud2"
POINT = "geometry_msgs/msg/PointStamped"
VECTOR = "geometry_msgs/msg/Vector3Stamped"
GAZE_TYPES = (RAW, CLOUD, POINT, VECTOR)


@dataclass(frozen=True, eq=False)
class GazeEntry:
    """What is known at one time: fixations, or a map that is read when it is needed."""

    stamp_ns: int
    fixations: Floats
    """(n, 3), in the axes of the source, of any length above 0; n may be 0."""
    observer: Integers
    """(n,): who made each fixation."""
    read_map: Callable[[], Density] | None = None
    """Reads the map, (h, w) float32, relative to uniform."""


def read_entries(source: str, recording: Recording) -> Iterator[GazeEntry]:
    """The entries of a topic of the recording's bag, or of a folder.

    Raises:
        DataError: there is no such topic or folder, or its contents are malformed.
    """
    bag = recording.bag
    if source in bag.topics:
        if bag.topics[source].type not in GAZE_TYPES:
            raise DataError(
                f"the ground truth {source} carries {bag.topics[source].type}",
                "choose another topic, or a folder",
                expected="one of " + ", ".join(GAZE_TYPES),
            )
        return (_message_entry(message) for message in recording.messages(source))
    if Path(source).is_dir():
        return _folder_entries(Path(source))
    usable = [name for name, topic in bag.topics.items() if topic.type in GAZE_TYPES]
    raise DataError(
        f"the ground truth {source} is neither a topic of {bag.path} nor a folder",
        "correct --ground-truth",
        expected="one of the topics " + (", ".join(usable) or "(this bag has none that can be ground truth)"),
    )


def _message_entry(message: BagMessage) -> GazeEntry:
    fields = message.decode()
    at_ns = stamp_ns(message, fields)
    if message.type == RAW:
        return _map_entry(at_ns, lambda: read_map(message.decode()), f"at {at_ns} ns on {message.topic}")
    if message.type == CLOUD:
        return GazeEntry(at_ns, *_cloud_points(fields, message.topic))
    sample = fields.point if message.type == POINT else fields.vector
    return GazeEntry(at_ns, np.array([[sample.x, sample.y, sample.z]]), np.zeros(1, np.int64))


def _map_entry(at_ns: int, read: Callable[[], Reals], name: str) -> GazeEntry:
    return GazeEntry(at_ns, np.empty((0, 3)), np.empty(0, np.int64), lambda: as_density(read(), name))


# sensor_msgs/PointField: its constants of the element types
_POINT_FIELDS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}


def _cloud_points(cloud: Any, topic: str) -> tuple[Floats, Integers]:
    """The points of a PointCloud2 (n, 3), and their observers from the field `observer`, 0 without it."""
    order = ">" if cloud.is_bigendian else "<"
    offsets = {field.name: (order + _POINT_FIELDS.get(field.datatype, "V1"), field.offset) for field in cloud.fields}
    count = cloud.width * cloud.height
    missing = {"x", "y", "z"} - set(offsets)
    if (
        missing
        or len(cloud.data) < count * cloud.point_step
        or cloud.row_step not in (0, cloud.width * cloud.point_step)
    ):
        raise DataError(
            f"a point cloud on {topic} has the fields {', '.join(offsets)} and {len(cloud.data)} bytes",
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
            f"a point cloud on {topic} has fields that do not fit into its point_step of {cloud.point_step} bytes",
            "record it again",
        ) from None
    points = np.frombuffer(cloud.data, point, count)
    observer = points["observer"].astype(np.int64) if "observer" in names else np.zeros(count, np.int64)
    return np.stack([points[axis].astype(np.float64) for axis in "xyz"], axis=-1), observer


def _folder_entries(folder: Path) -> Iterator[GazeEntry]:
    readers = {".npy": _read_npy, ".png": _read_png}
    paths = sorted(path for path in folder.iterdir() if path.suffix in (*readers, ".csv"))
    if not paths:
        raise DataError(
            f"the folder {folder} holds no ground truth",
            "choose another folder",
            expected="<stamp>.npy, <stamp>.png or <stamp>.csv",
        )
    for path in paths:
        at_ns = _stamp_of(path)
        if path.suffix == ".csv":
            yield GazeEntry(at_ns, *_read_csv(path))
        else:
            yield _map_entry(at_ns, partial(readers[path.suffix], path), str(path))


def _stamp_of(path: Path) -> int:
    """The stamp in a file's name, nanoseconds: 16 digits or more are nanoseconds, other numbers are seconds."""
    try:
        number = Decimal(path.stem)
        is_nanoseconds = len(path.stem) >= 16 and path.stem.isdigit()
        return int(number if is_nanoseconds else number * 10**9)
    except (InvalidOperation, ValueError, OverflowError):
        raise DataError(
            f"the name of {path} is not a stamp", "rename it", expected="seconds or nanoseconds, such as 12.5.npy"
        ) from None


def _read_npy(path: Path) -> Reals:
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path} cannot be read ({error})", "write it again with numpy.save") from None
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise DataError(f"{path} holds {values.dtype} {values.shape}", "write it again", expected="a map (h, w)")
    return np.asarray(values, np.float32)


def _read_png(path: Path) -> Reals:
    values = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    if values is None:
        raise DataError(f"{path} cannot be decoded", "write it again", expected="a grey PNG")
    return values.astype(np.float32)


def _read_csv(path: Path) -> tuple[Floats, Integers]:
    """Fixations: lines of x, y, z and, if known, observer, below a header line with these names."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        vectors = np.array([[float(line[axis]) for axis in "xyz"] for line in lines]).reshape(
            -1, 3
        )  # (n, 3), also n = 0
        observer = np.array([int(line.get("observer") or 0) for line in lines], np.int64)
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise DataError(
            f"{path} is not a table of fixations ({error})",
            "write it again",
            expected="the header x,y,z[,observer] and lines of numbers",
        ) from None
    return vectors, observer
