"""Standard streams that are closed, full or no longer read, so that a command can continue its work.

Python fails late and unclearly on them: a print to a closed pipe ends the command, and if stderr is closed, the next
file that is opened takes its number and receives everything that C libraries print. Messages that those print about a
picture while decoding it are captured (`call_with_stderr`).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, TextIO, TypeVar

Result = TypeVar("Result")

_READER_IS_GONE = (errno.EPIPE, errno.EIO)  # EIO: a terminal that was closed


def open_standard_streams() -> None:
    """Open stdin, stdout and stderr on /dev/null if the process was started without them."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
            os.set_inheritable(opened, True)
            setattr(sys, name, open(opened, mode, closefd=False))  # noqa: SIM115 - lives as long as the process


@contextlib.contextmanager
def forgiving_streams() -> Iterator[None]:
    """Within the block, output to a closed pipe or terminal is dropped, and any text can be printed."""
    open_standard_streams()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Forgiving(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _Forgiving:
    """A text stream whose `write` and `flush` do not fail when its reader has gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        with contextlib.suppress(AttributeError, ValueError):
            # file names may contain bytes that are not UTF-8, and terminals may not know "°"
            stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]

    def write(self, text: str) -> int:
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError as error:
            if error.errno not in _READER_IS_GONE:
                raise
            # the rest of the buffer goes to /dev/null, now and when the interpreter exits
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


# --- what C libraries print ---

_CLOSE_RANGE_UNSHARE = 2
_MAX_TEXT_BYTES = 1 << 16


def call_with_stderr(call: Callable[[], Result]) -> tuple[Result, str]:
    """Call a function that opens no files, and catch what C libraries print on stderr meanwhile.

    The call runs in a thread that has its own table of open files (close_range(2), Linux 5.9), so stderr stays as it is
    for all other threads. Where the system does not offer this, the text goes to stderr as usual.

    Returns:
        The function's result and the text; "" where it could not be caught.

    Raises:
        BaseException: the function raised it.
    """
    results: list[Result] = []
    errors: list[BaseException] = []
    text = ""

    def run() -> None:
        nonlocal text
        caught = _own_stderr()
        try:
            results.append(call())
        except BaseException as error:  # raised in the caller's thread
            errors.append(error)
        if caught is not None:
            text = os.pread(caught, _MAX_TEXT_BYTES, 0).decode(errors="replace")

    thread = threading.Thread(target=run, name="with stderr", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0], text


def _own_stderr() -> int | None:
    """Give the present thread a table of open files with the standard streams alone, stderr being a new file.

    Returns:
        A descriptor of the new file; None where this is not possible. The end of the thread closes it.
    """
    close_range = _close_range()
    if close_range is None or close_range(3, 0xFFFFFFFF, _CLOSE_RANGE_UNSHARE) != 0:
        return None
    try:
        caught = os.memfd_create("stderr")
        os.dup2(caught, 2)
    except OSError:  # forbidden, or there is no memory: the text goes to stderr
        return None
    return caught


@lru_cache(maxsize=1)
def _close_range() -> Any:
    """The function of the C library, which glibc has since 2.34; None elsewhere."""
    if not hasattr(os, "memfd_create"):
        return None
    function = getattr(ctypes.CDLL(None), "close_range", None)
    if function is not None:
        function.argtypes, function.restype = (ctypes.c_uint, ctypes.c_uint, ctypes.c_int), ctypes.c_int
    return function
