"""Ground truth out of bags and folders: maps and fixations with their stamps."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sal360_ros.errors import DataError
from sal360_ros.replay.map_images import as_density, read_map
from sal360_ros.replay.recording import Recording
from sal360_ros.sources.bag import BagMessage
from sal360_ros.sphere import Array

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
                "one of " + ", ".join(TRUTH_TYPES),
                "choose another topic, or a folder",
            )
        return (_entry(message) for message in recording.messages(source))
    if Path(source).is_dir():
        return _folder_entries(Path(source))
    usable = [name for name, topic in bag.topics.items() if topic.type in TRUTH_TYPES]
    raise DataError(
        f"the ground truth {source} is neither a topic of {bag.path} nor a folder",
        "one of the topics " + (", ".join(usable) or "(none can be ground truth)"),
        "check --ground-truth",
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
            f"x, y and z of {count} points without gaps between rows",
            "record it again",
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
            "room for its fields",
            "record it again",
        ) from None
    points = np.frombuffer(cloud.data, point, count)
    observer = points["observer"].astype(np.int64) if "observer" in names else np.zeros(count, np.int64)
    return np.stack([points[axis].astype(np.float64) for axis in "xyz"], axis=-1), observer


def _folder_entries(folder: Path) -> Iterator[TruthEntry]:
    readers = {".npy": _read_npy, ".png": _read_png}
    paths = sorted(path for path in folder.iterdir() if path.suffix in (*readers, ".csv"))
    if not paths:
        raise DataError(
            f"the folder {folder} holds no ground truth", "<stamp>.npy, <stamp>.png or <stamp>.csv", "choose another"
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
        raise DataError(f"{path} is not named by a stamp", "seconds or nanoseconds, as 12.5.npy", "rename it") from None


def _read_npy(path: Path) -> Array:
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path} cannot be read ({error})", "a whole .npy file", "write it again") from None
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise DataError(f"{path} holds {values.dtype} {values.shape}", "a map (h, w) of numbers", "write it again")
    return values.astype(np.float32)


def _read_png(path: Path) -> Array:
    values = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    if values is None:
        raise DataError(f"{path} cannot be decoded", "a grey PNG", "write it again")
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
            "lines of x,y,z[,observer] below these names",
            "write it again",
        ) from None
    return vectors, observer
