"""Regions of interest: rectangles that cover the blocks, and the probe that shows whether an encoder obeys."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sal360.encoding.codecs import CODECS, EncoderSettings
from sal360.encoding.probe import probe, require_obedience
from sal360.encoding.regions import RegionFrames, rectangles, with_few_levels
from sal360.errors import ParameterError

av = pytest.importorskip("av")


@settings(max_examples=30)
@given(arrays(np.int8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(-2, 2)))
def test_rectangles_paint_the_offsets_and_do_not_overlap(offsets: np.ndarray) -> None:
    painted = np.zeros_like(offsets)
    for top, bottom, left, right, value in rectangles(offsets):
        assert not painted[top:bottom, left:right].any()
        painted[top:bottom, left:right] = value
    assert np.array_equal(painted, offsets)


def test_equal_rows_become_one_rectangle() -> None:
    assert rectangles(np.full((5, 7), -3, np.int8)).tolist() == [[0, 5, 0, 7, -3]]


@settings(max_examples=30)
@given(arrays(np.int8, (6, 6), elements=st.integers(-25, 25)), st.sampled_from([3, 7]))
def test_few_levels_are_few_and_near(offsets: np.ndarray, levels: int) -> None:
    few = with_few_levels(offsets, levels)
    assert len(set(few.ravel().tolist()) - {0}) <= levels
    spacing = max(1, abs(offsets.astype(int)).max() / (levels // 2))
    assert abs(few.astype(int) - offsets).max() <= spacing / 2 + 0.5


def test_each_frame_has_its_own_pixels_and_regions() -> None:
    frames = RegionFrames(64, 128, CODECS["libx264"], 16)
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 255, (96, 128)).astype(np.uint8) for _ in range(2)]
    marked = []
    for number, picture in enumerate(pictures):
        source = av.VideoFrame.from_ndarray(picture, format="yuv420p")
        source.pts = number
        marked.append(frames.marked(source, np.full((4, 8), number + 1, np.int8)))
    for number, (frame, picture) in enumerate(zip(marked, pictures, strict=True)):
        assert frame.pts == number
        assert np.array_equal(frame.to_ndarray(), picture)
        regions = np.frombuffer(frame.side_data["REGIONS_OF_INTEREST"], "<i4").reshape(-1, 7)
        assert regions[0].tolist() == [28, 0, 64, 0, 128, number + 1, 51]
        assert not regions[1:, 1:6].any()


def test_as_many_regions_as_blocks_fit() -> None:
    offsets = (np.indices((32, 64)).sum(axis=0) % 2 * 2 - 1).astype(np.int8)  # a rectangle for each block
    frames = RegionFrames(32 * 16, 64 * 16 - 6, CODECS["libx264"], 16)
    frame = frames.marked(av.VideoFrame(64 * 16 - 6, 32 * 16, "yuv420p"), offsets)
    regions = np.frombuffer(frame.side_data["REGIONS_OF_INTEREST"], "<i4").reshape(-1, 7)
    assert len(regions) == 2048
    assert regions[:, 4].max() == 64 * 16 - 6  # the last column ends with the frame


@pytest.mark.parametrize(
    ("codec", "preset"), [("libx264", "ultrafast"), ("libx265", "ultrafast"), ("libvpx-vp9", "8"), ("libvpx", "16")]
)
def test_the_probe_finds_that_encoders_obey_with_the_options_of_the_table(codec: str, preset: str) -> None:
    found = probe(EncoderSettings(CODECS[codec], preset))
    assert found.inside_db > 1
    assert found.outside_db < 0
    assert found.obeys


@pytest.mark.parametrize(
    ("codec", "extra"),
    [
        ("libx264", {"aq-mode": "0"}),
        ("libx265", {"x265-params": "aq-mode=0"}),
        ("libvpx-vp9", {"deadline": "good"}),
        ("libsvtav1", {"preset": "12"}),
    ],
)
def test_the_probe_refuses_what_ignores_regions(codec: str, extra: dict[str, str]) -> None:
    preset = "" if "preset" in extra else CODECS[codec].presets[0]
    asked = EncoderSettings(CODECS[codec], preset, extra=extra)
    with pytest.raises(ParameterError, match=f"{codec} ignores regions of interest .* changed by -?0.0 dB"):
        require_obedience(asked)


def test_an_encoder_that_does_not_start_is_a_clear_error() -> None:
    with pytest.raises(ParameterError, match=r"libx264 does not work here with .*crf=23.*; correct the options"):
        probe(EncoderSettings(CODECS["libx264"], "ultrafast", extra={"profile": "none_such"}))
