"""The maps of a video or stream as files: arrays, or an 8-bit video."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from sal360.arrays import Density
from sal360.files import written_beside
from sal360.outputs.overlay import saliency_to_mono8

if TYPE_CHECKING:
    import av

MAP_TYPES = ("float32", "float16")
STAMPS = "_stamps"
"""Appended to the name of a video for the file with its times."""
MAPS_SUFFIX = "_maps.mkv"


class MapWriter(Protocol):
    """Takes the maps one by one."""

    def append(self, density: Density, stamp_s: float) -> None:
        """Append a map (h, w), relative to uniform, with its time; all maps have the same size."""


@contextlib.contextmanager
def npy_maps(folder: Path, name: str, kind: str, full_scale: float) -> Iterator[MapWriter]:
    """NAME.npy with the maps (n, h, w), and NAME_stamps.npy with their times (n,), seconds."""
    del full_scale
    with written_beside(folder / f"{name}.npy") as path, path.open("wb") as file, MapStack(file, kind) as maps:
        yield maps
        write_array(folder / f"{name}{STAMPS}.npy", np.array(maps.stamps_s))


@contextlib.contextmanager
def npz_maps(folder: Path, name: str, kind: str, full_scale: float) -> Iterator[MapWriter]:
    """NAME.npz with `maps` (n, h, w), `stamps_s` (n,) and nothing else."""
    del full_scale
    with (
        written_beside(folder / f"{name}.npz") as path,
        tempfile.TemporaryFile(dir=folder) as stack,  # their number, which comes first, is known only at the end
        zipfile.ZipFile(path, "w") as archive,
    ):
        with MapStack(stack, kind) as maps:
            yield maps
        stack.seek(0)
        with archive.open("maps.npy", "w", force_zip64=True) as entry:
            shutil.copyfileobj(stack, entry, 1 << 20)
        with archive.open("stamps_s.npy", "w", force_zip64=True) as entry:
            np.save(entry, np.array(maps.stamps_s))


@contextlib.contextmanager
def video_maps(folder: Path, name: str, kind: str, full_scale: float) -> Iterator[MapWriter]:
    """NAME_maps.mkv, lossless and grey, 255 being `full_scale` times uniform, and NAME_stamps.npy."""
    del kind
    with written_beside(folder / f"{name}{MAPS_SUFFIX}") as path, MapVideo(path, full_scale) as maps:
        yield maps
        write_array(folder / f"{name}{STAMPS}.npy", np.array(maps.stamps_s))


MAP_FORMS: dict[str, Callable[[Path, str, str, float], contextlib.AbstractContextManager[MapWriter]]] = {
    "npy": npy_maps,
    "npz": npz_maps,
    "video": video_maps,
}
"""Name of a form → opens it; the arguments are folder, name, one of `MAP_TYPES`, and full scale of the video."""


class MapStack:
    """The content of a .npy file (n, h, w) of maps that are written one by one; the `with` block completes it."""

    _HEADER_BYTES = 128

    def __init__(self, file: BinaryIO | Any, kind: str) -> None:
        self._file = file
        self._file.write(bytes(self._HEADER_BYTES))
        self._type = np.dtype(kind).newbyteorder("<")
        self._shape: tuple[int, ...] = (0, 0)
        self.stamps_s: list[float] = []

    def append(self, density: Density, stamp_s: float) -> None:
        """See `MapWriter`; values beyond the type's range become its largest."""
        limit = np.finfo(self._type).max
        self._file.write(np.minimum(density, limit).astype(self._type, order="C").tobytes())
        self._shape = density.shape
        self.stamps_s.append(stamp_s)

    def __enter__(self) -> MapStack:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            content: dict[str, Any] = {
                "descr": self._type.str,
                "fortran_order": False,
                "shape": (len(self.stamps_s), *self._shape),
            }
            text = str(content).ljust(self._HEADER_BYTES - 11) + "\n"  # after magic, version and length
            self._file.seek(0)
            self._file.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode("latin1"))
            self._file.seek(0, os.SEEK_END)


class MapVideo:
    """A Matroska file with the maps as 8-bit grey frames, which FFV1 keeps as they are; the `with` block completes it.

    A value v means the density v / 255 · full_scale, relative to uniform; larger densities become 255. The file's
    comment says so. Times count from the first map, in milliseconds.
    """

    _TIME_BASE = Fraction(1, 1000)

    def __init__(self, path: Path, full_scale: float) -> None:
        import av  # imported here, so that only videos need PyAV

        self._container = av.open(str(path), "w", format="matroska")
        self._container.metadata["title"] = "saliency"
        self._container.metadata["comment"] = f"density relative to uniform = value / 255 * {full_scale:g}"
        self._full_scale = full_scale
        self._stream: av.VideoStream | None = None
        self._last_pts = -1
        self.stamps_s: list[float] = []

    def append(self, density: Density, stamp_s: float) -> None:
        """See `MapWriter`."""
        from av import VideoFrame

        if self._stream is None:
            self._stream = self._container.add_stream("ffv1", rate=30)
            self._stream.height, self._stream.width = density.shape
            self._stream.pix_fmt = "gray"
            self._stream.time_base = self._stream.codec_context.time_base = self._TIME_BASE
        self.stamps_s.append(stamp_s)
        frame = VideoFrame.from_ndarray(saliency_to_mono8(density, self._full_scale), format="gray")
        pts = round((stamp_s - self.stamps_s[0]) / self._TIME_BASE)
        frame.pts = self._last_pts = max(pts, self._last_pts + 1)
        frame.time_base = self._TIME_BASE
        self._container.mux(self._stream.encode(frame))

    def __enter__(self) -> MapVideo:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._stream is not None and kind is None:
            self._container.mux(self._stream.encode(None))
        self._container.close()


def write_array(path: Path, values: NDArray[Any]) -> None:
    """Write a .npy file, completely or not at all."""
    with written_beside(path) as temporary:
        np.save(temporary, values)
