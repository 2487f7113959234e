"""Resets how child processes of the tests handle Ctrl-C, regardless of what the tests inherited."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def sigint_of_children(handler: object = signal.default_int_handler) -> Iterator[None]:
    """Start children, or end this process, with SIGINT ignored (SIG_IGN), or else at its default.

    `nohup make test &` ignores SIGINT, and children inherit that. A handler is not inherited: exec resets it.
    """
    inherited = signal.signal(signal.SIGINT, handler)  # type: ignore[arg-type]
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, inherited)
