"""Does an encoder obey regions of interest with these settings? A short clip tells.

The clip is encoded with and without regions, decoded, and the errors inside and outside are compared. Some encoders,
and some presets, drop regions without a word, so nothing less is a proof.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sal360.arrays import Pixels, Reals
from sal360.encoding.codecs import EncoderSettings
from sal360.encoding.regions import RegionFrames
from sal360.errors import ParameterError

if TYPE_CHECKING:
    import av

_HEIGHT, _WIDTH, _FRAMES = 128, 256, 6
_BLOCK_PX = 64
"""A block of the probe: as large as the largest that an encoder sets one quantiser for."""
_OFFSET = 8
_RATE_HZ = 30
_REFUSED = re.compile(r"(?i)unknown option|invalid value|error parsing option")
"""What encoders log about options of their own that they do not take; they then encode without them."""
LEAST_DB = 1.0
"""Encoders that obey an offset of ±8 reach 7 to 20 dB; those that ignore it, exactly 0."""


@dataclass(frozen=True)
class Obedience:
    """What regions of interest did."""

    inside_db: float
    """Gain in luma PSNR where better quality was asked for."""
    outside_db: float
    """The same where worse quality was asked for."""
    said: str = ""
    """FFmpeg's own words about regions, if there are any."""

    @property
    def difference_db(self) -> float:
        """Inside against outside."""
        return self.inside_db - self.outside_db

    @property
    def obeys(self) -> bool:
        """Whether the encoder did as it was told."""
        return self.difference_db >= LEAST_DB


def probe(settings: EncoderSettings) -> Obedience:
    """Encode the clip with and without regions; takes a fraction of a second.

    Raises:
        ParameterError: the encoder does not start with these settings, or does not know an option.
    """
    clip = _clip()
    settings = _scaled(settings)
    frames = [_frame(each, index, settings.codec.pixel_format) for index, each in enumerate(clip)]
    offsets = np.full((_HEIGHT // _BLOCK_PX, _WIDTH // _BLOCK_PX), _OFFSET, np.int8)
    offsets[:, : offsets.shape[1] // 2] = -_OFFSET
    regions = RegionFrames(_HEIGHT, _WIDTH, settings.codec, _BLOCK_PX)
    with _logged() as logs, _with_words_of(logs):
        plain = _errors(clip, _decoded(encoded(settings, frames, _HEIGHT, _WIDTH, _RATE_HZ), settings.codec.decoder))
        marked = [regions.marked(each, offsets) for each in frames]
        after = _errors(clip, _decoded(encoded(settings, marked, _HEIGHT, _WIDTH, _RATE_HZ), settings.codec.decoder))
    inside, outside = (
        10 * math.log10(max(before, 1e-3) / max(now, 1e-3)) for before, now in zip(plain, after, strict=True)
    )
    lines = _lines(logs)
    refused = next((each for each in lines if _REFUSED.search(each)), "")
    if refused:
        raise ParameterError(f"{settings.codec.name} says: {refused.rstrip('.')}", "correct its options")
    return Obedience(inside, outside, next((each for each in lines if "ROI" in each or "region" in each), ""))


def _lines(logs: list[tuple[int, str, str]]) -> list[str]:
    return [" ".join(message.split()) for _, _, message in logs]


@contextlib.contextmanager
def _with_words_of(logs: list[tuple[int, str, str]]) -> Iterator[None]:
    """Add what FFmpeg logged to the error of an encoder that does not start, such as which driver is missing."""
    import av.logging

    try:
        yield
    except ParameterError as error:
        words = next(iter(_lines([each for each in logs if each[0] <= av.logging.ERROR])), "")
        found = f"{error.found}; FFmpeg says: {words.rstrip('.')}" if words else error.found
        raise ParameterError(found, error.remedy) from None


def require_obedience(settings: EncoderSettings) -> Obedience:
    """The result of `probe`.

    Raises:
        ParameterError: the encoder ignores regions, or does not start.
    """
    found = probe(settings)
    if found.obeys:
        return found
    said = f"; FFmpeg says: {found.said.rstrip('.')}" if found.said else ""
    raise ParameterError(
        f"{settings.codec.name} ignores regions of interest with {_shown(settings)}: in a trial, the error inside them "
        f"changed by {found.difference_db:.1f} dB against outside{said}",
        _remedy(settings),
    )


def _remedy(settings: EncoderSettings) -> str:
    """What helps where an encoder ignores regions."""
    ways = []
    if settings.extra:
        ways.append("remove --codec-options that turn adaptive quantisation off or change the mode")
    others = [each for each in ("libx264", "libx265", "libvpx-vp9") if each != settings.codec.name]
    ways.append(f"choose {', '.join(others[:-1])} or {others[-1]}")
    if settings.codec.name == "libsvtav1":
        ways.append("write a map file for its own program (--map-for svt-av1)")
    return "; or ".join(ways)


def encoded(
    settings: EncoderSettings,
    frames: Sequence[av.VideoFrame],
    height: int,
    width: int,
    rate_hz: float,
    options: dict[str, str] | None = None,
) -> list[Any]:
    """The packets of frames of one size, without a container.

    Args:
        options: instead of those of the settings.

    Raises:
        ParameterError: the encoder does not start with these settings.
    """
    import av

    try:
        context: Any = av.CodecContext.create(settings.codec.name, "w")
        context.width, context.height, context.pix_fmt = width, height, settings.codec.pixel_format
        rate = Fraction(rate_hz).limit_denominator(1001)
        context.time_base, context.framerate = 1 / rate, rate
        context.options = settings.options() if options is None else options
        context.open()
        check_options_were_used(settings, context)
        return [packet for frame in [*frames, None] for packet in context.encode(frame)]
    except (av.FFmpegError, ValueError, OSError) as error:
        raise not_started(settings, error) from None


def check_options_were_used(settings: EncoderSettings, context: Any) -> None:
    """Refuse options that the encoder does not have; FFmpeg leaves those in an opened context.

    Raises:
        ParameterError: there are some.
    """
    unused = sorted(context.options)
    if unused:
        raise ParameterError(
            f"{settings.codec.name} has no option {', '.join(unused)}", "correct or remove it: see --codec-options"
        )


def not_started(settings: EncoderSettings, error: Exception) -> ParameterError:
    """The error for an encoder that refuses its options, or whose hardware is missing."""
    said = getattr(error, "strerror", None) or str(error)
    return ParameterError(
        f"{settings.codec.name} does not work here with {_shown(settings)} ({said})",
        "correct the options, or choose another codec",
    )


def _shown(settings: EncoderSettings) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.options().items())


def _scaled(settings: EncoderSettings) -> EncoderSettings:
    """The settings for the clip: a target rate would be far too high for it."""
    return replace(settings, bitrate=_HEIGHT * _WIDTH * _RATE_HZ // 4) if settings.bitrate else settings


def _clip() -> list[Pixels]:
    """A moving texture with the same detail everywhere: (H · 3/2, W) uint8 YUV 4:2:0 each."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(40, 216, (_HEIGHT // 2, _WIDTH // 2)).astype(np.uint8)
    fine = np.kron(coarse, np.ones((2, 2), np.uint8))
    chroma = np.full((_HEIGHT // 2, _WIDTH), 128, np.uint8)
    return [np.vstack([np.roll(fine, 2 * number, axis=0), chroma]) for number in range(_FRAMES)]


def _frame(picture: Pixels, index: int, pixel_format: str) -> av.VideoFrame:
    from av import VideoFrame

    frame = VideoFrame.from_ndarray(picture, format="yuv420p").reformat(format=pixel_format)
    frame.pts, frame.time_base = index, Fraction(1, _RATE_HZ)
    return frame


def _decoded(packets: list[Any], decoder: str) -> Iterator[Reals]:
    return (luma(frame) for frame in decoded(packets, decoder))


def decoded(packets: list[Any], decoder: str) -> Iterator[av.VideoFrame]:
    """The frames of packets without a container."""
    import av

    context: Any = av.CodecContext.create(decoder, "r")
    for packet in [*packets, None]:
        yield from context.decode(packet)


def luma(frame: Any) -> NDArray[np.float32]:
    """The luma of a decoded frame, (H, W) float32."""
    plane = frame.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return rows[: frame.height, : frame.width].astype(np.float32)


def _errors(clip: list[Pixels], frames: Iterator[Reals]) -> tuple[float, float]:
    """Mean squared errors of the left and of the right half."""
    squared = [(after - before[:_HEIGHT]) ** 2 for before, after in zip(clip, frames, strict=False)]
    mean: Reals = np.mean(squared, axis=0)
    return float(mean[:, : _WIDTH // 2].mean()), float(mean[:, _WIDTH // 2 :].mean())


@contextlib.contextmanager
def _logged() -> Iterator[list[tuple[int, str, str]]]:
    """What FFmpeg logs within the block, from warnings upwards; nothing of it is printed."""
    import av.logging

    before = av.logging.get_level()
    av.logging.set_level(av.logging.WARNING)
    try:
        with av.logging.Capture(local=False) as logs:  # encoders log in threads of their own
            yield logs
    finally:
        av.logging.set_level(before)
