"""One family of errors: every message says what was found, what is expected and what to do.

A person who reads one line must know how to go on, so the three parts are arguments and not prose.
Command lines turn any of these into that one line and exit status 2 (`one_line_errors`).
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable


class Sal360Error(Exception):
    """Something a user can put right.

    Args:
        found: what came, with its value ("the frame is 640 x 480").
        expected: what was needed ("a width of twice the height").
        remedy: what to do about it ("set image_topic to the equirectangular stream").
    """

    def __init__(self, found: str, expected: str, remedy: str) -> None:
        super().__init__(f"{found}; expected {expected}; {remedy}")
        self.found = found
        self.expected = expected
        self.remedy = remedy


class ModelError(Sal360Error):
    """A model file, engine or runtime cannot be used."""


class FrameError(Sal360Error):
    """A picture or message is not a usable 360° frame.

    Args:
        reason: a stable short name, counted in the node's diagnostics ("not_2_to_1").
    """

    def __init__(self, found: str, expected: str, remedy: str, *, reason: str) -> None:
        super().__init__(found, expected, remedy)
        self.reason = reason


class ParameterError(Sal360Error):
    """An option or node parameter is out of its range."""


class DataError(Sal360Error):
    """A dataset, picture folder, bag or ground-truth file is missing, short or malformed."""


class CheckpointError(Sal360Error):
    """A training checkpoint is missing, broken or of another model."""


class TrainingError(Sal360Error):
    """A training run cannot go on (a loss that is not finite, a full disk)."""


def one_line_errors(main: Callable[[], int | None]) -> int:
    """Run a command's `main` and turn expected failures into one line on stderr.

    Returns:
        main's status (None counts as 0); 2 after a `Sal360Error`, an operating-system error, or when a package that is
        not ours is not installed; 130 after Ctrl-C.
    """
    try:
        return main() or 0
    except Sal360Error as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)  # a library's words may hold line breaks
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("sal360_ros", "training")):
            raise
        print(f"error: {_missing_module(error)}", file=sys.stderr)
    except OSError as error:
        print(f"error: {describe_os_error(error)}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 2


def _missing_module(error: ModuleNotFoundError) -> str:
    return (
        f"the Python module {error.name} is missing; expected an environment with what this command needs; source your "
        "ROS 2 installation, or pip install what the README names for it"
    )


def describe_os_error(error: OSError) -> str:
    """Say an operating-system error in the same three parts: found, expected, remedy."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"the disk is full{where}; expected room for the output; free some space and run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission{where}; expected a readable input and a writable output; change the path or its owner"
    return f"{error.strerror or error}{where}; expected a usable file; check the path"
