"""Range checks of the settings: each failure names the option."""

from __future__ import annotations

from sal360_ros.errors import ParameterError


def require(option: str, value: object, holds: bool, expected: str) -> None:
    """Refuse a value out of its range.

    Raises:
        ParameterError: `holds` is false.
    """
    if not holds:
        raise ParameterError(f"{option} is {value}", expected, f"set --{option}")


def require_at_least(option: str, value: float, minimum: float) -> None:
    """Refuse a value below `minimum` (or NaN)."""
    require(option, value, value >= minimum, f"at least {minimum:g}")


def require_between(option: str, value: float, low: float, high: float) -> None:
    """Refuse a value outside [low, high] (or NaN)."""
    require(option, value, low <= value <= high, f"{low:g} to {high:g}")
