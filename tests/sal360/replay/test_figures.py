from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sal360.replay.figures import MEANINGS, figure_names, figures_of, meaning
from sal360.replay.frame_table import PROTOCOLS, FrameRow

MS = 1_000_000


def test_figures_are_those_of_the_rows() -> None:
    latencies = [10.0, 30.0, 20.0]
    rows = [
        FrameRow(index, index * 500 * MS, "answered", latency_ms=latency, flicker=0.1 * index, yaw_deg=-3.0)
        for index, latency in enumerate(latencies)
    ]
    rows += [FrameRow(3, 1500 * MS, "dropped"), FrameRow(4, 2000 * MS, "rejected", "corrupt_jpeg")]
    figures = figures_of(rows, {"threads": 7.0})
    expected = {
        "frames": 5,
        "answered": 3,
        "answered_share": 0.6,
        "dropped": 1,
        "rejected": 1,
        "duration_s": 2.0,
        "p50_latency_ms": 20.0,
        "p95_latency_ms": 29.0,
        "max_latency_ms": 30.0,
        "jitter_ms": 15.0,
        "flicker": 0.1,
        "yaw_rate_deg_s": 4.5,
        "threads": 7.0,
    }
    assert {name: figures[name] for name in expected} == pytest.approx(expected)
    assert not {"p50_cost_ms", "frames_with_truth"} & set(figures)


def test_targets_are_counted_when_they_change() -> None:
    since_s = [0.0, 0.0, 1.0, 1.0, 2.5, 2.5]
    rows = [FrameRow(i, i * 1000 * MS, "answered", target_since_s=since) for i, since in enumerate(since_s)]
    assert figures_of(rows, {})["targets_per_minute"] == pytest.approx(3 / 5 * 60)


def test_a_recording_without_a_frame_has_figures_too() -> None:
    figures = figures_of([], {})
    assert figures["frames"] == figures["answered_share"] == 0
    assert np.isfinite(list(figures.values())).all()


@pytest.mark.parametrize("live", [False, True])
def test_every_figure_that_can_be_required_is_explained(live: bool, repository: Path) -> None:
    page = (repository / "docs" / "replay.md").read_text()
    for name in figure_names(live=live, protocols=tuple(PROTOCOLS)):
        assert meaning(name)
        kind = (
            name.split("_", 1)[1]
            if name.startswith(("p50_", "p95_", "p99_", "max_")) and name not in MEANINGS
            else name
        )
        assert kind in page or name.startswith(tuple(PROTOCOLS))
