"""The whole part of an MCAP file that was cut off, as a file that can be read again.

Format: https://mcap.dev/spec. A record is one byte of opcode, eight of length, and its content. A recorder that
crashes, or a full disk, leaves the last record incomplete and no footer; all records before it are good.
"""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

_MAGIC = b"\x89MCAP0\r\n"
_HEADER, _FOOTER, _DATA_END = 0x01, 0x02, 0x0F
_RECORD = struct.Struct("<BQ")
# no summary and no checksums: readers then scan the data
_ENDING = (
    _RECORD.pack(_DATA_END, 4)
    + struct.pack("<I", 0)
    + _RECORD.pack(_FOOTER, 20)
    + struct.pack("<QQI", 0, 0, 0)
    + _MAGIC
)


def salvage_mcap(path: Path, target: Path) -> Path | None:
    """Copy the whole records of `path` to `target` and end them with a footer.

    Returns:
        `target`, or None where `path` is no MCAP file or holds not even its header.
    """
    size = path.stat().st_size
    with path.open("rb") as source:
        if source.read(len(_MAGIC)) != _MAGIC:
            return None
        end, records = source.tell(), 0
        while len(head := source.read(_RECORD.size)) == _RECORD.size:
            opcode, length = _RECORD.unpack(head)
            after = end + _RECORD.size + length
            if opcode == _DATA_END or after > size or (records == 0 and opcode != _HEADER):
                break
            end, records = source.seek(after), records + 1
        if records == 0:
            return None
        source.seek(0)
        with target.open("wb") as copy:
            shutil.copyfileobj(source, copy)
            copy.truncate(end)
            copy.seek(end)
            copy.write(_ENDING)
    return target
