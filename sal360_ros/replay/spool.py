"""Received maps on disk, so that a long replay needs no memory for them and little time while it runs."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from sal360_ros.replay.map_images import as_density, read_map
from sal360_ros.sphere import Array


@dataclass(frozen=True)
class ReceivedMap:
    """Where a map's bytes lie, and when it came; times are Unix epoch, nanoseconds."""

    height: int
    width: int
    step: int
    encoding: str
    is_bigendian: bool
    offset: int
    length: int
    arrived_ns: int
    published_ns: int
    """By the publisher's middleware."""


@dataclass(frozen=True)
class _Message:
    """The fields of sensor_msgs/Image that a map is read from."""

    height: int
    width: int
    step: int
    encoding: str
    is_bigendian: bool
    data: bytes


class MapSpool:
    """A file of the maps' bytes, gone when it is closed."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="sal360-maps-")  # noqa: SIM115 - closed by `close`
        self._end = 0

    def append(self, message: Any, arrived_ns: int, published_ns: int) -> ReceivedMap:
        """Keep a sensor_msgs/Image."""
        length = memoryview(message.data).nbytes
        self._file.write(message.data)
        received = ReceivedMap(
            message.height,
            message.width,
            message.step,
            message.encoding,
            bool(message.is_bigendian),
            self._end,
            length,
            arrived_ns,
            published_ns,
        )
        self._end += length
        return received

    def density(self, received: ReceivedMap) -> Array:
        """The map (h, w) float32, as a density relative to uniform.

        Raises:
            DataError: it is no map.
        """
        self._file.seek(received.offset)
        data = self._file.read(received.length)
        fields = {name: getattr(received, name) for name in ("height", "width", "step", "encoding", "is_bigendian")}
        return as_density(read_map(_Message(**fields, data=data)), "that the node published")

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def __enter__(self) -> MapSpool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
