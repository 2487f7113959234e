"""Live streams and camera devices as frames: the newest only, with reconnection, decoded by PyAV (FFmpeg)."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies

from sal360.errors import DataError, ParameterError
from sal360.images import MAX_PIXELS
from sal360.settings import Settings, setting
from sal360.sources.frame import Frame
from sal360.sources.stream_address import StreamAddress, masked
from sal360.sources.stream_clock import StreamClock
from sal360.sources.stream_trouble import Announcer, Backoff, Log, Trouble, trouble_of
from sal360.sources.video import decoder_options, upright

if TYPE_CHECKING:
    from av.codec.hwaccel import HWAccel
    from av.container import InputContainer

HARDWARE = ("none", "auto", "cuda", "vaapi", "vdpau", "qsv", "drm", "vulkan", "videotoolbox", "d3d11va")


@dataclass(frozen=True)
class StreamSettings(Settings):
    """How a live stream is received and decoded."""

    timeout_s: float = setting(
        2.0,
        "time without data after which a stream counts as lost; HLS: at least 15",
        minimum=0.2,
        maximum=300,
        unit="s",
        changes="start",
    )
    hardware: str = setting(
        "none",
        "decoding in hardware, if PyAV's FFmpeg, the driver and the codec allow it; auto: the first that works",
        choices=HARDWARE,
        changes="start",
    )
    threads: int = setting(
        1,
        "decoding threads; more help with large streams, and each further one delays frames by one frame",
        minimum=1,
        maximum=64,
        changes="start",
    )
    options: str = setting(
        "",
        "options of FFmpeg, such as rtsp_transport=udp or video_size=3840x1920,input_format=mjpeg",
        changes="start",
    )


_OPEN_S = 5.0
"""Time for each of two steps of opening a stream: connecting, and finding out what it holds."""
_HLS_TIMEOUT_S = 15.0
"""Segments arrive every few seconds."""
_UNDECODED_S = 15.0
"""Time without a decoded frame, though data arrive, before a new connection; key frames may be rare."""
_BEHIND_NS, _CAUGHT_UP_NS = 1_500_000_000, 200_000_000
"""Lags at which a decoder that is too slow begins, and ceases, to skip all but key frames."""
_LATE_FRAMES = 15
"""As many late frames in succession are not late because of the network."""
_LONGEST_STEP_S, _LONGEST_DELAY_S = 5.0, 1.0
"""Of HLS: a larger step between frames is a jump of the stream's clock; a larger delay shifts all later frames."""
_WATCH_S = 0.2
_END_S = 0.5

_OPTIONS = {"analyzeduration": "500000", "fpsprobesize": "0"}
_RELOADS = {"max_reload": "10"}
"""Of a playlist without anything new, before a new connection: an encoder that restarted begins to count again."""
_OPTIONS_OF = {
    "rtsp": {"rtsp_transport": "tcp"},
    "rtsps": {"rtsp_transport": "tcp"},
    "http": _RELOADS,
    "https": _RELOADS,
    "udp": {"overrun_nonfatal": "1", "buffer_size": "4194304"},
}
_PROTOCOLS = "rtsp,rtsps,rtmp,rtmps,rtmpt,rtmpe,srt,srtp,rtp,udp,tcp,tls,http,https,httpproxy,crypto,hls"
"""What a stream may lead to. Files are not among them, so that no playlist of a server can name one."""


class _Lost(Exception):
    """The connection gives no frames."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.found)
        self.trouble = trouble


class LiveStream:
    """The newest frame of a stream; a thread receives and decodes without pause, and connects again after a loss.

    A `with` block starts and ends it. Recordings on a web server (with a known duration) play in real time, or frame
    by frame with `every_frame`, and end.

    Args:
        address: see `stream_address`.
        settings: see `StreamSettings`.
        log: gets one line when the stream is lost and one when it is back; never a password.
        now_ns: the clock of the stamps, nanoseconds.
        max_pixels: larger frames are refused.
        patience_s: how long `take` waits for a stream that is lost or not there yet; then it raises.
        every_frame: of a recording, wait until each frame is taken.
        loop: play a recording again and again.
        on_frame: called in the thread when there is a new frame to take, and when the stream has failed or ended.

    Raises:
        ParameterError: `settings.options` is malformed.
        ImportError: PyAV is missing.
    """

    def __init__(
        self,
        address: StreamAddress,
        settings: StreamSettings | None = None,
        *,
        log: Log,
        now_ns: Callable[[], int] = time.time_ns,
        max_pixels: int = MAX_PIXELS,
        patience_s: float = math.inf,
        every_frame: bool = False,
        loop: bool = False,
        on_frame: Callable[[], object] = lambda: None,
    ) -> None:
        import av  # noqa: F401 (a missing module is reported here, not in the thread)

        self._address = address
        self._settings = settings or StreamSettings()
        self._options = _options(address, self._settings.options)
        self._now_ns = now_ns
        self._max_pixels = max_pixels
        self._patience_s = patience_s
        self._every_frame = every_frame
        self._loop = loop
        self._on_frame = on_frame
        self._announcer = Announcer(address, log)
        is_hls = ".m3u8" in address.url.lower()
        self._timeout_s = max(self._settings.timeout_s, _HLS_TIMEOUT_S if is_hls else 0.0)
        self._stopping = threading.Event()
        self._changed = threading.Condition()  # guards what follows
        self._newest: tuple[Any, int] | None = None
        self._failure: DataError | None = None
        self._has_ended = False
        self._trouble: Trouble | None = None
        self._last_frame_s = math.inf
        self._index = 0
        # of the thread alone
        self._clock = StreamClock()
        self._form = ""
        self._pace: tuple[float, float] | None = None  # when the last frame was due, and its time in the stream
        self._last_data_s = 0.0
        self._late_frames = 0
        self._is_behind = False
        self._hardware = ""
        self._thread = threading.Thread(target=self._work, name="stream", daemon=True)

    # --- for the one who takes the frames ---

    def start(self) -> None:
        """Begin to receive."""
        self._last_frame_s = time.monotonic()
        self._thread.start()

    def take(self, timeout_s: float = 0.0) -> Frame | None:
        """The newest frame, BGR, unless it was taken before; None if there is none within `timeout_s`.

        Its stamp is in seconds by the clock `now_ns`.

        Raises:
            DataError: the stream cannot be received at all (a refused login, a protocol that is missing), or was lost
                for longer than `patience_s`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._newest or self._failure or self._has_ended, timeout_s)
            newest, self._newest = self._newest, None
            if newest is not None:
                self._last_frame_s = time.monotonic()  # a recording waits until it is taken
            self._changed.notify_all()
            if newest is None and self._failure:
                raise self._failure
        if newest is None:
            self._watch()
            return None
        image, stamp_ns = newest
        pixels = upright(image)
        if pixels is None:
            return None
        self._index += 1
        return Frame(pixels, "bgr", stamp_ns / 1e9, f"{self._address.name}_{self._index - 1:06d}")

    @property
    def has_ended(self) -> bool:
        """Whether it was a recording whose last frame was taken."""
        with self._changed:
            return self._has_ended and self._newest is None

    def frames(self) -> Iterator[Frame]:
        """The newest frame again and again; without end, unless it is a recording.

        Raises:
            DataError: see `take`.
        """
        while not self.has_ended:
            frame = self.take(_WATCH_S)
            if frame is not None:
                yield frame

    def close(self) -> None:
        """End the thread. If FFmpeg blocks, it ends at FFmpeg's next timeout instead, and nobody waits for it."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(_END_S)

    def __enter__(self) -> LiveStream:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _watch(self) -> None:
        """Notice a stream without frames even if FFmpeg blocks: devices and DNS know no timeout."""
        with self._changed:
            silent_s, trouble = time.monotonic() - self._last_frame_s, self._trouble
        if trouble is None:
            trouble = Trouble(f"{self._address.shown} has sent no frame for {silent_s:.0f} s", "check the sender")
            if silent_s > self._timeout_s + _UNDECODED_S:
                self._announcer.lost(trouble)
        if silent_s > self._patience_s:
            raise trouble.error()

    # --- in the thread ---

    def _work(self) -> None:
        try:
            self._receive()
        except Exception as error:  # a bug must not end the thread without a word; its text may hold the password
            said = masked(f"{type(error).__name__}: {error}")
            self._finish(DataError(f"{self._address.shown} cannot be received ({said})", "report this bug"))

    def _receive(self) -> None:
        backoff = Backoff()
        accelerator = self._accelerator()
        while not self._stopping.is_set():
            self._form, self._pace, self._late_frames, self._is_behind = "", None, 0, False
            start_s = time.monotonic()
            trouble = self._connection(accelerator)
            if self._stopping.is_set():
                return
            lasted_s = time.monotonic() - start_s if self._form else 0.0
            if trouble is None:
                if not self._loop:
                    self._finish(None)
                    return
                self._stopping.wait(backoff.next_s(0.0, lasted_s))
                continue
            if trouble.is_final and not self._announcer.has_been_there:
                self._finish(trouble.error())
                return
            with self._changed:
                self._trouble = trouble
            self._announcer.lost(trouble)
            self._stopping.wait(backoff.next_s(trouble.least_pause_s, lasted_s))
            if trouble.is_silent:
                self._await_server()

    def _finish(self, failure: DataError | None) -> None:
        with self._changed:
            self._failure, self._has_ended = failure, failure is None
            self._changed.notify_all()
        self._on_frame()

    def _connection(self, accelerator: HWAccel | None) -> Trouble | None:
        """Deliver the frames of one connection; returns why it ended, or None at the end of a recording."""
        import av

        self._clock.restart()
        self._last_data_s = time.monotonic()
        shown = self._address.shown
        try:
            with self._opened(accelerator) as container:
                duration_s = (container.duration or 0) / 1e6 if self._address.scheme in ("http", "https") else 0.0
                self._read(container, is_recording=duration_s > 0)
                return None if duration_s > 0 else Trouble(f"{shown} has ended", "start the sender again")
        except _Lost as lost:
            return lost.trouble
        except (av.FFmpegError, OSError, ValueError, RuntimeError) as error:
            silent_s = time.monotonic() - self._last_data_s
            return trouble_of(error, self._address, silent_s=silent_s, timeout_s=self._timeout_s)

    def _opened(self, accelerator: HWAccel | None) -> InputContainer:
        import av

        more: dict[str, Any] = {"hwaccel": accelerator} if accelerator else {}
        opened: InputContainer = av.open(
            self._address.url,
            "r",
            format="v4l2" if self._address.is_device else None,
            options=self._options,
            metadata_errors="replace",
            timeout=(max(_OPEN_S, self._timeout_s), self._timeout_s),
            **more,
        )
        return opened

    def _read(self, container: InputContainer, *, is_recording: bool) -> None:
        """Deliver frames until the stream ends."""
        stream = self._video_of(container)
        self._last_data_s = decoded_s = time.monotonic()
        is_paced = (is_recording and not self._every_frame) or "hls" in container.format.name
        for packet in container.demux():
            if self._stopping.is_set():
                return
            self._last_data_s = time.monotonic()
            if self._last_data_s - decoded_s > _UNDECODED_S:
                raise _Lost(Trouble(f"{self._address.shown}: none of its frames can be decoded", "check the sender"))
            if packet.stream.index != stream.index:
                continue
            if not is_paced:
                self._keep_up(stream.codec_context, packet)
            for image in self._decoded(packet):
                decoded_s = time.monotonic()
                if is_paced:
                    self._pause_until_due(image.time)
                self._deliver(image, wait=is_recording and self._every_frame)

    def _video_of(self, container: InputContainer) -> Any:
        stream: Any = container.streams.best("video")
        if stream is None:
            raise _Lost(Trouble(f"{self._address.shown} has no video", "choose a stream with video"))
        codec = stream.codec_context
        if codec is None:
            raise _Lost(Trouble(f"{self._address.shown} has video that FFmpeg cannot decode", "choose H.264 or H.265"))
        codec.options = decoder_options(codec.name, self._max_pixels)
        codec.thread_type = "FRAME" if self._settings.threads > 1 else "SLICE"
        codec.thread_count = self._settings.threads if self._settings.threads > 1 else 0
        if self._hardware and not codec.is_hwaccel:
            self._announcer.warn(f"{self._hardware} cannot decode {codec.name}; it is decoded by the CPU")
            self._hardware = ""
        return stream

    def _decoded(self, packet: Any) -> Iterator[Any]:
        import av

        try:
            images = packet.decode()
        except av.FFmpegError:  # damaged by the network; the next key frame repairs it
            return
        for image in images:
            if image.width * image.height > self._max_pixels:
                raise _Lost(
                    Trouble(
                        f"the frames of {self._address.shown} are {image.width} x {image.height}, more than "
                        f"{self._max_pixels} pixels",
                        "reduce them at the sender, or raise max_pixels",
                    )
                )
            if not image.is_corrupt:
                yield image

    def _deliver(self, image: Any, *, wait: bool) -> None:
        stamp_ns = self._clock.stamp_ns(image.time, self._now_ns())
        form = f"{image.width} x {image.height}"
        if not self._form:
            self._announcer.back(form)
        elif form != self._form:
            self._announcer.note(f"changed from {self._form} to {form}")
        self._form = form
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._newest is None or self._stopping.is_set())
            self._newest, self._last_frame_s, self._trouble = (image, stamp_ns), time.monotonic(), None
            self._changed.notify_all()
        self._on_frame()

    def _pause_until_due(self, time_s: float | None) -> None:
        """Show the frames of an HLS stream, which arrive by the segment, and of recordings at their own pace."""
        now_s = time.monotonic()
        if time_s is None:
            return
        if self._pace is not None:
            step_s = time_s - self._pace[1]
            due_s = self._pace[0] + step_s
            if 0 <= step_s <= _LONGEST_STEP_S and due_s > now_s - _LONGEST_DELAY_S:
                self._pace = due_s, time_s
                self._stopping.wait(max(0.0, due_s - now_s))
                return
            self._clock.restart()  # the stream's clock jumped, or data came late
        self._pace = now_s, time_s

    def _keep_up(self, codec: Any, packet: Any) -> None:
        """Decode only key frames while the decoder is more than a second behind the stream."""
        self._late_frames = self._late_frames + 1 if self._clock.lag_ns > _BEHIND_NS else 0
        if self._late_frames >= _LATE_FRAMES and not self._is_behind:
            self._announcer.warn(
                "decoding cannot keep up, so frames are skipped; reduce the size or rate, raise the number of decoding "
                "threads, or decode in hardware"
            )
            self._is_behind = True
            codec.skip_frame = "NONKEY"
        elif self._is_behind and self._clock.lag_ns < _CAUGHT_UP_NS and packet.is_keyframe:
            self._is_behind = False
            codec.skip_frame = "DEFAULT"

    def _await_server(self) -> None:
        """Wait until the server accepts a connection, if it is this side that connects.

        The kernel repeats an attempt to connect to a machine that is down only after 1, 3, 7 … s; new attempts notice
        its return sooner.
        """
        is_server = any("listen" in text for text in (self._settings.options, self._address.url))
        if is_server or not self._address.port or self._address.scheme in getproxies():
            return
        while not self._stopping.is_set():
            with contextlib.suppress(OSError, UnicodeError):
                socket.create_connection((self._address.host, self._address.port), timeout=1.0).close()
                return
            self._stopping.wait(Backoff.LONGEST_S)

    def _accelerator(self) -> HWAccel | None:
        """The hardware decoder that was asked for, if it works here."""
        wanted = self._settings.hardware
        if wanted == "none":
            return None
        try:
            from av.codec.hwaccel import HWAccel, hwdevices_available
        except ImportError:  # before PyAV 14
            self._announcer.warn("this PyAV cannot decode in hardware; decoding on the CPU")
            return None
        from av import Codec, FFmpegError

        for name in hwdevices_available() if wanted == "auto" else [wanted]:
            with contextlib.suppress(FFmpegError, OSError, ValueError, RuntimeError):
                HWAccel(name).create(Codec("h264", "r"))
                self._hardware = name
                return HWAccel(name, allow_software_fallback=True)
        what = (
            "no hardware decoder works here" if wanted == "auto" else f"hardware decoding ({wanted}) does not work here"
        )
        self._announcer.warn(f"{what}; decoding on the CPU")
        return None


def _options(address: StreamAddress, text: str) -> dict[str, str]:
    """Options of FFmpeg for this address, with those of the user.

    Raises:
        ParameterError: `text` is malformed.
    """
    options = {**_OPTIONS, **_OPTIONS_OF.get(address.scheme, {})}
    if not address.is_device:
        options["protocol_whitelist"] = _PROTOCOLS
    for each in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = each.partition("=")
        if not (name.strip() and equals):
            raise ParameterError(f"the stream's options have {each!r}", "write NAME=VALUE,NAME=VALUE")
        options[name.strip()] = value.strip()
    return options
