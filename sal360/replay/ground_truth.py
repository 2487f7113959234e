"""Ground truth of each frame of a recording, matched by stamp; fixations alone become a density."""

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

from sal360.density import HEADSET_SIGMA_DEG, as_density, check_sigma, spherical_density
from sal360.errors import DataError
from sal360.ground_truth import GazeRecord
from sal360.images import read_map
from sal360.replay.recording import Recording
from sal360.sources.bag import BagMessage
from sal360.sphere import Array, frame_to_body

IMAGE = "sensor_msgs/msg/Image"
CLOUD = "sensor_msgs/msg/PointCloud2"
POINT = "geometry_msgs/msg/PointStamped"
VECTOR = "geometry_msgs/msg/Vector3Stamped"
TRUTH_TYPES = (IMAGE, CLOUD, POINT, VECTOR)
# sensor_msgs/PointField: its number of each type
_POINT_FIELDS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}


@dataclass(frozen=True, eq=False)
class TruthEntry:
    """What is known at one time: fixations, or a map that is read when it is needed."""

    stamp_ns: int
    fixations: Array
    """(n, 3), in the frame of the source, of any length above 0; n may be 0."""
    observer: Array
    """(n,) int64."""
    density: Callable[[], Array] | None = None
    """Reads the map, (h, w) float32, relative to uniform."""


def read_truth(source: str, recording: Recording) -> Iterator[TruthEntry]:
    """The entries of a topic of the recording's bag, or of a folder.

    Raises:
        DataError: there is no such topic or folder, or its contents are not what is expected.
    """
    bag = recording.bag
    if source in bag.topics:
        if bag.topics[source].type not in TRUTH_TYPES:
            raise DataError(
                f"the ground truth {source} carries {bag.topics[source].type}",
                "choose another topic, or a folder",
                expected="one of " + ", ".join(TRUTH_TYPES),
            )
        return (_entry(message) for message in recording.messages(source))
    if Path(source).is_dir():
        return _folder_entries(Path(source))
    usable = [name for name, topic in bag.topics.items() if topic.type in TRUTH_TYPES]
    raise DataError(
        f"the ground truth {source} is neither a topic of {bag.path} nor a folder",
        "check --ground-truth",
        expected="one of the topics " + (", ".join(usable) or "(none can be ground truth)"),
    )


def _entry(message: BagMessage) -> TruthEntry:
    fields = message.decode()
    stamp_ns = fields.header.stamp.sec * 10**9 + fields.header.stamp.nanosec or message.recorded_ns
    if message.type == IMAGE:
        return _map_entry(stamp_ns, lambda: read_map(message.decode()), f"at {stamp_ns} ns on {message.topic}")
    if message.type == CLOUD:
        return TruthEntry(stamp_ns, *_cloud(fields, message.topic))
    at = fields.point if message.type == POINT else fields.vector
    return TruthEntry(stamp_ns, np.array([[at.x, at.y, at.z]]), np.zeros(1, np.int64))


def _map_entry(stamp_ns: int, read: Callable[[], Array], name: str) -> TruthEntry:
    return TruthEntry(stamp_ns, np.empty((0, 3)), np.empty(0, np.int64), lambda: as_density(read(), name))


def _cloud(cloud: Any, topic: str) -> tuple[Array, Array]:
    """The points of a PointCloud2 (n, 3) and, from a field `observer` where there is one, whose they are."""
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
            f"a point cloud on {topic} with the fields {', '.join(offsets)} and {len(cloud.data)} bytes",
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
    except ValueError:  # a field beyond the point
        raise DataError(
            f"a point cloud on {topic} with points of {cloud.point_step} bytes",
            "record it again",
            expected="room for its fields",
        ) from None
    points = np.frombuffer(cloud.data, point, count)
    observer = points["observer"].astype(np.int64) if "observer" in names else np.zeros(count, np.int64)
    return np.stack([points[axis].astype(np.float64) for axis in "xyz"], axis=-1), observer


def _folder_entries(folder: Path) -> Iterator[TruthEntry]:
    readers = {".npy": _read_npy, ".png": _read_png}
    paths = sorted(path for path in folder.iterdir() if path.suffix in (*readers, ".csv"))
    if not paths:
        raise DataError(
            f"the folder {folder} holds no ground truth",
            "choose another",
            expected="<stamp>.npy, <stamp>.png or <stamp>.csv",
        )
    for path in paths:
        stamp_ns = _stamp_of(path)
        if path.suffix == ".csv":
            yield TruthEntry(stamp_ns, *_read_csv(path))
        else:
            yield _map_entry(stamp_ns, partial(readers[path.suffix], path), str(path))


def _stamp_of(path: Path) -> int:
    """The stamp that a file is named by: whole nanoseconds (16 digits and more) or seconds."""
    try:
        number = Decimal(path.stem)
        whole = len(path.stem) >= 16 and path.stem.isdigit()
        return int(number if whole else number * 10**9)
    except (InvalidOperation, ValueError, OverflowError):
        raise DataError(
            f"{path} is not named by a stamp", "rename it", expected="seconds or nanoseconds, as 12.5.npy"
        ) from None


def _read_npy(path: Path) -> Array:
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path} cannot be read ({error})", "write it again", expected="a whole .npy file") from None
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise DataError(
            f"{path} holds {values.dtype} {values.shape}", "write it again", expected="a map (h, w) of numbers"
        )
    return values.astype(np.float32)


def _read_png(path: Path) -> Array:
    values = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    if values is None:
        raise DataError(f"{path} cannot be decoded", "write it again", expected="a grey PNG")
    return values.astype(np.float32)


def _read_csv(path: Path) -> tuple[Array, Array]:
    """Fixations as lines of x, y, z and, if it is known, observer, below a line of these names."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        vectors = np.array([[float(row[axis]) for axis in "xyz"] for row in rows]).reshape(-1, 3)
        observer = np.array([int(row.get("observer") or 0) for row in rows], np.int64)
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise DataError(
            f"{path} is no table of fixations ({error})",
            "write it again",
            expected="lines of x,y,z[,observer] below these names",
        ) from None
    return vectors, observer


DENSITY_SIZE = (256, 512)
"""Rows and columns of densities made of fixations; a pixel is 0.7 degrees wide."""


class GroundTruth:
    """What is known of the gaze at each frame.

    Each entry belongs to the frame with the nearest stamp. All fixations of a frame count together; of several maps
    the nearest in time is taken. A frame that has fixations and no map gets their density.

    Args:
        recording: whose frames are meant.
        sources: topics of its bag, and folders.
        tolerance_s: entries further than this from every frame belong to none.
        convention: axes of the fixations (`sphere.FRAME_CONVENTIONS`).
        sigma_deg: deviation of each fixation's kernel in a density made of them, degrees.

    Raises:
        ParameterError: sigma_deg is below half a pixel of `DENSITY_SIZE` or larger than 60.
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
        self._entries: dict[int, list[tuple[int, TruthEntry]]] = defaultdict(list)
        stamps_ns = np.array([frame.stamp_ns for frame in recording.frames()], np.int64)
        order = np.argsort(stamps_ns, kind="stable")
        self.unmatched = 0
        """Entries that belong to no frame."""
        for source in sources:
            for entry in read_truth(source, recording):
                index, distance_ns = _nearest(stamps_ns, order, entry.stamp_ns)
                if distance_ns <= tolerance_s * 1e9:
                    self._entries[index].append((distance_ns, entry))
                else:
                    self.unmatched += 1
        if sources and not self._entries:
            raise DataError(
                f"no entry of {', '.join(sources)} ({self.unmatched}) lies within {tolerance_s:g} s of a frame",
                "check its clock, or raise --truth-tolerance-s",
                expected="ground truth with the stamps of the frames",
            )

    def at(self, index: int) -> GazeRecord | None:
        """The ground truth of the frame `index`, None where there is none.

        Raises:
            DataError: it holds what is no map or no direction.
        """
        entries = self._entries.get(index)
        if not entries:
            return None
        vectors = np.concatenate([entry.fixations for _, entry in entries])
        observer = np.concatenate([entry.observer for _, entry in entries])
        maps = [(distance_ns, entry.density) for distance_ns, entry in entries if entry.density is not None]
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


def _nearest(stamps_ns: Array, order: Array, stamp_ns: int) -> tuple[int, int]:
    """Index of the frame nearest in time and how far it is, nanoseconds."""
    after = int(np.searchsorted(stamps_ns, stamp_ns, sorter=order))
    candidates = [int(index) for index in order[max(0, after - 1) : after + 1]]
    if not candidates:
        return -1, 2**63
    index = min(candidates, key=lambda each: abs(int(stamps_ns[each]) - stamp_ns))
    return index, abs(int(stamps_ns[index]) - stamp_ns)


def _unit(vectors: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):  # GazeRecord refuses what is no direction, with its name
        unit: Array = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit


def _no_panorama() -> Array:
    raise DataError("the frame is in the bag", "use sources.open_source", expected="a reader of the bag")
