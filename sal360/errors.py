"""One family of errors, each told in one line: what was found and what to do about it.

`FRAME_REJECTIONS` names every reason for which a frame is rejected.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

FRAME_REJECTIONS = {
    "unknown_encoding": "an Image message in an encoding that is not supported",
    "zero_size": "an Image message without rows or columns",
    "empty_data": "a message without data",
    "bad_step": "an Image message whose step is shorter than a row",
    "short_data": "an Image message with fewer bytes than its size needs",
    "bad_size": "an image with an odd size where its encoding needs an even one, or too small for it",
    "too_large": "a picture with more pixels than `max_pixels`",
    "unknown_compression": "a CompressedImage that is neither JPEG nor PNG",
    "corrupt_jpeg": "a compressed JPEG message that is damaged or cut",
    "corrupt_png": "a compressed PNG message that is damaged or cut",
    "bad_message": "a recorded message that cannot be deserialised",
    "missing": "a picture file that does not exist",
    "unreadable_picture": "a picture file that cannot be read, is damaged or cut, or is in a format that is not read",
    "wrong_size": "a raw frame whose size is not the model's",
    "not_colour": "an array that is not 8-bit colour",
    "not_2_to_1": "a frame that is not twice as wide as high, so not equirectangular",
    "map_not_finite": "a map with values that are not finite",
    "cv_bridge": "an overlay that cv_bridge could not convert",
    "inference_failed": "the runtime failed on this frame",
    "internal_error": "an unexpected error while the frame was handled; the log has it",
}
"""Reason → what it means: the reasons of `FrameError`, the node's counters `rejected.REASON`, and those of a report."""


def printable(text: str | os.PathLike[str]) -> str:
    r"""A text or path that every terminal, log and JSON file takes: bytes of a name that are not UTF-8 as \udce9."""
    return os.fspath(text).encode("utf-8", "backslashreplace").decode("utf-8")


class Sal360Error(Exception):
    """Something a user can put right.

    Args:
        found: what came, with its value ("the frame is 640 x 480").
        remedy: what to do about it ("set image_topic to the equirectangular stream").
        expected: what was needed, where the first two do not say it ("a width of twice the height").
    """

    def __init__(self, found: str, remedy: str, *, expected: str = "") -> None:
        parts = (found, expected and f"expected {expected}", remedy)
        super().__init__(printable("; ".join(part for part in parts if part)))
        self.found = printable(found)
        self.remedy = remedy
        self.expected = expected


class ModelError(Sal360Error):
    """A model file, engine or runtime cannot be used."""


class FrameError(Sal360Error):
    """A picture or message is not a usable 360° frame.

    Args:
        reason: a key of `FRAME_REJECTIONS`.
    """

    def __init__(self, found: str, remedy: str, *, reason: str, expected: str = "") -> None:
        super().__init__(found, remedy, expected=expected)
        assert reason in FRAME_REJECTIONS, reason
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
        if (error.name or "").startswith(("sal360", "training")):
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
