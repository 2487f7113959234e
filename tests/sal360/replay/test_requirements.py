from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sal360.errors import ParameterError
from sal360.replay.figures import check_names, parse_requirement


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
def test_what_is_no_requirement_is_refused(text: str) -> None:
    with pytest.raises(ParameterError, match="p95_latency_ms<50"):
        parse_requirement(text)


def test_a_figure_that_the_run_did_not_reach_meets_nothing() -> None:
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
