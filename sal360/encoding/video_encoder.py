"""Pictures with QP offsets in, packets out; and packets into a file, with the audio of the source beside them."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import itertools
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sal360.arrays import Pixels
from sal360.encoding.boxes import Spherical, parse, read_spherical, spherical_in, with_spherical, write_spherical
from sal360.encoding.codecs import MP4, Codec, EncoderSettings
from sal360.encoding.probe import check_options_were_used, not_started
from sal360.encoding.regions import RegionFrames
from sal360.errors import DataError, ParameterError
from sal360.sources.video import open_container

if TYPE_CHECKING:
    import av

TIME_BASE = Fraction(1, 90_000)
_DESCRIBED_IN_PACKETS = ("ac3", "eac3")
"""Audio whose entry in an MP4 index is made of its first packets; without any, FFmpeg writes none."""
_TRIED_PACKETS = 16
"""Of audio, written to find out whether an output can hold it."""
_PRIMING_S = 0.25
"""Packets so long before the first frame are kept: decoders of audio need them to start."""
_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""Suffix of a file → FFmpeg's format; by itself it takes one for .m4v that holds no HEVC."""
COLOURS = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709", "color_range": "tv"}
"""Options of encoders that say what `converted` makes; players guess the matrix of videos that do not say it."""


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


def converted(image: Pixels, channels: str, codec: Codec) -> av.VideoFrame:
    """A picture in the form that an encoder takes, by BT.709.

    Args:
        image: (H, W, 3) uint8.
        channels: "rgb" or "bgr".
        codec: of the encoder.
    """
    from av import VideoFrame

    frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format=f"{channels}24")
    return frame.reformat(format=codec.pixel_format, dst_colorspace="ITU709")


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
            stream.codec_context.options = {**COLOURS, **(settings.options() if options is None else options)}
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
        return self.encode_frame(converted(image, channels, self.settings.codec), stamp_s, offsets)

    def encode_frame(self, frame: Any, stamp_s: float, offsets: NDArray[np.int8] | None) -> list[Any]:
        """The same for a frame from `converted`, which several encoders of one codec can share."""
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
        path: as given.
        stream: of the audio; None if there is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened = open_container(path)
        container = self._opened.__enter__()
        video: Any = container.streams.best("video")
        self.stream: Any = container.streams.best("audio")
        context = None if self.stream is None else self.stream.codec_context
        self.codec = "of a codec that FFmpeg does not know" if context is None else str(context.name)
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


def check_audio(audio: AudioCopy, suffix: str) -> None:
    """Refuse audio that an output cannot hold. Its first packets are read from the file again, and written in memory.

    Args:
        suffix: of the file; "" for segments.

    Raises:
        ParameterError: it cannot.
    """
    if audio.stream is None or _can_hold(suffix, audio.path):
        return
    output = f"{suffix} files" if suffix else "segments"
    remedy = "add --no-audio"
    if suffix != ".mkv" and _can_hold(".mkv", audio.path):
        remedy = "choose .mkv, or add --no-audio" if suffix else "add --no-audio, or name a file (.mkv) as the output"
    raise ParameterError(f"{output} cannot hold the audio ({audio.codec})", remedy)


def _can_hold(suffix: str, path: Path) -> bool:
    """Whether a file with this suffix, or a segment for "", can hold the audio of a video."""
    import av

    with AudioCopy(path) as audio:
        if audio.stream.codec_context is None:
            return False
        packets = list(itertools.islice(audio.until(math.inf), _TRIED_PACKETS))
        try:
            if not suffix:
                fragment(audio.stream, packets)
                return True
            with av.open(io.BytesIO(), "w", format=_FORMATS[suffix]) as container:
                copy = add_copy(container, audio.stream)
                container.start_encoding()
                for packet in packets:  # some codecs are refused only when the index is written
                    packet.stream = copy
                    container.mux(packet)
        except (ValueError, av.FFmpegError):
            return False
    return True


class VideoFile:
    """A file with one video and, if there is audio, that; the `with` block completes it.

    Args:
        path: with a suffix for which `check_container` does not raise.
        encoder: of the video.
        audio: copied beside it.
        spherical: what the file says about the sphere; None: nothing.

    Attributes:
        is_spherical: whether it says that it is one; FFmpeg cannot write that for VP8.

    Raises:
        ParameterError: the file cannot hold the audio.
        OSError: it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        encoder: VideoEncoder,
        audio: AudioCopy | None = None,
        spherical: Spherical | None = None,
    ) -> None:
        import av

        suffix = path.suffix.lower()
        spherical = spherical or Spherical()
        if audio is not None:
            check_audio(audio, suffix)
        self._path = path
        self._boxes = spherical if suffix in MP4 else Spherical()
        self.is_spherical = bool(self._boxes)
        self._container = av.open(str(path), "w", format=_FORMATS[suffix])
        self._video = self._add_video(encoder.stream, Spherical() if self._boxes else spherical)
        self._audio_source = audio if audio is not None and audio.stream is not None else None
        self._audio: Any = None
        if self._audio_source is not None:
            self._audio = add_copy(self._container, self._audio_source.stream)

    def _add_video(self, stream: Any, spherical: Spherical) -> Any:
        """The video's stream in a file; Matroska's elements about the sphere are written by FFmpeg.

        FFmpeg takes them from streams that it has read, and PyAV cannot set them. So the description of the encoder's
        stream is written as MP4, with the boxes, and read again.
        """
        import av

        if spherical:
            with contextlib.suppress(ValueError), av.open(io.BytesIO(_header(stream, spherical))) as header:
                added = add_copy(self._container, header.streams.video[0])
                added.codec_context.extradata = stream.codec_context.extradata  # in the form that its packets have
                added.codec_context.framerate = stream.codec_context.framerate
                self.is_spherical = True
                return added
        return add_copy(self._container, stream)

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
            write_spherical(self._path, self._boxes)
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


def fragment(stream: Any, packets: Sequence[Any], *, strict: str = "normal") -> tuple[bytes, bytes]:
    """The init segment (ftyp, moov) and the media segment (moof, mdat) of packets of one stream.

    Args:
        strict: how strictly FFmpeg keeps to the standard; "unofficial" writes what it knows of the sphere.

    Raises:
        ValueError: MP4 cannot hold the codec.
    """
    import av

    file = io.BytesIO()
    options = {"movflags": "empty_moov+default_base_moof+frag_custom+skip_trailer", "strict": strict}
    if packets and stream.codec_context.name in _DESCRIBED_IN_PACKETS:
        options["movflags"] += "+delay_moov"
        options["use_editlist"] = "0"  # which would move the audio against the video
    with av.open(file, "w", format="mp4", options=options) as container:
        target = add_copy(container, stream)
        container.start_encoding()
        for packet in packets:
            packet.stream = target
            container.mux(packet)
    boxes = parse(file.getvalue())
    init = [each for each in boxes if each.kind in (b"ftyp", b"moov")]
    media = [each for each in boxes if each.kind in (b"moof", b"mdat")]
    return b"".join(each.packed() for each in init), b"".join(each.packed() for each in media)


def _header(stream: Any, spherical: Spherical) -> bytes:
    """The init segment of a stream with the boxes about the sphere."""
    init, _ = fragment(stream, [])
    ftyp, moov = parse(init)
    return ftyp.packed() + with_spherical(moov, spherical).packed()


def find_spherical(path: Path) -> Spherical:
    """What a video file says about its sphere: the boxes of MP4, or Matroska's elements as such boxes."""
    import av

    found = read_spherical(path)
    if found:
        return found
    try:
        with open_container(path) as container:
            stream: Any = container.streams.best("video")
            init, _ = fragment(stream, [], strict="unofficial")
        return spherical_in(next(each for each in parse(init) if each.kind == b"moov"))
    except (av.FFmpegError, OSError, ValueError, AttributeError):  # it says nothing, or FFmpeg has no words for it
        return Spherical()


def with_reason(write: Any) -> None:
    """Call a function of PyAV that writes; a full disk keeps its error number."""
    import av

    try:
        write()
    except av.FFmpegError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error)) from None
