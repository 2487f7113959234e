"""The overlay video."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sal360.replay.recorders import OverlayVideo
from sal360.sources import open_source

av = pytest.importorskip("av")

RED_BGR = (40, 60, 190)
BT709 = 1


@pytest.mark.parametrize("height", [320, 640])
def test_the_overlay_video_is_shown_in_the_colours_of_its_pictures(tmp_path: Path, height: int) -> None:
    path = tmp_path / "overlay.mp4"
    with OverlayVideo(path) as video:
        for stamp_ns in (0, 100_000_000):
            video.write(np.full((height, 2 * height, 3), RED_BGR, np.uint8), stamp_ns)
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc) == (BT709, BT709, BT709)
    for frame in open_source(path):
        np.testing.assert_allclose(frame.image.mean(axis=(0, 1)), RED_BGR, atol=3)
