"""Why a live stream gives no frames: FFmpeg's errors in plain words, and when they are logged."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sal360.errors import DataError
from sal360.sources.stream_address import StreamAddress, masked

SLOW_RETRY_S = 30.0
"""Pause after a refused login: many cameras lock the account after a few."""


class Log(Protocol):
    """What takes the lines about a stream: Python's loggers and those of ROS do."""

    def info(self, message: str, /) -> object:
        """Log something that is as it should be."""

    def warning(self, message: str, /) -> object:
        """Log something that is not."""


@dataclass(frozen=True)
class Trouble:
    """Why there are no frames."""

    found: str
    remedy: str
    is_final: bool = False
    """Whether waiting cannot help, as long as there was no frame before."""
    is_silent: bool = False
    """Whether the other side did not respond, so that a new connection may block as well."""
    least_pause_s: float = 0.0
    """Minimum time before the next attempt."""

    def error(self) -> DataError:
        """As an error for the user."""
        return DataError(self.found, self.remedy)


def trouble_of(error: Exception, address: StreamAddress, *, silent_s: float, timeout_s: float) -> Trouble:
    """What an error of PyAV means for the stream at this address.

    Args:
        silent_s: how long nothing had arrived when it was raised, seconds.
        timeout_s: how long it may be silent. FFmpeg reports that in several ways.
    """
    import av

    shown = address.shown
    if isinstance(error, av.error.ExitError | av.error.TimeoutError) or silent_s >= timeout_s:
        remedy = "check the device" if address.is_device else "check the address, the network and the sender"
        return Trouble(f"{shown} sent nothing for {max(silent_s, timeout_s):.1f} s", remedy, is_silent=True)
    if isinstance(error, av.error.ProtocolNotFoundError):
        return Trouble(
            f"{shown}: the FFmpeg inside this PyAV ({av.__version__}) has no protocol {address.scheme}",
            "forward the stream as RTSP, RTMP, UDP or HLS, or build PyAV on an FFmpeg that has the protocol",
            is_final=True,
        )
    if isinstance(error, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
        return _refused_login(address, is_forbidden=isinstance(error, av.error.HTTPForbiddenError))
    if isinstance(error, av.error.HTTPNotFoundError):
        return Trouble(f"{shown}: the server has no such stream (404)", "correct the path, or start the stream")
    if isinstance(error, getattr(av.error, "HTTPTooManyRequestsError", ())):
        return Trouble(f"{shown}: the server has had too many requests (429)", "wait", least_pause_s=SLOW_RETRY_S)
    if isinstance(error, av.error.InvalidDataError):
        return Trouble(f"{shown} sends nothing that FFmpeg can decode", "check the address, and play it with ffplay")
    number = getattr(error, "errno", None) or 0
    if number == errno.EIO and address.host and not _is_known(address.host):
        return Trouble(f"the host of {shown} is not known", "correct its name, or check the network and its DNS")
    found, remedy = (_DEVICE_ERRORS if address.is_device else _ERRORS).get(number, ("", ""))
    if found:
        return Trouble(f"{shown} {found}", remedy)
    said = masked(str(getattr(error, "strerror", None) or type(error).__name__))
    return Trouble(f"{shown} cannot be read ({said})", "check the address and the options of the stream")


def _refused_login(address: StreamAddress, *, is_forbidden: bool) -> Trouble:
    if address.has_login:
        found = f"{address.shown} refuses the user name and password"
        remedy = "correct them in the address or in ~/.netrc"
    else:
        found = f"{address.shown} asks for a user name and password"
        remedy = f"write {address.scheme}://USER:PASSWORD@HOST/…, or list the host in ~/.netrc"
    if is_forbidden:
        found = f"{address.shown} refuses access (403)"
    return Trouble(found, remedy, is_final=True, least_pause_s=SLOW_RETRY_S)


def _is_known(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except (OSError, UnicodeError):
        return False


_BROKEN = ("closed the connection", "check the sender and the network")
_UNREACHABLE = ("cannot be reached", "check the address and the network")
_ERRORS = {
    errno.ECONNREFUSED: ("refuses connections", "start the camera or server, or correct the port"),
    errno.EHOSTUNREACH: _UNREACHABLE,
    errno.ENETUNREACH: _UNREACHABLE,
    errno.ENETDOWN: _UNREACHABLE,
    errno.ECONNRESET: _BROKEN,
    errno.ECONNABORTED: _BROKEN,
    errno.EPIPE: _BROKEN,
    errno.EIO: ("broke off", "check the sender and the network"),
    errno.EADDRINUSE: ("uses a port that another program receives on", "end that program, or choose another port"),
    errno.EADDRNOTAVAIL: ("is not an address of this machine", "correct the address"),
    errno.EINVAL: ("is refused by FFmpeg (invalid argument)", "correct the address or the options of the stream"),
}
"""Error number → what was found, after the address, and what to do about it."""
_NO_DEVICE = ("does not exist", "connect the camera, and look for its name with: ls /dev/video*")
_NO_CAMERA = ("gives no pictures in this form", "choose another device or other options: v4l2-ctl --list-formats-ext")
_DEVICE_ERRORS = {
    errno.ENOENT: _NO_DEVICE,
    errno.ENXIO: _NO_DEVICE,
    errno.ENODEV: ("was disconnected, or is no camera", "connect the camera again, or choose another device"),
    errno.EACCES: ("may not be opened by this user", "add the user to the group video"),
    errno.EBUSY: ("is in use by another program", "end that program"),
    errno.ENOTTY: _NO_CAMERA,
    errno.EINVAL: _NO_CAMERA,
}

STABLE_S = 2.0
"""After a connection that lasted this long, the first new attempt is made at once."""
_LINES, _LINE_S = 3, 10.0
"""So many losses are logged at once, and then one every ten seconds."""


class Announcer:
    """Logs one line when a stream is lost and one when it is back.

    A stream that comes and goes in quick succession gets three pairs of lines, and then one every ten seconds. So
    does another cause of the same loss, ten seconds later. All methods may be
    called from several threads.
    """

    def __init__(self, address: StreamAddress, log: Log, now_s: Callable[[], float] = time.monotonic) -> None:
        self._shown = address.shown
        self._log = log
        self._now_s = now_s
        self._lock = threading.Lock()
        self._back_s: float | None = None  # since when there are frames
        self._lost_s: float | None = None  # since when there are none
        self._lines_left = float(_LINES)
        self._counted_s = now_s()
        self._is_announced = False
        self._line_s = 0.0
        self._remedy = ""  # of the last line

    def lost(self, trouble: Trouble) -> None:
        """There are no frames; repeated calls are about the same loss."""
        with self._lock:
            now_s = self._now_s()
            if self._lost_s is None:
                self._lost_s = now_s
            is_known = self._is_announced and (trouble.remedy == self._remedy or now_s - self._line_s < _LINE_S)
            if is_known or not self._may_log(now_s):
                return
            self._is_announced, self._remedy, self._line_s = True, trouble.remedy, now_s
            is_first = self._back_s is None
            line = f"{trouble.found}; {trouble.remedy}; "
            self._log.warning(line + ("waiting for its first frame" if is_first else "waiting until it is back"))

    def _may_log(self, now_s: float) -> bool:
        self._lines_left = min(_LINES, self._lines_left + (now_s - self._counted_s) / _LINE_S)
        self._counted_s = now_s
        if self._lines_left < 1:
            return False
        self._lines_left -= 1
        return True

    @property
    def has_been_there(self) -> bool:
        """Whether there was ever a frame."""
        return self._back_s is not None

    def back(self, form: str) -> None:
        """There is a frame after a loss, or for the first time; `form` describes it."""
        with self._lock:
            now_s = self._now_s()
            if self._back_s is None:
                self._log.info(f"{self._shown} sends {form}")
            elif self._is_announced and self._lost_s is not None:
                self._log.info(f"{self._shown} is back after {now_s - self._lost_s:.1f} s and sends {form}")
            self._back_s, self._lost_s, self._is_announced = now_s, None, False

    def note(self, text: str) -> None:
        """Log something else that is as it should be."""
        self._log.info(f"{self._shown} {text}")

    def warn(self, text: str) -> None:
        """Log something else that the user should know."""
        self._log.warning(f"{self._shown}: {text}")


class Backoff:
    """The pauses between attempts to connect: short, so that a stream is back within two seconds of its return."""

    FIRST_S, LONGEST_S = 0.1, 0.5

    def __init__(self) -> None:
        self._next_s = self.FIRST_S

    def next_s(self, least_s: float, lasted_s: float) -> float:
        """The pause after a connection of `lasted_s` (failed: 0), at least `least_s`; all in seconds."""
        if lasted_s >= STABLE_S:
            self._next_s = self.FIRST_S
        pause_s = self._next_s
        self._next_s = min(2 * pause_s, self.LONGEST_S)
        return max(pause_s, least_s)
