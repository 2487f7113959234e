"""The files of a bag: finding and opening them, and detecting missing or damaged ones."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import re
import shutil
import sqlite3
import struct
import tempfile
import zlib
from bz2 import BZ2Decompressor
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote

import yaml

from sal360.errors import DataError
from sal360.sources.pictures import natural_key

STORAGE_SUFFIXES = (".mcap", ".db3")
BAG_SUFFIXES = (*STORAGE_SUFFIXES, ".bag")
METADATA = "metadata.yaml"
MAX_DECOMPRESSED_BYTES = 2**29
"""Limit for a message (16-bit frames of 2^26 pixels with four channels fit) or an MCAP chunk, which recorders close
after a few megabytes."""
_COPY = "copy the recording again"


class Damage(NamedTuple):
    """Why a bag is not read completely."""

    found: str
    remedy: str


@dataclass
class BagFiles:
    """The opened files of a bag, in the order of their recording."""

    storages: list[Storage] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)
    """Number of messages by topic according to the metadata; empty without metadata."""
    notes: list[str] = field(default_factory=list)
    """Remarks for the user that do not mean data loss."""


@dataclass(frozen=True, eq=False)
class Storage:
    """An opened file."""

    path: Path
    """The path as the user gave it, or inside the folder that the user gave."""
    reader: Any
    """A rosbags reader, inside its context; it may read a temporary copy of the file."""
    ros1: bool = False

    def messages(self, connections: Sequence[Any]) -> Iterator[tuple[Any, int, bytes]]:
        """Connection, recording time in nanoseconds and data of each message of these connections.

        An MCAP file without an index is read in the order of the file: rosbags would end at the first recording time
        that is earlier than the one before, as after a change of the clock.
        """
        mcap: Any = getattr(self.reader, "storage", None)
        is_unindexed = hasattr(mcap, "messages_scan") and not getattr(mcap, "chunks", True)
        read = mcap.messages_scan if is_unindexed else self.reader.messages
        messages: Iterator[tuple[Any, int, bytes]] = read(connections)
        return messages

    def without_topic(self) -> int:
        """Number of messages that belong to no topic, because the list of topics is damaged."""
        counted: int = sum(each.msgcount for each in self.reader.connections)
        return int(self.reader.message_count) - counted


def is_bag(path: Path) -> bool:
    """Whether a path looks like a bag: a file by its name, a folder by the files in it."""
    if path.is_dir():
        metadata = path / METADATA
        is_described = metadata.exists() and b"rosbag2_bagfile_information" in metadata.read_bytes()
        return is_described or bool(_storage_files(path))
    return path.name == METADATA or bool(_bag_suffix(path, BAG_SUFFIXES))


def bag_name(path: Path) -> str:
    """The name of a bag without the suffixes of its file."""
    path = path.absolute()
    return path.name.removesuffix(_bag_suffix(path, BAG_SUFFIXES)) if path.is_file() else path.resolve().name


def open_files(path: Path, stack: contextlib.ExitStack) -> BagFiles:
    """Open a bag: a folder with or without metadata, or a file.

    Args:
        stack: closes the files and removes temporary copies.

    Raises:
        DataError: none of it can be read.
    """
    files = BagFiles()
    if not path.is_dir():
        files.storages.append(_opened(path, stack, files.damage))
        return files
    paths = _storage_files(path)
    if (path / METADATA).exists():
        paths = _read_metadata(path, paths, files)
    failed: list[DataError] = []
    for each in paths:
        try:
            files.storages.append(_opened(each, stack, files.damage))
        except DataError as error:
            failed.append(error)
        except (FileNotFoundError, PermissionError) as error:  # a link that leads nowhere, another user's file
            failed.append(
                DataError(f"{each} cannot be opened ({error.strerror})", "check where it is and who may read it")
            )
    if failed and not files.storages:
        raise DataError(*files.damage[0]) if files.damage else failed[0]
    files.damage += [Damage(error.found, error.remedy) for error in failed]
    if not files.storages:
        raise DataError(
            f"the folder {path} does not hold a bag",
            "choose the folder that ros2 bag record made",
            expected="metadata.yaml, *.mcap or *.db3",
        )
    return files


def unreadable(path: Path, cause: str, where: str = "") -> DataError:
    """The error for a file that cannot be read, with the remedy for its kind."""
    remedies = {
        ".mcap": f"try `mcap recover`, or {_COPY}",
        ".db3": f"try `sqlite3 {path.name} .recover | sqlite3 recovered.db3`, or {_COPY}",
        ".bag": f"run `rosbag reindex` on it, or {_COPY}",
    }
    remedy = remedies.get(path.suffix.lower(), _COPY)
    return DataError(" ".join(filter(None, (f"{path} cannot be read", where, f"({cause})"))), remedy)


def first_line(error: Exception) -> str:
    """The first line of a library's error message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# --- the files of a folder ---


def _bag_suffix(path: Path, suffixes: tuple[str, ...]) -> str:
    """The end of a file's name that makes it part of a bag: .mcap, .MCAP, .db3.zstd, .bag.active, …; "" for others."""
    alternatives = "|".join(map(re.escape, suffixes))
    match = re.search(rf"({alternatives})(\.zstd|\.zst|\.active)?$", path.name, re.IGNORECASE)
    return match[0] if match and not path.name.startswith(".") else ""


def _storage_files(folder: Path) -> list[Path]:
    """In natural order: sorted as text, part 10 of a split recording would come before part 2."""
    entries = (each for each in folder.iterdir() if _bag_suffix(each, STORAGE_SUFFIXES) and not each.is_dir())
    paths = sorted(entries, key=natural_key)
    names = {each.name for each in paths}
    # a compressed file beside the same file uncompressed holds nothing more
    return [each for each in paths if _uncompressed(each) == each.name or _uncompressed(each) not in names]


def _uncompressed(path: Path) -> str:
    return re.sub(r"\.zstd?$", "", path.name, flags=re.IGNORECASE)


def _read_metadata(folder: Path, present: list[Path], files: BagFiles) -> list[Path]:
    """The files to read in a folder with metadata; missing or unknown ones are recorded in `files`."""
    metadata = folder / METADATA
    try:
        content = yaml.safe_load(metadata.read_text(encoding="utf-8"))["rosbag2_bagfile_information"]
        names = [Path(each) for each in content["relative_file_paths"]]
        for topic in content["topics_with_message_count"]:
            name = topic["topic_metadata"]["name"]
            files.counted[name] = files.counted.get(name, 0) + int(topic["message_count"])
    except (
        OSError,
        yaml.YAMLError,
        UnicodeDecodeError,
        LookupError,
        TypeError,
        ValueError,
        OverflowError,
        RecursionError,
    ):
        damage = Damage(f"{metadata} does not describe a recording", f"run `ros2 bag reindex {folder}`")
        if not present:
            raise DataError(*damage) from None
        files.damage.append(damage)
        return present
    by_name = {_uncompressed(each): each for each in present}
    listed = {name.name: by_name.pop(_uncompressed(name), None) for name in names}
    if present and not any(listed.values()):  # converted to another format; the counts show whether anything is missing
        return present
    files.notes += [f"{each} is not listed in {METADATA}, and was not read" for each in by_name.values()]
    files.damage += [
        Damage(f"{folder / name}, which {METADATA} lists, is missing", "copy it into the folder")
        for name, found in listed.items()
        if not found
    ]
    if files.damage and not any(listed.values()):
        raise DataError(*files.damage[0])
    return [found for found in listed.values() if found]


# --- one file ---

_MCAP = b"\x89MCAP0\r\n"
_KINDS = {_MCAP: ".mcap", b"SQLite format 3\0": ".db3", b"#ROSBAG V2.0": ".bag"}
_ZSTD = b"\x28\xb5\x2f\xfd"


def zstd_decompressed(data: bytes, max_bytes: int = MAX_DECOMPRESSED_BYTES) -> bytes:
    """The content of zstandard data; any other data are returned unchanged.

    Raises:
        ValueError: the data are damaged, or hold more than `max_bytes`.
    """
    if not data.startswith(_ZSTD):
        return data
    zstd = _zstd_module()
    decompressor = zstd.ZstdDecompressor()
    try:
        content: bytes = decompressor.decompress(data, max_bytes + 1)
    except zstd.ZstdError as error:
        raise ValueError(f"not decompressed: {error}") from None
    if not decompressor.eof or len(content) > max_bytes:
        raise ValueError(f"cut off, or more than {max_bytes} bytes when decompressed")
    return content


def _zstd_module() -> Any:
    for name in ("compression.zstd", "backports.zstd"):  # Python 3.14 and later; before, the package that rosbags needs
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.import_module(name)
    raise DataError(
        "the Python module backports.zstd, which decompresses bags, is missing", "pip install backports.zstd"
    )


def _opened(path: Path, stack: contextlib.ExitStack, damage: list[Damage]) -> Storage:
    """Open a file; parts that cannot be read are added to `damage`."""
    temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sal360-bag-")))
    try:
        return _opened_with_copies(path, temporary, stack, damage)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(
            f"{path} needs a temporary copy, and the disk of {temporary.parent} is full",
            "free some space there, or set TMPDIR to a folder on a larger disk",
        ) from None


def _opened_with_copies(path: Path, temporary: Path, stack: contextlib.ExitStack, damage: list[Damage]) -> Storage:
    file, kind = _identified(path, temporary)
    if kind == ".db3":
        file = _with_log(file, temporary, damage)
    if kind == ".mcap":
        _check_profile(path, file)
        damage += _checksum_damage(path, file)
    try:
        if kind == ".mcap" and not _has_sound_index(file):
            raise unreadable(path, "its index does not match its checksum")
        storage = Storage(path, _reader(path, file, kind, temporary, stack), ros1=kind == ".bag")
    except DataError:
        salvaged = _salvaged(file, temporary / "salvaged.mcap") if kind == ".mcap" else None
        if salvaged is None:
            raise
        file, found = salvaged
        storage = Storage(path, _reader(path, file, kind, temporary, stack))
        damage.append(Damage(f"{path} {found}", f"try `mcap recover`, or {_COPY}"))
    if (count := storage.without_topic()) > 0:
        damage.append(Damage(f"{path} has {count} messages that belong to none of its topics", _COPY))
    return storage


def _identified(path: Path, temporary: Path) -> tuple[Path, str]:
    """The uncompressed file, and its kind by its first bytes: .mcap, .db3 or .bag."""
    file = _decompressed(path, temporary) if _head(path).startswith(_ZSTD) else path
    head = _head(file)
    kind = next((kind for start, kind in _KINDS.items() if head.startswith(start)), "")
    if not kind and _bag_suffix(path, (".db3",)) and _logs(path):
        kind = ".db3"  # everything is still in the log
    if not kind:
        found = "it is neither MCAP nor a sqlite3 database nor a ROS 1 bag" if head else "it is empty"
        raise DataError(f"{path} cannot be read ({found})", f"choose another file, or {_COPY}")
    return file, kind


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)


def _reader(path: Path, file: Path, kind: str, temporary: Path, stack: contextlib.ExitStack) -> Any:
    """Open `file` with rosbags; errors name `path`."""
    # rosbags relies on the suffix, and puts the name of a database into a URI, which is UTF-8
    if file.suffix != kind or re.search(r"[?#%]", str(file)) or not str(file).isprintable():
        link = temporary / f"link{kind}"
        link.unlink(missing_ok=True)
        link.symlink_to(file.absolute())
        file = link
    try:
        if kind == ".bag":
            from rosbags.rosbag1 import Reader as Ros1Reader

            _limit_ros1_chunks()
            return stack.enter_context(Ros1Reader(file))
        from rosbags.rosbag2 import Reader

        _limit_chunks()
        reader = stack.enter_context(Reader(file))
        _limit_messages(reader)
        _count_if_not_counted(reader)
        return reader
    except ModuleNotFoundError as error:
        raise DataError(
            f"the Python module {error.name}, which reads bags, is missing", "pip install rosbags"
        ) from None
    except Exception as error:  # damaged bytes raise arbitrary exceptions
        raise unreadable(path, first_line(error).replace(str(file), str(path))) from None


@lru_cache(maxsize=1)
def _limit_chunks() -> None:
    """Let rosbags decompress MCAP chunks up to the size that they state, which is also limited.

    Without this, a crafted chunk of a few kilobytes could exhaust memory.
    """
    from rosbags.rosbag2 import storage_mcap

    table = getattr(storage_mcap, "DECOMPRESSORS", None)
    if table is None:
        return

    def zstd(data: bytes, size: int) -> bytes:
        return zstd_decompressed(data, _allowed(size))

    def lz4(data: bytes, size: int) -> bytes:
        from lz4.frame import LZ4FrameDecompressor

        return bytes(LZ4FrameDecompressor().decompress(data, _allowed(size) + 1))

    table.update(zstd=zstd, lz4=lz4)


@lru_cache(maxsize=1)
def _limit_ros1_chunks() -> None:
    """The same for the chunks of ROS 1 bags, which do not state their size."""
    from rosbags.rosbag1 import reader

    def limited(decompressor: Any, data: bytes) -> bytes:
        content = bytes(decompressor.decompress(data, MAX_DECOMPRESSED_BYTES + 1))
        if not decompressor.eof:
            raise ValueError(f"a chunk is cut off, or holds more than {MAX_DECOMPRESSED_BYTES} bytes")
        return content

    def lz4(data: bytes) -> bytes:
        from lz4.frame import LZ4FrameDecompressor

        return limited(LZ4FrameDecompressor(), data)

    getattr(reader, "decompressors", {}).update(bz2=lambda data: limited(BZ2Decompressor(), data), lz4=lz4)


def _limit_messages(reader: Any) -> None:
    """Limit the rows of a database: a column that is computed could be as large as its author likes."""
    database: Any = getattr(reader.storage, "dbconn", None)
    if hasattr(database, "limit"):  # a connection of apsw
        database.limit(_SQLITE_LIMIT_LENGTH, MAX_DECOMPRESSED_BYTES)


_SQLITE_LIMIT_LENGTH = 0


def _count_if_not_counted(reader: Any) -> None:
    """Count the messages of an MCAP file whose statistics have no counts by channel, which the format allows."""
    mcap = reader.storage
    if not hasattr(mcap, "meta_scan") or not reader.message_count or any(each.msgcount for each in mcap.connections):
        return
    mcap.meta_scan()
    counts = mcap.statistics.channel_message_counts
    mcap.connections = [each._replace(msgcount=counts.get(each.id, 0)) for each in mcap.connections]


def _allowed(chunk_bytes: int) -> int:
    if chunk_bytes > MAX_DECOMPRESSED_BYTES:
        raise ValueError(f"a chunk of {chunk_bytes} bytes; at most {MAX_DECOMPRESSED_BYTES} are read")
    return chunk_bytes


def _decompressed(path: Path, temporary: Path) -> Path:
    zstd = _zstd_module()
    target = temporary / _uncompressed(path)
    try:
        with zstd.open(path, "rb") as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy)
    except (zstd.ZstdError, EOFError) as error:
        raise unreadable(path, f"it is damaged or cut: {first_line(error)}") from None
    return target


# --- sqlite3: rows that are still in a log ---


def _logs(path: Path) -> list[Path]:
    """The files beside a database with changes that its recorder did not merge."""
    beside = (path.with_name(path.name + suffix) for suffix in ("-wal", "-journal"))
    return [each for each in beside if each.exists() and each.stat().st_size]


def _with_log(path: Path, temporary: Path, damage: list[Damage]) -> Path:
    """A copy of the database with the contents of its logs; the database itself if there are none."""
    logs = _logs(path)
    if not logs:
        return path
    copy = temporary / "merged.db3"
    shutil.copyfile(path, copy)
    for each in logs:
        shutil.copyfile(each, copy.with_name(copy.name + each.name[len(path.name) :]))
    merge = f"stop its recorder, then run `sqlite3 {path} 'PRAGMA wal_checkpoint(TRUNCATE)'`"
    try:
        with contextlib.closing(sqlite3.connect(copy)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            database.execute("PRAGMA journal_mode = DELETE").fetchall()
        pending = _row_count(copy) - _row_count(path)
    except sqlite3.Error as error:
        damage.append(Damage(f"{logs[0]}, the log of {path.name}, cannot be read ({first_line(error)})", merge))
        return path
    if pending <= 0 and any(_is_open_transaction(each) for each in logs):
        damage.append(Damage(f"{path} was not closed: what was written last is not complete, and is left out", _COPY))
    if pending <= 0:
        return copy  # without what the log takes back
    damage.append(Damage(f"{path} was not closed: {pending} of its messages are only in its log {logs[0].name}", merge))
    return copy


def _is_open_transaction(log: Path) -> bool:
    """Whether a log holds what an unfinished transaction has overwritten."""
    return log.name.endswith("-journal") and _head(log).startswith(_JOURNAL)


_JOURNAL = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"


def _row_count(path: Path) -> int:
    with contextlib.closing(
        sqlite3.connect(f"file:{quote(os.fsencode(path.absolute()))}?immutable=1", uri=True)
    ) as database:
        try:
            return int(database.execute("SELECT count(*) FROM messages").fetchone()[0])
        except sqlite3.OperationalError:  # not even the table is there yet
            return 0


# --- MCAP: the readable part of a cut file ---

_HEADER, _FOOTER, _MESSAGE, _CHUNK, _DATA_END = 0x01, 0x02, 0x05, 0x06, 0x0F
_RECORD = struct.Struct("<BQ")
_FOOTER_FIELDS = struct.Struct("<QQI")
# the end of an MCAP file without summary and checksums, which makes readers scan the data
_ENDING = (
    _RECORD.pack(_DATA_END, 4) + struct.pack("<I", 0) + _RECORD.pack(_FOOTER, 20) + _FOOTER_FIELDS.pack(0, 0, 0) + _MCAP
)


def _check_profile(path: Path, file: Path) -> None:
    with file.open("rb") as source:
        source.seek(len(_MCAP))
        head = source.read(_RECORD.size + 4)
        if len(head) < _RECORD.size + 4 or head[0] != _HEADER:
            return  # damaged; opening the file reports it
        profile = source.read(min(100, *struct.unpack_from("<I", head, _RECORD.size)))
    if profile != b"ros2":
        raise DataError(
            f"{path} is an MCAP file with the profile {profile.decode(errors='replace')!r}",
            "record or export it as a ROS 2 bag",
            expected="the profile 'ros2'",
        )


def _has_sound_index(file: Path) -> bool:
    """Whether the index of an MCAP file matches its checksum; True without a checksum."""
    with file.open("rb") as source:
        footer = _read_footer(source)
        if footer is None or not footer.index_start or not footer.index_crc:
            return True
        return _crc_of(source, footer.index_start, footer.end - 4) == footer.index_crc


def _checksum_damage(path: Path, file: Path) -> list[Damage]:
    """Damage to the data of an MCAP file that has one checksum for all of them.

    Chunks with their own checksums are left to rosbags, which checks them when it reads them.
    """
    with file.open("rb") as source:
        footer = _read_footer(source)
        if footer is None or _has_chunk_checksums(source):
            return []
        end = (footer.index_start or footer.start) - _RECORD.size - 4
        record = _read_at(source, end, _RECORD.size + 4)
        if record[: _RECORD.size] != _RECORD.pack(_DATA_END, 4):
            return []
        (expected,) = struct.unpack_from("<I", record, _RECORD.size)
        if not expected or _crc_of(source, 0, end) == expected:
            return []
    return [Damage(f"{path} does not match its checksum: some of its messages are damaged", _COPY)]


class _Footer(NamedTuple):
    """The last record of an MCAP file; positions in bytes."""

    start: int
    end: int
    index_start: int
    """0: there is no index."""
    index_crc: int
    """0: there is no checksum."""


def _read_footer(source: BinaryIO) -> _Footer | None:
    """The footer; None if the file does not end with one."""
    length = _RECORD.size + _FOOTER_FIELDS.size
    start = source.seek(0, 2) - len(_MCAP) - length
    content = _read_at(source, start, length + len(_MCAP))
    if not content.endswith(_MCAP) or not content.startswith(_RECORD.pack(_FOOTER, _FOOTER_FIELDS.size)):
        return None
    index_start, _, crc = _FOOTER_FIELDS.unpack_from(content, _RECORD.size)
    return _Footer(start, start + length, index_start, crc) if index_start <= start else None


def _has_chunk_checksums(source: BinaryIO) -> bool:
    """Whether the first chunk has a checksum; False if a message comes before any chunk."""
    position = len(_MCAP)
    while len(head := _read_at(source, position, _RECORD.size)) == _RECORD.size:
        opcode, length = _RECORD.unpack(head)
        if opcode == _CHUNK:
            fields = _read_at(source, position + _RECORD.size, 28)  # two times, the size, the checksum
            return fields[24:] not in (b"", bytes(4))
        if opcode in (0, _MESSAGE, _DATA_END):
            return False
        position += _RECORD.size + length
    return False


def _read_at(source: BinaryIO, position: int, size: int) -> bytes:
    """The bytes at a position; none if it lies outside of the file."""
    if not 0 <= position < 2**63:
        return b""
    source.seek(position)
    return source.read(size)


def _crc_of(source: BinaryIO, start: int, end: int) -> int:
    """CRC-32 of a range of a file."""
    source.seek(start)
    crc, left = 0, end - start
    while block := source.read(min(1 << 20, max(0, left))):
        crc, left = zlib.crc32(block, crc), left - len(block)
    return crc


def _salvaged(file: Path, target: Path) -> tuple[Path, str] | None:
    """Copy the complete records of an MCAP file to `target` and append an end.

    Returns:
        `target` and what is wrong with the file; None if it lacks even the header record.
    """
    size = file.stat().st_size
    with file.open("rb") as source:
        source.seek(-len(_MCAP), 2)
        closed = source.read() == _MCAP
        end, records = source.seek(len(_MCAP)), 0
        while len(head := source.read(_RECORD.size)) == _RECORD.size:
            opcode, length = _RECORD.unpack(head)
            after = end + _RECORD.size + length
            if opcode in (0, _DATA_END) or after > size or (records == 0 and opcode != _HEADER):
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
    cut = "is cut off (the recorder did not close it, or it was not copied completely)"
    return target, "has a damaged index" if closed else cut
