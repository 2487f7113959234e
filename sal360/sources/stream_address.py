"""Addresses of live streams: which texts are one, what may be shown of them, and where their password comes from."""

from __future__ import annotations

import netrc
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from sal360.errors import DataError, printable

STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "rtp", "tcp", "http", "https")
"""Protocols of streams; which of them work depends on the build of FFmpeg inside PyAV."""
_TCP_PORTS = {"rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443, "tcp": 0, "http": 80, "https": 443}
"""The default port of each protocol that begins with a TCP connection."""
_WITH_LOGIN = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https")
_FORMS = "rtsp://HOST/PATH, rtmp://…, srt://…, udp://…, an http(s) address such as HLS (.m3u8), or /dev/videoN"

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}(.*)", re.DOTALL)  # pathlib leaves one of the two slashes
_DEVICE = re.compile(r"/dev/video\d+")
_SECRET = re.compile(r"(?i)((?:pass|pwd|token|key|secret|auth|sig)[a-z_-]*=)[^&;/?#]*")
"""Passwords that some cameras take in the path: rtsp://camera/user=admin_password=…_channel=1."""


@dataclass(frozen=True)
class StreamAddress:
    """The address of a stream or of a camera device (Video4Linux)."""

    url: str = field(repr=False)
    """What FFmpeg opens: with the user name and password, so it must never be printed."""
    shown: str
    """For messages: without user name, password and query."""
    scheme: str
    """In small letters; "" for a device."""
    host: str = ""
    port: int = 0
    """TCP port of the server; 0 for protocols that do not begin with a TCP connection."""
    has_login: bool = False
    """Whether there is a user name or password."""

    @property
    def is_device(self) -> bool:
        """Whether it is a camera device instead of a stream on the network."""
        return not self.scheme

    @property
    def name(self) -> str:
        """A file name for its results: "camera.local_live" for rtsp://camera.local/live, "video0" for /dev/video0."""
        place = Path(self.url).name if self.is_device else self.shown.partition("://")[2].removeprefix("***@")
        place = place.partition("?")[0].removesuffix(".m3u8")
        return re.sub(r"[^\w.-]+", "_", place).strip("._") or self.scheme


def stream_address(source: str | os.PathLike[str]) -> StreamAddress | None:
    """The address, if `source` is one; None for a picture, video, bag or folder.

    A user name and password are taken from ~/.netrc (or $NETRC) if the address has none: so they stay out of
    parameters and command lines, which others can read.

    Raises:
        DataError: it is an address of an unknown protocol, or malformed.
    """
    text = os.fspath(source)
    if _DEVICE.fullmatch(text) or _DEVICE.fullmatch(os.path.realpath(text)):
        return StreamAddress(url=text, shown=printable(text), scheme="")
    found = _URL.fullmatch(text)
    if found is None or os.path.exists(text):
        return None
    scheme, rest = found[1].lower(), found[2]
    shown = printable(f"{scheme}://{_shown(rest)}")
    if scheme not in STREAM_SCHEMES:
        raise DataError(f"{shown} is no address of a stream", "correct it", expected=_FORMS)
    place, _, path = _split(rest)
    login, _, server = place.rpartition("@")
    host, port = _host_and_port(server, scheme, shown)
    if not login and scheme in _WITH_LOGIN:
        login = _login_of(host)
    url = f"{scheme}://{login}@{server}{path}" if login else f"{scheme}://{rest}"
    return StreamAddress(url, shown, scheme, host, port, has_login=bool(login))


def masked(text: str) -> str:
    """A text of any kind without the user names, passwords and queries of addresses in it."""
    return re.sub(r"([A-Za-z][A-Za-z0-9+.-]+:/{1,2})([^\s'\"]+)", lambda found: found[1] + _shown(found[2]), text)


def _shown(rest: str) -> str:
    """What follows the scheme, without secrets.

    A password may contain any character, even if it should be escaped: nothing before the last @ is shown.
    """
    login, at, place = rest.rpartition("@")
    place, question, _ = place.partition("?")
    place = _SECRET.sub(r"\1***", place.partition("#")[0])
    return ("***@" if login else at) + place + ("?…" if question else "")


def _split(rest: str) -> tuple[str, str, str]:
    """Login and server; the separator; the path and query (RFC 3986, 3.2)."""
    end = re.search(r"[/?#]", rest)
    return (rest, "", "") if end is None else (rest[: end.start()], end[0], rest[end.start() :])


def _host_and_port(server: str, scheme: str, shown: str) -> tuple[str, int]:
    found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(\d*))?", server)
    if found is None:
        remedy = "write special characters of user name and password escaped: / as %2F, ? as %3F, # as %23, @ as %40"
        raise DataError(f"{shown} has no valid host and port", remedy if "@" in shown else "correct it")
    port = int(found[2] or _TCP_PORTS.get(scheme, 0))
    if port > 65535:
        raise DataError(f"{shown} has the port {port}", "correct it", expected="1 to 65535")
    host = found[1].strip("[]")
    if not host and scheme not in ("udp", "rtp", "srt"):  # these may listen on every address of this machine
        raise DataError(f"{shown} has no host", "write rtsp://HOST/PATH")
    return host, port if scheme in _TCP_PORTS else 0


def _login_of(host: str) -> str:
    """USER:PASSWORD of the host in ~/.netrc, escaped for an address; "" if it is not listed there."""
    path = Path(os.environ.get("NETRC") or os.path.expanduser("~/.netrc"))
    try:
        entry = netrc.netrc(path).hosts.get(host)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})", "change its owner or permissions") from None
    except (netrc.NetrcParseError, UnicodeDecodeError):  # whose message may contain a password
        raise DataError(
            f"{path} is malformed", "write lines such as: machine HOST login USER password PASSWORD"
        ) from None
    if entry is None:
        return ""
    user, _, password = entry
    return f"{quote(user or '', safe='')}:{quote(password or '', safe='')}"
