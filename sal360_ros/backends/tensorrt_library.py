"""TensorRT's Python package: `tensorrt` (10 and 11, data-centre cards and Jetson) or `tensorrt_rtx` (RTX cards).

Both have the same interface except for what the callers test with hasattr.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sal360_ros.errors import ModelError

NAMES = ("tensorrt", "tensorrt_rtx")
OLDEST = (10, 0)
"""Oldest release of `tensorrt` with the calls used here; every release of `tensorrt_rtx` has them."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TensorRt:
    """An imported TensorRT package, with a logger that keeps its complaints."""

    name: str
    module: Any
    logger: Any

    @property
    def version(self) -> str:
        """Its release, "11.1.0"."""
        return str(self.module.__version__)

    @property
    def is_rtx(self) -> bool:
        """Whether engines are finished on the card they run on, and can be built without one."""
        return self.name == "tensorrt_rtx"

    @contextmanager
    def complaints(self) -> Iterator[list[str]]:
        """The errors that TensorRT logs within the block: it returns None and says there why."""
        del self.logger.errors[:]
        yield self.logger.errors


def installed_names() -> list[str]:
    """The packages that are installed here, the preferred one first."""
    return [name for name in NAMES if importlib.util.find_spec(name) is not None]


def load_tensorrt(name: str = "") -> TensorRt:
    """Import TensorRT; without a name the first one that is installed.

    Raises:
        ModelError: it is not installed, cannot be imported, or is older than `OLDEST`.
    """
    names = [name] if name else installed_names()
    if not names or importlib.util.find_spec(names[0]) is None:
        wanted = name or " or ".join(NAMES)
        raise ModelError(
            f"{wanted} is not installed",
            "TensorRT 10 or newer, or TensorRT-RTX",
            "pip install tensorrt or tensorrt-rtx (see docs/deploy.md)",
        )
    try:
        module = importlib.import_module(names[0])
    except (ImportError, OSError) as error:
        raise ModelError(
            f"{names[0]} is installed and cannot be imported ({error})", "a working installation", "install it again"
        ) from None
    library = TensorRt(names[0], module, _logger(module))
    if library.name == "tensorrt" and _version_tuple(library.version) < OLDEST:
        raise ModelError(
            f"tensorrt {library.version} is installed", "10.0 or newer", "install JetPack 6 or a newer wheel"
        )
    return library


def first(complaints: list[str]) -> str:
    """The first complaint is the cause; the others follow from it."""
    return complaints[0] if complaints else "it does not say why"


def _version_tuple(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def _logger(module: Any) -> Any:
    """A TensorRT logger: errors are kept, warnings go to Python's log, the thousands of details nowhere."""

    class Logger(module.ILogger):
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (module.ILogger.Severity.ERROR, module.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))
            elif severity == module.ILogger.Severity.WARNING:
                _log.debug("%s", message)

    return Logger()
