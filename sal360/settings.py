"""Settings are refused by name when they are out of range, where they are made and not where they are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sal360.errors import ParameterError


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside [low, high], or one that is not a number.

    Raises:
        ParameterError: naming the setting.
    """
    if not low <= value <= high:
        raise ParameterError(
            f"{name} is {value:g}", f"set {name} inside it", expected=f"a value from {low:g} to {high:g}"
        )


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Refuse a value that is none of `choices`.

    Raises:
        ParameterError: naming the setting.
    """
    if value not in choices:
        listed = ", ".join(str(choice) for choice in choices)
        raise ParameterError(f"{name} is {value!r}", "choose one of them", expected=f"one of {listed}")
