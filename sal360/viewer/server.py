"""A web server that shows a stream of scenes to several browsers, each as fast as its line allows.

The page asks for every frame (`want`), so a viewer that is slow or paused gets fewer frames, always the newest, and
never holds up the others or the one who publishes. The server runs in a thread; `publish` only replaces a reference.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import ipaddress
import json
import logging
import math
import secrets
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias

from aiohttp import WSCloseCode, WSMsgType, web

from sal360.errors import ParameterError
from sal360.viewer.page import live_page
from sal360.viewer.picture_stream import JPEG, PictureStream
from sal360.viewer.scene import GRIDS, Scene

DEFAULT_PORT = 8360
Pictures: TypeAlias = Literal["auto", "video", "jpeg"]
MAX_VIEWERS = 16
_MAX_CREDIT = 4
"""Frames that a viewer may ask for ahead; more would only be older when they are shown."""
_SEND_TIMEOUT_S = 20.0
"""A viewer that asked for a frame and reads nothing for so long is disconnected."""
_END_S = 1.0
_LONGEST_MESSAGE = 1 << 12
_REFUSED, _FULL, _MALFORMED = 4401, 4429, 4400
_PACKERS = ThreadPoolExecutor(2, thread_name_prefix="viewer")
"""Of all servers of the process: glibc keeps what encoders free for the thread that used it, so new threads for each
server would let the process grow."""


@dataclass(frozen=True)
class Address:
    """Where the server listens, and who may look.

    Raises:
        ParameterError: the port is out of its range, or only one of certificate and key is given.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    """0: any free one."""
    token: str = ""
    """"" on this machine's own address: none; elsewhere: a random one."""
    certificate: Path | None = None
    key: Path | None = None
    """PEM files; browsers offer WebXR and WebCodecs to another machine only over https."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ParameterError(f"the port is {self.port}", "set it from 0 to 65535; 0: any free one")
        if (self.certificate is None) != (self.key is None):
            raise ParameterError("only one of the TLS certificate and its key is given", "give both, or none")

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine reach it."""
        return _is_loopback(self.host)


@dataclass(frozen=True)
class SeenView:
    """Where somebody looks."""

    viewer: int
    """Number of the connection, from 1."""
    quaternion: tuple[float, float, float, float]
    """x, y, z, w: from the axes of the window (x forward, y left, z up) to the panorama's body axes."""
    fov_deg: float
    """Field of view along the window's longer side, degrees."""
    is_head: bool
    """Whether it is the direction of a headset rather than of the page."""
    stamp_s: float | None
    """Stamp of the frame that was shown; None before the first."""


class ViewerServer:
    """Serves the page and the newest scene; a `with` block starts and ends it.

    Args:
        source: name of what is shown, for the page's heading.
        address: see `Address`.
        pictures: "video": as H.264 or VP9 where the browser decodes it, "jpeg": as JPEG files, which cost more of the
            line and, encoded once for all viewers, less of the CPU; "auto": video unless only this machine can look.
        on_view: called in the server's thread for each view that a page reports, at most 30 times a second each.
        log: a logger, whose `warning` gets one line for each viewer that is refused or disconnected.

    Raises:
        ParameterError: the port is in use or not allowed, or the host is not an address of this machine.
    """

    def __init__(
        self,
        source: str,
        address: Address | None = None,
        *,
        pictures: Pictures = "auto",
        on_view: Callable[[SeenView], None] = lambda _: None,
        log: Any = None,
    ) -> None:
        self._source = source
        self._address = address or Address()
        self._on_view = on_view
        self._log = log or logging.getLogger(__name__)
        self._has_video = pictures == "video" or (pictures == "auto" and not self._address.is_local)
        self._tls = _tls(self._address)
        self._token = self._address.token or ("" if self._address.is_local else secrets.token_urlsafe(16))
        self._socket = _listening(self._address)
        self._port = int(self._socket.getsockname()[1])
        self._newest: Scene | None = None
        self._trouble = ""
        self._published = 0
        self._viewers: set[_Viewer] = set()
        self._connections = 0
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="viewer server", daemon=True)

    @property
    def url(self) -> str:
        """The address to open in a browser, with the token if there is one."""
        host = self._address.host
        shown = socket.gethostname() if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host
        token = f"?token={self._token}" if self._token else ""
        return f"{'https' if self._tls else 'http'}://{shown}:{self._port}/{token}"

    @property
    def viewer_count(self) -> int:
        """Number of pages that are connected."""
        return len(self._viewers)

    def wants_pictures(self) -> bool:
        """Whether anybody looks, so that making scenes is worth the effort."""
        return bool(self._viewers)

    def publish(self, scene: Scene) -> None:
        """Show a scene from now on; returns at once. Its `sequence` must increase."""
        self._newest = scene
        self._published += 1
        self._tell(self._wake)

    def say(self, trouble: str) -> None:
        """Show one line on every page; "" removes it."""
        self._trouble = trouble
        self._tell(self._say)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()
        self._ready.wait()

    def close(self) -> None:
        """Disconnect everybody and free the port."""
        if self._thread.is_alive():
            self._tell(self._stopping.set)
            self._thread.join()
        self._socket.close()

    def __enter__(self) -> ViewerServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # --- in the server's thread ---

    def _tell(self, call: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(call)

    def _wake(self) -> None:
        for viewer in self._viewers:
            viewer.changed.set()

    def _say(self) -> None:
        for viewer in self._viewers:
            viewer.unsaid = True
            viewer.changed.set()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._ready.set()
            self._loop.close()

    async def _serve(self) -> None:
        application = web.Application()
        application.router.add_get("/", self._page)
        application.router.add_get("/socket", self._connected)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        await web.SockSite(runner, self._socket, ssl_context=self._tls).start()
        self._ready.set()
        await self._stopping.wait()
        if ending := [asyncio.ensure_future(viewer.end()) for viewer in self._viewers]:
            await asyncio.wait(ending, timeout=_END_S)
        await runner.cleanup()

    async def _page(self, request: web.Request) -> web.Response:
        if not self._is_own_host(request):
            return web.Response(status=403, text="This server answers only under its own address.\n")
        if not self._has_token(request):
            return web.Response(status=403, text="The token is missing or wrong: use the address that was printed.\n")
        host = request.host
        policy = (
            "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob: data:; "
            f"connect-src 'self' ws://{host} wss://{host}; frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
        )
        headers = {
            "Content-Security-Policy": policy,
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }
        return web.Response(text=live_page(), content_type="text/html", headers=headers)

    async def _connected(self, request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse(heartbeat=20, timeout=_END_S, max_msg_size=_LONGEST_MESSAGE, compress=False)
        await connection.prepare(request)
        if not (self._is_own_host(request) and self._is_own_page(request) and self._has_token(request)):
            self._log.warning(f"refused a viewer from {request.remote}: no valid token, or a page of another server")
            await connection.close(code=_REFUSED, message=b"the token is missing or wrong")
            return connection
        if len(self._viewers) >= MAX_VIEWERS:
            await connection.send_json({"trouble": f"There are {MAX_VIEWERS} viewers already; close one of them."})
            await connection.close(code=_FULL, message=b"too many viewers")
            return connection
        self._connections += 1
        viewer = _Viewer(self._connections, connection, request, has_video=self._has_video, log=self._log)
        self._viewers.add(viewer)
        try:
            await connection.send_json({"about": {"source": self._source}, "trouble": self._trouble})
            sending = asyncio.ensure_future(viewer.send_frames(self._current))
            try:
                await viewer.listen(self._on_view)
            finally:
                sending.cancel()
                with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                    await sending
        finally:
            self._viewers.discard(viewer)
            viewer.close()
        return connection

    def _current(self) -> tuple[Scene | None, str]:
        return self._newest, self._trouble

    def _has_token(self, request: web.Request) -> bool:
        given = request.query.get("token", "")
        return not self._token or hmac.compare_digest(given.encode("utf-8", "surrogatepass"), self._token.encode())

    def _is_own_host(self, request: web.Request) -> bool:
        """Whether the browser was sent here on purpose: a foreign name that leads to this machine is refused."""
        return not self._address.is_local or _is_loopback(_without_port(request.host))

    @staticmethod
    def _is_own_page(request: web.Request) -> bool:
        """Whether the page that connects is ours; programs that are no browsers send no origin."""
        origin = request.headers.get("Origin")
        return origin is None or origin.partition("://")[2] == request.host


class _Viewer:
    """One connected page."""

    def __init__(
        self, number: int, connection: web.WebSocketResponse, request: web.Request, *, has_video: bool, log: Any
    ) -> None:
        self.number = number
        self.changed = asyncio.Event()
        self.unsaid = False
        self._connection = connection
        self._transport = request.transport
        self._has_video = has_video
        self._log = log
        self._credit = 0
        self._grid = ""
        self._pictures: PictureStream = JPEG
        self._sent = 0
        self._sent_grid = ""

    def close(self) -> None:
        self._pictures.close()

    async def end(self) -> None:
        """Close the connection."""
        await self._connection.close(code=WSCloseCode.GOING_AWAY, message=b"the server ends", drain=False)

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # --- what the page says ---

    async def listen(self, on_view: Callable[[SeenView], None]) -> None:
        """Handle the page's messages until it is gone; one that is malformed ends the connection."""
        async for message in self._connection:
            try:
                if message.type is not WSMsgType.TEXT:
                    raise ValueError
                said = json.loads(message.data)
                for name, value in said.items():
                    await _HANDLERS[name](self, value, on_view)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                self._log.warning(f"disconnected viewer {self.number}: it sent a malformed message")
                await self._connection.close(code=_MALFORMED, message=b"malformed message")
                return

    async def _on_ping(self, value: Any, _: Any) -> None:
        await self._connection.send_json({"pong": float(value), "server_ms": time.monotonic_ns() / 1e6})

    async def _on_want(self, value: Any, _: Any) -> None:
        self._credit = min(_MAX_CREDIT, self._credit + max(0, int(value)))
        self.changed.set()

    async def _on_grid(self, value: Any, _: Any) -> None:
        self._grid = value if value in GRIDS else ""
        self.changed.set()

    async def _on_hello(self, value: Any, _: Any) -> None:
        self._pictures.close()
        codecs = [str(each) for each in value["codecs"]]
        self._pictures = PictureStream.for_codecs(codecs if self._has_video else [])

    async def _on_view_of(self, value: Any, on_view: Callable[[SeenView], None]) -> None:
        on_view(_read_view(self.number, value))

    # --- what it gets ---

    async def send_frames(self, current: Callable[[], tuple[Scene | None, str]]) -> None:
        """Send the newest scene whenever there is a new one and the page has asked for one."""
        loop = asyncio.get_running_loop()
        while True:
            await self.changed.wait()
            self.changed.clear()
            scene, trouble = current()
            if self.unsaid:
                self.unsaid = False
                await self._connection.send_json({"trouble": trouble})
            if scene is None or not self._credit or self._has(scene):
                continue
            grid = self._grid
            try:
                message = await loop.run_in_executor(_PACKERS, _packed, scene, grid, self._pictures)
            except Exception as error:  # of the encoder: FFmpeg's kinds are many
                self._log.warning(f"viewer {self.number} gets JPEG: the video encoder failed ({error})")
                self._pictures.close()
                self._pictures = JPEG
                self.changed.set()
                continue
            try:
                await asyncio.wait_for(self._connection.send_bytes(message), _SEND_TIMEOUT_S)
            except asyncio.TimeoutError:
                self._log.warning(f"disconnected viewer {self.number}: it has read nothing for {_SEND_TIMEOUT_S:g} s")
                self._abort()  # a close frame would wait for the same reader
                return
            except ConnectionError:  # it is gone
                return
            self._credit -= 1
            self._sent, self._sent_grid = scene.sequence, grid
            self.changed.set()  # there may be a newer one

    def _has(self, scene: Scene) -> bool:
        """Whether the page has this scene, with the grid that it wants."""
        return self._sent == scene.sequence and self._grid in ("", self._sent_grid)


_HANDLERS = {
    "ping": _Viewer._on_ping,
    "want": _Viewer._on_want,
    "grid": _Viewer._on_grid,
    "hello": _Viewer._on_hello,
    "view": _Viewer._on_view_of,
}


def _packed(scene: Scene, grid: str, pictures: PictureStream) -> bytes:
    """A scene as one message: the length of the header (32 bits, little-endian), the header as JSON, and its parts.

    Picture and map are in one message, so that the page cannot show those of different frames together.
    """
    parts: list[dict[str, Any]] = []
    data: list[bytes] = []

    def add(name: str, about: dict[str, Any], content: bytes) -> None:
        parts.append({"name": name, "bytes": len(content), **about})
        data.append(content)

    add("map", *scene.map_bytes())
    if grid:
        add(grid, *scene.grid_bytes(grid))
    add("picture", *pictures.encode(scene))
    header = {**scene.about(), "sequence": scene.sequence, "captured_ms": scene.captured_ns / 1e6, "parts": parts}
    text = json.dumps(header, allow_nan=False).encode()
    return b"".join([struct.pack("<I", len(text)), text, *data])


def _read_view(viewer: int, value: Any) -> SeenView:
    x, y, z, w = map(float, value["quaternion"])
    fov_deg = float(value["fov_deg"])
    stamp_s = None if value["stamp_s"] is None else float(value["stamp_s"])
    length = math.sqrt(x * x + y * y + z * z + w * w)
    if not 0.5 < length < 2 or not 0 < fov_deg < 360 or not math.isfinite(stamp_s or 0.0):
        raise ValueError
    return SeenView(viewer, (x / length, y / length, z / length, w / length), fov_deg, bool(value["is_head"]), stamp_s)


# --- addresses ---


def _listening(address: Address) -> socket.socket:
    try:
        family, _, _, _, where = socket.getaddrinfo(address.host or None, address.port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        raise ParameterError(f"the host {address.host!r} is unknown", _CHOOSE_HOST) from None
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # restart at once after the last run
        listening.bind(where)
        listening.listen(64)
    except OSError as error:
        listening.close()
        raise _unbound(address, error) from None
    return listening


_CHOOSE_HOST = "choose an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all"


def _unbound(address: Address, error: OSError) -> ParameterError:
    if error.errno == errno.EADDRINUSE:
        return ParameterError(
            f"port {address.port} of {address.host} is in use", "choose another with --port, or end the other program"
        )
    if error.errno == errno.EACCES:
        return ParameterError(f"port {address.port} is reserved for administrators", "choose one above 1023")
    if error.errno == errno.EADDRNOTAVAIL:
        return ParameterError(f"{address.host} is not an address of this machine", _CHOOSE_HOST)
    return ParameterError(f"port {address.port} of {address.host} cannot be opened ({error.strerror})", _CHOOSE_HOST)


def _tls(address: Address) -> ssl.SSLContext | None:
    if address.certificate is None or address.key is None:
        return None
    for path in (address.certificate, address.key):
        if not path.is_file():
            raise ParameterError(f"{path} does not exist or is not a file", "check the path of the certificate and key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(address.certificate, address.key, password=lambda: "")
    except (ssl.SSLError, ValueError):
        raise ParameterError(
            f"{address.certificate} and {address.key} are not a certificate and its key",
            "give PEM files that belong together, the key without a password",
        ) from None
    return context


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _without_port(host: str) -> str:
    return host.rpartition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
