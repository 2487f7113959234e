"""The table of encoders, and the options that follow from it."""

from __future__ import annotations

from typing import Any

import pytest

from sal360.encoding import codecs, probe
from sal360.encoding.codecs import CODECS, EncoderSettings, find_codec, parse_options, parse_rate
from sal360.errors import ParameterError

av = pytest.importorskip("av")
pytest.importorskip("av.logging")


def test_a_format_is_a_name_of_an_encoder() -> None:
    assert find_codec("hevc") is find_codec("libx265") is CODECS["libx265"]
    assert find_codec("x265") is CODECS["libx265"]
    assert find_codec("x264") is CODECS["libx264"]
    assert find_codec("vp8") is CODECS["libvpx"]


def test_why_an_encoder_of_va_api_cannot_be_used_is_said() -> None:
    with pytest.raises(ParameterError, match=r"h264_vaapi needs frames in the GPU's memory, which PyAV cannot make"):
        find_codec("h264_vaapi")


def test_an_encoder_that_does_not_start_is_refused_with_the_words_of_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: object) -> None:
        av.logging.log(av.logging.ERROR, "h264_nvenc", "Cannot load libcuda.so.1\n")
        raise ParameterError("h264_nvenc does not work here", "choose another codec")

    monkeypatch.setattr(probe, "encoded", refusing)
    with pytest.raises(ParameterError, match=r"here; FFmpeg says: Cannot load libcuda.so.1; choose another codec$"):
        probe.require_obedience(EncoderSettings(CODECS["h264_nvenc"]))


def test_an_unknown_codec_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ParameterError, match=r"unknown codec 'x266'; expected one of h264, .*libx264"):
        find_codec("x266")


def test_an_encoder_that_this_ffmpeg_lacks_is_refused_with_those_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "is_available", lambda codec: codec.name == "libx264")
    with pytest.raises(ParameterError, match=r"was built without libx265; choose another codec: libx264$"):
        find_codec("libx265")


def test_a_rate_and_a_quality_together_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"both a rate of 5000000 bit/s and a quality of 20 were given"):
        EncoderSettings(CODECS["libx264"], bitrate=5_000_000, quality=20)


@pytest.mark.parametrize("quality", [-1, 52, float("nan")])
def test_a_quality_out_of_range_is_refused(quality: float) -> None:
    with pytest.raises(ParameterError, match="expected 0 to 51 for libx264"):
        EncoderSettings(CODECS["libx264"], quality=quality)


def test_a_preset_that_the_encoder_does_not_have_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"libvpx-vp9 has no preset 'medium'"):
        EncoderSettings(CODECS["libvpx-vp9"], preset="medium")


def test_a_rate_takes_the_place_of_the_quality() -> None:
    options = EncoderSettings(CODECS["libx264"], bitrate=800_000).options()
    assert options == {"aq-mode": "1", "preset": "medium", "b": "800000"}
    assert "crf" in EncoderSettings(CODECS["libx264"]).options()


def test_options_of_the_encoder_itself_are_joined_with_those_chosen_here() -> None:
    options = EncoderSettings(CODECS["libx265"], extra={"x265-params": "aq-mode=3", "g": "30"}).options()
    assert options["x265-params"] == "aq-mode=2:log-level=error:aq-mode=3"  # x265 takes the last
    assert options["g"] == "30"


def test_two_passes_are_named_in_each_encoders_own_way() -> None:
    x264 = EncoderSettings(CODECS["libx264"], bitrate=10_000).pass_options(2, "/tmp/s")
    assert (x264["flags"], x264["passlogfile"]) == ("+pass2", "/tmp/s")
    x265 = EncoderSettings(CODECS["libx265"], bitrate=10_000).pass_options(1, "/tmp/s")
    assert x265["x265-params"].endswith(":pass=1:stats=/tmp/s")


def test_options_are_read_with_further_equals_signs() -> None:
    assert parse_options("g=30, x265-params=a=1:b=2") == {"g": "30", "x265-params": "a=1:b=2"}
    with pytest.raises(ParameterError, match="'g' is not NAME=VALUE"):
        parse_options("g")


@pytest.mark.parametrize(
    ("text", "rate"), [("5M", 5_000_000), ("800k", 800_000), ("1.5M", 1_500_000), ("64000", 64000)]
)
def test_rates(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "M", "5Mb", "0", "-5M", "nan", "inf", "1e99"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ParameterError, match="is not a rate"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("codec", "values", "extra", "message"),
    [
        ("libx264", {"preset": "slow"}, {"preset": "fast"}, "a preset and the further option preset"),
        ("libvpx-vp9", {"preset": "5"}, {"cpu-used": "8"}, "a preset and the further option cpu-used"),
        ("libx264", {"bitrate": 5_000_000}, {"b": "3M"}, "a rate and the further option b"),
        ("libx264", {"bitrate": 5_000_000}, {"crf": "30"}, "a rate and the further option crf"),
        ("libx264", {"bitrate": 5_000_000}, {"qp": "30"}, "a rate and the further option qp"),
        ("libx265", {"quality": 20}, {"x265-params": "psy-rd=1:crf=30"}, "a quality and the further option crf"),
        ("h264_nvenc", {"quality": 20}, {"cq": "30"}, "a quality and the further option cq"),
    ],
)
def test_further_options_do_not_replace_what_was_asked_for(
    codec: str, values: dict[str, Any], extra: dict[str, str], message: str
) -> None:
    with pytest.raises(ParameterError, match=f"^{message} were given; remove one of them$"):
        EncoderSettings(CODECS[codec], **values, extra=extra)
    if not {"b", "qp"} & {*extra}:
        EncoderSettings(CODECS[codec], extra=extra)


@pytest.mark.parametrize(("codec", "option"), [("libx264", "b"), ("libx265", "qp"), ("libsvtav1", "b")])
def test_further_options_that_the_encoder_ignores_are_refused(codec: str, option: str) -> None:
    with pytest.raises(ParameterError, match=f"option {option} has no effect beside the quality .* set bit rate or"):
        EncoderSettings(CODECS[codec], extra={option: "30"})
    EncoderSettings(CODECS["libvpx-vp9"], extra={"b": "3M"})  # a quality below a rate


def test_a_quality_below_a_rate_is_allowed_where_both_count() -> None:
    EncoderSettings(CODECS["libvpx-vp9"], bitrate=5_000_000, extra={"crf": "30"})
