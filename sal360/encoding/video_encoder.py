"""Pictures with QP offsets in, packets out; and packets into a file, with the audio of the source beside them."""

from __future__ import annotations

import errno
import gc
import io
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sal360.arrays import Pixels
from sal360.encoding.codecs import Codec, EncoderSettings
from sal360.encoding.probe import check_options_were_used, not_started
from sal360.encoding.regions import RegionFrames
from sal360.errors import DataError, ParameterError
from sal360.sources.video import open_container

if TYPE_CHECKING:
    import av

TIME_BASE = Fraction(1, 90_000)
_PRIMING_S = 0.25
"""Packets so long before the first frame are kept: decoders of audio need them to start."""
_COLOURS = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709", "color_range": "tv"}


def check_size(height: int, width: int, name: str) -> None:
    """Refuse frames that 4:2:0 video cannot hold.

    Raises:
        DataError: a side is odd.
    """
    if height % 2 or width % 2:
        even = max(2, height - height % 2)
        while round(width * even / height) % 2:
            even += 2
        raise DataError(
            f"the frames of {name} are {width} x {height}, and video codecs need even sides",
            f"scale them: --height {even}",
        )


class VideoEncoder:
    """One encoder, from its first frame to its end.

    Args:
        settings: which encoder, and how good or large the result is.
        height, width: of the frames, even.
        rate_hz: frames per second, for rate control; the stamps count.
        block_px: side of the blocks of the offsets.
        options: instead of those of the settings.

    Raises:
        ParameterError: the encoder does not start.
    """

    def __init__(
        self,
        settings: EncoderSettings,
        height: int,
        width: int,
        rate_hz: float,
        block_px: int = 16,
        options: dict[str, str] | None = None,
    ) -> None:
        import av

        self.settings = settings
        self._regions = RegionFrames(height, width, settings.codec, block_px)
        self._last_pts: int | None = None
        self._scratch = av.open(io.BytesIO(), "w", format="matroska")  # a stream belongs to a container
        rate = Fraction(rate_hz).limit_denominator(1001)
        try:
            stream: Any = self._scratch.add_stream(settings.codec.name, rate=rate)
            stream.width, stream.height, stream.pix_fmt = width, height, settings.codec.pixel_format
            stream.codec_context.time_base = TIME_BASE
            stream.codec_context.options = {**_COLOURS, **(settings.options() if options is None else options)}
            self._scratch.start_encoding()
            check_options_were_used(settings, stream.codec_context)
        except (av.FFmpegError, ValueError) as error:
            raise not_started(settings, error) from None
        self.stream = stream

    def encode(self, image: Pixels, channels: str, stamp_s: float, offsets: NDArray[np.int8] | None) -> list[Any]:
        """The packets that this frame completes.

        Args:
            image: (H, W, 3) uint8.
            channels: "rgb" or "bgr".
            stamp_s: seconds; later than those before.
            offsets: (rows, columns) int8, QP; None: no regions.
        """
        from av import VideoFrame

        frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format=f"{channels}24")
        frame = frame.reformat(format=self.settings.codec.pixel_format, dst_colorspace="ITU709")
        pts = round(stamp_s / TIME_BASE)
        if self._last_pts is not None:
            pts = max(pts, self._last_pts + 1)
        frame.pts, frame.time_base, self._last_pts = pts, TIME_BASE, pts
        if offsets is not None:
            frame = self._regions.marked(frame, offsets)
        packets: list[Any] = self.stream.encode(frame)
        return packets

    def flush(self) -> list[Any]:
        """The packets that are left; nothing can be encoded afterwards."""
        packets: list[Any] = self.stream.encode(None)
        return packets

    def close(self) -> None:
        """Free the encoder now: some write their statistics only then."""
        self._scratch.close()
        del self.stream, self._scratch
        gc.collect()  # PyAV's containers and streams refer to each other


def check_container(path: Path, codec: Codec) -> None:
    """Refuse a file that cannot hold the codec.

    Raises:
        ParameterError: by its suffix.
    """
    if path.suffix.lower() not in codec.suffixes:
        raise ParameterError(
            f"{path.name} is not a file for {codec.format}", f"name it with {' or '.join(codec.suffixes)}"
        )


class AudioCopy:
    """The packets of a file's audio as they are; a `with` block closes the file.

    Args:
        path: the video that is encoded again.

    Attributes:
        stream: of the audio; None if there is none.
    """

    def __init__(self, path: Path) -> None:
        self._opened = open_container(path)
        container = self._opened.__enter__()
        video: Any = container.streams.best("video")
        self.stream: Any = container.streams.best("audio")
        self.codec = "" if self.stream is None else str(self.stream.codec_context.name)
        start: Any = 0 if video is None or video.start_time is None else video.start_time * video.time_base
        self._packets = iter(() if self.stream is None else container.demux(self.stream))
        self._shift = 0 if self.stream is None else round(start / self.stream.time_base)
        self._next: Any = None

    def until(self, end_s: float) -> Iterator[Any]:
        """The next packets that begin before `end_s`, seconds since the first frame of the video; math.inf: all."""
        while True:
            packet = self._next or next(self._packets, None)
            self._next = None
            if packet is None:
                return
            if packet.pts is None or not packet.size:
                continue
            if (packet.pts - self._shift) * packet.time_base >= end_s:
                self._next = packet
                return
            packet.pts -= self._shift
            packet.dts = packet.pts if packet.dts is None else packet.dts - self._shift
            if packet.pts * packet.time_base >= -_PRIMING_S:
                yield packet

    def close(self) -> None:
        """Close the file."""
        self._opened.__exit__(None, None, None)

    def __enter__(self) -> AudioCopy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class VideoFile:
    """A file with one video and, if there is audio, that; the `with` block completes it.

    Args:
        path: with a suffix for which `check_container` does not raise.
        encoder: of the video.
        audio: copied beside it.

    Raises:
        ParameterError: the file cannot hold the audio.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, encoder: VideoEncoder, audio: AudioCopy | None = None) -> None:
        import av

        self._container = av.open(str(path), "w")
        self._video = add_copy(self._container, encoder.stream)
        self._audio_source = audio if audio is not None and audio.stream is not None else None
        self._audio: Any = None
        if self._audio_source is not None:
            try:
                self._audio = add_copy(self._container, self._audio_source.stream)
                self._container.start_encoding()
            except (ValueError, av.FFmpegError):
                self._container.close()
                raise ParameterError(
                    f"{path.suffix} files cannot hold the audio ({self._audio_source.codec})",
                    "choose .mkv, or add --no-audio",
                ) from None

    def write(self, packets: Sequence[Any]) -> None:
        """Write packets of the video, and the audio up to them."""
        for packet in packets:
            packet.stream = self._video
            until_s = float(packet.dts * packet.time_base)
            self._write_audio(until_s)
            self._mux(packet)

    def _write_audio(self, until_s: float) -> None:
        if self._audio_source is not None:
            for packet in self._audio_source.until(until_s):
                packet.stream = self._audio
                self._mux(packet)

    def _mux(self, packet: Any) -> None:
        with_reason(lambda: self._container.mux(packet))

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self._write_audio(math.inf)
            with_reason(self._container.close)
        else:
            self._container.close()


def add_copy(container: av.container.OutputContainer, template: Any) -> Any:
    """A stream for packets that exist already.

    Raises:
        ValueError: the container cannot hold them.
    """
    stream = container.add_stream_from_template(template, opaque=True)
    if template.type == "video":
        stream.time_base = TIME_BASE  # else that of the container that the encoder belongs to, a millisecond
    if template.type == "video" and template.codec_context.name in ("libx265", "hevc_nvenc", "hevc_qsv"):
        stream.codec_context.codec_tag = "hvc1"  # Apple's players do not open hev1
    return stream


def with_reason(write: Any) -> None:
    """Call a function of PyAV that writes; a full disk keeps its error number."""
    import av

    try:
        write()
    except av.FFmpegError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error)) from None
