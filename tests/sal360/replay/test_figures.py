from __future__ import annotations

import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sal360.density import spherical_density
from sal360.errors import ParameterError
from sal360.replay.figures import MEANINGS, check_names, figure_names, figures_of, meaning, parse_requirement
from sal360.replay.frame_table import PROTOCOLS, FrameResult, FrameTable
from sal360.replay.plots import plots_of
from sal360.replay.recording import ReplayedFrame
from sal360.sphere import angles_to_vector

MS = 1_000_000


def test_figures_are_those_of_the_frames() -> None:
    latencies = [10.0, 30.0, 20.0]
    results = [
        FrameResult(index, index * 500 * MS, "answered", latency_ms=latency, flicker=0.1 * index, yaw_deg=-3.0)
        for index, latency in enumerate(latencies)
    ]
    results += [FrameResult(3, 1500 * MS, "dropped"), FrameResult(4, 2000 * MS, "rejected", "corrupt_jpeg")]
    figures = figures_of(results, {"threads": 7.0})
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
    results = [FrameResult(i, i * 1000 * MS, "answered", target_since_s=since) for i, since in enumerate(since_s)]
    assert figures_of(results, {})["targets_per_minute"] == pytest.approx(3 / 5 * 60)


def test_a_recording_without_a_frame_has_figures_too() -> None:
    figures = figures_of([], {})
    assert figures["frames"] == figures["answered_share"] == 0
    assert np.isfinite(list(figures.values())).all()


@pytest.mark.parametrize("live", [False, True])
def test_every_figure_that_can_be_required_is_explained(live: bool, repository: Path) -> None:
    table = dict(
        re.findall(r"^\| `(\S+)` \| ([a-z]+ \| .*) \|$", (repository / "docs" / "replay.md").read_text(), re.M)
    )
    for name in figure_names(live=live, protocols=tuple(PROTOCOLS)):
        assert meaning(name)
        if name.startswith(tuple(PROTOCOLS)):
            continue
        base = name if name in MEANINGS else name.split("_", 1)[1]
        in_both = base in figure_names(live=not live, protocols=tuple(PROTOCOLS))
        mode = "both" if in_both else "live" if live else "offline"
        assert table[base if name in MEANINGS else f"…_{base}"] == f"{mode} | {MEANINGS[base]}"


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("p95_latency_ms<50", 49.9, True),
        ("p95_latency_ms<50", 50, False),
        ("p95_latency_ms <= 5e1", 50, True),
        ("answered_share >= 99 %", 0.99, True),
        ("answered_share>=99%", 0.98, False),
        (" dropped == 0 ", 0, True),
        ("standard_nss > -.5", -0.4, True),
        ("standard_nss>1", math.nan, False),
        ("standard_nss<1", math.nan, False),
    ],
)
def test_a_requirement_holds_or_not(text: str, value: float, holds: bool) -> None:
    requirement = parse_requirement(text)
    assert requirement.holds({requirement.figure: value}) is holds


@pytest.mark.parametrize(
    "text", ["", "p95", "p95<", "<5", "p95=5", "p95!=5", "p95<5ms", "p95<x", "a.b<5", "a<5<6", "a<nan"]
)
def test_an_invalid_requirement_is_refused(text: str) -> None:
    with pytest.raises(ParameterError, match="p95_latency_ms<50"):
        parse_requirement(text)


def test_a_missing_figure_meets_no_requirement() -> None:
    assert not parse_requirement("p95_latency_ms<50").holds({})
    assert not parse_requirement("p95_latency_ms>=0").holds({})


@given(st.text(max_size=30))
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    try:
        requirement = parse_requirement(text)
    except ParameterError:
        return
    assert math.isfinite(requirement.limit) or "e" in text.lower()


def test_unknown_figures_are_named_beside_the_known_ones() -> None:
    with pytest.raises(ParameterError, match="no figure speed; expected one of dropped, frames"):
        check_names([parse_requirement("speed>1")], {"frames", "dropped"})


def test_views_are_compared_with_map_and_target() -> None:
    frame = SimpleNamespace(index=0, stamp_ns=0, message=SimpleNamespace(recorded_ns=0))
    density = spherical_density(np.array([[0.0, 1.0, 0.0]]), 64, 128, 10.0)  # to the left
    picture = np.zeros((64, 128, 3), np.uint8), "bgr"
    table = FrameTable()
    for azimuth_deg in (90.0, 60.0, None):
        view = None if azimuth_deg is None else angles_to_vector(math.radians(azimuth_deg), 0.0)
        table.add(ReplayedFrame(frame, picture, density), view=view)  # type: ignore[arg-type]
    first, second, third = table.results
    assert first.view_azimuth_deg == pytest.approx(90)
    assert first.view_density == pytest.approx(float(density.max()), rel=0.05)
    assert second.view_density is not None
    assert second.view_density < 0.1 * float(density.max())
    assert first.view_target_deg == pytest.approx(0, abs=3)
    assert second.view_target_deg == pytest.approx(30, abs=3)
    assert (third.view_azimuth_deg, third.view_density, third.view_target_deg) == (None, None, None)
    figures = figures_of(table.results, {})
    assert figures["frames_with_view"] == 2
    assert figures["view_target_deg"] == pytest.approx(15, abs=3)
    assert set(figures) - set(figure_names(live=False, protocols=["standard"])) == set()
    pytest.importorskip("matplotlib")
    assert "Predicted and real direction of the view" in plots_of(table.results, {}, None)
