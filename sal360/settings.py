"""Settings: each is declared once, with its default, range, unit and description.

A frozen dataclass that inherits `Settings`, with fields made by `setting`, refuses values that its declarations do not
allow. The same declarations become ROS parameters, `config/saliency.yaml` and the tables in the documentation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias, TypeVar

from sal360.errors import ParameterError

Value: TypeAlias = bool | int | float | str | tuple[str, ...]
Change: TypeAlias = Literal["live", "unconfigured", "start"]


@dataclasses.dataclass(frozen=True)
class Rule:
    """The meaning of a setting and its allowed values."""

    description: str = ""
    """One phrase, without the range and the unit."""
    minimum: float | None = None
    maximum: float | None = None
    unit: str = ""
    choices: tuple[Value, ...] = ()
    """The allowed values, if there are only a few."""
    changes: Change = "live"
    """When a node accepts a new value: at any time, while it is unconfigured, or only when its process starts."""

    @property
    def allowed(self) -> str:
        """The values as a phrase: "0 to 60 s", "8, 16 or 32"; empty if any value of the type is allowed."""
        if self.choices:
            *others, last = map(str, self.choices)
            return f"{', '.join(others)} or {last}"
        if self.minimum is None or self.maximum is None:
            return ""
        return f"{readable(self.minimum)} to {readable(self.maximum)} {self.unit}".rstrip()

    def check(self, name: str, value: Value) -> None:
        """Refuse a value that is not allowed, including NaN.

        Raises:
            ParameterError: naming the setting.
        """
        if self.choices:
            is_allowed = value in self.choices
        elif self.minimum is None or self.maximum is None:
            is_allowed = True
        else:
            is_allowed = not isinstance(value, tuple) and self.minimum <= float(value) <= self.maximum
        if not is_allowed:
            raise ParameterError(
                f"{name} is {value!r}", f"set it to {'' if self.choices else 'a value from '}{self.allowed}"
            )


def readable(number: float) -> str:
    """A number for people: multiples of π as such, and 1e6 instead of 1e+06."""
    multiple = number / math.pi
    if number and multiple == round(multiple):
        return {1: "π", -1: "-π"}.get(round(multiple), f"{round(multiple)}π")
    return f"{number:g}".replace("e+0", "e")


def setting(
    default: Value,
    description: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    unit: str = "",
    choices: tuple[Value, ...] = (),
    changes: Change = "live",
) -> Any:
    """A dataclass field with its rule; see `Rule`."""
    numbers = [each for each in choices if isinstance(each, (int, float))]
    if numbers:
        minimum, maximum = min(numbers), max(numbers)
    rule = Rule(description, minimum, maximum, unit, choices, changes)
    return dataclasses.field(default=default, metadata={"rule": rule})


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of dataclasses whose fields are made by `setting` or hold further `Settings`.

    Raises:
        ParameterError: a value is not allowed.
    """

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            if "rule" in each.metadata:
                each.metadata["rule"].check(each.name, getattr(self, each.name))


def flatten(settings: Settings, prefix: str = "") -> Iterator[tuple[str, Value, Rule]]:
    """Name, value and rule of every setting; a dot separates a group's name ("smoothing.time_constant_s")."""
    for each in dataclasses.fields(settings):
        value = getattr(settings, each.name)
        if "rule" in each.metadata:
            yield prefix + each.name, value, each.metadata["rule"]
        else:
            yield from flatten(value, f"{prefix}{each.name}.")


AnySettings = TypeVar("AnySettings", bound=Settings)


def with_values(settings: AnySettings, changes: Mapping[str, Value]) -> AnySettings:
    """A copy with other values, by the names that `flatten` returns.

    Raises:
        ParameterError: a value is not allowed.
    """
    changed: dict[str, Any] = {}
    groups: dict[str, dict[str, Value]] = {}
    for name, value in changes.items():
        own, _, inner = name.partition(".")
        if inner:
            groups.setdefault(own, {})[inner] = value
        else:
            changed[own] = value
    for group, of_group in groups.items():
        changed[group] = with_values(getattr(settings, group), of_group)
    return dataclasses.replace(settings, **changed)
