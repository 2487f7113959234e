"""The video encoders that can take regions of interest, and the options under which they obey them.

Whether an encoder obeys is not taken from this table: `probe` tries it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from sal360.errors import ParameterError

_X264_PRESETS = (
    *("ultrafast", "superfast", "veryfast", "faster", "fast"),
    *("medium", "slow", "slower", "veryslow", "placebo"),
)
_NVENC_PRESETS = ("p1", "p2", "p3", "p4", "p5", "p6", "p7")
MP4, MATROSKA = (".mp4", ".m4v", ".mov"), (".mkv",)


@dataclass(frozen=True)
class Codec:
    """An encoder of FFmpeg."""

    name: str
    """FFmpeg's name of the encoder."""
    format: str
    """What it writes, for people."""
    decoder: str
    """FFmpeg's name of a decoder for it."""
    presets: tuple[str, ...]
    """From fast to slow; the first that `preset_option` takes."""
    preset: str
    """The default."""
    quality: tuple[float, float, float]
    """Best, default and worst constant quality."""
    suffixes: tuple[str, ...]
    """Of files that can hold it."""
    quality_option: str = "crf"
    preset_option: str = "preset"
    obeys_with: Mapping[str, str] = field(default_factory=dict)
    """Options that make it obey regions, where its defaults or presets do not."""
    qp_range: int = 51
    """FFmpeg takes the offset of a region as a fraction of this; one step is then one QP of H.264 and HEVC."""
    levels: int = 0
    """How many different offsets it takes in a frame, besides zero; 0: any number."""
    quality_beats_rate: bool = False
    """Whether a quality makes it ignore a rate, instead of holding for the frames that the rate has room for."""
    two_passes: bool = False
    pixel_format: str = "yuv420p"
    joined: str = ""
    """An option that holds further options, joined by colons: those of the encoder itself."""


# libx264 and libx265 add the offsets to those of their adaptive quantisation, which their ultrafast preset turns off
CODECS = {
    each.name: each
    for each in (
        Codec(
            "libx264",
            "H.264",
            "h264",
            _X264_PRESETS,
            "medium",
            (0, 23, 51),
            (*MP4, *MATROSKA),
            obeys_with={"aq-mode": "1"},
            quality_beats_rate=True,
            two_passes=True,
        ),
        Codec(
            "libx265",
            "HEVC",
            "hevc",
            _X264_PRESETS,
            "medium",
            (0, 28, 51),
            (*MP4, *MATROSKA),
            obeys_with={"x265-params": "aq-mode=2"},
            quality_beats_rate=True,
            two_passes=True,
            joined="x265-params",
        ),
        Codec(
            "libvpx-vp9",
            "VP9",
            "vp9",
            ("8", "7", "6", "5"),
            "5",
            (0, 32, 63),
            (".webm", *MATROSKA, ".mp4"),
            preset_option="cpu-used",
            obeys_with={"deadline": "realtime", "aq-mode": "0", "lag-in-frames": "0"},
            qp_range=63,
            levels=7,
        ),
        Codec(
            "libvpx",
            "VP8",
            "vp8",
            ("16", "12", "8", "5"),
            "8",
            (4, 20, 63),
            (".webm", *MATROSKA),
            preset_option="cpu-used",
            obeys_with={"deadline": "realtime", "lag-in-frames": "0"},
            qp_range=63,
            levels=3,
        ),
        Codec(
            "libsvtav1",
            "AV1",
            "libdav1d",
            tuple(map(str, range(13, -1, -1))),
            "8",
            (1, 35, 63),
            (".mp4", ".mkv"),
            quality_beats_rate=True,
        ),
        Codec(
            "libaom-av1",
            "AV1",
            "libdav1d",
            tuple(map(str, range(8, -1, -1))),
            "6",
            (0, 35, 63),
            (".mp4", ".mkv"),
            preset_option="cpu-used",
        ),
        *(
            Codec(
                f"{kind}_nvenc",
                name,
                decoder,
                _NVENC_PRESETS,
                "p4",
                (1, 28, 51),
                (".mp4", ".mkv"),
                quality_option="cq",
            )
            for kind, name, decoder in (("h264", "H.264", "h264"), ("hevc", "HEVC", "hevc"), ("av1", "AV1", "libdav1d"))
        ),
        *(
            Codec(
                f"{kind}_qsv",
                name,
                kind,
                ("veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"),
                "medium",
                (1, 25, 51),
                (".mp4", ".mkv"),
                quality_option="global_quality",
                pixel_format="nv12",
            )
            for kind, name in (("h264", "H.264"), ("hevc", "HEVC"))
        ),
    )
}
"""Name → encoder. VA-API is missing: its encoders need frames in the GPU's memory, which PyAV cannot make."""
SHORT_NAMES = {
    "h264": "libx264",
    "x264": "libx264",
    "hevc": "libx265",
    "h265": "libx265",
    "x265": "libx265",
    "vp8": "libvpx",
    "vp9": "libvpx-vp9",
    "av1": "libsvtav1",
}
"""What people call a format or an encoder → the encoder that is meant."""


@dataclass(frozen=True)
class EncoderSettings:
    """Everything about an encoder but the size and rate of its frames.

    Args:
        codec: one of `CODECS`.
        preset: one of the codec's, or "" for its default.
        bitrate: target in bits per second; 0: constant quality.
        quality: constant quality in the codec's own units; None: its default. Not together with a bitrate.
        extra: further options of FFmpeg, which replace those that are chosen here.

    Raises:
        ParameterError: a value is out of range, both a rate and a quality are given, or a further option replaces one
            of these values, or is replaced by them.
    """

    codec: Codec
    preset: str = ""
    bitrate: int = 0
    quality: float | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.bitrate and self.quality is not None:
            raise ParameterError(
                f"both a rate of {self.bitrate} bit/s and a quality of {self.quality:g} were given", "remove one"
            )
        if self.preset and self.preset not in self.codec.presets:
            raise ParameterError(
                f"{self.codec.name} has no preset {self.preset!r} that is used here",
                "choose one",
                expected=f"one of {', '.join(self.codec.presets)}",
            )
        best, _, worst = self.codec.quality
        if self.quality is not None and not best <= self.quality <= worst:
            raise ParameterError(
                f"the quality is {self.quality:g}",
                "set it in that range; lower is better",
                expected=f"{best:g} to {worst:g} for {self.codec.name}",
            )
        self._check_nothing_is_replaced()

    def _check_nothing_is_replaced(self) -> None:
        codec, quality = self.codec, {self.codec.quality_option}
        inner = (each.partition("=")[0] for each in self.extra.get(codec.joined, "").split(":"))
        further = {*self.extra, *inner}
        for name, is_given, replacing in (
            ("preset", self.preset, {codec.preset_option}),
            ("rate", self.bitrate, {"b", "bitrate"} | ({"qp", *quality} if codec.quality_beats_rate else set())),
            ("quality", self.quality is not None, quality),
        ):
            if is_given and (found := sorted(replacing & further)):
                raise ParameterError(f"a {name} and the further option {found[0]} were given", "remove one of them")
        if codec.quality_beats_rate and not self.bitrate and (found := sorted({"b", "qp"} & {*self.extra})):
            raise ParameterError(
                f"the further option {found[0]} has no effect beside the quality that {codec.name} always gets",
                "set bit rate or quality instead",
            )

    @property
    def chosen_quality(self) -> float:
        """The constant quality, where no rate is asked for."""
        return self.codec.quality[1] if self.quality is None else self.quality

    def options(self) -> dict[str, str]:
        """The options of FFmpeg."""
        codec = self.codec
        options = {**codec.obeys_with, codec.preset_option: self.preset or codec.preset}
        if self.bitrate:
            options["b"] = str(self.bitrate)
        else:
            options[codec.quality_option] = f"{self.chosen_quality:g}"
            if codec.name == "libvpx-vp9":
                options["b"] = "0"  # else the default rate bounds the quality
        if codec.name == "libvpx" and not self.bitrate:
            options["b"] = "100M"  # VP8's quality holds only below a rate
        if codec.joined:
            options = self.joined(options, {codec.joined: "log-level=error"})
        return self.joined(options, self.extra)

    def joined(self, options: Mapping[str, str], further: Mapping[str, str]) -> dict[str, str]:
        """Options with further ones, which replace them; those of an option that holds options are appended to it."""
        merged = dict(options)
        for name, value in further.items():
            is_appended = name == self.codec.joined and name in merged
            merged[name] = f"{merged[name]}:{value}" if is_appended else value
        return merged

    def pass_options(self, number: int, statistics: str) -> dict[str, str]:
        """The options of the first or second of two passes.

        Args:
            number: 1 or 2.
            statistics: path of the file that the first pass writes and the second reads.
        """
        if self.codec.joined:
            return self.joined(self.options(), {self.codec.joined: f"pass={number}:stats={statistics}"})
        return {**self.options(), "flags": f"+pass{number}", "passlogfile": statistics}


def find_codec(name: str) -> Codec:
    """The encoder of this name, or of a format's short name.

    Raises:
        ParameterError: the name is unknown, or PyAV's FFmpeg was built without the encoder.
        ImportError: PyAV is missing.
    """
    codec = CODECS.get(SHORT_NAMES.get(name, name))
    if codec is None and name.endswith("_vaapi"):
        raise ParameterError(
            f"{name} needs frames in the GPU's memory, which PyAV cannot make",
            "choose another codec; libx264 and libx265 run on the CPU",
        )
    if codec is None:
        raise ParameterError(
            f"unknown codec {name!r}", "choose one", expected=f"one of {', '.join([*SHORT_NAMES, *CODECS])}"
        )
    if not is_available(codec):
        others = [each.name for each in CODECS.values() if is_available(each)]
        raise ParameterError(
            f"PyAV's FFmpeg was built without {codec.name}", f"choose another codec: {', '.join(others)}"
        )
    return codec


def is_available(codec: Codec) -> bool:
    """Whether PyAV's FFmpeg has the encoder; its hardware may still be missing."""
    import av

    os.environ.setdefault("SVT_LOG", "1")  # errors only: SVT-AV1 prints its configuration itself
    try:
        av.Codec(codec.name, "w")
    except ValueError:  # the base of PyAV's UnknownCodecError
        return False
    return True


def parse_options(text: str) -> dict[str, str]:
    """Options written as NAME=VALUE,NAME=VALUE; a value may contain further equals signs.

    Raises:
        ParameterError: an item has no name or no equals sign.
    """
    options = {}
    for item in filter(None, text.split(",")):
        name, equals, value = item.partition("=")
        if not name or not equals:
            raise ParameterError(f"the option {item!r} is not NAME=VALUE", "separate options with commas")
        options[name.strip()] = value.strip()
    return options


_UNITS = {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000}


def parse_rate(text: str) -> int:
    """Bits per second from a number with an optional k, M or G: "5M" is 5,000,000.

    Raises:
        ParameterError: it is not such a number, or not from 1k to 10G.
    """
    unit = text[-1:] if text[-1:] in ("k", "M", "G") else ""
    try:
        rate = float(text.removesuffix(unit)) * _UNITS[unit]
    except ValueError:
        rate = 0.0
    if not 1e3 <= rate <= 1e10:
        raise ParameterError(f"{text!r} is not a rate", "write it like 5M or 800k", expected="1k to 10G bits a second")
    return round(rate)
