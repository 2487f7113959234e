"""Standard streams that are closed, full or no longer read: a command goes on with its work.

Python fails late and unclearly on them: a print to a pipe whose reader has gone ends the command, and where stderr is
closed, the next file that is opened takes its number and gets whatever C libraries print.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

_READER_IS_GONE = (errno.EPIPE, errno.EIO)  # EIO: a terminal that was closed


def open_standard_streams() -> None:
    """Open stdin, stdout and stderr on /dev/null where the process was started without them."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, so this one
            os.set_inheritable(opened, True)
            setattr(sys, name, open(opened, mode, closefd=False))  # noqa: SIM115 - lives as long as the process


@contextlib.contextmanager
def forgiving_streams() -> Iterator[None]:
    """Within the block, what is printed to a reader that has gone is dropped, and any text can be printed."""
    open_standard_streams()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Forgiving(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _Forgiving:
    """A text stream whose `write` and `flush` do not fail when nobody reads them any more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        with contextlib.suppress(AttributeError, ValueError):
            # names of files may hold bytes that are not UTF-8, and terminals may not know "°"
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
            # what is still in the buffer goes to /dev/null, now and when the interpreter exits
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
