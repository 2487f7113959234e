"""Files of QP offsets for encoders that read them themselves, written frame by frame.

- `kvazaar`, `uvg266`: for their option `--roi`. A frame is its columns, its rows, and the offsets row by row: as text
  (.txt), or binary (.bin) with two 32-bit integers and signed bytes, little-endian. The encoder scales the map.
- `svt-av1`: for `SvtAv1EncApp --roi-map-file`. A frame is a line: its number and the offsets of blocks of 64 x 64
  pixels, at most eight different ones, in steps of AV1's quantiser index (0 to 255).
- `android`: for MediaCodec's PARAMETER_KEY_QP_OFFSET_MAP (API 35). A frame is a signed byte for each 16 x 16 pixels.

x265 and VVenC read no such file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from sal360.encoding.regions import with_few_levels
from sal360.errors import DataError, ParameterError

Offsets = NDArray[np.int8]
AV1_INDEX_PER_QP = 5
"""Steps of AV1's quantiser index that change the quantiser as one QP of H.264 does, in the middle of its range."""
_SVT_LEVELS = 7
"""Besides zero: eight segments in all."""


def kvazaar_text(offsets: Offsets, number: int) -> bytes:
    """A frame of a text file for `--roi`."""
    del number
    rows, columns = offsets.shape
    lines = [f"{columns} {rows}", *(" ".join(map(str, row)) for row in offsets.tolist())]
    return ("\n".join(lines) + "\n").encode()


def kvazaar_binary(offsets: Offsets, number: int) -> bytes:
    """A frame of a binary file for `--roi`."""
    del number
    rows, columns = offsets.shape
    return struct.pack("<ii", columns, rows) + offsets.astype(np.int8).tobytes()


def svt_av1(offsets: Offsets, number: int) -> bytes:
    """A line of a file for `--roi-map-file`.

    SVT-AV1 warns that offsets which are all negative may make a stream that cannot be decoded, so the largest is then
    raised to zero with all others.
    """
    few = with_few_levels(offsets, _SVT_LEVELS).astype(np.int64) * AV1_INDEX_PER_QP
    few -= min(0, int(few.max()))
    return (" ".join(map(str, [number, *few.ravel().tolist()])) + "\n").encode()


def android(offsets: Offsets, number: int) -> bytes:
    """The bytes of one frame's QP offset map."""
    del number
    return offsets.astype(np.int8).tobytes()


@dataclass(frozen=True)
class MapFormat:
    """How a file of offsets is written."""

    frame: Callable[[Offsets, int], bytes]
    """The offsets (rows, columns) and the number of a frame → its part of the file."""
    block_px: int


_FORMATS = {
    ("kvazaar", ".txt"): MapFormat(kvazaar_text, 64),
    ("kvazaar", ".bin"): MapFormat(kvazaar_binary, 64),
    ("uvg266", ".txt"): MapFormat(kvazaar_text, 64),
    ("uvg266", ".bin"): MapFormat(kvazaar_binary, 64),
    ("svt-av1", ".txt"): MapFormat(svt_av1, 64),
    ("android", ".bin"): MapFormat(android, 16),
}
KINDS = tuple(dict.fromkeys(kind for kind, _ in _FORMATS))


def map_format(kind: str, path: Path) -> MapFormat:
    """The format of a file for one of `KINDS`, by its suffix.

    Raises:
        ParameterError: the encoder reads no file with this suffix.
    """
    suffixes = [suffix for name, suffix in _FORMATS if name == kind]
    if path.suffix.lower() not in suffixes:
        raise ParameterError(
            f"{path.name} does not end in {' or '.join(suffixes)}", f"rename it: {kind} reads its map from such a file"
        )
    return _FORMATS[kind, path.suffix.lower()]


class MapFile:
    """A file that gets the offsets of one frame after the other; a `with` block closes it.

    Args:
        file: opened for writing bytes.
        form: see `map_format`.
        height, width: size of the video, pixels.
    """

    def __init__(self, file: BinaryIO, form: MapFormat, height: int, width: int) -> None:
        self._file, self._form = file, form
        self._shape = -(-height // form.block_px), -(-width // form.block_px)
        self.count = 0

    def append(self, offsets: Offsets) -> None:
        """Write the next frame.

        Raises:
            DataError: the offsets are not for this video: another number of blocks.
        """
        if offsets.shape != self._shape:
            raise DataError(
                f"frame {self.count} has offsets of {offsets.shape[1]} x {offsets.shape[0]} blocks",
                "write a file for each size",
                expected=f"{self._shape[1]} x {self._shape[0]}",
            )
        self._file.write(self._form.frame(offsets, self.count))
        self.count += 1

    def __enter__(self) -> MapFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.flush()
