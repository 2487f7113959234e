"""Files that are written completely or not at all, and the cache folder for files that can be regenerated."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sal360.errors import ParameterError


@contextlib.contextmanager
def written_beside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it replaces `path` when the block ends without an error.

    The data are flushed to the disk before the rename, so that a power cut cannot leave an empty file under the
    final name. The temporary name keeps the suffix, because image and video writers choose their format by it.

    Raises:
        OSError: the folder cannot be made or written, or the disk is full; the old file is then untouched.
    """
    final = Path(path)
    temporary = _temporary_file(final)
    try:
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, final)
    except OSError as error:
        raise _about(error, temporary, final) from None
    finally:
        temporary.unlink(missing_ok=True)


def check_folder_is_writable(path: str | os.PathLike[str]) -> Path:
    """Check, before hours of work, that the folder can be made and files written in it; leaves nothing behind.

    Raises:
        OSError: it cannot be made or written.
    """
    folder = Path(path)
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=folder):
            return folder
    finally:
        for each in missing:
            each.rmdir()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace the file at `path` with `text` (UTF-8), completely or not at all."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))  # file names may contain bytes that are not UTF-8


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace the file at `path` with `data`, completely or not at all."""
    with written_beside(path) as temporary:
        temporary.write_bytes(data)


def _temporary_file(final: Path) -> Path:
    """An empty file beside `final`, whose folder is made if it is missing."""
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        # only part of the name: with its extra letters, a long one would exceed the limit of file systems
        handle, name = tempfile.mkstemp(prefix=f".{final.stem[:40]}-", suffix=final.suffix, dir=final.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(final.parent)) from None
    os.close(handle)
    os.chmod(name, 0o666 & ~_umask())  # mkstemp makes private files; results are for sharing
    return Path(name)


def _about(error: OSError, temporary: Path, final: Path) -> OSError:
    """The error with the final file's name instead of the temporary one's; reports a full disk explicitly."""
    if error.errno is None:  # NumPy does not say why it failed
        is_full = shutil.disk_usage(final.parent).free < 1 << 16
        return OSError(errno.ENOSPC if is_full else errno.EFBIG, str(error), str(final))
    if error.filename not in (None, str(temporary)):
        return error
    return OSError(error.errno, error.strerror, str(final))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def cache_folder() -> Path:
    """The folder for files that can be regenerated: `$XDG_CACHE_HOME/sal360_ros`, by default below ~/.cache.

    A relative XDG_CACHE_HOME is ignored (XDG Base Directory Specification).

    Raises:
        ParameterError: there is no home folder, as for users without an entry in /etc/passwd in a container.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else _home() / ".cache") / "sal360_ros"


def _home() -> Path:
    home = os.environ.get("HOME", "")
    if home:
        return Path(home)
    try:
        import pwd  # here, because Windows does not have it

        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except ImportError:
        return _profile()
    except KeyError:
        raise _no_home(f"HOME is not set and user {os.getuid()} has no home folder") from None


def _profile() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        raise _no_home("neither HOME nor USERPROFILE is set") from None


def _no_home(found: str) -> ParameterError:
    return ParameterError(found, "set XDG_CACHE_HOME to a writable folder for compiled models")
