"""Settings: declared once, checked where they are made, named in full."""

from __future__ import annotations

import dataclasses
import math

import pytest

from sal360.errors import ParameterError
from sal360.settings import Rule, Settings, flatten, readable, setting, with_values


@dataclasses.dataclass(frozen=True)
class Inner(Settings):
    side_px: int = setting(16, "side of a tile", choices=(8, 16, 32), unit="px")


@dataclasses.dataclass(frozen=True)
class Outer(Settings):
    angle_rad: float = setting(0.5, "angle", minimum=0.01, maximum=math.pi, unit="rad")
    name: str = setting("", "name; empty: none")
    mode: str = setting("slow", "mode", choices=("slow", "fast"))
    inner: Inner = dataclasses.field(default_factory=Inner)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"angle_rad": 4.0}, "angle_rad is 4.0; set it to a value from 0.01 to π rad"),
        ({"angle_rad": math.nan}, "angle_rad is nan; set it to a value from 0.01 to π rad"),
        ({"mode": "faster"}, "mode is 'faster'; set it to slow or fast"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_with_what_is(values: dict[str, float], line: str) -> None:
    with pytest.raises(ParameterError) as caught:
        Outer(**values)  # type: ignore[arg-type]
    assert str(caught.value) == line


def test_the_ends_of_a_range_and_free_texts_are_taken() -> None:
    assert Outer(angle_rad=0.01).angle_rad == 0.01
    assert Outer(angle_rad=math.pi, name="anything").name == "anything"


def test_groups_are_named_with_a_dot_both_ways() -> None:
    assert [(name, value) for name, value, _ in flatten(Outer())] == [
        ("angle_rad", 0.5),
        ("name", ""),
        ("mode", "slow"),
        ("inner.side_px", 16),
    ]
    changed = with_values(Outer(), {"mode": "fast", "inner.side_px": 8})
    assert changed == Outer(mode="fast", inner=Inner(8))
    with pytest.raises(ParameterError, match="side_px is 9; set it to 8, 16 or 32"):
        with_values(Outer(), {"inner.side_px": 9})


def test_numbers_and_ranges_read_as_people_write_them() -> None:
    numbers = (0.0, math.pi, -math.pi, -2 * math.pi, 1e6, 0.01, 3600)
    assert [readable(each) for each in numbers] == ["0", "π", "-π", "-2π", "1e6", "0.01", "3600"]
    assert Rule("", 0, 60, "s").allowed == "0 to 60 s"
    assert Rule("", 0, 1).allowed == "0 to 1"
    assert Rule("anything").allowed == ""
