"""Files by their addresses: paths of this machine, and those that fsspec opens (s3://, gs://, https://, memory://).

Files are written completely or not at all: here under another name and then renamed, in an object store in one piece.
Functions raise an OSError for a file of this machine that cannot be used, and a DataError for one of a store.
"""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from sal360.errors import DataError, ParameterError, Sal360Error, describe_os_error, printable
from sal360.files import check_folder_is_writable, write_bytes, written_beside
from sal360.sources.pictures import is_hidden, walked
from sal360.sources.stream_address import masked


def whole_address(text: str) -> str:
    """The same address, valid from every working directory.

    Raises:
        ParameterError: nothing here opens addresses of its protocol.
    """
    address = text.removeprefix("file://")
    if not _is_remote(address):
        return os.path.abspath(address)
    try:
        _url_to_fs(address)
    except (ImportError, ValueError) as error:  # fsspec names the package that is missing, or the protocol
        raise ParameterError(
            f"{masked(text)} cannot be opened ({masked(str(error))})",
            "install the package that fsspec needs for it, or correct it; predict live streams without --ray",
        ) from None
    return address


def is_folder(address: str) -> bool:
    """Whether it is a folder, or the beginning of the names of several objects."""
    if not _is_remote(address):
        return os.path.isdir(address)
    with _store(address) as (system, path):
        return bool(system.isdir(path))


def exists(address: str) -> bool:
    """Whether a file or folder has this address."""
    if not _is_remote(address):
        return os.path.exists(address)
    with _store(address) as (system, path):
        return bool(system.exists(path))


def files_in(folder: str, *, recursive: bool = True, hidden: bool = True) -> list[str]:
    """The files of a folder, relative to it and separated by slashes; none if it does not exist.

    Args:
        recursive: with those of its subfolders.
        hidden: with those that are hidden, contain thumbnails or lie in folders of such.
    """
    files = _objects_in(folder, recursive) if _is_remote(folder) else _paths_in(Path(folder), recursive, hidden)
    return files if hidden else [each for each in files if not any(map(is_hidden, each.split("/")))]


def _paths_in(folder: Path, recursive: bool, hidden: bool) -> list[str]:
    files: list[str] = []
    for parent, folders, names in walked(folder, recursive=True) if folder.is_dir() else ():
        below = Path(parent).relative_to(folder)
        files += [(below / name).as_posix() for name in names]
        folders[:] = [each for each in folders if recursive and (hidden or not is_hidden(each))]
    return files


def _objects_in(folder: str, recursive: bool) -> list[str]:
    with _store(folder) as (system, path):
        system.invalidate_cache()  # others write into it, too
        found = system.find(path, maxdepth=None if recursive else 1) if system.isdir(path) else []
        return [posixpath.relpath(each, path) for each in found]


def read(address: str) -> bytes:
    """The content of a file."""
    if not _is_remote(address):
        return Path(address).read_bytes()
    with _store(address) as (system, path):
        return cast(bytes, system.cat_file(path))


def open_file(address: str) -> BinaryIO:
    """A file to be read from its beginning to its end."""
    if not _is_remote(address):
        return open(address, "rb")
    with _store(address) as (system, path):
        return cast(BinaryIO, io.BufferedReader(system.open(path, "rb"), 1 << 20))


def write(address: str, content: bytes) -> None:
    """Replace a file."""
    if not _is_remote(address):
        write_bytes(address, content)
        return
    with _store(address) as (system, path):
        _written(system, path, lambda target: system.pipe_file(target, content))


def check_is_writable(folder: str) -> None:
    """Check, before hours of work, that files can be written into a folder."""
    if not _is_remote(folder):
        check_folder_is_writable(folder)
        return
    probe = posixpath.join(folder, f".{uuid.uuid4().hex}")
    write(probe, b"")
    remove(probe)


def put(file: Path, address: str) -> None:
    """Replace a file by a file of this machine."""
    if not _is_remote(address):
        with written_beside(address) as temporary:
            shutil.copyfile(file, temporary)
        return
    with _store(address) as (system, path):
        _written(system, path, lambda target: system.put_file(str(file), target))


_WITH_FOLDERS = {"hdfs", "webhdfs", "sftp", "ssh", "smb", "ftp"}
"""Protocols of file systems on which a file grows while it is written. Object stores take an object as a whole, and
have no folders: to ask one for a folder might make a bucket."""


def _written(system: Any, path: str, write_to: Callable[[str], object]) -> None:
    protocols = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
    if not protocols & _WITH_FOLDERS:
        write_to(path)
        return
    folder, name = posixpath.split(path)
    system.makedirs(folder, exist_ok=True)
    temporary = posixpath.join(folder, f".{uuid.uuid4().hex}-{name[-40:]}")
    write_to(temporary)
    if system.exists(path):  # HDFS and SMB refuse to rename a file to one that exists
        system.rm_file(path)
    system.mv(temporary, path)


def fetch(address: str, folder: Path) -> Path:
    """A file as one of this machine: itself, or a copy in the folder."""
    if not _is_remote(address):
        return Path(address)
    with _store(address) as (system, path):
        copy = folder / posixpath.basename(path)
        system.get_file(path, str(copy))
        return copy


def remove(address: str) -> None:
    """Remove a file that may be missing."""
    if not _is_remote(address):
        Path(address).unlink(missing_ok=True)
    elif exists(address):
        with _store(address) as (system, path):
            system.rm_file(path)


def describe(error: Exception, address: str) -> str:
    """One line about a failure with a file, for a list of failures, without passwords."""
    shown = masked(address)
    if isinstance(error, Sal360Error):
        return masked(str(error))
    if isinstance(error, OSError) and error.errno:
        line = masked(describe_os_error(error))
        return line if shown in line else printable(f"{shown}: {line}")
    said = " ".join(masked(str(error)).split())
    return printable(f"{shown} cannot be used ({type(error).__name__}: {said})")


def _is_remote(address: str) -> bool:
    return "://" in address


@contextlib.contextmanager
def _store(address: str) -> Iterator[tuple[Any, str]]:
    """File system and path of an address with a protocol.

    Raises:
        DataError: instead of each error within the block.
    """
    try:
        yield _url_to_fs(address)
    except Exception as error:  # the stores' clients share no exception type
        raise DataError(describe(error, address), "check the address and the permissions") from None


def _url_to_fs(address: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # starts slowly

    system, path = url_to_fs(address)
    return system, path
