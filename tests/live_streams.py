"""Live streams on loopback for tests, made by FFmpeg: UDP, TCP, RTMP, RTSP and HLS."""

from __future__ import annotations

import contextlib
import functools
import http.server
import itertools
import os
import re
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import av
import numpy as np

RATE = 20
TIMEOUT_S = 30.0
Start = Callable[..., contextlib.AbstractContextManager[Any]]
"""Starts a sender for a `with` block; takes `size`, columns and rows, and `grey`."""


def wait_for(condition: Callable[[], object], what: str = "") -> None:
    """Wait until the condition holds; fail after a generous time."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"timed out waiting for {what or condition}"
        time.sleep(0.01)


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    """A port of this machine that nobody uses."""
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class Log:
    """Keeps the lines about a stream."""

    def __init__(self) -> None:
        self.infos: list[str] = []
        self.warnings: list[str] = []

    def info(self, message: str) -> None:
        """Keep a line."""
        self.infos.append(message)

    def warning(self, message: str) -> None:
        """Keep a line."""
        self.warnings.append(message)


class Sender:
    """Sends grey frames of H.264 in real time, from the start of its `with` block to its end.

    Args:
        url, form, options: of FFmpeg's muxer.
        size: columns and rows.
        grey: value of the frames.
        audio: send silence instead of pictures.
    """

    def __init__(
        self,
        url: str,
        form: str,
        size: tuple[int, int] = (128, 64),
        grey: int = 128,
        options: dict[str, str] | None = None,
        *,
        audio: bool = False,
    ) -> None:
        self._url, self._form, self._size, self._grey = url, form, size, grey
        self._options = options or {}
        self._audio = audio
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join(TIMEOUT_S)

    def run(self) -> None:
        """Send until the `with` block ends, or the receiver goes away."""
        with contextlib.suppress(OSError, av.FFmpegError):
            container = av.open(self._url, "w", format=self._form, options=self._options)
            try:
                self._send_audio(container) if self._audio else self._send_video(container)
            finally:
                with contextlib.suppress(OSError, av.FFmpegError):
                    container.close()

    def _send_video(self, container: Any) -> None:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "tune": "zerolatency"})
        stream.width, stream.height = self._size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = RATE // 2
        picture = np.full((self._size[1], self._size[0], 3), self._grey, np.uint8)
        for index in self._in_time(RATE):
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(stream.encode(frame))

    def _send_audio(self, container: Any) -> None:
        stream = container.add_stream("aac", rate=8000)
        stream.layout = "mono"
        for index in self._in_time(8000 / 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, 1024 * index, Fraction(1, 8000)
            container.mux(stream.encode(frame))

    def _in_time(self, rate: float) -> Iterator[int]:
        start_s, index = time.monotonic(), 0
        while not self._stopping.wait(max(0.0, start_s + index / rate - time.monotonic())):
            yield index
            index += 1


class SenderProcess:
    """A `Sender` in a process of its own, for protocols where it waits for its receiver: PyAV then blocks all threads.

    It starts again and again until its receiver is there.
    """

    def __init__(self, url: str, form: str, options: dict[str, str], size: tuple[int, int], grey: int = 128) -> None:
        sender = f"Sender({url!r}, {form!r}, {size!r}, {grey!r}, {options!r})"
        code = f"import time\nfrom tests.live_streams import Sender\nwhile True: {sender}.run(); time.sleep(0.1)"
        self._command = [sys.executable, "-c", code]

    def __enter__(self) -> SenderProcess:
        self._process = subprocess.Popen(self._command, cwd=Path(__file__).parents[1])
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()


class Answers:
    """A server that gives every request the same answer; @ stands for the request's number in RTSP."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self.requests: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> Answers:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while request := connection.recv(65536):
                self.requests.append(request)
                number = re.search(rb"CSeq: (\d+)", request)
                if self._answer:
                    connection.sendall(self._answer.replace(b"@", number[1] if number else b""))


class RtspServer:
    """Sends one stream to every client over its RTSP connection (RFC 2326, 10.12), until the `with` block ends."""

    def __init__(self, port: int, size: tuple[int, int] = (128, 64), grey: int = 128) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self._packets = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._packets.bind(("127.0.0.1", 0))
        self._clients: list[socket.socket] = []
        self._playing: list[socket.socket] = []
        self._is_open = True
        self._sender = Sender(f"rtp://127.0.0.1:{self._packets.getsockname()[1]}", "rtp", size, grey)

    def __enter__(self) -> RtspServer:
        for work in (self._accept, self._forward):
            threading.Thread(target=work, daemon=True).start()
        self._sender.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_open = False
        self._sender.__exit__(kind, error, at)
        for each in (self._listener, *self._clients):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._packets.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while self._is_open:
                client, _ = self._listener.accept()
                self._clients.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _forward(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # closed
            while self._is_open:
                if not select.select([self._packets], [], [], 0.1)[0]:
                    continue
                packet = self._packets.recv(65536)
                if 72 <= packet[1] & 0x7F <= 76:  # RTCP
                    continue
                for client in list(self._playing):
                    with contextlib.suppress(OSError):
                        client.sendall(b"$\x00" + len(packet).to_bytes(2, "big") + packet)

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while request := client.recv(65536).decode(errors="replace"):
                method = request.partition(" ")[0]
                number = re.search(r"CSeq: (\d+)", request)
                body, head = "", ""
                if method == "DESCRIBE":
                    body = (
                        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
                        "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\n"
                        "a=control:track1\r\n"
                    )
                    head = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
                elif method == "SETUP":
                    head = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
                if number:
                    answer = f"RTSP/1.0 200 OK\r\nCSeq: {number[1]}\r\nSession: 1\r\n{head}\r\n{body}"
                    client.sendall(answer.encode())
                if method == "PLAY":
                    self._playing.append(client)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@contextlib.contextmanager
def http_server(folder: Path, port: int = 0) -> Iterator[int]:
    """Serve the files of a folder; yields the port."""
    handler = functools.partial(_Quiet, directory=os.fspath(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()


@contextlib.contextmanager
def hls(folder: Path, port: int, size: tuple[int, int] = (128, 64), grey: int = 128) -> Iterator[None]:
    """A live HLS stream at http://127.0.0.1:PORT/live.m3u8."""
    folder.mkdir(parents=True, exist_ok=True)
    options = {"hls_time": "0.5", "hls_list_size": "4", "hls_flags": "delete_segments"}
    with Sender(str(folder / "live.m3u8"), "hls", size, grey, options):
        wait_for((folder / "live.m3u8").exists, "the playlist")
        with http_server(folder, port):
            yield


KINDS = ("udp", "tcp", "rtsp", "rtmp", "hls")


class Restartable(NamedTuple):
    """A stream on a free port of this machine that can be started and cut again and again."""

    url: str
    options: str
    """What the receiver needs as `StreamSettings.options`."""
    start: Start


def restartable(kind: str, folder: Path) -> Restartable:
    """A stream of one of the `KINDS`; over RTMP, the sender is a camera that publishes to the receiver.

    Args:
        folder: for the segments of HLS.
    """
    port = free_port(socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
    host = f"127.0.0.1:{port}"
    folders = (folder / str(number) for number in itertools.count())
    streams = {
        "hls": Restartable(f"http://{host}/live.m3u8", "", lambda **form: hls(next(folders), port, **form)),
        "rtsp": Restartable(f"rtsp://admin:geheim@{host}/live", "", lambda **form: RtspServer(port, **form)),
        "udp": Restartable(f"udp://{host}", "", lambda **form: Sender(f"udp://{host}?pkt_size=1316", "mpegts", **form)),
        "tcp": Restartable(
            f"tcp://{host}", "", lambda **form: SenderProcess(f"tcp://{host}?listen", "mpegts", {}, **form)
        ),
        "rtmp": Restartable(
            f"rtmp://{host}/live/x",
            "listen=1",
            lambda **form: SenderProcess(f"rtmp://{host}/live/x", "flv", {}, **form),
        ),
    }
    return streams[kind]
